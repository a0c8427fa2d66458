"""The record of one item of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_vace.batch.chunks import Entry
from airflow_vace.exceptions import VaceTransportError
from airflow_vace.submission.ledger import Ledger
from airflow_vace.submission.record import Phase

if TYPE_CHECKING:
    from airflow_vace.batch.chunks import Chunks
    from airflow_vace.submission.record import Record


class ItemLedger(Ledger):
    """The record of one item of a batch.

    :param chunks: the entries of the batch
    :param name: key of the item
    """

    def __init__(self, chunks: Chunks, name: str) -> None:
        self._chunks = chunks
        self.name = name
        self.spending = chunks.spending
        self.is_durable = chunks.is_durable
        # The entry in whose place an intent was written.
        self._earlier = Entry()

    @property
    def latest(self) -> Record | None:
        return self._chunks.entry(self.name).record

    def read(self) -> Record | None:
        return self.latest

    def intend(self, record: Record, before: Record | None) -> None:
        if not self._chunks.takes_intents:
            raise VaceTransportError(
                "The task was killed before it sent the request for a prediction; nothing was submitted",
                sent=False,
            )
        self._reserve(record)
        self._earlier = self._chunks.entry(self.name)
        try:
            # No later attempt could read the intent in a batch without such a store, but a later process of
            # this attempt counts the reserved amount.
            self._chunks.put(
                self.name, Entry(record=record), is_verified=self.is_durable, is_urgent=self.is_durable
            )
        except BaseException:  # a failed write brings the earlier entry back by itself
            self._note_expense(before)
            raise

    def write(self, record: Record) -> None:
        # A later attempt polls a prediction without a recorded end, and pays nothing for that.
        is_urgent = record.phase is not Phase.SETTLED
        self._note_expense(record)
        self._chunks.put(self.name, Entry(record=record), is_urgent=is_urgent)

    def confirm(self, record: Record) -> None:
        if self.is_durable:
            self._chunks.confirm(self.name, record)

    def withdraw(self, before: Record | None) -> None:
        self._note_expense(before)
        # A later process must not take the prediction of an earlier attempt for a result of this one.
        earlier = replace(self._earlier, record=before)
        self._chunks.put(self.name, earlier, is_urgent=self.is_durable, attempt=earlier.attempt)
