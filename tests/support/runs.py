"""Runs a test's own DAGs by Airflow, in this process."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG


def stored(dag: DAG) -> None:
    """Write a DAG without a file to the database, as the DAG processor does."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag, sync_bag_to_db  # type: ignore[no-redef]

    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)


def run(dag: DAG, **conf: Any) -> DagRun:
    """Write a DAG without a file to the database, and run the DAG to the end."""
    stored(dag)
    found: DagRun = dag.test(run_conf=conf)
    return found


def created(dag_id: str) -> str:
    """Create a run of a stored DAG whose tasks have not started; return the id of the run."""
    import pendulum
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.timetables.base import DataInterval
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    with create_session() as session:
        dag = SerializedDagModel.get_dag(dag_id, session=session)
        assert dag is not None
        now = pendulum.now("UTC")
        made = dag.create_dagrun(
            run_id=f"manual__{now.isoformat()}",
            logical_date=now,
            data_interval=DataInterval(now, now),
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.REST_API,
            state=DagRunState.RUNNING,
            session=session,
        )
        return str(made.run_id)


def put_xcom(place: tuple[str, str, str], key: str, value: Any) -> None:
    """Write an XCom, as a worker does.

    :param place: ids of DAG, run and task
    """
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    dag_id, run_id, task_id = place
    with create_session() as session:
        XComModel.set(
            key=key, value=value, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=-1, session=session
        )


def set_state(place: tuple[str, str, str], state: str) -> None:
    """Set the state of a task instance."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import update

    wanted = zip((TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id), place, strict=True)
    with create_session() as session:
        session.execute(
            update(TaskInstance).where(*(column == value for column, value in wanted)).values(state=state)
        )


def states(found: DagRun) -> dict[tuple[str, int], str]:
    return {(ti.task_id, ti.map_index): str(ti.state) for ti in found.get_task_instances()}


def xcom(found: DagRun, task_id: str, map_index: int = -1) -> Any:
    ti = found.get_task_instance(task_id, map_index=map_index)
    assert ti is not None
    return ti.xcom_pull(task_ids=task_id, map_indexes=map_index)


def extras(task_id: str) -> list[dict[str, Any]]:
    """Return the extras of the asset events of a task."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(AssetEvent).where(AssetEvent.source_task_id == task_id))
        return [dict(event.extra) for event in found]


def partitions(task_id: str) -> list[str | None]:
    """Return the partition keys of the asset events of a task."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(AssetEvent).where(AssetEvent.source_task_id == task_id))
        return [event.partition_key for event in found]


def content_of(path: Path) -> bytes:
    """Return the bytes of a file, which may be Airflow's database.

    Another process reads, because a file that this process closes would lose the locks of SQLite.
    """
    return subprocess.run(["cat", str(path)], check=True, capture_output=True).stdout
