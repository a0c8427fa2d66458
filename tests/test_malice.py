"""Servers that mean harm: whatever they send, time and memory stay bounded and the error is one of ours."""

from __future__ import annotations

import gzip
import json
import socketserver
import threading
import time
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from faces import call  # noqa: F401 - a fixture

from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.prediction import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faces import Call

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


def test_an_interim_answer_to_a_create_is_no_refusal_and_reaches_nobody_else(
    connect: Callable[[str], None],
) -> None:
    from airflow_vace.hooks import VaceHook

    asked: list[str] = []

    def send(write: Callable[[bytes], None]) -> None:
        asked.append("create" if not asked else "look")
        if asked == ["create"]:
            write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            time.sleep(0.3)  # so that the answer comes when nobody waits for it any more
            write(http(told(id="created", status="starting")))
        else:
            write(http(told()))

    with serving(send) as url:
        connect(json.dumps({"conn_type": "vace", "host": url, "password": "key"}))
        hook = VaceHook()
        with pytest.raises(SubmissionUnknown):
            hook.create_prediction({"prompt": "a fox"})
        assert hook.get_prediction("abc").id == "abc"
    assert asked == ["create", "look"]


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
