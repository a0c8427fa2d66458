"""Tasks without a worker: arguments within a triggerer's reach, and losses of an end there.

A triggerer has the serialised DAG and may read XComs singly. A triggerer renders no templates, and Airflow
never answers some requests of a trigger. All other arguments need a worker.
"""

from __future__ import annotations

import asyncio
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_vace.task.airflow_internals import (
    aread_xcom,
    arequest_states,
    can_write_xcom_in_triggerer,
    expand_input_of_group,
    has_custom_xcom_backend,
    has_listeners,
    mapped_argument_name,
    plain_xcom_arg_of,
    post_execute_hook_of,
    serialized_xcom_arg_of,
    states_request,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from airflow.triggers.base import StartTriggerArgs

# All instances of a mapped task send the same request at the same time, so they share one.
_Requests = dict[tuple[str, ...], "asyncio.Future[dict[str, str | None]]"]
_requests: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Requests] = weakref.WeakKeyDictionary()


class NeedsWorker(Exception):  # noqa: N818 - no error: a worker goes on
    """Raised for an argument beyond a triggerer's reach; the message gives the reason."""


class MappedStart:
    """`start_trigger_args` of mapped sensors; access imports Airflow's class.

    The trigger finds the arguments of the mapped instance. The time-out of 366 days never ends a wait: from
    the difference to Airflow's deadline the trigger computes the start of the wait.
    """

    def __get__(self, instance: object, owner: type) -> StartTriggerArgs:
        from airflow.triggers.base import StartTriggerArgs

        return StartTriggerArgs(
            trigger_cls="airflow_vace.triggers.VacePredictionStartTrigger",
            trigger_kwargs={},
            next_method="execute_complete",
            next_kwargs=None,
            timeout=timedelta(days=366),
        )


def source_of(operator: Any, prediction: Any) -> dict[str, Any] | None:
    """Return the source of an argument as plain JSON, for :func:`found`.

    :param operator: the task, when Airflow reads the DAG
    :param prediction: a literal, `submit.output`, or an argument of a mapped task group
    :return: None if only a worker can find the argument
    """
    groups = list(operator.iter_mapped_task_groups())
    if (xcom_arg := plain_xcom_arg_of(prediction)) is not None:
        upstream = xcom_arg.operator
        theirs = list(upstream.iter_mapped_task_groups())
        if upstream.is_mapped or len(groups) > 1 or (theirs and theirs != groups):
            return None
        return {"task_id": upstream.task_id, "key": xcom_arg.key, "is_of_group": bool(theirs)}
    if (argument := mapped_argument_name(prediction)) is not None:
        return {"argument": argument} if len(groups) == 1 else None
    return {"literal": prediction} if is_plain(prediction) else None


async def found(source: Mapping[str, Any], ti: Any) -> Any:
    """Return the reference to the awaited prediction.

    :param source: from :func:`source_of`; empty for a mapped task, whose `prediction` is the mapped argument
    :param ti: the task instance, with the serialised task
    :raises NeedsWorker: if only a worker can find the reference
    """
    if "literal" in source:
        return source["literal"]
    if "task_id" in source:
        map_index = ti.map_index if source["is_of_group"] else -1
        return await _xcom(ti, source["task_id"], source["key"], map_index)
    task = ti.task
    if "argument" in source:
        group = next(iter(task.iter_mapped_task_groups()))
        return await _element(expand_input_of_group(group), source["argument"], ti)
    return await _element(getattr(task, "expand_input", None), "prediction", ti)


async def _element(expanded: Any, name: str, ti: Any) -> Any:
    """Return the instance's element of the single mapped argument."""
    # With several mapped arguments an index stands for a combination, which only Airflow can compute.
    values = getattr(expanded, "value", None)
    if not isinstance(values, dict) or set(values) != {name}:
        raise NeedsWorker("it is mapped over other arguments too")
    argument = values[name]
    if (xcom_arg := serialized_xcom_arg_of(argument)) is not None:
        upstream = xcom_arg.operator
        if hasattr(upstream, "expand_input") or list(upstream.iter_mapped_task_groups()):
            await _check_instances(ti, upstream.task_id)
            return await _xcom(ti, upstream.task_id, xcom_arg.key, ti.map_index)
        argument = await _xcom(ti, upstream.task_id, xcom_arg.key, -1)
    if not isinstance(argument, list) or not 0 <= ti.map_index < len(argument):
        raise NeedsWorker(f"it is mapped over a {type(argument).__name__}")
    element = argument[ti.map_index]
    if not is_plain(element):
        raise NeedsWorker("it is a template")
    return element


async def _xcom(ti: Any, task_id: str, key: str, map_index: int) -> Any:
    # A blocking read would stop all other triggers of this process.
    if has_custom_xcom_backend():
        raise NeedsWorker("the XCom backend may block")
    value = await aread_xcom(ti, task_id, key, map_index)
    if value is None:
        raise NeedsWorker(f"{task_id} has no result")
    return value


async def _check_instances(ti: Any, task_id: str) -> None:
    """Check that the n-th instance belongs to the n-th instance upstream.

    Airflow counts results and omits instances without a result: after a skip or a failure, all later
    instances move up by one (`airflow/models/expandinput.py`, 3.3.2).

    :raises NeedsWorker: unless all upstream instances have succeeded, and both tasks have as many instances
    """
    states = await _states(ti, task_id)
    own = [name for name in states if name.rpartition("_")[0] == ti.task_id]
    theirs = [state for name, state in states.items() if name.rpartition("_")[0] == task_id]
    if set(theirs) != {"success"} or len(own) != len(theirs):
        raise NeedsWorker("some of the mapped tasks before it have no result")


async def _states(ti: Any, task_id: str) -> dict[str, str | None]:
    """Return the states of all instances of this task and another."""
    # Hundreds of instances start together, so concurrent calls share a request.
    key = (ti.dag_id, ti.run_id, ti.task_id, task_id)
    requests = _requests.setdefault(asyncio.get_running_loop(), {})
    if key not in requests:
        request = requests[key] = asyncio.ensure_future(_request_states(ti, task_id))
        request.add_done_callback(lambda _: requests.pop(key, None))
    # One cancelled trigger must not cancel the request of all others.
    return await asyncio.shield(requests[key])


async def _request_states(ti: Any, task_id: str) -> dict[str, str | None]:
    response = await arequest_states(states_request(ti, [ti.task_id, task_id]))
    states: dict[str, str | None] = response.task_states.get(ti.run_id, {})
    return states


def can_end_tasks() -> bool:
    """Return True if triggers can write a result and end a task (Airflow 3.3+)."""
    return can_write_xcom_in_triggerer()


def lost_by_ending(task: Any, map_index: int) -> list[str]:
    """Return the names of features with need for a worker after a success.

    :param task: on a worker, or serialised
    :param map_index: of the task instance, -1 without mapping
    """
    is_in_dag = getattr(task, "has_dag", lambda: True)()
    is_followed = map_index < 0 and is_in_dag and any(True for _ in task.iter_mapped_dependants())
    has = {
        "on_success_callback": getattr(task, "has_on_success_callback", False)
        or getattr(task, "on_success_callback", None),
        "outlets": task.outlets,
        "post_execute": post_execute_hook_of(task),
        "multiple_outputs": getattr(task, "multiple_outputs", False),
        "a task that is mapped over its result": is_followed,
        "listeners of plugins": has_listeners(task),
        "a custom XCom backend": has_custom_xcom_backend(),
    }
    return [name for name, is_there in has.items() if is_there]


def started_at(task: Any, timeout_after: datetime | None) -> float | None:
    """Return the start of a wait, seconds since the epoch; None if unknown.

    :param timeout_after: Airflow's deadline for the trigger, which is the start plus the shortest limit
    """
    limits = [getattr(task.start_trigger_args, "timeout", None), task.execution_timeout]
    shortest = min((limit for limit in limits if isinstance(limit, timedelta)), default=None)
    if timeout_after is None or shortest is None:
        return None
    return (timeout_after - shortest).timestamp()


def is_plain(value: Any) -> bool:
    """Return True if a value is JSON without a template."""
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float)
