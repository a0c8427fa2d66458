"""The one poller that all waits of a connection share in an event loop, without Airflow.

A wait is an entry of a heap and not a task, so a thousand waits cost little. Only polls in flight are tasks.
They share a session, a look-up of the connection, a budget of requests, and the run times of earlier
predictions.
:mod:`airflow_vace.core.wait` decides on the moment of a poll and the meaning of an answer.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_vace.client.polls import LogLines, Member, PollQueue, PollsInFlight
from airflow_vace.client.shared import SharedConnection
from airflow_vace.core.clock import Clock
from airflow_vace.core.errors import served_at
from airflow_vace.core.listing import Pages
from airflow_vace.core.requests import read_known
from airflow_vace.core.responses import read_list, read_prediction
from airflow_vace.core.schedule import Experience
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import VaceAuthError, VaceError
from airflow_vace.prediction import PredictionStatus
from airflow_vace.redaction import without_data

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from airflow_vace.client.asynchronous import AsyncClient
    from airflow_vace.client.settings import Settings
    from airflow_vace.client.shared import Connect
    from airflow_vace.core.requests import Request
    from airflow_vace.core.wait import Decision
    from airflow_vace.prediction import Prediction

# Polls start together at ticks, a little earlier than they are due, since single wake-ups cost more.
_TICK_SECONDS = 0.05
_MIN_TICKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitOptions:
    """How one wait ends, and where its lines go.

    :param deadline: seconds since the epoch; None waits without end
    :param poll_interval: bound in seconds on how late the end is noticed
    :param write: writes a line in the caller's context; True as second argument for a warning
    :param is_deadline_local: the deadline counts by this machine's clock, and not by the server's
    """

    write: Callable[[str, bool], None]
    deadline: float | None = None
    poll_interval: float | None = None
    is_deadline_local: bool = False


@dataclass(slots=True)
class _Round:
    """The polls by pages of a list: one round at a time, with a pause between rounds."""

    pages: Pages = field(default_factory=Pages)
    task: asyncio.Task[None] | None = None
    next_at: float = 0.0


class Poller:
    """Poll the predictions of all waits on one connection in this event loop.

    :param conn_id: names the connection in errors
    :param connect: awaits the connection's settings, read again with each call; raises
        :class:`~airflow_vace.exceptions.VaceConnectionMissing` if Airflow knows no such connection
    :param experience: run times that earlier waits have learned
    :param now: returns seconds since the epoch, by this machine's clock
    """

    def __init__(
        self,
        conn_id: str,
        connect: Connect,
        experience: Experience,
        *,
        timing: Timing = Timing(),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.conn_id = conn_id
        self.experience = experience
        self.guests = 0
        self._timing = timing
        self._now = now
        self._clock = Clock(tolerance=timing.clock_tolerance_seconds)
        self._members: dict[str, set[Member]] = {}
        self._queue = PollQueue()
        self._in_flight = PollsInFlight(timing)
        self._lines = LogLines()
        self._round = _Round()
        self._background: set[asyncio.Task[None]] = set()
        self._connection = SharedConnection(
            conn_id, connect, timing, self._spawn, lambda: self._in_flight.tasks
        )
        self._wake = asyncio.Event()
        self._is_stuck = False
        # The empty context keeps lines of the poller out of the log of the first task that joins.
        loop, empty = asyncio.get_running_loop(), contextvars.Context()
        self._task = loop.create_task(self._run(), name=f"vace-poller {conn_id}", context=empty)
        self._task.add_done_callback(self._ended)

    # --- for waits ---------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings | None:
        """The connection's settings that were read last, None if none were."""
        return self._connection.settings

    async def wait_until_final(self, prediction: object, options: WaitOptions) -> Prediction:
        """Wait until a prediction is terminal, or the wait has to end, and return its last known state.

        A triggerer holds many results for some seconds. Therefore logs are left out, digests replace `data:`
        URLs in the input, and an output that no payload holds is left out: the back-end can be asked again.

        :param prediction: payload, id, or `urls.get`
        :raises VaceInputError: if the argument names no prediction
        """
        known = read_known(prediction)
        wait = Wait(
            prediction=known,
            deadline=options.deadline,
            poll_interval=options.poll_interval,
            experience=self.experience,
            timing=self._timing,
        )
        if isinstance(prediction, dict):
            wait.mark_logged(prediction.get("status"))
        member = Member(wait, options.write, is_local=options.is_deadline_local)
        self._members.setdefault(known.id, set()).add(member)
        self._put(member, 0.0)
        try:
            await member.over
        finally:
            self._remove(member)
        member.write_lines()
        # Replaced entries of the queue may still hold the wait, so it is reduced in place.
        wait.prediction = _reduced(wait.prediction)
        return wait.prediction

    def _remove(self, member: Member) -> None:
        same = self._members.get(member.wait.prediction.id, set())
        same.discard(member)
        if not same:
            self._members.pop(member.wait.prediction.id, None)
        member.over.cancel()
        poll, member.poll = member.poll, None
        if poll is not None:
            # A task that is canceled before its first step never runs its own `finally`.
            poll.cancel()
            self._free(poll)

    async def close(self) -> None:
        """Stop all polls and close the session."""
        tasks = [self._task, *self._in_flight.tasks, *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()

    # --- the loop ----------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Return True if no wait can join any more."""
        return self._task.done()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._is_stuck = False
            pause = self._start_polls(loop.time())
            timer = None if pause is None else loop.call_later(pause, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Hand a crash on to all waits, which would otherwise never end."""
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None and task is not self._task:
            return
        self._task.cancel()
        for member in [member for same in self._members.values() for member in same]:
            if not member.over.done():
                crash = RuntimeError(f"The poller of connection {self.conn_id!r} has ended: {error!r}")
                crash.__cause__ = error
                member.over.set_exception(crash)

    def _put(self, member: Member, seconds: float) -> None:
        """Set the next poll of a wait."""
        due = asyncio.get_running_loop().time() + seconds
        if seconds > _MIN_TICKS * _TICK_SECONDS:
            due -= due % _TICK_SECONDS
        if self._queue.put(member, due, len(self._members)):
            self._wake.set()

    def _start_polls(self, now: float) -> float | None:
        """Start the polls that are due; return the seconds until the next step, None until an event."""
        while (first := self._queue.first()) is not None:
            due, member = first
            if due > now:
                return due - now
            held = self._connection.pace.delay(now)
            if held > 0.0:
                self._is_stuck = True
                self._end_overdue(now)
                return min(held, 1.0)
            if not self._in_flight.has_place(now):
                self._is_stuck = True
                return self._in_flight.seconds_until_place(now)
            if not member.is_unlisted and self._can_list(now):
                if self._round.task is not None:
                    return None
                if now < self._round.next_at:
                    return self._round.next_at - now
                self._start_round(now)
                continue
            self._queue.pop()
            self._start_poll(member, now)
        return None

    def _start_poll(self, member: Member, now: float) -> None:
        self._connection.pace.sent(now)
        member.poll = asyncio.get_running_loop().create_task(self._poll(member))
        self._in_flight.add(member.poll, now)

    def _end_overdue(self, now: float) -> None:
        """End waits whose deadline passes while the rate limit allows no request."""
        for member in self._queue.due(now):
            if member.wait.overdue(self._time(member)):
                member.over.set_result(None)

    # --- one poll ----------------------------------------------------------------------------------

    async def _poll(self, member: Member) -> None:
        """Poll one prediction; queue its wait again, or end it."""
        wait = member.wait
        try:
            try:
                prediction = await self._polled(member)
                decision = wait.answered(prediction, self._time(member))
            except VaceError as error:
                decision = wait.failed(error, self._time(member))
            self._settle(member, decision)
        except Exception as error:  # noqa: BLE001 - a bug of ours, which would leave the wait without an end
            if not member.over.done():
                member.over.set_exception(error)
        finally:
            poll, member.poll = member.poll, None
            if poll is not None:
                self._free(poll)

    def _free(self, poll: asyncio.Task[None]) -> None:
        """Free the place of a poll for another one."""
        self._in_flight.remove(poll)
        if self._is_stuck:
            self._wake.set()

    def _settle(self, member: Member, decision: Decision) -> None:
        """Queue a wait again, or end it, and queue its log line."""
        if member.over.done():
            return
        news = member.wait.news
        if news is not None:
            member.lines.append((news, member.wait.is_troubled))
            # The last lines of a wait are written by its own task.
            if isinstance(decision, PollAgain) and len(member.lines) == 1:
                self._lines.add(member)
                if not self._lines.is_running:
                    self._lines.is_running = True
                    self._spawn(self._lines.write())
        if isinstance(decision, PollAgain):
            self._put(member, decision.seconds)
        else:
            member.over.set_result(None)

    async def _polled(self, member: Member) -> Prediction:
        """Poll once; after a refused key the connection is read again, and a changed key is tried at once.

        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        client = await self._connection.connected()
        settings = client.settings
        try:
            return await self._answer(client, settings, member)
        except VaceAuthError as error:
            if error.status_code != 401 or not await self._connection.has_another_key(client, settings):
                raise
        return await self._answer(client, client.settings, member)

    async def _answer(self, client: AsyncClient, settings: Settings, member: Member) -> Prediction:
        request = member.request(settings)
        with self._connection.budgeted(member.wait.prediction.id):
            response = await client.send(request)
            self._clock.note(served_at(response), self._now())
            return read_prediction(settings.api, request, response)

    def _time(self, member: Member) -> float:
        """Return the time that the wait's deadline counts by."""
        return self._now() if member.is_local else self._clock.confirmed(self._now())

    # --- many polls with one page ------------------------------------------------------------------

    def _can_list(self, now: float) -> bool:
        return self._connection.lists and self._round.pages.are_open(len(self._members), now)

    def _start_round(self, now: float) -> None:
        """Ask for pages in place of all polls that are due soon; a few are polled singly."""
        seconds = self._timing.list_round_seconds
        due = list(self._queue.pop_due(now + seconds / 2))
        self._round.next_at = now + seconds
        if self._round.pages.is_worth(len(due)):
            self._round.task = self._spawn(self._list(due))
            return
        for member in due:
            self._start_poll(member, now)

    async def _list(self, due: list[Member]) -> None:
        """Poll many predictions with few pages; predictions that no page shows are polled singly."""
        wanted = {member.wait.prediction.id for member in due}
        try:
            async with asyncio.timeout(self._timing.max_list_round_seconds):
                await self._read_pages(wanted)
        except (VaceError, TimeoutError):
            self._round.pages.failed(asyncio.get_running_loop().time())
        finally:
            self._round.task = None
            for member in due:
                if member.wait.prediction.id in wanted and not member.over.done():
                    member.is_unlisted = True
                    self._put(member, 0.0)
            self._wake.set()

    async def _read_pages(self, wanted: set[str]) -> None:
        client = await self._connection.connected()
        api, clock, pages = client.settings.api, asyncio.get_running_loop().time, self._round.pages
        request: Request | None = api.list()
        is_first = True
        while request is not None and wanted:
            if (held := self._connection.pace.delay(clock())) > 0.0:
                await asyncio.sleep(held)
            self._connection.pace.sent(clock())
            with self._connection.budgeted("list"):
                page = read_list(api, request, await client.send(request))
            shown = sum(self._take_listed(prediction, wanted) for prediction in page.predictions)
            if is_first:
                pages.brought(shown, clock())
            is_first = False
            following = page.following if pages.goes_on(shown) else None
            request = api.page(following) if following else None

    def _take_listed(self, prediction: Prediction, wanted: set[str]) -> bool:
        """Take a prediction from a page, and return True if a wait of this poller is for it."""
        members = self._members.get(prediction.id)
        if not members:
            return False
        if prediction.status is PredictionStatus.SUCCEEDED and not prediction.has_output:
            # Some lists leave the output out, so the prediction stays wanted and is polled singly.
            return True
        wanted.discard(prediction.id)
        for member in list(members):
            member.is_unlisted = False
            if member.is_idle:
                self._settle(member, member.wait.answered(prediction, self._time(member)))
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task


def _reduced(prediction: Prediction) -> Prediction:
    """Return a result without its large parts; in the loop's thread, so that one at a time is digested."""
    output = prediction.output if prediction.fits_payload else None
    return replace(prediction, logs=None, input=without_data(prediction.input), output=output)


_pollers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = (
    weakref.WeakKeyDictionary()
)
_experiences: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Experience]] = (
    weakref.WeakKeyDictionary()
)


def join(
    conn_id: str,
    connect: Connect,
    *,
    timing: Timing = Timing(),
    now: Callable[[], float] = time.time,
) -> Poller:
    """Return this event loop's poller of a connection; the first caller makes it. See :func:`leave`.

    The parameters are those of :class:`Poller`; a poller that exists keeps its own.
    """
    loop = asyncio.get_running_loop()
    pollers = _pollers.setdefault(loop, {})
    poller = pollers.get(conn_id)
    if poller is None or poller.is_over:
        experience = _experiences.setdefault(loop, {}).setdefault(conn_id, Experience())
        poller = pollers[conn_id] = Poller(conn_id, connect, experience, timing=timing, now=now)
    poller.guests += 1
    return poller


async def leave(poller: Poller) -> None:
    """Leave a poller; the last caller closes it."""
    poller.guests -= 1
    if poller.guests:
        return
    pollers = _pollers[asyncio.get_running_loop()]
    if pollers.get(poller.conn_id) is poller:
        del pollers[poller.conn_id]
    await asyncio.shield(asyncio.get_running_loop().create_task(poller.close()))
