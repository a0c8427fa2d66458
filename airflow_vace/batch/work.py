"""The work of a batch on a worker: submits items, waits, saves, until every item has ended."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, assert_never

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.batch.chunks import Chunks, Entry, ItemLedger
from airflow_vace.batch.items import Item, ItemTask, QuietLog, State, finish
from airflow_vace.batch.watch import Watcher
from airflow_vace.core.names import split_reference
from airflow_vace.exceptions import (
    LedgerError,
    PredictionCanceled,
    SubmissionUnknown,
    VaceAuthError,
    VaceBillingError,
    VaceError,
)
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.redaction import excerpt
from airflow_vace.submission.decision import Attempt
from airflow_vace.submission.record import Phase
from airflow_vace.task.claim import OperatorClaim
from airflow_vace.task.kill import wait_for_cancel
from airflow_vace.task.operator_run import OperatorRun
from airflow_vace.task.saving import destination_of
from airflow_vace.task.submitting import orders_of, restore_input, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context

    from airflow_vace.batch.operator import VaceBatchOperator
    from airflow_vace.hooks import VaceHook
    from airflow_vace.submission.record import Record

# Creates and saves at a time: a vendor takes ten creates a second, each with a latency of half a second.
_THREADS = 8
# A server that refuses as many items one after another refuses the others too.
_MAX_REFUSALS = 8
# The same for refusals of the key, or for lack of credit.
_MAX_ACCOUNT_REFUSALS = 3
_MAX_ERROR_LENGTH = 500
_CANCELED = (PredictionStatus.CANCELED, PredictionStatus.ABORTED)
# A batch of a few items needs no trigger that wakes a worker for each of them.
_WAKE_SHARE = 4


@dataclass(frozen=True, slots=True)
class _Running:
    """The outcome of a submission, or of a poll: the prediction runs until the deadline at most."""

    prediction: Prediction
    deadline: float | None


@dataclass(frozen=True, slots=True)
class _Ended:
    """The payload of a success with saved files."""

    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Failed:
    """The error of an item; `was_submitted` is False if no prediction exists."""

    error: Exception
    was_submitted: bool


@dataclass(frozen=True, slots=True)
class _WaitOver:
    """The end of a wait; the prediction is None if only a poll can say its state."""

    prediction: Prediction | None


_Event = _Running | _Ended | _Failed | _WaitOver


class Work:
    """The items of a batch in one process, from the last known state to the end or to a deferral.

    The main thread decides; the threads of a pool submit and save; a further thread waits. `open` holds the
    predictions that run, with their deadlines, by the keys of their items.

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
        self.context = context
        self.ti: Any = context.get("ti")
        self.items = items
        self.chunks = chunks
        self.open: dict[str, _Running] = {}
        self._is_resumed = is_resumed
        self._changed = changed
        self._by_key = {item.key: item for item in items}
        self._attempt = Attempt(
            try_number=getattr(self.ti, "try_number", None), max_tries=getattr(self.ti, "max_tries", None)
        )
        self._events: SimpleQueue[tuple[str, _Event]] = SimpleQueue()
        self._local = threading.local()
        # Jobs of the pool by the item's key, with the run of a submission.
        self._jobs: dict[str, OperatorRun | None] = {}
        self._waiting: list[Item] = []
        self._refusals = 0
        self._refusal: Exception | None = None
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="vace-batch")
        self._watcher = Watcher(task.hook.fresh(), task.poll_interval, self._wait_over, task.log)

    # --- for the operator --------------------------------------------------------------------------

    def restore(self) -> None:
        """Set the state of each item by its entry."""
        for item in self.items:
            if not item.is_left_out:
                self._restore(item, self.chunks.entry(item.key))

    def look_at(self, keys: Sequence[str]) -> None:
        """Poll the items whose waits in the triggerer have ended."""
        for key in keys:
            if key in self.open:
                self._finish(self._by_key[key], None, was_deferred=True)

    def run(self, *, may_leave: bool) -> bool:
        """Submit, wait and save; return True if all items have ended, False to wait elsewhere.

        :param may_leave: return as soon as there is nothing left but to wait
        :raises LedgerError: if the records are out of reach, or another attempt has taken over
        """
        self._waiting = [item for item in self.items if item.state is State.WAITING]
        # Predictions of an earlier attempt are paid for, so these come before new ones.
        self._waiting.sort(key=lambda item: self.chunks.entry(item.key).record is None)
        self._waiting.reverse()
        if self._waiting:
            self._look_up_version()
        try:
            for key, running in self.open.items():
                if key not in self._jobs:
                    self._watcher.watch(key, running.prediction, running.deadline)
            while True:
                self._fill()
                if not self._jobs:
                    if not self.open and not self._can_fill():
                        return True
                    if may_leave and not self._can_fill():
                        return False
                self._take(*self._next_event())
        finally:
            self._close()

    @property
    def wake_after(self) -> int | None:
        """Number of ends after which a worker has enough to submit; None if nothing is left to submit."""
        if not self._waiting or self._refusal is not None:
            return None
        return min(max(math.ceil(self.task.max_in_flight / _WAKE_SHARE), 1), len(self.open))

    def order_digest(self, key: str) -> str | None:
        """Return the digest of an item's order for the manifest beside the video, None if unknown."""
        record = self.chunks.entry(key).record
        return None if record is None else record.order_digest

    def stop(self) -> list[Prediction]:
        """Submit nothing from now on, and return all predictions that may run, for a signal handler."""
        self.chunks.takes_intents = False
        runs = [run for run in list(self._jobs.values()) if run is not None]
        found = {running.prediction.id: running.prediction for running in list(self.open.values())}
        for run in runs:
            prediction = run.claim.stop_submitting() or run.prediction
            if prediction is not None and not prediction.status.is_final and run.claim.may_cancel():
                found[prediction.id] = prediction
        return list(found.values())

    # --- the state of items ------------------------------------------------------------------------

    def _restore(self, item: Item, entry: Entry) -> None:
        record = entry.record
        is_of_attempt = entry.attempt == self.chunks.attempt and self._is_resumed
        if entry.reused is not None and is_of_attempt:
            item.state, item.payload = State.REUSED, entry.reused
        elif record is None or record.phase is Phase.INTENT:
            if is_of_attempt and entry.error is not None:
                item.state = State.FAILED if record is None else State.UNKNOWN
                item.error, item.may_retry = entry.error, entry.may_retry
        elif is_of_attempt and record.phase is Phase.SUBMITTED and entry.error is None:
            item.state, item.payload = State.RUNNING, record.known.payload()
            self.open[item.key] = _Running(record.known, record.deadline)
        elif record.phase is Phase.SETTLED or is_of_attempt:
            self._restore_ended(item, entry, record, is_of_attempt=is_of_attempt)

    def _restore_ended(self, item: Item, entry: Entry, record: Record, *, is_of_attempt: bool) -> None:
        known = record.known
        if known.status is PredictionStatus.SUCCEEDED and entry.error is None:
            if is_of_attempt:
                item.state, item.payload = State.SUCCEEDED, known.payload()
            return
        # A retry repeats only what another run may improve; a person's clear repeats all failures.
        may_help = entry.may_retry and (known.worth_another_run or entry.error is not None)
        if is_of_attempt or not (may_help or self._attempt.is_cleared_since(record)):
            item.state = State.CANCELED if known.status in _CANCELED else State.FAILED
            item.payload, item.may_retry = known.payload(), may_help
            item.error = entry.error or known.error or f"Prediction {known.id} is {known.status}"

    # --- jobs --------------------------------------------------------------------------------------

    def _can_fill(self) -> bool:
        has_room = len(self.open) + len(self._jobs) < self.task.max_in_flight
        return bool(self._waiting) and has_room and self._refusal is None

    def _fill(self) -> None:
        """Begin as many submissions as there is room for."""
        while self._can_fill() and len(self._jobs) < _THREADS:
            item = self._waiting.pop()
            self._start(item, partial(self._submitted, item))

    def _finish(self, item: Item, prediction: Prediction | None, *, was_deferred: bool = False) -> None:
        running = self.open[item.key]
        latest = _Running(prediction or running.prediction, running.deadline)
        self._start(item, partial(self._finished, item, latest, was_deferred=was_deferred))

    def _start(self, item: Item, job: Callable[[], _Event]) -> None:
        self._jobs[item.key] = None
        self._pool.submit(self._do, item, job)

    def _do(self, item: Item, job: Callable[[], _Event]) -> None:
        """Carry out a job in a thread, and report its outcome."""
        try:
            outcome = job()
        except Exception as error:  # noqa: BLE001 - one item's error, of any type, must not end the others
            outcome = self._recorded(item, error)
        if (run := self._jobs.get(item.key)) is not None:
            wait_for_cancel(run)
        self._events.put((item.key, outcome))

    def _submitted(self, item: Item) -> _Event:
        run = self._jobs[item.key] = self._run_of(item)
        if (kept := self._kept(run)) is not None:
            self._claim(item)
            return _Ended(kept)
        submitted = _Running(*submit(run))
        self._claim(item)
        return self._ended(item, run, submitted) if submitted.prediction.status.is_final else submitted

    def _finished(self, item: Item, latest: _Running, *, was_deferred: bool) -> _Event:
        run = self._jobs[item.key] = self._run_of(item)
        run.deadline.was_deferred = was_deferred
        run.prediction = latest.prediction
        restore_input(run)
        return self._ended(item, run, latest)

    def _ended(self, item: Item, run: OperatorRun, latest: _Running) -> _Event:
        """Save the output of a prediction that has ended; a running one stays open."""
        deadline = latest.deadline
        payload = finish(run, latest.prediction, deadline)
        if payload is not None and payload.get("reused"):
            # The ledger has no record of another run's prediction, and a later process asks for none.
            self.chunks.put(item.key, Entry(reused=payload))
        if payload is not None:
            return _Ended(payload)
        if deadline is not None and run.now() >= deadline:
            # An unconfirmed deadline would end the next wait at once.
            deadline = run.deadline.postponed(deadline)
        return _Running(run.prediction or latest.prediction, deadline)

    def _kept(self, run: OperatorRun) -> dict[str, Any] | None:
        """Return the payload of an earlier attempt whose files are in place, without a request."""
        record = run.claim.ledger.latest
        if record is None or record.phase is not Phase.SETTLED or not record.known.files:
            return None
        if record.known.status is not PredictionStatus.SUCCEEDED or not self.task.reuse:
            return None
        destination = destination_of(run)
        if destination is None or not destination.holds(record.known, run.hook.timing):
            return None
        is_same = orders_of(run).since(record).fingerprint == record.fingerprint
        if not is_same and self._attempt.is_cleared_since(record):
            return None
        return run.marked(record.known).payload()

    def _claim(self, item: Item) -> None:
        """Mark an entry of an earlier attempt as seen by this one, so later processes ask nothing again."""
        entry = self.chunks.entry(item.key)
        if entry.record is not None and entry.attempt != self.chunks.attempt:
            with suppress(LedgerError):  # the next process asks again
                self.chunks.put(item.key, replace(entry, error=None, may_retry=True))

    def _recorded(self, item: Item, error: Exception) -> _Failed:
        """Record the error of an item for later processes."""
        entry = self.chunks.entry(item.key)
        record = entry.record
        is_submitted = record is not None and record.phase is not Phase.INTENT
        # The reason for these lies in the account or in the records, so a later process tries the item again.
        if not isinstance(_cause(error), LedgerError | VaceAuthError | VaceBillingError):
            text, may_retry = _text_of(error), not isinstance(error, AirflowFailException)
            try:
                self.chunks.put(item.key, Entry(record=record, error=text, may_retry=may_retry))
            except LedgerError as trouble:
                self.task.log.warning("%s", trouble)
        return _Failed(error, is_submitted)

    def _run_of(self, item: Item) -> OperatorRun:
        task = self.task
        log = QuietLog(task.log, f"{item.key}: ")
        view = ItemTask(
            hook_of_thread=self._hook_of_thread,
            log=log,
            input=item.row.input if item.row is not None else {},
            model=task.model,
            version=task.version,
            vace_conn_id=task.vace_conn_id,
            save_to=task.file_of(item.key),
            timeout=task.timeout,
            poll_interval=task.poll_interval,
            cancel_on_kill=task.cancel_on_kill,
            cancel_on_timeout=task.cancel_on_timeout,
            durable=task.durable,
            reuse=task.reuse,
            on_orphaned_intent=task.on_orphaned_intent,
            video_label=item.key,
        )
        claim = OperatorClaim(ItemLedger(self.chunks, item.key), self.ti, log)
        return OperatorRun(view, self.context, claim)

    def _look_up_version(self) -> None:
        """Look up the model's version once for all items, and log the version."""
        model, version = split_reference(self.task.model or None, self.task.version or None)
        settings = self.task.hook.settings
        if not version and not settings.version:
            # Each item asks again after a failure, and reports the reason.
            with suppress(VaceError):
                self.task.hook.latest_version(model or settings.model or DEFAULT_MODEL)

    def _hook_of_thread(self) -> VaceHook:
        hook: VaceHook | None = getattr(self._local, "hook", None)
        if hook is None:
            hook = self._local.hook = self.task.hook.fresh(log=QuietLog(self.task.log))
        return hook

    # --- events ------------------------------------------------------------------------------------

    def _wait_over(self, key: str, prediction: Prediction | None) -> None:
        self._events.put((key, _WaitOver(prediction)))

    def _next_event(self) -> tuple[str, _Event]:
        while True:
            try:
                # Python handles signals between two waits only.
                return self._events.get(timeout=1.0)
            except Empty:
                continue

    def _take(self, key: str, event: _Event) -> None:
        """Change the state of an item by an event."""
        item = self._by_key[key]
        match event:
            case _WaitOver(prediction):
                if key in self.open and key not in self._jobs:
                    self._finish(item, prediction)
                return
            case _Running(prediction, deadline):
                self._jobs.pop(key, None)
                self.open[key] = event
                item.state, item.payload = State.RUNNING, prediction.payload()
                self._refusals = 0
                self._watcher.watch(key, prediction, deadline)
            case _Ended(payload):
                self._close_item(key)
                item.state = State.REUSED if payload.get("reused") else State.SUCCEEDED
                item.payload, item.error = payload, None
                self._refusals = 0
            case _Failed(error, was_submitted):
                self._close_item(key)
                self._fail(item, error, was_submitted=was_submitted)
            case _:
                assert_never(event)
        self._changed()

    def _close_item(self, key: str) -> None:
        self._jobs.pop(key, None)
        self.open.pop(key, None)

    def _fail(self, item: Item, error: Exception, *, was_submitted: bool) -> None:
        cause = _cause(error)
        if isinstance(cause, LedgerError):
            raise error
        record = self.chunks.entry(item.key).record
        item.error, item.may_retry = _text_of(error), not isinstance(error, AirflowFailException)
        item.payload = record.known.payload() if was_submitted and record is not None else None
        if isinstance(cause, SubmissionUnknown):
            item.state = State.UNKNOWN
        else:
            item.state = State.CANCELED if isinstance(cause, PredictionCanceled) else State.FAILED
        self.task.log.warning("%s: %s", item.key, item.error)
        if was_submitted:
            self._refusals = 0
            return
        self._refusals += 1
        is_of_account = isinstance(cause, VaceAuthError | VaceBillingError)
        if is_of_account and self._refusals < _MAX_ACCOUNT_REFUSALS and self._refusal is None:
            # A single refusal may be a moment's trouble, and a refused create costs nothing.
            item.state, item.error = State.WAITING, None
            self._waiting.insert(0, item)
        elif is_of_account or self._refusals >= _MAX_REFUSALS:
            self._stop_submitting(error)

    def _stop_submitting(self, error: Exception) -> None:
        if self._refusal is None:
            self._refusal = error
            self.task.log.warning("No more items are submitted: %s", excerpt(str(error), _MAX_ERROR_LENGTH))
        for item in self._waiting:
            item.state = State.SKIPPED
            item.error = f"Not submitted: {excerpt(str(error), _MAX_ERROR_LENGTH)}"
            item.may_retry = not isinstance(error, AirflowFailException)
        self._waiting = []

    def _close(self) -> None:
        """Stop submitting, and wait until the creates under way are recorded."""
        self.stop()
        self._watcher.close()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _cause(error: Exception) -> BaseException:
    return error.__cause__ if isinstance(error, AirflowFailException) and error.__cause__ else error


def _text_of(error: Exception) -> str:
    return excerpt(str(error), _MAX_ERROR_LENGTH) or type(error).__name__
