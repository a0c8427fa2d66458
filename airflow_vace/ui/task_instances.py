"""The task instances of a DAG run that belong to the provider, read from Airflow's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import or_, select, tuple_

from airflow_vace.task.view import VIEW_KEY as VIEW
from airflow_vace.ui import OPERATOR_NAMES
from airflow_vace.ui.cards import RESULT, Task, read_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

# A page with more cards than this is of no use, and each card costs memory in the API server.
_MAX_TASKS = 2000
_ORDER = (TaskInstance.task_id, TaskInstance.map_index)


def tasks_of(
    session: Session, dag_id: str, run_id: str, task_id: str | None = None, map_index: int | None = None
) -> list[Task]:
    """Return the provider's task instances in a run, ordered by task id and map index.

    Subclasses of the operators count as the provider's if they have pushed a view to XCom. An instance
    without values appears only during a run and after a failure.

    :param task_id: return the instances of this task alone
    :param map_index: return the instances with this index alone
    """
    chosen = select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    if task_id is not None:
        chosen = chosen.where(TaskInstance.task_id == task_id)
    if map_index is not None:
        chosen = chosen.where(TaskInstance.map_index == map_index)
    chosen = chosen.where(_is_ours(dag_id, run_id)).order_by(*_ORDER).limit(_MAX_TASKS)
    instances = session.scalars(chosen).all()
    values = _values_of(session, dag_id, run_id, chosen) if instances else {}
    return _tasks(instances, values)


def _is_ours(dag_id: str, run_id: str) -> Any:
    has_view = select(XComModel.task_id, XComModel.map_index).where(
        XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key == VIEW
    )
    return or_(
        TaskInstance.operator.in_(OPERATOR_NAMES),
        TaskInstance.custom_operator_name.in_(OPERATOR_NAMES),
        tuple_(TaskInstance.task_id, TaskInstance.map_index).in_(has_view),
    )


def _values_of(
    session: Session, dag_id: str, run_id: str, chosen: Select[Any]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the XComs of the chosen instances: `{(task_id, map_index): {key: value}}`."""
    # One query for all instances: a query for each card would take seconds for a large run. MySQL accepts
    # no LIMIT directly inside IN, so the select is wrapped.
    place = tuple_(XComModel.task_id, XComModel.map_index)
    xcoms = select(XComModel).where(
        XComModel.dag_id == dag_id,
        XComModel.run_id == run_id,
        XComModel.key.in_((RESULT, VIEW)),
        place.in_(select(chosen.with_only_columns(*_ORDER).subquery())),
    )
    values: dict[tuple[str, int], dict[str, Any]] = {}
    for xcom in session.scalars(xcoms):
        values.setdefault((xcom.task_id, xcom.map_index), {})[xcom.key] = read_value(xcom.value)
    return values


def _tasks(instances: Sequence[TaskInstance], values: dict[tuple[str, int], dict[str, Any]]) -> list[Task]:
    found = []
    for instance in instances:
        known = values.get((instance.task_id, instance.map_index), {})
        # Without values there is nothing to show, except that a task is at work or has failed.
        if known or instance.state in ("running", "failed"):
            found.append(
                Task(
                    task_id=instance.task_id,
                    map_index=instance.map_index,
                    state=str(instance.state) if instance.state else None,
                    try_number=instance.try_number,
                    result=known.get(RESULT),
                    view=known.get(VIEW),
                )
            )
    return found
