"""Hand a wait over to the triggerer."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from airflow_vace.task.saving import destination_of
from airflow_vace.task.triggerer import can_end_tasks, lost_by_ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.triggers.base import BaseTrigger

    from airflow_vace.core.wait import Wait
    from airflow_vace.task.run import TaskRun

    MakeTrigger = Callable[..., BaseTrigger]


def defer_until_final(run: TaskRun, wait: Wait, make_trigger: MakeTrigger, gave_up: int = 0) -> NoReturn:
    """Defer a task until the prediction is final.

    Airflow calls `execute_complete` after the wait.

    :param wait: the wait, whose deadline stays the same
    :param make_trigger: makes the trigger of the keyword arguments, such as `VacePredictionTrigger`
    :param gave_up: number of triggers that have given up this wait
    """
    timing = run.hook.timing
    left = None if wait.deadline is None else max(wait.deadline - run.now(), 0.0)
    prediction = run.marked(wait.prediction)
    destination = destination_of(run) if run.task.save_in == "triggerer" else None
    trigger = make_trigger(
        prediction=prediction.payload(),
        vace_conn_id=run.task.vace_conn_id,
        deadline=wait.deadline,
        poll_interval=wait.poll_interval,
        cancel_on_kill=run.task.cancel_on_kill and run.claim.may_cancel(),
        destination=destination.as_json() if destination else None,
        end_from_trigger=_may_end_in_triggerer(run),
        do_xcom_push=run.task.do_xcom_push,
        # The scheduler fails a task that resumes before it has seen the end of this leg.
        not_before=run.hook.wall_clock() + timing.min_deferral_seconds,
    )
    run.log.info("Waiting for prediction %s in the triggerer", prediction.id)
    # Without a triggerer Airflow wakes the task itself, some time after the deadline.
    grace = timing.deferral_grace_seconds
    run.task.defer(
        trigger=trigger,
        method_name="execute_complete",
        kwargs={"deadline": wait.deadline, "gave_up": gave_up},
        timeout=None if left is None else timedelta(seconds=left + grace),
    )


def _may_end_in_triggerer(run: TaskRun) -> bool:
    """Return True if a success may end the task in the triggerer."""
    asked = run.task.end_from_trigger
    if asked is False or (asked is None and run.task.save_to):
        return False
    if can_end_tasks():
        lost = lost_by_ending(run.task, getattr(run.ti, "map_index", -1))
    else:
        lost = ["its result, with Airflow below 3.3,"]
    if lost and asked:
        run.log.warning("A worker ends this task, since %s would be lost without it", ", ".join(lost))
    return not lost
