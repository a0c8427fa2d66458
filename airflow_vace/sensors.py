"""VacePredictionSensor: waits for the prediction of another task."""

from __future__ import annotations

__all__ = ("VacePredictionSensor",)

import time
import warnings
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_vace.core.references import read_known
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import VaceError
from airflow_vace.plain import is_absent
from airflow_vace.prediction import Prediction
from airflow_vace.task.airflow_internals import TRIGGER_FAILED, TRIGGER_TIMEOUT, post_execute_hook_of
from airflow_vace.task.base import WaitingOperator
from airflow_vace.task.claim import SensorClaim
from airflow_vace.task.ending import closing
from airflow_vace.task.errors import can_poll_later, translated
from airflow_vace.task.fields import DEFAULT_CONN_ID, read_fields, seconds
from airflow_vace.task.parameters import check_checks, check_saving, refuse_regenerate
from airflow_vace.task.rendering import label_text
from airflow_vace.task.result import result_of
from airflow_vace.task.run import TaskRun
from airflow_vace.task.saving import check_destination
from airflow_vace.task.sensor_wait import poll, wait_for_result
from airflow_vace.task.triggerer import MappedStart, can_end_tasks, is_plain, source_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import ClassVar

    from airflow.sdk import Context, ObjectStoragePath
    from airflow.triggers.base import BaseTrigger

    from airflow_vace.storage.checks import CheckMode, Rule
    from airflow_vace.task.run import SaveIn


class VacePredictionSensor(WaitingOperator, BaseSensorOperator):
    """Wait for the end of a prediction; return the payload of a success.

    Any other end is a failure. Poking, rescheduling and deferring give the same result and the same
    failures; `soft_fail`, `never_fail` and `timeout` (from the first poll of the task) hold in each mode.

    :param prediction: payload of :class:`~airflow_vace.operators.VacePredictionOperator`
        (`submit.output`), a prediction's id, or its `urls.get` (templated)
    :param vace_conn_id: connection of type `vace` (templated)
    :param deferrable: wait in the triggerer (default: `[operators] default_deferrable`)
    :param cancel_on_kill: cancel the prediction when this task is killed
    :param save_to: a directory, with a slash at the end, or a file's name for the video; local, or
        `s3://bucket/...` as in Airflow's object stores (templated)
    :param save_in: `worker`, or `triggerer` to save at once although all workers may be busy
    :param checks: `off`, `warn` or `fail` for a saved video of another size or length than the input asks
        for, and for a black, frozen, one-coloured or damaged one: `warn` logs the problems, `fail` also fails
        the task, and the file stays (default: `warn` with the extra `video` installed, else `off`); a sensor
        has no input, so `regenerate` is refused
    :param check: a check of your own, `def check(facts, path) -> str | None`, which returns a problem; gets
        :class:`~airflow_vace.video.VideoFacts` and the path of the downloaded file, on a worker
    :param start_from_trigger: begin in the triggerer, without a worker (Airflow 3.3+; needs `deferrable`)
    :param end_from_trigger: end with a success in the triggerer, without a worker (Airflow 3.3+; default:
        if the task loses nothing by this)
    :param poke_interval: time between two polls, in seconds or as `timedelta`; when deferred, the maximum
        (default: 60 s, deferred 10 s, or 5 % of the time waited)
    :param label: the customer or product of the video, for payload, manifest and asset event (templated;
        default: the rendered `map_index_template`, else the label in `prediction`)
    :param partition_key: partition of the asset events of `outlets`, such as `{{ ds }}` (templated; Airflow
        3.3+; an alias takes none)
    :raises ValueError: for parameters that cannot work together
    """

    template_fields: Sequence[str] = (
        "prediction",
        "vace_conn_id",
        "save_to",
        "video_label",
        "partition_key",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"prediction": "json"}
    ui_color = "#e9e3f7"
    start_trigger_args = MappedStart()

    def __init__(  # noqa: PLR0913 - a DAG author's parameters
        self,
        *,
        prediction: Any,
        vace_conn_id: str = "vace_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        cancel_on_kill: bool = False,
        save_to: str | Path | ObjectStoragePath | None = None,
        save_in: SaveIn = "worker",
        checks: CheckMode | None = None,
        check: Rule | None = None,
        start_from_trigger: bool = False,
        end_from_trigger: bool | None = None,
        poke_interval: timedelta | float | None = None,
        label: str | None = None,
        partition_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        interval = seconds(poke_interval, None)
        if interval is not None:
            kwargs["poke_interval"] = interval
        timeout = seconds(kwargs.pop("timeout", None), None)
        if timeout is not None:
            kwargs["timeout"] = timeout
        super().__init__(**kwargs)
        check_saving(save_to, save_in, end_from_trigger, is_deferrable=deferrable)
        refuse_regenerate(checks)
        check_checks(checks, check, save_to, save_in)
        self.prediction = prediction
        self.vace_conn_id = vace_conn_id
        self.deferrable = deferrable
        self.cancel_on_kill = cancel_on_kill
        self.save_to = save_to
        self.save_in = save_in
        self.checks = checks
        self.check = check
        self.end_from_trigger = end_from_trigger
        self.video_label = label
        self.partition_key = partition_key
        # The author's interval alone limits the gap between polls; Airflow's default does not.
        self._poll_interval = None if interval is None else self.poke_interval
        self._wait: Wait | None = None
        self.start_from_trigger = start_from_trigger and self._prepare_start(label)

    def _prepare_start(self, label: Any) -> bool:
        """Set the starting trigger; return False if a worker must begin the task.

        :raises ValueError: for parameters that need a worker
        """
        if not self.deferrable or self.save_in == "triggerer":
            raise ValueError("start_from_trigger needs deferrable=True and save_in='worker'")
        if not can_end_tasks():
            warnings.warn(
                "start_from_trigger needs Airflow 3.3: the task defers from a worker instead", stacklevel=3
            )
            return False
        source = source_of(self, self.prediction) if is_plain([self.vace_conn_id, label]) else None
        if source is None:
            return False
        kwargs = {
            "source": source,
            "vace_conn_id": DEFAULT_CONN_ID if is_absent(self.vace_conn_id) else self.vace_conn_id,
            "timeout": self.timeout,
            "poll_interval": self._poll_interval,
            "cancel_on_kill": self.cancel_on_kill,
            "end_from_trigger": self.end_from_trigger,
            "do_xcom_push": self.do_xcom_push,
            "saves": not is_absent(self.save_to) or post_execute_hook_of(self) is not None,
            "label": label_text(label),
        }
        # DAG parsing must stay cheap, so the hook and its timing are not imported here.
        grace = timedelta(seconds=self.timeout + Timing().deferral_grace_seconds)
        start = replace(type(self).start_trigger_args, trigger_kwargs=kwargs, timeout=grace)
        self.start_trigger_args = start
        return True

    def execute(self, context: Context) -> Any:
        run = self._begin(context)
        if not self.deferrable:
            with closing(run):
                return super().execute(context)
        # Airflow's `resume_execution` turns failures into skips for `soft_fail` and `never_fail`.
        return self.resume_execution("poll_then_defer", None, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, on this worker after a late trigger."""
        run = self._begin(context)
        if next_method == TRIGGER_FAILED and (next_kwargs or {}).get("error") == TRIGGER_TIMEOUT:
            self.log.warning("No triggerer ended this wait in time; polling on this worker")
            next_method, next_kwargs = "poll_then_fail", None
        try:
            with closing(run):
                return super().resume_execution(next_method, next_kwargs, context)
        except (VaceError, OSError) as error:
            # Airflow skips a poking sensor with `never_fail`, so a deferred sensor does the same.
            if self.never_fail:
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error
            raise

    def poke(self, context: Context) -> PokeReturnValue | bool:
        run = self._begin(context)
        with translated(can_poll_later):
            if self._wait is None:
                check_destination(run)
                self._wait = self._new_wait(run, None)
            polled = poll(run, self._wait)
            if isinstance(polled, PollAgain):
                # A server may ask for a longer pause than the interval between two pokes.
                excess = max(polled.seconds - self.poke_interval, 0.0)
                time.sleep(min(excess, run.hook.timing.max_poke_hold_seconds))
                return False
            return PokeReturnValue(is_done=True, xcom_value=result_of(run, polled))

    def poll_then_defer(self, context: Context) -> dict[str, Any]:
        """Poll once; defer until the prediction is final."""
        run = self._begin(context)
        with translated(can_poll_later):
            check_destination(run)
            wait = self._new_wait(run, run.hook.wall_clock() + self.timeout)
            return wait_for_result(run, wait, _make_trigger)

    def poll_then_fail(self, context: Context) -> dict[str, Any]:
        """Poll once after the deadline; fail if the prediction is not final."""
        run = self._begin(context)
        with translated(can_poll_later):
            return wait_for_result(run, self._new_wait(run, run.hook.wall_clock()), _make_trigger)

    def execute_complete(
        self,
        context: Context,
        event: object = None,
        deadline: float | None = None,
        gave_up: int = 0,
    ) -> dict[str, Any]:
        """Go on after the triggerer.

        :param event: payload of the prediction, or `{"execute": reason}` if the trigger cannot wait
        :param deadline: seconds since the epoch; None takes the event's, else the deadline has passed
        :param gave_up: number of triggers that have given up this wait
        """
        if isinstance(event, dict) and "execute" in event:
            self.log.info("Nothing was started in the triggerer: %s", event["execute"])
            return self.poll_then_defer(context)
        run = self._begin(context)
        with translated(can_poll_later):
            prediction = Prediction.from_json(event)
            run.label = prediction.label
            run.is_saved = bool(prediction.files)
            run.is_deadline_local = False
            with suppress(VaceError):  # The event names the prediction, so the argument is not needed.
                run.reference = read_known(self.prediction)
            if deadline is None and isinstance(event, dict):
                deadline = event.get("deadline")
            deadline = run.hook.wall_clock() if deadline is None else deadline
            wait = Wait(
                prediction=prediction,
                deadline=deadline,
                poll_interval=self._poll_interval,
                timing=run.hook.timing,
            )
            return wait_for_result(run, wait, _make_trigger, gave_up + 1)

    def _begin(self, context: Context) -> TaskRun:
        """Return the run of this process, the same for the same context."""
        if self._run is None or self._run.context is not context:
            read_fields(self)
            self._run = TaskRun(self, context, SensorClaim(context.get("ti")))
            # Until the task defers, this process alone knows the deadline, so no other clock counts.
            self._run.is_deadline_local = True
            self._wait = None
        return self._run

    def _new_wait(self, run: TaskRun, deadline: float | None) -> Wait:
        known = run.reference = read_known(self.prediction)
        return Wait(
            prediction=known, deadline=deadline, poll_interval=self._poll_interval, timing=run.hook.timing
        )


def _make_trigger(**kwargs: Any) -> BaseTrigger:
    # DAG parsing must stay cheap, so the trigger is imported by the deferral.
    from airflow_vace.triggers import VacePredictionTrigger

    return VacePredictionTrigger(**kwargs)
