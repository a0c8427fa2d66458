"""Turn a library's exception into a VaceTransportError.

Both HTTP clients use these functions. The important question is whether the request was sent: a create
without a response may be billed, and a create that was never sent is free to try again.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from urllib3.exceptions import NameResolutionError

from airflow_vace.client.exchange import Exchange
from airflow_vace.exceptions import VaceProtocolError, VaceTransportError
from airflow_vace.redaction import excerpt, is_showable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.client.exchange import Flight
    from airflow_vace.client.settings import Settings
    from airflow_vace.core.requests import Request

# Responses echo the input, including data: URLs, and contain all logs, so a real one may be large.
MAX_RESPONSE_BYTES = 128 * 1024 * 1024
_MAX_WRAPPED_ERRORS = 5

# OpenSSL's reasons for a first response without TLS.
_NOT_TLS_REASONS = (
    *("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"),
    *("PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE"),
)
# Alerts that refuse a handshake. TLS 1.3 delivers those about a client's certificate with the first read, so
# a request that was written before may count as not sent.
_REFUSED_HANDSHAKE = re.compile(
    r"alert[ _](?:\w+[ _])*(?:certificate|unknown[ _]ca|access[ _]denied|handshake[ _]failure"
    r"|decrypt[ _]error|protocol[ _]version|insufficient[ _]security|unrecognized[ _]name"
    r"|no[ _]application[ _]protocol)",
    re.IGNORECASE,
)
# A TLS server answers plain HTTP with an alert record. Exceptions contain its bytes raw or escaped.
_TLS_ALERT_RECORD = re.compile(r"(?:\x15|\\+x15)(?:\x03|\\+x03)")


def failure(request: Request, error: Exception, settings: Settings, flight: Flight) -> VaceTransportError:
    """Return our error for a library's exception that ended a request.

    :param flight: how far the request has come; decides `sent`
    """
    is_plain = not request.url.startswith("https:")
    if flight.is_due:
        is_in_handshake = not (is_plain or flight.is_sent)
        hint = _without_tls(request, (TimeoutError(),), settings, flight) if is_in_handshake else None
        return _late(request, flight, hint)
    chain = tuple(_chain(error))
    refusal = next((str(link) for link in chain if _refuses_handshake(link)), None)
    speaks_tls = is_plain and any(_TLS_ALERT_RECORD.search(str(link)) for link in chain)
    sent = flight.is_sent and refusal is None and not speaks_tls
    host = urlsplit(request.url).hostname
    if any(isinstance(link, NameResolutionError | socket.gaierror) for link in chain):
        reason = _with_remedy(
            "its host is not known", "check the spelling of the connection's host", request, settings
        )
    elif speaks_tls:
        reason = f"{host} speaks TLS: write https:// in the host"
    elif refusal is not None:
        is_required = "certificate required" in refusal.lower()
        remedy = ": it requires a client certificate, see the connection's extra 'cert'"
        reason = f"{host} refused the TLS handshake{remedy if is_required else ''}"
    else:
        hint = None if sent or is_plain else _without_tls(request, chain, settings, flight)
        remedy = "check the connection's host and port, and that the server runs"
        reason = hint or _with_remedy("the server was not reached", remedy, request, settings)
    reason = "no response came" if sent else f"{reason}; nothing was sent"
    return VaceTransportError(f"{request.shown}: {reason} ({_innermost(error, request)})", sent=sent)


def check_time(exchange: Exchange, request: Request) -> None:
    """Raise VaceTransportError after a forced end, because the data may be incomplete."""
    if exchange.is_over:
        raise _late(request, exchange)


def check_size(size: int, request: Request) -> None:
    """Raise VaceProtocolError for a response of more than MAX_RESPONSE_BYTES.

    :param size: bytes received and decompressed until now
    """
    if size > MAX_RESPONSE_BYTES:
        limit = MAX_RESPONSE_BYTES // 1024**2
        raise VaceProtocolError(
            f"{request.shown}: the response is larger than {limit} MiB", is_truncated=True
        )


def shown_cause(error: BaseException, request: Request | None = None) -> BaseException | None:
    """Return a library's error for `raise … from`, or None if its texts contain secrets.

    Airflow logs the entire chain of causes. A library's texts may contain a signed URL, or the password of a
    proxy.
    """
    query = urlsplit(request.url).query if request else ""
    for link in _chain(error):
        # urllib3 keeps the address of a request as an attribute of its errors.
        text = f"{link} {link!r} {vars(link)}"
        if not is_showable(text) or (query and query in text):
            return None
    return error


def _late(request: Request, flight: Flight, hint: str | None = None) -> VaceTransportError:
    duration = f"after {flight.elapsed:.1f} s (limit: {flight.seconds:g} s)"
    if not flight.is_sent:
        reason = f"{hint or 'the server was not reached'}; nothing was sent, {duration}"
    elif isinstance(flight, Exchange) and flight.is_file:
        reason = f"the file stalled: no data came within {flight.seconds:g} s"
    else:
        reason = f"the response was incomplete {duration}"
    return VaceTransportError(f"{request.shown}: {reason}", sent=flight.is_sent)


def _with_remedy(problem: str, remedy: str, request: Request, settings: Settings) -> str:
    """Return a problem, with a remedy in the connection if the URL has the connection's host."""
    return f"{problem}; {remedy}" if settings.api.is_own_host(request.url) else problem


def _refuses_handshake(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError) and bool(_REFUSED_HANDSHAKE.search(str(error)))


def _without_tls(
    request: Request, chain: tuple[BaseException, ...], settings: Settings, flight: Flight
) -> str | None:
    """Return a hint and remedy if the server probably lacks TLS, else None."""
    reasons = {getattr(link, "reason", None) for link in chain if isinstance(link, ssl.SSLError)}
    # Through a proxy, a reset or timeout may be the proxy's, so no hint about the server follows.
    is_direct = settings.proxy_for(request.url) is None
    closed = ssl.SSLEOFError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError
    if not reasons.isdisjoint(_NOT_TLS_REASONS):
        seen = "does not speak TLS"
    elif is_direct and any(isinstance(link, closed) for link in chain):
        seen = "does not speak TLS, or ended the handshake"
    elif is_direct and flight.is_connected and any(isinstance(link, TimeoutError) for link in chain):
        seen = "did not answer the TLS handshake in time"
    else:
        return None
    hint = f"{urlsplit(request.url).hostname} {seen}"
    is_own = settings.api.is_own_host(request.url)
    return f"{hint}; if it is plain HTTP, write http:// in the host" if is_own else hint


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then its causes, its contexts, and all errors in their arguments."""
    # urllib3 and aiohttp put the operating system's error into an argument or `reason`, not only the cause.
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
        waiting += [found for found in inner if isinstance(found, BaseException)]


def _innermost(error: BaseException, request: Request) -> str:
    """Return the text of the innermost wrapped error, without the query of the URL."""
    inner = error
    for _ in range(_MAX_WRAPPED_ERRORS):
        reason = getattr(inner, "reason", None) or next(iter(inner.args), None)
        if not isinstance(reason, BaseException):
            break
        inner = reason
    text = f"{type(inner).__name__}: {inner}" if str(inner) else type(inner).__name__
    query = urlsplit(request.url).query
    return excerpt(text.replace(query, "…") if query else text, 300)
