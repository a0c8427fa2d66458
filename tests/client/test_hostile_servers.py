"""Hostile servers: reading any response takes bounded time and memory, and fails with an error of ours."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.progress import Progress
from support.faces import FOX
from support.hostile import CHUNKED, MEGABYTE, bounded, compressed_zeros, endless, http, once, running
from support.scripted import connection_to, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.faces import Call
    from support.scripted import Write


def slowly(whole: bytes) -> Callable[[Write], None]:
    def send(write: Write) -> None:
        for byte in whole:
            write(bytes([byte]))
            time.sleep(0.05)

    return send


CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
HOSTILE: dict[str, tuple[Callable[[], Any], type[VaceError] | tuple[type[VaceError], ...]]] = {
    "an endless body": (lambda: endless(CHUNKED, CHUNK), VaceProtocolError),
    "endless headers": (
        lambda: endless(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 4000 + b"\r\n"),
        (VaceProtocolError, VaceTransportError),
    ),
    "an endless header": (
        lambda: endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
        (VaceProtocolError, VaceTransportError),
    ),
    "endless interim responses": (
        lambda: endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        (VaceProtocolError, VaceTransportError),
    ),
    "a byte at a time": (lambda: slowly(http(running())), VaceTransportError),
    "a bomb": (
        lambda: once(http(compressed_zeros(512 * MEGABYTE), "Content-Encoding: gzip")),
        VaceProtocolError,
    ),
    "a bomb in a bomb": (
        lambda: once(http(compressed_zeros(512 * MEGABYTE, 2), "Content-Encoding: gzip, gzip")),
        (VaceProtocolError, VaceTransportError),
    ),
    "a bomb with an error status": (
        lambda: once(
            http(compressed_zeros(512 * MEGABYTE), "Content-Encoding: gzip", status="502 Bad Gateway")
        ),
        (VaceProtocolError, VaceAPIError),
    ),
    "a length of 20 digits": (
        lambda: once(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}"),
        (VaceProtocolError, VaceTransportError),
    ),
    "a negative length": (
        lambda: once(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}"),
        (VaceProtocolError, VaceTransportError),
    ),
    "deep lists": (lambda: once(http(b"[" * MEGABYTE)), VaceProtocolError),
    "deep objects": (lambda: once(http(b'{"a":' * MEGABYTE + b"1" + b"}" * MEGABYTE)), VaceProtocolError),
    "deep but complete": (
        lambda: once(http(running(metrics=0).replace(b"0}", b"[" * 900 + b"]" * 900 + b"}"))),
        VaceProtocolError,
    ),
    "a number of a megabyte": (
        lambda: once(http(running(metrics=0).replace(b"0}", b"9" * MEGABYTE + b"}"))),
        VaceProtocolError,
    ),
    "an error of 100 MB": (
        lambda: once(http(b'{"detail": "' + b"x" * (100 * MEGABYTE) + b'"}', status="500 Oops")),
        VaceAPIError,
    ),
    "a hundred thousand invalid fields": (
        lambda: once(
            http(
                json.dumps({"detail": [{"loc": ["a"], "msg": "b"}] * 100_000}).encode(),
                status="422 Unprocessable",
            )
        ),
        VaceAPIError,
    ),
    "no HTTP": (lambda: once(b"\x16\x03\x01" * 1000), (VaceProtocolError, VaceTransportError)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_response_costs_bounded_time_and_memory(
    call: Call,
    name: str,
    connect: Callable[[str], None],
) -> None:
    made, kinds = HOSTILE[name]
    send = made()
    with serving(send) as url:
        # The limit for the size must end these, so the timeout must not.
        is_large = name in ("an endless body", "an error of 100 MB") or "bomb" in name
        connect(connection_to(url, timeout=60 if is_large else 2))
        with bounded(seconds=60, megabytes=700), pytest.raises(kinds) as caught:
            call("get", "abc")
    assert len(str(caught.value)) < 2000


def test_a_response_over_the_size_limit_is_cut_off(call: Call, connect: Callable[[str], None]) -> None:
    with serving(once(http(b"x" * (129 * MEGABYTE)))) as url:
        connect(connection_to(url, timeout=60))
        with pytest.raises(VaceProtocolError, match="larger than 128 MiB"):
            call("get", "abc")


@pytest.mark.long
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
def test_large_fields_are_read_but_not_kept(
    call: Call,
    more: dict[str, Any],
    connect: Callable[[str], None],
) -> None:
    answer = http(running(**more))
    with serving(once(answer)) as url:
        connect(connection_to(url, timeout=60))
        with bounded(seconds=60, megabytes=700):
            prediction = call("get", "abc")
            payload = prediction.payload()
            assert prediction.progress is None or prediction.progress.percent == 50
    assert prediction.id == "abc"
    assert len(json.dumps(payload)) < 200_000


@pytest.mark.parametrize("status", ["102 Processing", "103 Early Hints"])
def test_a_response_after_an_interim_response_is_read(
    call: Call,
    connect: Callable[[str], None],
    status: str,
) -> None:
    interim = f"HTTP/1.1 {status}\r\nLink: </x>\r\n\r\n".encode()
    with serving(once(2 * interim + http(running(id="created", status="starting")))) as url:
        connect(connection_to(url))
        assert call("create", FOX).id == "created"


def test_a_file_after_an_interim_response_is_read(connect: Callable[[str], None]) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with serving(once(interim + http(b"film"))) as url:
        connect(connection_to(url))
        with VaceHook().open_file(f"{url}/a.mp4") as download:
            assert b"".join(download.chunks) == b"film"


def test_a_protocol_switch_fails_and_its_connection_is_not_reused(
    connect: Callable[[str], None],
) -> None:
    requests: list[str] = []
    may_end = threading.Event()

    def send(write: Write) -> None:
        requests.append("request")
        if len(requests) < 3:
            write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
            may_end.wait(60)
            write(http(running(id="another")))  # after the client has given up
        else:
            write(http(running()))

    with serving(send) as url:
        connect(connection_to(url))
        hook = VaceHook()
        with pytest.raises(SubmissionUnknown):
            hook.create_prediction({"prompt": "a fox"})
        with pytest.raises(VaceTransportError), hook.open_file(f"{url}/a.mp4"):
            raise AssertionError("a file came")
        may_end.set()
        assert hook.get_prediction("abc").id == "abc"
    assert len(requests) == 3


def test_files_in_a_response_are_ignored(call: Call, connect: Callable[[str], None]) -> None:
    files = [{"uri": "s3://clips/a.mp4", "size": 1, "sha256": "0" * 64, "content_type": "video/mp4"}]
    answer = http(running(status="succeeded", output="https://files.example/a.mp4", files=files))
    with serving(once(answer)) as url:
        connect(connection_to(url))
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
def test_hostile_logs_are_read_within_two_seconds(logs: str, percent: int | None) -> None:
    with bounded(seconds=2, megabytes=100):
        found = Progress.from_logs(logs, 50)
    assert (found.percent if found else None) == percent
