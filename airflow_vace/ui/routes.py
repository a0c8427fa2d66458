"""The plugin's routes: who may read a DAG's XComs sees what its tasks have made, and nothing else.

Plugins' routes are open to everybody by default: each one here names whom it lets in.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
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
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from sqlalchemy import or_, select, tuple_

from airflow_vace.exceptions import VaceError
from airflow_vace.task.view import VIEW_KEY as VIEW
from airflow_vace.ui.cards import RESULT, Task, cards_of, read_value, web_urls_of
from airflow_vace.ui.files import is_below, pieces, place_below, range_of, roots_of, type_of
from airflow_vace.ui.plugin import OPERATOR_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

_MOST_TASKS = 2000
# A look at a running prediction serves all who watch it for so long.
_LOOK_SECONDS = 5.0
# A player asks for a video in many ranges; what signs its address is valid for longer than this.
_ADDRESS_SECONDS = 60.0
_MOST_ADDRESSES = 100
_MOST_LOOKS = 500
# Looks at once: a slow back-end must not take the API server's threads.
_looking = Semaphore(4)
_looks: dict[tuple[str, str], _Look] = {}
_looks_lock = Lock()


@dataclass(frozen=True)
class _Look:
    """What a look has told: the answer for the progress bar, and the addresses in the output."""

    told: dict[str, Any]
    urls: list[str] = field(default_factory=list)
    at: float = field(default_factory=time.monotonic)


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
        f"{run}/outputs/{{task_id}}/{{map_index}}/{{number}}",
        signed_file,
        dependencies=[_MAY_READ],
        response_class=RedirectResponse,
    )
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

    def asked(task: Task, number: int) -> str | None:
        if not isinstance(task.known.get("vace_conn_id"), str):
            return None
        return f"{root}/outputs/{quote(task.task_id, safe='')}/{task.map_index}/{number}"

    tasks = _tasks(session, dag_id, run_id, task_id, map_index)
    return [asdict(card) for card in cards_of(tasks, source, asked=asked)]


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
    return _looked(conn_id, prediction.id, _LOOK_SECONDS).told


def signed_file(
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: MapIndex,
    number: Annotated[int, InPath(ge=0)],
    session: SessionDep,
) -> Response:
    """Lead a browser to a file of the back-end; its address is signed, and so it stands in no XCom."""
    task = next(iter(_tasks(session, dag_id, run_id, task_id, map_index)), None)
    prediction = task.prediction if task else None
    conn_id = task.known.get("vace_conn_id") if task else None
    session.close()  # the look may take its time
    if prediction is None or not isinstance(conn_id, str) or not prediction.is_shortened:
        raise HTTPException(404, "No such video")
    urls = _looked(conn_id, prediction.id, _ADDRESS_SECONDS).urls
    if number >= len(urls):
        raise HTTPException(404, "The back-end names no such video now")
    headers = {"Cache-Control": "private, no-store", "Referrer-Policy": "no-referrer"}
    return RedirectResponse(urls[number], 307, headers)


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


def _looked(conn_id: str, prediction_id: str, seconds: float) -> _Look:
    """Return a look that is at most so many seconds old, or some that found nothing; else a new one."""
    key = (conn_id, prediction_id)
    with _looks_lock:
        last = _looks.get(key)
    if last is not None and time.monotonic() - last.at < (seconds if last.urls else _LOOK_SECONDS):
        return last
    if not _looking.acquire(blocking=False):
        return last or _Look(_told(None))
    try:
        seen = _look(conn_id, prediction_id)
    finally:
        _looking.release()
    with _looks_lock:
        while len(_looks) >= _MOST_LOOKS:
            _looks.pop(next(iter(_looks)))
        _looks[key] = seen
    return seen


def _look(conn_id: str, prediction_id: str) -> _Look:
    from airflow_vace.hooks import VaceHook

    try:
        hook = VaceHook(conn_id)
        # The connection's id is what a task has noted, and may be anybody's: no other key is ever sent.
        if hook.get_connection(conn_id).conn_type != hook.conn_type:
            return _Look(_told(None))
        prediction = hook.get_prediction(prediction_id)
    except (VaceError, AirflowNotFoundException):
        return _Look(_told(None))  # the task's log says what is wrong; a bar can be missing
    bar, status, urls = prediction.progress, str(prediction.status), web_urls_of(prediction)[:_MOST_ADDRESSES]
    if bar is None:
        return _Look(_told(status), urls)
    return _Look(_told(status, percent=bar.percent, step=bar.step, steps=bar.steps, eta=bar.eta), urls)


def _told(
    status: str | None,
    percent: int | None = None,
    step: int | None = None,
    steps: int | None = None,
    eta: float | None = None,
) -> dict[str, Any]:
    return {"status": status, "percent": percent, "step": step, "steps": steps, "eta": eta}
