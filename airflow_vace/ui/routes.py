"""The routes of the Videos tab: readers of a DAG's XComs see the videos of its tasks, and nothing else.

A plugin's routes are open to everybody by default, so each route here names its permission.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote
from uuid import UUID

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from airflow.providers.common.compat.sdk import conf
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse

from airflow_vace.storage.manifests import manifest_at
from airflow_vace.storage.playable import type_of
from airflow_vace.ui.batches import heads_and_others, item_at, page_of, stamped
from airflow_vace.ui.cards import Task, cards_of
from airflow_vace.ui.files import is_below, pieces, place_below, range_of, roots_of
from airflow_vace.ui.library import readable_dags, runs_with_videos
from airflow_vace.ui.plugin import ICONS
from airflow_vace.ui.related import tasks_of_tab
from airflow_vace.ui.snapshots import Snapshots
from airflow_vace.ui.task_instances import of_instance, of_task, pages_written_at, tasks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session

_HEADERS = {
    "Cache-Control": "private, no-store",
    # Airflow compresses responses without a coding, and a range would then count compressed bytes.
    "Content-Encoding": "identity",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
_MAY_READ = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM))
_IS_KNOWN = Depends(get_user)
# The database's integers; a larger number would make the query fail with a 500.
_MAX_INDEX = 2**31 - 1
Number = Annotated[int, InPath(ge=0)]
Page = Annotated[int, InPath(ge=0, le=_MAX_INDEX)]
InstanceId = Annotated[UUID, InPath()]

# The page loads the first one, which imports the others.
SCRIPTS = ("tab.js", "cards.js", "batch.js", "costs.js", "library.js", "parts.js")

snapshots = Snapshots()


@dataclass(frozen=True)
class Instance:
    """The task instance that a path names by its id, or one item of its batch.

    :param item: numbers of page and item, both from 0, such as `3.17`; None for the instance itself
    """

    dag_id: str
    run_id: str
    instance: UUID
    item: str | None = None

    def read(self, session: Session) -> Task | None:
        """Return the values, None if the instance is not the provider's or its batch has no such item."""
        if self.item is None:
            return self.read_page(session, None)
        page, number = map(int, self.item.split("."))
        task = self.read_page(session, page)
        return item_at(task, page, number) if task else None

    def read_page(self, session: Session, page: int | None) -> Task | None:
        """Return the instance's values with one page of its batch."""
        # The permission is for the DAG of the path, so an instance of another DAG is not found.
        found = tasks_of(session, self.dag_id, self.run_id, of_instance(self.instance), page)
        # A poll or a download may take minutes, so give the database connection back first.
        session.close()
        return found[0] if found else None


def _instance(
    dag_id: str,
    run_id: str,
    instance: InstanceId,
    item: Annotated[str | None, Query(pattern=r"^\d{1,6}\.\d{1,6}$")] = None,
) -> Instance:
    return Instance(dag_id, run_id, instance, item)


InPathInstance = Annotated[Instance, Depends(_instance)]


def new_app() -> FastAPI:
    """Return the application with all routes."""
    # FastAPI's documentation pages would be open to everybody, so they are off.
    app = FastAPI(title="VACE videos", docs_url=None, redoc_url=None, openapi_url=None)
    for name in SCRIPTS:
        app.add_api_route(f"/{name}", _asset(name, "text/javascript"), dependencies=[_IS_KNOWN])
    for name in ICONS.values():
        app.add_api_route(f"/{name}", _asset(name, "image/svg+xml"), dependencies=[_IS_KNOWN])
    # The route lists the DAGs that its user may read, and needs no permission beyond a login.
    app.add_api_route("/library", library)
    run = "/runs/{dag_id}/{run_id}"
    app.add_api_route(f"{run}/videos", videos, dependencies=[_MAY_READ])
    app.add_api_route(f"{run}/pages/{{instance}}/{{page}}", page_of_batch, dependencies=[_MAY_READ])
    app.add_api_route(f"{run}/progress/{{instance}}", progress, dependencies=[_MAY_READ])
    app.add_api_route(
        f"{run}/outputs/{{instance}}/{{number}}",
        signed_file,
        dependencies=[_MAY_READ],
        response_class=RedirectResponse,
    )
    for path, route in (
        ("files/{instance}/{number}", saved_file),
        ("posters/{instance}/{number}", saved_poster),
        ("manifests/{instance}/{number}", saved_manifest),
        ("rejected/{instance}/{number}", rejected_file),
        ("poster", poster_of_task),
    ):
        app.add_api_route(
            f"{run}/{path}",
            route,
            methods=["GET", "HEAD"],
            dependencies=[_MAY_READ],
            response_class=StreamingResponse,
        )
    return app


def _asset(name: str, media_type: str) -> Callable[[], FileResponse]:
    headers = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
    path = Path(__file__).with_name(name)

    def asset() -> FileResponse:
        """Send a script or an icon of the screens."""
        return FileResponse(path, media_type=media_type, headers=headers)

    return asset


@dataclass(frozen=True)
class Addresses:
    """URLs of videos and posters on cards; all methods return None for a file that the page must not show."""

    root: str
    roots: list[str]

    def saved(self, task: Task, number: int, file: dict[str, Any]) -> str | None:
        """Return the URL of a saved file."""
        return self._address("files", task, number) if is_below(self.roots, file.get("uri")) else None

    def poster(self, task: Task, number: int, file: dict[str, Any]) -> str | None:
        """Return the URL of a saved video's poster."""
        return self._address("posters", task, number) if is_below(self.roots, file.get("poster")) else None

    def rejected(self, task: Task, number: int, clip: dict[str, Any]) -> str | None:
        """Return the URL of a rejected clip."""
        return self._address("rejected", task, number) if is_below(self.roots, clip.get("uri")) else None

    def signed(self, task: Task, number: int) -> str | None:
        """Return the URL of the route that redirects to a signed output."""
        is_known = isinstance(task.known.get("vace_conn_id"), str)
        return self._address("outputs", task, number) if is_known else None

    def _address(self, kind: str, task: Task, number: int) -> str:
        return f"{self.root}/{kind}/{task.instance}/{number}" + (f"?item={task.item}" if task.item else "")


def _addresses(request: Request, dag_id: str, run_id: str) -> Addresses:
    # Airflow may be served below a prefix, which the browser must repeat.
    root = f"{request.scope.get('root_path', '')}/runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"
    return Addresses(root, _roots())


OfRun = Annotated[Addresses, Depends(_addresses)]


def videos(
    dag_id: str,
    run_id: str,
    addresses: OfRun,
    session: SessionDep,
    task_id: str | None = None,
    map_index: Annotated[int | None, Query(ge=-1, le=_MAX_INDEX)] = None,
) -> list[dict[str, Any]]:
    """Return a head for each batch of a run or of one task's tab, then a card for each prediction.

    The member `states` distinguishes a head. The cards of a batch come from :func:`page_of_batch`. All
    entries have `is_upstream`: true for those of the tasks before a task without videos.
    """
    if task_id is None:
        found, is_upstream = tasks_of(session, dag_id, run_id, of_task(None, map_index)), False
    else:
        found, is_upstream = tasks_of_tab(session, dag_id, run_id, task_id, map_index)
    heads, tasks = heads_and_others(found)
    if heads:
        written_at = pages_written_at(session, dag_id, run_id, [head.instance for head in heads])
        heads = [stamped(head, written_at.get(head.instance, {})) for head in heads]
    cards = cards_of(
        tasks,
        addresses.saved,
        asked=addresses.signed,
        poster=addresses.poster,
        rejected=addresses.rejected,
    )
    entries = [*map(asdict, heads), *map(asdict, cards)]
    return [{**entry, "is_upstream": is_upstream} for entry in entries]


def library(
    user: GetUserDep,
    session: SessionDep,
    of: str | None = None,
    before: Annotated[str | None, Query(max_length=100)] = None,
) -> dict[str, Any]:
    """Return `{"dags": {id: name}, "runs": […], "older": cursor | null}` for one page of the library.

    Runs are newest first, each with `dag_id, run_id, state, run_after`; the cards of a run come from
    :func:`videos`.

    :param of: id of the DAG whose runs are listed; those of all DAGs by default
    :param before: cursor of the page
    """
    dags = readable_dags(session, user)
    try:
        runs, older = runs_with_videos(session, [one for one in dags if of in (None, one)], before)
    except ValueError as error:
        raise HTTPException(422, "No such page") from error
    return {"dags": dags, "runs": runs, "older": older}


def page_of_batch(
    instance: InPathInstance, page: Page, addresses: OfRun, session: SessionDep
) -> dict[str, Any]:
    """Return `{"cards": […], "note": text | null}` for one page of a batch, in the order of the inputs.

    A page that is missing or has another form has no cards, and a note with the reason.
    """
    task = instance.read_page(session, page)
    # Without a readable view nobody knows whether the task is a batch, so the note says why.
    if task is None or ("batch" not in task.known and task.trouble is None):
        raise HTTPException(404, "No such batch")
    cards, note = page_of(
        task,
        page,
        addresses.saved,
        datetime.now(UTC),
        addresses.signed,
        addresses.poster,
        rejected=addresses.rejected,
    )
    return {"cards": [asdict(card) for card in cards], "note": note}


def progress(instance: InPathInstance, session: SessionDep) -> dict[str, Any]:
    """Return `status`, `percent`, `step`, `steps` and `eta` of a prediction, None where unknown."""
    task = instance.read(session)
    prediction = task.prediction if task else None
    conn_id = task.known.get("vace_conn_id") if task else None
    if task is None or prediction is None or not isinstance(conn_id, str):
        raise HTTPException(404, "No prediction of this task is known")
    # The end is in XCom already, so a poll would only cost a request.
    if prediction.status.is_final or not task.is_open:
        return {"status": str(prediction.status), "percent": None, "step": None, "steps": None, "eta": None}
    return snapshots.for_progress(conn_id, prediction.id).progress()


def signed_file(instance: InPathInstance, number: Number, session: SessionDep) -> Response:
    """Redirect a browser to an output whose URL is signed.

    XCom holds no signature, so the route asks the back-end for the URL.
    """
    task = instance.read(session)
    prediction = task.prediction if task else None
    conn_id = task.known.get("vace_conn_id") if task else None
    if prediction is None or not isinstance(conn_id, str) or not prediction.is_shortened:
        raise HTTPException(404, "No such video")
    urls = snapshots.for_outputs(conn_id, prediction.id).urls
    if number >= len(urls):
        raise HTTPException(404, "The back-end names no such video now")
    # Neither a cache nor the vendor's logs may keep the signature.
    headers = {"Cache-Control": "private, no-store", "Referrer-Policy": "no-referrer"}
    return RedirectResponse(urls[number], 307, headers)


def saved_file(
    instance: InPathInstance,
    number: Number,
    request: Request,
    session: SessionDep,
    range_: Annotated[str | None, Header(alias="Range")] = None,
) -> Response:
    """Send a file that the task's result names, whole or a range of bytes."""
    return _sent(_file_of(instance.read(session), number).get("uri"), request, range_)


def rejected_file(
    instance: InPathInstance,
    number: Number,
    request: Request,
    session: SessionDep,
    range_: Annotated[str | None, Header(alias="Range")] = None,
) -> Response:
    """Send the file of a clip that the checks rejected, whole or a range of bytes."""
    task = instance.read(session)
    prediction = task.prediction if task else None
    clips = prediction.rejected if prediction else []
    return _sent(clips[number].get("uri") if number < len(clips) else None, request, range_)


def saved_poster(instance: InPathInstance, number: Number, request: Request, session: SessionDep) -> Response:
    """Send the poster of a saved video."""
    return _sent_poster(_file_of(instance.read(session), number), request)


def saved_manifest(instance: InPathInstance, number: Number, session: SessionDep) -> Response:
    """Send the manifest of a saved file as JSON."""
    uri = _file_of(instance.read(session), number).get("uri")
    try:
        place = place_below(_roots(), uri)
        manifest = manifest_at(place) if place else None
    except Exception as error:  # stores are third-party code and raise anything
        raise HTTPException(502, "The store of this manifest can't be read") from error
    if manifest is None:
        raise HTTPException(404, "No such manifest")
    content = json.dumps(manifest, indent=2)
    return Response(content, headers=_HEADERS, media_type="application/json")


def poster_of_task(
    dag_id: str,
    run_id: str,
    task_id: str,
    request: Request,
    session: SessionDep,
    map_index: Annotated[int, Query(ge=-1, le=_MAX_INDEX)] = -1,
) -> Response:
    """Send the poster of a task's first video, for texts that know no id of a task instance."""
    found = tasks_of(session, dag_id, run_id, of_task(task_id, map_index))
    session.close()
    return _sent_poster(_file_of(found[0] if found else None, 0), request)


def _sent_poster(file: dict[str, Any], request: Request) -> Response:
    uri = file.get("poster")
    if not (type_of(str(uri)) or "").startswith("image/"):
        raise HTTPException(404, "No such poster")
    return _sent(uri, request, None)


def _file_of(task: Task | None, number: int) -> dict[str, Any]:
    """Return the entry of a saved file, {} if the task's result names no such file."""
    prediction = task.prediction if task else None
    files: Sequence[dict[str, Any]] = prediction.files if prediction else ()
    return files[number] if number < len(files) else {}


def _sent(uri: object, request: Request, range_: str | None) -> Response:
    """Return the response with a saved file below the deployment's roots.

    :param range_: the request's header `Range`
    """
    try:
        place = place_below(_roots(), uri)
        size = place.size() if place else None
    except Exception as error:  # stores are third-party code and raise anything
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
    status, media_type = (206 if asked else 200), type_of(place.name)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(pieces(place, start, end), status, headers, media_type)


def _roots() -> list[str]:
    return roots_of(conf.get("vace", "video_roots", fallback="") or "")
