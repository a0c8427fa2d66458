"""VacePredictionOperator: submits a paid prediction, and waits on request; VaceBatchOperator."""

from __future__ import annotations

__all__ = ("VaceBatchOperator", "VacePredictionOperator")

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, conf

from airflow_vace.batch.operator import VaceBatchOperator
from airflow_vace.core.outcome import read_end
from airflow_vace.core.wait import Wait
from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.submission.order import digest_of_arguments
from airflow_vace.task.airflow_internals import TRIGGER_FAILED
from airflow_vace.task.arguments import handed_over
from airflow_vace.task.base import WaitingOperator
from airflow_vace.task.dry_run import dry_run_of
from airflow_vace.task.ending import closing, retrying_for_free
from airflow_vace.task.errors import translated
from airflow_vace.task.fields import (
    is_native,
    read_fields,
    renderable,
    seconds,
    with_text_prompt,
    without_missing,
)
from airflow_vace.task.operator_run import OperatorRun
from airflow_vace.task.operator_wait import wait_for_result
from airflow_vace.task.parameters import check_operator
from airflow_vace.task.submitting import recorded_prediction, restore_input, submit, warn_of_lost_state
from airflow_vace.task.view import push_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from decimal import Decimal
    from pathlib import Path
    from typing import ClassVar

    from airflow.sdk import Context, ObjectStoragePath
    from airflow.triggers.base import BaseTrigger

    from airflow_vace.storage.checks import CheckMode, Rule
    from airflow_vace.submission.decision import OnOrphanedIntent
    from airflow_vace.task.run import Reuse, SaveIn


class VacePredictionOperator(WaitingOperator):
    """Submit a prediction of prunaai/vace-14b or another model; return the payload.

    From Airflow 3.3 on a retry, or a cleared task, goes on with the prediction of the earlier attempt and
    pays nothing again. If that prediction brought no video, the task submits a new prediction and logs the
    reason.

    A template that renders to nothing (None, "None", "null" or an empty text) means "not given", for a member
    of `input` too. A missing prompt is an error, and nothing is paid.

    :param input: inputs of the model, such as `{"prompt": "...", "size": "1280*720"}` (templated); files may
        be paths or addresses of stores, in another model's input anywhere, see
        :func:`airflow_vace.other_inputs.names_file`
    :param model: `owner/name`, or `owner/name:version` (templated; default: the connection's, else
        prunaai/vace-14b)
    :param version: id of a version (templated; default: the connection's, else the model's latest)
    :param vace_conn_id: connection of type `vace` (templated)
    :param wait_for_completion: wait until the prediction is final, and return its final payload
    :param deferrable: wait in the triggerer (default: `[operators] default_deferrable`)
    :param poll_interval: greatest delay between the end and its notice, in seconds or as `timedelta`
        (default: 10 s, or 5 % of the time waited)
    :param timeout: time from submission to a final status, in seconds or as `timedelta` (default: 3600 s);
        retries share this time
    :param cancel_on_kill: cancel the prediction when the task is killed
    :param cancel_on_timeout: cancel the prediction at its deadline
    :param save_to: a directory, with a slash at the end, or a file's name for the video; local, or
        `s3://bucket/...` as in Airflow's object stores (templated; needs `wait_for_completion`). Outputs of
        other kinds are saved with their own suffix
    :param save_in: `worker`, or `triggerer` to save at once although all workers may be busy
    :param checks: `off`, `warn`, `fail` or `regenerate` for a saved video of another size or length than the
        input asks for, and for a black, frozen, one-coloured or damaged one: `warn` logs the problems, `fail`
        also fails the task, `regenerate` submits again with another seed, within `max_cost`. Each file stays
        (default: `warn` with the extra `video` installed, else `off`)
    :param check: a check of your own, `def check(facts, path) -> str | None`, which returns a problem; gets
        :class:`~airflow_vace.video.VideoFacts` and the path of the downloaded file, on a worker
    :param max_regenerations: number of further predictions with `checks="regenerate"`, over all attempts, 1
        to 10 (default: 1). The payload's `rejected` lists the clips with problems
    :param end_from_trigger: end with a success in the triggerer, without a worker (Airflow 3.3+; default:
        if the task loses nothing by this)
    :param durable: keep the record of the submission across attempts (Airflow 3.3+)
    :param reuse: return a success to a task that is cleared; False submits a new prediction. "saved" also
        returns the file at `save_to`, at no cost and in any run, if its manifest has the same input, model,
        version and seed; needs a file's name. The payload then has `reused`
    :param on_orphaned_intent: `fail` or `resubmit` after a create that was cut off at a back-end without a
        list of predictions: the create may have been accepted, and be billed
    :param max_cost: greatest sum of the costs of all predictions of this task, over all attempts, in the
        currency of the price (templated; default: no limit). A create that would pass the sum is not sent,
        and the task fails; needs a price, see :mod:`airflow_vace.core.pricing`
    :param label: the customer or product of the video, for payload, manifest and asset event (templated;
        default: the rendered `map_index_template`)
    :param partition_key: partition of the asset events of `outlets`, such as `{{ ds }}` (templated; Airflow
        3.3+; an alias takes none)
    :param dry_run: check input, files, `save_to`, key and cost, log what the task would submit, and skip the
        task; nothing is submitted (templated; the connection's extra `dry_run` asks for the same)
    :raises ValueError: for parameters that cannot work together
    """

    template_fields: Sequence[str] = (
        "input",
        "model",
        "version",
        "vace_conn_id",
        "save_to",
        "video_label",
        "max_cost",
        "partition_key",
        "is_dry_run",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"input": "json"}
    ui_color = "#e9e3f7"
    # Values that other tasks pass in these fields belong to the order, so a change is a new order.
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
        poll_interval: float | timedelta | None = None,
        timeout: float | timedelta = 3600,
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        save_to: str | Path | ObjectStoragePath | None = None,
        save_in: SaveIn = "worker",
        checks: CheckMode | None = None,
        check: Rule | None = None,
        max_regenerations: int | None = None,
        end_from_trigger: bool | None = None,
        durable: bool = True,
        reuse: Reuse = True,
        on_orphaned_intent: OnOrphanedIntent = "fail",
        label: str | None = None,
        max_cost: float | str | Decimal | None = None,
        partition_key: str | None = None,
        dry_run: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input = input
        self.model = model
        self.version = version
        self.vace_conn_id = vace_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval: float | None = seconds(poll_interval, None)
        self.timeout: float = seconds(timeout, 3600)
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.save_to = save_to
        self.save_in = save_in
        self.checks = checks
        self.check = check
        self.max_regenerations = max_regenerations
        self.end_from_trigger = end_from_trigger
        self.durable = durable
        self.reuse = reuse
        self.on_orphaned_intent = on_orphaned_intent
        self.video_label = label
        self.partition_key = partition_key
        self.max_cost = max_cost
        self.is_dry_run = dry_run
        # Digest of the values that other tasks have passed in; None if there are none.
        self.arguments_digest: str | None = None
        check_operator(self)

    def execute(self, context: Context) -> dict[str, Any]:
        run = self._begin(context)
        with closing(run):
            found = dry_run_of(run)
            if found is None:
                if not run.claim.is_durable:
                    warn_of_lost_state(run.log, is_durable=self.durable)
                return self._submit_and_wait(run)
        # Tasks downstream need a video, so they are skipped too.
        raise AirflowSkipException(found)

    def _submit_and_wait(self, run: OperatorRun) -> dict[str, Any]:
        """Return the payload of the task's prediction, or of the one that takes its place."""
        while True:
            prediction, deadline = submit(run)
            with retrying_for_free(run, prediction):
                push_snapshot(run, prediction)
                # The prediction may have failed already, and must not end the task as a success.
                if prediction.status.is_final and prediction.status is not PredictionStatus.SUCCEEDED:
                    read_end(prediction)
            if not self.wait_for_completion:
                return run.marked(prediction).payload()
            make_trigger = _make_trigger if self.deferrable else None
            result = wait_for_result(run, self._wait(run, prediction, deadline), make_trigger)
            if result is not None:
                return result
            run.begin_again()

    def _submit_again(self, run: OperatorRun) -> dict[str, Any]:
        """Replace a rejected video after a deferral."""
        run.begin_again()
        return self._submit_and_wait(run)

    def execute_complete(
        self,
        context: Context,
        event: object = None,
        deadline: float | None = None,
        gave_up: int = 0,
    ) -> dict[str, Any]:
        """Go on after the triggerer.

        :param event: payload of the prediction; a running one says that the triggerer has given up
        :param deadline: seconds since the epoch; None has passed already
        :param gave_up: number of triggers that have given up this wait
        """
        run = self._begin(context)
        run.deadline.was_deferred = True
        with translated():
            prediction = run.prediction = Prediction.from_json(event)
        run.label = prediction.label
        run.is_saved = bool(prediction.files)
        self._restore_input(run)
        if not prediction.status.is_final:
            run.claim.note_deferred(prediction, is_deferred=False)
        wait = self._wait(run, prediction, run.hook.wall_clock() if deadline is None else deadline)
        make_trigger = _make_trigger if gave_up < run.hook.timing.max_deferrals else None
        result = wait_for_result(run, wait, make_trigger, gave_up=gave_up + 1)
        return self._submit_again(run) if result is None else result

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, on this worker after a failed trigger."""
        run = self._begin(context)
        with closing(run):
            if next_method != TRIGGER_FAILED:
                return super().resume_execution(next_method, next_kwargs, context)
            prediction, deadline = recorded_prediction(run, next_kwargs or {})
            self._restore_input(run)
            run.claim.note_deferred(prediction, is_deferred=False)
            result = wait_for_result(run, self._wait(run, prediction, deadline), None)
            return self._submit_again(run) if result is None else result

    def _begin(self, context: Context) -> OperatorRun:
        """Return the run of this process, the same for the same context."""
        run = self._run
        if not isinstance(run, OperatorRun) or run.context is not context:
            read_fields(self)
            run = self._run = OperatorRun(self, context)
        return run

    def _restore_input(self, run: OperatorRun) -> None:
        restore_input(run)

    def _wait(self, run: OperatorRun, prediction: Prediction, deadline: float | None) -> Wait:
        timing = run.hook.timing
        return Wait(prediction=prediction, deadline=deadline, poll_interval=self.poll_interval, timing=timing)

    # --- rendering ---------------------------------------------------------------------------------

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Digest the values from other tasks during rendering."""
        # A mapped instance has text from other tasks in place, which must not be rendered.
        if parent is self and self._given is None:
            self.input = renderable(self.input)
        given = {name: getattr(self, name) for name in self.argument_fields}
        before = self.input
        element = self._given or {}
        # Rendering replaces the references to other tasks by values, so both are compared right after it.
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        if parent is self:
            self.input = without_missing(before, self.input)
            if is_native(self, jinja_env):
                self.input = with_text_prompt(self, before, self.input, context, seen_oids)
        parts = [self._argument(name, value, seen_oids) for name, value in given.items()]
        # The whole element of a mapped task counts, because a template may use the element's params or label.
        others = {name: value for name, value in element.items() if name not in self.argument_fields}
        parts.append(handed_over(others, others, seen_oids))
        if parent is self and any(part is not None for part in parts):
            self.arguments_digest = digest_of_arguments(parts)

    def _argument(self, name: str, given: Any, resolved: set[int]) -> Any:
        return handed_over(given, getattr(self, name), resolved)


def _make_trigger(**kwargs: Any) -> BaseTrigger:
    # DAG parsing must stay cheap, so the trigger is imported by the deferral.
    from airflow_vace.triggers import VacePredictionTrigger

    return VacePredictionTrigger(**kwargs)
