"""Files and directories of this machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any, NoReturn, Self

from airflow_vace.exceptions import VaceTransportError
from airflow_vace.storage.errors import PERMANENT_ERRNOS
from airflow_vace.storage.place import (
    MAX_NAME_BYTES,
    PART_EXTRA_BYTES,
    Place,
    bytes_of,
    part_name,
    part_start,
    unusable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

# PATH_MAX of Linux, for file systems that report no limit.
_MAX_PATH_BYTES = 4096
_LOCK_POLL_SECONDS = 0.01


class LocalFile(Place):
    """A file or directory at an absolute path.

    :param path: absolute path
    :param inode: device and inode number that a read must find, from an earlier check; None: any
    """

    is_atomic = True

    def __init__(self, path: Path, inode: tuple[int, int] | None = None) -> None:
        self.path = path
        self.inode = inode
        # As Airflow's ObjectStoragePath reads an address: without percent-encoding.
        self.uri = f"file://{path}"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def parent(self) -> Self:
        return type(self)(self.path.parent)

    @property
    def folders(self) -> tuple[str, ...]:
        return self.path.parts[1:]

    @property
    def max_name_bytes(self) -> int:
        return _limit_at(self.path, "PC_NAME_MAX", MAX_NAME_BYTES)

    @property
    def max_file_name_bytes(self) -> int:
        # The kernel counts the NUL at the end of a path, so one byte fewer is usable.
        path_limit = _limit_at(self.path, "PC_PATH_MAX", _MAX_PATH_BYTES) - 1
        return min(self.max_name_bytes, path_limit - bytes_of(f"{self.path}/") - PART_EXTRA_BYTES)

    def below(self, *names: str) -> Self:
        return type(self)(self.path.joinpath(*names))

    def renamed(self, rename: Callable[[str], str]) -> Self:
        return type(self)(self.path.with_name(rename(self.path.name)))

    def names(self) -> list[str]:
        try:
            return [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            return []

    def size(self) -> int | None:
        return self.path.stat().st_size if self.path.is_file() else None

    def read(self, at: int, length: int) -> bytes:
        with self.open() as file:
            file.seek(at)
            return file.read(length)

    def open(self) -> BinaryIO:
        file = self.path.open("rb")
        found = os.fstat(file.fileno())
        # A task could swap the checked file for a link to a secret, so compare after opening.
        if self.inode not in (None, (found.st_dev, found.st_ino)):
            file.close()
            raise PermissionError(errno.EPERM, "The file was replaced after its check", str(self.path))
        return file

    def signed_url(self, seconds: int) -> NoReturn:
        raise NotImplementedError("local files have no URL")

    def new_part(self, suffix: str, stale_seconds: float) -> Path:
        """Create a temporary file in the same directory, with the mode of a plain open().

        The mode matters since the temporary file becomes the final one. Reading the umask is no alternative:
        `os.umask` changes the whole process for a moment, with wrong modes for files of other threads.
        """
        del suffix
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        delete_stale(folder, f".{glob.escape(part_start(self.name))}.*.part", stale_seconds)
        part = folder / part_name(self.name)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        return part

    @contextlib.contextmanager
    def locked(self, max_wait_seconds: float) -> Iterator[None]:
        """Hold an advisory lock on the directory; network file systems without locks are not an error."""
        handle: int | None = None
        try:
            with contextlib.suppress(OSError):
                handle = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
                _lock(handle, max_wait_seconds)
            yield
        finally:
            # The end of the handle also releases the lock.
            if handle is not None:
                os.close(handle)

    def put(self, part: Path, callback: Any = None) -> None:
        del callback
        # After a power failure a renamed file may be empty unless its content was flushed before.
        flush(part)
        part.replace(self.path)

    def check_writable(self, field: str) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Permission bits ignore read-only mounts and quotas, so only a new file is a proof.
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            problem = f"can't be written to ({error.strerror})"
            if error.errno in PERMANENT_ERRNOS:
                remedy = "give a directory that the worker may write to"
                raise unusable(field, str(self.path), problem, remedy) from error
            raise VaceTransportError(
                f"{field}: {self.path} {problem}; nothing was sent", sent=False
            ) from error

    def check_replaceable(self, field: str) -> None:
        for place in (self, self.renamed(lambda name: f"{name}.json")):
            # Missing permissions are reported by `check_writable`, so ignore them here.
            with contextlib.suppress(OSError):
                if place.path.is_dir():
                    raise unusable(field, str(place.path), "is a directory", "give another name")


def flush(part: Path) -> None:
    """Write a file's content from the page cache to the disk."""
    with part.open("rb") as file:
        os.fsync(file.fileno())


def delete_stale(folder: Path, pattern: str, stale_seconds: float) -> None:
    """Delete old temporary files, which killed attempts could not delete."""
    for part in folder.glob(pattern):
        # Another task may delete the same file at the same time.
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > stale_seconds:
                part.unlink()


def _limit_at(path: Path, name: str, default: int) -> int:
    """Return a limit of the file system that holds, or will hold, a path."""
    for existing in (path, *path.parents):
        with contextlib.suppress(OSError, ValueError):
            # The path itself may be missing, so the nearest existing parent answers; -1 means no limit.
            limit = os.pathconf(existing, name)
            return limit if limit > 0 else default
    return default


def _lock(handle: int, max_wait_seconds: float) -> None:
    """Lock an open directory, or give up: a killed task on another machine may hold its lock for hours."""
    until = time.monotonic() + max_wait_seconds
    while time.monotonic() < until:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return
