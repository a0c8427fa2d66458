"""Connections of requests whose whole exchange is bounded in time, and whose address was checked."""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from http.client import HTTPResponse
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Self, cast

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3.connectionpool import HTTPConnectionPool


# A server that refuses a certificate has sent its alert before it closes.
_ALERT_SECONDS = 1.0

# Prefixes of IPv6 addresses whose last 32 bits are an IPv4 address: RFC 6052 (NAT64) and RFC 4291.
_EMBEDDING = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
# NAT64 inside of a network, RFC 8215; the place of the IPv4 address depends on that network.
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")


class NotPublicError(Exception):
    """Raised instead of a connection to an address that is not public; its argument is the address."""


def is_public(address: str) -> bool:
    """Return True if an IP address, or the IPv4 address embedded in it, is a global unicast address."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.is_site_local or found in _LOCAL_NAT64:
            return False
        found = _embedded_in(found) or found
    return found.is_global and not found.is_multicast


def _embedded_in(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a gateway on the way would connect to, if there is one."""
    if any(address in prefix for prefix in _EMBEDDING):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def addresses_of(host: str, port: int) -> tuple[str, ...]:
    """Return the IP addresses of a host, in the resolver's order.

    :raises OSError: if it does not resolve
    """
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(str(error)) from error
    return tuple(dict.fromkeys(str(found[4][0]) for found in known))


class Exchange:
    """One request and its answer, ended by force when their time is over.

    Time-outs of a socket bound the wait for the next byte, so a server that trickles outlives them all.

    :param seconds: for all of it: connecting, sending, and reading the answer
    :param is_public_only: refuse to connect to an address that is not public
    """

    def __init__(self, seconds: float, *, is_public_only: bool = False) -> None:
        self.seconds = seconds
        self.is_public_only = is_public_only
        # How far the request has come; nothing is sent before a connection stands, its TLS included.
        self.is_connected = False
        self.is_sent = False
        self.is_over = False
        self.is_renewed = False
        self._is_released = False
        self._began = time.monotonic()
        self._until = self._began + seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        _watchdog.take(self._until, self)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def elapsed(self) -> float:
        """Seconds since the request began."""
        return time.monotonic() - self._began

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let the connections that this thread uses belong to this exchange."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def watch(self, connection: Any) -> None:
        """Take a socket as the exchange's own; a copy of it stays valid while TLS is wrapped around it."""
        copy = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self.is_connected = True
            before, self._socket = self._socket, copy
            if self.is_over:
                _shut_down(copy)
        if before is not None:
            before.close()

    def release(self) -> None:
        """Bound the exchange no longer."""
        with self._lock:
            self._is_released = True
            before, self._socket = self._socket, None
        if before is not None:
            before.close()

    def renew(self, seconds: float) -> None:
        """Give the exchange so many seconds from now, and at least those that it has."""
        with self._lock:
            self.is_renewed, self.seconds = True, seconds
            self._until = max(self._until, time.monotonic() + seconds)

    def end(self) -> float | None:
        """Shut the socket down if the time is over; return the time of the next check, if there is one."""
        with self._lock:
            if self._is_released:
                return None
            if self._until > time.monotonic():
                return self._until
            self.is_over = True
            if self._socket is not None:
                _shut_down(self._socket)
        return None


class _Watchdog:
    """Ends exchanges at their time, all in one thread: a thread for each costs more than a request."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Exchange]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def take(self, until: float, exchange: Exchange) -> None:
        """End an exchange at a time of the monotonic clock."""
        with self._changed:
            heapq.heappush(self._waiting, (until, next(self._order), exchange))
            if self._thread is None or not self._thread.is_alive():
                # A signal's exception may come in between: a thread that was not started is none.
                thread = threading.Thread(target=self._run, name="vace-watchdog", daemon=True)
                thread.start()
                self._thread = thread
            elif self._waiting[0][2] is exchange:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                left = self._waiting[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                exchange = heapq.heappop(self._waiting)[2]
            until = exchange.end()
            if until is not None:
                with self._changed:
                    heapq.heappush(self._waiting, (until, next(self._order), exchange))


_watchdog = _Watchdog()


def _after_fork() -> None:
    """Forget the parent's exchanges: a child has none of its threads."""
    global _watchdog  # noqa: PLW0603 - the parent's lock may be held for ever in the child
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_after_fork)
_current: ContextVar[Exchange | None] = ContextVar("vace_exchange", default=None)


def _shut_down(copy: socket.socket) -> None:
    with suppress(OSError):  # the other side may have closed it already
        copy.shutdown(socket.SHUT_RDWR)


class _FinalResponse(HTTPResponse):
    """Reads past interim answers, such as 103 Early Hints; http.client takes all but 100 for the answer."""

    def begin(self) -> None:
        super().begin()
        while 101 < self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]  # begin() returns at once otherwise
            super().begin()


class _Watched:
    """What a connection does for the current exchange, whichever connection of urllib3 it is mixed into."""

    _sock: Any = None
    is_direct = True
    response_class = _FinalResponse

    @property
    def sock(self) -> Any:
        return self._sock

    @sock.setter
    def sock(self, value: Any) -> None:
        # urllib3 sets it before a proxy's tunnel and a TLS handshake, so these are bounded too.
        self._sock = value
        exchange = _current.get()
        if value is not None and exchange is not None:
            exchange.watch(value)

    @property
    def is_connected(self) -> bool:
        """Return True if a pooled connection may be used again, also for this exchange."""
        exchange, connection = _current.get(), cast("Any", super())
        if not connection.is_connected:
            return False
        if exchange is None or not exchange.is_public_only or not self._is_to_server():
            return True
        return is_public(str(self.sock.getpeername()[0]))

    def _is_to_server(self: Any) -> bool:
        """Return False if a proxy resolves the server's name."""
        return self.is_direct and self.proxy is None

    def connect(self: Any) -> None:
        exchange, connection = _current.get(), cast("Any", super())
        if exchange is None or not self._is_to_server():
            connection.connect()
            return
        name, timeout = self.host, self.timeout
        if isinstance(self, HTTPSConnection):
            self.server_hostname = self.server_hostname or name
        failure: Exception | None = None
        for address in self._checked_addresses(exchange):
            left = exchange.seconds - exchange.elapsed
            if left <= 0:
                failure = failure or ConnectTimeoutError(self, "no address answered in time")
                break
            # TLS still names the host, and so does the request that is sent afterwards.
            self.host, self.timeout = address, min(timeout, left)
            try:
                connection.connect()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
            else:
                return
            finally:
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
        exchange = _current.get()
        if exchange is not None:
            if self.sock is None:
                self.connect()
            else:
                exchange.watch(self.sock)
            exchange.is_sent = True
        try:
            cast("Any", super()).request(*args, **kwargs)
        except ssl.SSLEOFError:
            # TLS 1.3 refuses a client's certificate after the handshake: the alert may wait to be read.
            with suppress(TimeoutError, ConnectionError):
                self.sock.settimeout(_ALERT_SECONDS)
                self.sock.recv(1)
            raise


@lru_cache(maxsize=16)
def _watched(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    """Return a pool of the same kind whose connections belong to exchanges."""
    plain: Any = pool.ConnectionCls
    # A SOCKS connection has its own way to the server, and lets the proxy resolve its name.
    is_direct = plain in (HTTPConnection, HTTPSConnection)
    connection = type(plain.__name__, (_Watched, plain), {"is_direct": is_direct})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


class Adapter(HTTPAdapter):
    """Carries requests over connections that belong to an :class:`Exchange`."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        # A transfer whose server has vanished is noticed without a byte to read.
        options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        super().init_poolmanager(*args, **kwargs, socket_options=options)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        self._watch(manager)
        return manager

    @staticmethod
    def _watch(manager: Any) -> None:
        known = manager.pool_classes_by_scheme
        if not all(issubclass(pool.ConnectionCls, _Watched) for pool in known.values()):
            manager.pool_classes_by_scheme = {name: _watched(pool) for name, pool in known.items()}
