"""The items of a batch that wait for their submission, and the end of all submissions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_vace.batch.items import State
from airflow_vace.batch.jobs import MAX_ERROR_LENGTH
from airflow_vace.exceptions import VaceAuthError, VaceBillingError
from airflow_vace.prediction import PredictionStatus
from airflow_vace.redaction import excerpt
from airflow_vace.storage.checks import problems_of
from airflow_vace.submission.decision import may_regenerate
from airflow_vace.submission.record import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_vace.batch.chunks import Chunks
    from airflow_vace.batch.items import Item
    from airflow_vace.batch.jobs import Failed
    from airflow_vace.exceptions import BudgetExceeded

# A server that refuses as many items one after another refuses the others too.
_MAX_REFUSALS = 8
# The same for refusals of the key, or for lack of credit.
_MAX_ACCOUNT_REFUSALS = 3


class WaitingItems:
    """The items that wait for their submission, in the order of their turns.

    `refusal` is the reason why no more items are submitted, None while they are. `is_held` is True while a
    cap leaves no room, until a prediction that runs has cost less than reserved.

    :param items: all items of the batch, with their states
    :param chunks: the entries of the batch
    :param max_regenerations: number of predictions that may replace an item's rejected videos
    :param log: the task's log
    """

    def __init__(self, items: Iterable[Item], chunks: Chunks, max_regenerations: int, log: Any) -> None:
        self.refusal: Failed | None = None
        self.is_held = False
        self._refusals = 0
        self._chunks = chunks
        self._max_regenerations = max_regenerations
        self._log = log
        # Predictions of an earlier attempt are paid for, so these come first, at the end of the list.
        self._items = sorted(
            (item for item in items if item.state is State.WAITING),
            key=lambda item: (chunks.entry(item.key).record is None, item.position),
            reverse=True,
        )

    def __len__(self) -> int:
        return len(self._items)

    def take(self) -> Item:
        """Remove and return the item whose turn it is."""
        return self._items.pop()

    def put(self, item: Item) -> None:
        """Give the next turn to an item, or skip it once no more items are submitted."""
        if self.refusal is None:
            item.state = State.WAITING
            self._items.append(item)
        else:
            self._skip(item, self.refusal)

    def hold(self, item: Item, cap: BudgetExceeded, *, is_busy: bool) -> bool:
        """Let all items wait for the cost of predictions that run; return False if none can make room.

        :param item: the item that does not fit, and keeps its turn
        :param is_busy: predictions of the batch run
        """
        self.is_held = cap.may_fit_later and is_busy and self.refusal is None
        if self.is_held:
            self.put(item)
        return self.is_held

    def release(self) -> None:
        """End the hold of the items."""
        self.is_held = False

    def note_accepted(self) -> None:
        """Note that the server accepts items."""
        self._refusals = 0

    def note_refused(self, item: Item, failed: Failed) -> None:
        """Note that the server has refused an item, and stop after several in a row."""
        self._refusals += 1
        is_of_account = isinstance(failed.cause, VaceAuthError | VaceBillingError)
        if is_of_account and self._refusals < _MAX_ACCOUNT_REFUSALS and self.refusal is None:
            # A single refusal may be a moment's trouble, and a refused create costs nothing.
            item.state, item.error = State.WAITING, None
            self._items.insert(0, item)
        elif is_of_account or self._refusals >= _MAX_REFUSALS:
            self.stop(failed)

    def stop(self, failed: Failed, *refused: Item) -> None:
        """Submit no further items, and skip those that wait, and the `refused` ones.

        An item whose prediction may be paid for keeps its turn.
        """
        if self.refusal is None:
            self.refusal = failed
            self._log.warning("No more items are submitted: %s", excerpt(failed.text, MAX_ERROR_LENGTH))
            waiting, self._items = self._items, []
            for item in waiting:
                if self._may_have_prediction(item):
                    self._items.append(item)
                else:
                    self._skip(item, failed)
        for item in refused:
            self._skip(item, failed)

    def _may_have_prediction(self, item: Item) -> bool:
        """Return True if an earlier attempt has paid for a result of the item, or may have."""
        record = self._chunks.entry(item.key).record
        if record is None or may_regenerate(record, self._max_regenerations):
            return False
        return record.phase is not Phase.SETTLED or record.known.status is PredictionStatus.SUCCEEDED

    def _skip(self, item: Item, failed: Failed) -> None:
        reason = excerpt(failed.text, MAX_ERROR_LENGTH)
        item.state, item.may_retry = State.SKIPPED, failed.may_retry
        item.error = f"Not submitted: {reason}"
        record = self._chunks.entry(item.key).record
        if record is not None and may_regenerate(record, self._max_regenerations):
            item.state, item.payload = State.FAILED, record.known.payload()
            problems = " ".join(problems_of(record.known.files))
            item.error = excerpt(f"{problems} Not submitted again: {reason}", MAX_ERROR_LENGTH)
