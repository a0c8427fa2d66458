"""Values of XComs: in Airflow's database, or in the store of the object storage backend.

Airflow's API server never runs an XCom backend, since a backend may make any object of a value. This module
reads plain JSON, and only below the deployment's `[common.io] xcom_objectstorage_path`.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    # Address of a stored value, and the time of the row: a task may write another value to the same address.
    Key = tuple[str, datetime]

_MAX_BYTES = 1024 * 1024
_MAX_KNOWN = 1000
# The gallery asks again every few seconds, so a large run fills the cache in some rounds.
_MAX_READS = 200
_MAX_THREADS = 8


@dataclass(frozen=True)
class Unread:
    """A value that could not be read; `reason` is a sentence for the card."""

    reason: str


def read_value(value: Any) -> Any:
    """Return the value of an XCom row, which holds JSON or the text of JSON."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    return _printable(value)


def address_of(value: Any) -> str | None:
    """Return the address in the value of a row that an XCom backend has written; None for other values."""
    is_address = isinstance(value, str) and "://" in value and value.isprintable() and " " not in value
    return value if is_address else None


class StoredValues:
    """A cache of values in the deployment's object storage; safe for threads.

    :param max_known: number of values in the cache
    """

    def __init__(self, max_known: int = _MAX_KNOWN) -> None:
        self._max_known = max_known
        self._known: dict[Key, Any] = {}
        self._lock = Lock()

    def read(self, keys: Sequence[Key]) -> dict[Key, Any]:
        """Return the value, or :class:`Unread`, at each address."""
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
        missing = [key for key in keys if key not in found]
        wait = Unread("Its values are in a store, and are read in a moment: many tasks keep theirs there.")
        found |= dict.fromkeys(missing[_MAX_READS:], wait)
        missing = missing[:_MAX_READS]
        if missing:
            with ThreadPoolExecutor(_MAX_THREADS) as threads:
                values = threads.map(_read, [address for address, _ in missing])
                read = dict(zip(missing, values, strict=True))
            self._keep({key: value for key, value in read.items() if not isinstance(value, Unread)})
            found |= read
        return found

    def _keep(self, values: Mapping[Key, Any]) -> None:
        with self._lock:
            self._known |= values
            while len(self._known) > self._max_known:
                self._known.pop(next(iter(self._known)))


def _read(address: str) -> Any:
    """Return the JSON at an address of the object storage backend, or :class:`Unread`."""
    root = (conf.get("common.io", "xcom_objectstorage_path", fallback="") or "").rstrip("/")
    if not root:
        return Unread(
            "Its values are in an XCom backend that the API server does not read; it reads the one of the"
            " provider common.io, by [common.io] xcom_objectstorage_path."
        )
    try:
        from airflow.sdk import ObjectStoragePath

        base: Any = ObjectStoragePath(root)
        below = f"{str(base).rstrip('/')}/"
        rest = address.removeprefix(below)
        if rest == address or not {"", ".", ".."}.isdisjoint(rest.split("/")):
            return Unread("Its values are in a store outside of [common.io] xcom_objectstorage_path.")
        # The root's connection opens the store, so an address in XCom cannot choose another one.
        with (base / rest).open("rb", compression="infer") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            return Unread(f"Its values in the XCom store are larger than {_MAX_BYTES} bytes.")
        return _printable(json.loads(content))
    except Exception as error:  # noqa: BLE001 - stores are third-party code and raise anything
        why = excerpt(f"{type(error).__name__}: {error}", 200)
        return Unread(f"Its values in the XCom store can't be read by the API server ({why}).")


def _printable(value: Any) -> Any:
    """Return a value without lone surrogates, which UTF-8 cannot encode."""
    if isinstance(value, dict):
        return {str(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
