"""One budget of creates for all threads, hooks and event loops of a process, against a server."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from airflow_vace.client.creates import creates_of, forget_creates
from airflow_vace.core.requests import Api
from airflow_vace.core.timing import Timing
from airflow_vace.emulator import Emulator
from airflow_vace.emulator.faults import rate_limited
from airflow_vace.emulator.models import FIRST_VERSION
from airflow_vace.hooks import VaceHook
from conftest import scale_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THREADS = 8


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a first create go alone however long a busy machine takes for the answer."""
    scale_waits(monkeypatch, 1.0, max_create_probe_seconds=60.0)


@pytest.fixture
def limited(connect: Callable[[str], None]) -> Iterator[Callable[..., Emulator]]:
    """Return a function that starts a server with a limit of creates."""
    running: list[Emulator] = []

    def start(backend: str, **options: float) -> Emulator:
        server = Emulator(time_scale=100.0, **options).__enter__()  # type: ignore[arg-type]
        running.append(server)
        connect(server.connection_to(backend=backend))
        return server

    yield start
    for server in running:
        server.__exit__(None, None, None)


def create_in_thread(_: int) -> str:
    return VaceHook().fresh().create_prediction({"prompt": "a fox"}, version=FIRST_VERSION).id


def create_in_loop(_: int) -> str:
    async def create() -> str:
        async with VaceHook() as hook:
            return (await hook.acreate_prediction({"prompt": "a fox"}, version=FIRST_VERSION)).id

    return asyncio.run(create())


def created(count: int, create: Callable[[int], str]) -> set[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        return set(pool.map(create, range(count), timeout=120.0))


@pytest.mark.parametrize("create", [create_in_thread, create_in_loop])
@pytest.mark.usefixtures("patient")
def test_a_limit_of_one_create_pauses_those_of_all_threads(
    slow_emulator: Emulator, caplog: pytest.LogCaptureFixture, create: Callable[[int], str]
) -> None:
    slow_emulator.faults.add(rate_limited("seconds", 1.0, method="POST"))
    with caplog.at_level("INFO"):
        assert len(created(THREADS, create)) == THREADS
    moments = [request.time for request in slow_emulator.requests if request.method == "POST"]
    assert len(moments) == THREADS + 1
    assert moments[1] - moments[0] >= 1.0
    assert slow_emulator.bill["charged"] == THREADS


@pytest.mark.usefixtures("patient")
def test_threads_learn_an_unknown_limit(limited: Callable[..., Emulator]) -> None:
    server = limited("gateway", create_limit=600, create_burst=5)
    assert len(created(30, create_in_thread)) == 30
    assert server.throttled <= 12


@pytest.mark.usefixtures("patient")
def test_the_headers_keep_threads_below_a_low_limit(limited: Callable[..., Emulator]) -> None:
    server = limited("replicate", create_limit=60, create_burst=1)
    assert len(created(4, create_in_thread)) == 4
    assert server.throttled == 0


def test_calls_of_one_loop_share_the_budget_too(limited: Callable[..., Emulator]) -> None:
    server = limited("gateway", create_limit=600, create_burst=2)

    async def create() -> list[str]:
        async with VaceHook() as hook:
            calls = [hook.acreate_prediction({"prompt": "a fox"}) for _ in range(10)]
            return [prediction.id for prediction in await asyncio.gather(*calls)]

    assert len(set(asyncio.run(create()))) == 10
    assert server.bill["charged"] == 10


def test_an_account_is_an_origin_and_a_key() -> None:
    def budget_of(host: str, key: str = "a-key-of-one", backend: str | None = None) -> object:
        return creates_of(Api.at(host, key, backend=backend), Timing())

    first = budget_of("https://api.replicate.com")
    assert first is budget_of("https://API.replicate.com/v1")
    assert first is not budget_of("https://api.replicate.com", "a-key-of-another")
    assert first is not budget_of("https://gateway.example")
    assert "a-key-of-one" not in repr(vars(first))


def test_a_new_process_starts_without_the_turns_of_its_parent() -> None:
    api = Api.at("https://api.replicate.com", "a-key-of-one")
    before = creates_of(api, Timing())
    forget_creates()
    assert creates_of(api, Timing()) is not before


def test_a_turn_is_measured_by_a_clock_that_never_goes_back() -> None:
    assert creates_of(Api.at("https://api.replicate.com", "key" * 5), Timing()).clock is time.monotonic
