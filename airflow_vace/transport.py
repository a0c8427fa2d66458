"""Carrying a described request: over requests or aiohttp, once, in bounded time and memory."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import aiohttp
import requests
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from yarl import URL

from airflow_vace.api import Request, Response
from airflow_vace.exceptions import VaceProtocolError, VaceTransportError, excerpt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.connection import Settings

# Answers echo the input, data: URLs included, and bring all the logs.
_LARGEST_ANSWER = 128 * 1024 * 1024
_CHUNK = 64 * 1024
_PIECE = 1024 * 1024
_MOST_DIGITS = 19
# Seconds that an idle connection is kept; servers close theirs after a minute or more.
_KEEP_ALIVE = 15.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")

# Whatever ends a request of requests without an answer; urllib3's own come from its raw streams.
BROKEN = (requests.RequestException, HTTPError)


def send(session: requests.Session, settings: Settings, request: Request) -> Response:
    """Send a request and read its answer, whatever its status.

    :raises VaceTransportError: if no whole answer came; it says whether the request was sent
    :raises VaceProtocolError: if the answer is too large
    """
    try:
        with streamed(session, settings, request) as answer:
            if answer.status_code < 200:
                # http.client takes an interim answer for the answer; what follows it must reach nobody else.
                interim = (
                    f"{request.shown}: an interim answer ({answer.status_code}) came, and no other was read"
                )
                raise VaceTransportError(interim, sent=True)
            return read_whole(answer, settings, request)
    except BROKEN as error:
        raise transport_error(request, error, sent=_was_sent(error)) from error


def streamed(session: requests.Session, settings: Settings, request: Request) -> requests.Response:
    """Send a request and return its answer with the body still to come.

    :raises Exception: one of :data:`BROKEN`
    """
    return session.request(
        request.method,
        request.url,
        headers=request.headers,
        data=request.body,
        timeout=(settings.connect_timeout, settings.timeout),
        # Said with each request: what a session says, the environment may override.
        verify=settings.verify,
        proxies=settings.proxies or None,
        cert=settings.cert if settings.api.is_own_host(request.url) else None,
        allow_redirects=False,
        stream=True,
    )


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file on its way: `chunks` begin at byte `start`; `size` is the whole file's, None if untold."""

    start: int
    size: int | None
    etag: str | None
    chunks: Iterator[bytes]

    @classmethod
    def of(cls, answer: requests.Response) -> Self:
        """Read the head of an answer to the request of a file, or of the rest of one."""
        part = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        length = answer.headers.get("content-length", "")
        size = int(length) if length.isdecimal() and len(length) < _MOST_DIGITS else None
        start = 0
        if answer.status_code == 206 and part:
            start = int(part[1])
            size = int(part[2]) if part[2].isdecimal() else None
        etag = answer.headers.get("etag")
        is_strong = etag is not None and not etag.startswith("W/")
        # What there is at once: a trickle is seen as one, and whoever must stop need not wait for more.
        chunks = iter(lambda: bytes(answer.raw.read1(_PIECE)), b"")
        return cls(start=start, size=size, etag=etag if is_strong else None, chunks=chunks)


def refuse_private(request: Request, settings: Settings) -> None:
    """Refuse to fetch from inside the network: a vendor's answer must not choose what a worker reads there.

    The connection's own host is the person's choice. What a proxy resolves is the proxy's to refuse.

    :raises VaceProtocolError: if the host is, or resolves to, an address that is not public
    :raises VaceTransportError: if it does not resolve
    """
    if settings.api.is_own_host(request.url):
        return
    try:
        address = private_address_of(request.url, resolve=not settings.proxy_for(request.url))
    except OSError as error:
        raise transport_error(request, error, sent=False) from error
    if address is not None:
        raise VaceProtocolError(
            f"The output is at {excerpt(request.url)}, and its address {address} is not public: it is not"
            " fetched. Only the connection's own host may be in a private network."
        )


def private_address_of(url: str, *, resolve: bool = True) -> str | None:
    """Return an address that a URL's host is, or resolves to, and that is not public; None if there is none.

    :raises OSError: if the host does not resolve
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        found = {ip_address(host)}
    except ValueError:
        if not resolve:
            return None
        try:
            known = socket.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(str(error)) from error
        found = {ip_address(str(address[4][0]).partition("%")[0]) for address in known}
    for address in found:
        meant = getattr(address, "ipv4_mapped", None) or address
        if meant.is_multicast or not meant.is_global:
            return str(address)
    return None


def read_whole(answer: requests.Response, settings: Settings, request: Request) -> Response:
    """Read a body that may trickle or never end; the socket's time-out alone bounds neither."""
    body, until = bytearray(), time.monotonic() + settings.timeout
    while chunk := answer.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        _check_size(len(body), request)
        if time.monotonic() > until:
            late = f"{request.shown}: the answer took over {settings.timeout:g} s"
            raise VaceTransportError(late, sent=True)
    return Response(answer.status_code, answer.headers, bytes(body))


class Session(requests.Session):
    """A session that does not even prepare a redirect, which fails if malformed, and reads no ~/.netrc."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _as_it_is

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

    @classmethod
    async def open(
        cls, settings: Settings, *, connections: int = 100, keep_alive: float = _KEEP_ALIVE
    ) -> Self:
        """Return a client with at most so many connections, each kept so many seconds without use."""
        context = await asyncio.to_thread(settings.ssl_context)
        connector = aiohttp.TCPConnector(ssl=context, limit=connections, keepalive_timeout=keep_alive)
        session = aiohttp.ClientSession(
            connector=connector, middlewares=(_once,), cookie_jar=aiohttp.DummyCookieJar()
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
        settings = self.settings.for_request(request)
        try:
            async with self._session.request(
                request.method,
                _url(request.url),
                headers=request.headers,
                data=request.body if isinstance(request.body, bytes) else None,
                proxy=self._proxy_for(request.url),
                timeout=_time_out(settings.timeout, settings.connect_timeout),
                allow_redirects=False,
            ) as answer:
                if 0 <= (answer.content_length or -1) <= _CHUNK:
                    return Response(answer.status, answer.headers, await answer.read())
                body = bytearray()
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    body += chunk
                    _check_size(len(body), request)
                return Response(answer.status, answer.headers, bytes(body))
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientHttpProxyError,
        ) as error:
            raise transport_error(request, error, sent=False) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise transport_error(request, error, sent=True) from error

    def _proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL's origin, which is asked of the environment once."""
        origin = url[: url.find("/", url.find("//") + 2)]
        if origin not in self._proxies:
            self._proxies[origin] = self.settings.proxy_for(url)
        return self._proxies[origin]


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


def transport_error(request: Request, error: Exception, *, sent: bool) -> VaceTransportError:
    """Return the error of ours for a stranger's that ended a request."""
    seen = "no answer came" if sent else "the server was not reached, nothing was sent"
    if isinstance(_inner(error), NameResolutionError | socket.gaierror):
        seen = "its host is not known, nothing was sent"
    return VaceTransportError(f"{request.shown}: {seen} ({_innermost(error)})", sent=sent)


def _check_size(size: int, request: Request) -> None:
    if size > _LARGEST_ANSWER:
        limit = _LARGEST_ANSWER // 1024**2
        raise VaceProtocolError(f"{request.shown}: the answer is larger than {limit} MiB", is_torn=True)


def _was_sent(error: Exception) -> bool:
    """Whether a server may have seen the request that failed so."""
    reason: object = error.args[0] if error.args else None
    if isinstance(reason, MaxRetryError):
        reason = reason.reason
    if isinstance(reason, ProxyError):
        # urllib3 says so of whatever befalls a proxied connection, the loss of an answer included.
        reason = reason.original_error
        if type(reason) is OSError:  # http.client's word for a tunnel that the proxy refused
            return False
    if isinstance(reason, SSLError):
        reason = next(iter(reason.args), None)
    never = NewConnectionError | ConnectTimeoutError | ssl.SSLCertVerificationError
    return not isinstance(reason, never)


def _innermost(error: BaseException) -> str:
    """Return what a chain of wrapped errors is about, in its innermost words."""
    inner = _inner(error)
    return excerpt(f"{type(inner).__name__}: {inner}" if str(inner) else type(inner).__name__, 300)


def _inner(error: BaseException) -> BaseException:
    inner = error
    for _ in range(5):
        reason = getattr(inner, "reason", None) or next(iter(inner.args), None)
        if not isinstance(reason, BaseException):
            break
        inner = reason
    return inner
