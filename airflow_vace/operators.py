"""VacePredictionOperator: submits a prediction, which costs money, and waits for it if asked to."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    conf,
)

from airflow_vace.api import may_create_again
from airflow_vace.exceptions import (
    PredictionFailed,
    PredictionTimeout,
    SubmissionUnknown,
    VaceError,
    VaceInputError,
)
from airflow_vace.polling import LookAgain, Wait
from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.waiting import WaitsForPrediction, checked_seconds, translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import ClassVar

    from airflow.sdk import Context

# The server is asked to cancel by itself some time after we would have: a net below our own cancel.
_CANCEL_AFTER_GRACE_SECONDS = 60.0

_XCOM_SUBMITTED = "prediction"


class VacePredictionOperator(WaitsForPrediction):
    """Submit a prediction of prunaai/vace-14b, or of another model, and return its payload.

    Each attempt of this task submits, and pays, anew; an attempt whose outcome is not known fails the
    task without a retry.

    :param input: inputs of the model, such as `{"prompt": "...", "size": "1280*720"}` (templated)
    :param model: `owner/name` (templated; default: the connection's, else prunaai/vace-14b)
    :param version: id of a version (templated; default: the connection's, else the server's choice)
    :param vace_conn_id: connection of type `vace` (templated)
    :param wait_for_completion: wait until the prediction is final, and return its final payload
    :param deferrable: wait in the triggerer (default: `[operators] default_deferrable`)
    :param poll_interval: how late, in seconds, the end may be noticed (default: 15 s at most)
    :param timeout: seconds from submission to a final status
    :param cancel_on_kill: cancel the prediction when the task is killed
    :param cancel_on_timeout: cancel the prediction at its deadline
    :param save_to: local directory, with a slash at the end, for the video (templated; needs
        `wait_for_completion`)
    """

    template_fields: Sequence[str] = ("input", "model", "version", "vace_conn_id", "save_to")
    template_fields_renderers: ClassVar[dict[str, str]] = {"input": "json"}
    ui_color = "#e9e3f7"

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
        save_to: str | None = None,
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
        self._is_submitting = False
        checked_seconds("timeout", timeout)
        if poll_interval is not None:
            checked_seconds("poll_interval", poll_interval)
        if save_to is not None and not wait_for_completion:
            raise VaceInputError(
                "save_to needs wait_for_completion=True: without it there is no video yet when this task"
                " ends. Give save_to to the VacePredictionSensor instead.",
                field="save_to",
                value=save_to,
                remedy="wait_for_completion=True, or save_to on the sensor",
            )

    def execute(self, context: Context) -> dict[str, Any]:
        deadline = time.time() + self.timeout
        prediction = self._prediction = self._submitted(deadline)
        self.log.info(
            "Submitted prediction %s of %s (%s)", prediction.id, prediction.model, prediction.status
        )
        if not self.wait_for_completion:
            return prediction.payload()
        wait = Wait(prediction=prediction, deadline=deadline, poll_interval=self.poll_interval)
        if self.deferrable and not prediction.status.is_final:
            self._note_submission(context, wait)
        return self._wait_on(wait, may_defer=self.deferrable)

    def execute_complete(
        self, context: Context, event: object = None, deadline: float | None = None
    ) -> dict[str, Any]:
        """Go on after the triggerer: with the end, or by looking for ourselves."""
        del context  # Airflow's signature
        with translated():
            prediction = self._prediction = Prediction.from_json(event)
        deadline = time.time() if deadline is None else deadline
        wait = Wait(prediction=prediction, deadline=deadline, poll_interval=self.poll_interval)
        return self._wait_on(wait, may_defer=True)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Wait for ourselves where the triggerer failed: a new attempt would pay again."""
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        failure = next_kwargs or {}
        self.log.warning(
            "The wait in the triggerer ended without an answer (%s); looking for myself\n%s",
            failure.get("error"),
            "".join(failure.get("traceback") or ()),
        )
        ti = context["ti"]
        noted = ti.xcom_pull(task_ids=ti.task_id, key=_XCOM_SUBMITTED, map_indexes=ti.map_index)
        with translated():
            prediction = self._prediction = Prediction.from_json(noted)
        wait = Wait(prediction=prediction, deadline=noted.get("deadline"), poll_interval=self.poll_interval)
        return self._wait_on(wait, may_defer=False)

    def on_kill(self) -> None:
        if self._is_submitting:
            self.log.warning(
                "Killed while submitting: a prediction may have been accepted, and is then billed"
            )
        super().on_kill()

    def _submitted(self, deadline: float) -> Prediction:
        """Return the prediction that was submitted; raise what Airflow may retry only if none was."""
        grace = deadline + _CANCEL_AFTER_GRACE_SECONDS
        with translated(may_create_again):
            self.checked_save_to()
            self._is_submitting = True
            try:
                return self.hook.create_prediction(
                    self.input,
                    model=self.model or None,
                    version=self.version or None,
                    deadline=grace if self.cancel_on_timeout else None,
                )
            except (VaceError, AirflowException):
                raise
            except (AirflowTaskTimeout, Exception) as error:
                raise SubmissionUnknown(
                    f"{type(error).__name__} ended the create before its answer was read, so a prediction may"
                    " be running, and be billed, whose id nobody knows. Look into the vendor's list of"
                    " predictions before running the task again."
                ) from error
            finally:
                self._is_submitting = False

    def _note_submission(self, context: Context, wait: Wait) -> None:
        """Leave the prediction where people, and a later leg of this attempt, find it."""
        noted = {**wait.prediction.payload(), "deadline": wait.deadline}
        try:
            context["ti"].xcom_push(_XCOM_SUBMITTED, noted)
        except Exception as error:  # noqa: BLE001 - Airflow's own trouble must not cost a second run
            self.log.warning("Prediction %s could not be noted in XCom: %s", wait.prediction.id, error)

    def _wait_on(self, wait: Wait, *, may_defer: bool) -> dict[str, Any]:
        with self._paid_once(wait.prediction):
            try:
                prediction = self._end_of(wait, may_defer=may_defer)
            except PredictionTimeout as error:
                prediction = self._end_at_deadline(error)
            return self.result_of(prediction)

    @contextmanager
    def _paid_once(self, prediction: Prediction) -> Iterator[None]:
        """Fail for good, whatever happens, unless another run is worth its money: a retry would pay again."""
        try:
            yield
        except AirflowTaskTimeout as error:
            self.on_kill()
            raise AirflowFailException(
                f"execution_timeout ended the wait for prediction {prediction.id}, which was told to stop if"
                " cancel_on_kill says so. Use the operator's own timeout, which waits for the answer."
            ) from error
        except VaceError as error:
            if isinstance(error, PredictionFailed) and error.worth_another_run:
                raise
            raise AirflowFailException(str(error)) from error
        except Exception as error:
            raise AirflowFailException(
                f"{type(error).__name__} after prediction {prediction.id} was submitted: {error}. It may be"
                " billed, and a new attempt would pay again: fetch it with a VacePredictionSensor on this id."
            ) from error

    def _end_of(self, wait: Wait, *, may_defer: bool) -> Prediction:
        if wait.prediction.status.is_final:
            return wait.prediction
        if not may_defer:
            left = None if wait.deadline is None else wait.deadline - time.time()
            return self.hook.wait_for_prediction(wait.prediction, left, poll_interval=self.poll_interval)
        seen = self.look(wait)
        if isinstance(seen, LookAgain):
            self.defer_until_final(wait)
        return seen

    def _end_at_deadline(self, error: PredictionTimeout) -> Prediction:
        """Cancel; a prediction that succeeded in its last moment is a success all the same."""
        if not self.cancel_on_timeout:
            raise error
        prediction = self.cancel(error.prediction)
        if prediction.status is PredictionStatus.SUCCEEDED:
            return prediction
        raise PredictionTimeout(
            f"Prediction {prediction.id} was not final {self.timeout:g} s after its submission and was told"
            f" to stop; it is {prediction.status}. {prediction.bill} Raise the timeout if it needs longer.",
            prediction=prediction,
        ) from error
