"""The tab of a task: its own prediction with all that other tasks know, or the videos of the tasks before."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from airflow_vace.input_fields import SPEED_MODES
from support.runs import created, put_xcom, set_state, stored
from support.site import DAG_ID, DAGS, Site, saved

TEXT = "vace_text_to_video"


@dataclass
class Run:
    """One run in the database of the site."""

    site: Site
    dag_id: str
    run_id: str

    def tab(self, task_id: str, map_index: int = -1) -> list[dict[str, Any]]:
        path = f"/runs/{self.dag_id}/{quote(self.run_id, safe='')}/videos"
        answer = self.site.get(f"{path}?task_id={task_id}&map_index={map_index}")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found


@pytest.fixture(scope="module")
def text(site: Site) -> Run:
    """Make a run with the XComs of a submitting task and its sensor, and with a task behind both."""
    stored(runpy.run_path(str(DAGS / f"{TEXT}.py"))[TEXT]())
    run_id = created(TEXT)
    done = {**payload(site), "cost": {"amount": "0.40", "currency": "USD", "basis": "per_run"}}
    started = {**done, "status": "starting", "completed_at": None, "output": None, "files": []}
    values = {
        "prompt": "A lighthouse",
        "size": "480*832",
        "speed_mode": SPEED_MODES["lightly"],
    }
    view = {"vace_conn_id": "vace_default", "error": None}
    submit, wait = (TEXT, run_id, "submit"), (TEXT, run_id, "wait")
    put_xcom(submit, "vace_view", {**view, "prediction": started, "input": values})
    put_xcom(submit, "return_value", started)
    put_xcom(wait, "vace_view", {**view, "prediction": done, "input": {}})
    put_xcom(wait, "return_value", done)
    for place in (submit, wait):
        set_state(place, "success")
    return Run(site, TEXT, run_id)


def payload(site: Site) -> dict[str, Any]:
    """Return the payload of a clip that was saved."""
    index = saved(site)["map_index"]
    found: dict[str, Any] = site.value("return_value", map_index=index)
    return found


def test_submit_task_and_sensor_show_one_merged_card(text: Run) -> None:
    for task_id in ("submit", "wait"):
        (card,) = text.tab(task_id)
        assert (card["task_id"], card["status"]) == ("wait", "succeeded")
        assert card["input"]["prompt"] == "A lighthouse"
        assert card["input"]["speed_mode"] == "lightly"
        assert card["videos"][0]["where"] == "saved"
        assert card["is_upstream"] is False


def test_another_task_shows_the_videos_of_the_tasks_before_it(text: Run) -> None:
    (card,) = text.tab("use")
    assert (card["task_id"], card["is_upstream"]) == ("wait", True)
    assert card["videos"]
    assert text.tab("nobody") == []


def test_a_task_before_the_videos_has_none(site: Site) -> None:
    run = Run(site, DAG_ID, site.run_id)
    assert run.tab("clips_wanted") == []


def test_a_task_with_a_map_index_shows_its_own_clip(site: Site) -> None:
    run = Run(site, DAG_ID, site.run_id)
    assert [card["map_index"] for card in run.tab("clip", 2)] == [2]


def test_a_task_behind_mapped_clips_shows_all_or_those_of_its_index(site: Site) -> None:
    run = Run(site, DAG_ID, site.run_id)
    assert [card["map_index"] for card in run.tab("summary")] == [0, 1, 2]
    assert [card["map_index"] for card in run.tab("summary", 1)] == [1]


def test_a_run_without_videos_has_none_before_any_task(site: Site, text: Run) -> None:
    assert Run(site, TEXT, created(text.dag_id)).tab("use") == []
