"""The end of a killed task: cancel the prediction, or keep the prediction running.

A SIGTERM does not name the sender, so the state of the task decides. A state set by a person cancels. A clear
does not cancel, and neither does a stopped worker if another attempt goes on with the prediction.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import Enum, auto
from threading import Thread
from typing import TYPE_CHECKING, Any, assert_never

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_vace.core.references import read_known, read_reference
from airflow_vace.observability.metrics import TaskMetrics
from airflow_vace.task.costs import cost_of
from airflow_vace.task.state import RUNNING, UNKNOWN, aread_state, is_ended, read_state

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction
    from airflow_vace.task.run import TaskRun


class OnKill(Enum):
    """The decisions about the prediction of a killed task."""

    NOTHING_RUNS = auto()
    KEEP_FOREIGN = auto()
    KEEP_AS_CONFIGURED = auto()
    CANCEL_IF_ENDED = auto()
    CANCEL = auto()


class AfterState(Enum):
    """The decisions about the prediction once the state of the task is known."""

    CANCEL = auto()
    KEEP_FOR_NEXT_ATTEMPT = auto()
    KEEP_AFTER_LAST_ATTEMPT = auto()


def decide_on_kill(
    prediction: Prediction | None,
    *,
    may_cancel: bool,
    cancel_on_kill: bool,
    is_known_to_retry: bool,
    is_timeout: bool,
) -> OnKill:
    """Decide about a prediction when Airflow calls `on_kill`.

    :param prediction: the current prediction of the task, None before the submission
    :param may_cancel: False if the prediction may be another task's
    :param cancel_on_kill: the parameter of the task
    :param is_known_to_retry: a later attempt would go on with the prediction
    :param is_timeout: the `execution_timeout` of the task has ended it, rather than a signal
    """
    if prediction is None or prediction.status.is_final:
        return OnKill.NOTHING_RUNS
    if not may_cancel:
        return OnKill.KEEP_FOREIGN
    if not cancel_on_kill:
        return OnKill.KEEP_AS_CONFIGURED
    return OnKill.CANCEL_IF_ENDED if is_known_to_retry and not is_timeout else OnKill.CANCEL


def decide_by_state(state: str | None, *, is_last_attempt: bool, owns_prediction: bool) -> AfterState:
    """Decide about the prediction after a signal, by the task's state.

    :param state: the present state of the task in Airflow, None if the task instance is gone
    :param is_last_attempt: Airflow does not retry the task any more
    :param owns_prediction: the task has submitted the prediction
    """
    # The worker stops under a running task, and Airflow starts no other attempt.
    has_no_successor = state == RUNNING and is_last_attempt
    if is_ended(state) or (has_no_successor and owns_prediction):
        return AfterState.CANCEL
    return AfterState.KEEP_AFTER_LAST_ATTEMPT if has_no_successor else AfterState.KEEP_FOR_NEXT_ATTEMPT


def handle_kill(run: TaskRun) -> None:
    """Cancel the prediction if the task has ended for good; best effort.

    :param run: the run of the task, which knows the prediction
    """
    # The body runs on for a while, and a rejected video would otherwise lead to another prediction.
    submitted = run.claim.stop_submitting()
    if run.prediction is None:
        run.prediction = submitted
    prediction = run.prediction
    if prediction is None:
        return
    decision = decide_on_kill(
        prediction,
        may_cancel=run.claim.may_cancel(),
        cancel_on_kill=run.task.cancel_on_kill,
        is_known_to_retry=run.claim.is_known_to_retry(),
        is_timeout=isinstance(sys.exception(), AirflowTaskTimeout),
    )
    match decision:
        case OnKill.NOTHING_RUNS:
            return
        case OnKill.KEEP_FOREIGN:
            run.log.warning("Killed; prediction %s may be another task's: it is left running", prediction.id)
        case OnKill.KEEP_AS_CONFIGURED:
            run.log.warning(
                "Killed; prediction %s is left running and is billed (cancel_on_kill=False)", prediction.id
            )
        case OnKill.CANCEL_IF_ENDED:
            # The signal may have interrupted another request to Airflow on the same socket, so a thread asks
            # for the state.
            run.cancel_thread = Thread(target=_cancel_if_ended, args=(run, prediction), name="vace-on-kill")
            run.cancel_thread.start()
        case OnKill.CANCEL:
            run.cancel(prediction)
        case _:
            assert_never(decision)


def wait_for_cancel(run: TaskRun) -> None:
    """Wait for a cancel under way."""
    # Airflow ends the process, with all threads, right after the task.
    if run.cancel_thread is not None:
        run.cancel_thread.join(run.hook.timing.max_on_kill_seconds)


def _cancel_if_ended(run: TaskRun, prediction: Prediction) -> None:
    try:
        state = read_state(run.ti)
    except Exception as error:  # noqa: BLE001 - Airflow may raise any error; a doubt cancels nothing
        run.log.warning(
            "Prediction %s is not canceled, since the task's state could not be read (%s): if nobody runs"
            " the task again, it runs, and is billed, to its end",
            prediction.id,
            error,
        )
        return
    decision = decide_by_state(
        state, is_last_attempt=run.is_last_attempt, owns_prediction=run.claim.owns_prediction
    )
    match decision:
        case AfterState.CANCEL:
            run.cancel(prediction)
            return
        case AfterState.KEEP_FOR_NEXT_ATTEMPT:
            reason = "its next attempt goes on with it"
        case AfterState.KEEP_AFTER_LAST_ATTEMPT:
            reason = "and this was its last attempt; it runs on"
        case _:
            assert_never(decision)
    run.log.info("Prediction %s is not canceled: the task is %s, %s", prediction.id, state, reason)


async def acancel_if_ended(ti: Any, reference: object, vace_conn_id: str, log: Any) -> None:
    """Cancel a deferred task's prediction if a person has ended the task.

    :param ti: the task instance, None outside of Airflow
    :param reference: payload, id, or `urls.get` of the prediction
    :param vace_conn_id: connection of the prediction
    """
    identifier, _ = read_reference(reference)
    try:
        state = await aread_state(ti) if ti else UNKNOWN
    except Exception:  # noqa: BLE001 - Airflow may raise any error; a doubt cancels nothing
        log.warning("Prediction %s is not canceled: the task's state could not be read", identifier)
        return
    if not is_ended(state):
        log.info("Prediction %s is not canceled: the task is %s", identifier, state)
        return
    from airflow_vace.hooks import VaceHook

    async with VaceHook(vace_conn_id) as hook:
        latest = await hook.astop_prediction(read_known(reference))
        if latest is not None and latest.status.is_final:
            ended = replace(latest, cost=cost_of(hook, latest, {}))
            TaskMetrics(ti, lambda: hook.settings).ended(ended)
