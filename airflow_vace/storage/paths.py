"""Files and directories wherever a deployment keeps them: local, or in one of Airflow's object stores."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import inspect
import os
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from airflow_vace.exceptions import VaceInputError, VaceTransportError, excerpt
from airflow_vace.inputs import is_path, path_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

# What a local directory will not get over by itself.
_LASTING = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)
_CHUNK = 8 * 1024 * 1024
# Stores in which a file appears whole or not at all.
_ATOMIC = frozenset(
    {"s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "abfss", "adl", "wasb", "wasbs", "oss", "obs"}
)
# How old a temporary file is that nobody writes any more.
_STALE_SECONDS = 3600.0
# Limits in bytes: a name on most file systems, a path on Linux, a key in S3 and its kin:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_LONGEST_NAME = 255
_LONGEST_PATH = 4096
_LONGEST_KEY = 1024
# A temporary name is the start of the final one, and so much more.
_PART_START = 100
_PART_EXTRA = len("..01234567.part")
# Both files of a pair are put in place within milliseconds; longer waits mean that a lock was left behind.
_LONGEST_LOCK_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """One file or directory; `uri` is what people see, without the connection.

    `local` is its path on this machine, if it is there, and `inode` the device and number that the file there
    must have, if it was looked at before; else `fs` (of fsspec) and the `path` that it knows. `is_atomic`: a
    file appears whole or not at all.
    """

    uri: str
    local: Path | None = None
    inode: tuple[int, int] | None = None
    fs: Any = None
    path: str = ""
    is_atomic: bool = True

    @classmethod
    def of(cls, value: object, field: str) -> Self:
        """Find the place that a DAG author named: text, or any path object.

        :raises VaceInputError: if it can't be one, or Airflow knows no such store or connection
        :raises VaceTransportError: if the store could not be opened now
        """
        text = path_text(value)
        if text is None:
            raise _unusable(field, value, "is no path")
        if "\0" in text:
            raise _unusable(field, value, "contains a NUL character")
        scheme, has_scheme, rest = text.partition("://")
        if not has_scheme or scheme.lower() == "file":
            path = Path(unquote(rest.removeprefix("localhost")) if has_scheme else text)
            with contextlib.suppress(RuntimeError):  # nobody's home
                path = path.expanduser()
            if not path.is_absolute():
                raise _unusable(field, value, "is not absolute")
            return cls(uri=path.as_uri(), local=path)
        if not is_path(text):
            raise _unusable(field, value, "is no path")
        if not urlsplit(text).netloc.rpartition("@")[2]:
            raise _unusable(field, value, "names no bucket")
        return cls._in_store(text, field)

    @classmethod
    def _in_store(cls, text: str, field: str) -> Self:
        from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
        from airflow.sdk import ObjectStoragePath

        scheme, _, rest = text.partition("://")
        host, _, tail = rest.partition("/")
        conn_id, _, bucket = host.rpartition("@")
        shown = f"{scheme}://{bucket}/{tail}"
        try:
            found = ObjectStoragePath(text)
            if conn_id:
                BaseHook.get_connection(conn_id)  # some stores go on without one that is missing
            fs = found.fs
        except AirflowNotFoundException as error:
            remedy = "add the connection, or mend its name before the @"
            raise VaceInputError(
                f"{field} is {shown}: {error}; {remedy}.", field=field, remedy=remedy
            ) from error
        except (ValueError, ImportError) as error:
            remedy = (
                "install Airflow's provider of the store, such as 'apache-airflow-providers-amazon[s3fs]' for"
                " s3://, apache-airflow-providers-google for gs://, or use a directory such as /data/clips/"
            )
            raise _unusable(field, shown, f"can't be opened here ({error})", remedy) from error
        except Exception as error:  # stores are strangers, and may throw anything
            raise VaceTransportError(
                f"{field}: the store of {shown} could not be opened ({said(error)}); nothing was sent",
                sent=False,
            ) from error
        local = Path(found.path) if "file" in _protocols(fs) else None
        if local and bucket:
            raise _unusable(field, shown, "is not absolute")
        return cls(
            uri=local.as_uri() if local else shown,
            local=local,
            fs=fs,
            path=str(found.path),
            is_atomic=bool(local or _ATOMIC.intersection(_protocols(fs))),
        )

    def below(self, *names: str) -> Self:
        """Return a place in this directory; the names are safe ones."""
        tail = "/".join(names)
        if self.local:
            local = self.local / tail
            return type(self)(uri=local.as_uri(), local=local)
        return self._at(f"{self.uri.rstrip('/')}/{tail}", f"{self.path.rstrip('/')}/{tail}")

    def renamed(self, rename: Callable[[str], str]) -> Self:
        """Return the place beside this one whose name `rename` makes of this one's."""
        if self.local:
            local = self.local.with_name(rename(self.local.name))
            return type(self)(uri=local.as_uri(), local=local)
        (uri, _, name), (path, _, _) = self.uri.rpartition("/"), self.path.rpartition("/")
        return self._at(f"{uri}/{rename(name)}", f"{path}/{rename(name)}")

    def _at(self, uri: str, path: str) -> Self:
        return type(self)(uri=uri, fs=self.fs, path=path, is_atomic=self.is_atomic)

    @property
    def parent(self) -> Self:
        if self.local:
            return type(self)(uri=self.local.parent.as_uri(), local=self.local.parent)
        return self._at(self.uri.rpartition("/")[0], self.path.rpartition("/")[0])

    @property
    def name(self) -> str:
        return self.local.name if self.local else self.path.rpartition("/")[2]

    @property
    def bucket(self) -> str:
        return self.path.lstrip("/").partition("/")[0]

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of which this directory's path consists, without the bucket."""
        if self.local:
            return self.local.parts[1:]
        return tuple(part for part in self.path.lstrip("/").partition("/")[2].split("/") if part)

    @property
    def longest_name(self) -> int:
        """The number of bytes that one name in this path may have; keys of object stores have no names."""
        if self.local:
            return _limit_at(self.local, "PC_NAME_MAX", _LONGEST_NAME)
        return _LONGEST_KEY if self.is_atomic else _LONGEST_NAME

    @property
    def room(self) -> int:
        """The number of bytes that the name of a file in this directory may have, its path included."""
        if self.local:
            path = _limit_at(self.local, "PC_PATH_MAX", _LONGEST_PATH) - 1  # the NUL at its end
            left = path - bytes_of(str(self.local)) - 1 - _PART_EXTRA
        else:
            left = _LONGEST_KEY - bytes_of("/".join((*self.folders, "")))
        return min(self.longest_name, left)

    # --- reading -----------------------------------------------------------------------------------

    def size(self) -> int | None:
        """Return the size in bytes, None if no file is there.

        :raises OSError: (or whatever the store raises) if that can't be told
        """
        if self.local:
            return self.local.stat().st_size if self.local.is_file() else None
        try:
            known = self.fs.info(self.path)
        except FileNotFoundError:
            return None
        return int(known.get("size") or 0) if known.get("type") == "file" else None

    def read(self, at: int, length: int) -> bytes:
        """Return some bytes of the file, with one request if it is far away."""
        if self.local:
            with self._open_local(self.local) as file:
                file.seek(at)
                return file.read(length)
        content: bytes = self.fs.cat_file(self.path, start=at, end=at + length)
        return content

    def open(self) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open the file for reading from start to end, in bounded memory."""
        if self.local:
            return self._open_local(self.local)
        opened: contextlib.AbstractContextManager[BinaryIO] = self.fs.open(
            self.path, "rb", block_size=_CHUNK, cache_type="readahead"
        )
        return opened

    def _open_local(self, path: Path) -> BinaryIO:
        file = path.open("rb")
        found = os.fstat(file.fileno())
        if self.inode not in (None, (found.st_dev, found.st_ino)):
            file.close()
            raise PermissionError(errno.EPERM, "Another file than was looked at", str(path))
        return file

    def signed(self, seconds: int) -> str:
        """Return a URL by which anybody can read the file for so many seconds.

        :raises Exception: whatever a store raises that can't sign
        """
        if self.local:
            raise NotImplementedError("local files have no URL")
        return str(self.fs.sign(self.path, expiration=seconds))

    # --- writing -----------------------------------------------------------------------------------

    def new_part(self, kind: str) -> Path:
        """Return a new temporary file for what shall be put here; beside it, if it is local.

        A local one has the mode of a file that a plain open() makes, since it becomes the final file. To ask
        for the umask is not safe: it is the whole process's, so files of other threads would get other modes.
        """
        if self.local is None:
            _sweep(Path(tempfile.gettempdir()), "vace-*.part.*")
            handle, name = tempfile.mkstemp(prefix="vace-", suffix=f".part{kind}")
        else:
            self.local.parent.mkdir(parents=True, exist_ok=True)
            _sweep(self.local.parent, f".{glob.escape(_start_of(self.name))}.*.part")
            name = str(self.local.parent / _part_name(self.name))
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.close(handle)
        return Path(name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other tasks from putting files into the directory of a local file meanwhile.

        A file system without locks, such as many a network's, goes on without; and so does a store.
        """
        handle: int | None = None
        try:
            if self.local:
                with contextlib.suppress(OSError):
                    handle = os.open(self.local.parent, os.O_RDONLY | os.O_DIRECTORY)
                    _lock(handle)
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def take(self, part: Path, callback: Any = None) -> None:
        """Put a whole file here, at once: nobody ever sees a piece of it.

        :raises OSError: (or whatever the store raises) if it can't be written
        """
        if self.local:
            flush(part)
            part.replace(self.local)
            return
        options = _understood(self.fs, chunksize=_CHUNK, max_concurrency=2, overwrite=True)
        if callback is not None:
            options["callback"] = callback
        if self.is_atomic:
            self.fs.put_file(str(part), self.path, **options)
            return
        parent = self.path.rpartition("/")[0]
        self.fs.makedirs(parent, exist_ok=True)
        aside = f"{parent}/{_part_name(self.name)}"
        try:
            self.fs.put_file(str(part), aside, **options)
            self.fs.mv(aside, self.path)
        except BaseException:
            with contextlib.suppress(Exception):
                self.fs.rm_file(aside)
            raise

    def remove(self) -> None:
        """Remove a local file, if it is there."""
        if self.local:
            self.local.unlink(missing_ok=True)

    def check_writable(self, field: str) -> str | None:
        """Look whether files can be put below this directory, before money is spent.

        :return: why that could not be told, if so
        :raises VaceInputError: if they can't
        :raises VaceTransportError: if that can't be told now, and may be told later
        """
        remedy = "give a directory that the worker may write to"
        if self.local:
            try:
                self.local.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.local):
                    pass
            except OSError as error:
                problem = f"can't be written to ({error.strerror})"
                if error.errno in _LASTING:
                    raise _unusable(field, str(self.local), problem, remedy) from error
                raise VaceTransportError(
                    f"{field}: {self.local} {problem}; nothing was sent", sent=False
                ) from error
            return None
        if getattr(self.fs, "anon", False):
            remedy = "name an Airflow connection before the bucket, such as 's3://aws_default@bucket/clips/'"
            raise _unusable(field, self.uri, "is opened without credentials", remedy)
        try:
            self.fs.info(self.bucket)
        except FileNotFoundError as error:
            raise _unusable(
                field, self.uri, f"is in {self.bucket!r}, which does not exist", remedy
            ) from error
        except Exception as error:  # stores are strangers, and may throw anything
            if not is_refusal(error):
                raise VaceTransportError(
                    f"{field}: the store of {self.uri} did not answer ({said(error)}); nothing was sent",
                    sent=False,
                ) from error
            # Whoever may only write is not told more; nor is who may not even that.
            return f"Whether {self.uri} can be written to could not be told: {said(error)}"
        return None

    def check_replaceable(self, field: str) -> None:
        """Raise VaceInputError if a directory is in the way of a local file or of its manifest."""
        for place in (self, self.renamed(lambda name: f"{name}.json")):
            with contextlib.suppress(OSError):  # what may not be seen is found when the directory is checked
                if place.local and place.local.is_dir():
                    raise _unusable(field, str(place.local), "is a directory", "give another name")

    def check_name(self, field: str, value: object, size: int, what: str) -> None:
        """Raise VaceInputError if a name of so many bytes, or one of this directory's own, is too long."""
        limit = self.longest_name
        for name in self.folders:
            if (length := bytes_of(name)) > limit:
                problem = f"has a directory name of {length} bytes where at most {limit} are possible"
                raise _unusable(field, value, problem, "shorten the name")
        if size > (room := max(self.room, 0)):
            problem = f"makes a file name of {size} bytes ({what}) where at most {room} are possible"
            raise _unusable(field, value, problem, "shorten the name or its directory's")


def bytes_of(name: str) -> int:
    """Return how many bytes a name has, locally and in stores."""
    return len(name.encode(errors="surrogatepass"))


def flush(part: Path) -> None:
    """Bring a file to the disk."""
    with part.open("rb") as file:
        os.fsync(file.fileno())


def store_error(what: str, error: Exception) -> OSError:
    """Return a stranger's error as an OSError that says what it means, and keeps the system's number."""
    number = error.errno if isinstance(error, OSError) and error.errno else 5  # EIO
    return OSError(number, f"{what} ({said(error)})")


def said(error: Exception) -> str:
    """Return a stranger's error in a few words that may be shown."""
    return excerpt(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 300)


def is_refusal(error: Exception) -> bool:
    """Whether a store answered, and said no; libraries of stores tell it in ways of their own."""
    codes = {str(getattr(error, name, "")) for name in ("code", "status", "status_code")}
    return isinstance(error, PermissionError) or bool(codes & {"401", "403"})


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _understood(fs: Any, **options: Any) -> dict[str, Any]:
    """Return those options that the store's `put_file` has by name; others would go to its server."""
    known = inspect.signature(getattr(fs, "_put_file", fs.put_file)).parameters
    return {name: value for name, value in options.items() if name in known}


def _limit_at(path: Path, name: str, usual: int) -> int:
    """Return a limit of the file system that a path is on, or will be."""
    for there in (path, *path.parents):
        with contextlib.suppress(OSError, ValueError):
            limit = os.pathconf(there, name)
            return limit if limit > 0 else usual
    return usual


def _start_of(name: str) -> str:
    """Return the start of a name, cut between characters, which may have several bytes each."""
    return name.encode(errors="surrogatepass")[:_PART_START].decode(errors="ignore")


def _part_name(name: str) -> str:
    return f".{_start_of(name)}.{secrets.token_hex(4)}.part"


def _lock(handle: int) -> None:
    until = time.monotonic() + _LONGEST_LOCK_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return


def _sweep(folder: Path, pattern: str) -> None:
    """Remove what attempts that were killed have left."""
    for part in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                part.unlink()


def _unusable(field: str, value: object, problem: str, remedy: str = "") -> VaceInputError:
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
