"""Tasks without a worker: what a triggerer can find of their arguments, and what is lost if they end there.

A triggerer is told the serialised DAG and may ask for one XCom at a time; it renders nothing, and some of
its questions to Airflow are never answered. What can be found so is found; all else is a worker's.
"""

from __future__ import annotations

import asyncio
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from airflow.triggers.base import StartTriggerArgs

# All instances of a mapped task ask the same at the same time.
_Questions = dict[tuple[str, ...], "asyncio.Future[dict[str, str | None]]"]
_questions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Questions] = weakref.WeakKeyDictionary()


class NotHere(Exception):  # noqa: N818 - no error: a worker finds it
    """It can't be found in a triggerer; the message says why."""


class MappedStart:
    """How mapped sensors begin in the triggerer: an attribute of the class, imported where it is read.

    What they are mapped over, the trigger finds. So long nobody waits: it tells when the wait began.
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
    """Return, as plain JSON, where a triggerer finds what an author gave; None if it could not.

    :param operator: the task, as it is when the DAG is read
    :param prediction: a literal, `submit.output`, or an argument of a mapped task group
    """
    from airflow.sdk.definitions._internal.expandinput import MappedArgument
    from airflow.sdk.definitions.xcom_arg import PlainXComArg

    groups = list(operator.iter_mapped_task_groups())
    if isinstance(prediction, PlainXComArg):
        upstream = prediction.operator
        theirs = list(upstream.iter_mapped_task_groups())
        if upstream.is_mapped or len(groups) > 1 or (theirs and theirs != groups):
            return None
        return {"task_id": upstream.task_id, "key": prediction.key, "is_of_group": bool(theirs)}
    if isinstance(prediction, MappedArgument):
        return {"argument": prediction._key} if len(groups) == 1 else None  # noqa: SLF001 - told nowhere else
    return {"literal": prediction} if is_plain(prediction) else None


async def found(source: Mapping[str, Any], ti: Any) -> Any:
    """Return what a task waits for.

    :param source: from :func:`source_of`; empty for a mapped task, whose own argument it is
    :param ti: the task instance, with its serialised task
    :raises NotHere: if that takes a worker
    """
    if "literal" in source:
        return source["literal"]
    if "task_id" in source:
        map_index = ti.map_index if source["is_of_group"] else -1
        return await _xcom(ti, source["task_id"], source["key"], map_index)
    task = ti.task
    if "argument" in source:
        group = next(iter(task.iter_mapped_task_groups()))
        return await _element(group._expand_input, source["argument"], ti)  # noqa: SLF001 - as above
    return await _element(getattr(task, "expand_input", None), "prediction", ti)


async def _element(expanded: Any, name: str, ti: Any) -> Any:
    """Return this instance's element of the one argument that a task, or its group, is mapped over."""
    from airflow.serialization.definitions.xcom_arg import SchedulerPlainXComArg

    values = getattr(expanded, "value", None)
    if not isinstance(values, dict) or set(values) != {name}:
        raise NotHere("it is mapped over other arguments too")
    argument = values[name]
    if isinstance(argument, SchedulerPlainXComArg):
        upstream = argument.operator
        if not hasattr(upstream, "expand_input") and not list(upstream.iter_mapped_task_groups()):
            argument = await _xcom(ti, upstream.task_id, argument.key, -1)
        else:
            await _check_instances(ti, upstream.task_id)
            return await _xcom(ti, upstream.task_id, argument.key, ti.map_index)
    if not isinstance(argument, list) or not 0 <= ti.map_index < len(argument):
        raise NotHere(f"it is mapped over a {type(argument).__name__}")
    element = argument[ti.map_index]
    if not is_plain(element):
        raise NotHere("it is a template")
    return element


async def _xcom(ti: Any, task_id: str, key: str, map_index: int) -> Any:
    from airflow.sdk.execution_time.xcom import XCom

    if _has_own_xcoms():
        raise NotHere("the XCom backend may block")
    value = await XCom.aget_one(
        key=key, dag_id=ti.dag_id, task_id=task_id, run_id=ti.run_id, map_index=map_index
    )
    if value is None:
        raise NotHere(f"{task_id} has left no result")
    return value


def _has_own_xcoms() -> bool:
    """Whether XComs go through a deployment's own code, which may block a triggerer's loop."""
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom

    return XCom is not BaseXCom


async def _check_instances(ti: Any, task_id: str) -> None:
    """Return if the n-th instance of this task is the one of the n-th result of a mapped task before it.

    Airflow counts results, and leaves out instances without one: after a skip, or a failure, all that follow
    move up by one (`airflow/models/expandinput.py`, 3.3.2).

    :raises NotHere: unless all instances have succeeded, and there are as many of this task
    """
    states = await _states(ti, task_id)
    own = [name for name in states if name.rpartition("_")[0] == ti.task_id]
    theirs = [state for name, state in states.items() if name.rpartition("_")[0] == task_id]
    if set(theirs) != {"success"} or len(own) != len(theirs):
        raise NotHere("some of the mapped tasks before it have no result")


async def _states(ti: Any, task_id: str) -> dict[str, str | None]:
    """Return the states of all instances of this task and of another one; who asks meanwhile shares it."""
    key = (ti.dag_id, ti.run_id, ti.task_id, task_id)
    questions = _questions.setdefault(asyncio.get_running_loop(), {})
    if key not in questions:
        question = questions[key] = asyncio.ensure_future(_asked(ti, task_id))
        question.add_done_callback(lambda _: questions.pop(key, None))
    return await asyncio.shield(questions[key])


async def _asked(ti: Any, task_id: str) -> dict[str, str | None]:
    from airflow.sdk.execution_time.comms import GetTaskStates
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    question = GetTaskStates(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=[ti.task_id, task_id])
    answer: Any = await SUPERVISOR_COMMS.asend(question)
    states: dict[str, str | None] = answer.task_states.get(ti.run_id, {})
    return states


def can_end_tasks() -> bool:
    """Whether this Airflow lets a trigger push an XCom, and so end a task (from 3.3 on)."""
    from airflow.sdk.bases.xcom import BaseXCom

    return hasattr(BaseXCom, "aset")


def lost_by_ending(task: Any, map_index: int) -> list[str]:
    """Return, for people, what a task has that only a worker does after a success.

    :param task: as it is on a worker, or serialised
    """
    from airflow.sdk.listener import get_listener_manager

    is_in_dag = getattr(task, "has_dag", lambda: True)()
    is_followed = map_index < 0 and is_in_dag and any(True for _ in task.iter_mapped_dependants())
    has = {
        "on_success_callback": getattr(task, "has_on_success_callback", False)
        or getattr(task, "on_success_callback", None),
        "outlets": task.outlets,
        "post_execute": getattr(task, "_post_execute_hook", None),
        "multiple_outputs": getattr(task, "multiple_outputs", False),
        "a task that is mapped over its result": is_followed,
        "listeners of plugins": get_listener_manager().has_listeners,
        "an XCom backend of its own": _has_own_xcoms(),
    }
    return [name for name, is_there in has.items() if is_there]


def started_at(task: Any, timeout_after: datetime | None) -> float | None:
    """Return when Airflow began a wait, in seconds since the epoch, from the moment at which it ends it."""
    limits = [getattr(task.start_trigger_args, "timeout", None), task.execution_timeout]
    shortest = min((limit for limit in limits if isinstance(limit, timedelta)), default=None)
    if timeout_after is None or shortest is None:
        return None
    return (timeout_after - shortest).timestamp()


def is_plain(value: Any) -> bool:
    """Whether a value is JSON without a template in it."""
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float)
