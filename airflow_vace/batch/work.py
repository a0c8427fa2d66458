"""The work of a batch on a worker: submits items, waits, saves, until every item has ended."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, assert_never

from airflow_vace.batch.items import Item, Running, State
from airflow_vace.batch.jobs import THREADS, Ended, Failed, Jobs, Outcome, RejectedVideo
from airflow_vace.batch.restore import restore
from airflow_vace.batch.waiting import WaitingItems
from airflow_vace.batch.watch import Watcher
from airflow_vace.core.names import split_reference
from airflow_vace.exceptions import (
    LedgerError,
    PredictionCanceled,
    SubmissionUnknown,
    VaceError,
    VideoRejected,
)
from airflow_vace.observability.metrics import TaskMetrics
from airflow_vace.submission.ledger import IntentLostError
from airflow_vace.task.checking import regenerations_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context

    from airflow_vace.batch.chunks import Chunks
    from airflow_vace.batch.operator import VaceBatchOperator
    from airflow_vace.prediction import Prediction

# A worker is woken when this part of the room for open predictions is free.
_WAKE_SHARE = 4
_FLUSH_SECONDS = 1.0
# Python handles signals between two waits only.
_MAX_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _WaitOver:
    """The end of a wait; the prediction is None if only a poll can say its state."""

    prediction: Prediction | None


class Work:
    """The items of a batch in one process, from the last known state to the end or to a deferral.

    The main thread decides; the threads of :class:`Jobs` submit and save; a further thread waits. `open`
    holds the predictions that run, by the keys of their items.

    :param task: the operator, with rendered fields
    :param context: Airflow's context of the task instance
    :param items: the rows of the batch as items, in order
    :param chunks: the entries of the batch, loaded
    :param is_resumed: an earlier process of the same attempt has submitted items
    :param changed: called after each change of an item's state
    """

    def __init__(  # noqa: PLR0913 - the parts of a batch
        self,
        task: VaceBatchOperator,
        context: Context,
        items: Sequence[Item],
        chunks: Chunks,
        *,
        is_resumed: bool,
        changed: Callable[[], None],
    ) -> None:
        self.task = task
        self.items = items
        self.chunks = chunks
        self._changed = changed
        self._by_key = {item.key: item for item in items}
        self._events: SimpleQueue[tuple[str, Outcome | _WaitOver]] = SimpleQueue()
        self._jobs = Jobs(task, context, chunks, self._report)
        self.metrics = TaskMetrics(context.get("ti"), lambda: task.hook.settings, task.model)
        self._watcher = Watcher(
            task.hook.fresh(), task.poll_interval, self._wait_over, task.log, self.metrics
        )
        self._next_flush = time.monotonic() + _FLUSH_SECONDS
        max_regenerations = regenerations_of(task)
        self.open = restore(
            items, chunks, self._jobs.attempt, is_resumed=is_resumed, max_regenerations=max_regenerations
        )
        self._waiting = WaitingItems(items, chunks, max_regenerations, task.log)

    def look_at(self, keys: Sequence[str]) -> None:
        """Poll the items whose waits in the triggerer have ended."""
        # Neighbours lie in one chunk of records, so their threads share its writes.
        for key in sorted(self.open.keys() & set(keys), key=lambda key: self._by_key[key].position):
            self._jobs.finish(self._by_key[key], self.open[key], was_deferred=True)

    def run(self, *, may_leave: bool) -> bool:
        """Submit, wait and save; return True if all items have ended, False to wait elsewhere.

        :param may_leave: return as soon as there is nothing left but to wait
        :raises LedgerError: if the records are out of reach, or another attempt has taken over
        """
        if self._waiting:
            self._look_up_version()
        try:
            for key, running in self.open.items():
                if key not in self._jobs:
                    self._watcher.watch(key, running.prediction, running.deadline)
            while True:
                self._fill()
                self._flush()
                if not self._jobs:
                    if not self.open:
                        return True
                    if may_leave:
                        return False
                self._take(*self._next_event())
        finally:
            self._jobs.stop()
            self._watcher.close()
            self._jobs.close()
            with suppress(LedgerError):  # a later process polls these predictions, at no cost
                self.chunks.flush()

    @property
    def wake_after(self) -> int | None:
        """Number of ends after which a worker has enough to submit; None if nothing is left to submit."""
        if not self._waiting:
            return None
        return min(max(math.ceil(self.task.max_in_flight / _WAKE_SHARE), 1), len(self.open))

    def order_digest(self, key: str) -> str | None:
        """Return the digest of an item's order for the manifest beside the video, None if unknown."""
        record = self.chunks.entry(key).record
        return None if record is None else record.order_digest

    def is_own(self, key: str) -> bool:
        """Return False if the prediction of an item may be another task's, so no kill cancels it."""
        record = self.chunks.entry(key).record
        return record is None or record.is_own

    def stop(self) -> list[Prediction]:
        """Submit nothing from now on; return all predictions that may run, and are the task's.

        A signal handler calls this.
        """
        jobs = self._jobs.stop()
        found = [running.prediction for key, running in list(self.open.items()) if self.is_own(key)]
        return list({prediction.id: prediction for prediction in (*found, *jobs)}.values())

    # --- submitting --------------------------------------------------------------------------------

    def _look_up_version(self) -> None:
        """Look up the model's version once for all items, and log the version."""
        model, version = split_reference(self.task.model or None, self.task.version or None)
        settings = self.task.hook.settings
        if not version and not settings.version:
            # Each item asks again after a failure, and reports the reason.
            with suppress(VaceError):
                self.task.hook.latest_version(model or settings.model)

    def _fill(self) -> None:
        """Begin as many submissions as there is room for."""
        submitting = self._jobs.submitting
        if self._waiting.is_held and (self.open or self._jobs):
            return
        self._waiting.release()
        while self._waiting and len(submitting) < THREADS:
            if len(self.open) + len(submitting) >= self.task.max_in_flight:
                return
            self._jobs.submit(self._waiting.take())

    def _flush(self) -> None:
        """Write the ends of items about once a second, since each write is a request to Airflow."""
        if time.monotonic() < self._next_flush:
            return
        self._next_flush = time.monotonic() + _FLUSH_SECONDS
        try:
            self.chunks.flush()
        except IntentLostError:
            raise
        except LedgerError as error:
            self.task.log.warning("%s; a later attempt polls these predictions again", error)

    # --- events ------------------------------------------------------------------------------------

    def _report(self, key: str, outcome: Outcome) -> None:
        self._events.put((key, outcome))

    def _wait_over(self, key: str, prediction: Prediction | None) -> None:
        self._events.put((key, _WaitOver(prediction)))

    def _next_event(self) -> tuple[str, Outcome | _WaitOver]:
        while True:
            try:
                return self._events.get(timeout=_MAX_WAIT_SECONDS)
            except Empty:
                continue

    def _take(self, key: str, event: Outcome | _WaitOver) -> None:
        """Change the state of an item by an event."""
        item = self._by_key[key]
        match event:
            case _WaitOver(prediction):
                if key in self.open and key not in self._jobs:
                    running = self.open[key]
                    latest = Running(prediction or running.prediction, running.deadline)
                    self._jobs.finish(item, latest)
                return
            case Running(prediction, deadline):
                self._jobs.end(key)
                self.open[key] = event
                item.state, item.payload = State.RUNNING, prediction.payload()
                self._waiting.note_accepted()
                self._watcher.watch(key, prediction, deadline)
            case Ended(payload):
                self._close_item(key)
                item.state = State.REUSED if payload.get("reused") else State.SUCCEEDED
                item.payload, item.error = payload, None
                self._waiting.note_accepted()
            case RejectedVideo():
                self._close_item(key)
                self._waiting.put(item)
            case Failed():
                self._close_item(key)
                self._fail(item, event)
            case _:
                assert_never(event)
        self._changed()

    def _close_item(self, key: str) -> None:
        self._jobs.end(key)
        self.open.pop(key, None)
        self._waiting.is_held = False

    def _fail(self, item: Item, failed: Failed) -> None:
        cause = failed.cause
        if isinstance(cause, LedgerError):
            raise failed.error
        if failed.cap is not None:
            is_busy = bool(self.open or self._jobs)
            if self._waiting.hold(item, failed.cap, is_busy=is_busy):
                return
            # A rejected video is a failure, and other items may be cheaper.
            if not isinstance(cause, VideoRejected):
                self._waiting.stop(failed, item)
                return
        record = self.chunks.entry(item.key).record
        item.error, item.may_retry = failed.text, failed.may_retry
        item.payload = record.known.payload() if failed.was_submitted and record is not None else None
        if isinstance(cause, SubmissionUnknown):
            item.state = State.UNKNOWN
        else:
            item.state = State.CANCELED if isinstance(cause, PredictionCanceled) else State.FAILED
        self.task.log.warning("%s: %s", item.key, item.error)
        if failed.is_old:
            return
        if failed.was_submitted:
            self._waiting.note_accepted()
        else:
            self._waiting.note_refused(item, failed)
