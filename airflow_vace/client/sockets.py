"""Connections of urllib3 with a deadline, and with a check of the server's address.

All use of undocumented parts of urllib3, requests and http.client is in this module;
`tests/client/test_sockets.py` fails if a new release changes them.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from functools import lru_cache
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, cast

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from airflow_vace.client.addresses import NotPublicError, addresses_of, is_public
from airflow_vace.client.exchange import current_exchange
from airflow_vace.core.timing import Timing

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool

    from airflow_vace.client.exchange import Exchange


class FinalResponse(HTTPResponse):
    """Skip interim responses, for example 103 Early Hints, and blank lines before a response.

    `http.client` skips 100 only, and returns any other interim response as the final response.
    """

    def begin(self) -> None:
        """Read the head of the final response."""
        self._skip_blank_lines()
        super().begin()
        # 101 switches the protocol: no further HTTP response can follow on this connection.
        while 101 < self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]  # begin() returns at once otherwise
            self._skip_blank_lines()
            super().begin()

    def _skip_blank_lines(self) -> None:
        """Skip line ends that a server sends after its last body, for example."""
        while self.fp.peek(1)[:1] in (b"\r", b"\n"):
            self.fp.read(1)


class WatchedConnection:
    """Mixin for a connection of urllib3: apply deadline and address check of the current exchange."""

    _sock: Any = None
    is_direct = True
    response_class = FinalResponse

    @property
    def sock(self) -> Any:
        """The connected socket, or None; `http.client` and urllib3 read and assign this attribute."""
        return self._sock

    @sock.setter
    def sock(self, value: Any) -> None:
        # urllib3 assigns the socket before a proxy's tunnel and before the TLS handshake, so the deadline
        # applies to both.
        self._sock = value
        exchange = current_exchange()
        if value is not None and exchange is not None:
            exchange.attach(value)

    @property
    def is_connected(self) -> bool:
        """Return True if the pool may reuse this connection for the current exchange."""
        exchange, connection = current_exchange(), cast("Any", super())
        if not connection.is_connected:
            return False
        if exchange is None or not exchange.is_public_only or not self._is_to_server():
            return True
        # An earlier request, without the check, may have opened this connection to a private address.
        return is_public(str(self.sock.getpeername()[0]))

    def _is_to_server(self: Any) -> bool:
        """Return False if a proxy resolves the server's name."""
        return self.is_direct and self.proxy is None

    def connect(self: Any) -> None:
        """Connect to the first reachable address of the host.

        Resolving the name here, and connecting to the checked address, prevents DNS rebinding: a second
        lookup could yield a different, private address.
        """
        exchange, connection = current_exchange(), cast("Any", super())
        if exchange is None or not self._is_to_server():
            connection.connect()
            return
        name, timeout = self.host, self.timeout
        if isinstance(self, HTTPSConnection):
            # The certificate is for the name, so TLS must not verify the address assigned below.
            self.server_hostname = self.server_hostname or name
        failure: Exception | None = None
        for address in self._checked_addresses(exchange):
            remaining = exchange.seconds - exchange.elapsed
            if remaining <= 0:
                failure = failure or ConnectTimeoutError(self, "no address answered in time")
                break
            self.host, self.timeout = address, min(timeout, remaining)
            try:
                connection.connect()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
            else:
                return
            finally:
                # The Host header is written later, from the name.
                self.host, self.timeout = name, timeout
        raise failure or NewConnectionError(self, "the host has no address")

    def _checked_addresses(self: Any, exchange: Exchange) -> tuple[str, ...]:
        try:
            found = addresses_of(self.host, self.port)
        except OSError as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        if exchange.is_public_only:
            for address in found:
                if not is_public(address):
                    raise NotPublicError(address)
        return found

    def request(self: Any, *args: Any, **kwargs: Any) -> None:
        """Send a request, and record in the exchange that the server may have seen the request."""
        exchange = current_exchange()
        if exchange is not None:
            # Connect here, not within super().request(): a failure until now means "nothing was sent".
            if self.sock is None:
                self.connect()
            else:
                exchange.attach(self.sock)
            exchange.is_sent = True
        try:
            cast("Any", super()).request(*args, **kwargs)
        except ssl.SSLEOFError:
            # In TLS 1.3 a server refuses a client's certificate after the handshake. Its alert may still
            # wait to be read; reading raises the alert, a better error than the broken write.
            timing = exchange.timing if exchange is not None else Timing()
            with suppress(TimeoutError, ConnectionError):
                self.sock.settimeout(timing.tls_alert_seconds)
                self.sock.recv(1)
            raise


@lru_cache(maxsize=16)
def _watched(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    """Return a subclass of a pool with watched connections."""
    plain: Any = pool.ConnectionCls
    # Only the two plain classes connect by themselves; a SOCKS connection lets the proxy resolve the name.
    is_direct = plain in (HTTPConnection, HTTPSConnection)
    connection = type(plain.__name__, (WatchedConnection, plain), {"is_direct": is_direct})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


class Adapter(HTTPAdapter):
    """Transport adapter for requests with watched connections only."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools for direct connections; `requests` calls this method."""
        # With keep-alive probes the system detects a vanished server even if no byte is due.
        options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        super().init_poolmanager(*args, **kwargs, socket_options=options)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the pools for connections through a proxy; `requests` calls this method."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        self._watch(manager)
        return manager

    @staticmethod
    def _watch(manager: Any) -> None:
        known = manager.pool_classes_by_scheme
        # requests returns the same manager for each request through a proxy: replace its classes once.
        if not all(issubclass(pool.ConnectionCls, WatchedConnection) for pool in known.values()):
            manager.pool_classes_by_scheme = {scheme: _watched(pool) for scheme, pool in known.items()}
