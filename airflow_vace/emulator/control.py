"""The control plane: bill, received requests and scripted faults over HTTP."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from airflow_vace.emulator.dialects import json_response
from airflow_vace.emulator.faults import faults_from_json

if TYPE_CHECKING:
    from aiohttp import web

    from airflow_vace.emulator.server import Emulator

CONTROL_PATH = "/_emulator/"


class Control:
    """The routes under `/_emulator/`, which need no key."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        router.add_get(f"{CONTROL_PATH}bill", self.bill)
        router.add_get(f"{CONTROL_PATH}requests", self.requests)
        router.add_route("*", f"{CONTROL_PATH}faults", self.faults)

    async def bill(self, request: web.Request) -> web.StreamResponse:
        """Return the accepted and the charged predictions."""
        del request
        return json_response(200, self.emulator.bill)

    async def requests(self, request: web.Request) -> web.StreamResponse:
        """Return all received requests."""
        del request
        return json_response(200, [asdict(seen) for seen in self.emulator.requests])

    async def faults(self, request: web.Request) -> web.StreamResponse:
        """Add, delete or list scripted faults."""
        if request.method == "DELETE":
            self.emulator.faults.clear()
        elif request.method == "POST":
            try:
                found = faults_from_json(json.loads(await request.read()))
            except (ValueError, TypeError) as error:
                return json_response(400, {"detail": str(error)})
            self.emulator.faults.add(*found)
        return json_response(200, [fault.as_json() for fault in self.emulator.faults.waiting()])
