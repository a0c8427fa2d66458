"""The loop of the shared poller: the polls to start now, and the seconds to sleep afterwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from airflow_vace.client.polls import PollQueue, PollsInFlight
from airflow_vace.core.listing import Pages

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from airflow_vace.client.polls import Member
    from airflow_vace.client.shared import SharedConnection, Spawn
    from airflow_vace.core.timing import Timing

# Polls start together at ticks, a little earlier than they are due, since single wake-ups cost more.
_TICK_SECONDS = 0.05
_MIN_TICKS = 8


class PollLoop:
    """Start polls and pages within the budget, the places and the pauses of a connection.

    :param connection: holds the budget of requests
    :param spawn: starts a background task
    """

    def __init__(self, connection: SharedConnection, timing: Timing, spawn: Spawn) -> None:
        self.in_flight = PollsInFlight(timing)
        self.pages = Pages()
        self.queue = PollQueue()
        self.waits = 0
        self._connection = connection
        self._timing = timing
        self._spawn = spawn
        self._round: asyncio.Task[None] | None = None
        self._next_round = 0.0
        self._wake = asyncio.Event()
        # True while due polls wait for the budget or for a place, so that a freed place wakes the loop.
        self._is_stuck = False

    async def run(
        self,
        poll: Callable[[Member], Coroutine[Any, Any, None]],
        poll_by_list: Callable[[list[Member]], Coroutine[Any, Any, None]],
        end_if_overdue: Callable[[Member], None],
    ) -> None:
        """Start polls for ever.

        :param poll: polls one wait
        :param poll_by_list: polls many waits with pages of the list
        :param end_if_overdue: ends a wait whose deadline passes while no request may be sent
        """
        self._poll, self._poll_by_list, self._end_if_overdue = poll, poll_by_list, end_if_overdue
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._is_stuck = False
            pause = self._start_due(loop.time())
            timer = None if pause is None else loop.call_later(pause, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def put(self, member: Member, seconds: float) -> None:
        """Set the next poll of a wait, in seconds from now."""
        due = asyncio.get_running_loop().time() + seconds
        if seconds > _MIN_TICKS * _TICK_SECONDS:
            due -= due % _TICK_SECONDS
        if self.queue.put(member, due, self.waits):
            self._wake.set()

    def free(self, poll: asyncio.Task[None]) -> None:
        """Free the place of a poll."""
        self.in_flight.remove(poll)
        if self._is_stuck:
            self._wake.set()

    def end_round(self) -> None:
        """Allow the next round of pages."""
        self._round = None
        self._wake.set()

    def _start_due(self, now: float) -> float | None:
        """Start the due polls; return the seconds until the next step, None until an event."""
        while (first := self.queue.first()) is not None:
            due, member = first
            if due > now:
                return due - now
            held = self._connection.pace.delay(now)
            if held > 0.0:
                self._is_stuck = True
                for waiting in self.queue.due(now):
                    self._end_if_overdue(waiting)
                return min(held, 1.0)
            if not self.in_flight.has_place(now):
                self._is_stuck = True
                return self.in_flight.seconds_until_place(now)
            if not member.is_unlisted and self._connection.lists and self.pages.are_open(self.waits, now):
                if self._round is not None:
                    return None
                if now < self._next_round:
                    return self._next_round - now
                self._start_round(now)
                continue
            if self._connection.pace.is_down:
                member = self.queue.take_probe(self._connection.pace.healthy)
            else:
                self.queue.pop()
            self._start(member, now)
        return None

    def _start(self, member: Member, now: float) -> None:
        self._connection.pace.sent(now)
        member.poll = asyncio.get_running_loop().create_task(self._poll(member))
        self.in_flight.add(member.poll, now)

    def _start_round(self, now: float) -> None:
        """Ask for pages in place of the polls due soon; a few predictions are polled singly."""
        seconds = self._timing.list_round_seconds
        due = list(self.queue.pop_due(now + seconds / 2))
        self._next_round = now + seconds
        if self.pages.is_worth(len(due)):
            self._round = self._spawn(self._poll_by_list(due))
            return
        for member in due:
            self._start(member, now)
