"""VacePredictionSensor: waits for a prediction that somebody submitted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_vace.exceptions import PredictionTimeout, VaceAPIError, VaceTransportError
from airflow_vace.polling import LookAgain, Wait
from airflow_vace.prediction import Prediction
from airflow_vace.waiting import WaitsForPrediction, translated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from typing import ClassVar

    from airflow.sdk import Context


class VacePredictionSensor(WaitsForPrediction, BaseSensorOperator):
    """Wait until a prediction is final; return its payload if it succeeded, fail if it did not.

    Poking, rescheduling and deferring give the same result and the same failures; `soft_fail`,
    `never_fail` and `timeout` (from this task's first look) hold in all of them.

    :param prediction: payload of :class:`~airflow_vace.operators.VacePredictionOperator`
        (`submit.output`), a prediction's id, or its `urls.get` (templated)
    :param vace_conn_id: connection of type `vace` (templated)
    :param deferrable: wait in the triggerer (default: `[operators] default_deferrable`)
    :param cancel_on_kill: cancel the prediction when this task is killed
    :param save_to: local directory, with a slash at the end, for the video (templated)
    :param poke_interval: seconds between two looks; when deferred, at most so many (default: 60 s,
        deferred 15 s at most)
    """

    template_fields: Sequence[str] = ("prediction", "vace_conn_id", "save_to")
    template_fields_renderers: ClassVar[dict[str, str]] = {"prediction": "json"}
    ui_color = "#e9e3f7"

    def __init__(  # noqa: PLR0913 - a DAG author's parameters
        self,
        *,
        prediction: Any,
        vace_conn_id: str = "vace_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        cancel_on_kill: bool = False,
        save_to: str | None = None,
        poke_interval: timedelta | float | None = None,
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
        self._bound = None if poke_interval is None else self.poke_interval
        self._wait: Wait | None = None

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            return super().execute(context)
        # Through here failures become skips where soft_fail or never_fail say so.
        return self.resume_execution("look_then_defer", None, context)

    def poke(self, context: Context) -> PokeReturnValue | bool:
        del context  # Airflow's signature
        self._wait = self._wait or Wait(poll_interval=self._bound)
        with translated(_can_heal):
            self.checked_save_to()
            seen = self.look(self.prediction, self._wait)
            if isinstance(seen, LookAgain):
                return False
            return PokeReturnValue(is_done=True, xcom_value=self.result_of(seen))

    def look_then_defer(self, context: Context) -> dict[str, Any]:
        del context  # Airflow's signature
        return self._wait_on(Wait(deadline=time.time() + self.timeout, poll_interval=self._bound))

    def execute_complete(
        self, context: Context, event: object = None, deadline: float | None = None
    ) -> dict[str, Any]:
        """Go on after the triggerer: with the end, or by looking for ourselves."""
        del context  # Airflow's signature
        with translated():
            prediction = Prediction.from_json(event)
        return self._wait_on(
            Wait(
                deadline=time.time() if deadline is None else deadline,
                poll_interval=self._bound,
                prediction=prediction,
            )
        )

    def reference(self, context: Context) -> Any:
        del context  # Airflow's signature
        return {"id": self._identifier(), "status": "unknown"}

    def _wait_on(self, wait: Wait) -> dict[str, Any]:
        with translated(_can_heal):
            try:
                self.checked_save_to()
                if wait.prediction and wait.prediction.status.is_final:
                    return self.result_of(wait.prediction)
                seen = self.look(self.prediction, wait)
                if isinstance(seen, LookAgain):
                    self.defer_until_final(self.prediction, wait)
                return self.result_of(seen)
            except PredictionTimeout as error:
                raise AirflowSensorTimeout(str(error)) from error

    def _identifier(self) -> str:
        from airflow_vace.api import read_reference

        with translated():
            return read_reference(self.prediction)[0]


def _can_heal(error: Exception) -> bool:
    """Whether a new attempt, which only looks and saves again and costs nothing, may end better."""
    if isinstance(error, VaceAPIError):
        return error.status_code >= 500 or error.status_code in (408, 429)
    return isinstance(error, VaceTransportError | OSError)
