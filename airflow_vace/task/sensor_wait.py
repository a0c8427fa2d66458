"""Wait of a sensor: a poll, then the triggerer, or the worker after failed triggers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSensorTimeout

from airflow_vace.core.retry import is_denial
from airflow_vace.core.wait import PollAgain
from airflow_vace.exceptions import PredictionTimeout, VaceAPIError
from airflow_vace.prediction import PredictionStatus
from airflow_vace.task.defer import defer_until_final
from airflow_vace.task.polling import poll_once, wait_here
from airflow_vace.task.result import result_of
from airflow_vace.task.saving import find_files

if TYPE_CHECKING:
    from airflow_vace.core.wait import Wait
    from airflow_vace.prediction import Prediction
    from airflow_vace.task.defer import MakeTrigger
    from airflow_vace.task.run import TaskRun


def wait_for_result(run: TaskRun, wait: Wait, make_trigger: MakeTrigger, gave_up: int = 0) -> dict[str, Any]:
    """Wait for the end, or defer; return the payload of a success.

    :param make_trigger: makes the trigger to defer with
    :param gave_up: number of triggers that have given up this wait
    :raises AirflowSensorTimeout: if the prediction is not final at the deadline
    """
    if wait.prediction.status.is_final:
        return result_of(run, wait.prediction)
    try:
        polled = poll(run, wait)
        if isinstance(polled, PollAgain):
            if gave_up <= run.hook.timing.max_deferrals:
                _share_deadline(run, wait)
                defer_until_final(run, wait, make_trigger, gave_up)
            polled = wait_here(run, wait)
    except PredictionTimeout as error:
        raise AirflowSensorTimeout(str(error)) from error
    return result_of(run, polled)


def poll(run: TaskRun, wait: Wait) -> Prediction | PollAgain:
    """Poll once; a deleted prediction with files at `save_to` is a success."""
    try:
        return poll_once(run, wait)
    except VaceAPIError as error:
        # Vendors forget predictions after some time, and a cleared sensor may come later.
        files = find_files(run, wait.prediction.id) if is_denial(error) else None
        if not files:
            raise
        run.log.info("Prediction %s is not known any more, and is saved", wait.prediction.id)
        return replace(wait.prediction, status=PredictionStatus.SUCCEEDED, files=files, data_removed=True)


def _share_deadline(run: TaskRun, wait: Wait) -> None:
    """Convert the deadline to the server's time: the triggerer's machine has another clock."""
    if wait.deadline is not None and run.is_deadline_local:
        wait.deadline = run.hook.clock.at_server(wait.deadline)
    run.is_deadline_local = False
