"""A missing connection ends a wait after a while, on a worker and in a triggerer."""

from __future__ import annotations

import os
import time
from threading import Timer
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import GiveUp, PollAgain, Wait
from airflow_vace.exceptions import VaceConnectionMissing, VaceTransportError
from airflow_vace.hooks import VaceHook
from airflow_vace.prediction import Prediction
from airflow_vace.sensors import VacePredictionSensor
from conftest import scale_waits
from support.polled import event_of, run
from support.tasks import Run

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

SAID = (
    "connection 'no_such' does not exist: correct vace_conn_id, or add the connection:"
    " airflow connections add no_such --conn-type vace --conn-host https://HOST --conn-port 443"
)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection be missing for a moment only."""
    scale_waits(monkeypatch, 0.01)


def waited(errors: list[tuple[float, Exception]]) -> list[Any]:
    wait = Wait(prediction=Prediction.from_json({"id": "abc", "status": "starting"}))
    return [wait.failed(error, at) for at, error in errors]  # type: ignore[arg-type]


def test_a_wait_gives_up_after_a_minute_and_five_looks() -> None:
    missing = VaceConnectionMissing("no_such")
    assert Timing().missing_connection_grace_seconds == 60.0
    assert Timing().min_missing_connections == 5
    *before, last = waited([(at, missing) for at in (0.0, 15.0, 30.0, 45.0, 60.0)])
    assert all(isinstance(decision, PollAgain) for decision in before)
    assert isinstance(last, GiveUp)
    assert SAID in str(last.error)
    early = waited([(at, missing) for at in (0.0, 1.0, 2.0, 3.0, 4.0, 59.0)])
    few = waited([(at, missing) for at in (0.0, 100.0, 200.0, 300.0)])
    assert all(isinstance(decision, PollAgain) for decision in early + few)


def test_other_trouble_in_between_begins_the_grace_again() -> None:
    missing = VaceConnectionMissing("no_such")
    other = VaceTransportError("the secrets back-end is away", sent=False)
    found = waited([(0.0, missing), (20.0, other), *((at, missing) for at in (40.0, 50.0, 60.0, 70.0, 80.0))])
    assert all(isinstance(decision, PollAgain) for decision in found)


@pytest.mark.usefixtures("brief")
def test_a_triggers_wait_without_a_connection_ends() -> None:
    began = time.monotonic()
    event = run(event_of("abc", vace_conn_id="no_such", poll_interval=0.05))
    assert time.monotonic() - began < 20
    assert event["status"] == "unknown"


@pytest.mark.usefixtures("brief")
def test_a_hooks_wait_without_a_connection_ends() -> None:
    with pytest.raises(VaceConnectionMissing, match=SAID) as caught:
        VaceHook("no_such").wait_for_prediction("abc", timeout=None, poll_interval=0.05)
    assert caught.value.conn_id == "no_such"
    assert not caught.value.sent


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])
def test_a_sensor_without_a_connection_ends(mode: str) -> None:
    kwargs: dict[str, Any] = {"task_id": "w", "prediction": "abc", "vace_conn_id": "no_such", "timeout": 60}
    if mode in ("poke", "reschedule"):
        kwargs |= {"mode": mode, "deferrable": False, "poke_interval": 0.1}
    else:
        kwargs["deferrable"] = True
    task = Run(lambda: VacePredictionSensor(**kwargs))
    began = time.monotonic()
    with pytest.raises(VaceConnectionMissing, match=SAID):
        task.result()
    assert time.monotonic() - began < 20


@pytest.mark.usefixtures("brief")
def test_a_hook_waits_for_a_connection_that_comes_back(
    fast_emulator: Emulator,
) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox"})
    connection = os.environ.pop("AIRFLOW_CONN_VACE_DEFAULT")
    back = Timer(0.15, os.environ.__setitem__, ("AIRFLOW_CONN_VACE_DEFAULT", connection))
    back.start()
    done = VaceHook().wait_for_prediction(created, timeout=20, poll_interval=0.05)
    back.join()
    assert done.status == "succeeded"
    assert fast_emulator.bill["charged"] == 1
