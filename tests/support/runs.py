"""Runs a test's own DAGs by Airflow, in this process."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG


def run(dag: DAG, **conf: Any) -> DagRun:
    """Write a DAG without a file to the database, as the DAG processor does, and run the DAG to the end."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag, sync_bag_to_db  # type: ignore[no-redef]

    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    found: DagRun = dag.test(run_conf=conf)
    return found


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


def content_of(path: Path) -> bytes:
    """Return the bytes of a file, which may be Airflow's database.

    Another process reads, because a file that this process closes would lose the locks of SQLite.
    """
    return subprocess.run(["cat", str(path)], check=True, capture_output=True).stdout
