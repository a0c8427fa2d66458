"""The emulator's routes for predictions of all three back-ends, and the account."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web

from airflow_vace.emulator.checks import cancel_after_seconds, invalid_webhook
from airflow_vace.emulator.control import Control
from airflow_vace.emulator.delivery import Delivery
from airflow_vace.emulator.dialects import (
    DIALECT,
    created_body,
    face_of,
    json_response,
    prediction_body,
    refusal,
)
from airflow_vace.emulator.gateways import translation
from airflow_vace.emulator.middleware import OUTCOME, Middleware
from airflow_vace.emulator.pages import Pages
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.prediction import parse_time

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator.models import Model
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
        self.models = emulator.models

    def app(self) -> web.Application:
        """Return the application with all routes and middleware."""
        steps, dialect = Middleware(self.emulator), self.emulator.dialect
        inner = (steps.limit, steps.speak_json, steps.check_key)
        # aiohttp runs the first middleware outermost, so refused requests are logged too.
        app = web.Application(
            middlewares=[steps.log, steps.misbehave, translation(dialect), *inner], client_max_size=2**28
        )
        app[DIALECT] = dialect
        route = app.router
        for prefix in dict.fromkeys(("/replicate/v1", "/v1", dialect.prefix)):
            route.add_post(prefix + "/models/{owner}/{name}/predictions", self.create)
            route.add_get(prefix + "/predictions", self.list)
            route.add_get(prefix + "/predictions/{id}", self.get)
            route.add_post(prefix + "/predictions/{id}/cancel", self.cancel)
        for prefix in dict.fromkeys(("/v1", dialect.prefix if dialect.backend == "replicate" else "/v1")):
            route.add_post(prefix + "/predictions", self.create)
            route.add_get(prefix + "/account", self.account)
            route.add_get(prefix + "/webhooks/default/secret", self.webhook_secret)
            self.emulator.uploads.add_routes(route, prefix)
            self.models.add_routes(route, prefix)
        route.add_get("/v1/predictions/status/{id}", self.get)
        delivery = Delivery(self.emulator, self.folder)
        delivery.add_routes(route)
        Pages(self.emulator, delivery).add_routes(route)
        Control(self.emulator).add_routes(route)
        return app

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Accept or refuse a prediction."""
        face = face_of(request)
        try:
            body = json.loads(await request.read())
        except ValueError:
            return refusal(face.backend, 400, "The body is not JSON", "Bad request")
        if not isinstance(body, dict):
            return refusal(face.backend, 400, "The body is not an object", "Bad request")
        found = self._model_of(request, body)
        if isinstance(found, web.Response):
            return found
        model, version = found
        problems = model.play.problems(body.get("input"))
        if face.backend == "replicate":
            problems += invalid_webhook(body)
        if problems:
            detail = "".join(f"- {p['field']}: {p['description']}\n" for p in problems)
            title = "Input validation failed"
            return refusal(face.backend, 422, detail, title, invalid_fields=problems)
        run = self._accept(request, body, model, version)
        if isinstance(run, web.Response):
            return run
        if face.backend == "pruna":
            return json_response(200, created_body(face, run))
        has_waited = await _wait_as_preferred(request, run)
        # https://api.replicate.com/openapi.json: 202 without the output that the client waited for.
        is_late = has_waited and run.finished_at(time.time()) is None
        status = 202 if is_late else 201
        # A vendor answers with the state of the moment of acceptance, however short the prediction.
        body = self._body_of(request, run, None if has_waited else run.timeline.created)
        return json_response(status if face.backend == "replicate" else 200, body)

    def _model_of(
        self, request: web.Request, body: dict[str, Any]
    ) -> tuple[Model, str | None] | web.Response:
        backend, version = face_of(request).backend, body.get("version")
        named = None
        if "owner" in request.match_info:
            named = f"{request.match_info['owner']}/{request.match_info['name']}"
        if backend == "replicate":
            return self.models.version_of(version, named)
        # Pruna names the model in a header, and calls this one "vace".
        header = request.headers.get("Model", "vace") if backend == "pruna" else "vace"
        name = named or (DEFAULT_MODEL if header == "vace" else header)
        model = self.models.named(name)
        if model is not None:
            return self.models.check_version(version, model, backend) or (model, version)
        # The gateway's real message: "no channel available".
        if backend == "gateway":
            return refusal(backend, 503, f"model {name} 无可用渠道", "model_not_found")
        return refusal(backend, 404, "The requested resource could not be found.", "Not found")

    def _accept(
        self, request: web.Request, body: dict[str, Any], model: Model, version: str | None
    ) -> Run | web.Response:
        """Return the new run, or the refusal of a wrong header."""
        face, cancel_after, webhook = face_of(request), None, None
        # Only Replicate documents these, so the other two ignore them.
        if face.backend == "replicate":
            if "Cancel-After" in request.headers:
                try:
                    cancel_after = cancel_after_seconds(request.headers["Cancel-After"])
                except ValueError as error:
                    return refusal("replicate", 422, str(error), "Invalid header")
            if body.get("webhook"):
                events = body.get("webhook_events_filter")
                webhook = {"url": body["webhook"], "events": events, "origin": face.origin}
        run = self.world.create(
            body["input"],
            model=f"{model.owner}/{model.name}",
            version=version,
            now=time.time(),
            cancel_after=cancel_after,
            outcome={"output": model.play.output(body["input"]), **request.get(OUTCOME, {})},
            webhook=webhook,
        )
        self.emulator.journal.note(run)
        self.emulator.webhooks.watch(run)
        self.emulator.changed()
        return run

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return one prediction."""
        run = self.world.runs.get(request.match_info["id"])
        if run is None:
            return refusal(face_of(request).backend, 404, "Prediction not found", "Not found")
        return json_response(200, self._body_of(request, run))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Cancel a prediction; an ended prediction stays unchanged."""
        backend = face_of(request).backend
        run = self.world.runs.get(request.match_info["id"])
        # Pruna's API documents no cancel, so clients must cope with a 404.
        if run is None or backend == "pruna":
            return refusal(backend, 404, "Prediction not found", "Not found")
        if run.finished_at(time.time()) is None:
            run.canceled = time.time()
            self.emulator.journal.note(run)
        return json_response(200, self._body_of(request, run))

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Return one page of predictions, newest first.

        The query may have `created_after`, which includes that moment, `created_before`, which does not, and
        `source=web`, which excludes all predictions of an API.
        """
        query = dict(request.query)
        bounds = {name: parse_time(query.get(name)) for name in ("created_after", "created_before")}
        start = query.get("cursor", "0")
        wrong = [name for name, moment in bounds.items() if moment is None and name in query]
        wrong += ["source"] if query.get("source", "web") != "web" else []
        wrong += [] if start.isdecimal() else ["cursor"]
        if wrong:
            return refusal(face_of(request).backend, 422, f"{', '.join(wrong)}: invalid", "Invalid query")
        after = bounds["created_after"].timestamp() if bounds["created_after"] else float("-inf")
        before = bounds["created_before"].timestamp() if bounds["created_before"] else float("inf")
        runs = [run for run in reversed(self.world.runs.values()) if after <= run.timeline.created < before]
        if "source" in query:
            runs = []
        next_url, end = None, int(start) + _PAGE_SIZE
        if len(runs) > end:
            origin = face_of(request).origin
            next_url = f"{origin}{request.path}?{urlencode({**query, 'cursor': end})}"
        results = [{**self._body_of(request, run), "source": "api"} for run in runs[int(start) : end]]
        return json_response(200, {"previous": None, "next": next_url, "results": results})

    def _body_of(self, request: web.Request, run: Run, now: float | None = None) -> dict[str, Any]:
        return prediction_body(face_of(request), run, self.world, self.emulator.signature, now)

    async def account(self, request: web.Request) -> web.StreamResponse:
        """Return the key's account, a free request for connection tests."""
        del request
        return json_response(200, {"type": "user", "username": "emulator", "name": "Emulator"})

    async def webhook_secret(self, request: web.Request) -> web.StreamResponse:
        """Return the secret that verifies webhooks."""
        del request
        return json_response(200, {"key": self.emulator.webhooks.secret})


async def _wait_as_preferred(request: web.Request, run: Run) -> bool:
    """Hold the response while the run goes on, if the client prefers to wait; return True if so."""
    prefer = re.match(r"wait(?:=(\d+))?", request.headers.get("Prefer", ""))
    if not prefer:
        return False
    until = time.time() + min(float(prefer[1] or _MAX_WAIT_SECONDS), _MAX_WAIT_SECONDS)
    # The clock ends a run, so there is no event to wait for.
    while run.finished_at(time.time()) is None and time.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(min(0.05, max(run.ended - time.time(), 0.001)))
    return True
