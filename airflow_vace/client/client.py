"""The API's clients without Airflow, blocking and asynchronous: two drivers of the same calls.

The calls themselves are in :mod:`airflow_vace.core.calls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar, assert_never
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from airflow_vace.client.addresses import refuse_private
from airflow_vace.client.asynchronous import AsyncClient
from airflow_vace.client.blocking import Session, read_whole, send, streamed
from airflow_vace.client.downloads import Download
from airflow_vace.client.meter import NO_METER
from airflow_vace.core.clock import Clock
from airflow_vace.core.errors import read_error
from airflow_vace.core.origins import address_of, header_text
from airflow_vace.core.requests import Request
from airflow_vace.core.response_times import served_at
from airflow_vace.core.steps import Connect, Note, Once, Pause
from airflow_vace.exceptions import VaceError, VaceProtocolError, VaceTransportError
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator

    import requests

    from airflow_vace.client.meter import Meter
    from airflow_vace.client.settings import Settings
    from airflow_vace.core.requests import Response
    from airflow_vace.core.steps import Call, Step

T = TypeVar("T")

_MAX_REDIRECTS = 6
# Results of calls that run once in a process.
_kept: dict[Hashable, Any] = {}
# A file with a signature, or without protection, may be refused because of the key: 400 is the answer of S3.
_KEY_REFUSALS = (400, 401, 403)


def _mask_nothing(_: Iterable[str]) -> None:
    """Mask no secrets: for programs whose logs are private."""


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """The clock and the log of the program around a client.

    :param clock: compares this machine's clock with the server's
    :param now: returns seconds since the epoch, by this machine's clock
    :param mask: hides the secrets in texts from all logs
    :param meter: receives the numbers of requests
    """

    clock: Clock = field(default_factory=Clock)
    now: Callable[[], float] = time.time
    log: Any = field(default_factory=lambda: logging.getLogger(__name__))
    mask: Callable[[Iterable[str]], None] = _mask_nothing
    meter: Meter = NO_METER

    def write(self, note: Note) -> None:
        """Write a call's note to the log."""
        self.log.log(logging.WARNING if note.is_warning else logging.INFO, "%s", note.text)

    def note_sent(self, settings: Settings, request: Request) -> None:
        """Count a request."""
        self.meter.sent(settings.api.backend.name, request.verb)

    def note_answer(self, settings: Settings, request: Request, response: Response) -> None:
        """Count a response, and compare the server's clock with this machine's."""
        self.meter.answered(settings.api.backend.name, request.verb, response.status_code)
        self.clock.note(served_at(response), self.now())


class VaceClient:
    """Run calls over requests, blocking.

    `is_create_open` is True from the sending of a create until the pause before the next attempt: if
    an exception from outside ends the call meanwhile, the create may have been accepted.

    :param connect: returns the connection's settings
    """

    def __init__(self, connect: Callable[[], Settings], around: Surroundings | None = None) -> None:
        self._connect = connect
        self._around = around or Surroundings()
        self.is_create_open = False
        # A signal handler may run calls of this client, hence the re-entrant lock.
        self._once = threading.RLock()
        self._keyless_urls: set[str] = set()

    def run(self, call: Call[T]) -> T:
        """Run a call to the end, and return the result.

        :raises VaceError: the call's failure
        """
        answer: Any = None
        failure: VaceError | None = None
        with contextlib.closing(call):
            while True:
                try:
                    step = call.send(answer) if failure is None else call.throw(failure)
                except StopIteration as end:
                    result: T = end.value
                    return result
                answer = failure = None
                try:
                    answer = self._taken(step)
                except VaceError as error:
                    failure = error

    def _taken(self, step: Step) -> Any:
        match step:
            case Connect():
                return self._connect()
            case Request():
                return self._send(step)
            case Pause(seconds):
                self.is_create_open = False
                return time.sleep(seconds)
            case Note():
                return self._around.write(step)
            case Once(key, kept_call):
                with self._once:
                    if key not in _kept:
                        _kept[key] = self.run(kept_call())
                return _kept[key]
            case _:
                assert_never(step)

    def _send(self, request: Request) -> Response:
        settings = self._connect()
        if request.verb == "create":
            self.is_create_open = True
        self._around.note_sent(settings, request)
        response = send(self._session, settings.for_request(request), request)
        self._around.note_answer(settings, request, response)
        return response

    @cached_property
    def _session(self) -> requests.Session:
        return open_session(self._connect())

    @contextlib.contextmanager
    def open_file(self, url: str, *, start: int = 0, etag: str | None = None) -> Iterator[Download]:
        """Open a file; the key goes along only to the connection's own origin, redirects included.

        Where the own origin refuses the key, a second request goes without the key.

        :param url: absolute, or relative to the connection's address
        :param start: offset in bytes at which to resume; a server may send the whole file all the same
        :param etag: of the file to resume
        :raises VaceAPIError: (or a subclass) if the server refused
        :raises VaceTransportError: if the file did not come, or not whole
        :raises VaceProtocolError: if the address may not be fetched
        """
        settings = self._connect()
        # urllib3 writes paths and queries into the log, and a query may sign the URL.
        self._around.mask([url])
        url = address_of(f"{settings.api.base_url}/", url)
        refusal: VaceError | None = None
        for _ in range(_MAX_REDIRECTS):
            self._around.mask([url])
            is_keyless = refusal is not None or url in self._keyless_urls
            request = settings.api.file(url, start=start, etag=etag, with_key=not is_keyless)
            public = refuse_private(request, settings)
            with streamed(self._session, settings, request, is_public_only=public) as (answer, exchange):
                if answer.is_redirect:
                    url, refusal = _redirected(url, answer.headers["location"]), None
                    continue
                if answer.status_code in (200, 203, 206):
                    if refusal is not None:
                        self._keyless_urls.add(url)
                    yield Download.of(answer, exchange, request)
                    return
                if answer.status_code < 300:
                    problem = f"{request.shown}: the server has no file yet ({answer.status_code})"
                    raise VaceTransportError(problem, sent=True)
                error = read_error(settings.api, request, read_whole(answer, exchange, request))
                has_key = not is_keyless and settings.api.is_own(url)
                if not has_key or answer.status_code not in _KEY_REFUSALS:
                    # Without the key a server asks for one, so only the first refusal names the cause.
                    raise refusal if refusal is not None and answer.status_code == 401 else error
                # S3 and its kin refuse a key beside a signature in the URL.
                refusal = error
        raise VaceTransportError(f"GET {excerpt(url)}: redirected too often", sent=True)

    def status_of(self, url: str) -> int | None:
        """Return the status code that a third party gets for a URL's first byte; None if no answer came."""
        self._around.mask([url])
        request = Request(verb="file", method="GET", url=url, headers={"Range": "bytes=0-0"})
        try:
            with streamed(self._session, self._connect(), request) as (answer, _):
                return answer.status_code
        except VaceTransportError:
            return None


class AsyncVaceClient:
    """Run calls over aiohttp.

    Inside `async with` all calls share a session; otherwise each call opens and closes a session.

    :param connect: awaits the connection's settings
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Settings]], around: Surroundings | None = None
    ) -> None:
        self._connect = connect
        self._around = around or Surroundings()
        self._is_shared = False
        self._client: AsyncClient | None = None
        # A lock belongs to an event loop, and a client may serve several loops, one after another.
        self._once: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def run(self, call: Call[T]) -> T:
        """Await the end of a call, and return the result.

        :raises VaceError: the call's failure
        """
        answer: Any = None
        failure: VaceError | None = None
        with contextlib.closing(call):
            while True:
                try:
                    step = call.send(answer) if failure is None else call.throw(failure)
                except StopIteration as end:
                    result: T = end.value
                    return result
                answer = failure = None
                try:
                    answer = await self._taken(step)
                except VaceError as error:
                    failure = error

    async def _taken(self, step: Step) -> Any:
        match step:
            case Connect():
                return await self._connect()
            case Request():
                return await self._send(step)
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Note():
                return self._around.write(step)
            case Once(key, kept_call):
                async with self._once.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
                    if key not in _kept:
                        _kept[key] = await self.run(kept_call())
                return _kept[key]
            case _:
                assert_never(step)

    async def _send(self, request: Request) -> Response:
        async with self._session() as client:
            self._around.note_sent(client.settings, request)
            response = await client.send(request)
            self._around.note_answer(client.settings, request, response)
        return response

    async def __aenter__(self) -> Self:
        self._is_shared = True
        self._opening = asyncio.Lock()
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._client = self._client, None
        self._is_shared = False
        if client is not None:
            await client.close()

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncClient]:
        if not self._is_shared:
            client = await AsyncClient.open(await self._connect())
            try:
                yield client
            finally:
                await client.close()
            return
        async with self._opening:
            if self._client is None:
                self._client = await AsyncClient.open(await self._connect())
        yield self._client


def open_session(settings: Settings) -> Session:
    """Return a session with the connection's TLS and proxies, without a key: each request brings the key."""
    session = Session()
    session.verify = settings.verify
    session.cert = settings.cert
    session.proxies = dict(settings.proxies)
    return session


def _redirected(url: str, location: str) -> str:
    """Return the target of a redirect.

    :raises VaceProtocolError: if the target is no address, or would be fetched without TLS after TLS
    """
    try:
        target = address_of(url, header_text(location))
        parts = urlsplit(target)
        port = parts.port
    except ValueError:
        raise VaceProtocolError(f"GET {excerpt(url)}: redirected to nowhere, {excerpt(location)}") from None
    if parts.scheme != "http" or urlsplit(url).scheme != "https":
        return target
    if port is not None:
        raise VaceProtocolError(
            f"GET {excerpt(url)}: redirected from https to http, {excerpt(target)}, which is not followed:"
            " anybody on the way could change the file"
        )
    return parts._replace(scheme="https").geturl()
