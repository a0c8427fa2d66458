"""Airflow's part of a triggerer: XComs, task states, and serialised tasks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.hooks import VaceHook
from airflow_vace.task.triggerer import can_end_tasks
from airflow_vace.triggers import VacePredictionStartTrigger, VacePredictionTrigger

if TYPE_CHECKING:
    from airflow.sdk import DAG

DONE = {"status": "succeeded", "output": "https://example.com/a.mp4"}

needs_airflow_3_3 = pytest.mark.skipif(not can_end_tasks(), reason="Airflow 3.3 lets a trigger end a task")


HERE: dict[str, Any] = {"start_from_trigger": True, "deferrable": True, "timeout": 100}


class Supervisor:
    """Responds to a triggerer as Airflow does: XComs by (task, map index), and states of task instances.

    `counts` has the number of instances of each task, and `states` the instances without success.
    """

    def __init__(self, **counts: int) -> None:
        self.xcoms: dict[tuple[str, int], Any] = {}
        self.left: dict[str, Any] = {}
        self.counts = counts
        self.states: dict[str, str] = {}
        self.asked = 0
        self.trouble: Exception | None = None

    async def asend(self, question: Any = None, **kwargs: Any) -> Any:
        from airflow.sdk.execution_time.comms import TaskStatesResult, XComResult

        question = question or kwargs["msg"]
        if self.trouble:
            raise self.trouble
        match type(question).__name__:
            case "SetXCom":
                self.left[question.key] = question.value
                return None
            case "GetXCom":
                value = self.xcoms.get((question.task_id, question.map_index))
                return XComResult(key=question.key, value=value)
            case "GetTaskStates":
                self.asked += 1
                names = [f"{name}_{n}" for name in question.task_ids for n in range(self.counts[name])]
                return TaskStatesResult(task_states={"r": dict.fromkeys(names, "success") | self.states})
        raise AssertionError(f"Airflow never answers a triggerer this request: {question}")


def ti_of(task: Any = None, map_index: int = -1, task_id: str = "wait") -> Any:
    return SimpleNamespace(dag_id="d", run_id="r", task_id=task_id, map_index=map_index, task=task)


def events_of(trigger: VacePredictionTrigger, ti: Any) -> Any:
    async def all_of_them() -> list[Any]:
        trigger.task_instance = ti
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(all_of_them())
    return event


def created() -> str:
    return VaceHook().create_prediction({"prompt": "a fox"}).id


def serialised(dag: DAG) -> Any:
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


def begun(dag: DAG, task_id: str, map_index: int = -1) -> tuple[VacePredictionStartTrigger, Any]:
    """Return the trigger with which a scheduler begins a task, and the task instance for the trigger."""
    from airflow.serialization.decoders import smart_decode_trigger_kwargs

    known = serialised(dag).get_task(task_id)
    assert known.start_from_trigger
    encoded = known.start_trigger_args.trigger_kwargs or {}
    decoded: Any = smart_decode_trigger_kwargs
    kwargs = decoded(encoded) if "__var" in encoded else encoded
    trigger = VacePredictionStartTrigger(**kwargs)
    trigger.timeout_after = datetime.now(UTC) + known.start_trigger_args.timeout
    return trigger, ti_of(known, map_index, task_id)
