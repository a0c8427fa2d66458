"""What has become of a task whose run is ended: whether a person ended it, or it only moves elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk.execution_time.comms import GetTaskStates

# What a person's hand leaves a task in. "deferred" is a hand-over to another triggerer, or the next
# attempt after a clear; "running" a worker that is stopped under its task: those go on with the prediction.
ENDED_BY_A_PERSON = frozenset({"failed", "success", "skipped", "upstream_failed", "removed"})

RUNNING = "running"

# When no answer says it.
UNKNOWN = "unknown"


def is_ended(state: str | None) -> bool:
    """Whether a state, None for a task that is no more, says that nobody goes on with the prediction."""
    return state is None or state in ENDED_BY_A_PERSON


def read_state(ti: Any) -> str | None:
    """Return the state of a task instance as Airflow has it at this moment, None if it is gone.

    :raises Exception: of any kind, if Airflow could not be asked
    """
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return _state_in(SUPERVISOR_COMMS.send(_question_about(ti)), ti)


async def aread_state(ti: Any) -> str | None:
    """Await :func:`read_state`."""
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return _state_in(await SUPERVISOR_COMMS.asend(_question_about(ti)), ti)


def _question_about(ti: Any) -> GetTaskStates:
    from airflow.sdk.execution_time.comms import GetTaskStates

    return GetTaskStates(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index)


def _state_in(answer: Any, ti: Any) -> str | None:
    states = getattr(answer, "task_states", None)
    if states is None:
        return UNKNOWN
    key = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    run = states.get(ti.run_id, {})
    return str(run[key] or "cleared") if key in run else None


def is_test_of_a_task() -> bool:
    """Return True inside of `airflow tasks test`, which may run in a run that exists, on its state store.

    Airflow sets the variable there, and not in `airflow dags test`:
    https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/debug.html
    """
    return os.environ.get("AIRFLOW_TEST_MODE", "").lower() == "true"
