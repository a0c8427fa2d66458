"""Run example DAGs on a real scheduler, triggerer and API server."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from airflow_vace.emulator import Emulator
from support.standalone import Airflow, until, whole_airflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.standalone,
    pytest.mark.skipif(
        "VACE_STANDALONE" not in os.environ, reason="VACE_STANDALONE is not set: takes minutes"
    ),
]


WATCHED_SECONDS = 10.0


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, emulator: Emulator) -> Iterator[Airflow]:
    with whole_airflow(tmp_path_factory.mktemp("airflow"), emulator.connection) as running:
        yield running


def test_a_run_triggered_over_rest_defers_and_succeeds(
    airflow: Airflow, emulator: Emulator, tmp_path: Path
) -> None:
    run_id = airflow.trigger("vace_text_to_video", prompt="a cat", save_to=f"{tmp_path}/")
    until(lambda: airflow.tasks("vace_text_to_video", run_id)["wait"] == "deferred")
    rows = airflow.trigger_rows()
    until(lambda: set(airflow.tasks("vace_text_to_video", run_id).values()) == {"success"})
    ((classpath, kwargs),) = rows
    assert classpath == "airflow_vace.triggers.VacePredictionTrigger"
    assert kwargs["deadline"] > time.time()
    payload = airflow.xcom("vace_text_to_video", run_id, "wait")
    assert payload["status"] == "succeeded"
    assert kwargs["prediction"]["id"] == payload["id"]
    (video,) = tmp_path.rglob("*.mp4")
    assert video.as_uri() == payload["files"][0]["uri"]
    assert video.name == f"wait-{payload['id']}.mp4"
    path = f"/dags/vace_text_to_video/dagRuns/{run_id}/taskInstances/wait/links"
    assert airflow.ask("GET", path)["extra_links"]["Prediction"] == payload["urls"]["web"]
    assert emulator.api_key not in json.dumps([rows, payload])
    assert emulator.bill["charged"] == 1


def test_a_rejected_video_is_made_again_and_an_approved_one_published(
    airflow: Airflow, emulator: Emulator, tmp_path: Path
) -> None:
    before = emulator.bill["charged"]

    def answered(run_id: str, option: str) -> dict[str, str]:
        tis = f"/dags/vace_review/dagRuns/{run_id}/taskInstances"
        until(lambda: airflow.tasks("vace_review", run_id)["review"] in ("awaiting_input", "deferred"))
        detail = airflow.ask("GET", f"{tis}/review/-1/hitlDetails")
        assert "/plugin/vace_videos" in detail["body"]
        assert str(tmp_path) in detail["body"]
        # Airflow fails a task that is answered the moment it asks; a person takes time to see the video.
        asked = time.monotonic()
        until(lambda: time.monotonic() - asked > WATCHED_SECONDS)
        # No worker is held: all other tasks have ended, or wait for the answer.
        assert "running" not in airflow.tasks("vace_review", run_id).values()
        airflow.ask("PATCH", f"{tis}/review/-1/hitlDetails", {"chosen_options": [option], "params_input": {}})
        ended = ("success", "skipped")
        until(lambda: all(state in ended for state in airflow.tasks("vace_review", run_id).values()))
        return airflow.tasks("vace_review", run_id)

    first = airflow.trigger("vace_review", prompt="a fox", seed=40, save_to=f"{tmp_path}/")
    tasks = answered(first, "Reject")
    assert (tasks["publish"], tasks["again"]) == ("skipped", "success")
    runs = airflow.ask("GET", "/dags/vace_review/dagRuns")["dag_runs"]
    (second,) = [run["dag_run_id"] for run in runs if run["dag_run_id"] != first]
    tasks = answered(second, "Approve")
    assert (tasks["publish"], tasks["again"]) == ("success", "skipped")
    assert emulator.bill["charged"] == before + 2
    seeds = [run.input["seed"] for run in emulator.world.runs.values() if run.input["prompt"] == "a fox"]
    assert sorted(seeds) == [40, 41]
    assert len(list(tmp_path.rglob("clip-*.mp4"))) == 2
