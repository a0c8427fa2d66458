"""Sync and async calls of the hook by the same name.

`call("get", ...)` is `get_prediction`, or `aget_prediction` in an event loop.

Functions import Airflow when a test runs, because conftest.py sets the environment of Airflow first.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from airflow_vace.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.prediction import Prediction

FOX = {"prompt": "a fox"}


class Call(Protocol):
    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any: ...


def _sync(name: str, *args: Any, **kwargs: Any) -> Any:
    from airflow_vace.hooks import VaceHook

    found = getattr(VaceHook(), f"{name}_prediction" + ("s" if name == "list" else ""))(*args, **kwargs)
    return list(found) if name == "list" else found


def _async(name: str, *args: Any, **kwargs: Any) -> Any:
    from airflow_vace.hooks import VaceHook

    async def run() -> Any:
        async with VaceHook() as hook:
            if name == "list":
                return [p async for p in hook.alist_predictions(*args, **kwargs)]
            return await getattr(hook, f"a{name}_prediction")(*args, **kwargs)

    return asyncio.run(run())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    face: Call = request.param
    return face


@pytest.fixture(params=["gateway", "replicate", "pruna"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(time_scale=0.0002) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(timeout=3))
        yield emulator


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(time_scale=100.0) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(timeout=3))
        yield emulator


def final(call: Call, prediction: Prediction) -> Prediction:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found: Prediction = call("get", prediction)
        if found.status.is_final:
            return found
    raise AssertionError("the prediction did not end within 20 s")
