"""Servers that mean harm: whatever they send, time and memory stay bounded and the error is one of ours."""

from __future__ import annotations

import asyncio
import gzip
import json
import socketserver
import threading
import time
import zlib
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.prediction import Progress
from conftest import scale_waits
from support.faces import FOX, call  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.faces import Call

MEGABYTE = 1024**2
RUNNING = {"id": "abc", "status": "processing", "created_at": "2026-11-23T10:00:00Z"}


@contextmanager
def serving(send: Callable[[Callable[[bytes], None]], None]) -> Iterator[str]:
    """Serve one raw answer to whatever is asked; `send` is given how to write."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            try:
                send(self.request.sendall)
            except OSError:
                return  # the client has had enough

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def bounded(*, seconds: float, megabytes: float) -> Iterator[None]:
    """See that what happens inside takes no more than that, beyond what the process has already."""
    process = psutil.Process()
    before, most, is_over = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_over.wait(0.005):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - began
        is_over.set()
        watcher.join()
    assert took < seconds
    assert (most - before) / MEGABYTE < megabytes


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def told(**more: Any) -> bytes:
    return json.dumps(RUNNING | more).encode()


def squeezed(length: int, times: int = 1) -> bytes:
    """So many zeros, compressed once or more."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = b"".join(squeeze.compress(bytes(MEGABYTE)) for _ in range(length // MEGABYTE)) + squeeze.flush()
    for _ in range(times - 1):
        content = gzip.compress(content)
    return content


def endless(head: bytes, more: bytes) -> Callable[[Callable[[bytes], None]], None]:
    def send(write: Callable[[bytes], None]) -> None:
        write(head)
        while True:
            write(more)

    return send


def slowly(whole: bytes) -> Callable[[Callable[[bytes], None]], None]:
    def send(write: Callable[[bytes], None]) -> None:
        for byte in whole:
            write(bytes([byte]))
            time.sleep(0.05)

    return send


def once(content: bytes) -> Callable[[Callable[[bytes], None]], None]:
    return lambda write: write(content)


OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
MALICE: dict[str, tuple[Callable[[], Any], type[VaceError] | tuple[type[VaceError], ...]]] = {
    "a body without end": (lambda: endless(OPEN, CHUNK), VaceProtocolError),
    "headers without end": (
        lambda: endless(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 4000 + b"\r\n"),
        (VaceProtocolError, VaceTransportError),
    ),
    "one header without end": (
        lambda: endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
        (VaceProtocolError, VaceTransportError),
    ),
    "interim answers without end": (
        lambda: endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        (VaceProtocolError, VaceTransportError),
    ),
    "a trickle": (lambda: slowly(http(told())), VaceTransportError),
    "a bomb": (lambda: once(http(squeezed(512 * MEGABYTE), "Content-Encoding: gzip")), VaceProtocolError),
    "a bomb in a bomb": (
        lambda: once(http(squeezed(512 * MEGABYTE, 2), "Content-Encoding: gzip, gzip")),
        (VaceProtocolError, VaceTransportError),
    ),
    "a bomb that refuses": (
        lambda: once(http(squeezed(512 * MEGABYTE), "Content-Encoding: gzip", status="502 Bad Gateway")),
        (VaceProtocolError, VaceAPIError),
    ),
    "a length that is none": (
        lambda: once(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}"),
        (VaceProtocolError, VaceTransportError),
    ),
    "a negative length": (
        lambda: once(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}"),
        (VaceProtocolError, VaceTransportError),
    ),
    "deep lists": (lambda: once(http(b"[" * MEGABYTE)), VaceProtocolError),
    "deep objects": (lambda: once(http(b'{"a":' * MEGABYTE + b"1" + b"}" * MEGABYTE)), VaceProtocolError),
    "deep but whole": (
        lambda: once(http(told(metrics=0).replace(b"0}", b"[" * 900 + b"]" * 900 + b"}"))),
        VaceProtocolError,
    ),
    "a number of a megabyte": (
        lambda: once(http(told(metrics=0).replace(b"0}", b"9" * MEGABYTE + b"}"))),
        VaceProtocolError,
    ),
    "an error of 100 MB": (
        lambda: once(http(b'{"detail": "' + b"x" * (100 * MEGABYTE) + b'"}', status="500 Oops")),
        VaceAPIError,
    ),
    "fields that are invalid by the million": (
        lambda: once(
            http(
                json.dumps({"detail": [{"loc": ["a"], "msg": "b"}] * 100_000}).encode(),
                status="422 Unprocessable",
            )
        ),
        VaceAPIError,
    ),
    "nothing that is HTTP": (lambda: once(b"\x16\x03\x01" * 1000), (VaceProtocolError, VaceTransportError)),
}


@pytest.mark.parametrize("name", MALICE)
def test_a_server_that_means_harm_is_given_up_in_bounded_time_and_memory(
    call: Call,  # noqa: F811 - the fixture
    name: str,
    connect: Callable[[str], None],
) -> None:
    made, kinds = MALICE[name]
    send = made()
    with serving(send) as url:
        connect(json.dumps({"conn_type": "vace", "host": url, "password": "key", "extra": {"timeout": 2}}))
        if name in (
            "a body without end",
            "a bomb",
            "a bomb in a bomb",
            "a bomb that refuses",
            "an error of 100 MB",
        ):
            fields = {"conn_type": "vace", "host": url, "password": "key", "extra": {"timeout": 60}}
            connect(json.dumps(fields))
        with bounded(seconds=60, megabytes=700), pytest.raises(kinds) as caught:
            call("get", "abc")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "more",
    [
        {"input": {"src_video": "data:video/mp4;base64," + "A" * (100 * MEGABYTE)}},
        {"logs": " 50%|█████     | 25/50 [00:30<00:30,  1.20s/it]\n" * 1_000_000},
        {"output": ["https://files.example/a.mp4"] * 1_000_000},
        {"output": "https://files.example/" + "a" * (10 * MEGABYTE)},
        {"urls": {str(number): "https://files.example/" for number in range(300_000)}},
        {"metrics": {str(number): number for number in range(300_000)}},
        {"error": "x" * (10 * MEGABYTE), "status": "failed"},
        {"model": "x" * (10 * MEGABYTE), "version": "y" * (10 * MEGABYTE)},
    ],
    ids=["a film", "logs", "many outputs", "a long output", "urls", "metrics", "an error", "names"],
)
def test_what_is_large_is_read_and_not_kept(
    call: Call,  # noqa: F811 - the fixture
    more: dict[str, Any],
    connect: Callable[[str], None],
) -> None:
    answer = http(told(**more))
    with serving(once(answer)) as url:
        fields = {"conn_type": "vace", "host": url, "password": "key", "extra": {"timeout": 60}}
        connect(json.dumps(fields))
        with bounded(seconds=60, megabytes=700):
            prediction = call("get", "abc")
            payload = prediction.payload()
            assert prediction.progress is None or prediction.progress.percent == 50
    assert prediction.id == "abc"
    assert len(json.dumps(payload)) < 200_000


@pytest.mark.parametrize("status", ["102 Processing", "103 Early Hints"])
def test_the_answer_behind_an_interim_one_is_read(
    call: Call,  # noqa: F811 - the fixture
    connect: Callable[[str], None],
    status: str,
) -> None:
    interim = f"HTTP/1.1 {status}\r\nLink: </x>\r\n\r\n".encode()
    with serving(once(2 * interim + http(told(id="created", status="starting")))) as url:
        connect(json.dumps({"conn_type": "vace", "host": url, "password": "key"}))
        assert call("create", FOX).id == "created"


def test_a_file_behind_an_interim_answer_is_read(connect: Callable[[str], None]) -> None:
    from airflow_vace.hooks import VaceHook

    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with serving(once(interim + http(b"film"))) as url:
        connect(json.dumps({"conn_type": "vace", "host": url, "password": "key"}))
        with VaceHook().open_file(f"{url}/a.mp4") as download:
            assert b"".join(download.chunks) == b"film"


def test_a_switch_of_protocols_is_no_answer_and_reaches_nobody_else(
    connect: Callable[[str], None],
) -> None:
    from airflow_vace.hooks import VaceHook

    asked: list[str] = []
    may_end = threading.Event()

    def send(write: Callable[[bytes], None]) -> None:
        asked.append("request")
        if len(asked) < 3:
            write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
            may_end.wait(10)
            write(http(told(id="another")))  # when nobody waits for it any more
        else:
            write(http(told()))

    with serving(send) as url:
        connect(json.dumps({"conn_type": "vace", "host": url, "password": "key"}))
        hook = VaceHook()
        with pytest.raises(SubmissionUnknown):
            hook.create_prediction({"prompt": "a fox"})
        with pytest.raises(VaceTransportError), hook.open_file(f"{url}/a.mp4"):
            raise AssertionError("a file came")
        may_end.set()
        assert hook.get_prediction("abc").id == "abc"
    assert len(asked) == 3


def test_a_server_has_saved_no_files_of_ours(call: Call, connect: Callable[[str], None]) -> None:  # noqa: F811
    files = [{"uri": "s3://clips/a.mp4", "size": 1, "sha256": "0" * 64, "content_type": "video/mp4"}]
    answer = http(told(status="succeeded", output="https://files.example/a.mp4", files=files))
    with serving(once(answer)) as url:
        connect(json.dumps({"conn_type": "vace", "host": url, "password": "key"}))
        prediction = call("get", "abc")
    assert prediction.files == []
    assert "files" not in prediction.payload()


@pytest.mark.parametrize(
    ("logs", "percent"),
    [
        ("%|" * 1_000_000, None),
        ("9" * 1_000_000 + "%|", None),
        (" 38%|" + "█" * 1_000_000 + "| 19/50 [00:30<00:48,  1.57s/it]", None),
        (" 38%|███| 19/50 [" + "1:" * 500_000 + "<00:48,  1.57s/it]", None),
        (" 38%|███| 19/" + "5" * 100_000 + " [00:30<00:48,  1.57s/it]", None),
        ("x" * 5_000_000 + "\r 38%|███| 19/50 [00:30<00:48,  1.57s/it]" + "\r" * 1_000, 38),
    ],
)
def test_logs_that_mean_harm_are_read_in_no_time(logs: str, percent: int | None) -> None:
    with bounded(seconds=2, megabytes=100):
        found = Progress.from_logs(logs, 50)
    assert (found.percent if found else None) == percent


# --- time: a request ends, whatever trickles -------------------------------------------------------

TIMEOUT = 1.0


def trickle(head: bytes, more: bytes = b"x") -> Callable[[Callable[[bytes], None]], None]:
    """Send a head at once, and then bytes without end, each within the time-out of a socket."""

    def send(write: Callable[[bytes], None]) -> None:
        write(head)
        while True:
            write(more)
            time.sleep(TIMEOUT / 5)

    return send


TRICKLES = {
    "the first line": trickle(b"HTTP/1.1 200 "),
    "a header": trickle(b"HTTP/1.1 200 OK\r\nX-Slow: "),
    "headers": trickle(b"HTTP/1.1 200 OK\r\n", b"X-Slow: x\r\n"),
    "interim answers": trickle(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "the size of a chunk": trickle(OPEN, b"0"),
    "a body without a length": trickle(b"HTTP/1.1 200 OK\r\n\r\n" + told(), b" "),
}


def within(seconds: float, connect: Callable[[str], None], url: str, **extra: Any) -> Any:
    fields = {"conn_type": "vace", "host": url, "password": "key", "extra": {"timeout": TIMEOUT, **extra}}
    connect(json.dumps(fields))
    return bounded(seconds=seconds, megabytes=300)


@pytest.mark.parametrize("verb", ["get", "create", "cancel"])
@pytest.mark.parametrize("name", TRICKLES)
def test_a_trickled_answer_ends_at_the_time_out(
    call: Call,  # noqa: F811 - the fixture
    connect: Callable[[str], None],
    name: str,
    verb: str,
) -> None:
    kind = SubmissionUnknown if verb == "create" else VaceTransportError
    with serving(TRICKLES[name]) as url, within(8, connect, url), pytest.raises(kind):
        call(verb, FOX if verb == "create" else "abc")


def test_a_proxys_trickled_answer_to_a_tunnel_has_sent_nothing(
    call: Call,  # noqa: F811 - the fixture
    connect: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scale_waits(monkeypatch, 1.0, max_create_attempts=1)
    with (
        serving(TRICKLES["headers"]) as proxy,
        within(8, connect, "https://far.example", proxies=proxy),
        pytest.raises(VaceTransportError) as caught,
    ):
        call("create", FOX)
    assert not caught.value.sent


@pytest.mark.parametrize("name", ["the first line", "headers"])
def test_a_files_trickled_head_ends_at_the_time_out(connect: Callable[[str], None], name: str) -> None:
    from airflow_vace.hooks import VaceHook

    with (
        serving(TRICKLES[name]) as url,
        within(8, connect, url),
        pytest.raises(VaceTransportError, match=r"the answer was not whole after [1-4]\.\d s"),
        VaceHook().open_file(f"{url}/a.mp4"),
    ):
        raise AssertionError("a file came")


def test_a_file_may_take_longer_than_the_time_out_of_a_request(connect: Callable[[str], None]) -> None:
    from airflow_vace.hooks import VaceHook

    def send(write: Callable[[bytes], None]) -> None:
        write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            time.sleep(TIMEOUT / 5)
            write(b"x")

    with (
        serving(send) as url,
        within(8, connect, url),
        VaceHook().open_file(f"{url}/a.mp4") as download,
    ):
        assert b"".join(download.chunks) == b"x" * 10


FILE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfilm\r\n"


@pytest.mark.parametrize("name", ["the size of a chunk", "trailers"])
def test_a_file_whose_next_piece_trickles_is_given_up(
    connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from airflow_vace.hooks import VaceHook

    monkeypatch.setattr("airflow_vace.client.transport._PIECE_SECONDS", 0.5)
    servers = {
        "the size of a chunk": trickle(FILE + b"1;x="),
        "trailers": trickle(FILE + b"0\r\n", b"X-T: y\r\n"),
    }
    with (
        serving(servers[name]) as url,
        within(8, connect, url),
        pytest.raises(VaceTransportError, match=r"no piece of it came within 1\.5 s"),
        VaceHook().open_file(f"{url}/a.mp4") as download,
    ):
        assert list(download.chunks) == [b"film"]


def test_requests_leave_no_descriptor_open(connect: Callable[[str], None]) -> None:
    from airflow_vace.hooks import VaceHook

    with serving(once(http(told(), "Connection: close"))) as url, within(20, connect, url):
        hook = VaceHook()
        hook.get_prediction("abc")
        before = psutil.Process().num_fds()
        for _ in range(50):
            hook.get_prediction("abc")
        # The server's own ends of these connections may be closed a moment later.
        assert psutil.Process().num_fds() <= before + 5


# --- memory: large answers, on disk until they are parsed -------------------------------------------


def test_large_answers_at_once_take_no_more_memory_than_one(connect: Callable[[str], None]) -> None:
    from airflow_vace.hooks import VaceHook

    large = http(told(logs="x" * (30 * MEGABYTE)))

    async def look() -> list[str]:
        async with VaceHook() as hook:
            return [found.id for found in await asyncio.gather(*(one(hook) for _ in range(12)))]

    async def one(hook: VaceHook) -> Any:
        found = await hook.aget_prediction("abc")
        return replace(found, logs=None)

    with serving(once(large)) as url, within(60, connect, url, timeout=60):
        assert asyncio.run(look()) == ["abc"] * 12


@pytest.mark.parametrize("end", ["time-out", "cancellation", "break"])
def test_a_large_answer_that_ends_early_gives_its_place_up(
    connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    from airflow_vace.hooks import VaceHook

    monkeypatch.setattr("airflow_vace.client.transport._MAX_LARGE_ANSWERS", 1)
    large = http(told(logs="x" * (4 * MEGABYTE)))
    asked: list[int] = []
    has_begun = threading.Event()

    def send(write: Callable[[bytes], None]) -> None:
        asked.append(1)
        if len(asked) > 1:
            write(large)
            return
        write(large[: 3 * MEGABYTE])
        has_begun.set()
        if end != "break":
            time.sleep(4 * TIMEOUT)

    async def run() -> None:
        async with VaceHook() as hook:
            first = asyncio.create_task(hook.aget_prediction("abc"))
            await asyncio.to_thread(has_begun.wait, 10)
            if end == "cancellation":
                await asyncio.sleep(TIMEOUT / 5)  # so that it holds its place
                first.cancel()
            with pytest.raises((VaceTransportError, asyncio.CancelledError)):
                await first
            assert (await hook.aget_prediction("abc")).id == "abc"

    with serving(send) as url, within(20, connect, url):
        asyncio.run(run())


def test_small_answers_pass_a_large_one_that_waits(connect: Callable[[str], None]) -> None:
    from airflow_vace.hooks import VaceHook

    large = http(told(logs="x" * (4 * MEGABYTE)))
    asked: list[int] = []
    may_end, has_begun = threading.Event(), threading.Event()

    def send(write: Callable[[bytes], None]) -> None:
        asked.append(1)
        if len(asked) > 1:
            write(http(told()))
            return
        write(large[: 3 * MEGABYTE])
        has_begun.set()
        may_end.wait(10)
        write(large[3 * MEGABYTE :])

    async def run() -> None:
        async with VaceHook() as hook:
            first = asyncio.create_task(hook.aget_prediction("abc"))
            await asyncio.to_thread(has_begun.wait, 10)
            assert (await hook.aget_prediction("abc")).id == "abc"
            may_end.set()
            assert (await first).id == "abc"

    with serving(send) as url, within(20, connect, url, timeout=20):
        asyncio.run(run())


@pytest.mark.parametrize("is_same", [False, True], ids=["another connection", "the same connection"])
def test_a_slow_server_delays_no_large_answer_of_another(
    connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, *, is_same: bool
) -> None:
    from airflow_vace.hooks import VaceHook

    large = http(told(logs="x" * (4 * MEGABYTE)))
    has_begun, may_end = threading.Event(), threading.Event()
    asked: list[int] = []

    def slow(write: Callable[[bytes], None]) -> None:
        asked.append(1)
        if len(asked) == 1:
            write(large[: 3 * MEGABYTE])
            has_begun.set()
            may_end.wait(20)
            write(large[3 * MEGABYTE :])
        else:
            write(large)

    def fields(url: str) -> str:
        return json.dumps({"conn_type": "vace", "host": url, "password": "key", "extra": {"timeout": 10}})

    async def run() -> None:
        async with VaceHook("slow") as one, VaceHook() as other:
            first = asyncio.create_task(one.aget_prediction("abc"))
            await asyncio.to_thread(has_begun.wait, 10)
            assert (await (one if is_same else other).aget_prediction("abc")).id == "abc"
            assert not first.done()
            may_end.set()
            assert (await first).id == "abc"

    with serving(slow) as url, serving(once(large)) as quick:
        monkeypatch.setenv("AIRFLOW_CONN_SLOW", fields(url))
        connect(fields(quick))
        asyncio.run(run())
