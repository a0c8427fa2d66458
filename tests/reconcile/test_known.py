"""Airflow's knowledge, read from a scripted REST API."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.core.timing import Timing
from airflow_vace.reconcile.airflow_api import AirflowApi, Login, NotCheckedError
from airflow_vace.reconcile.known import Known, read_known
from support.fake_airflow import FakeAirflow
from support.records import intent, prediction, submitted

if TYPE_CHECKING:
    from collections.abc import Iterator

SINCE = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def airflow() -> Iterator[FakeAirflow]:
    with FakeAirflow() as running:
        yield running


def read(airflow: FakeAirflow, *operators: str) -> Known:
    login = Login(url=airflow.url, token="a-token")
    with AirflowApi(login, Timing().scaled(0.01, max_airflow_seconds=30.0)) as api:
        return read_known(api, SINCE, operators, has_records=api.open())


def payload(identifier: str, **members: Any) -> dict[str, Any]:
    return {**prediction("succeeded").payload(), "id": identifier, **members}


def view(identifier: str, **members: Any) -> dict[str, Any]:
    return {"prediction": payload(identifier), "input": {"prompt": "a fox"}, "error": None, **members}


def places(known: Known) -> dict[str, str]:
    return {identifier: str(place).partition(", run r")[0] for identifier, place in known.places.items()}


def test_a_record_names_task_and_prediction(airflow: FakeAirflow) -> None:
    airflow.add("clip", state={"vace_prediction": submitted().as_json()}, map_index=3)
    known = read(airflow)
    assert places(known) == {"abc": "d.clip[3]"}
    assert known.submissions[0].is_over
    assert known.troubles == []
    assert "Bearer a-token" in airflow.heads[-1]


def test_the_records_of_a_batch_name_the_items(airflow: FakeAirflow) -> None:
    items = {
        "sku-1": {"attempt": 1, "record": submitted().as_json()},
        "sku-2": {"attempt": 1},
        "sku-3": {"attempt": 1, "reused": payload("earlier", reused=True)},
    }
    airflow.add("clips", state={"vace_batch_0000": {"owner": [1, "x"], "items": items}, "other": 5})
    places = {identifier: str(place) for identifier, place in read(airflow).places.items()}
    assert places == {
        "abc": "d.clips, run r, item sku-1",
        "earlier": "d.clips, run r, item sku-3",
    }


def test_a_batch_without_records_is_read_from_its_pages(airflow: FakeAirflow) -> None:
    head: dict[str, Any] = {"batch": {"pages": 2}, "prediction": None}
    pages: list[dict[str, Any]] = [
        {"items": [{"key": f"k{n}", "prediction": payload(f"id{n}")}]} for n in range(2)
    ]
    pages[1]["items"].append({"key": "waiting", "prediction": None})
    xcoms = {f"vace_view_page_{number:04d}": page for number, page in enumerate(pages)}
    airflow.add("clips", xcoms={"vace_view": head, **xcoms})
    assert {i: place.item for i, place in read(airflow).places.items()} == {"id0": "k0", "id1": "k1"}


@pytest.mark.parametrize("version", ["3.1.8", "3.2.0"])
def test_before_airflow_3_3_views_and_results_are_read(version: str) -> None:
    with FakeAirflow(version) as airflow:
        airflow.add("viewed", xcoms={"vace_view": view("one")})
        airflow.add("recorded", xcoms={"vace_prediction": {"prediction": payload("two")}})
        airflow.add("result", xcoms={"return_value": payload("three")})
        airflow.add("other", xcoms={"return_value": "text"})
        airflow.add("text", xcoms={"return_value": '{"id": "four", "status": "succeeded"}'})
        known = read(airflow)
        assert places(known) == {
            "one": "d.viewed",
            "two": "d.recorded",
            "three": "d.result",
            "four": "d.text",
        }
        assert not known.has_records
        assert not [path for path in airflow.seen if path.endswith("state-store")]


def test_a_clip_that_the_checks_rejected_belongs_to_its_task() -> None:
    rejected = [{"id": "bad", "seed": 7, "uri": "file:///bad.mp4", "problems": ["black"]}]
    with FakeAirflow("3.2.0") as airflow:
        airflow.add("clip", xcoms={"vace_view": view("good", prediction=payload("good", rejected=rejected))})
        assert places(read(airflow)) == {"good": "d.clip", "bad": "d.clip"}


def test_a_submitting_task_comes_before_its_sensor(airflow: FakeAirflow) -> None:
    sensor: dict[str, Any] = {"operator": "VacePredictionSensor"}
    airflow.add("wait", xcoms={"vace_view": view("one", input={})}, **sensor)
    airflow.add("alone", xcoms={"vace_view": view("two", input={})}, **sensor)
    airflow.add("again", xcoms={"vace_view": {**view("x"), "prediction": payload("one", reused=True)}})
    airflow.add("submit", xcoms={"vace_view": view("one")})
    assert places(read(airflow)) == {"one": "d.submit", "two": "d.alone"}
    assert not [path for path in airflow.seen if "wait/state-store" in path]


def test_a_subclass_is_found_by_its_view(airflow: FakeAirflow) -> None:
    record = {"vace_prediction": intent().as_json()}
    airflow.add("mine", state=record, xcoms={"vace_view": view("x", prediction=None)}, operator=None)
    airflow.add(
        "busy",
        state=record,
        xcoms={"vace_view": view("x", prediction=None)},
        operator=None,
        ti_state="running",
    )
    found = {one.place.task_id: one.is_over for one in read(airflow).submissions}
    assert found == {"mine": True, "busy": False}


@pytest.mark.parametrize(
    ("state", "is_over"),
    [("failed", True), ("success", True), ("running", False), ("up_for_retry", False), (None, False)],
)
def test_an_intent_is_open_while_an_attempt_may_follow(
    airflow: FakeAirflow, state: str | None, *, is_over: bool
) -> None:
    airflow.add("clip", state={"vace_prediction": intent().as_json()}, ti_state=state)
    (found,) = read(airflow).submissions
    assert found.is_over is is_over


def test_the_passes_of_a_loop_are_read_by_their_regions(airflow: FakeAirflow) -> None:
    for number in range(2):
        airflow.add("clip", map_index=number, region_id=f"pass-{number}", region_index=number)
        airflow.states["clip", number] = {
            "vace_prediction": submitted().as_json() | {"prediction": payload(f"id{number}")}
        }
    assert set(read(airflow).places) == {"id0", "id1"}
    assert [head for head in airflow.heads if "region_id=pass-1" in head]


@pytest.mark.parametrize(
    "state",
    [{"vace_prediction": "text"}, {"vace_batch_0000": [1]}, {"vace_batch_0000": {"items": {"a": None}}}],
)
def test_an_unreadable_record_is_reported(airflow: FakeAirflow, state: dict[str, Any]) -> None:
    airflow.add("clip", state=state)
    (trouble,) = read(airflow).troubles
    assert "d.clip, run r is unreadable" in trouble


def test_an_xcom_in_a_store_is_reported(airflow: FakeAirflow) -> None:
    airflow.add("clip", xcoms={"vace_view": "s3://aws@bucket/xcom/1"})
    airflow.add("wait", xcoms={"vace_view": "s3://aws@bucket/xcom/2"}, operator="VacePredictionSensor")
    (trouble,) = read(airflow).troubles
    assert "vace_view of d.clip, run r is in a store" in trouble


def test_odd_values_of_other_tasks_are_no_trouble(airflow: FakeAirflow) -> None:
    airflow.add("odd", xcoms={"vace_view": {"prediction": {"id": 7}, "batch": {"pages": "many"}}})
    airflow.add("bare", xcoms={"vace_view": [1, 2], "return_value": {"id": None}})
    head = {"prediction": None, "batch": {"pages": 2}}
    pages = {"vace_view_page_0000": {"items": [5, "text", None]}, "vace_view_page_0001": {"items": 7}}
    airflow.add("pages", xcoms={"vace_view": head, **pages})
    assert read(airflow) == Known()


# --- pages -----------------------------------------------------------------------------------------


def test_all_pages_are_read(airflow: FakeAirflow) -> None:
    airflow.page_size = 7
    for number in range(20):
        record = submitted().as_json() | {"prediction": payload(f"id{number}")}
        airflow.add("clip", map_index=number, state={"vace_prediction": record})
    assert len(read(airflow).places) == 20


def test_a_list_that_shifts_between_two_pages_is_read_again(airflow: FakeAirflow) -> None:
    airflow.page_size = 2
    for number in range(4):
        record = submitted().as_json() | {"prediction": payload(f"id{number}")}
        airflow.add("clip", map_index=number, state={"vace_prediction": record})
    # A task that starts again moves to the end, so the next page lacks a row.
    airflow.shifts.append(lambda: airflow.instances.append(airflow.instances.pop(0)))
    assert len(read(airflow).places) == 4


def test_a_list_that_never_rests_is_an_error(airflow: FakeAirflow) -> None:
    airflow.add("clip")
    # Each page shows the same row, as if the other one had moved to the page before.
    page = {"task_instances": airflow.instances, "total_entries": 2}
    airflow.refusals["/dags/~/dagRuns/~/taskInstances"] = [(200, json.dumps(page).encode())]
    with pytest.raises(NotCheckedError, match="at a quieter time"):
        read(airflow)
