"""The one poller that all waits of a connection share in an event loop.

A wait is a heap's entry, not a task: looks are tasks for as long as they are under way, and a few of them
at a time share a session, a connection look-up, a budget of requests and what was learned of how long
predictions take. When to look and what an answer means is decided in :mod:`airflow_vace.core.wait`.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import time
import weakref
from collections import deque
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_vace.client.transport import AsyncClient
from airflow_vace.core.clock import Clock
from airflow_vace.core.errors import served_at
from airflow_vace.core.listing import Pages
from airflow_vace.core.rate_limit import Pace
from airflow_vace.core.requests import read_known
from airflow_vace.core.responses import read_list, read_prediction
from airflow_vace.core.schedule import Experience
from airflow_vace.core.wait import LookAgain, Wait, is_passing
from airflow_vace.exceptions import (
    VaceAPIError,
    VaceAuthError,
    VaceConnectionMissing,
    VaceError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.prediction import PredictionStatus
from airflow_vace.storage.destination import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from airflow_vace.client.settings import Settings
    from airflow_vace.core.requests import Request
    from airflow_vace.core.wait import Decision
    from airflow_vace.prediction import Prediction

# A changed key is taken up after so many seconds, and at once when the old one is refused.
SETTINGS_SECONDS = 180.0
LEAST_LOOK_UP_SECONDS = 1.0

# Looks at a time. One that takes longer than a second gives up its place to another, so that those that
# hang delay nobody; there are so many of these at most.
MOST_LOOKS = 24
MOST_SLOW_LOOKS = 96
SLOW_SECONDS = 1.0
# Longer than the default bound on lateness, so that a look finds a connection open.
_KEEP_ALIVE_SECONDS = 120.0

# Looks start together, at ticks, which costs less than one by one; a little earlier than they are due.
_TICK_SECONDS = 0.05
_LEAST_TICKS = 8

# Pages are asked for no oftener than this, and given up after so long.
ROUND_SECONDS = 1.0
LONGEST_ROUND = 10.0

# Entries of the heap, for each wait, before those are thrown out that pages have made out of date.
_MOST_STALE = 8

# Lines a second, of all waits together: a triggerer's loop stands still while it writes them.
_LINES_AT_A_TIME = 3
_LINES_SECONDS = 0.1


class Member:
    """One wait among those of a poller."""

    __slots__ = (
        *("_context", "_request", "_settings", "_tell"),
        *("is_local", "is_unlisted", "look", "over", "told", "turn", "wait"),
    )

    def __init__(self, wait: Wait, tell: Callable[[str, bool], None]) -> None:
        self.wait = wait
        # The number of its entry in the heap; all others of it are out of date.
        self.turn = -1
        # Whether the list has not shown it, so that it is looked at by itself.
        self.is_unlisted = False
        # Whether its deadline is by this machine's clock, and not by the server's.
        self.is_local = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.look: asyncio.Task[None] | None = None
        self.told: list[tuple[str, bool]] = []
        self._tell = tell
        self._context = contextvars.copy_context()
        self._settings: Settings | None = None
        self._request: Request | None = None

    def request(self, settings: Settings) -> Request:
        if self._request is None or settings is not self._settings:
            self._settings, self._request = settings, settings.api.get(self.wait.prediction)
        return self._request

    def speak(self) -> None:
        """Write what is to be told into the log of the wait's own task."""
        told, self.told = self.told, []
        for line in told:
            self._context.run(self._tell, *line)


class Poller:
    """Looks at the predictions of all who wait on one connection in this event loop."""

    def __init__(self, conn_id: str, experience: Experience) -> None:
        self.conn_id = conn_id
        self.experience = experience
        self.hook = VaceHook(conn_id)
        self.guests = 0
        self._members: dict[str, set[Member]] = {}
        self._queue: list[tuple[float, int, Member]] = []
        self._order = itertools.count()
        self._looks: dict[asyncio.Task[None], float] = {}
        self._slow: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()
        self._news: deque[Member] = deque()
        self._speaking: asyncio.Task[None] | None = None
        self._pace = Pace()
        self._clock = Clock()
        self._pages = Pages()
        self._round: asyncio.Task[None] | None = None
        self._next_round = 0.0
        self._client: AsyncClient | None = None
        self._reading: asyncio.Task[None] | None = None
        self._looked_up = 0.0
        self._look_up_failure: VaceError | None = None
        self._wake = asyncio.Event()
        self._is_stuck = False
        # In a context of its own: nothing of this is in the log of whoever came first.
        loop, empty = asyncio.get_running_loop(), contextvars.Context()
        self._task = loop.create_task(self._run(), name=f"vace-poller {conn_id}", context=empty)
        self._task.add_done_callback(self._ended)

    # --- for those who wait ------------------------------------------------------------------------

    async def until_over(
        self,
        prediction: object,
        *,
        deadline: float | None,
        poll_interval: float | None,
        tell: Callable[[str, bool], None],
        is_local: bool = False,
    ) -> Prediction:
        """Wait until a prediction is final, or waiting on has no sense, and return what is known of it.

        Many ends are held in a triggerer for some seconds, so logs are left out, an input has digests in
        place of `data:` URLs, and an output that no payload holds is left out: the back-end gives it again.

        :param prediction: payload, id, or `urls.get`
        :param tell: writes a line, which is a warning if its second argument is true, in the caller's context
        :param is_local: the deadline is by this machine's clock, and not by the server's
        :raises VaceInputError: if there is no prediction in it
        """
        known = read_known(prediction)
        wait = Wait(
            prediction=known, deadline=deadline, poll_interval=poll_interval, experience=self.experience
        )
        if isinstance(prediction, dict):
            wait.told_before(prediction.get("status"))
        member = Member(wait, tell)
        member.is_local = is_local
        self._members.setdefault(known.id, set()).add(member)
        self._put(member, 0.0)
        try:
            await member.over
        finally:
            self._leave(member)
        member.speak()
        # Entries of the heap still refer to the wait.
        wait.prediction = _kept(wait.prediction)
        return wait.prediction

    def _leave(self, member: Member) -> None:
        same = self._members.get(member.wait.prediction.id, set())
        same.discard(member)
        if not same:
            self._members.pop(member.wait.prediction.id, None)
        member.over.cancel()
        look, member.look = member.look, None
        if look is not None:  # it may not have begun, and then never ends by itself
            look.cancel()
            self._forget(look)

    async def close(self) -> None:
        """Stop, and leave nothing behind."""
        tasks = [self._task, *self._looks, *self._others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    # --- its own life ------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._is_stuck = False
            pause = self._start_looks(loop.time())
            timer = None if pause is None else loop.call_later(pause, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    @property
    def is_over(self) -> bool:
        """Whether nobody can wait here any more."""
        return self._task.done()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let a crash reach everybody who waits; silence would be for ever."""
        self._others.discard(task)
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
        """Have a wait looked at in so many seconds, and no earlier."""
        due = asyncio.get_running_loop().time() + seconds
        if seconds > _LEAST_TICKS * _TICK_SECONDS:
            due -= due % _TICK_SECONDS
        member.turn = next(self._order)
        heapq.heappush(self._queue, (due, member.turn, member))
        if len(self._queue) > _MOST_STALE * (len(self._members) + 1):
            self._queue = [entry for entry in self._queue if entry[1] == entry[2].turn]
            heapq.heapify(self._queue)
        if self._queue[0][2] is member:
            self._wake.set()

    def _is_current(self, turn: int, member: Member) -> bool:
        return turn == member.turn and member.look is None and not member.over.done()

    def _start_looks(self, now: float) -> float | None:
        """Start the looks that are due; return the seconds until there is more to do, None if nothing is."""
        while self._queue:
            due, turn, member = self._queue[0]
            if not self._is_current(turn, member):
                heapq.heappop(self._queue)
                continue
            if due > now:
                return due - now
            held = self._pace.delay(now)
            if held > 0.0:
                self._is_stuck = True
                self._end_overdue(now)
                return min(held, 1.0)
            if not self._has_place(now):
                self._is_stuck = True
                return self._until_place(now)
            if not member.is_unlisted and self._lists(now):
                if self._round is not None:
                    return None
                if now < self._next_round:
                    return self._next_round - now
                self._start_round(now)
                continue
            heapq.heappop(self._queue)
            self._start_look(member, now)
        return None

    def _start_look(self, member: Member, now: float) -> None:
        self._pace.sent(now)
        member.look = asyncio.get_running_loop().create_task(self._look(member))
        self._looks[member.look] = now

    def _end_overdue(self, now: float) -> None:
        """End waits whose deadline passes while nothing may be asked."""
        for due, turn, member in self._queue:
            if due <= now and self._is_current(turn, member) and member.wait.overdue(self._time(member)):
                member.over.set_result(None)

    def _has_place(self, now: float) -> bool:
        if len(self._looks) - len(self._slow) < MOST_LOOKS:
            return True
        for look, since in self._looks.items():
            if now - since < SLOW_SECONDS or len(self._slow) >= MOST_SLOW_LOOKS:
                break
            self._slow.add(look)
        return len(self._looks) - len(self._slow) < MOST_LOOKS

    def _until_place(self, now: float) -> float | None:
        """Return when a look will have taken so long that it gives up its place; one that ends wakes too."""
        if len(self._slow) >= MOST_SLOW_LOOKS:
            return None
        oldest = next(since for look, since in self._looks.items() if look not in self._slow)
        return max(oldest + SLOW_SECONDS - now, 0.0)

    # --- one look ----------------------------------------------------------------------------------

    async def _look(self, member: Member) -> None:
        """Look at one prediction, and put its wait back, or end it."""
        wait = member.wait
        try:
            try:
                prediction = await self._seen(member)
                decision = wait.answered(prediction, self._time(member))
            except VaceError as error:
                decision = wait.failed(error, self._time(member))
            self._settle(member, decision)
        except Exception as error:  # noqa: BLE001 - a bug of ours: whoever waits must hear of it
            if not member.over.done():
                member.over.set_exception(error)
        finally:
            look, member.look = member.look, None
            if look is not None:
                self._forget(look)

    def _forget(self, look: asyncio.Task[None]) -> None:
        """Give the place of a look to another."""
        del self._looks[look]
        self._slow.discard(look)
        if self._is_stuck:
            self._wake.set()

    def _settle(self, member: Member, decision: Decision) -> None:
        """Act on a decision: have it looked at again, or end the wait; and tell what is new."""
        if member.over.done():
            return
        news = member.wait.news
        if news is not None:
            member.told.append((news, member.wait.is_troubled))
            if isinstance(decision, LookAgain) and len(member.told) == 1:
                self._news.append(member)
                if self._speaking is None:
                    self._speaking = self._spawn(self._speak())
        if isinstance(decision, LookAgain):
            self._put(member, decision.seconds)
        else:
            member.over.set_result(None)

    async def _speak(self) -> None:
        """Write lines, each into its own task's log, no faster than a triggerer's loop can bear."""
        while self._news:
            for _ in range(min(_LINES_AT_A_TIME, len(self._news))):
                self._news.popleft().speak()
            await asyncio.sleep(_LINES_SECONDS)
        self._speaking = None

    async def _seen(self, member: Member) -> Prediction:
        """Ask once; a key that is refused is looked up anew, and asked with again if it has changed.

        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        client = await self._connected()
        settings = client.settings
        try:
            return await self._asked(client, settings, member)
        except VaceAuthError as error:
            if error.status_code != 401 or not await self._has_another_key(client, settings):
                raise
        return await self._asked(client, client.settings, member)

    def _time(self, member: Member) -> float:
        """Return the time that a wait's deadline counts by."""
        return time.time() if member.is_local else self._clock.confirmed(time.time())

    async def _asked(self, client: AsyncClient, settings: Settings, member: Member) -> Prediction:
        request = member.request(settings)
        with self._noting(member.wait.prediction.id):
            response = await client.send(request)
            self._clock.note(served_at(response), time.time())
            return read_prediction(settings.api, request, response)

    @contextmanager
    def _noting(self, who: str) -> Iterator[None]:
        """Let the shared budget know what became of a request."""
        now = asyncio.get_running_loop().time
        try:
            yield
        except VaceRateLimited as error:
            self._pace.refused(now(), error.retry_after)
            raise
        except (VaceTransportError, VaceProtocolError):
            self._pace.failed(now(), who)
            raise
        except VaceAPIError as error:
            if is_passing(error):
                self._pace.failed(now(), who)
            else:
                self._pace.answered(now())
            raise
        self._pace.answered(now())

    # --- many looks with one page ------------------------------------------------------------------

    def _lists(self, now: float) -> bool:
        client = self._client
        is_listed = client is not None and client.settings.api.backend.list is not None
        return is_listed and self._pages.are_open(len(self._members), now)

    def _start_round(self, now: float) -> None:
        """Ask for pages in place of all looks that are due, or nearly so; few are looked at by themselves."""
        due = []
        while self._queue and self._queue[0][0] <= now + ROUND_SECONDS / 2:
            _, turn, member = heapq.heappop(self._queue)
            if self._is_current(turn, member):
                due.append(member)
        self._next_round = now + ROUND_SECONDS
        if self._pages.is_worth(len(due)):
            self._round = self._spawn(self._list(due))
            return
        for member in due:
            self._start_look(member, now)

    async def _list(self, due: list[Member]) -> None:
        """Look at many predictions with few pages; what they don't show is looked at by itself."""
        wanted = {member.wait.prediction.id for member in due}
        try:
            async with asyncio.timeout(LONGEST_ROUND):
                await self._read_pages(wanted)
        except (VaceError, TimeoutError):
            self._pages.failed(asyncio.get_running_loop().time())
        finally:
            self._round = None
            for member in due:
                if member.wait.prediction.id in wanted and not member.over.done():
                    member.is_unlisted = True
                    self._put(member, 0.0)
            self._wake.set()

    async def _read_pages(self, wanted: set[str]) -> None:
        client = await self._connected()
        api, clock = client.settings.api, asyncio.get_running_loop().time
        request: Request | None = api.list()
        is_first = True
        while request is not None and wanted:
            if (held := self._pace.delay(clock())) > 0.0:
                await asyncio.sleep(held)
            self._pace.sent(clock())
            with self._noting("list"):
                page = read_list(api, request, await client.send(request))
            shown = sum(self._take_listed(prediction, wanted) for prediction in page.predictions)
            if is_first:
                self._pages.brought(shown, clock())
            is_first = False
            following = page.following if self._pages.goes_on(shown) else None
            request = api.page(following) if following else None

    def _take_listed(self, prediction: Prediction, wanted: set[str]) -> bool:
        """Take what a page tells of a prediction, and return whether it is one of ours."""
        members = self._members.get(prediction.id)
        if not members:
            return False
        if prediction.status is PredictionStatus.SUCCEEDED and not prediction.has_output:
            return True  # some lists leave the output out: a look brings it
        wanted.discard(prediction.id)
        for member in list(members):
            member.is_unlisted = False
            if member.look is None and not member.over.done():
                self._settle(member, member.wait.answered(prediction, self._time(member)))
        return True

    # --- the connection ----------------------------------------------------------------------------

    async def _connected(self) -> AsyncClient:
        """Return the shared client, as the connection says that was looked up a few minutes ago at most.

        :raises VaceError: if the connection can't be used, or could not be read
        """
        age = asyncio.get_running_loop().time() - self._looked_up
        if self._client is None:
            if self._look_up_failure is None or age >= LEAST_LOOK_UP_SECONDS:
                await self._look_up()
            if self._client is None:
                raise self._look_up_failure or VaceTransportError("The poller is closed", sent=False)
        elif age >= SETTINGS_SECONDS and self._reading is None:
            self._reading = self._spawn(self._read_connection())
        return self._client

    async def _has_another_key(self, client: AsyncClient, refused: Settings) -> bool:
        """Look the connection up, unless somebody just did, and return whether its key is another now."""
        age = asyncio.get_running_loop().time() - self._looked_up
        if client.settings.api == refused.api and age >= LEAST_LOOK_UP_SECONDS:
            await self._look_up()
        return client.settings.api != refused.api

    async def _look_up(self) -> None:
        """Look the connection up, once for all who ask meanwhile; what was known stays if that fails."""
        if self._reading is None:
            self._reading = self._spawn(self._read_connection())
        await asyncio.shield(self._reading)

    async def _read_connection(self) -> None:
        try:
            hook = VaceHook(self.conn_id)
            settings = await hook.asettings()
            before = self._client
            if before is None or before.settings.api.backend != settings.api.backend:
                self._pace = Pace(settings.api.backend.limit)
            if before is not None and before.fits(settings):
                before.settings = settings
            else:
                self._client = await AsyncClient.open(
                    settings, connections=MOST_LOOKS + MOST_SLOW_LOOKS, keep_alive=_KEEP_ALIVE_SECONDS
                )
            if before is not None and before is not self._client:
                self._spawn(self._retire(before, set(self._looks)))
            self.hook, self._look_up_failure = hook, None
        except OSError as error:
            self._look_up_failure = VaceTransportError(
                f"TLS can't be set up as the connection {self.conn_id!r} says: {error}", sent=False
            )
        except VaceError as error:
            self._look_up_failure = error
        except AirflowNotFoundException:
            # Some secrets back-ends answer so while they are in trouble, so each wait looks again.
            self._look_up_failure = VaceConnectionMissing(self.conn_id)
        finally:
            self._looked_up = asyncio.get_running_loop().time()
            self._reading = None

    async def _retire(self, client: AsyncClient, looks: set[asyncio.Task[None]]) -> None:
        """Close a client that is used no more, once the looks that use it have ended."""
        try:
            if looks:
                await asyncio.wait(looks)
        finally:
            await client.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._others.add(task)
        task.add_done_callback(self._ended)
        return task


def _kept(prediction: Prediction) -> Prediction:
    """Return what of an end may be held for long; in the loop's thread, so that one is reduced at a time."""
    output = prediction.output if prediction.fits_payload else None
    return replace(prediction, logs=None, input=without_secrets(prediction.input), output=output)


_pollers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = (
    weakref.WeakKeyDictionary()
)
_experiences: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Experience]] = (
    weakref.WeakKeyDictionary()
)


def join(conn_id: str) -> Poller:
    """Return this event loop's poller of a connection, made for the first who asks; to be left again."""
    loop = asyncio.get_running_loop()
    pollers = _pollers.setdefault(loop, {})
    poller = pollers.get(conn_id)
    if poller is None or poller.is_over:
        experience = _experiences.setdefault(loop, {}).setdefault(conn_id, Experience())
        poller = pollers[conn_id] = Poller(conn_id, experience)
    poller.guests += 1
    return poller


async def leave(poller: Poller) -> None:
    """Leave a poller; it is closed with its last guest."""
    poller.guests -= 1
    if poller.guests:
        return
    pollers = _pollers[asyncio.get_running_loop()]
    if pollers.get(poller.conn_id) is poller:
        del pollers[poller.conn_id]
    await asyncio.shield(asyncio.get_running_loop().create_task(poller.close()))
