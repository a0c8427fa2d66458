"""Wait of an operator: on the worker or in the triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_vace.core.wait import PollAgain
from airflow_vace.exceptions import PredictionTimeout
from airflow_vace.task.checking import result_or_rejected
from airflow_vace.task.defer import defer_until_final
from airflow_vace.task.ending import retrying_for_free
from airflow_vace.task.polling import poll_once, wait_here

if TYPE_CHECKING:
    from airflow_vace.core.wait import Wait
    from airflow_vace.prediction import Prediction
    from airflow_vace.task.defer import MakeTrigger
    from airflow_vace.task.operator_run import OperatorRun


def wait_for_result(
    run: OperatorRun, wait: Wait, make_trigger: MakeTrigger | None, *, gave_up: int = 0
) -> dict[str, Any] | None:
    """Wait for the end, or defer; return the payload of a success.

    :return: None for a rejected video, whose place another prediction takes: submit again
    :param make_trigger: makes the trigger to defer with; None waits on the worker
    :param gave_up: number of triggers that have given up this wait
    """
    with retrying_for_free(run, wait.prediction):
        prediction = _final(run, wait, make_trigger, gave_up)
        return result_or_rejected(run, prediction)


def _final(run: OperatorRun, wait: Wait, make_trigger: MakeTrigger | None, gave_up: int) -> Prediction:
    """Wait for the end; cancel at the confirmed deadline."""
    while True:
        try:
            return _end_of(run, wait, make_trigger, gave_up)
        except PredictionTimeout as error:
            prediction = run.deadline.enforce(error, wait.deadline)
            if prediction is not None:
                return prediction
            wait.deadline = run.deadline.postponed(wait.deadline)


def _end_of(run: OperatorRun, wait: Wait, make_trigger: MakeTrigger | None, gave_up: int) -> Prediction:
    if wait.prediction.status.is_final:
        return wait.prediction
    if make_trigger is None:
        return wait_here(run, wait)
    polled = poll_once(run, wait)
    if isinstance(polled, PollAgain):
        # The next attempt takes an early end of this wait for a person's clear only by this note.
        run.claim.note_deferred(wait.prediction, is_deferred=True)
        defer_until_final(run, wait, make_trigger, gave_up)
    return polled
