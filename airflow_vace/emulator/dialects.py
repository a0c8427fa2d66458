"""The three back-ends on one port: how a request picks one, and the bodies each one sends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, assert_never

from aiohttp import web

from airflow_vace.emulator.world import iso

if TYPE_CHECKING:
    from airflow_vace.emulator.world import Run, World

BackendName = Literal["gateway", "replicate", "pruna"]


def backend_of(request: web.Request) -> BackendName:
    """Return the back-end that a request addresses, from its path and headers."""
    if request.path.startswith("/replicate/"):
        return "gateway"
    # Replicate and Pruna share the path /v1/predictions, so only Pruna's header separates them there.
    is_pruna = "apikey" in request.headers or "/status/" in request.path
    return "pruna" if is_pruna or request.path.startswith("/v1/delivery/") else "replicate"


def origin_of(request: web.Request) -> str:
    """Return the origin that the client used, so URLs in responses also work through a proxy."""
    return f"{request.scheme}://{request.host}"


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
            return json_response(status, {"title": code, "detail": detail, "status": status, **more})
        case _:
            assert_never(backend)


def created_body(request: web.Request, run: Run) -> dict[str, Any]:
    """Return Pruna's short body for a new prediction."""
    status_url = f"{origin_of(request)}/v1/predictions/status/{run.id}"
    return {"id": run.id, "model": "vace", "input": run.input, "get_url": status_url}


def prediction_body(request: web.Request, run: Run, world: World, signature: str = "") -> dict[str, Any]:
    """Return a prediction as the addressed back-end represents the current state.

    :param signature: query value that output URLs carry; empty for plain URLs
    """
    backend, now = backend_of(request), time.time()
    status = run.status_at(now)
    is_gone = world.is_gone(run, now)
    output = _output_of(backend, origin_of(request), run, signature)
    if status != "succeeded" or is_gone:
        output = None
    error = run.outcome.get("error") if status == "failed" else None
    if backend == "pruna":
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
        "urls": _urls_of(request, run),
        **_times_of(run, status, now),
    }


def _output_of(backend: BackendName, origin: str, run: Run, signature: str) -> Any:
    output = run.outcome.get("output")
    if "output" not in run.outcome:
        # Pruna sends a path without an origin, so clients must resolve it themselves.
        output = f"/v1/delivery/{run.id}/output.mp4"
        if backend != "pruna":
            output = f"{origin}/_delivery/{run.id}/output.mp4"
    return f"{output}?X-Signature={signature}" if signature and isinstance(output, str) else output


def _urls_of(request: web.Request, run: Run) -> dict[str, str]:
    # A gateway passes on the upstream vendor's URLs, where its key is not valid: a trap for clients.
    is_own = request.path.startswith(("/v1/predictions", "/v1/models/"))
    base = origin_of(request) if is_own else "https://api.replicate.com"
    get = f"{base}/v1/predictions/{run.id}"
    return {"get": get, "cancel": f"{get}/cancel", "web": f"https://replicate.com/p/{run.id}"}


def _times_of(run: Run, status: str, now: float) -> dict[str, Any]:
    """Return the timestamps, metrics and deadline that are known at this moment."""
    # Replicate varies the number of fractional digits, so clients must accept any.
    digits = (0, 3, 6, 8, 9)[len(run.id + run.model) % 5]
    times: dict[str, Any] = {"created_at": iso(run.timeline.created, digits)}
    started = run.timeline.started if status != "aborted" and now >= run.timeline.started else None
    if started is not None:
        times["started_at"] = iso(started, digits)
    finished = run.finished_at(now)
    if finished is not None:
        times["completed_at"] = iso(finished, digits)
        times["metrics"] = {
            "predict_time": max(finished - (started or finished), 0.0),
            "total_time": finished - run.timeline.created,
        }
    if run.cancel_after is not None:
        times["deadline"] = iso(run.timeline.created + run.cancel_after, digits)
    return times
