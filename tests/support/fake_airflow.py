"""Airflow's public REST API as a script: task instances, state stores and XComs of a test's choice."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.scripted import Host, head

if TYPE_CHECKING:
    import socket

_STORE = re.compile(r"/dags/[^/]+/dagRuns/[^/]+/taskInstances/([^/]+)/(state-store|xcomEntries)(?:/(.+))?")


class FakeAirflow(Host):
    """A server with the members that `vace-reconcile` reads.

    `refusals` are `(status, body)` for the next requests of a path, and `shifts` are functions that are
    called after a page of task instances.
    """

    def __init__(self, version: str = "3.3.2", page_size: int = 100) -> None:
        self.version = version
        self.page_size = page_size
        self.instances: list[dict[str, Any]] = []
        self.states: dict[tuple[str, int], dict[str, Any]] = {}
        self.xcoms: dict[tuple[str, int], dict[str, Any]] = {}
        self.refusals: dict[str, list[tuple[int, bytes]]] = {}
        self.shifts: list[Any] = []
        self.seen: list[str] = []
        self.heads: list[str] = []

    def add(
        self,
        task_id: str,
        *,
        state: Any = None,
        xcoms: Any = None,
        map_index: int = -1,
        operator: str | None = "VacePredictionOperator",
        ti_state: str | None = "success",
        **more: Any,
    ) -> None:
        """Add a task instance with its state store and XComs; `operator=None` hides it from the filter."""
        row = {"dag_id": "d", "dag_run_id": "r", "task_id": task_id, "map_index": map_index, **more}
        self.instances.append({**row, "operator": operator, "state": ti_state})
        self.states[task_id, map_index] = state or {}
        self.xcoms[task_id, map_index] = xcoms or {}

    def _handle(self, peer: socket.socket) -> None:
        request = self._head_from(peer)
        if not request:
            return None
        self.heads.append(request.decode())
        target = urlsplit(request.split()[1].decode())
        path = target.path.removeprefix("/api/v2")
        self.seen.append(path)
        for known, refusals in self.refusals.items():
            if known == path and refusals:
                status, body = refusals.pop(0) if len(refusals) > 1 else refusals[0]
                return peer.sendall(head(f"{status} Odd", Content_Length=len(body)) + body)
        found = self._answer(path, parse_qs(target.query))
        body = json.dumps(found if found is not None else {"detail": "Not Found"}).encode()
        peer.sendall(head(f"{200 if found is not None else 404} OK", Content_Length=len(body)) + body)
        return None

    def _answer(self, path: str, query: dict[str, list[str]]) -> Any:
        if path == "/version":
            return {"version": self.version}
        if path == "/dags/~/dagRuns/~/taskInstances":
            page = self._page("task_instances", [row for row in self.instances if row["operator"]], query)
            if self.shifts:
                self.shifts.pop(0)()
            return page
        if path == "/dags/~/dagRuns/~/taskInstances/~/xcomEntries":
            rows = [
                {**{name: value for name, value in row.items() if name != "dag_run_id"}, "run_id": "r"}
                | {"key": query["xcom_key"][0], "timestamp": "2026-11-28T12:00:00Z"}
                for row in self.instances
                if query["xcom_key"][0] in self.xcoms[row["task_id"], row["map_index"]]
            ]
            for row in rows:
                del row["operator"], row["state"]
            return self._page("xcom_entries", rows, query)
        if (found := _STORE.fullmatch(path)) is None:
            return next((row for row in self.instances if path.endswith(f"/{row['task_id']}")), None)
        task_id, kind, key = found.groups()
        place = (unquote(task_id), int(query.get("map_index", query.get("region_index", ["-1"]))[0]))
        if kind == "xcomEntries":
            values = self.xcoms.get(place, {})
            return {"key": key, "value": values[unquote(key)]} if unquote(key) in values else None
        entries = [{"key": name, "value": value} for name, value in self.states.get(place, {}).items()]
        return self._page("task_state_store", entries, query)

    def _page(self, member: str, rows: list[Any], query: dict[str, list[str]]) -> dict[str, Any]:
        start = int(query["offset"][0])
        size = min(int(query["limit"][0]), self.page_size)
        return {member: rows[start : start + size], "total_entries": len(rows)}
