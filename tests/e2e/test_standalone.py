"""Run example DAGs on a real scheduler, triggerer and API server."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from airflow_vace.emulator import Emulator
from support.receivers import Collector, StatsD, sums
from support.standalone import DAGS, Airflow, until, whole_airflow

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
REGENERATING = """
from airflow.sdk import DAG

from airflow_vace.operators import VacePredictionOperator

with DAG("regenerating", schedule=None, params={"save_to": ""}) as dag:
    VacePredictionOperator(
        task_id="clip",
        input={"prompt": "a heron", "seed": 5},
        wait_for_completion=True,
        deferrable=True,
        checks="regenerate",
        save_to="{{ params.save_to }}heron.mp4",
    )
"""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def statsd() -> StatsD:
    return StatsD()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, emulator: Emulator, statsd: StatsD, collector: Collector
) -> Iterator[Airflow]:
    receivers = {
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
        "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        "AIRFLOW__TRACES__OTEL_ON": "True",
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.address}/v1/traces",
    }
    home = tmp_path_factory.mktemp("airflow")
    shutil.copytree(DAGS, home / "dags")
    (home / "dags/regenerating.py").write_text(REGENERATING)
    with whole_airflow(home, emulator.connection, **receivers) as running:
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


def test_workers_and_triggerer_send_metrics_and_spans(
    airflow: Airflow, statsd: StatsD, collector: Collector, tmp_path: Path
) -> None:
    before = sums(statsd.seen())
    run_id = airflow.trigger("vace_text_to_video", prompt="a secret fox", save_to=f"{tmp_path}/")
    until(lambda: set(airflow.tasks("vace_text_to_video", run_id).values()) == {"success"})
    payload = airflow.xcom("vace_text_to_video", run_id, "wait")

    def names() -> set[tuple[str, str]]:
        by_id = {span.span_id: span for span in collector.spans}
        mine = {span.trace_id for span in collector.spans if payload["id"] in str(span)}
        return {
            (by_id[span.parent_span_id].name, span.name)
            for span in collector.spans
            if span.trace_id in mine and span.name.startswith("vace.") and span.parent_span_id in by_id
        }

    wanted = {("worker.submit", "vace.submit"), ("trigger.wait", "vace.wait"), ("worker.wait", "vace.save")}
    until(lambda: names() >= wanted)
    after = sums(statsd.seen())
    assert after["vace.submitted"] - before.get("vace.submitted", 0) == 1
    assert after["vace.ended[succeeded]"] - before.get("vace.ended[succeeded]", 0) == 1
    saved = after["vace.saved_bytes"] - before.get("vace.saved_bytes", 0)
    assert saved == payload["files"][0]["size"]
    levels = [line for line in statsd.seen() if line["name"] == "vace.open_waits"]
    assert {line["tags"]["conn_id"] for line in levels} == {"vace_default"}
    assert levels[-1]["value"] == 0
    ours = [span for span in collector.spans if span.name.startswith("vace.")]
    assert "secret" not in f"{ours} {statsd.seen()}"


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


def test_a_black_video_is_kept_and_another_one_returned(
    airflow: Airflow, emulator: Emulator, tmp_path: Path
) -> None:
    before = emulator.bill["charged"]
    emulator.faults.add("black_video", input={"prompt": "a heron"})
    run_id = airflow.trigger("regenerating", save_to=f"{tmp_path}/")
    until(lambda: airflow.tasks("regenerating", run_id)["clip"] == "success")
    payload = airflow.xcom("regenerating", run_id, "clip")
    (rejected,) = payload["rejected"]
    assert "black" in rejected["problems"][0]
    assert emulator.bill["charged"] == before + 2
    assert payload["files"][0]["uri"] == (tmp_path / "heron.mp4").as_uri()
    assert payload["files"][0]["facts"]["problems"] == []
    assert rejected["uri"] == (tmp_path / f"heron-{rejected['id']}.mp4").as_uri()
    assert (tmp_path / f"heron-{rejected['id']}.mp4").stat().st_size > 0
    assert rejected["seed"] == 5 != payload["seed"]


def test_takes_end_with_a_good_one(airflow: Airflow, emulator: Emulator, tmp_path: Path) -> None:
    before = emulator.bill["charged"]
    run_id = airflow.trigger("vace_until_good", save_to=f"{tmp_path}/", prompt="a grey heron")
    until(lambda: airflow.tasks("vace_until_good", run_id)["publish"] in ("success", "failed"))
    states = airflow.tasks("vace_until_good", run_id)
    taken = [name for name, state in states.items() if name.startswith("clip_") and state == "success"]
    assert emulator.bill["charged"] == before + len(taken)
    assert len(list(tmp_path.rglob("*.mp4"))) == len(taken)
    assert airflow.xcom("vace_until_good", run_id, taken[-1])["files"][0]["facts"]["frames"] == 81
