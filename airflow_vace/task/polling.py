"""A single poll of a task's prediction, on a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from airflow_vace.core.wait import Final, PollAgain
from airflow_vace.task.view import push_snapshot

if TYPE_CHECKING:
    from airflow_vace.core.wait import Wait
    from airflow_vace.prediction import Prediction
    from airflow_vace.task.run import TaskRun


def poll_once(run: TaskRun, wait: Wait) -> Prediction | PollAgain:
    """Return a final prediction, else the pause before the next poll.

    A refused poll is repeated here until the refusal is certain. A refusal then ends each mode of waiting
    alike, whatever the interval between two polls.

    :raises VaceError: if no further poll can help
    """
    run.prediction = wait.prediction
    try:
        decision = run.hook.poll(wait, run.now)
    finally:
        run.prediction = wait.prediction
    match decision:
        case Final(prediction):
            return prediction
        case PollAgain():
            push_snapshot(run, wait.prediction)
            return decision
        case _:
            assert_never(decision)
