"""Runs one task as Airflow does, without its database: legs, deferrals, reschedules, rows of JSON."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_vace.triggers import VacePredictionTrigger

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import AirflowRescheduleException

try:
    from airflow.sdk.execution_time.context import NEVER_EXPIRE
except ImportError:  # before Airflow 3.3
    NEVER_EXPIRE = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import BaseOperator


NOBODY: Any = {"ti": None}


class TaskInstance:
    """As much of a task instance as our tasks use."""

    def __init__(self, task_id: str = "t") -> None:
        self.task_id = task_id
        self.dag_id, self.run_id = "d", "r"
        self.map_index = -1
        self.try_number = 1
        self.max_tries = 2
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


class Store:
    """Airflow's task state store, as a dictionary of JSON; `trouble` is what it raises, once per item."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.trouble: list[tuple[str, Exception]] = []
        self.written: list[dict[str, Any]] = []

    def _meet(self, call: str) -> None:
        if self.trouble and self.trouble[0][0] == call:
            raise self.trouble.pop(0)[1]

    def get(self, key: str) -> Any:
        self._meet("get")
        return json.loads(self.rows[key]) if key in self.rows else None

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self._meet("set")
        assert retention is NEVER_EXPIRE
        self.rows[key] = json.dumps(value)
        self.written.append(json.loads(self.rows[key]))

    def delete(self, key: str) -> None:
        self._meet("delete")
        self.rows.pop(key, None)

    @property
    def record(self) -> Any:
        """The one record, None if there is none."""
        return json.loads(self.rows["vace_prediction"]) if self.rows else None


class Run:
    """What became of a task: its result, how often it deferred, the rows of its triggers.

    With a `store` it has what Airflow 3.3 keeps across attempts.
    """

    def __init__(self, make: Callable[[], BaseOperator], store: Store | None = None) -> None:
        self.ti = TaskInstance()
        self.context: Any = {"ti": self.ti}
        if store is not None:
            self.context["task_state_store"] = store
        self.deferred: list[TaskDeferred] = []
        self.rows: list[dict[str, Any]] = []
        self.legs: list[BaseOperator] = []
        self.make = make

    def leg(self) -> BaseOperator:
        """Return the task as a new process would have it."""
        self.legs.append(copy.copy(self.make()))
        return self.legs[-1]

    def retried(self) -> Self:
        """Return the next attempt, which Airflow begins by itself."""
        self.ti.try_number += 1
        self.ti.xcoms.clear()
        return self

    def cleared(self) -> Self:
        """Return the next attempt, which a person asks for."""
        self.ti.max_tries = self.ti.try_number + 2
        return self.retried()

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
