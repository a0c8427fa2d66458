"""Records of a batch's items, in chunks: values of Airflow's task state store with some items each.

A write is a request to Airflow's API server, and the requests of a process follow one another. So items that
are written at the same time share a write, and a chunk stays below the size of which Airflow warns.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from airflow_vace.batch.items import compressed, decompressed
from airflow_vace.connection import airflow_turn
from airflow_vace.exceptions import LedgerError
from airflow_vace.submission.expense import Spending
from airflow_vace.submission.ledger import IntentLostError
from airflow_vace.submission.record import Phase, Record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

# Airflow warns of values over 64 KiB, and an item with one file takes about 1.5 KiB.
ITEMS_PER_CHUNK = 32
KEY_PREFIX = "vace_batch_"
_KEY = KEY_PREFIX + "{:04d}"


class Values(Protocol):
    """The used part of Airflow's `task_state_store`."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The stored state of one item.

    `record` is the item's submission, None without one. `attempt` is Airflow's number of the attempt that has
    written the entry. `error` is the reason of a failure without a record's word for it. `reused` is the
    payload of a saved video of another run, and `record` then belongs to an earlier prediction of the item.
    """

    record: Record | None = None
    attempt: int = 0
    error: str | None = None
    may_retry: bool = True
    reused: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Read an entry, without members that a later version has added.

        :raises LedgerError: if the record is unreadable
        """
        record, reused = data.get("record"), data.get("reused")
        return cls(
            record=None if record is None else Record.from_json(record),
            attempt=int(data.get("attempt") or 0),
            error=data.get("error"),
            may_retry=data.get("may_retry") is not False,
            reused=reused if isinstance(reused, dict) else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form, without absent members."""
        record = None if self.record is None else self.record.as_json()
        members: dict[str, Any] = {
            "record": record and {name: value for name, value in record.items() if value not in (None, [])},
            "error": self.error,
            "reused": self.reused,
        }
        if not self.may_retry:
            members["may_retry"] = False
        present = {name: value for name, value in members.items() if value is not None}
        return {"attempt": self.attempt, **present}


class _Chunk:
    """One value of the store, and the order of its writes.

    Entries with a prediction are kept as compressed text, since a batch has thousands and asks for few.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._items: dict[str, Entry | bytes] = {}
        self.writing = Lock()
        # Number of the latest change in memory, and of the latest change in the store.
        self.changed = 0
        self.written = 0
        self.verified = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, name: str) -> Entry | None:
        """Return the entry of an item, None without one."""
        stored = self._items.get(name)
        return Entry.from_json(decompressed(stored)) if isinstance(stored, bytes) else stored

    def put(self, name: str, entry: Entry | None) -> None:
        """Replace the entry of an item; None removes the entry."""
        if entry is None:
            self._items.pop(name, None)
            return
        is_answered = entry.record is not None and entry.record.phase is not Phase.INTENT
        self._items[name] = compressed(entry.as_json()) if is_answered else entry

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form of all entries."""
        return {
            name: decompressed(stored) if isinstance(stored, bytes) else stored.as_json()
            for name, stored in self._items.items()
        }


class Chunks:
    """The entries of a batch; threads may write different items at the same time.

    `takes_intents` is False after a kill, and no create follows then. `has_records` is True if the store had
    a record of an item at the start, so predictions may be paid.

    :param store: Airflow's `task_state_store`, or a substitute for one attempt
    :param attempt: Airflow's number of the attempt; a later attempt takes the batch over
    :param is_durable: later attempts read the same store
    :param spending: the expenses of all items, and their cap
    """

    def __init__(
        self, store: Values, attempt: int, *, is_durable: bool, spending: Spending | None = None
    ) -> None:
        self.attempt = attempt
        self.spending = spending or Spending()
        self.is_durable = is_durable
        self.takes_intents = True
        self.has_records = False
        self._store = store
        self._owner = [attempt, secrets.token_hex(8)]
        self._chunks: list[_Chunk] = []
        self._places: dict[str, _Chunk] = {}
        self._lock = Lock()

    def load(self) -> None:
        """Read all chunks.

        :raises LedgerError: if a chunk cannot be read; an unreadable chunk may hold paid predictions
        """
        while (data := self._get(key := _KEY.format(len(self._chunks)))) is not None:
            chunk = _Chunk(key)
            self._check_owner(chunk, data)
            for name, entry in _items_of(data).items():
                known = Entry.from_json(entry)
                chunk.put(name, known)
                self._places[name] = chunk
                self.has_records = self.has_records or known.record is not None
                # Items that are no longer in the inputs have been paid for too.
                self.spending.note(name, None if known.record is None else known.record.expense)
            self._chunks.append(chunk)

    def entry(self, name: str) -> Entry:
        """Return the entry of an item, as last read or written by this process."""
        chunk = self._places.get(name)
        return (None if chunk is None else chunk.get(name)) or Entry()

    def put(
        self,
        name: str,
        entry: Entry,
        *,
        is_verified: bool = False,
        is_urgent: bool = True,
        attempt: int | None = None,
    ) -> None:
        """Write the entry of an item, together with the entries that other threads have waiting.

        :param is_verified: read the entry back, because two attempts may write at once
        :param is_urgent: write at once; False leaves the write to the next one of the chunk, or to
            :meth:`flush`
        :param attempt: number of the attempt that has written the entry first (default: this one)
        :raises IntentLostError: if a later attempt has taken the batch over
        :raises LedgerError: if the entry could not be written; the earlier entry stays in memory then
        """
        with self._lock:
            chunk = self._place_of(name)
            before = chunk.get(name)
            chunk.put(name, replace(entry, attempt=self.attempt if attempt is None else attempt))
            chunk.changed = change = chunk.changed + 1
        if not is_urgent:
            return
        try:
            with chunk.writing:
                # Another thread may have written this change along with its own.
                if chunk.written < change:
                    self._write(chunk)
                if is_verified and chunk.verified < change:
                    self._verify(chunk)
        except LedgerError as error:
            self._take_back(chunk, name, before, is_lost=isinstance(error, IntentLostError))
            raise

    def flush(self) -> None:
        """Write all entries that no write has taken along yet.

        :raises IntentLostError: if a later attempt has taken the batch over
        :raises LedgerError: if the entries could not be written
        """
        with self._lock:
            waiting = [chunk for chunk in self._chunks if chunk.written < chunk.changed]
        for chunk in waiting:
            with chunk.writing:
                if chunk.written < chunk.changed:
                    self._write(chunk)

    def confirm(self, name: str, record: Record) -> None:
        """Return if the store still holds this record of an item, so this attempt may act.

        :raises IntentLostError: if another attempt has taken over
        :raises LedgerError: if the store cannot be read
        """
        chunk = self._places[name]
        with chunk.writing:
            data = self._get(chunk.key) or {}
        # Until its first write, this attempt continues the records of the attempt before.
        self._check_owner(chunk, data)
        entry = _items_of(data).get(name) or {}
        if (entry.get("record") or {}).get("nonce") != record.nonce:
            raise _lost()

    # --- the store ---------------------------------------------------------------------------------

    def _place_of(self, name: str) -> _Chunk:
        chunk = self._places.get(name)
        if chunk is None:
            if not self._chunks or len(self._chunks[-1]) >= ITEMS_PER_CHUNK:
                self._chunks.append(_Chunk(_KEY.format(len(self._chunks))))
            chunk = self._places[name] = self._chunks[-1]
        return chunk

    def _write(self, chunk: _Chunk) -> None:
        self._check_owner(chunk, self._get(chunk.key))
        with self._lock:
            change = chunk.changed
            items = chunk.as_json()
        data = {"owner": self._owner, "items": items}
        self._set(chunk.key, data)
        chunk.written = change

    def _verify(self, chunk: _Chunk) -> None:
        """Check that the store holds the latest write of this process."""
        data = self._get(chunk.key)
        if data is None or data.get("owner") != self._owner:
            chunk.written = chunk.verified
            raise LedgerError(
                f"The key {chunk.key!r} is missing from this task's state store after the write: another"
                " attempt of this task runs, or the store loses writes. Nothing was submitted."
            )
        chunk.verified = chunk.written

    def _take_back(self, chunk: _Chunk, name: str, before: Entry | None, *, is_lost: bool) -> None:
        """Restore the earlier entry of an item after a failed write."""
        with self._lock:
            chunk.put(name, before)
            chunk.changed += 1
        # The store may hold the failed write all the same, and no create follows it.
        if not is_lost:
            with suppress(LedgerError), chunk.writing:
                self._write(chunk)

    def _check_owner(self, chunk: _Chunk, data: Mapping[str, Any] | None) -> None:
        """Raise if another process has taken the batch over."""
        owner = (data or {}).get("owner")
        if owner is None or owner == self._owner:
            return
        attempt = owner[0] if isinstance(owner, list) and owner else 0
        # An earlier leg of the same attempt has ended before this one began.
        if attempt > self.attempt or (attempt == self.attempt and chunk.written):
            raise _lost()

    def _get(self, key: str) -> dict[str, Any] | None:
        try:
            with airflow_turn():
                data = self._store.get(key)
        except Exception as error:  # Airflow's API server and custom state back-ends raise any type
            raise LedgerError(
                f"The records of this batch could not be read ({type(error).__name__}: {error}). Nothing was"
                " submitted: that might pay twice."
            ) from error
        if data is not None and not isinstance(data, dict):
            raise LedgerError(
                f"The key {key!r} in this task's state store is no record that this version can read."
                " Nothing was submitted."
            )
        return data

    def _set(self, key: str, value: dict[str, Any]) -> None:
        retention: timedelta | None = None
        if self.is_durable:
            from airflow.sdk.execution_time.context import NEVER_EXPIRE

            # A task may be cleared after months, and a lost record would allow a second bill.
            retention = NEVER_EXPIRE
        try:
            with airflow_turn():
                self._store.set(key, value, retention=retention)
        except Exception as error:  # any type, as in `_get`
            raise LedgerError(
                f"The state of this batch could not be recorded ({type(error).__name__}: {error})"
            ) from error


def _items_of(data: Mapping[str, Any]) -> dict[str, Any]:
    items = data.get("items")
    if items is None:
        return {}
    if not isinstance(items, dict) or not all(isinstance(item, dict) for item in items.values()):
        raise LedgerError(
            "The records of this batch in the task's state store are none that this version can read. Nothing"
            " was submitted."
        )
    return items


def _lost() -> IntentLostError:
    return IntentLostError(
        "Another attempt of this task has taken over: this one sends no create and cancels nothing. Nothing"
        " was submitted by this one."
    )


class AttemptStore:
    """Values of one attempt in XCom, for Airflow below 3.3 and for `durable=False`.

    :param ti: Airflow's task instance; None keeps the values in memory
    """

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        """Return a value of this attempt, None for an unknown key."""
        if key in self._values or self._ti is None:
            return self._values.get(key)
        ti = self._ti
        return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        """Write a value."""
        del retention  # an XCom lives as long as its attempt
        self._values[key] = value
        if self._ti is not None:
            self._ti.xcom_push(key, value)
