"""The blocking HTTP client, over requests."""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import requests
from urllib3.exceptions import HTTPError

from airflow_vace.client.addresses import NotPublicError, not_public
from airflow_vace.client.exchange import Exchange
from airflow_vace.client.failures import check_size, check_time, failure, shown_cause
from airflow_vace.client.received import check_final, decompressed, first_values
from airflow_vace.client.sockets import Adapter
from airflow_vace.core.requests import Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.client.settings import Settings

_READ_BYTES = 64 * 1024

# Reading `raw` bypasses the wrapping by requests, so errors of urllib3 arrive as they are.
_LIBRARY_ERRORS = (requests.RequestException, HTTPError)


class Session(requests.Session):
    """A session of requests with bounded connections, without ~/.netrc and without redirects."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _keep_headers
        for scheme in ("http://", "https://"):
            self.mount(scheme, Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: requests prepares a redirect even if not allowed, and fails if malformed."""
        del resp


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Return a request unchanged.

    A session without `auth` would replace the API key by a password from ~/.netrc.
    """
    return request


def send(session: requests.Session, settings: Settings, request: Request) -> Response:
    """Send a request and return the complete response, with any status code.

    :raises VaceTransportError: if no complete response came in time; `sent` is False only if the server
        cannot have seen the request
    :raises VaceProtocolError: if the response is too large
    """
    with streamed(session, settings, request) as (response, exchange):
        return read_whole(response, exchange, request)


@contextmanager
def streamed(
    session: requests.Session, settings: Settings, request: Request, *, is_public_only: bool = False
) -> Iterator[tuple[requests.Response, Exchange]]:
    """Send a request; yield the response before its body, and the exchange with the deadline.

    :param is_public_only: refuse to connect to a private address
    :raises VaceTransportError: if no response came in time, or the body was interrupted
    :raises VaceProtocolError: if the address is refused
    """
    seconds = settings.time_for(request)
    with Exchange(seconds, settings.timing, is_public_only=is_public_only) as exchange:
        try:
            response = _started(session, settings, request, exchange)
        except NotPublicError as error:
            raise not_public(request.url, str(error)) from None
        except (*_LIBRARY_ERRORS, OSError) as error:
            raise failure(request, error, settings, exchange) from shown_cause(error, request)
        try:
            with response:
                check_time(exchange, request)
                check_final(response.status_code, request)
                yield response, exchange
        except _LIBRARY_ERRORS as error:
            raise failure(request, error, settings, exchange) from shown_cause(error, request)


def _started(
    session: requests.Session, settings: Settings, request: Request, exchange: Exchange
) -> requests.Response:
    prepared = session.prepare_request(
        requests.Request(request.method, request.url, headers=request.headers, data=request.body)
    )
    proxy = settings.proxy_for(request.url)
    with exchange.as_current():
        # Session.send, unlike Session.request, reads no proxies or certificates from the environment. The
        # settings have read those already, so both clients use the same.
        return session.send(
            prepared,
            timeout=(settings.connect_timeout, settings.timeout),
            verify=settings.trusted,
            proxies={"all": proxy} if proxy else {},
            cert=settings.cert if settings.api.is_own_host(request.url) else None,
            allow_redirects=False,
            stream=True,
        )


def read_whole(response: requests.Response, exchange: Exchange, request: Request) -> Response:
    """Read the body of a response, which may be endless, up to the limits for time and size.

    :raises VaceTransportError: if the body was incomplete at the deadline
    :raises VaceProtocolError: if the body is too large
    """
    received = bytearray()
    while piece := response.raw.read1(_READ_BYTES, decode_content=False):
        received += piece
        check_size(len(received), request)
    check_time(exchange, request)
    fields = response.raw.headers.iteritems()
    headers = first_values((name.encode("latin-1"), value.encode("latin-1")) for name, value in fields)
    body = bytes(received)
    if encoding := headers.get("content-encoding"):
        body = b"".join(decompressed(BytesIO(body), encoding, request))
    return Response(response.status_code, headers, body)
