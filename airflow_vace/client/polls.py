"""The parts of the shared poller: member, queue of next polls, polls in flight, log lines."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet

    from airflow_vace.client.settings import Settings
    from airflow_vace.core.requests import Request
    from airflow_vace.core.timing import Timing
    from airflow_vace.core.wait import Wait

# Polls at a time. A slow poll gives up its place to another one, so a server that hangs for some predictions
# delays no others; the number of slow ones is bounded too.
MAX_POLLS = 24
MAX_SLOW_POLLS = 96

# Entries of the queue for each wait before replaced entries are removed.
_MAX_ENTRIES_PER_WAIT = 8

# Lines a second for all waits together: a triggerer's event loop stands still while it writes a line.
_LINES_AT_A_TIME = 3
_LINES_SECONDS = 0.1


class Member:
    """A wait in a poller.

    :param wait: decides after each poll
    :param write: writes a line to the log of the wait's own task; True as second argument for a warning
    :param is_local: the deadline counts by this machine's clock, and not by the server's
    """

    __slots__ = (
        *("_context", "_request", "_settings", "_write"),
        *("is_local", "is_unlisted", "lines", "over", "poll", "turn", "wait"),
    )

    def __init__(self, wait: Wait, write: Callable[[str, bool], None], *, is_local: bool) -> None:
        self.wait = wait
        self.is_local = is_local
        # The number of the valid entry in the queue; entries with other numbers were replaced.
        self.turn = -1
        # The list has not shown the prediction, so it is polled by itself.
        self.is_unlisted = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.poll: asyncio.Task[None] | None = None
        self.lines: list[tuple[str, bool]] = []
        self._write = write
        # A triggerer routes log lines by context, so each line is written in its task's own.
        self._context = contextvars.copy_context()
        self._settings: Settings | None = None
        self._request: Request | None = None

    @property
    def is_idle(self) -> bool:
        """Return True if no poll of the wait is in flight, and the wait goes on."""
        return self.poll is None and not self.over.done()

    def request(self, settings: Settings) -> Request:
        """Return the request of a poll, described once for each state of the connection."""
        if self._request is None or settings is not self._settings:
            self._settings, self._request = settings, settings.api.get(self.wait.prediction)
        return self._request

    def write_lines(self) -> None:
        """Write the collected lines in the context of the wait's task."""
        lines, self.lines = self.lines, []
        for line in lines:
            self._context.run(self._write, *line)


class PollQueue:
    """Waits in the order of their next polls, in seconds of the event loop's clock.

    To move a wait, a new entry is pushed; the old entry stays until the front of the queue reaches it.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Member]] = []
        self._turns = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, member: Member, due: float, waits: int) -> bool:
        """Set the next poll of a wait; return True if the wait is now first in the queue.

        :param waits: number of waits in the poller
        """
        member.turn = next(self._turns)
        heapq.heappush(self._entries, (due, member.turn, member))
        # Pages of a list move hundreds of waits at once, so replaced entries would pile up.
        if len(self._entries) > _MAX_ENTRIES_PER_WAIT * (waits + 1):
            self._entries = [entry for entry in self._entries if entry[1] == entry[2].turn]
            heapq.heapify(self._entries)
        return self._entries[0][2] is member

    def first(self) -> tuple[float, Member] | None:
        """Return moment and wait of the next poll; None for an empty queue."""
        while self._entries:
            due, turn, member = self._entries[0]
            if turn == member.turn and member.is_idle:
                return due, member
            heapq.heappop(self._entries)
        return None

    def pop(self) -> None:
        """Remove the first entry."""
        heapq.heappop(self._entries)

    def pop_due(self, until: float) -> Iterator[Member]:
        """Remove and yield all waits with a poll due at a moment."""
        while (first := self.first()) is not None and first[0] <= until:
            self.pop()
            yield first[1]

    def take_probe(self, healthy: AbstractSet[str]) -> Member:
        """Remove and return the wait that probes the server: a healthy wait, else the first of the queue.

        A healthy wait probes before its time, because a failure of another wait may have reasons of its own.

        :param healthy: ids of predictions whose last poll was answered
        """
        valid = [entry for entry in self._entries if entry[1] == entry[2].turn and entry[2].is_idle]
        _, _, member = min(valid, key=lambda entry: (entry[2].wait.prediction.id not in healthy, entry[0]))
        member.turn = -1
        return member

    def due(self, now: float) -> list[Member]:
        """Return all waits with a due poll, without removal."""
        return [m for due, turn, m in self._entries if due <= now and turn == m.turn and m.is_idle]


class PollsInFlight:
    """The places for polls at a time; a slow poll gives up the place."""

    def __init__(self, timing: Timing) -> None:
        self._slow_seconds = timing.slow_poll_seconds
        self._since: dict[asyncio.Task[None], float] = {}
        self._slow: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._since)

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """All polls in flight."""
        return set(self._since)

    def add(self, poll: asyncio.Task[None], now: float) -> None:
        """Give a place to a new poll."""
        self._since[poll] = now

    def remove(self, poll: asyncio.Task[None]) -> None:
        """Free the place of a poll."""
        del self._since[poll]
        self._slow.discard(poll)

    def has_place(self, now: float) -> bool:
        """Return True if another poll may start; slow polls give up their places here."""
        if self._count_fast() < MAX_POLLS:
            return True
        for poll, since in self._since.items():
            if now - since < self._slow_seconds or len(self._slow) >= MAX_SLOW_POLLS:
                break
            self._slow.add(poll)
        return self._count_fast() < MAX_POLLS

    def seconds_until_place(self, now: float) -> float | None:
        """Return the seconds until the oldest poll counts as slow; None if only an end frees a place."""
        if len(self._slow) >= MAX_SLOW_POLLS:
            return None
        oldest = next(since for poll, since in self._since.items() if poll not in self._slow)
        return max(oldest + self._slow_seconds - now, 0.0)

    def _count_fast(self) -> int:
        return len(self._since) - len(self._slow)


class LogLines:
    """Log lines of all waits, written no faster than a triggerer's event loop can bear."""

    def __init__(self) -> None:
        self._waiting: deque[Member] = deque()
        self.is_running = False

    def add(self, member: Member) -> None:
        """Queue a wait whose lines are to be written."""
        self._waiting.append(member)

    async def write(self) -> None:
        """Write all queued lines, each into the log of the waiting task."""
        self.is_running = True
        while self._waiting:
            for _ in range(min(_LINES_AT_A_TIME, len(self._waiting))):
                self._waiting.popleft().write_lines()
            await asyncio.sleep(_LINES_SECONDS)
        self.is_running = False
