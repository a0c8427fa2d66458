"""The tasks whose videos stand on a task's tab: partners on the same prediction, or the tasks before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import select

from airflow_vace.task.view import VIEW_KEY
from airflow_vace.ui.task_instances import of_task, tasks_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_vace.ui.cards import Task


def tasks_of_tab(
    session: Session, dag_id: str, run_id: str, task_id: str, map_index: int | None
) -> tuple[list[Task], bool]:
    """Return the tasks on the tab of a task, and True if they are tasks before it.

    A submitting task and its sensor know one prediction, so the tab of either merges both. The tab of a task
    without videos of its own has those of the tasks before it.

    :param map_index: None means all instances of the task
    """
    own = tasks_of(session, dag_id, run_id, of_task(task_id, map_index))
    if own:
        return [*own, *_partners(session, dag_id, run_id, own)], False
    return _upstream(session, dag_id, run_id, task_id, map_index), True


def _partners(session: Session, dag_id: str, run_id: str, own: list[Task]) -> list[Task]:
    """Return the other tasks of a run with the same predictions, if `own` misses an end or an input."""
    known = {task.instance: task.prediction for task in own}
    ids = {
        prediction.id
        for task in own
        if (prediction := known[task.instance]) is not None
        # A task that knows all needs no look at the whole run.
        and (not prediction.completed_at or not task.known.get("input"))
    }
    if not ids:
        return []
    others = [task for task in tasks_of(session, dag_id, run_id) if task.instance not in known]
    return [task for task in others if task.prediction is not None and task.prediction.id in ids]


def _upstream(session: Session, dag_id: str, run_id: str, task_id: str, map_index: int | None) -> list[Task]:
    has_video = select(XComModel.key).where(
        XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key == VIEW_KEY
    )
    # Before Airflow 3.4 the tab is on the tasks of all DAGs, and reading a large DAG takes long.
    if session.execute(has_video.limit(1)).first() is None:
        return []
    dag = SerializedDagModel.get_dag(dag_id, session=session)
    if dag is None or not dag.has_task(task_id):
        return []
    before = dag.get_task(task_id).get_flat_relative_ids(upstream=True)
    found = tasks_of(session, dag_id, run_id, [TaskInstance.task_id.in_(before)])
    if map_index is None or map_index < 0:
        return found
    # A task in a mapped group follows the tasks with the same index.
    return [task for task in found if task.map_index in (-1, map_index)] or found
