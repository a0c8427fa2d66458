"""Steps around each request: the request log, the rate limit, scripted faults and the key check."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from airflow_vace.core.backends import BACKENDS
from airflow_vace.emulator.control import CONTROL_PATH
from airflow_vace.emulator.damage import damaged, drop_connection
from airflow_vace.emulator.dialects import PAGE_PATH, face_of, not_found, refusal
from airflow_vace.emulator.limits import Bucket, throttled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from airflow_vace.emulator.faults import Fault
    from airflow_vace.emulator.server import Emulator

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# A fault's `outcome`, on its way from the fault to the create that the fault meets.
OUTCOME = web.RequestKey("outcome", dict)
# Paths of a content network: real URLs of files need no key, so a client that sends one leaks it unnoticed.
_OPEN_PATHS = (CONTROL_PATH, PAGE_PATH, "/_delivery/", "/_stream/")
_KEY_HEADERS = ("authorization", "apikey", "cookie")


@dataclass(frozen=True, kw_only=True)
class SeenRequest:
    """One received request.

    :param path: path with query
    :param auth: names of the headers that carried a key, never the key
    :param time: Unix time of arrival, in seconds
    """

    method: str
    path: str
    host: str
    auth: tuple[str, ...]
    time: float


class Middleware:
    """The steps of one emulator, in the order of their calls."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self._key_headers = (*_KEY_HEADERS, *map(str.lower, emulator.headers))
        # One second's worth of requests in a burst.
        self._limit = Bucket(emulator.limit, emulator.limit) if emulator.limit else None

    @web.middleware
    async def log(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record the request, and wake waiting tests after the response."""
        # Tests count the client's requests, so a request for the bill must not count.
        if not _is_own(request.path):
            self.emulator.note(
                SeenRequest(
                    method=request.method,
                    path=request.path_qs,
                    host=request.host,
                    auth=tuple(name for name in self._key_headers if name in request.headers),
                    time=time.time(),
                )
            )
        try:
            return await handler(request)
        finally:
            self.emulator.changed()

    @web.middleware
    async def misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Apply the rate limit and the next matching fault."""
        if _is_own(request.path):
            return await handler(request)
        if self._limit is not None and not self._limit.take():
            self.emulator.throttled += 1
            return throttled(face_of(request).backend)
        given = await self._input_of(request) if self.emulator.faults.needs_input() else None
        fault = self.emulator.faults.next_for(request.method, request.path, given)
        return await (handler(request) if fault is None else self._respond(request, handler, fault))

    async def _input_of(self, request: web.Request) -> dict[str, Any] | None:
        """Return the input of the prediction that a request creates or names, None without one."""
        named = request.match_info.get("id", "")
        runs = self.emulator.world.runs
        run = runs.get(named) or runs.get(self.emulator.dialect.upstream_id(named))
        if run is not None:
            return run.input
        if request.method != "POST" or not request.path.endswith("/predictions"):
            return None
        try:
            body = json.loads(await request.read())
        except ValueError:
            return None
        given = body.get("input") if isinstance(body, dict) else None
        return given if isinstance(given, dict) else None

    async def _respond(self, request: web.Request, handler: Handler, fault: Fault) -> web.StreamResponse:
        request[OUTCOME] = fault.outcome
        if fault.delay:
            # Read the body first: a client that gives up meanwhile has still sent the request.
            await request.read()
            await asyncio.sleep(fault.delay)
        response: web.StreamResponse | None = None
        is_canned = fault.status is not None or fault.reset or fault.hang
        if not is_canned or fault.accept or "after" in (fault.reset, fault.hang):
            response = await handler(request)
        if fault.hang:
            # Wake tests now: the step that does so otherwise runs only at the emulator's end.
            self.emulator.changed()
            await self.emulator.closing.wait()
        if fault.reset or fault.hang:
            return drop_connection(request)
        if fault.status is not None:
            return web.Response(status=fault.status, headers=fault.headers, body=fault.encoded_body())
        if isinstance(response, web.Response | web.FileResponse):
            return await damaged(request, response, fault)
        return response or web.Response(status=500)

    @web.middleware
    async def limit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Apply the limits of the back-end; Replicate also reports the limits in each response."""
        backend = face_of(request).backend
        bucket = self.emulator.limits.bucket_of(request, backend)
        if bucket is None or _is_open(request.path):
            return await handler(request)
        if bucket.take():
            response = await handler(request)
        else:
            self.emulator.throttled += 1
            response = throttled(backend, bucket.reset if backend == "replicate" else bucket.next_in)
        if backend == "replicate" and not response.prepared:
            response.headers["ratelimit-remaining"] = str(bucket.remaining)
            response.headers["ratelimit-reset"] = str(bucket.reset)
        return response

    @web.middleware
    async def speak_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse unknown paths and methods in the back-end's envelope rather than in aiohttp's plain text."""
        try:
            return await handler(request)
        except web.HTTPClientError as error:
            if _is_open(request.path):
                raise
            backend = face_of(request).backend
            if error.status == 404:
                return not_found(backend)
            return refusal(backend, error.status, error.reason, error.reason)

    @web.middleware
    async def check_key(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request without the key; files and the control plane are open."""
        if _is_open(request.path) or _is_signed_download(request):
            return await handler(request)
        # As Cloudflare AI Gateway refuses: its own key is checked before the vendor's.
        if any(request.headers.get(name) != value for name, value in self.emulator.headers.items()):
            body = {"success": False, "result": [], "error": [{"code": 2009, "message": "Unauthorized"}]}
            return web.json_response(body, status=401)
        name = face_of(request).backend
        backend = BACKENDS[name]
        expected = backend.key_form.format(key=self.emulator.api_key)
        given = request.headers.get(backend.key_header, "")
        # Older Replicate clients send "Token" instead of "Bearer".
        if given != expected and given.replace("Token ", "Bearer ", 1) != expected:
            detail = "Invalid token" if given else "You did not pass an authentication token"
            return refusal(name, 401, detail, "Unauthenticated")
        return await handler(request)


def _is_own(path: str) -> bool:
    """Return True for the control plane and the pages, which are no part of the vendor."""
    return path == "/" or path.startswith((CONTROL_PATH, PAGE_PATH))


def _is_open(path: str) -> bool:
    return path == "/" or path.startswith(_OPEN_PATHS)


def _is_signed_download(request: web.Request) -> bool:
    return request.path.endswith("/download") and "signature" in request.query
