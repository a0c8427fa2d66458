"""The plugin's routes: who may read a DAG's XComs sees what its tasks have made, and nothing else.

Plugins' routes are open to everybody by default: each one here names whom it lets in.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from threading import Lock, Semaphore
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.providers.common.compat.sdk import AirflowNotFoundException, conf
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, Response, StreamingResponse
from sqlalchemy import or_, select, tuple_

from airflow_vace.exceptions import VaceError
from airflow_vace.ui.cards import RESULT, Task, cards_of, read_value
from airflow_vace.ui.files import is_below, pieces, place_below, range_of, roots_of, type_of
from airflow_vace.ui.plugin import OPERATOR_NAMES
from airflow_vace.view import KEY as VIEW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

_MOST_TASKS = 2000
# A look at a running prediction serves all who watch it for so long.
_LOOK_SECONDS = 5.0
_MOST_LOOKS = 500
# Looks at once: a slow back-end must not take the API server's threads.
_looking = Semaphore(4)
_looks: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}
_looks_lock = Lock()

_HEADERS = {
    "Cache-Control": "private, no-store",
    # Airflow compresses what does not say how it is coded, and a range would be one of something else.
    "Content-Encoding": "identity",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
_MAY_READ = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM))
_IS_KNOWN = Depends(get_user)
_MOST_INDEX = 2**31 - 1  # of the database's integers
MapIndex = Annotated[int, InPath(ge=-1, le=_MOST_INDEX)]


def new_app() -> FastAPI:
    """Return the routes; without FastAPI's pages about them, which would be open to everybody."""
    app = FastAPI(title="VACE videos", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/tab.js", script, dependencies=[_IS_KNOWN])
    run = "/runs/{dag_id}/{run_id}"
    app.add_api_route(f"{run}/videos", videos, dependencies=[_MAY_READ])
    app.add_api_route(f"{run}/progress/{{task_id}}/{{map_index}}", progress, dependencies=[_MAY_READ])
    app.add_api_route(
        f"{run}/files/{{task_id}}/{{map_index}}/{{number}}",
        saved_file,
        methods=["GET", "HEAD"],
        dependencies=[_MAY_READ],
        response_class=StreamingResponse,
    )
    return app


def script() -> FileResponse:
    """Send the one script of the tabs."""
    headers = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
    return FileResponse(Path(__file__).with_name("tab.js"), media_type="text/javascript", headers=headers)


def videos(
    request: Request,
    dag_id: str,
    run_id: str,
    session: SessionDep,
    task_id: str | None = None,
    map_index: Annotated[int | None, Query(ge=-1, le=_MOST_INDEX)] = None,
) -> list[dict[str, Any]]:
    """Return a card for each prediction of a run, or of one task instance in it."""
    root = f"{request.scope.get('root_path', '')}/runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"
    roots = _roots()

    def source(task: Task, number: int, file: dict[str, Any]) -> str | None:
        if not is_below(roots, file.get("uri")):
            return None
        return f"{root}/files/{quote(task.task_id, safe='')}/{task.map_index}/{number}"

    tasks = _tasks(session, dag_id, run_id, task_id, map_index)
    return [asdict(card) for card in cards_of(tasks, source)]


def progress(
    dag_id: str, run_id: str, task_id: str, map_index: MapIndex, session: SessionDep
) -> dict[str, Any]:
    """Look at the prediction of a task that waits, for a bar; None in each field that can't be told."""
    task = next(iter(_tasks(session, dag_id, run_id, task_id, map_index)), None)
    prediction = task.prediction if task else None
    conn_id = task.known.get("vace_conn_id") if task else None
    if task is None or prediction is None or not isinstance(conn_id, str):
        raise HTTPException(404, "No prediction of this task is known")
    session.close()  # the look may take its time
    if prediction.status.is_final or not task.is_open:
        return _told(str(prediction.status))
    return _looked(conn_id, prediction.id)


def saved_file(
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: MapIndex,
    number: Annotated[int, InPath(ge=0)],
    request: Request,
    session: SessionDep,
    range_: Annotated[str | None, Header(alias="Range")] = None,
) -> Response:
    """Send a file that the task's own result names, whole or a range of it."""
    task = next(iter(_tasks(session, dag_id, run_id, task_id, map_index)), None)
    prediction = task.prediction if task else None
    files: Sequence[dict[str, Any]] = prediction.files if prediction else ()
    session.close()  # streaming may take its time
    uri = files[number].get("uri") if number < len(files) else None
    try:
        place = place_below(_roots(), uri)
        size = place.size() if place else None
    except Exception as error:  # stores are strangers, and may throw anything
        raise HTTPException(502, "The store of this file can't be read") from error
    if place is None or size is None:
        raise HTTPException(404, "No such video")
    try:
        asked = range_of(range_, size)
    except ValueError:
        return Response(status_code=416, headers={**_HEADERS, "Content-Range": f"bytes */{size}"})
    start, end = asked or (0, size)
    headers = {
        **_HEADERS,
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - start),
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(place.name, safe='')}",
    }
    if asked:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status, kind = (206 if asked else 200), type_of(place.name)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(pieces(place, start, end), status, headers, kind)


def _roots() -> list[str]:
    return roots_of(conf.get("vace", "video_roots", fallback="") or "")


def _tasks(
    session: Session, dag_id: str, run_id: str, task_id: str | None = None, map_index: int | None = None
) -> list[Task]:
    """Return the run's task instances that are ours, or have left a view as ours do."""
    values: dict[tuple[str, int], dict[str, Any]] = {}
    noted = select(XComModel).where(
        XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key.in_((RESULT, VIEW))
    )
    begun = select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    if task_id is not None:
        noted, begun = noted.where(XComModel.task_id == task_id), begun.where(TaskInstance.task_id == task_id)
    if map_index is not None:
        noted = noted.where(XComModel.map_index == map_index)
        begun = begun.where(TaskInstance.map_index == map_index)
    is_noted = select(XComModel.task_id, XComModel.map_index).where(
        XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key == VIEW
    )
    is_ours = or_(
        TaskInstance.operator.in_(OPERATOR_NAMES),
        TaskInstance.custom_operator_name.in_(OPERATOR_NAMES),
        tuple_(TaskInstance.task_id, TaskInstance.map_index).in_(is_noted),
    )
    order = (TaskInstance.task_id, TaskInstance.map_index)
    ours = session.scalars(begun.where(is_ours).order_by(*order).limit(_MOST_TASKS)).all()
    chosen = begun.where(is_ours).order_by(*order).limit(_MOST_TASKS).with_only_columns(*order)
    place = tuple_(XComModel.task_id, XComModel.map_index)
    for xcom in session.scalars(noted.where(place.in_(select(chosen.subquery())))) if ours else ():
        values.setdefault((xcom.task_id, xcom.map_index), {})[xcom.key] = read_value(xcom.value)
    found = []
    for ti in ours:
        known = values.get((ti.task_id, ti.map_index), {})
        if known or ti.state in ("running", "failed"):
            state = str(ti.state) if ti.state else None
            found.append(
                Task(
                    task_id=ti.task_id,
                    map_index=ti.map_index,
                    state=state,
                    try_number=ti.try_number,
                    result=known.get(RESULT),
                    view=known.get(VIEW),
                )
            )
    return found


def _looked(conn_id: str, prediction_id: str) -> dict[str, Any]:
    key = (conn_id, prediction_id)
    now = time.monotonic()
    with _looks_lock:
        at, last = _looks.get(key, (0.0, _told(None)))
    if at and now - at < _LOOK_SECONDS:
        return last
    if not _looking.acquire(blocking=False):
        return last
    try:
        told = _look(conn_id, prediction_id)
    finally:
        _looking.release()
    with _looks_lock:
        while len(_looks) >= _MOST_LOOKS:
            _looks.pop(next(iter(_looks)))
        _looks[key] = (time.monotonic(), told)
    return told


def _look(conn_id: str, prediction_id: str) -> dict[str, Any]:
    from airflow_vace.hooks import VaceHook

    try:
        hook = VaceHook(conn_id)
        # The connection's id is what a task has noted, and may be anybody's: no other key is ever sent.
        if hook.get_connection(conn_id).conn_type != hook.conn_type:
            return _told(None)
        prediction = hook.get_prediction(prediction_id)
    except (VaceError, AirflowNotFoundException):
        return _told(None)  # the task's log tells what is wrong; this is but a bar
    bar = prediction.progress
    if bar is None:
        return _told(str(prediction.status))
    return _told(str(prediction.status), percent=bar.percent, step=bar.step, steps=bar.steps, eta=bar.eta)


def _told(
    status: str | None,
    percent: int | None = None,
    step: int | None = None,
    steps: int | None = None,
    eta: float | None = None,
) -> dict[str, Any]:
    return {"status": status, "percent": percent, "step": step, "steps": steps, "eta": eta}
