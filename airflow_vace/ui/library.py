"""The page *Videos* in Airflow's navigation: the runs of all DAGs that have videos, newest first."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from sqlalchemy import and_, or_, select

from airflow_vace.task.view import VIEW_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

PAGE_SIZE = 8


def readable_dags(session: Session, user: Any) -> dict[str, str]:
    """Return the display name of each DAG that has videos, by id, if the user may read the DAG's XComs.

    The permission is the one of the gallery of a run.
    """
    with_views = select(XComModel.dag_id).where(XComModel.key == VIEW_KEY)
    dags = session.scalars(select(DagModel).where(DagModel.dag_id.in_(with_views))).all()
    manager = get_auth_manager()
    found = {
        dag.dag_id: dag.dag_display_name
        for dag in dags
        if manager.is_authorized_dag(
            method="GET",
            access_entity=DagAccessEntity.XCOM,
            details=DagDetails(id=dag.dag_id, team_name=DagModel.get_team_name(dag.dag_id, session=session)),
            user=user,
        )
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].casefold(), item[0])))


def runs_with_videos(
    session: Session, dag_ids: Iterable[str], before: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of runs, newest first, and the cursor of the next page; None on the last one.

    :param dag_ids: the DAGs whose runs are listed
    :param before: cursor of the page, None for the first one
    :raises ValueError: for a cursor of another form
    """
    with_views = select(XComModel.dag_run_id).where(XComModel.key == VIEW_KEY)
    wanted = select(DagRun).where(DagRun.dag_id.in_(list(dag_ids)), DagRun.id.in_(with_views))
    if before is not None:
        moment, number = _read(before)
        older = and_(DagRun.run_after == moment, DagRun.id < number)
        wanted = wanted.where(or_(DagRun.run_after < moment, older))
    # One more than a page shows if another page follows.
    ordered = wanted.order_by(DagRun.run_after.desc(), DagRun.id.desc()).limit(PAGE_SIZE + 1)
    found = session.scalars(ordered).all()
    shown = found[:PAGE_SIZE]
    runs = [
        {
            "dag_id": run.dag_id,
            "run_id": run.run_id,
            "state": str(run.state),
            "run_after": run.run_after.isoformat(),
        }
        for run in shown
    ]
    return runs, f"{shown[-1].run_after.isoformat()}~{shown[-1].id}" if len(found) > PAGE_SIZE else None


def _read(cursor: str) -> tuple[datetime, int]:
    moment, _, number = cursor.partition("~")
    found = datetime.fromisoformat(moment)
    if found.tzinfo is None or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise ValueError(cursor)
    return found, int(number)
