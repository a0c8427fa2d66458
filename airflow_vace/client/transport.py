"""Carrying a described request: over requests or aiohttp, once, in bounded time and memory."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import tempfile
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import aiohttp
import requests
from urllib3.exceptions import HTTPError, NameResolutionError
from yarl import URL

from airflow_vace.client.sockets import Adapter, Exchange, NotPublicError, addresses_of, is_public
from airflow_vace.core.requests import Request, Response
from airflow_vace.exceptions import (
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
    excerpt,
    is_showable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import SimpleNamespace
    from typing import IO

    from airflow_vace.client.settings import Settings

# Answers echo the input, data: URLs included, and bring all the logs.
_LARGEST_ANSWER = 128 * 1024 * 1024
# An event loop keeps larger answers on disk until they are parsed, one after another.
_LARGEST_SMALL_ANSWER = 1024 * 1024
# Larger answers of one client under way at a time, since each may take that much disk; others wait.
_MAX_LARGE_ANSWERS = 8
_CHUNK = 64 * 1024
_PIECE = 1024 * 1024
# Seconds beyond the time-out of a request in which the next piece of a file must come.
_PIECE_SECONDS = 30.0
_MOST_DIGITS = 19
# Seconds that an idle connection is kept; servers close theirs after a minute or more.
_KEEP_ALIVE = 15.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")

# Whatever ends a request of requests without an answer; urllib3's own come from its raw streams.
BROKEN = (requests.RequestException, HTTPError)

# OpenSSL's reasons for an answer that is no TLS at all.
_NOT_TLS = (
    *("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"),
    *("PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE"),
)
# Alerts that refuse a handshake. TLS 1.3 brings those about a client's certificate with the first read.
_REFUSED_HANDSHAKE = re.compile(
    r"alert[ _](?:\w+[ _])*(?:certificate|unknown[ _]ca|access[ _]denied|handshake[ _]failure"
    r"|decrypt[ _]error|protocol[ _]version|insufficient[ _]security|unrecognized[ _]name"
    r"|no[ _]application[ _]protocol)",
    re.IGNORECASE,
)
# The record of a TLS alert, with which a TLS server answers plain HTTP; as it is, or written out.
_TLS_ALERT = re.compile(r"(?:\x15|\\+x15)(?:\x03|\\+x03)")


def send(session: requests.Session, settings: Settings, request: Request) -> Response:
    """Send a request and read its answer, whatever its status.

    :raises VaceTransportError: if no whole answer came in time; it says whether the request was sent
    :raises VaceProtocolError: if the answer is too large
    """
    with streamed(session, settings, request) as (answer, exchange):
        return read_whole(answer, exchange, request)


@contextmanager
def streamed(
    session: requests.Session, settings: Settings, request: Request, *, is_public_only: bool = False
) -> Iterator[tuple[requests.Response, Exchange]]:
    """Send a request; give its answer with the body still to come, and the exchange that bounds it.

    :param is_public_only: refuse an address that is not public
    :raises VaceTransportError: if no answer came in time, or its body broke off
    :raises VaceProtocolError: if the address is refused
    """
    with Exchange(settings.time_for(request), is_public_only=is_public_only) as exchange:
        try:
            answer = _answered(session, settings, request, exchange)
        except NotPublicError as error:
            raise _not_public(request.url, str(error)) from None
        except (*BROKEN, OSError) as error:
            raise _failure(request, error, settings, exchange) from shown_cause(error, request)
        try:
            with answer:
                check_time(exchange, request)
                if answer.status_code < 200:
                    # The protocol has changed: the rest of the connection must reach nobody else.
                    interim = f"{request.shown}: an interim answer ({answer.status_code}) came, and no other"
                    raise VaceTransportError(interim, sent=True)
                yield answer, exchange
        except BROKEN as error:
            raise _failure(request, error, settings, exchange) from shown_cause(error, request)


def _answered(
    session: requests.Session, settings: Settings, request: Request, exchange: Exchange
) -> requests.Response:
    prepared = session.prepare_request(
        requests.Request(request.method, request.url, headers=request.headers, data=request.body)
    )
    proxy = settings.proxy_for(request.url)
    with exchange.current():
        return session.send(
            prepared,
            timeout=(settings.connect_timeout, settings.timeout),
            verify=settings.trusted,
            # Session.send asks nothing of the environment: both clients use what the settings have read.
            proxies={"all": proxy} if proxy else {},
            cert=settings.cert if settings.api.is_own_host(request.url) else None,
            allow_redirects=False,
            stream=True,
        )


def check_time(exchange: Exchange, request: Request) -> None:
    """Raise VaceTransportError if the exchange was ended by force: what has come may not be whole."""
    if exchange.is_over:
        raise _late(request, exchange)


def _late(request: Request, exchange: Exchange, hint: str | None = None) -> VaceTransportError:
    took = f"after {exchange.elapsed:.1f} s, of {exchange.seconds:g} s at most"
    if not exchange.is_sent:
        late = f"{request.shown}: {hint or 'the server was not reached'}; nothing was sent, {took}"
    elif exchange.is_renewed:
        late = f"{request.shown}: the file stalled: no piece of it came within {exchange.seconds:g} s"
    else:
        late = f"{request.shown}: the answer was not whole {took}"
    return VaceTransportError(late, sent=exchange.is_sent)


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file on its way: `chunks` begin at byte `start`; `size` is the whole file's, None if untold.

    `start` is None for a part that does not say where in the file it belongs.
    """

    start: int | None
    size: int | None
    etag: str | None
    chunks: Iterator[bytes]

    @classmethod
    def of(cls, answer: requests.Response, exchange: Exchange, request: Request) -> Self:
        """Read the head of an answer to the request of a file, or of the rest of one."""
        part = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        length = answer.headers.get("content-length", "")
        size = int(length) if length.isdecimal() and len(length) < _MOST_DIGITS else None
        start: int | None = 0
        if answer.status_code == 206:
            start = int(part[1]) if part else None
            size = int(part[2]) if part and part[2].isdecimal() else None
        etag = answer.headers.get("etag")
        is_strong = etag is not None and not etag.startswith("W/")
        chunks = _chunks_of(answer, exchange, request)
        return cls(start=start, size=size, etag=etag if is_strong else None, chunks=chunks)


def _chunks_of(answer: requests.Response, exchange: Exchange, request: Request) -> Iterator[bytes]:
    """Yield what has come of a body; the whole may take any time, each piece only so much.

    :raises VaceTransportError: if a piece did not come in time
    """
    seconds = exchange.seconds + _PIECE_SECONDS
    exchange.renew(seconds)
    # Pieces as they come show a trickle as one, and a transfer that must stop need not wait for more.
    while chunk := bytes(answer.raw.read1(_PIECE)):
        exchange.renew(seconds)
        yield chunk
        exchange.renew(seconds)
    # The forced end of a body without a length, or within its trailer, resembles its regular end.
    check_time(exchange, request)


def refuse_private(request: Request, settings: Settings) -> bool:
    """Refuse an address inside the network: a vendor's answer must not choose what a worker reads there.

    The connection's own host is the person's choice. What a proxy resolves is the proxy's to refuse.

    :return: True if a name must not resolve to an address that is not public, see :func:`streamed`
    :raises VaceProtocolError: if the host is an address that is not public
    """
    if settings.api.is_own_host(request.url):
        return False
    address = private_address_of(request.url, resolve=False)
    if address is not None:
        raise _not_public(request.url, address)
    return settings.proxy_for(request.url) is None


def _not_public(url: str, address: str) -> VaceProtocolError:
    return VaceProtocolError(
        f"The output is at {excerpt(url)}, and its address {address} is not public: it is not"
        " fetched. Only the connection's own host may be in a private network."
    )


def private_address_of(url: str, *, resolve: bool = True) -> str | None:
    """Return an address that a URL's host is, or resolves to, and that is not public; None if there is none.

    :raises OSError: if the host does not resolve
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        found: tuple[str, ...] = (str(ip_address(host)),)
    except ValueError:
        found = addresses_of(host, parts.port or 443) if resolve else ()
    return next((address for address in found if not is_public(address)), None)


def read_whole(answer: requests.Response, exchange: Exchange, request: Request) -> Response:
    """Read a body that may never end.

    :raises VaceTransportError: if it was not whole in time
    :raises VaceProtocolError: if it is too large
    """
    body = bytearray()
    while chunk := answer.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        _check_size(len(body), request)
    check_time(exchange, request)
    return Response(answer.status_code, answer.headers, bytes(body))


class Session(requests.Session):
    """A session that does not even prepare a redirect, which fails if malformed, and reads no ~/.netrc."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _as_it_is
        for scheme in ("http://", "https://"):
            self.mount(scheme, Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        del resp


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave a request alone: without an auth, requests would put ~/.netrc's in place of the key."""
    return request


class AsyncClient:
    """One aiohttp session, set up as a connection says; who opens it closes it."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.settings = settings
        self._session = session
        self._proxies: dict[str, str | None] = {}
        self._places = asyncio.Semaphore(_MAX_LARGE_ANSWERS)

    @classmethod
    async def open(
        cls, settings: Settings, *, connections: int = 100, keep_alive: float = _KEEP_ALIVE
    ) -> Self:
        """Return a client with at most so many connections, each kept so many seconds without use."""
        context = await asyncio.to_thread(settings.ssl_context)
        connector = aiohttp.TCPConnector(ssl=context, limit=connections, keepalive_timeout=keep_alive)
        session = aiohttp.ClientSession(
            connector=connector,
            middlewares=(_once,),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_traces()],
        )
        return cls(settings, session)

    def fits(self, settings: Settings) -> bool:
        """Whether other settings need no other session."""
        mine = self.settings
        known = (mine.verify, mine.cert, mine.proxies)
        return known == (settings.verify, settings.cert, settings.proxies)

    async def close(self) -> None:
        await self._session.close()

    async def send(self, request: Request) -> Response:
        """Send a request and read its answer, whatever its status.

        :raises VaceTransportError: if no whole answer came; it says whether the request was sent
        :raises VaceProtocolError: if the answer is too large
        """
        settings, flight = self.settings.for_request(request), _Flight()
        with tempfile.SpooledTemporaryFile(_LARGEST_SMALL_ANSWER) as body:
            try:
                answer = await self._receive(request, settings, flight, body)
                body.seek(0)
                # In memory an answer takes several times its size. From here on nothing is awaited, so a
                # caller that parses at once has parsed before another answer is loaded.
                return Response(answer.status, answer.headers, body.read())
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _failure(request, error, settings, flight) from shown_cause(error, request)

    async def _receive(
        self, request: Request, settings: Settings, flight: _Flight, body: IO[bytes]
    ) -> aiohttp.ClientResponse:
        """Return an answer whose body was written into a file."""
        proxy = self._proxy_for(request.url)
        until = asyncio.get_running_loop().time() + settings.timeout
        async with (
            AsyncExitStack() as place,
            self._session.request(
                request.method,
                _url(request.url),
                headers=request.headers,
                data=request.body if isinstance(request.body, bytes) else None,
                proxy=proxy,
                timeout=_time_out(settings.timeout, settings.connect_timeout),
                allow_redirects=False,
                trace_request_ctx=flight,
            ) as answer,
        ):
            is_plain = "Content-Encoding" not in answer.headers
            if is_plain and 0 < (answer.content_length or 0) <= _LARGEST_SMALL_ANSWER:
                body.write(await answer.read())
                return answer
            async with asyncio.timeout_at(until):
                await _store(answer, request, body, self._places, place)
            return answer

    def _proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL's origin, which is asked of the environment once."""
        origin = url[: url.find("/", url.find("//") + 2)]
        if origin not in self._proxies:
            proxy = self.settings.proxy_for(url)
            if proxy and proxy.lower().startswith("socks"):
                remedy = "use an http proxy, or deferrable=False"
                raise VaceInputError(
                    f"A SOCKS proxy works on workers only, not in the triggerer: {remedy}. Nothing was sent.",
                    field="proxies",
                    value="***",
                    remedy=remedy,
                )
            self._proxies[origin] = proxy
        return self._proxies[origin]


@dataclass
class _Flight:
    """How far a request of aiohttp has come; nothing is sent before a connection stands, its TLS included."""

    is_sent: bool = False
    is_connected: bool = False
    is_over: bool = False


async def _note_connection(_: object, context: SimpleNamespace, __: object) -> None:
    flight: _Flight = context.trace_request_ctx
    flight.is_sent = True


def _traces() -> aiohttp.TraceConfig:
    traces = aiohttp.TraceConfig()
    traces.on_connection_create_end.append(_note_connection)
    traces.on_connection_reuseconn.append(_note_connection)
    return traces


async def _store(
    answer: aiohttp.ClientResponse,
    request: Request,
    body: IO[bytes],
    places: asyncio.Semaphore,
    place: AsyncExitStack,
) -> None:
    """Write a body into a file. A large one waits for one of the places; `place` gives it up on closing."""
    is_large = False
    async for chunk in answer.content.iter_chunked(_CHUNK):
        size = body.tell() + len(chunk)
        _check_size(size, request)
        if size > _LARGEST_SMALL_ANSWER and not is_large:
            is_large = True
            await place.enter_async_context(places)
        body.write(chunk)


@lru_cache(maxsize=4096)
def _url(text: str) -> URL:
    return URL(text)


@lru_cache(maxsize=16)
def _time_out(total: float, connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, sock_connect=connect)


class _BrokenOff(aiohttp.ClientError):
    """A connection that broke off before the answer came."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request once: aiohttp would repeat a GET that broke off, outside of any schedule."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _BrokenOff(error) from error


def _failure(
    request: Request, error: Exception, settings: Settings, flight: Exchange | _Flight
) -> VaceTransportError:
    """Return the error of ours for a library's that ended a request; it says whether the request was sent."""
    is_plain = not request.url.startswith("https:")
    if isinstance(flight, Exchange) and flight.is_over:
        is_early = not (is_plain or flight.is_sent)
        hint = _without_tls(request, (TimeoutError(),), settings, flight) if is_early else None
        return _late(request, flight, hint)
    chain, text = tuple(_chain(error)), _innermost(error, request)
    refusal = next((str(link) for link in chain if _refuses_handshake(link)), None)
    speaks_tls = is_plain and any(_TLS_ALERT.search(str(link)) for link in chain)
    sent = flight.is_sent and refusal is None and not speaks_tls
    host = urlsplit(request.url).hostname
    if any(isinstance(link, NameResolutionError | socket.gaierror) for link in chain):
        seen = "its host is not known"
    elif speaks_tls:
        seen = f"{host} speaks TLS: write https:// in the host"
    elif refusal is not None:
        is_asked = "certificate required" in refusal.lower()
        remedy = ": it asks for a client certificate, see the connection's extra 'cert'" if is_asked else ""
        seen = f"{host} refused the TLS handshake{remedy}"
    else:
        seen = (None if sent or is_plain else _without_tls(request, chain, settings, flight)) or (
            "the server was not reached"
        )
    seen = "no answer came" if sent else f"{seen}; nothing was sent"
    return VaceTransportError(f"{request.shown}: {seen} ({text})", sent=sent)


def _refuses_handshake(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError) and bool(_REFUSED_HANDSHAKE.search(str(error)))


def _without_tls(
    request: Request, chain: tuple[BaseException, ...], settings: Settings, flight: Exchange | _Flight
) -> str | None:
    """Return what failed if a server may not speak TLS, and the remedy; None if it did not come to that."""
    reasons = {getattr(link, "reason", None) for link in chain if isinstance(link, ssl.SSLError)}
    is_direct = settings.proxy_for(request.url) is None
    ended = ssl.SSLEOFError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError
    if not reasons.isdisjoint(_NOT_TLS):
        seen = "does not speak TLS"
    elif is_direct and any(isinstance(link, ended) for link in chain):
        seen = "does not speak TLS, or ended the handshake"
    elif is_direct and flight.is_connected and any(isinstance(link, TimeoutError) for link in chain):
        seen = "did not answer the TLS handshake in time"
    else:
        return None
    whose = f"{urlsplit(request.url).hostname} {seen}"
    is_own = settings.api.is_own_host(request.url)
    return f"{whose}; if it is plain HTTP, write http:// in the host" if is_own else whose


def shown_cause(error: BaseException, request: Request | None = None) -> BaseException | None:
    """Return a library's error as the cause of ours, or None if its texts hold what ours hides.

    Airflow logs the whole chain of causes, and these name the whole URL, or a proxy's password.
    """
    query = urlsplit(request.url).query if request else ""
    for link in _chain(error):
        text = f"{link} {link!r}"
        if not is_showable(text) or (query and query in text):
            return None
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it wraps, was caused by, or came after."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
        waiting += [found for found in inner if isinstance(found, BaseException)]


def _check_size(size: int, request: Request) -> None:
    if size > _LARGEST_ANSWER:
        limit = _LARGEST_ANSWER // 1024**2
        raise VaceProtocolError(f"{request.shown}: the answer is larger than {limit} MiB", is_truncated=True)


def _innermost(error: BaseException, request: Request) -> str:
    """Return what a chain of wrapped errors is about, in its innermost words."""
    inner = error
    for _ in range(5):
        reason = getattr(inner, "reason", None) or next(iter(inner.args), None)
        if not isinstance(reason, BaseException):
            break
        inner = reason
    text = f"{type(inner).__name__}: {inner}" if str(inner) else type(inner).__name__
    query = urlsplit(request.url).query
    return excerpt(text.replace(query, "…") if query else text, 300)
