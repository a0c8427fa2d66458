"""VacePredictionOperator: submits a prediction, which costs money, and waits for it if asked to."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, conf

from airflow_vace.core.outcome import read_end
from airflow_vace.core.retry import verdict_of
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import (
    LedgerError,
    PredictionExpired,
    PredictionFailed,
    PredictionTimeout,
    VaceError,
    VaceInputError,
)
from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.submission.decision import Attempt, OnOrphanedIntent, Policy
from airflow_vace.submission.ledger import AttemptLedger, Ledger
from airflow_vace.submission.order import Order, digest_of_arguments
from airflow_vace.submission.record import Phase
from airflow_vace.submission.submitter import Submission
from airflow_vace.task.arguments import handed_over
from airflow_vace.task.state import is_test_of_a_task
from airflow_vace.task.waiting import (
    MOST_DEFERRALS,
    WaitsForPrediction,
    can_be_looked_at_again,
    checked_end,
    checked_save_in,
    checked_seconds,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import ClassVar

    from airflow.sdk import Context, ObjectStoragePath

    from airflow_vace.storage.destination import Destination
    from airflow_vace.submission.record import Record
    from airflow_vace.task.waiting import SaveIn

# How long after a task's own deadline a back-end may still fetch its input: it is canceled by then.
SIGNED_GRACE_SECONDS = 900.0
# Two readings of one clock may differ by the time between them.
_CLOCK_SLACK_SECONDS = 1.0


class VacePredictionOperator(WaitsForPrediction):
    """Submit a prediction of prunaai/vace-14b, or of another model, and return its payload.

    From Airflow 3.3 on a retry, or a cleared task, goes on with what an earlier attempt submitted and
    pays nothing again; a new one is submitted, and the log says why, where the old one brought no video.

    :param input: inputs of the model, such as `{"prompt": "...", "size": "1280*720"}` (templated)
    :param model: `owner/name` (templated; default: the connection's, else prunaai/vace-14b)
    :param version: id of a version (templated; default: the connection's, else the server's choice)
    :param vace_conn_id: connection of type `vace` (templated)
    :param wait_for_completion: wait until the prediction is final, and return its final payload
    :param deferrable: wait in the triggerer (default: `[operators] default_deferrable`)
    :param poll_interval: how late, in seconds, the end may be noticed (default: 10 s, or 5 % of
        the time waited)
    :param timeout: seconds from submission to a final status; a retry does not begin them anew
    :param cancel_on_kill: cancel the prediction when the task is killed
    :param cancel_on_timeout: cancel the prediction at its deadline
    :param save_to: where the video goes: a directory, with a slash at the end, or a file's name; local, or
        `s3://bucket/...` as Airflow's object stores have it (templated; needs `wait_for_completion`)
    :param save_in: `worker`, or `triggerer` to save at once although all workers may be busy
    :param end_from_trigger: end with a success in the triggerer, without a worker (Airflow 3.3+; default:
        whenever nothing is lost by it)
    :param durable: keep what was submitted across attempts (Airflow 3.3+)
    :param reuse: return a prediction that has succeeded to a task that is cleared; False submits a new one
    :param on_orphaned_intent: `fail` or `resubmit` where a create was cut off and the back-end has no
        list to look it up in: it may have been accepted, and be billed
    :param label: whom the video is for; the payload, the manifest and the asset's event hold it (templated;
        default: the rendered `map_index_template`)
    """

    template_fields: Sequence[str] = ("input", "model", "version", "vace_conn_id", "save_to", "video_label")
    template_fields_renderers: ClassVar[dict[str, str]] = {"input": "json"}
    ui_color = "#e9e3f7"
    owns_prediction = True
    # What other tasks hand over in these belongs to the order.
    argument_fields: ClassVar[tuple[str, ...]] = ("input",)

    def __init__(  # noqa: PLR0913 - a DAG author's parameters
        self,
        *,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        model: str | None = None,
        version: str | None = None,
        vace_conn_id: str = "vace_default",
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | None = None,
        timeout: float = 3600,
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        save_to: str | ObjectStoragePath | None = None,
        save_in: SaveIn = "worker",
        end_from_trigger: bool | None = None,
        durable: bool = True,
        reuse: bool = True,
        on_orphaned_intent: OnOrphanedIntent = "fail",
        label: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input = input
        self.model = model
        self.version = version
        self.vace_conn_id = vace_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.save_to = save_to
        self.save_in = save_in
        self.end_from_trigger = end_from_trigger
        self.durable = durable
        self.reuse = reuse
        self.on_orphaned_intent = on_orphaned_intent
        self.video_label = label
        self._submission: Submission | None = None
        self._arguments: str | None = None
        self._began = time.monotonic()
        self._was_deferred = False
        self._known_input: Mapping[str, Any] = {}
        checked_save_in(save_in, save_to, defers=wait_for_completion and deferrable)
        checked_end(end_from_trigger, save_to, save_in)
        checked_seconds("timeout", timeout)
        if poll_interval is not None:
            checked_seconds("poll_interval", poll_interval)
        if on_orphaned_intent not in get_args(OnOrphanedIntent):
            raise ValueError(f"on_orphaned_intent is {on_orphaned_intent!r}; it must be 'fail' or 'resubmit'")
        if save_to is not None and not wait_for_completion:
            raise VaceInputError(
                "save_to needs wait_for_completion=True: without it there is no video yet when this task"
                " ends. Give save_to to the VacePredictionSensor instead.",
                field="save_to",
                value=save_to,
                remedy="wait_for_completion=True, or save_to on the sensor",
            )

    def execute(self, context: Context) -> dict[str, Any]:
        ledger = self._begin(context)
        if not ledger.is_durable:
            self._warn_of_what_is_not_kept()
        with self.until_canceled():
            prediction, deadline = self._owned(ledger)
            with self._ended(prediction):
                self.show(prediction)
                if prediction.status.is_final and prediction.status is not PredictionStatus.SUCCEEDED:
                    read_end(prediction)
            if not self.wait_for_completion:
                return self.marked(prediction).payload()
            return self._wait_on(self._wait_for(prediction, deadline), may_defer=self.deferrable)

    def execute_complete(
        self,
        context: Context,
        event: object = None,
        deadline: float | None = None,
        gave_up: int = 0,
    ) -> dict[str, Any]:
        """Go on after the triggerer: with the end, or by looking for ourselves."""
        self._begin(context)
        self._was_deferred = True
        with translated():
            prediction = self._prediction = Prediction.from_json(event)
        self._known_label = prediction.label
        if not prediction.status.is_final:
            self._note_deferred(prediction, is_deferred=False)
        self._is_landed = bool(prediction.files)
        deadline = self.hook.wall_clock() if deadline is None else deadline
        wait = self._wait_for(prediction, deadline)
        return self._wait_on(wait, may_defer=gave_up < MOST_DEFERRALS, gave_up=gave_up + 1)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Wait for ourselves where the triggerer failed: no attempt is lost by it."""
        with self.until_canceled():
            if next_method != "__fail__":
                return super().resume_execution(next_method, next_kwargs, context)
            return self._go_on_after(next_kwargs or {}, context)

    def _go_on_after(self, failure: dict[str, Any], context: Context) -> dict[str, Any]:
        self.log.warning(
            "The wait in the triggerer ended without an answer (%s); looking for myself\n%s",
            failure.get("error"),
            "".join(failure.get("traceback") or ()),
        )
        ledger = self._begin(context)
        self._was_deferred = failure.get("error") == "Trigger timeout"
        with translated(can_be_looked_at_again):
            record = ledger.read()
            if ledger.is_durable and (record is None or record.phase is Phase.INTENT):
                raise LedgerError(
                    "The wait ended, and there is no record of its prediction, which may run on. Either it"
                    " could not be written, then a retry looks for it; or a person deleted it, then a retry"
                    " submits anew."
                )
            prediction = self._prediction = Prediction.from_json(record.prediction if record else None)
        self._note_deferred(prediction, is_deferred=False)
        deadline = record.deadline if record else None
        return self._wait_on(self._wait_for(prediction, deadline), may_defer=False)

    def on_kill(self) -> None:
        submission = self._submission
        if self._prediction is None and submission is not None:
            # It submits, or asks what an earlier attempt has left.
            submission.is_killed = True
            self._prediction = submission.prediction
            if self._prediction is None and submission.is_submitting:
                self.log.warning(
                    "Killed before there was a prediction: one may have been accepted at this moment, and is"
                    " then billed, unless its answer still comes in time to cancel it"
                )
        super().on_kill()

    # --- submitting --------------------------------------------------------------------------------

    def _begin(self, context: Context) -> Ledger:
        """Take up, in each of the task's processes, what it has submitted before."""
        self.enter(context)
        self._began = time.monotonic()
        store: Any = context.get("task_state_store")
        if is_test_of_a_task():
            self._ledger: Ledger = AttemptLedger(None)
        elif self.durable and store is not None:
            self._ledger = Ledger(store)
        else:
            is_deferred = self.wait_for_completion and self.deferrable
            self._ledger = AttemptLedger(self._ti if is_deferred else None)
        return self._ledger

    def _warn_of_what_is_not_kept(self) -> None:
        if is_test_of_a_task():
            self.log.warning(
                "`airflow tasks test` leaves the record and the prediction of this run alone: it submits a"
                " prediction of its own, which is billed, and which no other run of the task knows of"
            )
            return
        why = "Airflow below 3.3 keeps no state across attempts" if self.durable else "durable=False"
        self.log.warning("%s: a retry of this task, or a clear, may pay again", why)

    def marked(self, prediction: Prediction) -> Prediction:
        found = super().marked(prediction)
        if found.seed is None and self._submission is not None:
            with suppress(LedgerError):
                record = self._ledger.latest
                return replace(found, seed=record.seed if record is not None else None)
        return found

    def destination(self) -> Destination | None:
        """Return where to save to; in a test of a task never over a file of the run's own."""
        found = super().destination()
        if found is None or found.is_directory or not is_test_of_a_task():
            return found
        return replace(found, names=(*found.names, "-test"))

    def _owned(self, ledger: Ledger) -> tuple[Prediction, float]:
        """Return this task's prediction and its deadline; Airflow may only retry what can't pay twice."""
        from airflow_vace.storage.destination import Destination

        with translated(_can_submit_later):
            Destination.of(self.save_to)
            submission = self._submission = self._new_submission(ledger)
            try:
                self._prediction, deadline = submission.prediction_of(self._order_since)
            except AirflowTaskTimeout:
                if submission.prediction is None:
                    raise
                self._prediction = submission.prediction
                with self._ended(submission.prediction):
                    raise
        self._known_input = {}  # while it was searched at save_to, an earlier prediction's input was
        if submission.is_killed:
            self.on_kill()
        return self._prediction, deadline

    def _order_since(self, record: Record | None) -> Order:
        """Return what is asked for now; what the task leaves to the connection is as the record has it.

        :raises VaceInputError: for what cannot work
        """
        model = self.model or (record.model if record is not None else None)
        values, model, version = self.hook.resolved(self.input, model=model, version=self.version or None)
        if record is not None and not self.version:
            version = record.version
        return Order(
            values=values,
            model=model,
            version=version,
            conn_id=self.vace_conn_id,
            arguments=self._arguments,
        )

    def _new_submission(self, ledger: Ledger) -> Submission:
        policy = Policy(
            timeout=self.timeout,
            cancel_on_timeout=self.cancel_on_timeout,
            reuse=self.reuse,
            on_orphaned_intent=self.on_orphaned_intent,
            only_submits=not self.wait_for_completion,
        )
        attempt = Attempt(
            try_number=getattr(self._ti, "try_number", None), max_tries=getattr(self._ti, "max_tries", None)
        )
        return Submission(
            self.hook,
            ledger,
            policy,
            log=self.log,
            reachable=self._prepared,
            saved=self.files_saved,
            attempt=attempt,
        )

    def _prepared(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Look, before money is spent, at all that can be known of where files come from and go to."""
        from airflow_vace.storage.upload import InputFiles

        self.check_destination()
        return InputFiles(self.hook, seconds=self.timeout + SIGNED_GRACE_SECONDS).reachable(values)

    @property
    def known_input(self) -> Mapping[str, Any]:
        if not self._known_input:
            with suppress(Exception):  # a nicety of the manifest: no video is lost for want of it
                record = self._ledger.latest
                order = self._order_since(record)
                if record is not None and record.fingerprint != order.fingerprint:
                    return {}  # the prediction was made from another input
                seed = record.seed if record is not None else None
                self._known_input = order.values if seed is None else order.with_seed(seed).values
        return self._known_input

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Note what was handed to the task, which is known only while its templates are rendered."""
        given = {name: getattr(self, name) for name in self.argument_fields}
        element = self._given or {}
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        parts = [self._argument(name, value, seen_oids) for name, value in given.items()]
        # Of a mapped task whatever its element brings: a template may use its params, or its label.
        others = {name: value for name, value in element.items() if name not in self.argument_fields}
        parts.append(handed_over(others, others, seen_oids))
        if parent is self and any(part is not None for part in parts):
            self._arguments = digest_of_arguments(parts)

    def _argument(self, name: str, given: Any, resolved: set[int]) -> Any:
        return handed_over(given, getattr(self, name), resolved)

    def may_cancel(self) -> bool:
        if self._submission is not None:
            return self._submission.is_own
        try:
            record = self._ledger.latest
        except LedgerError:
            return False
        return record is None or record.is_own

    def _note_deferred(self, prediction: Prediction, *, is_deferred: bool) -> None:
        """Record that this attempt waits in the triggerer, or waits there no more.

        An attempt that Airflow never retries needs no such note: whatever comes after it is a person's.
        """
        try:
            record = self._ledger.latest
            if record is None or record.phase is not Phase.SUBMITTED or not self._ledger.is_durable:
                return
            if record.known.id != prediction.id or not record.max_tries or record.deferred == is_deferred:
                return
            self._ledger.write(replace(record, deferred=is_deferred))
        except LedgerError as error:
            self.log.warning("%s", error)

    def _is_kept(self) -> bool:
        is_recorded = self._submission is None or self._submission.is_recorded
        return self._ledger.is_durable and is_recorded and super()._is_kept()

    # --- waiting -----------------------------------------------------------------------------------

    def _wait_for(self, prediction: Prediction, deadline: float | None) -> Wait:
        return Wait(
            prediction=prediction,
            deadline=deadline,
            poll_interval=self.poll_interval,
            timing=self.hook.timing,
        )

    def _wait_on(self, wait: Wait, *, may_defer: bool, gave_up: int = 0) -> dict[str, Any]:
        with self._ended(wait.prediction):
            prediction = self._final(wait, may_defer=may_defer, gave_up=gave_up)
            result = self.result_of(prediction)
            self._settle()
            return result

    @contextmanager
    def _ended(self, prediction: Prediction) -> Iterator[None]:
        """Let Airflow retry only where that pays nothing again, or where another run is worth its money."""
        try:
            yield
        except AirflowTaskTimeout as error:
            self.on_kill()
            self._settle()
            latest = self._prediction or prediction
            if self._ledger.is_durable and latest.status is PredictionStatus.SUCCEEDED:
                raise  # while it was saved: a retry saves it
            raise AirflowFailException(
                f"execution_timeout ended the wait for prediction {latest.id}, which is {latest.status}."
                f" {latest.bill} Use the operator's own timeout, which waits for the answer."
            ) from error
        except VaceError as error:
            if isinstance(error, PredictionExpired):
                # Its server may go on telling an output whose file is gone.
                self._prediction = replace(error.prediction, data_removed=True)
            self._settle()
            if isinstance(error, PredictionFailed) and error.worth_another_run:
                raise
            if self._ledger.is_durable and can_be_looked_at_again(error):
                raise
            raise AirflowFailException(str(error)) from error
        except Exception as error:
            if self._ledger.is_durable:
                self.log.warning("A retry goes on with prediction %s, or looks for it", prediction.id)
                raise
            raise AirflowFailException(
                f"{type(error).__name__} after prediction {prediction.id} was submitted: {error}. It may be"
                " billed, and a new attempt would pay again: fetch it with a VacePredictionSensor on this id."
            ) from error

    def _settle(self) -> None:
        """Record how the prediction has ended, for an attempt that may come after this one."""
        prediction = self._prediction
        if prediction is None or not prediction.status.is_final or not self._ledger.is_durable:
            return
        try:
            record = self._ledger.read()
            if record is None:
                return
            if record.phase is Phase.INTENT and prediction.id not in record.earlier:
                record = record.submitted(prediction)
            if record.phase is Phase.INTENT:  # of an attempt that has taken over
                return
            if record.known.id == prediction.id:
                self._ledger.write(record.settled(prediction))
        except LedgerError as error:
            self.log.warning("The end of prediction %s was not recorded: %s", prediction.id, error)

    def _final(self, wait: Wait, *, may_defer: bool, gave_up: int) -> Prediction:
        """Wait for the end; cancel at the deadline, once another clock confirms it."""
        while True:
            try:
                return self._end_of(wait, may_defer=may_defer, gave_up=gave_up)
            except PredictionTimeout as error:
                if self._is_overdue(wait.deadline):
                    return self._end_at_deadline(error, wait.deadline)
                if not self.hook.clock.is_known:
                    wait.deadline = self.hook.wall_clock() + self.timeout
                self.log.warning(
                    "By this machine's clock alone the deadline of prediction %s is over: it is not canceled,"
                    " and the task waits on",
                    wait.prediction.id,
                )

    def _is_still_ours(self, prediction: Prediction, deadline: float | None) -> bool:
        """Return True unless another attempt has taken over, or a person has deleted the record.

        :raises LedgerError: if that could not be read; a retry cancels
        """
        if not self._ledger.is_durable or (self._submission and not self._submission.is_recorded):
            return True
        record = self._ledger.read()
        if record is None or record.phase is Phase.INTENT or record.known.id != prediction.id:
            return False
        return deadline is None or record.deadline <= deadline + _CLOCK_SLACK_SECONDS

    def _is_overdue(self, deadline: float | None) -> bool:
        """Return True if a second clock confirms it: the server's, a triggerer's, or a monotonic one."""
        clock = self.hook.clock
        if self._submission is None:  # another process has submitted
            with suppress(LedgerError):
                record = self._ledger.latest
                clock.agreed = None if record is None else record.offset or 0.0
        if clock.is_known and deadline is not None:
            return clock.confirmed(self.hook.wall_clock()) >= deadline - _CLOCK_SLACK_SECONDS
        if deadline is None or self._was_deferred:
            return True
        return time.monotonic() - self._began >= self.timeout - _CLOCK_SLACK_SECONDS

    def _end_of(self, wait: Wait, *, may_defer: bool, gave_up: int) -> Prediction:
        if wait.prediction.status.is_final:
            return wait.prediction
        if not may_defer:
            left = None if wait.deadline is None else wait.deadline - self.now()
            return self.hook.wait_for_prediction(wait.prediction, left, poll_interval=self.poll_interval)
        seen = self.look(wait)
        if isinstance(seen, PollAgain):
            self._note_deferred(wait.prediction, is_deferred=True)
            self.defer_until_final(wait, gave_up)
        return seen

    def _end_at_deadline(self, error: PredictionTimeout, deadline: float | None) -> Prediction:
        """Cancel; a prediction that succeeded in its last moment is a success all the same."""
        if not self.cancel_on_timeout:
            raise error
        if not self._is_still_ours(error.prediction, deadline):
            self.log.warning(
                "Prediction %s is not canceled: it is not this attempt's any more", error.prediction.id
            )
            raise error
        canceled = self.cancel(error.prediction) if self.may_cancel() else None
        prediction = canceled or error.prediction
        if not prediction.status.is_final:
            with suppress(VaceError):
                prediction = self._prediction = prediction.updated(self.hook.get_prediction(prediction))
        if prediction.status is PredictionStatus.SUCCEEDED:
            return prediction
        told = "was told to stop" if canceled else "could not be told to stop"
        if not self.may_cancel():
            told = "is left running, since it may be another task's"
        raise PredictionTimeout(
            f"Prediction {prediction.id} was not final {self.timeout:g} s after its submission and {told};"
            f" it is {prediction.status}. {prediction.bill} Raise the timeout if it needs longer.",
            prediction=prediction,
        ) from error


def _can_submit_later(error: Exception) -> bool:
    """Return True if a new attempt may have its prediction, and can't pay for one twice."""
    return verdict_of(error, "create").later
