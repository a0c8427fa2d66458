"""Bound the total duration of a blocking HTTP exchange.

`requests` has socket timeouts only, and each received byte restarts a socket timeout: a server sending a
byte every few seconds could hold a worker for hours. Therefore each request belongs to an
:class:`Exchange` with a deadline for connecting, sending and receiving together.

A background thread, the watchdog, holds all deadlines in a heap. At its deadline, the watchdog shuts
down the exchange's socket. The worker's thread, blocked in a read or write, then continues at once with
an error or an early end of the data, and :attr:`Exchange.is_over` distinguishes a forced end from a
regular end.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.core.timing import Timing


@dataclass
class Flight:
    """How far a request has come.

    `is_sent` is False only while the server cannot have seen the request: before a connection is
    established, including a proxy's tunnel and the TLS handshake.

    :param seconds: limit for connecting, sending and receiving together
    """

    seconds: float
    is_connected: bool = False
    is_sent: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the request."""
        return time.monotonic() - self.started

    @property
    def is_due(self) -> bool:
        """Return True after the limit for time."""
        return self.elapsed >= self.seconds


class Exchange(Flight):
    """A request and its response, ended by force at a deadline.

    :param seconds: limit for connecting, sending and receiving together
    :param timing: `piece_grace_seconds` and `tls_alert_seconds` apply here
    :param is_public_only: refuse to connect to a private address
    """

    def __init__(self, seconds: float, timing: Timing, *, is_public_only: bool = False) -> None:
        super().__init__(seconds)
        self.timing = timing
        self.is_public_only = is_public_only
        self._is_over = False
        self.is_file = False
        self._is_released = False
        self._deadline = self.started + seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        _watchdog.watch(self._deadline, self)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_over(self) -> bool:
        """Return True after a forced end."""
        return self._is_over

    @property
    def is_due(self) -> bool:
        """Return True after the deadline, also if the forced end is late on a busy machine."""
        return self._is_over or time.monotonic() >= self._deadline

    @contextmanager
    def as_current(self) -> Iterator[None]:
        """Assign the connections used by this thread to this exchange."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def attach(self, connection: Any) -> None:
        """Let the deadline apply to a socket from now on."""
        # Keep a duplicate descriptor: wrapping a socket in TLS detaches the original, and after a close the
        # operating system reuses the number, so a late shutdown could end an unrelated connection.
        # A shutdown through the duplicate reaches the same connection.
        duplicate = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self.is_connected = True
            previous, self._socket = self._socket, duplicate
            if self._is_over:
                _shut_down(duplicate)
        if previous is not None:
            previous.close()

    def release(self) -> None:
        """Drop the deadline and the duplicate of the socket."""
        with self._lock:
            self._is_released = True
            previous, self._socket = self._socket, None
        if previous is not None:
            previous.close()

    def expect_piece(self) -> None:
        """Turn the limit for the exchange into a limit for the next piece of a file.

        A file may take any total time. Each piece has the request's time plus `piece_grace_seconds`.
        """
        with self._lock:
            if not self.is_file:
                self.is_file = True
                self.seconds += self.timing.piece_grace_seconds
            self._deadline = max(self._deadline, time.monotonic() + self.seconds)

    def end_if_due(self) -> float | None:
        """Shut the socket down after the deadline; return the next time to check, or None.

        Times are those of `time.monotonic`.
        """
        with self._lock:
            if self._is_released:
                return None
            if self._deadline > time.monotonic():
                return self._deadline
            self._is_over = True
            if self._socket is not None:
                _shut_down(self._socket)
        return None


class _Watchdog:
    """End exchanges at their deadlines, from a single daemon thread.

    A thread (or `threading.Timer`) for each request would cost more than the request.
    """

    def __init__(self) -> None:
        # A Condition's lock is re-entrant by default. A signal handler may send a cancel while the
        # interrupted code holds the lock, so a plain Lock could deadlock here.
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Exchange]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def watch(self, deadline: float, exchange: Exchange) -> None:
        """End an exchange at a time of `time.monotonic`."""
        with self._changed:
            heapq.heappush(self._heap, (deadline, next(self._order), exchange))
            if self._thread is None or not self._thread.is_alive():
                # A signal handler may raise between these lines, so record the thread only after its start.
                thread = threading.Thread(target=self._run, name="vace-watchdog", daemon=True)
                thread.start()
                self._thread = thread
            elif self._heap[0][2] is exchange:
                # The new deadline is the earliest, so the thread must shorten its sleep.
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._heap:
                    self._thread = None
                    return
                remaining = self._heap[0][0] - time.monotonic()
                if remaining > 0:
                    self._changed.wait(remaining)
                    continue
                exchange = heapq.heappop(self._heap)[2]
            # Outside of the lock: other threads must be able to start exchanges meanwhile.
            deadline = exchange.end_if_due()
            if deadline is not None:
                with self._changed:
                    heapq.heappush(self._heap, (deadline, next(self._order), exchange))


_watchdog = _Watchdog()


def _after_fork() -> None:
    """Start with an empty watchdog in a forked child, because threads do not survive a fork."""
    # Some thread of the parent may have held the lock during the fork; in the child nobody would release it.
    global _watchdog  # noqa: PLW0603
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_after_fork)

_current: ContextVar[Exchange | None] = ContextVar("vace_exchange", default=None)


def current_exchange() -> Exchange | None:
    """Return the exchange that this thread's connections belong to, if any."""
    return _current.get()


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):  # the server may have closed the connection already
        connection.shutdown(socket.SHUT_RDWR)
