"""Creates of many threads and processes against a vendor's limit, in virtual time and without a server."""

from __future__ import annotations

import heapq
import json
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_vace.client.creates import Creates
from airflow_vace.core import calls
from airflow_vace.core.create_budget import CreateBudget
from airflow_vace.core.requests import Api, Request, Response
from airflow_vace.core.steps import Connect, Note, Pause
from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import VaceError

if TYPE_CHECKING:
    from collections.abc import Generator

TIMING = Timing()
# Seconds from a request to its answer.
_LATENCY = (0.05, 0.3)


@dataclass
class Vendor:
    """A bucket of creates.

    :param size: creates in one burst
    :param rate: creates a second
    :param counts: report `ratelimit-*` in each response
    :param states: state the wait in a 429
    """

    size: float
    rate: float
    counts: bool = False
    states: bool = True
    refused: int = 0
    created: list[float] = field(default_factory=list)
    _tokens: float = field(init=False)
    _filled_at: float = 0.0

    def __post_init__(self) -> None:
        self._tokens = self.size

    def answer(self, now: float) -> Response:
        """Accept or refuse a create."""
        self._tokens = min(self._tokens + (now - self._filled_at) * self.rate, self.size)
        self._filled_at = now
        if self._tokens < 1:
            self.refused += 1
            wait = str(max(math.ceil((1 - self._tokens) / self.rate), 1))
            return Response(429, {"Retry-After": wait} if self.states else {}, b'{"detail": "slow down"}')
        self._tokens -= 1
        self.created.append(now)
        reset = max(math.ceil((self.size - self._tokens) / self.rate), 1)
        counted = {"ratelimit-remaining": str(int(self._tokens)), "ratelimit-reset": str(reset)}
        body = json.dumps({"id": f"p{len(self.created)}", "status": "starting"}).encode()
        return Response(201, counted if self.counts else {}, body)


@dataclass
class Target:
    creates: Creates
    api: Api = field(default_factory=lambda: Api.at("https://api.replicate.com", "key" * 5))
    model: str = "prunaai/vace-14b"
    version: str | None = "5129"
    is_dry_run: bool = False


class World:
    """Processes that send `items` creates each, by some threads.

    :param limit: creates a second that each process knows of
    """

    def __init__(self, vendor: Vendor, limit: float | None = None, *, processes: int = 1) -> None:
        self.vendor = vendor
        self.now = 0.0
        self.ended_at = 0.0
        self.notes: list[str] = []
        self.failures: list[VaceError] = []
        self.targets = [
            Target(Creates(CreateBudget(limit, TIMING), lambda: self.now)) for _ in range(processes)
        ]
        self._events: list[tuple[float, int, Any]] = []
        self._count = 0

    def create(self, items: int, *, threads: int = 8) -> World:
        """Run until all creates of all processes have ended; repeatable."""
        state = random.getstate()
        random.seed(0)
        try:
            self._run(items, threads)
        finally:
            random.setstate(state)
        return self

    def _run(self, items: int, threads: int) -> None:
        for target in self.targets:
            left = iter(range(items))
            for _ in range(threads):
                self._at(self.now, self._next, target, left)
        while self._events:
            self.now, _, (act, *arguments) = heapq.heappop(self._events)
            act(*arguments)

    def _at(self, moment: float, *event: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (moment, self._count, event))

    def _next(self, target: Target, left: Any) -> None:
        if next(left, None) is not None:
            creation = calls.Creation(values={"prompt": "a fox"})
            call = calls.create(creation, timing=TIMING, now=lambda: self.now)
            self._step(call, target, left, None)

    def _step(self, call: Generator[Any, Any, Any], target: Target, left: Any, answer: Any) -> None:
        try:
            step = call.send(answer)
        except (StopIteration, VaceError) as end:
            if isinstance(end, VaceError):
                self.failures.append(end)
            self.ended_at = self.now
            self._at(self.now + 0.01, self._next, target, left)
            return
        match step:
            case Connect():
                self._step(call, target, left, target)
            case Request():
                self._at(self.now + random.uniform(*_LATENCY) / 2, self._arrive, call, target, left)  # noqa: S311
            case Pause(seconds):
                late = random.uniform(0.0, 0.003)  # noqa: S311
                self._at(self.now + seconds + late, self._step, call, target, left, None)
            case Note(text):
                self.notes.append(text)
                self._step(call, target, left, None)

    def _arrive(self, call: Any, target: Target, left: Any) -> None:
        response = self.vendor.answer(self.now)
        self._at(self.now + random.uniform(*_LATENCY) / 2, self._step, call, target, left, response)  # noqa: S311
