"""Deadlines and look-ups where the clocks of workers, triggerers and servers differ."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.exceptions import (
    PredictionTimeout,
)
from airflow_vace.hooks import VaceHook
from support.attempts import DONE, MODES, billed, killed_at, set_clock_ahead, statuses, task, waiting
from support.tasks import Store

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def backend() -> str:
    return "replicate"


# --- clocks ----------------------------------------------------------------------------------------


@MODES
def test_a_clock_that_is_ahead_cancels_nothing(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, *, deferrable: bool
) -> None:
    run = waiting(deferrable=deferrable, timeout=600, poll_interval=0.05)
    killed_at(run, "get_prediction")
    set_clock_ahead(monkeypatch, 1200.0)
    server.faults.add(method="GET", path="*/predictions*", times=3, clock=0.001)
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    assert run.result()["status"] == "succeeded"
    assert not any(found.canceled for found in server.world.runs.values())
    assert billed(server) == 1


@MODES
def test_a_clock_that_is_behind_delays_no_deadline(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, *, deferrable: bool
) -> None:
    set_clock_ahead(monkeypatch, -1200.0)
    began = time.monotonic()
    with pytest.raises(AirflowFailException, match="its cancel was accepted"):
        waiting(deferrable=deferrable, timeout=1.0).result()
    assert time.monotonic() - began < 60, "the clocks' difference is twenty minutes"
    assert statuses(server) == ["canceled"]


def test_a_servers_clock_that_jumps_ahead_cancels_nothing(server: Emulator) -> None:
    server.faults.add(method="GET", path="*/predictions*", times=3, clock=1200.0)
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    assert waiting(timeout=600, deferrable=True).result()["status"] == "succeeded"
    assert not any(found.canceled for found in server.world.runs.values())


def test_a_lost_create_is_found_by_a_worker_whose_clock_is_ahead(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock_ahead(monkeypatch, 1200.0)
    server.faults.add(method="POST", path="*/predictions", status=502, accept=True)
    assert task().result()["id"] in server.world.runs
    assert billed(server) == 1


def test_a_lost_create_is_found_though_only_the_list_shows_the_servers_time(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock_ahead(monkeypatch, 1200.0)
    server.faults.add(method="POST", path="*/predictions", reset="after")
    # Resets show no time, and outlast the grace after which a missing create counts as never sent.
    server.faults.add(method="GET", path="*/predictions", times=7, reset="before")
    assert task().result()["id"] in server.world.runs
    assert billed(server) == 1


def test_a_lost_create_of_another_worker_whose_clock_is_ahead_is_found(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = task()
    set_clock_ahead(monkeypatch, 1200.0)
    killed_at(run, "submit", after=True)
    set_clock_ahead(monkeypatch, 0.0)
    assert run.result()["id"] in server.world.runs
    assert billed(server) == 1


def test_an_unreadable_item_of_a_slower_clock_may_be_the_lost_create(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock_ahead(monkeypatch, 1200.0)
    server.faults.add(method="POST", path="*/predictions", status=502, accept=True)
    created = datetime.now(UTC).isoformat()
    odd = {"id": "", "status": "starting", "created_at": created, "input": {}}
    server.faults.add(method="GET", path="*/predictions", times=None, status=200, body={"results": [odd]})
    with pytest.raises(AirflowFailException, match="can't be distinguished"):
        task().result()
    assert billed(server) == 1


@MODES
def test_a_success_without_its_output_yet_is_not_expired_by_one_clock(
    server: Emulator, *, deferrable: bool
) -> None:
    long_ago = {"status": "succeeded", "output": None, "completed_at": "2020-01-01T00:00:00"}
    run = waiting(deferrable=deferrable)
    killed_at(run, "get_prediction")
    server.faults.add(method="GET", path="*/predictions*", times=2, patch=long_ago)
    server.faults.add(
        method="GET", path="*/predictions*", times=None, patch={**DONE, "completed_at": "2020-01-01T00:00:00"}
    )
    assert run.result()["output"] == DONE["output"]
    assert billed(server) == 1


def test_a_deadline_by_one_clock_alone_prolongs_the_wait_once(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = waiting(timeout=2.0)
    killed_at(run, "get_prediction")
    (known,) = server.bill["predictions"]
    clockless = {"Content-Type": "application/json", "Date": "unknown"}
    body = VaceHook().get_prediction(known["id"]).payload()
    server.faults.add(
        method="GET", path="*/predictions*", times=None, status=200, headers=clockless, body=body
    )
    set_clock_ahead(monkeypatch, 1200.0)
    with pytest.raises(AirflowFailException, match="its cancel was accepted") as caught:
        run.result()
    assert isinstance(caught.value.__cause__, PredictionTimeout)
    assert "By this machine's clock alone the deadline" in capfd.readouterr().out
    assert statuses(server) == ["canceled"]


def test_a_deadline_is_kept_by_the_servers_clock(server: Emulator) -> None:
    store = Store()
    server.faults.add(method="POST", clock=-1200)
    task(store).result()
    assert abs(store.record["deadline"] - (time.time() - 1200 + 3600)) < 10
