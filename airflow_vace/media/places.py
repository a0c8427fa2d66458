"""Files and directories wherever a deployment keeps them: local, or in one of Airflow's object stores."""

from __future__ import annotations

import contextlib
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
    from collections.abc import Callable
    from typing import BinaryIO

_CHUNK = 8 * 1024 * 1024
# Stores in which a file appears whole or not at all.
_ATOMIC = frozenset(
    {"s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "abfss", "adl", "wasb", "wasbs", "oss", "obs"}
)
# How old a temporary file is that nobody writes any more.
_STALE_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """One file or directory; `uri` is what people see, without the connection.

    `local` is its path on this machine, if it is there; else `fs` (of fsspec) and the `path` that it knows.
    """

    uri: str
    local: Path | None = None
    fs: Any = None
    path: str = ""
    is_atomic: bool = False

    @classmethod
    def of(cls, value: object, field: str) -> Self:
        """Find the place that a DAG author named: text, or any path object.

        :raises VaceInputError: if it can't be one, or Airflow knows no such store or connection
        :raises VaceTransportError: if the store could not be opened now
        """
        text = path_text(value)
        if text is None:
            raise _unusable(field, value, "is no path")
        scheme, has_scheme, rest = text.partition("://")
        if not has_scheme or scheme.lower() == "file":
            path = Path(unquote(rest.removeprefix("localhost")) if has_scheme else text).expanduser()
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
                f"{field}: the store of {shown} could not be opened ({_said(error)}); nothing was sent",
                sent=False,
            ) from error
        local = Path(found.path) if "file" in _protocols(fs) else None
        return cls(
            uri=local.as_uri() if local else shown,
            local=local,
            fs=fs,
            path=str(found.path),
            is_atomic=bool(_ATOMIC.intersection(_protocols(fs))),
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
            with self.local.open("rb") as file:
                file.seek(at)
                return file.read(length)
        content: bytes = self.fs.cat_file(self.path, start=at, end=at + length)
        return content

    def open(self) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open the file for reading from start to end, in bounded memory."""
        if self.local:
            return self.local.open("rb")
        opened: contextlib.AbstractContextManager[BinaryIO] = self.fs.open(
            self.path, "rb", block_size=_CHUNK, cache_type="readahead"
        )
        return opened

    def signed(self, seconds: int) -> str:
        """Return a URL by which anybody can read the file for so many seconds.

        :raises Exception: whatever a store raises that can't sign
        """
        if self.local:
            raise NotImplementedError("local files have no URL")
        return str(self.fs.sign(self.path, expiration=seconds))

    # --- writing -----------------------------------------------------------------------------------

    def new_part(self, kind: str) -> Path:
        """Return a new temporary file for what shall be put here; beside it, if it is local."""
        if self.local is None:
            handle, name = tempfile.mkstemp(prefix="vace-", suffix=f".part{kind}")
        else:
            self.local.parent.mkdir(parents=True, exist_ok=True)
            _sweep(self.local)
            prefix = f".{self.local.name[:100]}."
            handle, name = tempfile.mkstemp(dir=self.local.parent, prefix=prefix, suffix=".part")
        os.close(handle)
        return Path(name)

    def take(self, part: Path, callback: Any = None) -> None:
        """Put a whole file here, at once: nobody ever sees a piece of it.

        :raises OSError: (or whatever the store raises) if it can't be written
        """
        if self.local:
            with part.open("rb") as file:
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            part.chmod(0o666 & ~mask)  # what a plain open() would have given, for other readers
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
        aside = f"{parent}/.{self.name[:100]}.{secrets.token_hex(4)}.part"
        try:
            self.fs.put_file(str(part), aside, **options)
            self.fs.mv(aside, self.path)
        except BaseException:
            with contextlib.suppress(Exception):
                self.fs.rm_file(aside)
            raise

    def check_writable(self, field: str) -> str | None:
        """Look whether files can be put below this directory, before money is spent.

        :return: why that could not be told, if so
        :raises VaceInputError: if they can't
        """
        remedy = "give a directory that the worker may write to"
        if self.local:
            try:
                self.local.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.local):
                    pass
            except OSError as error:
                raise _unusable(
                    field, str(self.local), f"can't be written to ({error.strerror})", remedy
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
        except PermissionError:
            return None  # whoever may only write is not told
        except Exception as error:  # noqa: BLE001 - stores are strangers, and may throw anything
            return f"Whether {self.uri} can be written to could not be told: {_said(error)}"
        return None


def store_error(what: str, error: Exception) -> OSError:
    """Return a stranger's error as an OSError that says what it means, and keeps the system's number."""
    number = error.errno if isinstance(error, OSError) and error.errno else 5  # EIO
    return OSError(number, f"{what} ({_said(error)})")


def _said(error: Exception) -> str:
    return excerpt(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 300)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _understood(fs: Any, **options: Any) -> dict[str, Any]:
    """Return those options that the store's `put_file` has by name; others would go to its server."""
    known = inspect.signature(getattr(fs, "_put_file", fs.put_file)).parameters
    return {name: value for name, value in options.items() if name in known}


def _sweep(path: Path) -> None:
    """Remove what attempts that were killed have left beside a file."""
    for part in path.parent.glob(f".{glob.escape(path.name[:100])}.*.part"):
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
