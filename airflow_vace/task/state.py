"""State of a task instance: ended by a person, or going on elsewhere."""

from __future__ import annotations

import os
from typing import Any

from airflow_vace.task.airflow_internals import arequest_states, request_states, states_request

# A person sets these states. "deferred" is a hand-over to another triggerer, or the next attempt after a
# clear, and "running" belongs to a worker that stops under its task: both go on with the prediction.
ENDED_BY_A_PERSON = frozenset({"failed", "success", "skipped", "upstream_failed", "removed"})

RUNNING = "running"

# Stands for a response without a state.
UNKNOWN = "unknown"


def is_ended(state: str | None) -> bool:
    """Return True if the task is over and no attempt follows.

    :param state: Airflow's state; None for a task instance that no longer exists
    """
    return state is None or state in ENDED_BY_A_PERSON


def read_state(ti: Any) -> str | None:
    """Return the present state of a task instance, None without instance.

    :raises Exception: of any kind, if Airflow could not be asked
    """
    return _state_in(request_states(states_request(ti, [ti.task_id], ti.map_index)), ti)


async def aread_state(ti: Any) -> str | None:
    """Await :func:`read_state`."""
    return _state_in(await arequest_states(states_request(ti, [ti.task_id], ti.map_index)), ti)


def _state_in(response: Any, ti: Any) -> str | None:
    states = getattr(response, "task_states", None)
    if states is None:
        return UNKNOWN
    key = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    run = states.get(ti.run_id, {})
    return str(run[key] or "cleared") if key in run else None


def is_test_of_a_task() -> bool:
    """Return True inside `airflow tasks test`.

    Such a test may run in a real DAG run, on the state store of that run.

    Airflow sets the variable there, and not in `airflow dags test`:
    https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/debug.html
    """
    return os.environ.get("AIRFLOW_TEST_MODE", "").lower() == "true"
