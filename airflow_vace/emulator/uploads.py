"""Replicate's files API: upload, list, get and delete, and the download with a signature."""

from __future__ import annotations

import base64
import hmac
import json
import random
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from aiohttp import BodyPartReader, web

from airflow_vace.emulator.damage import file_response
from airflow_vace.emulator.dialects import face_of, json_response, not_found, refusal
from airflow_vace.emulator.world import iso, letters

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator.server import Emulator

# https://replicate.com/docs/reference/http: uploaded files expire after 24 hours.
_LIFETIME_SECONDS = 24 * 3600
# https://api.replicate.com/openapi.json, `files.create`.
_MAX_NAME_BYTES = 255


class Uploads:
    """The uploaded files of an emulator; `files` maps an id to the file's JSON object."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}
        self._random = random.Random(f"{emulator.seed} files")  # noqa: S311 - repeatable on purpose

    def add_routes(self, router: web.UrlDispatcher, prefix: str) -> None:
        """Register the routes."""
        router.add_post(prefix + "/files", self.upload)
        router.add_get(prefix + "/files", self.list)
        router.add_get(prefix + "/files/{id}", self.get)
        router.add_delete(prefix + "/files/{id}", self.delete)
        router.add_get(prefix + "/files/{id}/download", self.download)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Store the part `content` of a form, with the parts `filename`, `type` and `metadata`."""
        backend = face_of(request).backend
        parts: dict[str, Any] = {}
        if request.content_type == "multipart/form-data":
            # Real clients send the parts in any order.
            async for part in await request.multipart():
                if isinstance(part, BodyPartReader) and part.name:
                    parts[part.name] = bytes(await part.read())
                    if part.name == "content":
                        parts.setdefault("filename", (part.filename or "content").encode())
                        parts.setdefault("type", part.headers.get("Content-Type", "").encode())
        if "content" not in parts:
            return refusal(backend, 400, "Missing content", "Bad request")
        if len(parts["content"]) > self.emulator.max_upload_bytes:
            return refusal(backend, 413, "Files must be less than 100MB in size", "Content too large")
        try:
            metadata = json.loads(parts.get("metadata", b"{}"))
            name, content_type = parts["filename"].decode(), parts["type"].decode()
        except ValueError:
            return refusal(backend, 400, "metadata must be JSON, filename must be UTF-8", "Bad request")
        if len(parts["filename"]) > _MAX_NAME_BYTES:
            return refusal(backend, 400, "filename has more than 255 bytes", "Bad request")
        described = {
            "name": name,
            "content_type": content_type or "application/octet-stream",
            "metadata": metadata,
        }
        return json_response(201, self._store(parts["content"], described, face_of(request).origin))

    def _store(self, content: bytes, described: dict[str, Any], origin: str) -> dict[str, Any]:
        # Each upload has an id: the same content twice is two files at the vendor.
        identifier = letters(self._random)
        self._path_of(identifier).write_bytes(content)
        digest, now = sha256(content).hexdigest(), time.time()
        file = self.files[identifier] = {
            "id": identifier,
            **described,
            "size": len(content),
            "etag": digest[:32],
            "checksums": {"sha256": digest},
            "created_at": iso(now, 3),
            "expires_at": iso(now + _LIFETIME_SECONDS, 3),
            # The URL of the JSON object, which the vendor's models can read; content needs a signature.
            "urls": {"get": f"{origin}/v1/files/{identifier}"},
        }
        return file

    def _path_of(self, identifier: str) -> Path:
        return self.folder / f"upload-{identifier}"

    def content_of(self, url: str) -> bytes:
        """Return the content of a file by the URL that models get.

        :raises KeyError: if no file has this URL
        """
        return self._path_of(self.files[url.rpartition("/")[2]]["id"]).read_bytes()

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List all files on a single page, newest first."""
        del request
        files = list(reversed(self.files.values()))
        return json_response(200, {"previous": None, "next": None, "results": files})

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return a file's JSON object."""
        file = self.files.get(request.match_info["id"])
        return json_response(200, file) if file else _no_file(request)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete a file."""
        identifier = request.match_info["id"]
        if self.files.pop(identifier, None) is None:
            return _no_file(request)
        self._path_of(identifier).unlink(missing_ok=True)
        return web.Response(status=204)

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Send a file's content to a request with owner, expiry and signature."""
        identifier, query = request.match_info["id"], request.query
        if identifier not in self.files:
            return _no_file(request)
        owner, expiry = query.get("owner", ""), query.get("expiry", "")
        signature = self.sign(identifier, owner, expiry)
        is_late = not expiry.isdecimal() or int(expiry) < time.time()
        if is_late or not hmac.compare_digest(query.get("signature", "").encode(), signature.encode()):
            return not_found(face_of(request).backend)
        return file_response(self._path_of(identifier), "application/octet-stream")

    def sign(self, identifier: str, owner: str, expiry: str) -> str:
        """Return the signature of a download: HMAC-SHA256 of `{owner} {id} {expiry}`, in Base64.

        :param expiry: Unix time in whole seconds
        """
        message = f"{owner} {identifier} {expiry}".encode()
        key = self.emulator.webhooks.secret.encode()
        return base64.b64encode(hmac.digest(key, message, "sha256")).decode()


def _no_file(request: web.Request) -> web.Response:
    return refusal(face_of(request).backend, 404, "File not found", "Not found")
