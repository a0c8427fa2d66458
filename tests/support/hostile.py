"""Responses of hostile servers, and a check of the time and memory that reading them takes."""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil

from support.scripted import connection_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.scripted import Write

# Seconds for a request in the tests of slow servers.
TIMEOUT = 1.0
MEGABYTE = 1024**2
RUNNING = {"id": "abc", "status": "processing", "created_at": "2026-11-23T10:00:00Z"}
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def bounded(*, seconds: float, megabytes: float) -> Iterator[None]:
    """Assert limits for the time, and for the memory in addition to the memory in use before."""
    process = psutil.Process()
    before, peak, is_over = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    try:
        yield
    finally:
        duration = time.monotonic() - started
        is_over.set()
        watcher.join()
    assert duration < seconds
    assert (peak - before) / MEGABYTE < megabytes


def within(seconds: float, connect: Callable[[str], None], url: str, **extra: Any) -> Any:
    """Set the connection with a timeout of :data:`TIMEOUT`; return a check of the time and memory used."""
    connect(connection_to(url, **{"timeout": TIMEOUT, **extra}))
    return bounded(seconds=seconds, megabytes=300)


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a response with a body."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def running(**more: Any) -> bytes:
    """Return the JSON of a running prediction."""
    return json.dumps(RUNNING | more).encode()


def compressed_zeros(length: int, times: int = 1) -> bytes:
    """Return zero bytes, compressed once or several times."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    blocks = (compressor.compress(bytes(MEGABYTE)) for _ in range(length // MEGABYTE))
    content = b"".join(blocks) + compressor.flush()
    for _ in range(times - 1):
        content = gzip.compress(content)
    return content


def once(content: bytes) -> Callable[[Write], None]:
    """Send a content once."""
    return lambda write: write(content)


def endless(head: bytes, more: bytes, *, pause: float = 0.0) -> Callable[[Write], None]:
    """Send a head, then more bytes without end, with a pause in seconds after each."""

    def send(write: Write) -> None:
        write(head)
        while True:
            write(more)
            if pause:
                time.sleep(pause)

    return send
