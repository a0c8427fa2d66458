"""A single poll of a task's prediction, on a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from airflow_vace.core.wait import Final, PollAgain
from airflow_vace.observability.spans import traced
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
    run.waits_since = run.waits_since or run.server_time()
    try:
        decision = run.hook.poll(wait, run.now)
    finally:
        run.prediction = wait.prediction
    match decision:
        case Final(prediction):
            run.metrics.noticed(prediction, run.waits_since, run.server_time())
            return prediction
        case PollAgain():
            push_snapshot(run, wait.prediction)
            return decision
        case _:
            assert_never(decision)


def wait_here(run: TaskRun, wait: Wait) -> Prediction:
    """Wait on this worker, and return the final prediction.

    :raises PredictionTimeout: at the deadline of the wait
    :raises VaceError: if no further poll can help
    """
    since = run.server_time()
    left = None if wait.deadline is None else wait.deadline - run.now()
    with traced("wait", run.metrics.labels) as describe:
        describe(wait.prediction)
        prediction = run.hook.wait_for_prediction(wait.prediction, left, poll_interval=wait.poll_interval)
        describe(prediction)
    run.metrics.noticed(prediction, since, run.server_time())
    return prediction
