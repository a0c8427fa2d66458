"""The poller shared by all waits of a connection in an event loop, without Airflow.

A wait is an entry of a heap and not a task, which keeps a thousand waits cheap. Only polls in flight are
tasks. All polls share a session, a look-up of the connection, a budget of requests, and the run times of
earlier predictions.
:mod:`airflow_vace.core.wait` decides on the moment of a poll and the meaning of an answer.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_vace.client.client import Surroundings
from airflow_vace.client.meter import NO_METER
from airflow_vace.client.poll_loop import PollLoop
from airflow_vace.client.polls import LogLines, Member
from airflow_vace.client.shared import SharedConnection
from airflow_vace.core.clock import Clock
from airflow_vace.core.references import read_known
from airflow_vace.core.schedule import Experience
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import VaceError
from airflow_vace.prediction import PredictionStatus
from airflow_vace.redaction import without_data

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from airflow_vace.client.meter import Meter
    from airflow_vace.client.settings import Settings
    from airflow_vace.client.shared import Connect
    from airflow_vace.core.wait import Decision
    from airflow_vace.prediction import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitOptions:
    """The end of a wait, and the log of the waiting task.

    :param deadline: seconds since the epoch; None waits without end
    :param poll_interval: bound in seconds on how late the end is noticed
    :param write: writes a line in the caller's context; True as second argument for a warning
    :param is_deadline_local: the deadline counts by this machine's clock, and not by the server's
    :param noticed: receives the last state, and start and end of the wait by the server's clock
    """

    write: Callable[[str, bool], None]
    deadline: float | None = None
    poll_interval: float | None = None
    is_deadline_local: bool = False
    noticed: Callable[[Prediction, float, float], None] | None = None

    def new_wait(self, prediction: object, experience: Experience, timing: Timing) -> Wait:
        """Return the wait for a prediction; a status in a payload is taken as logged before."""
        wait = Wait(
            prediction=read_known(prediction),
            deadline=self.deadline,
            poll_interval=self.poll_interval,
            experience=experience,
            timing=timing,
        )
        if isinstance(prediction, dict):
            wait.mark_logged(prediction.get("status"))
        return wait


class Poller:
    """Poll the predictions of all waits on a connection in this event loop.

    :param conn_id: names the connection in errors
    :param connect: awaits the connection's settings, read again with each call; raises
        :class:`~airflow_vace.exceptions.VaceConnectionMissing` if Airflow knows no such connection
    :param experience: run times that earlier waits have learned
    :param around: the clocks, and the receiver of the numbers of requests and waits
    """

    def __init__(
        self,
        conn_id: str,
        connect: Connect,
        experience: Experience,
        *,
        timing: Timing = Timing(),
        around: Surroundings,
    ) -> None:
        self.conn_id = conn_id
        self.experience = experience
        self.guests = 0
        self._timing = timing
        self._around = around
        self._members: dict[str, set[Member]] = {}
        self._lines = LogLines()
        self._background: set[asyncio.Task[None]] = set()
        self._connection = SharedConnection(conn_id, connect, timing, self._spawn, around)
        self._polls = PollLoop(self._connection, timing, self._spawn)
        # The empty context keeps lines of the poller out of the log of the first task that joins.
        loop, empty = asyncio.get_running_loop(), contextvars.Context()
        work = self._polls.run(self._poll, self._poll_by_list, self._end_if_overdue)
        self._task = loop.create_task(work, name=f"vace-poller {conn_id}", context=empty)
        self._task.add_done_callback(self._ended)

    # --- for waits ---------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings | None:
        """The latest settings of the connection, None before the first look-up."""
        return self._connection.settings

    def now(self) -> float:
        """Return the server's time in seconds since the epoch, as far as the clock confirms it."""
        return self._around.clock.confirmed(self._around.now())

    async def wait_until_final(self, prediction: object, options: WaitOptions) -> Prediction:
        """Wait until a prediction is terminal, or the wait has to end, and return the last known state.

        A triggerer holds many results for some seconds. Therefore logs are left out, digests replace `data:`
        URLs in the input, and an output too large for a payload is left out: the back-end still has the rest.

        :param prediction: payload, id, or `urls.get`
        :raises VaceInputError: if the argument names no prediction
        """
        wait = options.new_wait(prediction, self.experience, self._timing)
        member = Member(wait, options.write, is_local=options.is_deadline_local)
        self._members.setdefault(wait.prediction.id, set()).add(member)
        self._count_waits()
        self._polls.put(member, 0.0)
        since = self.now()
        try:
            await member.over
        finally:
            self._remove(member)
        if options.noticed is not None:
            options.noticed(wait.prediction, since, self.now())
        member.write_lines()
        # Replaced entries of the queue may still hold the wait, so it is reduced in place.
        wait.prediction = _reduced(wait.prediction)
        return wait.prediction

    def _remove(self, member: Member) -> None:
        same = self._members.get(member.wait.prediction.id, set())
        same.discard(member)
        if not same:
            self._members.pop(member.wait.prediction.id, None)
            self._connection.pace.forget(member.wait.prediction.id)
        self._count_waits()
        member.over.cancel()
        poll, member.poll = member.poll, None
        if poll is not None:
            # A task that is canceled before its first step never runs its own `finally`.
            poll.cancel()
            self._polls.free(poll)

    def _count_waits(self) -> None:
        self._polls.waits = len(self._members)
        self._around.meter.waits(len(self._members))

    async def close(self) -> None:
        """Stop all polls and close the session."""
        tasks = [self._task, *self._polls.in_flight.tasks, *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()
        # A canceled poll may have left a replaced session to close.
        await asyncio.gather(*self._background, return_exceptions=True)

    # --- the loop ----------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Return True if no wait can join any more."""
        return self._task.done()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Hand a crash on to all waits, to end them too."""
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

    def _end_if_overdue(self, member: Member) -> None:
        if member.wait.overdue(self._time(member)):
            member.over.set_result(None)

    # --- one poll ----------------------------------------------------------------------------------

    async def _poll(self, member: Member) -> None:
        """Poll a prediction; queue the wait again, or end the wait."""
        wait = member.wait
        try:
            try:
                prediction = await self._connection.poll(member)
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
                self._polls.free(poll)

    def _settle(self, member: Member, decision: Decision) -> None:
        """Queue a wait again, or end the wait, and queue the log line."""
        if member.over.done():
            return
        if member.wait.news is not None:
            member.lines.append((member.wait.news, member.wait.is_troubled))
            # The last lines of a wait are written by its own task.
            if isinstance(decision, PollAgain) and len(member.lines) == 1:
                self._lines.add(member)
                if not self._lines.is_running:
                    self._lines.is_running = True
                    self._spawn(self._lines.write())
        if isinstance(decision, PollAgain):
            self._polls.put(member, decision.seconds)
        else:
            member.over.set_result(None)

    def _time(self, member: Member) -> float:
        """Return the time by the clock of the wait's deadline."""
        return self._around.now() if member.is_local else self.now()

    # --- many polls with one page ------------------------------------------------------------------

    async def _poll_by_list(self, due: list[Member]) -> None:
        """Poll many predictions with few pages; poll the missing ones singly."""
        wanted = {member.wait.prediction.id for member in due}
        try:
            async with asyncio.timeout(self._timing.max_list_round_seconds):
                await self._read_pages(wanted)
        except (VaceError, TimeoutError):
            self._polls.pages.failed(asyncio.get_running_loop().time())
        finally:
            for member in due:
                if member.wait.prediction.id in wanted and not member.over.done():
                    member.is_unlisted = True
                    self._polls.put(member, 0.0)
            self._polls.end_round()

    async def _read_pages(self, wanted: set[str]) -> None:
        pages, following, is_first = self._polls.pages, None, True
        while wanted and (is_first or following):
            page = await self._connection.page(following)
            shown = sum(self._take_listed(prediction, wanted) for prediction in page.predictions)
            if is_first:
                pages.brought(shown, asyncio.get_running_loop().time())
            is_first = False
            following = page.following if pages.goes_on(shown) else None

    def _take_listed(self, prediction: Prediction, wanted: set[str]) -> bool:
        """Take a prediction from a page, and return True if a wait of this poller wants the prediction."""
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
    """Return a result without the large parts; in the loop's thread, one after another, to save memory."""
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
    meter: Meter = NO_METER,
) -> Poller:
    """Return this event loop's poller of a connection; the first caller makes the poller. See :func:`leave`.

    The parameters are passed to :class:`Poller`; an existing poller keeps the first caller's.
    """
    loop = asyncio.get_running_loop()
    pollers = _pollers.setdefault(loop, {})
    poller = pollers.get(conn_id)
    if poller is None or poller.is_over:
        experience = _experiences.setdefault(loop, {}).setdefault(conn_id, Experience())
        around = Surroundings(clock=Clock(tolerance=timing.clock_tolerance_seconds), now=now, meter=meter)
        poller = pollers[conn_id] = Poller(conn_id, connect, experience, timing=timing, around=around)
    poller.guests += 1
    return poller


async def leave(poller: Poller) -> None:
    """Leave a poller; the last caller closes the poller."""
    poller.guests -= 1
    if poller.guests:
        return
    pollers = _pollers[asyncio.get_running_loop()]
    if pollers.get(poller.conn_id) is poller:
        del pollers[poller.conn_id]
    await asyncio.shield(asyncio.get_running_loop().create_task(poller.close()))
