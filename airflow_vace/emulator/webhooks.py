"""Webhooks of predictions: signed as Svix signs, and sent again a few times after a failure."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp

from airflow_vace.emulator.dialects import Face, prediction_body

if TYPE_CHECKING:
    from airflow_vace.emulator.server import Emulator
    from airflow_vace.emulator.world import Run

# https://api.replicate.com/openapi.json, `webhook_events_filter`: without a filter, new outputs and the end.
_DEFAULT_EVENTS = ("output", "completed")
# The same document: at most one request every 500 ms for logs.
_LOGS_SECONDS = 0.5
_ATTEMPTS = 4
_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = 10.0


class Webhooks:
    """The webhooks of an emulator; `secret` verifies them.

    :param emulator: the emulator whose predictions have webhooks
    """

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        # The same key gives the same secret, so a receiver's configuration survives a restart.
        self._key = sha256(f"webhooks of {emulator.api_key}".encode()).digest()[:24]
        self.secret = f"whsec_{base64.b64encode(self._key).decode()}"
        self._watches: set[asyncio.Task[None]] = set()

    def watch(self, run: Run) -> None:
        """Send the events of a prediction that has a webhook, from now to the end."""
        if run.webhook:
            watch = asyncio.create_task(self._watch(run, run.webhook))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)

    async def close(self) -> None:
        """Stop all watches."""
        for watch in list(self._watches):
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def _watch(self, run: Run, webhook: dict[str, Any]) -> None:
        events = webhook["events"] or _DEFAULT_EVENTS
        scale = self.emulator.world.time_scale
        pause = min(max(_LOGS_SECONDS * scale, 0.005), _LOGS_SECONDS)
        # The loop's own trust store: a receiver with another certificate is refused, as by the vendor.
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            is_started, logs = False, ""
            while run.finished_at(time.time()) is None:
                if not is_started and run.status_at(time.time()) == "processing":
                    is_started = True
                    if "start" in events:
                        await self._send(session, run, webhook)
                seen = run.timeline.logs_at(time.time())
                if seen != logs and "logs" in events:
                    logs = seen
                    await self._send(session, run, webhook)
                await asyncio.sleep(pause)
            if "output" in events and self._body_of(run, webhook)["output"] is not None:
                await self._send(session, run, webhook)
            if "completed" in events:
                await self._send(session, run, webhook)

    def _body_of(self, run: Run, webhook: dict[str, Any]) -> dict[str, Any]:
        face = Face("replicate", webhook["origin"], is_gateway=False)
        return prediction_body(face, run, self.emulator.world, self.emulator.signature)

    async def _send(self, session: aiohttp.ClientSession, run: Run, webhook: dict[str, Any]) -> None:
        body = json.dumps(self._body_of(run, webhook)).encode()
        # One id for all attempts, so a receiver can drop the second delivery.
        identifier = f"msg_{uuid4().hex}"
        for attempt in range(_ATTEMPTS):
            headers = {"Content-Type": "application/json", **self.signed(identifier, int(time.time()), body)}
            try:
                async with session.post(
                    webhook["url"], data=body, headers=headers, allow_redirects=False
                ) as answer:
                    if answer.status < 300:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            pause = _PAUSE_SECONDS * 2**attempt * min(self.emulator.world.time_scale, 1.0)
            await asyncio.sleep(max(pause, 0.01))

    def signed(self, identifier: str, moment: int, body: bytes) -> dict[str, str]:
        """Return the headers that prove a delivery: `webhook-id`, `-timestamp` and `-signature`.

        :param moment: Unix time in whole seconds
        """
        content = f"{identifier}.{moment}.".encode() + body
        signature = base64.b64encode(hmac.digest(self._key, content, "sha256")).decode()
        return {
            "webhook-id": identifier,
            "webhook-timestamp": str(moment),
            "webhook-signature": f"v1,{signature}",
        }
