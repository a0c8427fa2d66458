"""The package on each dialect of a gateway: videos are found, failures and unknown ids are noticed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.gateways import PRESETS
from airflow_vace.exceptions import VaceAPIError
from airflow_vace.hooks import VaceHook
from airflow_vace.triggers import VacePredictionTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator

FOX = {"prompt": "a fox", "frame_num": 5}


@pytest.fixture(params=PRESETS)
def gateway(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(time_scale=0.005, dialect=request.param) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(timeout=60))
        yield emulator


def test_a_worker_finds_the_end_of_its_prediction(gateway: Emulator) -> None:
    hook = VaceHook()
    done = hook.wait_for_prediction(hook.create_prediction(FOX), timeout=30, poll_interval=0.1)
    assert done.status == "succeeded"
    assert done.output_urls == [f"{gateway.url}/_delivery/{next(iter(gateway.world.runs))}/output.mp4"]


def test_a_triggerer_finds_the_end_of_its_prediction(gateway: Emulator) -> None:
    async def waited() -> Any:
        made = VaceHook().create_prediction(FOX)
        trigger = VacePredictionTrigger(
            prediction=made.payload(), deadline=time.time() + 30, poll_interval=0.1
        )
        return [event.payload async for event in trigger.run()]

    (payload,) = asyncio.run(waited())
    assert payload["status"] == "succeeded"
    assert gateway.bill["charged"] == 1


def test_a_failure_has_its_reason(gateway: Emulator) -> None:
    gateway.faults.add(method="POST", outcome={"status": "failed", "error": "E1001: out of memory"})
    hook = VaceHook()
    done = hook.wait_for_prediction(hook.create_prediction(FOX), timeout=30, poll_interval=0.1)
    assert (done.status, done.error) == ("failed", "E1001: out of memory")


def test_a_cancel_ends_the_prediction(gateway: Emulator) -> None:
    gateway.world.time_scale = 1.0
    hook = VaceHook()
    hook.cancel_prediction(hook.create_prediction(FOX))
    assert [row["status"] for row in gateway.bill["predictions"]] == ["canceled"]


@pytest.mark.usefixtures("gateway")
def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(VaceAPIError) as caught:
        VaceHook().get_prediction("task_nobody0000000000000000")
    assert caught.value.status_code in (400, 404)
