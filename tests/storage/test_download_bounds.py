"""Limits of downloads in size and time, and resumption without mixing two files."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import VaceError, VaceInputError, VaceTransportError
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.prediction import Prediction
from airflow_vace.storage.destination import Destination
from airflow_vace.storage.save import save_output
from conftest import scale_waits
from support.films import DATA_URL, MP4, box
from support.scripted import Scripted, head
from support.tasks import Run, Store

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from airflow_vace.emulator import Emulator
    from support.scripted import Answer

pytestmark = pytest.mark.usefixtures("hurry")

# Two films of one size that differ in both halves.
HALF = 200_000
ONE, OTHER = (MP4 + box(b"free", letter * (2 * HALF - len(MP4) - 8)) for letter in (b"1", b"2"))


def saved(server: Scripted, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", server.connection)
    prediction = Prediction.from_json(
        {"id": "abc", "status": "succeeded", "output": f"{server.url}/a.mp4", "completed_at": None}
    )
    destination = Destination.of(f"{folder}/")
    assert destination is not None
    return save_output(VaceHook(), prediction, destination)


def whole(content: bytes, **headers: object) -> bytes:
    return head("200 OK", Content_Length=len(content), **headers) + content


def half(content: bytes, **headers: object) -> bytes:
    """The first half of a file, although the whole was announced."""
    return head("200 OK", Content_Length=len(content), **headers) + content[:HALF]


def rest(content: bytes, at: int = HALF, total: object = None, **headers: object) -> Answer:
    size = len(content)
    place = f"bytes {at}-{size - 1}/{size if total is None else total}"
    return (
        head("206 Partial Content", Content_Range=place, Content_Length=size - at, **headers) + content[at:]
    )


def endless(connection: socket.socket) -> None:
    connection.sendall(head("200 OK", Content_Type="video/mp4") + MP4)
    while True:
        connection.sendall(bytes(65536))


# --- size and time ---------------------------------------------------------------------------------


def test_an_output_without_an_end_is_given_up_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Scripted([endless], {"max_output_mb": 2}) as server,
        pytest.raises(VaceInputError, match="larger than the 2 MB") as caught,
    ):
        saved(server, tmp_path, monkeypatch)
    assert caught.value.field == "max_output_mb"
    for words in ("Prediction abc succeeded", "is billed", "lives for an hour", "'max_output_mb'"):
        assert words in str(caught.value)
    assert len(server.seen) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_declared_length_beyond_the_limit_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = threading.Event()

    def large(connection: socket.socket) -> None:
        connection.sendall(head("200 OK", Content_Length=3_000_000_000))
        if connection.recv(1) == b"":
            taken.set()

    with (
        Scripted([large]) as server,
        pytest.raises(VaceInputError, match=r"has 3000\.0 MB, more than the 256 MB"),
    ):
        saved(server, tmp_path, monkeypatch)
    assert taken.wait(60), "the connection was kept open"
    assert len(server.seen) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_limit_holds_for_a_data_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted([b""], extra={"max_output_mb": 0.00001}) as server:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", server.connection)
        destination = Destination.of(f"{tmp_path}/")
        assert destination is not None
        prediction = Prediction.from_json({"id": "abc", "status": "succeeded", "output": f" {DATA_URL}"})
        with pytest.raises(VaceInputError, match="max_output_mb"):
            save_output(VaceHook(), prediction, destination)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_is_raised_lets_the_file_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scripted([whole(ONE)], {"max_output_mb": 0.1}) as server:
        with pytest.raises(VaceInputError, match=r"has 0.4 MB, more than the 0.1 MB"):
            saved(server, tmp_path, monkeypatch)
        server.connection = server.connection.replace('"max_output_mb": 0.1', '"max_output_mb": "0.5"')
        assert saved(server, tmp_path, monkeypatch)[0]["size"] == len(ONE)


def test_a_download_that_never_ends_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 0.01, max_download_seconds=0.3, stalled_download_seconds=30.0)
    with (
        Scripted([endless], {"max_output_mb": 10_000}) as server,
        pytest.raises(VaceTransportError, match="not whole after") as caught,
    ):
        saved(server, tmp_path, monkeypatch)
    assert "is billed" in str(caught.value)
    assert len(server.seen) == 1
    assert list(tmp_path.iterdir()) == []


def test_many_attempts_that_each_bring_more_are_bounded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 0.01, max_download_seconds=0.5, stalled_download_seconds=30.0)
    lock, given = threading.Lock(), [0]

    def a_little(connection: socket.socket) -> None:
        with lock:
            at, given[0] = given[0], given[0] + 1000
        part = ONE[at : at + 1000]
        range_ = f"bytes {at}-{len(ONE) - 1}/{len(ONE)}"
        status = "206 Partial Content" if at else "200 OK"
        connection.sendall(
            head(status, ETag='"1"', Content_Range=range_, Content_Length=len(ONE) - at) + part
        )

    with Scripted([a_little]) as server, pytest.raises(VaceTransportError):
        saved(server, tmp_path, monkeypatch)
    assert len(server.seen) < len(ONE) / 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "how",
    [{"deferrable": False}, {"deferrable": True}, {"deferrable": True, "save_in": "triggerer"}],
    ids=["worker", "deferred", "triggerer"],
)
def test_a_clear_with_a_raised_limit_saves_without_another_bill(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(max_output_mb=0.0001))
    task = Run(
        lambda: VacePredictionOperator(
            task_id="t",
            input={"prompt": "a fox", "frame_num": 5},
            wait_for_completion=True,
            save_to=f"{tmp_path}/clips/",
            **how,
        ),
        Store(),
    )
    with pytest.raises(AirflowFailException, match=r"more than the 0\.0001 MB"):
        task.result()
    assert not list(tmp_path.rglob("*.*"))
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(max_output_mb=10))
    assert task.cleared().result()["files"][0]["size"] > 1000
    assert len(fast_emulator.bill["predictions"]) == 1


# --- mixtures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (half(ONE, ETag='"1"'), rest(OTHER, ETag='"2"')),
        (half(ONE, ETag='"1"'), rest(OTHER)),
        (half(ONE, ETag='"1"'), rest(OTHER, ETag='W/"1"')),
        (half(ONE, ETag='"1"'), rest(OTHER, total=len(OTHER) + 8, ETag='"1"')),
        (half(ONE, ETag='"1"'), rest(OTHER, at=HALF + 1, ETag='"1"')),
        (half(ONE, ETag='"1"'), head("206 Partial Content", ETag='"1"', Content_Length=HALF) + OTHER[HALF:]),
        (half(ONE, ETag='W/"1"'), whole(OTHER, ETag='W/"1"')),
        (half(ONE), whole(OTHER)),
        (half(ONE, ETag='"1"'), whole(OTHER, ETag='"2"')),
        (rest(OTHER, ETag='"1"'), whole(OTHER)),
        (head("206 Partial Content", Content_Length=HALF) + OTHER[:HALF], whole(OTHER)),
    ],
    ids=[
        "another ETag",
        "no ETag",
        "weak ETag",
        "another size",
        "another place",
        "no place",
        "only weak ones",
        "never an ETag",
        "from the start",
        "a part that nobody asked for",
        "a part without a place",
    ],
)
def test_the_rest_of_another_file_is_never_put_behind_a_first_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes, second: bytes
) -> None:
    with Scripted([first, second, whole(OTHER, ETag='"2"')]) as server:
        (file,) = saved(server, tmp_path, monkeypatch)
    assert file["sha256"] == hashlib.sha256(OTHER).hexdigest()
    assert (tmp_path / "abc.mp4").read_bytes() == OTHER


@pytest.mark.parametrize("total", [None, "*"], ids=["size", "no size"])
def test_the_rest_of_the_same_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: object
) -> None:
    with Scripted([half(ONE, ETag='"1"'), rest(ONE, total=total, ETag='"1"')]) as server:
        (file,) = saved(server, tmp_path, monkeypatch)
    assert file["sha256"] == hashlib.sha256(ONE).hexdigest()
    assert f"Range: bytes={HALF}-" in server.seen[1]
    assert len(server.seen) == 2


def test_a_server_with_another_mark_each_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: list[Answer] = [
        answer
        for number in range(20)
        for answer in (half(ONE, ETag=f'"a{number}"'), rest(OTHER, ETag=f'"b{number}"'))
    ]
    with Scripted(marks) as server, pytest.raises(VaceError, match="could not be downloaded"):
        saved(server, tmp_path, monkeypatch)
    assert len(server.seen) <= 2 * Timing().max_download_attempts
    assert list(tmp_path.iterdir()) == []
