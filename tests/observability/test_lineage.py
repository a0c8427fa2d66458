"""Lineage for OpenLineage: names of files, and events as the provider sends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG

from airflow_vace.observability.lineage import MAX_PREDICTIONS, Lineage, dataset_of
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.task.triggerer import lost_by_ending

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

PROGRAM = Path(__file__).parents[1] / "support" / "lineage_program.py"


@pytest.mark.parametrize(
    ("address", "namespace", "name"),
    [
        ("s3://aws_default@films/2026/fox.mp4", "s3://films", "2026/fox.mp4"),
        ("s3a://films/fox.mp4", "s3://films", "fox.mp4"),
        ("gs://films/fox.mp4", "gs://films", "fox.mp4"),
        ("gcs://films/fox.mp4", "gs://films", "fox.mp4"),
        ("file:///films/fox.mp4", "file", "/films/fox.mp4"),
        ("file:///films/fox #1?.mp4", "file", "/films/fox #1?.mp4"),
        ("s3://films/fox #1?.mp4", "s3://films", "fox #1?.mp4"),
        ("https://user:pw@example.com/fox.mp4?sig=secret", "https://example.com", "fox.mp4"),
        (
            "abfss://films@store.dfs.core.windows.net/fox.mp4",
            "abfss://films@store.dfs.core.windows.net",
            "fox.mp4",
        ),
        ("abfs://azure_default@films/fox.mp4", "abfs://films", "fox.mp4"),
    ],
)
def test_files_have_the_names_of_openlineage(address: str, namespace: str, name: str) -> None:
    assert dataset_of(address) == (namespace, name)


def test_inputs_are_the_files_of_all_predictions_once() -> None:
    lineage = Lineage()
    film, mask, image = "s3://b/film.mp4", "file:///m.png", "https://example.com/a.png?sig=1"
    values: dict[str, Any] = {"prompt": "s3://not/a file", "src_video": film, "src_ref_images": [image]}
    lineage.add(values, {"id": "1", "files": [{"uri": "file:///1.mp4"}]}, model=None)
    data = "data:video/mp4;base64,AAAA"
    lineage.add({"src_video": film, "src_mask": mask, "src_ref_images": [data]}, {"id": "2"}, model=None)
    lineage.add({"image": "s3://b/other.png", "n": 3}, {"id": "3"}, model="owner/other")
    assert lineage.inputs == [film, image, mask, "s3://b/other.png"]
    assert [file["uri"] for file in lineage.files] == ["file:///1.mp4"]


def test_an_event_of_openlineage_names_files_prediction_seed_and_cost(
    fast_emulator: Emulator, airflow_db: str, tmp_path: Path
) -> None:
    pytest.importorskip("airflow.providers.openlineage", reason="needs apache-airflow-providers-openlineage")
    assert airflow_db
    # The first create is that of the task `failed`.
    outcome = {"status": "failed", "error": "E1001: out of memory"}
    fast_emulator.faults.add(method="POST", outcome=outcome, times=1)
    events = tmp_path / "events"
    prices = {"prunaai/vace-14b": {"per_run": 0.40}}
    environment = os.environ | {
        "AIRFLOW_CONN_VACE_DEFAULT": fast_emulator.connection_to(prices=prices),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
            {"type": "file", "log_file_path": str(events), "append": True}
        ),
        "PYTHONPATH": os.pathsep.join([str(PROGRAM.parents[2]), str(PROGRAM.parents[1])]),
    }
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for path in tmp_path.glob("events*") for line in path.read_text().splitlines()]
    ends = {event["job"]["name"]: event for event in found if event["eventType"] in ("COMPLETE", "FAIL")}
    single = ends["traced.single"]
    assert single["eventType"] == "COMPLETE"
    assert [(file["namespace"], file["name"]) for file in single["inputs"]] == [
        ("https://example.com", "film.mp4")
    ]
    (output,) = single["outputs"]
    saved = tmp_path / "single.mp4"
    assert (output["namespace"], output["name"]) == ("file", str(saved))
    assert output["outputFacets"]["outputStatistics"]["size"] == saved.stat().st_size
    (prediction,) = single["run"]["facets"]["vace"]["predictions"]
    assert prediction["id"] in fast_emulator.world.runs
    assert prediction["seed"] == 7
    assert prediction["model"] == "prunaai/vace-14b"
    assert prediction["cost"] == {"amount": "0.40", "currency": "USD", "basis": "per_run"}
    batch = ends["traced.batch"]
    assert {output["name"] for output in batch["outputs"]} == {
        str(tmp_path / "batch" / f"0000{number}.mp4") for number in range(3)
    }
    assert batch["run"]["facets"]["vace"]["count"] == 3
    failed = ends["traced.failed"]
    assert failed["eventType"] == "FAIL"
    assert failed["outputs"] == []
    assert [each["status"] for each in failed["run"]["facets"]["vace"]["predictions"]] == ["failed"]
    ours = [event["run"]["facets"].get("vace") for event in ends.values()]
    assert "secret" not in json.dumps(ours)


@pytest.mark.parametrize("is_left_out", [False, True], ids=["sent", "left out"])
def test_a_task_whose_events_are_left_out_may_end_in_the_triggerer(
    monkeypatch: pytest.MonkeyPatch, *, is_left_out: bool
) -> None:
    listener = pytest.importorskip(
        "airflow.providers.openlineage.plugins.listener",
        reason="needs apache-airflow-providers-openlineage",
    )
    from airflow.sdk.listener import get_listener_manager

    path = "airflow_vace.operators.VacePredictionOperator"
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__DISABLED_FOR_OPERATORS", path if is_left_out else "")
    manager: Any = get_listener_manager()
    manager.add_listener(listener.get_openlineage_listener())
    try:
        with DAG("left", schedule=None):
            task = VacePredictionOperator(task_id="t", input={"prompt": "a fox"})
        lost = ["listeners of plugins"]
        assert lost_by_ending(task, -1) == ([] if is_left_out else lost)
    finally:
        manager.clear()


def test_parsing_a_dag_imports_no_openlineage() -> None:
    code = "import airflow_vace.operators, sys; print([n for n in sys.modules if 'openlineage.client' in n])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_large_batch_lists_the_first_predictions_only() -> None:
    pytest.importorskip("airflow.providers.openlineage", reason="needs apache-airflow-providers-openlineage")
    lineage = Lineage()
    for number in range(MAX_PREDICTIONS + 50):
        lineage.add({}, {"id": str(number)}, model=None)
    facet = lineage.for_openlineage().run_facets["vace"]
    assert (facet.count, len(facet.predictions)) == (MAX_PREDICTIONS + 50, MAX_PREDICTIONS)
