"""The task instances of a DAG run that belong to the provider, read from Airflow's database."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import and_, or_, select, tuple_

from airflow_vace.task.view import PAGE_PREFIX, page_key
from airflow_vace.task.view import VIEW_KEY as VIEW
from airflow_vace.ui import OPERATOR_NAMES
from airflow_vace.ui.cards import RESULT, Task
from airflow_vace.ui.xcoms import StoredValues, Unread, address_of, read_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

# A page with more cards than this is of no use, and each card costs memory in the API server.
_MAX_TASKS = 2000
# From Airflow 3.4 on the passes of a loop share task and map index, so XComs name the task instance, and the
# growing ids of regions give the order of the passes.
_OWNER: tuple[Any, ...] = (XComModel.task_id, XComModel.map_index)
_INSTANCE: tuple[Any, ...] = (TaskInstance.task_id, TaskInstance.map_index)
_PASS: tuple[Any, ...] = ()
if (owner_column := getattr(XComModel, "task_instance_id", None)) is not None:
    _OWNER, _INSTANCE = (owner_column,), (TaskInstance.id,)
    _PASS = (getattr(TaskInstance, "region_id"),)  # noqa: B009 - not there before Airflow 3.4
_ORDER = (TaskInstance.task_id, TaskInstance.map_index, *_PASS)

_stored = StoredValues()
# A page holds some hundred times the bytes of another value, so the API server keeps few.
_stored_pages = StoredValues(max_known=20)

# `{key: value}` of the XComs of each task instance, by the columns of `_INSTANCE`.
_Values = dict[tuple[Any, ...], dict[str, Any]]


def of_task(task_id: str | None, map_index: int | None) -> list[Any]:
    """Return the conditions for the instances of a task, or with a map index; None means any."""
    conditions: list[Any] = [] if task_id is None else [TaskInstance.task_id == task_id]
    return conditions if map_index is None else [*conditions, TaskInstance.map_index == map_index]


def of_instance(instance: UUID) -> list[Any]:
    """Return the condition for the task instance with an id."""
    # The column holds text before Airflow 3.4.
    return [TaskInstance.id == TaskInstance.id.type.python_type(str(instance))]


def tasks_of(
    session: Session, dag_id: str, run_id: str, conditions: Iterable[Any] = (), page: int | None = None
) -> list[Task]:
    """Return the provider's task instances in a run, ordered by task id, map index and pass of a loop.

    Subclasses of the operators count as the provider's if they have pushed a view to XCom. An instance
    without values appears only during a run and after a failure. A read from the XCom store closes the
    session.

    :param conditions: from :func:`of_task` or :func:`of_instance`
    :param page: number of the page to read from each batch, from 0; None reads no page
    """
    chosen = select(TaskInstance).where(
        TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, *conditions
    )
    chosen = chosen.where(_is_ours(dag_id, run_id)).order_by(*_ORDER).limit(_MAX_TASKS)
    instances = session.scalars(chosen).all()
    key = None if page is None else page_key(page)
    values = _values_of(session, dag_id, run_id, chosen, key) if instances else {}
    return _tasks(instances, values, key)


def pages_written_at(
    session: Session, dag_id: str, run_id: str, instances: Iterable[str]
) -> dict[str, dict[int, datetime]]:
    """Return the time of each page in XCom, by task instance and number of the page; no page is read.

    :param instances: ids of batch tasks
    """
    to_id = TaskInstance.id.type.python_type
    owned = [owner == column for owner, column in zip(_OWNER, _INSTANCE, strict=True)]
    wanted = (
        select(TaskInstance.id, XComModel.key, XComModel.timestamp)
        .join(TaskInstance, and_(*owned))
        .where(
            *(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id),
            *(XComModel.dag_id == dag_id, XComModel.run_id == run_id),
            TaskInstance.id.in_([to_id(instance) for instance in instances]),
            XComModel.key.startswith(PAGE_PREFIX, autoescape=True),
        )
    )
    found: dict[str, dict[int, datetime]] = {}
    for instance, key, written_at in session.execute(wanted):
        number = key.removeprefix(PAGE_PREFIX)
        if number.isdecimal():
            found.setdefault(str(instance), {})[int(number)] = written_at
    return found


def _is_ours(dag_id: str, run_id: str) -> Any:
    has_view = select(*_OWNER).where(
        XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key == VIEW
    )
    return or_(
        TaskInstance.operator.in_(OPERATOR_NAMES),
        TaskInstance.custom_operator_name.in_(OPERATOR_NAMES),
        tuple_(*_INSTANCE).in_(has_view),
    )


def _values_of(session: Session, dag_id: str, run_id: str, chosen: Select[Any], page: str | None) -> _Values:
    """Return the XComs of the chosen instances."""
    # One query for all instances: a query for each card would take seconds for a large run. MySQL accepts
    # no LIMIT directly inside IN, so the select is wrapped.
    xcoms = select(*_OWNER, XComModel.key, XComModel.value, XComModel.timestamp).where(
        XComModel.dag_id == dag_id,
        XComModel.run_id == run_id,
        XComModel.key.in_((RESULT, VIEW) if page is None else (RESULT, VIEW, page)),
        tuple_(*_OWNER).in_(select(chosen.with_only_columns(*_INSTANCE).subquery())),
    )
    values: _Values = {}
    places = {}
    for *columns, key, raw, written_at in session.execute(xcoms):
        owner = tuple(columns)
        value = values.setdefault(owner, {})[key] = read_value(raw)
        if (address := address_of(value)) is not None:
            places[owner, key] = (address, written_at)
    if places:
        # A store may take long to answer, so give the database connection back first.
        session.close()
        found = _stored.read([place for (_, name), place in places.items() if name != page])
        found |= _stored_pages.read([place for (_, name), place in places.items() if name == page])
        for (owner, name), place in places.items():
            values[owner][name] = found[place]
    return values


def _tasks(instances: Sequence[TaskInstance], values: _Values, page: str | None) -> list[Task]:
    found = []
    counts = Counter((instance.task_id, instance.map_index) for instance in instances)
    passes: Counter[tuple[str, int]] = Counter()
    for instance in instances:
        place = (instance.task_id, instance.map_index)
        passes[place] += 1
        known = values.get(tuple(getattr(instance, column.key) for column in _INSTANCE), {})
        unread = next((value for value in known.values() if isinstance(value, Unread)), None)
        # Without values there is nothing to show, except that a task is at work or has failed.
        if known or instance.state in ("running", "failed"):
            found.append(
                Task(
                    instance=str(instance.id),
                    task_id=instance.task_id,
                    map_index=instance.map_index,
                    loop_pass=passes[place] if counts[place] > 1 else None,
                    state=str(instance.state) if instance.state else None,
                    try_number=instance.try_number,
                    result=known.get(RESULT),
                    view=known.get(VIEW),
                    trouble=unread.reason if unread else None,
                    page=None if page is None else known.get(page),
                )
            )
    return found
