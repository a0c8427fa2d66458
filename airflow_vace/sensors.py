"""VacePredictionSensor: waits for a prediction that somebody submitted."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_vace.core.requests import read_known
from airflow_vace.core.retry import is_not_found
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import PredictionTimeout, VaceAPIError, VaceError
from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.task.rendering import label_text
from airflow_vace.task.triggerer import MappedStart, can_end_tasks, is_plain, source_of
from airflow_vace.task.waiting import (
    DEFERRAL_GRACE_SECONDS,
    MOST_DEFERRALS,
    WaitsForPrediction,
    can_be_looked_at_again,
    checked_end,
    checked_save_in,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import ClassVar

    from airflow.sdk import Context, ObjectStoragePath

    from airflow_vace.task.waiting import SaveIn


_LONGEST_HOLD_SECONDS = 60.0


class VacePredictionSensor(WaitsForPrediction, BaseSensorOperator):
    """Wait until a prediction is final; return its payload if it succeeded, fail if it did not.

    Poking, rescheduling and deferring give the same result and the same failures; `soft_fail`,
    `never_fail` and `timeout` (from this task's first look) hold in all of them.

    :param prediction: payload of :class:`~airflow_vace.operators.VacePredictionOperator`
        (`submit.output`), a prediction's id, or its `urls.get` (templated)
    :param vace_conn_id: connection of type `vace` (templated)
    :param deferrable: wait in the triggerer (default: `[operators] default_deferrable`)
    :param cancel_on_kill: cancel the prediction when this task is killed
    :param save_to: where the video goes: a directory, with a slash at the end, or a file's name; local, or
        `s3://bucket/...` as Airflow's object stores have it (templated)
    :param save_in: `worker`, or `triggerer` to save at once although all workers may be busy
    :param start_from_trigger: begin in the triggerer, without a worker (Airflow 3.3+; needs `deferrable`)
    :param end_from_trigger: end with a success in the triggerer, without a worker (Airflow 3.3+; default:
        whenever nothing is lost by it)
    :param poke_interval: seconds between two looks; when deferred, at most so many (default: 60 s,
        deferred 10 s, or 5 % of the time waited)
    :param label: whom the video is for; the payload, the manifest and the asset's event hold it (templated;
        default: the rendered `map_index_template`, else the label in the payload that is waited for)
    """

    template_fields: Sequence[str] = ("prediction", "vace_conn_id", "save_to", "video_label")
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
        save_to: str | ObjectStoragePath | None = None,
        save_in: SaveIn = "worker",
        start_from_trigger: bool = False,
        end_from_trigger: bool | None = None,
        poke_interval: timedelta | float | None = None,
        label: str | None = None,
        **kwargs: Any,
    ) -> None:
        if poke_interval is not None:
            kwargs["poke_interval"] = poke_interval
        super().__init__(**kwargs)
        self.prediction = prediction
        self.vace_conn_id = vace_conn_id
        self.deferrable = deferrable
        self.cancel_on_kill = cancel_on_kill
        self.save_to = save_to
        self.save_in = save_in
        self.end_from_trigger = end_from_trigger
        self.video_label = label
        checked_save_in(save_in, save_to, defers=deferrable)
        self._bound = None if poke_interval is None else self.poke_interval
        self._wait: Wait | None = None
        self._is_deadline_shared = False
        checked_end(end_from_trigger, save_to, save_in)
        self.start_from_trigger = start_from_trigger and self._can_start_there(label)

    def _can_start_there(self, label: Any) -> bool:
        """Prepare to begin in the triggerer, where that can be; warn where this Airflow can't."""
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
            "vace_conn_id": self.vace_conn_id,
            "timeout": self.timeout,
            "poll_interval": self._bound,
            "cancel_on_kill": self.cancel_on_kill,
            "end_from_trigger": self.end_from_trigger,
            "do_xcom_push": self.do_xcom_push,
            "saves": self.save_to is not None or self._post_execute_hook is not None,
            "label": label_text(label),
        }
        grace = timedelta(seconds=self.timeout + DEFERRAL_GRACE_SECONDS)
        start = replace(type(self).start_trigger_args, trigger_kwargs=kwargs, timeout=grace)
        self.start_trigger_args = start
        return True

    def execute(self, context: Context) -> Any:
        self.enter(context)
        if not self.deferrable:
            with self.until_canceled():
                return super().execute(context)
        # Through here failures become skips where soft_fail or never_fail say so.
        return self.resume_execution("look_then_defer", None, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Look for ourselves where no triggerer did until long after the deadline."""
        self.enter(context)
        if next_method == "__fail__" and (next_kwargs or {}).get("error") == "Trigger timeout":
            self.log.warning("No triggerer ended this wait in time; looking for myself")
            next_method, next_kwargs = "look_then_fail", None
        try:
            with self.until_canceled():
                return super().resume_execution(next_method, next_kwargs, context)
        except (VaceError, OSError) as error:
            if self.never_fail:  # as Airflow has it when poking
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error
            raise

    def poke(self, context: Context) -> PokeReturnValue | bool:
        del context  # Airflow's signature
        with translated(can_be_looked_at_again):
            if self._wait is None:
                self.check_destination()
                self._wait = self._new_wait(None)
            seen = self._seen(self._wait)
            if isinstance(seen, PollAgain):
                # A server may ask for more time than there is between two pokes.
                time.sleep(min(max(seen.seconds - self.poke_interval, 0.0), _LONGEST_HOLD_SECONDS))
                return False
            return PokeReturnValue(is_done=True, xcom_value=self.result_of(seen))

    def look_then_defer(self, context: Context) -> dict[str, Any]:
        del context  # Airflow's signature
        with translated(can_be_looked_at_again):
            self.check_destination()
            return self._wait_on(self._new_wait(time.time() + self.timeout))

    def look_then_fail(self, context: Context) -> dict[str, Any]:
        del context  # Airflow's signature
        with translated(can_be_looked_at_again):
            return self._wait_on(self._new_wait(time.time()))

    def execute_complete(
        self,
        context: Context,
        event: object = None,
        deadline: float | None = None,
        gave_up: int = 0,
    ) -> dict[str, Any]:
        """Go on after the triggerer: with the end, or by looking for ourselves."""
        if isinstance(event, dict) and "execute" in event:
            self.log.info("Nothing was begun in the triggerer: %s", event["execute"])
            return self.look_then_defer(context)
        with translated(can_be_looked_at_again):
            prediction = Prediction.from_json(event)
            self._known_label = prediction.label
            self._is_landed = bool(prediction.files)
            if deadline is None and isinstance(event, dict):
                deadline = event.get("deadline")
            deadline = time.time() if deadline is None else deadline
            self._is_deadline_shared = True
            wait = Wait(
                prediction=prediction,
                deadline=deadline,
                poll_interval=self._bound,
                timing=self.hook.timing,
            )
            return self._wait_on(wait, gave_up + 1)

    def _seen(self, wait: Wait) -> Prediction | PollAgain:
        """Look once; a prediction that its server has forgotten is a success if it is saved."""
        try:
            return self.look(wait)
        except VaceAPIError as error:
            files = self.files_saved(wait.prediction.id) if is_not_found(error) else None
            if not files:
                raise
            self.log.info("Prediction %s is not known any more, and is saved", wait.prediction.id)
            return replace(wait.prediction, status=PredictionStatus.SUCCEEDED, files=files, data_removed=True)

    def marked(self, prediction: Prediction) -> Prediction:
        """Return a prediction with label and seed; what this task does not know, its argument may."""
        with suppress(VaceError):
            prediction = read_known(self.prediction).updated(prediction)
        return super().marked(prediction)

    def now(self) -> float:
        # Until it defers, this process alone knows the deadline, and has it by its own clock.
        return super().now() if self._is_deadline_shared else time.time()

    def _new_wait(self, deadline: float | None) -> Wait:
        known = read_known(self.prediction)
        return Wait(prediction=known, deadline=deadline, poll_interval=self._bound, timing=self.hook.timing)

    def _wait_on(self, wait: Wait, gave_up: int = 0) -> dict[str, Any]:
        if wait.prediction.status.is_final:
            return self.result_of(wait.prediction)
        try:
            seen = self._seen(wait)
            if isinstance(seen, PollAgain) and gave_up <= MOST_DEFERRALS:
                if wait.deadline is not None and not self._is_deadline_shared:
                    wait.deadline = self.hook.clock.at_server(wait.deadline)
                self._is_deadline_shared = True
                self.defer_until_final(wait, gave_up)
            if isinstance(seen, PollAgain):
                left = None if wait.deadline is None else wait.deadline - self.now()
                seen = self.hook.wait_for_prediction(wait.prediction, left, poll_interval=self._bound)
        except PredictionTimeout as error:
            raise AirflowSensorTimeout(str(error)) from error
        return self.result_of(seen)
