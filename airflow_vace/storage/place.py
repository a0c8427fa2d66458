"""The common interface of local files and files in object stores, and rules for their names."""

from __future__ import annotations

import hashlib
import secrets
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from airflow_vace.exceptions import VaceInputError
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

CHUNK_BYTES = 8 * 1024 * 1024
_DIGEST_CHUNK_BYTES = 1024 * 1024
# Most file systems limit a name to 255 bytes.
MAX_NAME_BYTES = 255
# A temporary name is the start of the final name and an addition of fixed length, so both stay below
# the limit of the file system.
_MAX_PART_START_BYTES = 100
PART_EXTRA_BYTES = len("..01234567.part")


class Place(ABC):
    """One file or directory: :class:`LocalFile` or :class:`StoreFile`.

    `uri` is the address for people, without the name of an Airflow connection. `is_atomic` is True if a file
    appears whole or not at all.
    """

    uri: str
    is_atomic: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """Last part of the path."""

    @property
    @abstractmethod
    def parent(self) -> Self:
        """Directory around this place."""

    @property
    @abstractmethod
    def folders(self) -> tuple[str, ...]:
        """Names on the path of this directory, without the bucket."""

    @property
    @abstractmethod
    def max_name_bytes(self) -> int:
        """Limit in bytes of one name on this path."""

    @property
    @abstractmethod
    def max_file_name_bytes(self) -> int:
        """Limit in bytes of a file's name in this directory, with respect to the limit of the whole path."""

    @abstractmethod
    def below(self, *names: str) -> Self:
        """Return a place inside this directory.

        :param names: parts of a path without slashes or dots, not checked here
        """

    @abstractmethod
    def renamed(self, rename: Callable[[str], str]) -> Self:
        """Return the sibling whose name `rename` derives from this name."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names in this directory, [] if there is no such directory.

        :raises OSError: (or any error of the store's library) if the answer is unknown
        """

    @abstractmethod
    def size(self) -> int | None:
        """Return the size in bytes; None if no file is there.

        :raises OSError: (or any error of the store's library) if the answer is unknown
        """

    @abstractmethod
    def read(self, at: int, length: int) -> bytes:
        """Return `length` bytes from offset `at`, fewer at the end; one request to a store."""

    @abstractmethod
    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open the file for sequential reading in bounded memory."""

    @abstractmethod
    def signed_url(self, seconds: int) -> str:
        """Return a URL that anybody can read for this time.

        :raises NotImplementedError: if files here have no URL
        :raises Exception: any error of the store's library
        """

    @abstractmethod
    def new_part(self, suffix: str, stale_seconds: float) -> Path:
        """Create an empty local temporary file for content on the way to this place.

        :param suffix: of the final file, such as `.mp4`: stores derive the media type from the suffix
        :param stale_seconds: age in seconds at which temporary files of killed attempts are deleted
        """

    @abstractmethod
    def locked(self, max_wait_seconds: float) -> AbstractContextManager[None]:
        """Exclude other tasks from replacing files in the same directory.

        Without a lock after `max_wait_seconds` the caller continues unprotected.
        """

    @abstractmethod
    def put(self, part: Path, callback: Any = None) -> None:
        """Replace the file here by a complete local file, without a visible intermediate state.

        :param callback: fsspec callback for progress; local files ignore the callback
        :raises OSError: (or any error of the store's library) if the write fails
        """

    @abstractmethod
    def check_writable(self, field: str) -> str | None:
        """Check before any payment that files can be written below this directory.

        :param field: name of the user's argument, for errors
        :return: the reason for remaining doubt, None if there is none
        :raises VaceInputError: if a write is impossible
        :raises VaceTransportError: if the check may give another result later
        """

    @abstractmethod
    def check_replaceable(self, field: str) -> None:
        """Check that no directory occupies the name of this file or of its manifest.

        :raises VaceInputError: if a directory does
        """

    def check_name(self, field: str, value: object, size: int, meaning: str) -> None:
        """Check the length of a file name in this directory, and of all directory names above.

        :param value: the user's argument, for errors
        :param size: length of the file name in bytes
        :param meaning: the parts that `size` includes, for errors
        :raises VaceInputError: if a name is too long
        """
        limit = self.max_name_bytes
        for name in self.folders:
            if (length := bytes_of(name)) > limit:
                problem = f"has a directory name of {length} bytes where at most {limit} are possible"
                raise unusable(field, value, problem, "shorten the name")
        if size > (limit := max(self.max_file_name_bytes, 0)):
            problem = f"makes a file name of {size} bytes ({meaning}) where at most {limit} are possible"
            raise unusable(field, value, problem, "shorten the name or its directory's")


def digest_of(place: Place) -> str:
    """Return the SHA-256 of a file's content, as hex digits."""
    digest = hashlib.sha256()
    with place.open() as file:
        while chunk := file.read(_DIGEST_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def bytes_of(name: str) -> int:
    """Return the length of a name in bytes, as file systems and stores count."""
    # Undecodable bytes of a file system's names arrive here as lone surrogates.
    return len(name.encode(errors="surrogatepass"))


def part_start(name: str) -> str:
    """Return the first 100 bytes of a name, cut between characters."""
    return name.encode(errors="surrogatepass")[:_MAX_PART_START_BYTES].decode(errors="ignore")


def part_name(name: str) -> str:
    """Return a random hidden name for a temporary file beside the final one."""
    return f".{part_start(name)}.{secrets.token_hex(4)}.part"


def unusable(field: str, value: object, problem: str, remedy: str = "") -> VaceInputError:
    """Return the error for an argument that names no usable place."""
    remedy = (
        remedy or "give a local directory such as '/data/clips/', or one of a store: 's3://bucket/clips/'"
    )
    shown = excerpt(repr(value), 200)
    return VaceInputError(
        f"{field} is {shown}, which {problem}; {remedy}. Nothing was sent, nothing is billed.",
        field=field,
        value=value,
        remedy=remedy,
    )
