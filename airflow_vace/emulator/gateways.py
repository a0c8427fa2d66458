"""Dialects of gateways, as data: paths, ids, status words, envelopes and second keys.

Sources: the code of https://github.com/QuantumNous/new-api (`dto/task.go`, `relay/relay_task.go`), and
https://developers.cloudflare.com/ai-gateway/usage/providers/replicate.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from airflow_vace.emulator.damage import with_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp.typedefs import Handler, Middleware

_COMMON_PREFIX = "/replicate/v1"
SECOND_KEY = "vace-emulator-second-key"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The differences of a gateway from Replicate.

    :param prefix: path before `/predictions`; a name in braces matches one segment
    :param backend: back-end that a connection names for this gateway
    :param headers: further headers that each request must carry, such as a second key
    :param id_prefix: start of the gateway's own ids; empty if the gateway passes on the upstream's ids
    :param words: status words of the gateway by Replicate's words
    :param members: members of a prediction's body; a function reads each from Replicate's body
    :param wraps: True to send a prediction as `{"code", "message", "data"}`, and an error likewise
    :param unknown: status and error code for an unknown id
    """

    prefix: str = _COMMON_PREFIX
    backend: Literal["gateway", "replicate"] = "gateway"
    headers: Mapping[str, str] = field(default_factory=dict)
    id_prefix: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)
    wraps: bool = False
    unknown: tuple[int, str] | None = None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{\w+\}", "[^/]+", self.prefix) + "/")

    @property
    def base_path(self) -> str:
        """The path of a connection's host: the prefix of a gateway with a path of its own."""
        return "" if self.prefix == _COMMON_PREFIX else re.sub(r"\{(\w+)\}", r"my-\1", self.prefix)

    def covers(self, path: str) -> bool:
        """Return True if the path is one of this gateway's."""
        return self._pattern.match(path) is not None

    def own_id(self, upstream: str) -> str:
        """Return the gateway's id of an upstream's prediction."""
        # Reversed, so a client that merely cuts the prefix off does not find the upstream's id.
        return f"{self.id_prefix}{upstream[::-1]}" if self.id_prefix else upstream

    def upstream_id(self, own: str) -> str:
        """Return the upstream's id of a gateway's id; an unknown id has none."""
        return own.removeprefix(self.id_prefix)[::-1] if own.startswith(self.id_prefix) else ""


def _seconds(name: str) -> Callable[[dict[str, Any]], int]:
    def read(body: dict[str, Any]) -> int:
        text = body.get(name)
        return int(datetime.fromisoformat(text).timestamp()) if text else 0

    return read


# `TaskDto` of new-api; a canceled prediction is reported as a failure there.
_TASK_WORDS = {
    "starting": "NOT_START",
    "processing": "IN_PROGRESS",
    "succeeded": "SUCCESS",
    **dict.fromkeys(("failed", "canceled", "aborted"), "FAILURE"),
}
_TASK_MEMBERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "id": lambda body: sum(map(ord, body["id"])),  # the row in the gateway's database, a number
    "task_id": lambda body: body["own_id"],
    "platform": lambda _: "replicate",
    "action": lambda _: "generate",
    "status": lambda body: _TASK_WORDS.get(body["status"], body["status"]),
    "fail_reason": lambda body: body["error"] or "",
    "result_url": lambda body: body["output"] or "",
    "submit_time": _seconds("created_at"),
    "start_time": _seconds("started_at"),
    "finish_time": _seconds("completed_at"),
    "progress": lambda body: {"starting": "0%", "processing": "50%"}.get(body["status"], "100%"),
    "data": lambda body: {name: value for name, value in body.items() if name != "own_id"},
}
_NO_TASK = (400, "task_not_exist")

PRESETS: Mapping[str, Dialect] = {
    # Replicate's bodies with an own id in the answer to a create; polls bring the upstream's id.
    "new-api": Dialect(
        id_prefix="task_", words=dict.fromkeys(("canceled", "aborted"), "failed"), unknown=_NO_TASK
    ),
    # The general task routes of the same gateway.
    "new-api-tasks": Dialect(id_prefix="task_", members=_TASK_MEMBERS, wraps=True, unknown=_NO_TASK),
    "envelope": Dialect(wraps=True),
    "cloudflare": Dialect(
        prefix="/v1/{account}/{gateway}/replicate",
        backend="replicate",
        headers={"cf-aig-authorization": f"Bearer {SECOND_KEY}"},
    ),
    "lovable": Dialect(headers={"X-Connection-Api-Key": SECOND_KEY}),
}


def dialect_of(value: Dialect | str | None, path: str = "") -> Dialect:
    """Return a dialect by name, at another path if given; None means the plain gateway.

    :param path: path of Replicate's API at the gateway, empty for the dialect's own
    :raises ValueError: if no preset has this name
    """
    if isinstance(value, str) and value not in PRESETS:
        raise ValueError(f"dialect {value!r} is none of {', '.join(PRESETS)}")
    known = PRESETS[value] if isinstance(value, str) else value or Dialect()
    return replace(known, prefix=path, backend="replicate") if path else known


def translation(dialect: Dialect) -> Middleware:
    """Return a middleware that lets the gateway's paths speak a dialect."""

    @web.middleware
    async def translate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not dialect.covers(request.path):
            return await handler(request)
        if dialect.id_prefix and "id" in request.match_info:
            request.match_info["id"] = dialect.upstream_id(request.match_info["id"])
        response = await handler(request)
        if isinstance(response, web.Response) and response.content_type.endswith("json"):
            is_create = request.method == "POST" and request.path.endswith("/predictions")
            return _translated(dialect, response, is_create=is_create)
        return response

    return translate


def _translated(dialect: Dialect, response: web.Response, *, is_create: bool) -> web.Response:
    body = json.loads(response.body if isinstance(response.body, bytes) else b"null")
    if not isinstance(body, dict):
        return response
    status = response.status
    if status >= 400:
        if status == 404 and dialect.unknown:
            status, code = dialect.unknown
            body = {"code": code, "message": code, "data": None}
        elif dialect.wraps and isinstance(body.get("error"), dict):
            body = {"code": body["error"]["code"], "message": body["error"]["message"], "data": None}
    elif "results" in body:
        body["results"] = [_prediction_in(dialect, one, is_create=True) for one in body["results"]]
    elif "status" in body and "urls" in body:
        body = _prediction_in(dialect, body, is_create=is_create)
        if dialect.wraps:
            body = {"code": "success", "message": "", "data": body}
    return with_json(response, body, status)


def _prediction_in(dialect: Dialect, body: dict[str, Any], *, is_create: bool) -> dict[str, Any]:
    own_id = dialect.own_id(body["id"])
    if dialect.members:
        return {name: read({**body, "own_id": own_id}) for name, read in dialect.members.items()}
    word = dialect.words.get(body["status"], body["status"])
    return {**body, "status": word, "id": own_id if is_create else body["id"]}
