"""The emulator's HTTP: all three back-ends on one port, a control plane, and faults in between."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import asdict, dataclass
from email.utils import formatdate
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import BodyPartReader, web

from airflow_vace.core.backends import BACKENDS
from airflow_vace.emulator.faults import Fault
from airflow_vace.emulator.video import render
from airflow_vace.emulator.world import invalid_fields, iso
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.prediction import parse_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from airflow_vace.emulator.server import Emulator
    from airflow_vace.emulator.world import Run

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LARGEST_UPLOAD = 100 * 1024**2
_LONGEST_WAIT = 60.0
_PAGE = 100
_OUTCOME = web.RequestKey("outcome", dict)


@dataclass(frozen=True, kw_only=True)
class SeenRequest:
    """One request as it came: `auth` names the headers that carried a key, never the key."""

    method: str
    path: str
    host: str
    auth: tuple[str, ...]
    time: float


def _json(status: int, body: Any) -> web.Response:
    return web.json_response(body, status=status)


def _face_of(request: web.Request) -> str:
    """Return which back-end is spoken: by path, and on the shared path by Pruna's own header."""
    if request.path.startswith("/replicate/"):
        return "gateway"
    is_pruna = "apikey" in request.headers or "/status/" in request.path
    return "pruna" if is_pruna or request.path.startswith("/v1/delivery/") else "replicate"


def _origin(request: web.Request) -> str:
    """Return where it was asked: what it tells can be reached there, also through a proxy."""
    return f"{request.scheme}://{request.host}"


def _urls_of(face: str, origin: str, run: Run) -> dict[str, str]:
    # A gateway's answers name the upstream vendor, where its key is not valid.
    base = "https://api.replicate.com" if face == "gateway" else origin
    get = f"{base}/v1/predictions/{run.id}"
    return {"get": get, "cancel": f"{get}/cancel", "web": f"https://replicate.com/p/{run.id}"}


def _output_of(face: str, origin: str, run: Run) -> str:
    if face == "pruna":
        return f"/v1/delivery/{run.id}/output.mp4"
    return f"{origin}/_delivery/{run.id}/output.mp4"


def _refusal(face: str, status: int, detail: str, code: str, **more: Any) -> web.Response:
    """Return an error in the envelope of the back-end."""
    match face:
        case "gateway":
            kind = {"message": detail, "type": "gateway_error", "code": code}
            return _json(status, {"error": kind, **more})
        case "pruna":
            return _json(status, {"message": detail, **more})
    return _json(status, {"title": code, "detail": detail, "status": status, **more})


class Service:
    """The routes; each answers from the world and the clock."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.world = emulator.world
        self.folder = folder
        self.uploads: dict[str, dict[str, Any]] = {}
        self._allowance, self._counted = emulator.limit or 0.0, time.monotonic()
        self._rendering: dict[str, asyncio.Lock] = {}

    def app(self) -> web.Application:
        app = web.Application(
            middlewares=[self._log, self._misbehave, self._check_key], client_max_size=2**28
        )
        route = app.router
        for prefix in ("/replicate/v1", "/v1"):
            route.add_post(prefix + "/models/{owner}/{name}/predictions", self.create)
            route.add_get(prefix + "/predictions/{id}", self.get)
            route.add_post(prefix + "/predictions/{id}/cancel", self.cancel)
        route.add_post("/v1/predictions", self.create)
        route.add_get("/v1/predictions", self.list)
        route.add_get("/replicate/v1/predictions", self.list)
        route.add_get("/v1/predictions/status/{id}", self.get)
        route.add_get("/v1/delivery/{id}/{name}", self.file)
        route.add_get("/v1/account", self.account)
        route.add_post("/v1/files", self.upload)
        route.add_get("/v1/files", self.uploaded)
        route.add_get("/v1/files/{id}", self.uploaded)
        route.add_delete("/v1/files/{id}", self.delete_upload)
        route.add_get("/_delivery/{id}/{name}", self.file)
        route.add_get("/_files/{id}", self.upload_content)
        route.add_get("/_emulator/bill", self.bill)
        route.add_get("/_emulator/requests", self.requests)
        route.add_route("*", "/_emulator/faults", self.faults)
        return app

    # --- around each request -----------------------------------------------------------------------

    @web.middleware
    async def _log(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/_emulator/"):
            self.emulator.note(
                SeenRequest(
                    method=request.method,
                    path=request.path_qs,
                    host=request.host,
                    auth=tuple(
                        name for name in ("authorization", "apikey", "cookie") if name in request.headers
                    ),
                    time=time.time(),
                )
            )
        try:
            return await handler(request)
        finally:
            self.emulator.changed()

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = None
        is_control = request.path.startswith("/_emulator/")
        if not (is_control or self._is_within_limit()):
            headers = {"Retry-After": "1"}
            return web.json_response({"detail": "Request was throttled."}, status=429, headers=headers)
        if not is_control:
            fault = self.emulator.faults.next_for(request.method, request.path)
        if fault is None:
            return await handler(request)
        request[_OUTCOME] = fault.outcome
        if fault.delay:
            # What has arrived stays arrived, also if the client gives up meanwhile.
            await request.read()
            await asyncio.sleep(fault.delay)
        answer: web.StreamResponse | None = None
        canned = fault.status is not None or fault.reset or fault.hang
        if not canned or fault.accept or "after" in (fault.reset, fault.hang):
            answer = await handler(request)
        if fault.hang:
            self.emulator.changed()
            await self.emulator.closing.wait()
        if fault.reset or fault.hang:
            return _broken_off(request)
        if fault.status is not None:
            return web.Response(status=fault.status, headers=fault.headers, body=fault.encoded_body())
        if isinstance(answer, web.Response | web.FileResponse):
            return await _spoiled(request, answer, fault)
        return answer or web.Response(status=500)

    def _is_within_limit(self) -> bool:
        limit = self.emulator.limit
        if limit is None:
            return True
        now = time.monotonic()
        filled = self._allowance + (now - self._counted) * limit
        self._allowance, self._counted = min(filled, limit), now
        if self._allowance < 1:
            self.emulator.throttled += 1
            return False
        self._allowance -= 1
        return True

    @web.middleware
    async def _check_key(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        open_to_all = ("/_emulator/", "/_delivery/", "/_files/")
        if request.path.startswith(open_to_all):
            return await handler(request)
        face = _face_of(request)
        backend = BACKENDS[face]
        wanted = backend.key_form.format(key=self.emulator.api_key)
        given = request.headers.get(backend.key_header, "")
        # Replicate's own clients of old say Token instead of Bearer.
        if given != wanted and given.replace("Token ", "Bearer ", 1) != wanted:
            said = "Invalid token" if given else "No API key was given"
            return _refusal(face, 401, said, "Unauthenticated")
        return await handler(request)

    # --- predictions -------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.StreamResponse:
        face = _face_of(request)
        try:
            body = json.loads(await request.read())
        except ValueError:
            return _refusal(face, 400, "The body is not JSON", "Bad request")
        if not isinstance(body, dict):
            return _refusal(face, 400, "The body is not an object", "Bad request")
        model = self._model_of(request, face)
        if model != DEFAULT_MODEL:
            if face == "gateway":
                return _refusal(face, 503, f"model {model} 无可用渠道", "model_not_found")
            return _refusal(face, 404, "The requested resource could not be found.", "Not found")
        if face == "replicate" and request.path == "/v1/predictions" and not body.get("version"):
            problem = {"type": "required", "field": "version", "description": "version is required"}
            return _refusal(face, 422, "version is required", "Invalid", invalid_fields=[problem])
        if problems := invalid_fields(body.get("input")):
            detail = "".join(f"- {p['field']}: {p['description']}\n" for p in problems)
            return _refusal(face, 422, detail, "Input validation failed", invalid_fields=problems)
        cancel_after = _duration(request.headers.get("Cancel-After"))
        run = self.world.create(
            body["input"],
            model=model,
            version=body.get("version"),
            now=time.time(),
            cancel_after=cancel_after if face == "replicate" else None,
            outcome=request.get(_OUTCOME),
        )
        self.emulator.journal.note(run)
        self.emulator.changed()
        if face == "pruna":
            status_url = f"{_origin(request)}/v1/predictions/status/{run.id}"
            known = {"id": run.id, "model": "vace", "input": run.input, "get_url": status_url}
            return _json(200, known)
        prefer = re.match(r"wait(?:=(\d+))?", request.headers.get("Prefer", ""))
        if prefer:
            longest = min(float(prefer[1] or _LONGEST_WAIT), _LONGEST_WAIT)
            until = time.time() + longest
            # It is the clock that ends a run, so there is no event to wait for.
            while run.finished_at(time.time()) is None and time.time() < until:  # noqa: ASYNC110
                await asyncio.sleep(min(0.05, max(run.ended - time.time(), 0.001)))
        return _json(201 if face == "replicate" else 200, self._told(request, run))

    def _model_of(self, request: web.Request, face: str) -> str:
        if "owner" in request.match_info:
            return f"{request.match_info['owner']}/{request.match_info['name']}"
        said = request.headers.get("Model", "vace") if face == "pruna" else "vace"
        return DEFAULT_MODEL if said == "vace" else said

    async def get(self, request: web.Request) -> web.StreamResponse:
        face = _face_of(request)
        run = self.world.runs.get(request.match_info["id"])
        if run is None:
            return _refusal(face, 404, "Prediction not found", "Not found")
        return _json(200, self._told(request, run))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        face = _face_of(request)
        run = self.world.runs.get(request.match_info["id"])
        if run is None or face == "pruna":
            return _refusal(face, 404, "Prediction not found", "Not found")
        if run.finished_at(time.time()) is None:
            run.canceled = time.time()
            self.emulator.journal.note(run)
        return _json(200, self._told(request, run))

    async def list(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        bounds = {name: parse_time(query.get(name)) for name in ("created_after", "created_before")}
        start = query.get("cursor", "0")
        wrong = [name for name, moment in bounds.items() if moment is None and name in query]
        if wrong or not start.isdecimal():
            named = ", ".join(wrong or ["cursor"])
            return _refusal("replicate", 422, f"{named}: invalid", "Invalid query")
        after = bounds["created_after"].timestamp() if bounds["created_after"] else float("-inf")
        before = bounds["created_before"].timestamp() if bounds["created_before"] else float("inf")
        runs = [run for run in reversed(self.world.runs.values()) if after < run.timeline.created < before]
        following, end = None, int(start) + _PAGE
        if len(runs) > end:
            following = f"{_origin(request)}{request.path}?{urlencode({**query, 'cursor': end})}"
        results = [self._told(request, run) for run in runs[int(start) : end]]
        return _json(200, {"previous": None, "next": following, "results": results})

    def _told(self, request: web.Request, run: Run) -> dict[str, Any]:
        """Return a run as the back-end that was asked tells it at this moment."""
        face, origin, now = _face_of(request), _origin(request), time.time()
        status = run.status_at(now)
        gone = self.world.is_gone(run, now)
        output = run.outcome.get("output") if "output" in run.outcome else _output_of(face, origin, run)
        if self.emulator.signature and isinstance(output, str):
            output += f"?X-Signature={self.emulator.signature}"
        if status != "succeeded" or gone:
            output = None
        error = run.outcome.get("error") if status == "failed" else None
        if face == "pruna":
            short = {"status": status, "generation_url": output, "error": error}
            return {name: value for name, value in short.items() if value}
        finished = run.finished_at(now)
        digits = (0, 3, 6, 8, 9)[len(run.id + run.model) % 5]
        started = run.timeline.started if status != "aborted" and now >= run.timeline.started else None
        told: dict[str, Any] = {
            "id": run.id,
            "model": run.model,
            "version": run.version or "hidden",
            "input": {} if gone else run.input,
            "logs": "" if gone else run.timeline.logs_at(min(now, finished or now)),
            "output": output,
            "data_removed": gone,
            "error": error,
            "status": status,
            "created_at": iso(run.timeline.created, digits),
            "urls": _urls_of(face, origin, run),
        }
        if started is not None:
            told["started_at"] = iso(started, digits)
        if finished is not None:
            told["completed_at"] = iso(finished, digits)
            told["metrics"] = {
                "predict_time": max(finished - (started or finished), 0.0),
                "total_time": finished - run.timeline.created,
            }
        if run.cancel_after is not None:
            told["deadline"] = iso(run.timeline.created + run.cancel_after, digits)
        return told

    async def file(self, request: web.Request) -> web.StreamResponse:
        run = self.world.runs.get(request.match_info["id"])
        now = time.time()
        if run is None or run.status_at(now) != "succeeded" or self.world.is_gone(run, now):
            return web.Response(status=404, text="Not found")
        if self.emulator.signature and request.query.get("X-Signature") != self.emulator.signature:
            return web.Response(status=403, text="The signature is missing or wrong")
        path = self.folder / f"{run.id}.mp4"
        async with self._rendering.setdefault(run.id, asyncio.Lock()):
            if not path.exists():
                await asyncio.to_thread(render, run, path)
        return web.FileResponse(path, headers={"Content-Type": "video/mp4"})

    # --- files, account ----------------------------------------------------------------------------

    async def upload(self, request: web.Request) -> web.StreamResponse:
        face = _face_of(request)
        content: bytes | None = None
        name, kind = "content", "application/octet-stream"
        if request.content_type == "multipart/form-data":
            async for part in await request.multipart():
                if isinstance(part, BodyPartReader) and part.name == "content":
                    content = bytes(await part.read())
                    name = part.filename or name
                    kind = part.headers.get("Content-Type", kind)
        if content is None:
            return _refusal(face, 400, "Missing content", "Bad request")
        if len(content) > _LARGEST_UPLOAD:
            return _refusal(face, 413, "The file is larger than 100 MB", "Too large")
        digest = sha256(content).hexdigest()
        identifier = digest[:24]
        (self.folder / f"upload-{identifier}").write_bytes(content)
        now = time.time()
        self.uploads[identifier] = {
            "id": identifier,
            "name": name,
            "content_type": kind,
            "size": len(content),
            "etag": digest[:32],
            "checksums": {"sha256": digest},
            "metadata": {},
            "created_at": iso(now, 3),
            "expires_at": iso(now + 24 * 3600, 3),
            "urls": {"get": f"{_origin(request)}/_files/{identifier}"},
        }
        return _json(201, self.uploads[identifier])

    async def uploaded(self, request: web.Request) -> web.StreamResponse:
        if "id" not in request.match_info:
            results = list(self.uploads.values())
            return _json(200, {"previous": None, "next": None, "results": results})
        known = self.uploads.get(request.match_info["id"])
        if known is None:
            return _refusal(_face_of(request), 404, "File not found", "Not found")
        return _json(200, known)

    async def delete_upload(self, request: web.Request) -> web.StreamResponse:
        if self.uploads.pop(request.match_info["id"], None) is None:
            return _refusal(_face_of(request), 404, "File not found", "Not found")
        (self.folder / f"upload-{request.match_info['id']}").unlink(missing_ok=True)
        return web.Response(status=204)

    async def upload_content(self, request: web.Request) -> web.StreamResponse:
        known = self.uploads.get(request.match_info["id"])
        if known is None:
            return web.Response(status=404)
        path = self.folder / f"upload-{known['id']}"
        return web.FileResponse(path, headers={"Content-Type": known["content_type"]})

    async def account(self, request: web.Request) -> web.StreamResponse:
        del request
        return _json(200, {"type": "user", "username": "emulator", "name": "Emulator"})

    # --- the control plane -------------------------------------------------------------------------

    async def bill(self, request: web.Request) -> web.StreamResponse:
        del request
        return _json(200, self.emulator.bill)

    async def requests(self, request: web.Request) -> web.StreamResponse:
        del request
        return _json(200, [asdict(seen) for seen in self.emulator.requests])

    async def faults(self, request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            self.emulator.faults.clear()
        elif request.method == "POST":
            try:
                given = json.loads(await request.read())
                found = [Fault.from_json(f) for f in (given if isinstance(given, list) else [given])]
            except (ValueError, TypeError) as error:
                return _json(400, {"detail": str(error)})
            self.emulator.faults.add(*found)
        return _json(200, [fault.as_json() for fault in self.emulator.faults.waiting()])


def _duration(text: str | None) -> float | None:
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text or "")
    if not text or match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _broken_off(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def _spoiled(
    request: web.Request, answer: web.Response | web.FileResponse, fault: Fault
) -> web.StreamResponse:
    if isinstance(answer, web.Response) and (fault.patch or fault.drop or fault.logs):
        answer = _patched(answer, fault)
    if fault.clock:
        answer.headers["Date"] = formatdate(time.time() + fault.clock, usegmt=True)
    if fault.truncate is not None:
        return await _truncated(request, answer, fault.truncate)
    if fault.drip is not None:
        return await _dripped(request, answer, fault.drip)
    return answer


def _patched(answer: web.Response, fault: Fault) -> web.Response:
    body = answer.body if isinstance(answer.body, bytes) else b""
    told = json.loads(body)
    if isinstance(told, dict):
        told |= fault.patch
        for name in fault.drop:
            told.pop(name, None)
        if fault.logs:
            line = " 50%|█████     | 25/50 [00:30<00:30,  1.20s/it]\n"
            told["logs"] = (told.get("logs") or "") + line * fault.logs
    return _json(answer.status, told)


async def _begun(request: web.Request, answer: web.StreamResponse) -> tuple[web.StreamResponse, bytes]:
    """Send the head of an answer, and return what is to follow."""
    headers = {"Content-Type": answer.content_type}
    if isinstance(answer, web.FileResponse):
        path = answer._path  # noqa: SLF001 - aiohttp tells it nowhere else
        body, stat = path.read_bytes(), path.stat()
        headers["ETag"] = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'  # as aiohttp makes it
    else:
        body = answer.body if isinstance(answer, web.Response) and isinstance(answer.body, bytes) else b""
    begun = web.StreamResponse(status=answer.status, headers=headers)
    begun.content_length = len(body)
    await begun.prepare(request)
    return begun, body


async def _truncated(request: web.Request, answer: web.StreamResponse, size: int) -> web.StreamResponse:
    torn, body = await _begun(request, answer)
    await torn.write(body[:size])
    if request.transport is not None:
        request.transport.close()
    return torn


async def _dripped(request: web.Request, answer: web.StreamResponse, pause: float) -> web.StreamResponse:
    slow, body = await _begun(request, answer)
    for byte in body:
        await slow.write(bytes([byte]))
        await asyncio.sleep(pause)
    return slow
