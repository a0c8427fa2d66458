"""The three back-ends on one port: how a request picks one, and the bodies each one sends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, assert_never

from aiohttp import web

from airflow_vace.emulator.gateways import Dialect
from airflow_vace.emulator.world import iso

if TYPE_CHECKING:
    from airflow_vace.emulator.world import Run, World

BackendName = Literal["gateway", "replicate", "pruna"]
DIALECT = web.AppKey("dialect", Dialect)
_VENDOR = "https://api.replicate.com"
# Start of an output that stands for a file of the emulator; bodies have the file's URL instead.
OWN_FILE = "emulator-file:"
VIDEO = f"{OWN_FILE}output.mp4"
# Paths of the pages for people.
PAGE_PATH = "/p/"


class Face(NamedTuple):
    """The side of the emulator that a request addresses.

    :param origin: the origin that the client used, so URLs in responses also work through a proxy
    :param is_gateway: True if an upstream vendor's URLs are passed on
    """

    backend: BackendName
    origin: str
    is_gateway: bool


def face_of(request: web.Request) -> Face:
    """Return the face that a request addresses, from its path and headers."""
    origin = f"{request.scheme}://{request.host}"
    dialect = request.app[DIALECT]
    if dialect.covers(request.path):
        return Face(dialect.backend, origin, is_gateway=True)
    if request.path.startswith("/replicate/"):
        return Face("gateway", origin, is_gateway=True)
    # Replicate and Pruna share the path /v1/predictions, so only Pruna's header separates them there.
    is_pruna = "apikey" in request.headers or "/status/" in request.path
    is_pruna = is_pruna or request.path.startswith("/v1/delivery/")
    return Face("pruna" if is_pruna else "replicate", origin, is_gateway=False)


def json_response(status: int, body: Any) -> web.Response:
    """Return a response with a JSON body."""
    return web.json_response(body, status=status)


def refusal(backend: BackendName, status: int, detail: str, code: str, **more: Any) -> web.Response:
    """Return an error in the back-end's envelope.

    :param detail: the message for people
    :param code: the gateway's error code, or Replicate's title
    :param more: further members of the body, such as `invalid_fields`
    """
    match backend:
        case "gateway":
            error = {"message": detail, "type": "gateway_error", "code": code}
            return json_response(status, {"error": error, **more})
        case "pruna":
            return json_response(status, {"message": detail, **more})
        case "replicate":
            # RFC 9457; a 404 of Replicate has no title.
            title = {} if status == 404 else {"title": code}
            body = {**title, "detail": detail, "status": status, **more}
            return web.json_response(body, status=status, content_type="application/problem+json")
        case _:
            assert_never(backend)


def not_found(backend: BackendName = "replicate") -> web.Response:
    """Return the back-end's 404 for a path, a model or a file."""
    return refusal(backend, 404, "The requested resource could not be found.", "not_found")


def created_body(face: Face, run: Run) -> dict[str, Any]:
    """Return Pruna's short body for a new prediction."""
    status_url = f"{face.origin}/v1/predictions/status/{run.id}"
    return {"id": run.id, "model": "vace", "input": run.input, "get_url": status_url}


def prediction_body(
    face: Face, run: Run, world: World, signature: str = "", now: float | None = None
) -> dict[str, Any]:
    """Return a prediction as the addressed back-end represents the state at a Unix time.

    :param signature: query value that output URLs carry; empty for plain URLs
    :param now: default: the current time
    """
    now = time.time() if now is None else now
    status = run.status_at(now)
    is_gone = world.is_gone(run, now)
    output = None
    if status == "succeeded" and not is_gone:
        output = _output_of(run.outcome.get("output", VIDEO), face, run, signature)
    error = run.outcome.get("error") if status == "failed" else None
    if face.backend == "pruna":
        # Pruna omits empty members and the id, so clients must remember the id.
        short = {"status": status, "generation_url": output, "error": error}
        return {name: value for name, value in short.items() if value}
    finished = run.finished_at(now)
    return {
        "id": run.id,
        "model": run.model,
        "version": run.version or "hidden",
        "input": {} if is_gone else run.input,
        "logs": "" if is_gone else run.timeline.logs_at(min(now, finished or now)),
        "output": output,
        "data_removed": is_gone,
        "error": error,
        "status": status,
        "urls": _urls_of(face, run),
        **_times_of(run, now),
    }


def _output_of(output: Any, face: Face, run: Run, signature: str) -> Any:
    if isinstance(output, list):
        return [_output_of(item, face, run, signature) for item in output]
    if isinstance(output, dict):
        return {name: _output_of(item, face, run, signature) for name, item in output.items()}
    if not isinstance(output, str) or not output.startswith(OWN_FILE):
        return output
    name = output.removeprefix(OWN_FILE)
    # Pruna sends a path without an origin, so clients must resolve it themselves.
    folder = "/v1/delivery" if face.backend == "pruna" else f"{face.origin}/_delivery"
    url = f"{folder}/{run.id}/{name}"
    return f"{url}?X-Signature={signature}" if signature else url


def _urls_of(face: Face, run: Run) -> dict[str, str]:
    # A gateway passes on the upstream vendor's URLs, where its key is not valid: a trap for clients.
    get = f"{_VENDOR if face.is_gateway else face.origin}/v1/predictions/{run.id}"
    stream = "https://stream.replicate.com/v1/files" if face.is_gateway else f"{face.origin}/_stream"
    return {
        "get": get,
        "cancel": f"{get}/cancel",
        "stream": f"{stream}/{run.id}",
        "web": f"{face.origin}{PAGE_PATH}{run.id}",
    }


def _times_of(run: Run, now: float) -> dict[str, Any]:
    """Return the timestamps, metrics and deadline that are known at this moment."""
    # Replicate varies the number of fractional digits, so clients must accept any.
    digits = (0, 3, 6, 8, 9)[len(run.id + run.model) % 5]
    times: dict[str, Any] = {"created_at": iso(run.timeline.created, digits)}
    finished = run.finished_at(now)
    started = run.timeline.started if run.timeline.started <= (finished or now) else None
    if started is not None:
        times["started_at"] = iso(started, digits)
    if finished is not None:
        times["completed_at"] = iso(finished, digits)
        times["metrics"] = {
            "predict_time": max(finished - (started or finished), 0.0),
            "total_time": finished - run.timeline.created,
        }
    if run.cancel_after is not None:
        times["deadline"] = iso(run.timeline.created + run.cancel_after, digits)
    return times
