"""A server with trouble for some predictions, and waits for all of them in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self

from airflow_vace.client import poller
from airflow_vace.client.settings import Settings
from airflow_vace.core.timing import Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EPOCH = 1_800_000_000.0
RESET = b"reset"


def _answer(status: str, body: bytes | Mapping[str, object] = b"", **headers: str) -> bytes:
    kind = "text/html" if isinstance(body, bytes) and body.startswith(b"<") else "application/json"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content_type": kind, "content_length": str(len(content)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + content


def _cut(prediction: dict[str, object]) -> bytes:
    return json.dumps(prediction).encode()[:-20]


PAGE = b"<!doctype html><title>Hello</title>"
REFUSED = {"detail": "no"}
# Each kind of trouble, by a function of the id and of the server's time.
TROUBLE: dict[str, Callable[[str, float], bytes]] = {
    "500": lambda _, __: _answer("500 Oops", REFUSED),
    "502 page": lambda _, __: _answer("502 Bad", PAGE),
    "503 empty": lambda _, __: _answer("503 Busy"),
    "503 with a time": lambda _, __: _answer("503 Busy", REFUSED, retry_after="2"),
    "504 text": lambda _, __: _answer("504 Late", b"upstream request timeout"),
    "520": lambda _, __: _answer("520 Odd", PAGE),
    "408": lambda _, __: _answer("408 Late", REFUSED),
    "200 page": lambda _, __: _answer("200 OK", PAGE),
    "403 page": lambda _, __: _answer("403 No", PAGE),
    "404 page": lambda _, __: _answer("404 No", PAGE),
    "401": lambda _, __: _answer("401 No", REFUSED),
    "404": lambda _, __: _answer("404 No", REFUSED),
    "redirect": lambda _, __: _answer("302 Found", location="/login"),
    "reset": lambda _, __: RESET,
    "closed": lambda _, __: b"",
    "reset in the head": lambda _, __: b"HTTP/1.1 200 OK\r\nContent-" + RESET,
    "reset in the body": lambda _, __: b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id"' + RESET,
    "429": lambda _, __: _answer("429 Slow", REFUSED),
    "429 empty": lambda _, __: _answer("429 Slow"),
    "429 page": lambda _, __: _answer("429 Slow", PAGE),
    "429 with 0": lambda _, __: _answer("429 Slow", REFUSED, retry_after="0"),
    "429 with 1": lambda _, __: _answer("429 Slow", REFUSED, retry_after="1"),
    "429 with a date": lambda _, now: _answer(
        "429 Slow", REFUSED, date=formatdate(now, usegmt=True), retry_after=formatdate(now + 1, usegmt=True)
    ),
    "429 with words": lambda _, __: _answer("429 Slow", REFUSED, retry_after="soon"),
    "429 in the text": lambda _, __: _answer("429 Slow", {"detail": "Your rate limit resets in ~1s."}),
    "429 in the body": lambda _, __: _answer("429 Slow", {"detail": "no", "retry_after": 1}),
    "429 with a reset": lambda _, __: _answer("429 Slow", REFUSED, ratelimit_reset="1"),
    "cut off": lambda name, _: _answer(
        "200 OK", _cut({"id": name, "status": "processing", "logs": "x" * 99})
    ),
    "empty": lambda _, __: _answer("200 OK"),
    "a list": lambda _, __: _answer("200 OK", b"[]"),
    "null": lambda _, __: _answer("200 OK", b"null"),
    "an empty object": lambda _, __: _answer("200 OK", b"{}"),
    "another id": lambda _, __: _answer("200 OK", {"id": "other", "status": "processing"}),
    "an odd status": lambda name, _: _answer("200 OK", {"id": name, "status": ["odd"]}),
    "an error in a 200": lambda _, __: _answer("200 OK", {"error": {"message": "upstream"}}),
    "204": lambda _, __: b"HTTP/1.1 204 No Content\r\n\r\n",
}


@dataclass
class TroubledServer:
    """A server in the running loop.

    :param trouble: kinds of trouble still to come, by id; None stands for a good answer
    :param lasting: the kind of trouble that never ends, by id
    :param ends_at: seconds of the loop's clock from which predictions have succeeded
    :param outage: seconds between which each request gets a page with 502
    :param limit: requests per second that are answered, without a limit if None; others get `limit_trouble`
    :param latency: seconds from a request to its answer, at most
    """

    trouble: dict[str, list[str | None]]
    lasting: dict[str, str] = field(default_factory=dict)
    ends_at: float = 20.0
    outage: tuple[float, float] = (0.0, 0.0)
    limit: float | None = None
    limit_trouble: str = "429"
    latency: float = 0.2
    refused: int = 0
    polls: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tokens, self._filled_at = self.limit or 0.0, 0.0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                answer = await self._answer_to(head.split()[1].decode().rpartition("/")[2])
                is_reset = answer.endswith(RESET)
                writer.write(answer.removesuffix(RESET))
                await writer.drain()
                if is_reset:
                    connection = writer.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if is_reset or not answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _is_within_limit(self, now: float, limit: float) -> bool:
        """Take a token from a bucket that holds the tokens of a second."""
        self._tokens = min(self._tokens + (now - self._filled_at) * limit, limit)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def _answer_to(self, prediction_id: str) -> bytes:
        loop = asyncio.get_running_loop()
        self.polls[prediction_id] += 1
        self.times.append(loop.time())
        await asyncio.sleep(random.uniform(0.02, self.latency))  # noqa: S311 - no secret
        now = loop.time()
        if self.outage[0] <= now < self.outage[1]:
            return TROUBLE["502 page"](prediction_id, now)
        if self.limit is not None and not self._is_within_limit(now, self.limit):
            self.refused += 1
            return TROUBLE[self.limit_trouble](prediction_id, EPOCH + now)
        kind = self.lasting.get(prediction_id)
        if kind is None and self.trouble.get(prediction_id):
            kind = self.trouble[prediction_id].pop(0)
        if kind is not None:
            return TROUBLE[kind](prediction_id, EPOCH + now)
        prediction: dict[str, object] = {"id": prediction_id, "status": "processing"}
        if now >= self.ends_at:
            prediction |= {"status": "succeeded", "output": "https://e.example/a.mp4"}
        return _answer("200 OK", prediction)


async def ends_of(
    server: TroubledServer, ids: list[str], *, poll_interval: float | None = None, seconds: float = 200.0
) -> dict[str, float]:
    """Return the moments at which waits end, by id; waits without an end after the seconds are left out."""
    connection = SimpleNamespace(host=server.url, schema=None, port=None, password="k" * 8)
    settings = Settings.of(connection, {"backend": "gateway"}, timing=Timing())
    loop = asyncio.get_running_loop()

    async def connect() -> Settings:
        return settings

    mine = poller.join("c", connect, timing=settings.timing, now=lambda: EPOCH + loop.time())
    ends: dict[str, float] = {}

    async def wait(prediction_id: str) -> None:
        options = poller.WaitOptions(write=lambda _, __: None, poll_interval=poll_interval)
        await mine.wait_until_final(prediction_id, options)
        ends[prediction_id] = loop.time()

    waits = [asyncio.create_task(wait(each)) for each in ids]
    await asyncio.wait(waits, timeout=seconds)
    for each in waits:
        each.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await poller.leave(mine)
    return ends
