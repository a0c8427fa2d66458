"""Slow servers: a request ends at its timeout, even if a byte comes now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest

from airflow_vace.exceptions import SubmissionUnknown, VaceTransportError
from airflow_vace.hooks import VaceHook
from conftest import scale_waits
from support.faces import FOX
from support.hostile import CHUNKED, TIMEOUT, endless, http, once, running, within
from support.scripted import serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.faces import Call
    from support.scripted import Write


def slow(head: bytes, more: bytes = b"x") -> Callable[[Write], None]:
    """Send a head at once, then bytes without end, each before the timeout of a socket."""
    return endless(head, more, pause=TIMEOUT / 5)


SLOW = {
    "the first line": slow(b"HTTP/1.1 200 "),
    "a header": slow(b"HTTP/1.1 200 OK\r\nX-Slow: "),
    "headers": slow(b"HTTP/1.1 200 OK\r\n", b"X-Slow: x\r\n"),
    "interim responses": slow(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "the size of a chunk": slow(CHUNKED, b"0"),
    "a body without a length": slow(b"HTTP/1.1 200 OK\r\n\r\n" + running(), b" "),
}


@pytest.mark.parametrize("verb", ["get", "create", "cancel"])
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_response_ends_at_the_timeout(
    call: Call,
    connect: Callable[[str], None],
    name: str,
    verb: str,
) -> None:
    kind = SubmissionUnknown if verb == "create" else VaceTransportError
    with serving(SLOW[name]) as url, within(8, connect, url), pytest.raises(kind):
        call(verb, FOX if verb == "create" else "abc")


def test_a_slow_response_to_a_tunnel_has_sent_nothing(
    call: Call,
    connect: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scale_waits(monkeypatch, 1.0, max_create_attempts=1)
    with (
        serving(SLOW["headers"]) as proxy,
        within(8, connect, "https://far.example", proxies=proxy),
        pytest.raises(VaceTransportError) as caught,
    ):
        call("create", FOX)
    assert not caught.value.sent


@pytest.mark.parametrize("name", ["the first line", "headers"])
def test_slow_headers_of_a_file_end_at_the_timeout(connect: Callable[[str], None], name: str) -> None:
    with (
        serving(SLOW[name]) as url,
        within(8, connect, url),
        pytest.raises(VaceTransportError, match=r"the response was incomplete after [1-4]\.\d s"),
        VaceHook().open_file(f"{url}/a.mp4"),
    ):
        raise AssertionError("a file came")


def test_a_file_may_take_longer_than_a_request(connect: Callable[[str], None]) -> None:
    def send(write: Write) -> None:
        write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            time.sleep(0.25)
            write(b"x")

    with (
        serving(send) as url,
        within(30, connect, url, timeout=2),
        VaceHook().open_file(f"{url}/a.mp4") as download,
    ):
        assert b"".join(download.chunks) == b"x" * 10


FILE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfilm\r\n"


@pytest.mark.parametrize("name", ["the size of a chunk", "trailers"])
def test_a_file_with_a_stalled_piece_fails(
    connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    scale_waits(monkeypatch, 1.0, piece_grace_seconds=0.5)
    servers = {
        "the size of a chunk": slow(FILE + b"1;x="),
        "trailers": slow(FILE + b"0\r\n", b"X-T: y\r\n"),
    }
    with (
        serving(servers[name]) as url,
        within(30, connect, url, timeout=3),
        pytest.raises(VaceTransportError, match=r"no data came within 3\.5 s"),
        VaceHook().open_file(f"{url}/a.mp4") as download,
    ):
        assert list(download.chunks) == [b"film"]


def test_requests_leave_no_file_descriptors_open(connect: Callable[[str], None]) -> None:
    with serving(once(http(running(), "Connection: close"))) as url, within(90, connect, url, timeout=30):
        hook = VaceHook()
        hook.get_prediction("abc")
        before = psutil.Process().num_fds()
        for _ in range(50):
            hook.get_prediction("abc")
        # The server's own ends of these connections may be closed a moment later.
        assert psutil.Process().num_fds() <= before + 5
