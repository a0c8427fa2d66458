"""Content of predictions: their files, and the stream of their output."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from airflow_vace.emulator.damage import file_response
from airflow_vace.emulator.dialects import face_of, not_found, prediction_body
from airflow_vace.emulator.video import render

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator.server import Emulator
    from airflow_vace.emulator.world import Run

_VIDEO_NAME = "output.mp4"


class Delivery:
    """Files and streams of an emulator's predictions.

    :param folder: directory of rendered videos
    """

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.world = emulator.world
        self.folder = folder
        self._render_locks: dict[str, asyncio.Lock] = {}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        router.add_get("/v1/delivery/{id}/{name}", self.file)
        router.add_get("/_delivery/{id}/{name}", self.file)
        router.add_get("/_stream/{id}", self.stream)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Send a prediction's file to a client, which needs the signature if the emulator signs URLs."""
        is_signed = request.query.get("X-Signature") == self.emulator.signature
        return await self._send(request, is_allowed=is_signed or not self.emulator.signature)

    async def file_of_page(self, request: web.Request) -> web.StreamResponse:
        """Send a prediction's file to a page."""
        return await self._send(request, is_allowed=True)

    async def _send(self, request: web.Request, *, is_allowed: bool) -> web.StreamResponse:
        """Send a prediction's file; the first request renders a video."""
        run, name = self.world.runs.get(request.match_info["id"]), request.match_info["name"]
        now = time.time()
        known = self.emulator.models.files.get(name)
        if run is None or run.status_at(now) != "succeeded" or self.world.is_gone(run, now):
            return web.Response(status=404, text="Not found")
        if not is_allowed:
            return web.Response(status=403, text="The signature is missing or wrong")
        if known is not None:
            return file_response(known, mimetypes.guess_type(name)[0] or "application/octet-stream")
        if name != _VIDEO_NAME:
            return web.Response(status=404, text="Not found")
        path = self.folder / f"{run.id}.mp4"
        # Two requests at once must not render the same file, and rendering must not hold up the loop.
        async with self._render_locks.setdefault(run.id, asyncio.Lock()):
            if not path.exists():
                await asyncio.to_thread(render, run, path)
        return file_response(path, "video/mp4")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the output as server-sent events once the prediction has ended.

        https://replicate.com/docs/topics/predictions/streaming describes the events.
        """
        run = self.world.runs.get(request.match_info["id"])
        if run is None:
            return not_found()
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        stream = web.StreamResponse(headers=headers)
        await stream.prepare(request)
        # The clock ends a run, so there is no event to wait for.
        while run.finished_at(time.time()) is None and not self.emulator.closing.is_set():  # noqa: ASYNC110
            await asyncio.sleep(min(0.05, max(run.ended - time.time(), 0.001)))
        body = prediction_body(face_of(request), run, self.world, self.emulator.signature)
        for number, (event, data) in enumerate(_events(run, body)):
            lines = "".join(f"data: {line}\n" for line in data.split("\n"))
            await stream.write(f"event: {event}\nid: {number}\n{lines}\n".encode())
        return stream


def _events(run: Run, body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the events of an ended prediction, each with its data."""
    if body["status"] == "failed":
        detail = json.dumps({"detail": str(run.outcome.get("error"))})
        return [("error", detail), ("done", json.dumps({"reason": "error"}))]
    if body["status"] != "succeeded":
        return [("done", json.dumps({"reason": "canceled"}))]
    parts = body["output"] if isinstance(body["output"], list) else [body["output"]]
    texts = [part if isinstance(part, str) else json.dumps(part) for part in parts]
    return [*(("output", text) for text in texts), ("done", "{}")]
