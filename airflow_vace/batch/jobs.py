"""The threads of a batch: each submits or saves one item at a time, and reports the outcome."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.batch.chunks import Entry
from airflow_vace.batch.item_task import ItemTask, QuietLog, Unfinished, finish
from airflow_vace.batch.items import Running
from airflow_vace.batch.ledger import ItemLedger
from airflow_vace.exceptions import (
    BudgetExceeded,
    LedgerError,
    VaceAuthError,
    VaceBillingError,
    VideoRejected,
)
from airflow_vace.prediction import PredictionStatus
from airflow_vace.redaction import excerpt
from airflow_vace.storage.checks import STRICT_MODES, packed, problems_of
from airflow_vace.submission.decision import Attempt
from airflow_vace.submission.record import Phase
from airflow_vace.task.claim import OperatorClaim
from airflow_vace.task.kill import wait_for_cancel
from airflow_vace.task.operator_run import OperatorRun
from airflow_vace.task.saving import destination_of
from airflow_vace.task.submitting import orders_of, restore_input, submit

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from airflow_vace.batch.chunks import Chunks
    from airflow_vace.batch.items import Item
    from airflow_vace.batch.operator import VaceBatchOperator
    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction

# Creates at a time, and saves at a time: a vendor takes ten creates a second, each with a latency of half a
# second.
THREADS = 8
MAX_ERROR_LENGTH = 500
# The reason for these lies in the account, the records or the cap, so a later process tries the item again.
_REASONS_ELSEWHERE = (LedgerError, VaceAuthError, VaceBillingError)


@dataclass(frozen=True, slots=True)
class Ended:
    """The payload of a success with saved files."""

    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RejectedVideo:
    """The record of the item has a video with problems, and another prediction takes its place."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The error of an item.

    `was_submitted` is False if no prediction exists, or none is known. `is_old` is True for the unknown
    create of an earlier attempt: this attempt has sent nothing.
    """

    error: Exception
    was_submitted: bool
    is_old: bool = False

    @property
    def cause(self) -> BaseException:
        """The error behind Airflow's."""
        is_final = isinstance(self.error, AirflowFailException)
        return self.error.__cause__ if is_final and self.error.__cause__ else self.error

    @property
    def cap(self) -> BudgetExceeded | None:
        """The refusal of a create by a cap, also of one in place of a rejected video."""
        cause = self.cause.__cause__ if isinstance(self.cause, VideoRejected) else self.cause
        return cause if isinstance(cause, BudgetExceeded) else None

    @property
    def text(self) -> str:
        """The message of the error, shortened."""
        return excerpt(str(self.error), MAX_ERROR_LENGTH) or type(self.error).__name__

    @property
    def may_retry(self) -> bool:
        """Return True if another attempt of the task may help."""
        return not isinstance(self.error, AirflowFailException)


Outcome = Running | Ended | RejectedVideo | Failed


class Jobs:
    """Submissions and saves under way.

    `submitting` holds the keys of the items that are being submitted.

    :param task: the operator, with rendered fields
    :param context: Airflow's context of the task instance
    :param chunks: the entries of the batch
    :param report: receives the key of an item and the outcome of its job, in the job's thread
    """

    def __init__(
        self,
        task: VaceBatchOperator,
        context: Context,
        chunks: Chunks,
        report: Callable[[str, Outcome], None],
    ) -> None:
        self.submitting: set[str] = set()
        self.attempt = Attempt.of(context.get("ti"))
        self._task = task
        self._context = context
        self._chunks = chunks
        self._report = report
        self._local = threading.local()
        # By the item's key, with the run from the start of the job.
        self._runs: dict[str, OperatorRun | None] = {}
        # Saves have threads of their own, because a thousand saves in a queue would hold up all creates.
        self._submitters = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="vace-batch-submit")
        self._savers = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="vace-batch-save")

    def __contains__(self, key: str) -> bool:
        return key in self._runs

    def __bool__(self) -> bool:
        return bool(self._runs)

    def submit(self, item: Item) -> None:
        """Begin to submit an item, or to go on with its prediction of an earlier attempt."""
        self.submitting.add(item.key)
        self._start(self._submitters, item, partial(self._submitted, item))

    def finish(self, item: Item, latest: Running, *, was_deferred: bool = False) -> None:
        """Begin to poll a prediction, and to save a success.

        :param was_deferred: the triggerer has confirmed the end of the wait
        """
        self._start(self._savers, item, partial(self._finished, item, latest, was_deferred=was_deferred))

    def run_of(self, item: Item) -> OperatorRun:
        """Return the run of an item in the present thread."""
        task = self._task
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
            checks=task.checks,
            check=task.check,
            max_regenerations=task.max_regenerations,
        )
        ledger = ItemLedger(self._chunks, item.key)
        return OperatorRun(view, self._context, OperatorClaim(ledger, self._context.get("ti"), log))

    def end(self, key: str) -> None:
        """Forget a job whose outcome was reported."""
        self._runs.pop(key, None)
        self.submitting.discard(key)

    def stop(self) -> list[Prediction]:
        """Send no create from now on; return the predictions of all jobs that may run and are the task's."""
        self._chunks.takes_intents = False
        found = []
        for run in [run for run in list(self._runs.values()) if run is not None]:
            prediction = run.claim.stop_submitting() or run.prediction
            if prediction is not None and not prediction.status.is_final and run.claim.may_cancel():
                found.append(prediction)
        return found

    def close(self) -> None:
        """Stop, and wait until the creates under way are recorded."""
        self.stop()
        for pool in (self._submitters, self._savers):
            pool.shutdown(wait=True, cancel_futures=True)

    # --- in the threads ----------------------------------------------------------------------------

    def _start(self, pool: ThreadPoolExecutor, item: Item, job: Callable[[], Outcome]) -> None:
        self._runs[item.key] = None
        # Spans of the job are children of the task's span, which the context of this thread has.
        pool.submit(contextvars.copy_context().run, self._do, item, job)

    def _do(self, item: Item, job: Callable[[], Outcome]) -> None:
        try:
            outcome = job()
        except Exception as error:  # noqa: BLE001 - one item's error, of any type, must not end the others
            outcome = self._recorded(item, error)
        if (run := self._runs.get(item.key)) is not None:
            wait_for_cancel(run)
        self._report(item.key, outcome)

    def _submitted(self, item: Item) -> Outcome:
        run = self._runs[item.key] = self.run_of(item)
        if (kept := self._kept(run)) is not None:
            self._claim(item)
            run.metrics.reattached()
            return Ended(kept)
        submitted = Running(*submit(run))
        self._claim(item)
        return self._ended(item, run, submitted) if submitted.prediction.status.is_final else submitted

    def _finished(self, item: Item, latest: Running, *, was_deferred: bool) -> Outcome:
        run = self._runs[item.key] = self.run_of(item)
        run.deadline.was_deferred = was_deferred
        run.prediction = latest.prediction
        restore_input(run)
        return self._ended(item, run, latest)

    def _ended(self, item: Item, run: OperatorRun, latest: Running) -> Outcome:
        """Save the output of a prediction that has ended; a running one stays open."""
        deadline = latest.deadline
        payload = finish(run, latest.prediction, deadline)
        if payload is Unfinished.REJECTED:
            return RejectedVideo()
        if payload is not Unfinished.RUNNING:
            if payload.get("reused"):
                # The ledger has no record of another run's prediction, and a later process asks for none. The
                # record of an earlier prediction of the item stays, since its cost counts.
                kept = {**payload, "files": packed(payload["files"])}
                record = self._chunks.entry(item.key).record
                self._chunks.put(item.key, Entry(record=record, reused=kept), is_urgent=False)
            return Ended(payload)
        if deadline is not None and run.now() >= deadline:
            # An unconfirmed deadline would end the next wait at once.
            deadline = run.deadline.postponed(deadline)
        return Running(run.prediction or latest.prediction, deadline)

    def _kept(self, run: OperatorRun) -> dict[str, Any] | None:
        """Return the payload of an earlier attempt whose files are in place, without a request."""
        record = run.claim.ledger.latest
        if record is None or record.phase is not Phase.SETTLED or not record.known.files:
            return None
        if record.known.status is not PredictionStatus.SUCCEEDED or not self._task.reuse:
            return None
        # A person's clear repeats a rejected item, which then meets its problems again, or is regenerated.
        if self._task.checks in STRICT_MODES and problems_of(record.known.files):
            return None
        destination = destination_of(run)
        if destination is None or not destination.holds(record.known, run.hook.timing):
            return None
        is_same = orders_of(run).since(record).fingerprint == record.fingerprint
        if not is_same and self.attempt.is_cleared_since(record):
            return None
        return run.marked(record.known).payload()

    def _claim(self, item: Item) -> None:
        """Mark an entry of an earlier attempt as seen by this one, so later processes ask nothing again."""
        entry = self._chunks.entry(item.key)
        if entry.record is not None and entry.attempt != self._chunks.attempt:
            self._chunks.put(item.key, replace(entry, error=None, may_retry=True), is_urgent=False)

    def _recorded(self, item: Item, error: Exception) -> Failed:
        """Record the error of an item for later processes."""
        entry = self._chunks.entry(item.key)
        record, is_of_attempt = entry.record, entry.attempt == self._chunks.attempt
        is_intent = record is not None and record.phase is Phase.INTENT
        failed = Failed(
            error,
            was_submitted=record is not None and not is_intent,
            is_old=is_intent and not is_of_attempt,
        )
        if failed.cap is None and not isinstance(failed.cause, _REASONS_ELSEWHERE):
            entry = Entry(record=record, error=failed.text, may_retry=failed.may_retry)
            self._chunks.put(item.key, entry, is_urgent=False)
        return failed

    def _hook_of_thread(self) -> VaceHook:
        hook: VaceHook | None = getattr(self._local, "hook", None)
        if hook is None:
            hook = self._local.hook = self._task.hook.fresh(log=QuietLog(self._task.log))
        return hook
