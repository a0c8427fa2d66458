"""Odd servers: a worker and the triggerer come to the same outcome."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from airflow_vace.client import exchange
from airflow_vace.client.client import AsyncVaceClient, VaceClient
from airflow_vace.core import calls
from airflow_vace.core.retry import failure_of
from airflow_vace.exceptions import VaceError
from support.faces import FOX
from support.odd_servers import ODD_SERVERS, BrokenKeepAlive, OddServer, early, settings_of, timeout_for

if TYPE_CHECKING:
    from airflow_vace.client.settings import Settings
    from airflow_vace.core.steps import Call
    from airflow_vace.prediction import Prediction


class Outcome(NamedTuple):
    """The result of a call as a user sees it; the reason of a transport is left out of the message."""

    failure: str
    kind: str = ""
    status_code: int | None = None
    retry_after: float | None = None
    message: str = ""


def outcome_of(error: VaceError) -> Outcome:
    message = re.sub(r" \([A-Z]\w+(: .*)?\)$", "", str(error), flags=re.DOTALL)
    message = re.sub(r"127.0.0.1:\d+", "HOST", message)
    message = re.sub(r"after [\d.]+ s", "in time", message)
    status, pause = getattr(error, "status_code", None), getattr(error, "retry_after", None)
    return Outcome(failure_of(error).name, type(error).__name__, status, pause, message)


def blocking(call: Call[Prediction], settings: Settings) -> Outcome:
    try:
        prediction = VaceClient(lambda: settings).run(call)
    except VaceError as error:
        return outcome_of(error)
    return Outcome("READ", prediction.id, message=prediction.status)


def asynchronous(call: Call[Prediction], settings: Settings) -> Outcome:
    async def connect() -> Settings:
        return settings

    try:
        prediction = asyncio.run(AsyncVaceClient(connect).run(call))
    except VaceError as error:
        return outcome_of(error)
    return Outcome("READ", prediction.id, message=prediction.status)


def calls_of(settings: Settings, prompt: str = FOX["prompt"]) -> dict[str, Call[Prediction]]:
    creation = calls.Creation(values={"prompt": prompt})
    return {
        "create": calls.create(creation, timing=settings.timing, now=time.time),
        "get": calls.get("abc"),
    }


def both(verb: str, url: str, **extra: object) -> tuple[Outcome, Outcome]:
    """Return the outcomes in a worker and in a triggerer."""
    settings = settings_of(url, **extra)
    worker = blocking(calls_of(settings)[verb], settings)
    return worker, asynchronous(calls_of(settings)[verb], settings)


# Servers whose answer to a poll is not a prediction, by the failure; all others are read.
UNREAD = {
    "NO_ANSWER": [
        *("a header of 66,000 bytes", "100 headers", "150 headers", "a reason of 70 kB"),
        *("a length that is too long", "two different lengths", "two different lengths in a line"),
        *("no length, reset at the end", "no end of chunks", "a cut chunk", "a cut chunk size"),
        *("a reset within a chunk", "a chunk size in words", "an empty chunk size", "chunked in name only"),
        *("a negative chunk size", "a chunk longer than its size", "an endless chunk size"),
        *("HTTP/2", "ICY", "lower-case http", "no version", "a status of two digits"),
        *("a status of four digits", "a status in words", "100 alone", "103 cut off", "101"),
        *("101 without upgrade", "a byte order mark first", "a head that ends in a status"),
        *("a 404 that is reset in a header", "no answer", "a reset", "gzip, damaged later"),
        *("silence", "silence after the head", "silence within the body", "silence within a chunk"),
    ],
    "TRUNCATED": [
        *("a length that is too short", "a length that is too short, kept open", "a length of zero"),
        *("204", "204 with a body", "205", "bare carriage returns", "no blank line after the headers"),
        *(
            "a head that ends in a name",
            "gzip, cut",
            "gzip, empty",
            "an unknown encoding and deflate",
        ),
    ],
    "UNREADABLE": ["transfer encoding gzip, chunked", "a page", "a list"],
    "SERVER_TROUBLE": ["status 600", "status 999", "511", "503 with a date"],
    "KEY_REFUSED": ["401 with a challenge", "401 with an odd challenge"],
    "NO_MONEY": ["gzip of a refusal", "gzip of a refusal, not compressed"],
    "RATE_LIMITED": ["429 with two times", "429 with two different times"],
    "SEE_OTHER": ["303 to the same host", "303 to another host"],
    "UNSENT": ["a TLS alert"],
    "REFUSED": ["400", "413"],
    "PROXY_REFUSAL": [
        *(
            "a 404 that ends in a header",
            "304",
            "304 with a length",
            "407",
            "421",
            "431",
            "300 with choices",
        ),
        *(
            f"{status} to {place} host"
            for status in (301, 302, 307, 308)
            for place in ("the same", "another")
        ),
        *("302 without Location", "302 to UTF-8", "302 to Latin-1", "302 to an odd place"),
        "302 to another protocol",
    ],
}
EXPECTED = {name: failure for failure, names in UNREAD.items() for name in names}
# A create with one of these outcomes may be billed.
UNCLEAR = ("NO_ANSWER", "TRUNCATED", "SERVER_TROUBLE", "SEE_OTHER")


def test_each_expected_outcome_belongs_to_a_server() -> None:
    assert set(EXPECTED) <= set(ODD_SERVERS)


@pytest.mark.parametrize("name", ODD_SERVERS)
def test_a_poll_has_the_same_outcome_in_worker_and_triggerer(name: str) -> None:
    with OddServer(ODD_SERVERS[name]) as url:
        worker, triggerer = both("get", url, timeout=timeout_for(name))
    assert worker.failure == EXPECTED.get(name, "READ")
    assert triggerer == worker


@pytest.mark.parametrize("name", ODD_SERVERS)
def test_a_create_is_equally_certain_in_worker_and_triggerer(name: str) -> None:
    server = OddServer(ODD_SERVERS[name])
    with server as url:
        worker, triggerer = both("create", url, timeout=timeout_for(name))
    expected = EXPECTED.get(name, "READ")
    assert worker.failure == ("SUBMISSION_UNKNOWN" if expected in UNCLEAR else expected)
    assert triggerer == worker
    if worker.failure == "SUBMISSION_UNKNOWN":
        assert server.requests == 2


@pytest.mark.parametrize("name", ["silence", "silence after the head"])
def test_a_late_watchdog_changes_no_message(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine the socket's own time-out may come before the watchdog's thread gets its turn.
    monkeypatch.setattr(exchange._watchdog, "watch", lambda *_: None)
    with OddServer(ODD_SERVERS[name]) as url:
        worker, triggerer = both("get", url, timeout=2)
    assert "the response was incomplete in time (limit: 2 s)" in worker.message
    assert triggerer == worker


@pytest.mark.parametrize("verb", ["create", "get"])
@pytest.mark.parametrize("is_read", [True, False])
def test_a_refusal_before_the_end_of_a_large_body_is_read(verb: str, *, is_read: bool) -> None:
    with OddServer(early(is_read=is_read), is_whole=False) as url:
        settings = settings_of(url)
        prompt = "x" * 3_000_000
        worker = blocking(calls_of(settings, prompt)[verb], settings)
        triggerer = asynchronous(calls_of(settings, prompt)[verb], settings)
    assert triggerer == worker
    if is_read:
        assert (worker.status_code, worker.failure) == (413, "REFUSED")


@pytest.mark.parametrize("verb", ["create", "get"])
@pytest.mark.parametrize("way", ["before", "at"])
def test_a_connection_that_is_closed_between_two_requests(verb: str, way: str) -> None:
    outcomes = []
    for run in (twice_blocking, twice_asynchronous):
        with BrokenKeepAlive(way) as url:
            outcomes.append(run(verb, settings_of(url)))
    worker, triggerer = outcomes
    assert triggerer == worker
    assert worker[0].failure == "READ"
    # A connection known as closed is replaced; otherwise the second request may have arrived.
    unclear = "NO_ANSWER" if verb == "get" else "SUBMISSION_UNKNOWN"
    assert worker[1].failure == ("READ" if way == "before" else unclear)


def twice_blocking(verb: str, settings: Settings) -> list[Outcome]:
    client = VaceClient(lambda: settings)
    outcomes = []
    for _ in range(2):
        try:
            prediction = client.run(calls_of(settings)[verb])
            outcomes.append(Outcome("READ", prediction.id))
        except VaceError as error:
            outcomes.append(outcome_of(error))
        BrokenKeepAlive.settle()
    return outcomes


def twice_asynchronous(verb: str, settings: Settings) -> list[Outcome]:
    async def connect() -> Settings:
        return settings

    async def run() -> list[Outcome]:
        outcomes = []
        async with AsyncVaceClient(connect) as client:
            for _ in range(2):
                try:
                    prediction = await client.run(calls_of(settings)[verb])
                    outcomes.append(Outcome("READ", prediction.id))
                except VaceError as error:
                    outcomes.append(outcome_of(error))
                await asyncio.to_thread(BrokenKeepAlive.settle)
        return outcomes

    return asyncio.run(run())
