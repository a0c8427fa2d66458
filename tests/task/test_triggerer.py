"""Waits that end in the triggerer, without a whole Airflow."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset, BaseOperator, task

from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.triggers import VacePredictionTrigger
from conftest import scale_waits
from support.supervisor import (
    DONE,
    Supervisor,
    created,
    events_of,
    needs_airflow_3_3,
    ti_of,
)
from support.tasks import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator


@pytest.fixture(autouse=True)
def _scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 0.02)


# --- ending ----------------------------------------------------------------------------------------


@needs_airflow_3_3
def test_a_success_ends_the_task_with_its_result_and_links_in_xcom(
    slow_emulator: Emulator, supervisor: Supervisor
) -> None:
    identifier = created()
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE)
    event = events_of(VacePredictionTrigger(identifier, end_from_trigger=True), ti_of())
    assert event.task_instance_state == "success"
    assert supervisor.left["return_value"]["id"] == identifier
    assert supervisor.left["return_value"]["status"] == "succeeded"
    assert "input" not in supervisor.left["return_value"]
    assert supervisor.left["_link_PredictionOutputLink"] == DONE["output"]


@needs_airflow_3_3
def test_without_do_xcom_push_it_ends_without_a_result(
    slow_emulator: Emulator, supervisor: Supervisor
) -> None:
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE)
    trigger = VacePredictionTrigger(created(), end_from_trigger=True, do_xcom_push=False)
    assert events_of(trigger, ti_of()).task_instance_state == "success"
    assert "return_value" not in supervisor.left


@pytest.mark.parametrize(
    "end",
    [
        {"status": "failed", "error": "E1001"},
        {"status": "canceled"},
        {"status": "succeeded", "output": None},
        {"status": "succeeded", "output": None, "data_removed": True},
        {"status": "succeeded", "output": "data:video/mp4;base64,AAAA"},
        {"status": "succeeded", "output": "a text"},
    ],
    ids=str,
)
def test_any_other_end_is_a_workers(slow_emulator: Emulator, supervisor: Supervisor, end: Any) -> None:
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=end)
    event = events_of(VacePredictionTrigger(created(), end_from_trigger=True), ti_of())
    assert event.payload["status"] == end["status"]
    assert supervisor.left == {}


@needs_airflow_3_3
def test_a_result_that_cannot_be_written_goes_to_a_worker(
    slow_emulator: Emulator, supervisor: Supervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor.trouble = RuntimeError("the API server is away")
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE)
    event = events_of(VacePredictionTrigger(created(), end_from_trigger=True), ti_of())
    assert event.payload["status"] == "succeeded"
    assert "the API server is away" in capfd.readouterr().out


def test_an_event_waits_until_the_first_leg_has_surely_ended(
    slow_emulator: Emulator,
) -> None:
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE, times=2)
    until = time.time() + 0.6
    events_of(VacePredictionTrigger(created(), not_before=until), ti_of())
    assert time.time() >= until
    # Where there is no scheduler, as in dag.test(), nobody waits.
    events_of(VacePredictionTrigger(created(), not_before=time.time() + 1e6), None)


def test_a_worker_with_a_clock_that_is_ahead_delays_no_event(
    slow_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VaceHook, "timing", replace(VaceHook.timing, min_deferral_seconds=0.2))
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE, times=None)
    began = time.monotonic()
    events_of(VacePredictionTrigger(created(), not_before=time.time() + 20), ti_of())
    assert time.monotonic() - began < 10


# --- what decides it -------------------------------------------------------------------------------


def deferred(make: Callable[[], BaseOperator]) -> dict[str, Any]:
    """Return the row of the trigger that a task defers to, with a default that it leaves out."""
    run = Run(make)
    run.result()
    return {"end_from_trigger": False} | run.rows[0]


@pytest.fixture
def slow_then_done(slow_emulator: Emulator) -> str:
    identifier = created()
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=1, patch={"status": "processing"})
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    return identifier


def sensor(identifier: Any, **kwargs: Any) -> VacePredictionSensor:
    return VacePredictionSensor(task_id="wait", prediction=identifier, deferrable=True, **kwargs)


@needs_airflow_3_3
def test_nothing_lost_ends_there_by_itself(slow_then_done: str, slow_emulator: Emulator) -> None:
    assert deferred(lambda: sensor(slow_then_done))["end_from_trigger"] is True
    slow_emulator.faults.clear()
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=1, patch={"status": "processing"})
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    row = deferred(
        lambda: VacePredictionOperator(
            task_id="t", input={"prompt": "x"}, wait_for_completion=True, deferrable=True, durable=False
        )
    )
    assert row["end_from_trigger"] is True
    assert row["not_before"] <= time.time() + VaceHook.timing.min_deferral_seconds


@pytest.mark.parametrize(
    "loses",
    [
        {"on_success_callback": print},
        {"outlets": [Asset("x")]},
        {"post_execute": print},
        {"multiple_outputs": True},
    ],
    ids=lambda loses: next(iter(loses)),
)
def test_features_of_a_worker_keep_the_end_on_a_worker(
    slow_then_done: str, slow_emulator: Emulator, loses: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert deferred(lambda: sensor(slow_then_done, **loses))["end_from_trigger"] is False
    slow_emulator.faults.clear()
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=1, patch={"status": "processing"})
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    row = deferred(lambda: sensor(slow_then_done, end_from_trigger=True, **loses))
    assert row["end_from_trigger"] is False
    assert "A worker ends this task" in capfd.readouterr().out


def test_a_task_mapped_over_the_result_keeps_the_end_on_a_worker(slow_then_done: str) -> None:
    with DAG("d", schedule=None):
        wait = sensor(slow_then_done)

        @task
        def use(item: Any) -> None:
            del item

        use.expand(item=wait.output)
    assert deferred(lambda: wait)["end_from_trigger"] is False


def test_end_from_trigger_false_ends_on_a_worker(slow_then_done: str) -> None:
    assert deferred(lambda: sensor(slow_then_done, end_from_trigger=False))["end_from_trigger"] is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"end_from_trigger": "yes"},
        {"end_from_trigger": True, "save_to": "/tmp/x/"},  # noqa: S108
        {"start_from_trigger": True, "deferrable": False},
        {"start_from_trigger": True, "save_to": "/tmp/x/", "save_in": "triggerer"},  # noqa: S108
    ],
    ids=str,
)
def test_dag_parsing_refuses_parameters_that_would_lose_a_video(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="_from_trigger"):
        VacePredictionSensor(task_id="t", prediction="abc", **{"deferrable": True, **wrong})


def test_before_airflow_3_3_a_task_ends_on_a_worker(
    slow_then_done: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr("airflow.sdk.bases.xcom.BaseXCom.aset", raising=False)
    row = deferred(lambda: sensor(slow_then_done, end_from_trigger=True))
    assert row["end_from_trigger"] is False
    assert "Airflow below 3.3" in capfd.readouterr().out
