"""End of a task by an error: snapshot, record, and retry or failure."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from airflow_vace.exceptions import (
    PredictionExpired,
    PredictionFailed,
    VaceError,
    VaceTransportError,
    VideoRejected,
)
from airflow_vace.prediction import RETENTION_SECONDS, PredictionStatus
from airflow_vace.task.errors import can_poll_later
from airflow_vace.task.kill import handle_kill, wait_for_cancel
from airflow_vace.task.view import push_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.prediction import Prediction
    from airflow_vace.task.operator_run import OperatorRun
    from airflow_vace.task.run import TaskRun

_FAILURES = (
    *(VaceError, OSError, AirflowFailException),
    *(AirflowSensorTimeout, AirflowSkipException, AirflowTaskTimeout),
)


@contextmanager
def closing(run: TaskRun) -> Iterator[None]:
    """Push a snapshot of a failure, and wait for a cancel under way."""
    try:
        yield
    except _FAILURES as error:
        push_snapshot(run, run.prediction or _rejected_by(error), error)
        raise
    finally:
        wait_for_cancel(run)


def _rejected_by(error: BaseException) -> Prediction | None:
    """Return the prediction of a rejected video that no other one could replace; None for other errors."""
    cause = error.__cause__ if isinstance(error, AirflowFailException) else error
    return cause.prediction if isinstance(cause, VideoRejected) else None


@contextmanager
def retrying_for_free(run: OperatorRun, prediction: Prediction) -> Iterator[None]:
    """Allow only retries that are free, or worth the price.

    :param prediction: the prediction that the task has submitted
    """
    claim = run.claim
    try:
        yield
    except AirflowTaskTimeout as error:
        handle_kill(run)
        run.count_end(run.prediction)
        claim.settle(run.prediction)
        latest = run.prediction or prediction
        if claim.is_durable and latest.status is PredictionStatus.SUCCEEDED:
            # The time-out has cut off a save, so a retry saves the paid video.
            raise
        raise AirflowFailException(
            f"execution_timeout ended the wait for prediction {latest.id}, which is {latest.status}."
            f" {latest.bill} Use the operator's own timeout, which waits for the answer."
        ) from error
    except VaceError as error:
        failure = _doubted(run, error) if isinstance(error, PredictionExpired) else error
        if isinstance(failure, PredictionExpired):
            # A server may go on to list an output whose file is gone, so the record keeps this fact.
            run.prediction = replace(failure.prediction, data_removed=True)
        run.count_end(run.prediction)
        claim.settle(run.prediction)
        # A full queue at the vendor, for example, is over by the time of a retry, which then submits again.
        if isinstance(failure, PredictionFailed) and failure.worth_another_run:
            raise
        if claim.is_durable and can_poll_later(failure):
            raise failure from failure.__cause__
        raise AirflowFailException(str(failure)) from failure
    except Exception as error:
        if claim.is_durable:
            run.log.warning("A retry goes on with prediction %s, or looks for it", prediction.id)
            raise
        raise AirflowFailException(
            f"{type(error).__name__} after prediction {prediction.id} was submitted: {error}. It may be"
            " billed, and a new attempt would pay again: fetch it with a VacePredictionSensor on this id."
        ) from error


def _doubted(run: OperatorRun, error: PredictionExpired) -> VaceError:
    """Return a transient error for a refused file of a prediction that is younger than the files' hour.

    The server may state no time of the end, or a wrong one, and a delivery may lag behind for a while.
    """
    latest = error.prediction
    is_young = run.claim.is_younger_than(RETENTION_SECONDS, run.hook.wall_clock())
    if latest.data_removed or not latest.has_output or not is_young:
        return error
    cause: BaseException = error
    while isinstance(cause, PredictionExpired) and cause.__cause__ is not None:
        cause = cause.__cause__
    doubted = VaceTransportError(
        f"A file of prediction {latest.id} is refused, although the task has submitted the prediction less"
        f" than an hour ago. {latest.bill} A retry fetches the file again, at no cost. Response: {cause}",
        sent=True,
    )
    doubted.files, doubted.__cause__ = error.files, error
    return doubted
