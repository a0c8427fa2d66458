"""Waits that begin in the triggerer, without a whole Airflow."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset, task_group

from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.triggers import VacePredictionStartTrigger, VacePredictionTrigger
from conftest import scale_waits
from support.supervisor import (
    DONE,
    HERE,
    Supervisor,
    begun,
    created,
    events_of,
    needs_airflow_3_3,
    ti_of,
)

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator


@pytest.fixture(autouse=True)
def _scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 0.02)


@needs_airflow_3_3
@pytest.mark.parametrize("reference", ["an id", "a payload", "an address"])
def test_a_plain_prediction_is_waited_for(
    slow_emulator: Emulator, supervisor: Supervisor, reference: str
) -> None:
    made = VaceHook().create_prediction({"prompt": "a fox"})
    given = {"an id": made.id, "a payload": made.payload(), "an address": made.urls["get"]}[reference]
    with DAG("d", schedule=None) as dag:
        VacePredictionSensor(task_id="wait", prediction=given, **HERE)
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE)
    event = events_of(*begun(dag, "wait"))
    assert event.task_instance_state == "success"
    assert supervisor.left["return_value"]["id"] == made.id
    assert supervisor.left["_link_PredictionPageLink"] == f"{slow_emulator.url}/p/{made.id}"
    assert supervisor.left["_link_PredictionOutputLink"] == DONE["output"]


def over_xcom() -> DAG:
    with DAG("d", schedule=None) as dag:
        submit = VacePredictionOperator(task_id="submit", input={"prompt": "x"})
        several = VacePredictionOperator.partial(task_id="several").expand(input=[{"prompt": "x"}] * 2)
        VacePredictionSensor(task_id="plain", prediction=submit.output, **HERE)
        VacePredictionSensor.partial(task_id="mapped", **HERE).expand(prediction=several.output)
        VacePredictionSensor.partial(task_id="listed", **HERE).expand(prediction=submit.output)
        VacePredictionSensor.partial(task_id="literal", **HERE).expand(prediction=["abc", "{{ x }}"])
        ids = submit.output.map(lambda prediction: prediction["id"])
        VacePredictionSensor.partial(task_id="function", **HERE).expand(prediction=ids)
        VacePredictionSensor.partial(task_id="two", **HERE).expand(prediction=["abc"], vace_conn_id=["c"])
        VacePredictionSensor.partial(task_id="conn", vace_conn_id="{{ x }}", **HERE).expand(prediction=["a"])
        poking = {**HERE, "deferrable": False}
        VacePredictionSensor.partial(task_id="poking", **poking).expand(prediction=["a"])
        VacePredictionSensor.partial(task_id="saving", save_to="/x/", save_in="triggerer", **HERE).expand(
            prediction=["abc"]
        )

        @task_group
        def group(number: int) -> None:
            made = VacePredictionOperator(task_id="made", input={"prompt": str(number)})
            VacePredictionSensor(task_id="wait", prediction=made.output, **HERE)

        @task_group
        def handed(prediction: Any) -> None:
            VacePredictionSensor(task_id="wait", prediction=prediction, **HERE)

        group.expand(number=[1, 2])
        handed.expand(prediction=several.output)
    return dag


@needs_airflow_3_3
@pytest.mark.parametrize(
    ("task_id", "map_index", "left"),
    [
        ("plain", -1, ("submit", -1)),
        ("mapped", 1, ("several", 1)),
        ("group.wait", 1, ("group.made", 1)),
        ("handed.wait", 0, ("several", 0)),
        ("listed", 1, ("submit", -1)),
    ],
)
def test_a_result_of_another_task_is_found(
    slow_emulator: Emulator, supervisor: Supervisor, task_id: str, map_index: int, left: tuple[str, int]
) -> None:
    identifier = created()
    supervisor.counts = {"several": 2, "mapped": 2, "handed.wait": 2}
    supervisor.xcoms[left] = ["other", {"id": identifier}] if task_id == "listed" else {"id": identifier}
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE)
    event = events_of(*begun(over_xcom(), task_id, map_index))
    assert event.task_instance_state == "success"
    assert supervisor.left["return_value"]["id"] == identifier


@needs_airflow_3_3
@pytest.mark.usefixtures("slow_emulator")
@pytest.mark.parametrize(
    ("task_id", "map_index", "why"),
    [
        ("plain", -1, "submit has no result"),
        ("mapped", 0, "some of the mapped tasks before it have no result"),
        ("listed", 0, "mapped over a dict"),
        ("literal", 1, "template"),
        ("literal", 7, "mapped over a list"),
        ("function", 0, "mapped over a SchedulerMapXComArg"),
        ("two", 0, "other arguments"),
        ("conn", 0, "connection is a template"),
        ("poking", 0, "not deferrable"),
        ("saving", 0, "saves in the triggerer"),
    ],
)
def test_an_argument_beyond_reach_needs_a_worker(
    supervisor: Supervisor, task_id: str, map_index: int, why: str
) -> None:
    supervisor.counts = {"several": 3, "mapped": 2}
    if task_id == "listed":
        supervisor.xcoms["submit", -1] = {"id": "abc"}
    event = events_of(*begun(over_xcom(), task_id, map_index))
    assert why in event.payload["execute"]


@needs_airflow_3_3
@pytest.mark.usefixtures("slow_emulator")
@pytest.mark.parametrize("state", ["skipped", "failed", "removed", "running"])
def test_a_missing_mapped_result_needs_a_worker(supervisor: Supervisor, state: str) -> None:
    supervisor.counts = {"several": 3, "mapped": 3}
    supervisor.states = {"several_0": state}
    supervisor.xcoms |= {("several", index): {"id": f"p{index}"} for index in (1, 2)}
    event = events_of(*begun(over_xcom(), "mapped", 1))
    assert "some of the mapped tasks before it have no result" in event.payload["execute"]


@needs_airflow_3_3
def test_instances_that_begin_together_ask_once_for_states(
    slow_emulator: Emulator, supervisor: Supervisor
) -> None:
    supervisor.counts = {"several": 3, "mapped": 3}
    supervisor.xcoms = {("several", index): {"id": created()} for index in range(3)}
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)

    async def first(index: int) -> Any:
        trigger, ti = begun(over_xcom(), "mapped", index)
        trigger.task_instance = ti
        (event,) = [event async for event in trigger.run()]
        return event

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(first, range(3)))

    assert {event.task_instance_state for event in asyncio.run(all_of_them())} == {"success"}
    assert supervisor.asked == 1


@needs_airflow_3_3
def test_trouble_with_the_supervisor_needs_a_worker(supervisor: Supervisor) -> None:
    supervisor.trouble = RuntimeError("away")
    assert events_of(*begun(over_xcom(), "plain")).payload == {"execute": "away"}
    assert "gives a trigger no task" in events_of(VacePredictionStartTrigger(), ti_of()).payload["execute"]
    assert "gives a trigger no task" in events_of(VacePredictionStartTrigger(), None).payload["execute"]


@needs_airflow_3_3
@pytest.mark.parametrize("prediction", ["{{ params.x }}", {"id": "{% if 1 %}"}, [object()], 5.0j])
def test_a_template_begins_on_a_worker_at_once(prediction: Any) -> None:
    with DAG("d", schedule=None):
        assert not VacePredictionSensor(task_id="t", prediction=prediction, **HERE).start_from_trigger
        templated = {"vace_conn_id": "{{ params.conn }}", **HERE}
        assert not VacePredictionSensor(task_id="u", prediction="abc", **templated).start_from_trigger


@needs_airflow_3_3
def test_the_worker_that_is_asked_to_begin_defers_from_there(slow_emulator: Emulator) -> None:
    identifier = created()
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=1, patch={"status": "processing"})
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    from airflow.providers.common.compat.sdk import TaskDeferred

    wait = VacePredictionSensor(task_id="wait", prediction=identifier, **HERE)
    with pytest.raises(TaskDeferred) as caught:
        wait.resume_execution("execute_complete", {"event": {"execute": "why not"}}, {"ti": None})  # type: ignore[typeddict-item]
    assert type(caught.value.trigger) is VacePredictionTrigger


@needs_airflow_3_3
def test_the_timeout_counts_from_the_start_of_the_task_despite_restarts(
    slow_emulator: Emulator, supervisor: Supervisor
) -> None:
    del supervisor
    identifier = created()
    with DAG("d", schedule=None) as dag:
        VacePredictionSensor(task_id="wait", prediction=identifier, **{**HERE, "timeout": 3600})
        mapped = {**HERE, "timeout": timedelta(seconds=3600), "poke_interval": timedelta(seconds=5)}
        VacePredictionSensor.partial(task_id="mapped", **mapped).expand(prediction=[identifier])
        limited = {**HERE, "execution_timeout": timedelta(seconds=60)}
        VacePredictionSensor(task_id="limited", prediction=identifier, **limited)
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch={"status": "failed"}, times=None)
    for task_id, map_index in (("wait", -1), ("mapped", 0)):
        trigger, ti = begun(dag, task_id, map_index)
        assert trigger.timeout_after is not None
        trigger.timeout_after -= timedelta(seconds=1800)  # begun by another triggerer half an hour ago
        event = events_of(trigger, ti)
        assert event.payload["deadline"] == pytest.approx(time.time() + 1800, abs=5)
    trigger, ti = begun(dag, "limited")
    trigger.timeout_after = datetime.now(UTC) + timedelta(seconds=60)
    assert events_of(trigger, ti).payload["deadline"] == pytest.approx(time.time() + 100, abs=5)


@needs_airflow_3_3
def test_a_failure_that_began_there_is_raised_by_a_worker(
    slow_emulator: Emulator, supervisor: Supervisor
) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    identifier = created()
    with DAG("d", schedule=None) as dag:
        wait = VacePredictionSensor(task_id="wait", prediction=identifier, **HERE)
    failed = {"status": "failed", "error": "E1001"}
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=failed, times=None)
    event = events_of(*begun(dag, "wait"))
    assert supervisor.left == {}
    with pytest.raises(AirflowFailException, match="E1001"):
        wait.resume_execution("execute_complete", {"event": event.payload}, {"ti": None})  # type: ignore[typeddict-item]


@needs_airflow_3_3
def test_save_to_that_begins_there_is_saved_by_a_worker(
    slow_emulator: Emulator, supervisor: Supervisor
) -> None:
    with DAG("d", schedule=None) as dag:
        VacePredictionSensor(task_id="wait", prediction=created(), save_to="/x/", **HERE)
        VacePredictionSensor(task_id="announced", prediction=created(), outlets=[Asset("x")], **HERE)
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE, times=None)
    for task_id in ("wait", "announced"):
        assert events_of(*begun(dag, task_id)).payload["status"] == "succeeded"
    assert supervisor.left == {}


@needs_airflow_3_3
def test_a_trigger_that_has_found_nothing_yet_has_nothing_to_cancel() -> None:
    trigger = VacePredictionStartTrigger(cancel_on_kill=True)
    asyncio.run(trigger.on_kill())


def test_before_airflow_3_3_a_warning_names_the_start_on_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("airflow.sdk.bases.xcom.BaseXCom.aset", raising=False)
    with pytest.warns(UserWarning, match=r"needs Airflow 3\.3"):
        wait = VacePredictionSensor(task_id="wait", prediction="abc", **HERE)
    assert not wait.start_from_trigger


@needs_airflow_3_3
@pytest.mark.parametrize("absent", ["", "None", None])
def test_an_absent_field_begins_there_with_its_default(
    slow_emulator: Emulator, supervisor: Supervisor, absent: Any
) -> None:
    identifier = created()
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE, times=None)
    given = {**HERE, "vace_conn_id": absent, "save_to": absent, "label": absent}
    with DAG("d", schedule=None) as dag:
        VacePredictionSensor(task_id="one", prediction=identifier, **given)
        mapped = {**given, "timeout": timedelta(minutes=5), "poke_interval": "5"}
        VacePredictionSensor.partial(task_id="mapped", **mapped).expand(prediction=[identifier])
    for name, map_index, timeout in (("one", -1, 100), ("mapped", 0, 300)):
        trigger, ti = begun(dag, name, map_index)
        event = events_of(trigger, ti)
        assert event.task_instance_state == "success"
        assert supervisor.left["return_value"]["id"] == identifier
        assert (trigger.vace_conn_id, trigger.timeout, trigger.label) == ("vace_default", timeout, None)
        assert trigger.poll_interval == (5 if name == "mapped" else None)
