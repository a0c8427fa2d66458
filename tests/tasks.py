"""Runs one task as Airflow does, without its database: legs, deferrals, reschedules, rows of JSON."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_vace.triggers import VacePredictionTrigger

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import AirflowRescheduleException

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import BaseOperator


NOBODY: Any = {"ti": None}


class TaskInstance:
    """As much of a task instance as our tasks use."""

    def __init__(self, task_id: str = "t") -> None:
        self.task_id = task_id
        self.map_index = -1
        self.xcoms: dict[str, Any] = {}
        self.started = datetime.now(UTC)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)

    def get_first_reschedule_date(self, context: object) -> datetime:
        del context
        return self.started


class Run:
    """What became of a task: its result, how often it deferred, the rows of its triggers."""

    def __init__(self, make: Callable[[], BaseOperator]) -> None:
        self.ti = TaskInstance()
        self.context: Any = {"ti": self.ti}
        self.deferred: list[TaskDeferred] = []
        self.rows: list[dict[str, Any]] = []
        self.legs: list[BaseOperator] = []
        self.make = make

    def leg(self) -> BaseOperator:
        """Return the task as a new process would have it."""
        self.legs.append(copy.copy(self.make()))
        return self.legs[-1]

    def result(self, *, between: Callable[[], object] = lambda: None) -> Any:
        """Run to the end; `between` is called while the task is deferred."""
        method, kwargs = "execute", None
        while True:
            try:
                if method == "execute":
                    return self.leg().execute(self.context)
                return self.leg().resume_execution(method, kwargs, self.context)
            except AirflowRescheduleException as again:
                time.sleep(max((again.reschedule_date - datetime.now(UTC)).total_seconds(), 0))
            except TaskDeferred as deferred:
                self.deferred.append(deferred)
                row = json.loads(json.dumps(deferred.trigger.serialize()[1]))
                self.rows.append(row)
                between()
                method = deferred.method_name
                kwargs = {**(deferred.kwargs or {}), "event": event_of(row)}


def event_of(row: dict[str, Any]) -> Any:
    """Run the trigger of a row to its one event."""

    async def first() -> Any:
        events = [event.payload async for event in VacePredictionTrigger(**row).run()]
        (payload,) = events
        return json.loads(json.dumps(payload))

    return asyncio.run(first())
