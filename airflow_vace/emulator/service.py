"""The emulator's routes: predictions of all three back-ends, their files, the account, the control plane."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web

from airflow_vace.emulator.damage import file_response
from airflow_vace.emulator.dialects import (
    backend_of,
    created_body,
    json_response,
    origin_of,
    prediction_body,
    refusal,
)
from airflow_vace.emulator.faults import faults_from_json
from airflow_vace.emulator.middleware import CONTROL_PATH, OUTCOME, Middleware
from airflow_vace.emulator.uploads import Uploads
from airflow_vace.emulator.video import render
from airflow_vace.emulator.world import invalid_fields
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.prediction import parse_time

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator.dialects import BackendName
    from airflow_vace.emulator.server import Emulator
    from airflow_vace.emulator.world import Run

# https://replicate.com/docs/reference/http: `Prefer: wait` holds a response for 60 s at most.
_MAX_WAIT_SECONDS = 60.0
_PAGE_SIZE = 100


class Service:
    """The routes of an emulator; each response follows from the world and the clock."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.world = emulator.world
        self.folder = folder
        self.uploads = Uploads(emulator, folder)
        self.models = emulator.models
        self._render_locks: dict[str, asyncio.Lock] = {}

    def app(self) -> web.Application:
        """Return the application with all routes and middleware."""
        steps = Middleware(self.emulator)
        # aiohttp runs the first middleware outermost, so refused requests are logged too.
        app = web.Application(
            middlewares=[steps.log, steps.misbehave, steps.check_key], client_max_size=2**28
        )
        route = app.router
        replicate = [path for path in (self.emulator.path, "/v1") if path]
        for prefix in (*replicate, "/replicate/v1"):
            route.add_post(prefix + "/models/{owner}/{name}/predictions", self.create)
            route.add_get(prefix + "/predictions", self.list)
            route.add_get(prefix + "/predictions/{id}", self.get)
            route.add_post(prefix + "/predictions/{id}/cancel", self.cancel)
        for prefix in replicate:
            route.add_post(prefix + "/predictions", self.create)
            self.uploads.add_routes(route, prefix)
            self.models.add_routes(route, prefix)
        route.add_get("/v1/predictions/status/{id}", self.get)
        route.add_get("/v1/delivery/{id}/{name}", self.file)
        route.add_get("/_delivery/{id}/{name}", self.file)
        route.add_get("/v1/account", self.account)
        route.add_get("/_files/{id}", self.uploads.content)
        route.add_get(f"{CONTROL_PATH}bill", self.bill)
        route.add_get(f"{CONTROL_PATH}requests", self.requests)
        route.add_route("*", f"{CONTROL_PATH}faults", self.faults)
        return app

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Accept or refuse a prediction."""
        backend = backend_of(request)
        try:
            body = json.loads(await request.read())
        except ValueError:
            return refusal(backend, 400, "The body is not JSON", "Bad request")
        if not isinstance(body, dict):
            return refusal(backend, 400, "The body is not an object", "Bad request")
        model, version = _model_of(request, backend), body.get("version")
        if backend == "replicate":
            found = self.models.version_of(version, model if "owner" in request.match_info else None)
            if isinstance(found, web.Response):
                return found
            model, version = found
        if refused := _refused_create(backend, model, body):
            return refused
        cancel_after = _seconds_of(request.headers.get("Cancel-After"))
        run = self.world.create(
            body["input"],
            model=model,
            version=version,
            now=time.time(),
            # Only Replicate documents this header, so the other two ignore it.
            cancel_after=cancel_after if backend == "replicate" else None,
            outcome=request.get(OUTCOME),
        )
        self.emulator.journal.note(run)
        self.emulator.changed()
        if backend == "pruna":
            return json_response(200, created_body(request, run))
        await _wait_as_preferred(request, run)
        return json_response(201 if backend == "replicate" else 200, self._body_of(request, run))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return one prediction."""
        run = self.world.runs.get(request.match_info["id"])
        if run is None:
            return refusal(backend_of(request), 404, "Prediction not found", "Not found")
        return json_response(200, self._body_of(request, run))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Cancel a prediction; an ended prediction stays unchanged."""
        backend = backend_of(request)
        run = self.world.runs.get(request.match_info["id"])
        # Pruna's API documents no cancel, so clients must cope with a 404.
        if run is None or backend == "pruna":
            return refusal(backend, 404, "Prediction not found", "Not found")
        if run.finished_at(time.time()) is None:
            run.canceled = time.time()
            self.emulator.journal.note(run)
        return json_response(200, self._body_of(request, run))

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Return one page of predictions, newest first, between `created_after` and `created_before`."""
        query = dict(request.query)
        bounds = {name: parse_time(query.get(name)) for name in ("created_after", "created_before")}
        start = query.get("cursor", "0")
        wrong = [name for name, moment in bounds.items() if moment is None and name in query]
        if wrong or not start.isdecimal():
            names = ", ".join(wrong or ["cursor"])
            return refusal("replicate", 422, f"{names}: invalid", "Invalid query")
        after = bounds["created_after"].timestamp() if bounds["created_after"] else float("-inf")
        before = bounds["created_before"].timestamp() if bounds["created_before"] else float("inf")
        runs = [run for run in reversed(self.world.runs.values()) if after < run.timeline.created < before]
        next_url, end = None, int(start) + _PAGE_SIZE
        if len(runs) > end:
            next_url = f"{origin_of(request)}{request.path}?{urlencode({**query, 'cursor': end})}"
        results = [self._body_of(request, run) for run in runs[int(start) : end]]
        return json_response(200, {"previous": None, "next": next_url, "results": results})

    def _body_of(self, request: web.Request, run: Run) -> dict[str, Any]:
        return prediction_body(request, run, self.world, self.emulator.signature)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Send a prediction's video; the first request renders the file."""
        run = self.world.runs.get(request.match_info["id"])
        now = time.time()
        if run is None or run.status_at(now) != "succeeded" or self.world.is_gone(run, now):
            return web.Response(status=404, text="Not found")
        if self.emulator.signature and request.query.get("X-Signature") != self.emulator.signature:
            return web.Response(status=403, text="The signature is missing or wrong")
        path = self.folder / f"{run.id}.mp4"
        # Two requests at once must not render the same file, and rendering must not hold up the loop.
        async with self._render_locks.setdefault(run.id, asyncio.Lock()):
            if not path.exists():
                await asyncio.to_thread(render, run, path)
        return file_response(path, "video/mp4")

    async def account(self, request: web.Request) -> web.StreamResponse:
        """Return the key's account, a free request for connection tests."""
        del request
        return json_response(200, {"type": "user", "username": "emulator", "name": "Emulator"})

    async def bill(self, request: web.Request) -> web.StreamResponse:
        """Return the accepted and the charged predictions."""
        del request
        return json_response(200, self.emulator.bill)

    async def requests(self, request: web.Request) -> web.StreamResponse:
        """Return all received requests."""
        del request
        return json_response(200, [asdict(seen) for seen in self.emulator.requests])

    async def faults(self, request: web.Request) -> web.StreamResponse:
        """Add, delete or list scripted faults."""
        if request.method == "DELETE":
            self.emulator.faults.clear()
        elif request.method == "POST":
            try:
                found = faults_from_json(json.loads(await request.read()))
            except (ValueError, TypeError) as error:
                return json_response(400, {"detail": str(error)})
            self.emulator.faults.add(*found)
        return json_response(200, [fault.as_json() for fault in self.emulator.faults.waiting()])


def _model_of(request: web.Request, backend: BackendName) -> str:
    if "owner" in request.match_info:
        return f"{request.match_info['owner']}/{request.match_info['name']}"
    # Pruna names the model in a header, and calls this one "vace".
    name = request.headers.get("Model", "vace") if backend == "pruna" else "vace"
    return DEFAULT_MODEL if name == "vace" else name


def _refused_create(backend: BackendName, model: str, body: dict[str, Any]) -> web.Response | None:
    """Return the back-end's refusal of a create, None if nothing is wrong."""
    if model != DEFAULT_MODEL:
        # The gateway's real message: "no channel available".
        if backend == "gateway":
            return refusal(backend, 503, f"model {model} 无可用渠道", "model_not_found")
        return refusal(backend, 404, "The requested resource could not be found.", "Not found")
    if problems := invalid_fields(body.get("input")):
        detail = "".join(f"- {p['field']}: {p['description']}\n" for p in problems)
        return refusal(backend, 422, detail, "Input validation failed", invalid_fields=problems)
    return None


async def _wait_as_preferred(request: web.Request, run: Run) -> None:
    """Hold the response while the run goes on, if the client prefers to wait."""
    prefer = re.match(r"wait(?:=(\d+))?", request.headers.get("Prefer", ""))
    if not prefer:
        return
    until = time.time() + min(float(prefer[1] or _MAX_WAIT_SECONDS), _MAX_WAIT_SECONDS)
    # The clock ends a run, so there is no event to wait for.
    while run.finished_at(time.time()) is None and time.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(min(0.05, max(run.ended - time.time(), 0.001)))


def _seconds_of(text: str | None) -> float | None:
    """Return a duration such as `1h5m30s` in seconds, None if the text has another form."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text or "")
    if not text or match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds
