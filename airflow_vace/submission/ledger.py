"""Ledgers: storage of a task's record, in Airflow's task state store (Airflow 3.3+) or in XCom."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from airflow_vace.exceptions import LedgerError
from airflow_vace.submission.expense import Spending
from airflow_vace.submission.record import RECORD_KEY, Record

if TYPE_CHECKING:
    from datetime import timedelta


class Store(Protocol):
    """The used part of Airflow's `task_state_store`."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None: ...

    def delete(self, key: str) -> None: ...


class IntentLostError(LedgerError):
    """Raised if another attempt owns the task now, so this attempt may neither submit nor cancel."""


class Ledger:
    """The record of one task instance, in the state store that outlives attempts.

    :param store: Airflow's `task_state_store` of the task instance
    :param spending: the expenses of the task, and its cap
    """

    is_durable = True
    # The ends of predictions are recorded.
    keeps_ends = True
    # The name of the record's prediction among the expenses.
    name = ""

    def __init__(self, store: Store, spending: Spending | None = None) -> None:
        self.spending = spending or Spending()
        self._store = store
        self._latest: Record | None = None
        self._was_read = False

    @property
    def latest(self) -> Record | None:
        """The record as last written or read by this process; the first access reads the store.

        :raises LedgerError: if the store cannot be read
        """
        return self._latest if self._was_read else self.read()

    def read(self) -> Record | None:
        """Return the stored record, None for an empty store.

        :raises LedgerError: if the store cannot be read; an unreadable store may hold a paid prediction
        """
        try:
            data = self._store.get(RECORD_KEY)
        except Exception as error:  # Airflow's API server and custom state back-ends raise any type
            raise LedgerError(
                f"The record of this task's earlier submissions could not be read ({type(error).__name__}:"
                f" {error}). Nothing was submitted: that might pay twice."
            ) from error
        self._latest = None if data is None else Record.from_json(data)
        self._was_read = True
        self._note_expense(self._latest)
        return self._latest

    def _reserve(self, record: Record) -> None:
        """Reserve the money of an intent.

        :raises BudgetExceeded: if the create would pass a cap
        """
        if record.expense is not None:
            self.spending.reserve(self.name, record.expense)

    def _note_expense(self, record: Record | None) -> None:
        self.spending.note(self.name, None if record is None else record.expense)

    def intend(self, record: Record, before: Record | None) -> None:
        """Reserve money, write an intent in place of the record `before`, and verify the stored intent.

        :raises BudgetExceeded: if the create would pass a cap
        :raises LedgerError: if the intent is not stored; a create must not follow
        """
        self._reserve(record)
        try:
            self.write(record)
            # Two attempts may write at once and a store may lose a write, so only a read proves the intent.
            written = self.read()
        except BaseException:  # a timeout raises no Exception everywhere, and no create follows it either
            with suppress(LedgerError):
                self.withdraw(before)
            raise
        if written is None or written.nonce != record.nonce:
            raise LedgerError(
                "The intent to submit is missing from this task's state store after the write: another"
                " attempt of this task runs, or the store loses writes. Nothing was submitted."
            )

    def write(self, record: Record) -> None:
        """Write a record without expiry; Airflow deletes the record together with the DAG run.

        :raises LedgerError: if the record could not be written
        """
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        try:
            # A task may be cleared after months, and a lost record would allow a second bill.
            self._store.set(RECORD_KEY, record.as_json(), retention=NEVER_EXPIRE)
        except Exception as error:  # any type, as in `read`
            raise LedgerError(
                f"The state of this task's prediction could not be recorded ({type(error).__name__}: {error})"
            ) from error
        self._latest, self._was_read = record, True
        self._note_expense(record)

    def confirm(self, record: Record) -> None:
        """Return if the store still holds this record, so this attempt may act.

        :raises IntentLostError: if another attempt has taken over, or the store refuses this attempt
        :raises LedgerError: if the store cannot be read
        """
        found = self.read()
        if found is None or found.nonce != record.nonce:
            raise IntentLostError(
                "Another attempt of this task has taken over: this one sends no create and cancels nothing."
                " Nothing was submitted by this one."
            )

    def withdraw(self, before: Record | None) -> None:
        """Replace an intent without accepted create by the record `before`, or delete the intent.

        :raises LedgerError: if the intent could not be withdrawn
        """
        if before is not None:
            self.write(before)
            return
        try:
            self._store.delete(RECORD_KEY)
        except Exception as error:  # any type, as in `read`
            raise LedgerError(
                f"An intent could not be withdrawn ({type(error).__name__}: {error})"
            ) from error
        self._latest = None
        self._note_expense(None)


class AttemptLedger(Ledger):
    """The record of one attempt, in XCom, for Airflow below 3.3 and for `durable=False`.

    Airflow deletes XComs before the next attempt, so the record serves only the same attempt after a
    deferral.

    :param ti: Airflow's task instance; None keeps the record in memory
    """

    is_durable = False
    # No later attempt reads them, and each write is a request.
    keeps_ends = False

    def __init__(self, ti: Any, spending: Spending | None = None) -> None:
        self.spending = spending or Spending()
        self._ti = ti
        self._latest: Record | None = None
        self._was_read = ti is None

    def read(self) -> Record | None:
        if self._was_read:
            return self._latest
        ti = self._ti
        data = ti.xcom_pull(task_ids=ti.task_id, key=RECORD_KEY, map_indexes=ti.map_index)
        self._latest = None if data is None else Record.from_json(data)
        self._was_read = True
        self._note_expense(self._latest)
        return self._latest

    def intend(self, record: Record, before: Record | None) -> None:
        """Reserve money, and write nothing, since no later attempt could read the intent."""
        del before
        self._reserve(record)

    def confirm(self, record: Record) -> None:
        """Return always, since no other attempt can see this record."""

    def write(self, record: Record) -> None:
        self._latest, self._was_read = record, True
        self._note_expense(record)
        if self._ti is None:
            return
        try:
            self._ti.xcom_push(RECORD_KEY, record.as_json())
        except Exception as error:  # any type, as in `Ledger.read`
            raise LedgerError(f"The prediction could not be recorded in XCom: {error}") from error

    def withdraw(self, before: Record | None) -> None:
        """Release the money; no intent was written."""
        self._note_expense(before)
