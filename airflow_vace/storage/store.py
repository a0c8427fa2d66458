"""Files and directories of object stores, through fsspec and Airflow's connections."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from airflow_vace.exceptions import VaceTransportError
from airflow_vace.storage.errors import describe_error, is_refusal
from airflow_vace.storage.local import delete_stale
from airflow_vace.storage.place import (
    CHUNK_BYTES,
    MAX_NAME_BYTES,
    Place,
    bytes_of,
    part_name,
    unusable,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import BinaryIO

# Stores in which a file appears whole or not at all.
_ATOMIC_PROTOCOLS = frozenset(
    {"s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "abfss", "adl", "wasb", "wasbs", "oss", "obs"}
)
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html; other object stores copy the limit.
_MAX_KEY_BYTES = 1024


class StoreFile(Place):
    """A file or directory of a store.

    :param uri: address without the name of a connection
    :param fs: the store as fsspec file system
    :param path: bucket and key, as `fs` expects them
    """

    def __init__(self, uri: str, fs: Any, path: str) -> None:
        self.uri = uri
        self.fs = fs
        self.path = path
        self.is_atomic = not _ATOMIC_PROTOCOLS.isdisjoint(protocols_of(fs))

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        return type(self)(self.uri.rpartition("/")[0], self.fs, self.path.rpartition("/")[0])

    @property
    def bucket(self) -> str:
        """First part of the path."""
        return self.path.lstrip("/").partition("/")[0]

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(part for part in self.path.lstrip("/").partition("/")[2].split("/") if part)

    @property
    def max_name_bytes(self) -> int:
        # Object stores limit the whole key only; a store of another kind may be a file system.
        return _MAX_KEY_BYTES if self.is_atomic else MAX_NAME_BYTES

    @property
    def max_file_name_bytes(self) -> int:
        return min(self.max_name_bytes, _MAX_KEY_BYTES - bytes_of("/".join((*self.folders, ""))))

    def below(self, *names: str) -> Self:
        tail = "/".join(names)
        return type(self)(f"{self.uri.rstrip('/')}/{tail}", self.fs, f"{self.path.rstrip('/')}/{tail}")

    def renamed(self, rename: Callable[[str], str]) -> Self:
        (uri, _, name), (path, _, _) = self.uri.rpartition("/"), self.path.rpartition("/")
        return type(self)(f"{uri}/{rename(name)}", self.fs, f"{path}/{rename(name)}")

    def names(self) -> list[str]:
        # Another worker may have written here since this process has listed the directory.
        self.fs.invalidate_cache(self.path)
        try:
            return [str(path).rstrip("/").rpartition("/")[2] for path in self.fs.ls(self.path, detail=False)]
        except FileNotFoundError:
            return []

    def size(self) -> int | None:
        # A list from before may lack the file that another worker has written, or have its old size.
        self.fs.invalidate_cache(self.path)
        try:
            known = self.fs.info(self.path)
        except FileNotFoundError:
            return None
        return int(known.get("size") or 0) if known.get("type") == "file" else None

    def read(self, at: int, length: int) -> bytes:
        content: bytes = self.fs.cat_file(self.path, start=at, end=at + length)
        return content

    def open(self) -> AbstractContextManager[BinaryIO]:
        # `readahead` holds one block in memory, so the size of the file does not matter.
        opened: AbstractContextManager[BinaryIO] = self.fs.open(
            self.path, "rb", block_size=CHUNK_BYTES, cache_type="readahead"
        )
        return opened

    def signed_url(self, seconds: int) -> str:
        return str(self.fs.sign(self.path, expiration=seconds))

    def new_part(self, suffix: str, stale_seconds: float) -> Path:
        # All workers of a machine share this directory, so the prefix marks our files.
        delete_stale(Path(tempfile.gettempdir()), "vace-*.part.*", stale_seconds)
        with tempfile.NamedTemporaryFile(prefix="vace-", suffix=f".part{suffix}", delete=False) as file:
            return Path(file.name)

    def locked(self, max_wait_seconds: float) -> AbstractContextManager[None]:
        """Return a context without effect: object stores have no locks."""
        del max_wait_seconds
        return contextlib.nullcontext()

    def put(self, part: Path, callback: Any = None) -> None:
        # Two chunks in flight bound the memory of an upload to 16 MiB.
        options = _accepted_options(self.fs, chunksize=CHUNK_BYTES, max_concurrency=2, overwrite=True)
        if callback is not None:
            options["callback"] = callback
        if self.is_atomic:
            self.fs.put_file(str(part), self.path, **options)
            return
        # A reader could see half a file under the final name, so upload beside it and rename.
        parent = self.path.rpartition("/")[0]
        self.fs.makedirs(parent, exist_ok=True)
        aside = f"{parent}/{part_name(self.name)}"
        try:
            self.fs.put_file(str(part), aside, **options)
            _move(self.fs, aside, self.path)
        except BaseException:
            with contextlib.suppress(Exception):
                self.fs.rm_file(aside)
            raise

    def check_writable(self, field: str) -> str | None:
        # Stores without credentials open anonymously, so a write would fail only after the payment.
        if getattr(self.fs, "anon", False):
            remedy = "name an Airflow connection before the bucket, such as 's3://aws_default@bucket/clips/'"
            raise unusable(field, self.uri, "is opened without credentials", remedy)
        try:
            self.fs.info(self.bucket)
        except FileNotFoundError as error:
            problem = f"is in {self.bucket!r}, which does not exist"
            raise unusable(
                field, self.uri, problem, "give a directory that the worker may write to"
            ) from error
        except Exception as error:  # store libraries share no base class of errors
            if not is_refusal(error):
                raise VaceTransportError(
                    f"{field}: the store of {self.uri} did not answer ({describe_error(error)}); nothing was"
                    " sent",
                    sent=False,
                ) from error
            # Stores deny this request to keys that may only write, and also to useless keys.
            return f"Whether {self.uri} can be written to is unknown: {describe_error(error)}"
        return None

    def check_replaceable(self, field: str) -> None:
        """Accept any name: in a store a file and a directory may have the same name."""


def protocols_of(fs: Any) -> tuple[str, ...]:
    """Return the URL schemes of a fsspec file system."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _move(fs: Any, source: str, target: str) -> None:
    """Rename a file of a store."""
    from fsspec import AbstractFileSystem

    # The common `mv` of fsspec reads `*`, `?` and `[` in a name as a pattern, so the file would be lost.
    if getattr(type(fs), "mv", None) is not AbstractFileSystem.mv or not set("*?[") & set(source + target):
        fs.mv(source, target)
        return
    fs.cp_file(source, target)
    fs.rm_file(source)


def _accepted_options(fs: Any, **options: Any) -> dict[str, Any]:
    """Return the options among the named parameters of the store's `put_file`.

    fsspec sends unknown ones to the server as part of the request.
    """
    known = inspect.signature(getattr(fs, "_put_file", fs.put_file)).parameters
    return {name: value for name, value in options.items() if name in known}
