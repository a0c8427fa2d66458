"""Replicate's files API: upload, list, get and delete, and the content behind `urls.get`."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from aiohttp import BodyPartReader, web

from airflow_vace.emulator.damage import file_response
from airflow_vace.emulator.dialects import backend_of, json_response, origin_of, refusal
from airflow_vace.emulator.world import iso

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator.server import Emulator

# https://replicate.com/docs/reference/http: uploaded files expire after 24 hours.
_LIFETIME_SECONDS = 24 * 3600


class Uploads:
    """The uploaded files of an emulator; `files` maps an id to the file's JSON object."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}

    def add_routes(self, router: web.UrlDispatcher, prefix: str) -> None:
        """Register the routes below a prefix."""
        router.add_post(f"{prefix}/files", self.upload)
        router.add_get(f"{prefix}/files", self.list)
        router.add_get(f"{prefix}/files/{{id}}", self.get)
        router.add_delete(f"{prefix}/files/{{id}}", self.delete)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Store the part `content` of a form."""
        backend = backend_of(request)
        content: bytes | None = None
        # Real clients send further parts, such as `metadata`, in any order.
        name, content_type = "content", "application/octet-stream"
        if request.content_type == "multipart/form-data":
            async for part in await request.multipart():
                if isinstance(part, BodyPartReader) and part.name == "content":
                    content = bytes(await part.read())
                    name = part.filename or name
                    content_type = part.headers.get("Content-Type", content_type)
        if content is None:
            return refusal(backend, 400, "Missing content", "Bad request")
        if len(content) > self.emulator.max_upload_bytes:
            return refusal(backend, 413, "The file is larger than 100 MB", "Too large")
        return json_response(201, self._store(content, name, content_type, origin_of(request)))

    def _store(self, content: bytes, name: str, content_type: str, origin: str) -> dict[str, Any]:
        # The id is the content's hash, so the same file has the same id in each run of a test.
        digest = sha256(content).hexdigest()
        identifier = digest[:24]
        self._path_of(identifier).write_bytes(content)
        now = time.time()
        file = self.files[identifier] = {
            "id": identifier,
            "name": name,
            "content_type": content_type,
            "size": len(content),
            "etag": digest[:32],
            "checksums": {"sha256": digest},
            "metadata": {},
            "created_at": iso(now, 3),
            "expires_at": iso(now + _LIFETIME_SECONDS, 3),
            "urls": {"get": f"{origin}/_files/{identifier}"},
        }
        return file

    def _path_of(self, identifier: str) -> Path:
        return self.folder / f"upload-{identifier}"

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List all files on a single page."""
        del request
        return json_response(200, {"previous": None, "next": None, "results": list(self.files.values())})

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return a file's JSON object."""
        file = self.files.get(request.match_info["id"])
        if file is None:
            return refusal(backend_of(request), 404, "File not found", "Not found")
        return json_response(200, file)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete a file."""
        identifier = request.match_info["id"]
        if self.files.pop(identifier, None) is None:
            return refusal(backend_of(request), 404, "File not found", "Not found")
        self._path_of(identifier).unlink(missing_ok=True)
        return web.Response(status=204)

    async def content(self, request: web.Request) -> web.StreamResponse:
        """Send a file's content."""
        file = self.files.get(request.match_info["id"])
        if file is None:
            return web.Response(status=404)
        return file_response(self._path_of(file["id"]), file["content_type"])
