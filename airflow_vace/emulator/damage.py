"""Damage that a fault does to a correct response: changed JSON, a wrong clock, truncation, slow bytes."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from airflow_vace.emulator.faults import Fault

# The file behind a response: aiohttp's FileResponse does not publish its path.
FILE = web.ResponseKey("file", Path)
_LOG_LINE = " 50%|█████     | 25/50 [00:30<00:30,  1.20s/it]\n"


def file_response(path: Path, content_type: str) -> web.FileResponse:
    """Return a response that sends a file, in ranges too, and that a fault can damage."""
    response = web.FileResponse(path, headers={"Content-Type": content_type})
    response[FILE] = path
    return response


def drop_connection(request: web.Request) -> web.Response:
    """Reset the connection; the returned response never reaches the client."""
    # `abort` sends a TCP reset, where `close` would be a normal end.
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def damaged(
    request: web.Request, response: web.Response | web.FileResponse, fault: Fault
) -> web.StreamResponse:
    """Return the response with the fault's damage applied."""
    if isinstance(response, web.Response) and (fault.patch or fault.drop or fault.logs):
        response = _patched(response, fault)
    if fault.clock:
        response.headers["Date"] = formatdate(time.time() + fault.clock, usegmt=True)
    if fault.truncate is not None:
        return await _truncated(request, response, fault.truncate)
    if fault.drip is not None:
        return await _dripped(request, response, fault.drip)
    return response


def _patched(response: web.Response, fault: Fault) -> web.Response:
    body = json.loads(response.body if isinstance(response.body, bytes) else b"")
    if isinstance(body, dict):
        body |= fault.patch
        for name in fault.drop:
            body.pop(name, None)
        if fault.logs:
            body["logs"] = (body.get("logs") or "") + _LOG_LINE * fault.logs
    return with_json(response, body)


def with_json(response: web.Response, body: Any, status: int | None = None) -> web.Response:
    """Return the response with another JSON body, and with another status if given."""
    changed = web.json_response(body, status=status or response.status, content_type=response.content_type)
    kept = {n: v for n, v in response.headers.items() if not n.lower().startswith("content-")}
    changed.headers.update(kept)
    return changed


async def _started(
    request: web.Request, response: web.Response | web.FileResponse
) -> tuple[web.StreamResponse, bytes]:
    """Send the status and headers of a response, and return the body that must follow."""
    headers = {"Content-Type": response.content_type}
    if isinstance(response, web.FileResponse):
        path = response[FILE]
        body, stat = await asyncio.to_thread(lambda: (path.read_bytes(), path.stat()))
        # aiohttp's own form of an ETag, so a client can resume the download from an undamaged response.
        headers["ETag"] = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    else:
        body = response.body if isinstance(response.body, bytes) else b""
    started = web.StreamResponse(status=response.status, headers=headers)
    # The announced length is the whole one, so a client can notice that bytes are missing.
    started.content_length = len(body)
    await started.prepare(request)
    return started, body


async def _truncated(
    request: web.Request, response: web.Response | web.FileResponse, size: int
) -> web.StreamResponse:
    truncated, body = await _started(request, response)
    await truncated.write(body[:size])
    if request.transport is not None:
        request.transport.close()
    return truncated


async def _dripped(
    request: web.Request, response: web.Response | web.FileResponse, pause: float
) -> web.StreamResponse:
    slow, body = await _started(request, response)
    for byte in body:
        await slow.write(bytes([byte]))
        await asyncio.sleep(pause)
    return slow
