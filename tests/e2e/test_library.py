"""Read files from S3 and disk, and save to both, in a whole Airflow."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace.emulator import Emulator
from cluster import POSTGRES, Airflow, postgres, until
from support.films import film
from support.s3 import S3

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("moto", "s3fs", "boto3", "asyncpg", "psycopg2")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.stores,
    pytest.mark.skipif("VACE_STORES" not in os.environ, reason="VACE_STORES is not set: takes minutes"),
    pytest.mark.skipif(bool(MISSING), reason=f"dependency groups bring {', '.join(MISSING)}"),
    pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed"),
]

SLOTS = 3
RETENTION_SECONDS = 20
BUSY_SECONDS = 60

DAGS = f"""
import time

from airflow.sdk import DAG, Asset, ObjectStoragePath, get_current_context, task
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor

CLIPS = Asset(name="clips", uri="x-clips://all")
WAITING = {{"wait_for_completion": True, "deferrable": True, "poll_interval": 1}}

with DAG("from_text", schedule=None, params={{"save_to": ""}}):
    submit = VacePredictionOperator(task_id="submit", input={{"prompt": "a fox", "frame_num": 5}})
    VacePredictionSensor(
        task_id="wait",
        prediction=submit.output,
        deferrable=True,
        poke_interval=1,
        save_to="{{{{ params.save_to }}}}",
        outlets=[CLIPS],
    )

with DAG("composed", schedule=None, params={{"files": "", "save_to": ""}}):
    VacePredictionOperator(
        task_id="clip",
        input={{
            "prompt": "a fox",
            "frame_num": 5,
            "src_video": "{{{{ params.files }}}}/video.mp4",
            "src_mask": "{{{{ params.files }}}}/mask.mp4",
            "src_ref_images": ["{{{{ params.files }}}}/one.png", "{{{{ params.files }}}}/two.png"],
        }},
        save_to="{{{{ params.save_to }}}}",
        **WAITING,
    )

with DAG("as_objects", schedule=None):
    VacePredictionOperator(
        task_id="clip",
        input={{
            "prompt": "a fox",
            "frame_num": 5,
            "src_video": ObjectStoragePath("s3://store@clips/in/video.mp4"),
        }},
        save_to=ObjectStoragePath("s3://store@clips/objects"),
        **WAITING,
    )

with DAG("consumer", schedule=[CLIPS]):

    @task
    def consume():
        return [dict(event.extra) for event in get_current_context()["triggering_asset_events"][CLIPS]]

    consume()

for name in ("worker", "triggerer"):
    with DAG(f"late_{{name}}", schedule=None):
        VacePredictionOperator(
            task_id="clip",
            input={{"prompt": "a fox", "frame_num": 5}},
            vace_conn_id="vace_forgetful",
            save_to="s3://store@clips/late/" + name + "/",
            save_in=name,
            **WAITING,
        )

with DAG("busy", schedule=None):

    @task
    def hold(_: int):
        time.sleep({BUSY_SECONDS})

    hold.expand(_=list(range({SLOTS})))
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    # Slow enough for Airflow, which at times fails a task that resumes right after it deferred.
    with Emulator(time_scale=1.0) as running:
        yield running


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Emulator]:
    """An emulator with a short retention of files."""
    with Emulator(time_scale=0.25, retention=RETENTION_SECONDS) as running:
        yield running


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in `input_roots`: tasks may upload its files."""
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def airflow(s3: S3, emulator: Emulator, forgetful: Emulator, local: Path) -> Iterator[Airflow]:
    connections = {
        "store": s3.connection,
        "vace_default": emulator.connection_to(backend="replicate", input_roots=str(local)),
        "vace_forgetful": forgetful.connection,
    }
    with (
        postgres() as database,
        Airflow(database, {"library": DAGS}, connections, AIRFLOW__CORE__PARALLELISM=str(SLOTS)) as running,
    ):
        running.wait_for_dags("from_text", "composed", "as_objects", "consumer", "late_worker", "busy")
        yield running


def show(what: str, value: Any) -> None:
    print(f"\n{what}:\n{json.dumps(value, indent=2)}")


def ended(airflow: Airflow, dag_id: str, run_id: str) -> str:
    return str(until(lambda: (s := airflow.run_state(dag_id, run_id)) in ("success", "failed") and s, 240))


def payload_of(airflow: Airflow, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
    value = airflow.xcom(dag_id, run_id, task_id)
    payload: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
    return payload


def content_of(s3: S3, uri: str) -> bytes:
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://")).read_bytes()
    return s3.read(uri.removeprefix("s3://clips/"))


@pytest.fixture(scope="module")
def files(s3: S3, local: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Input files by name, in the store and on disk."""
    folder = tmp_path_factory.mktemp("films")
    png = b"\x89PNG\r\n\x1a\n" + bytes(8) + (64).to_bytes(4) + (48).to_bytes(4)
    found = {
        "video.mp4": film(folder / "v.mp4", 64, 48).read_bytes(),
        "mask.mp4": film(folder / "m.mp4", 64, 48).read_bytes() + b"\0\0\0\x08free",
        "one.png": png + b"1",
        "two.png": png + b"2",
    }
    for name, content in found.items():
        s3.put(f"in/{name}", content)
        (local / name).write_bytes(content)
    return found


@pytest.fixture(scope="module")
def runs(airflow: Airflow, local: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Final states of simultaneous runs."""
    assert files
    where = {"s3": "s3://store@clips/in", "local": f"file://{local}"}
    out = {"s3": "s3://store@clips/out/", "local": f"{local}/out/"}
    for store in ("s3", "local"):
        airflow.trigger("from_text", store, save_to=out[store])
        save_to = f"s3://store@clips/composed/{store}.mp4"
        airflow.trigger("composed", store, files=where[store], save_to=save_to)
    airflow.trigger("as_objects", "s3")
    all_of = [("from_text", "s3"), ("from_text", "local"), ("composed", "s3"), ("composed", "local")]
    return {
        f"{dag_id} {run_id}": ended(airflow, dag_id, run_id)
        for dag_id, run_id in [*all_of, ("as_objects", "s3")]
    }


@pytest.mark.parametrize("store", ["s3", "local"])
def test_text_to_video_lands_in_a_store_and_another_dag_runs_on_it(
    airflow: Airflow, s3: S3, runs: dict[str, str], store: str
) -> None:
    assert runs[f"from_text {store}"] == "success"
    (file,) = payload_of(airflow, "from_text", store, "wait")["files"]
    assert file["uri"].startswith("s3://clips/out/" if store == "s3" else "file:///")
    assert hashlib.sha256(content_of(s3, file["uri"])).hexdigest() == file["sha256"]
    manifest = json.loads(content_of(s3, file["uri"] + ".json"))
    assert manifest["input"]["prompt"] == "a fox"
    assert manifest["sha256"] == file["sha256"]

    def consumed() -> Any:
        found = airflow.ask("GET", "/dags/consumer/dagRuns?limit=100")["dag_runs"]
        ended_well = [run["dag_run_id"] for run in found if run["state"] == "success"]
        extras = [extra for run_id in ended_well for extra in airflow.xcom("consumer", run_id, "consume")]
        return [extra for extra in extras if extra["uri"] == file["uri"]]

    (extra,) = until(consumed, 120)
    assert extra["sha256"] == file["sha256"]
    assert extra["seed"] == manifest["seed"] >= 0
    show("manifest", manifest)
    show("the event's extra, as the consumer got it", extra)


@pytest.mark.parametrize("store", ["s3", "local"])
def test_video_mask_and_references_come_from_a_store(
    airflow: Airflow, s3: S3, emulator: Emulator, runs: dict[str, str], files: dict[str, bytes], *, store: str
) -> None:
    assert runs[f"composed {store}"] == "success"
    payload = payload_of(airflow, "composed", store, "clip")
    assert payload["files"][0]["uri"] == f"s3://clips/composed/{store}.mp4"
    sent = emulator.world.runs[payload["id"]].input
    urls = [sent["src_video"], sent["src_mask"], *sent["src_ref_images"]]
    # A store signs its URLs; the emulator takes uploads from disk.
    read = _downloaded if store == "s3" else emulator.uploads.content_of
    assert [read(url) for url in urls] == list(files.values())
    assert all(("X-Amz-Signature" in url) == (store == "s3") for url in urls)
    manifest = json.loads(s3.read(f"composed/{store}.mp4.json"))
    log = airflow.log("composed", store, "clip", 1)
    assert "64x48" in log
    fields = airflow.ask("GET", f"/dags/composed/dagRuns/{store}/taskInstances/clip")["rendered_fields"]
    where = "s3://store@clips/in" if store == "s3" else "file://"
    assert fields["input"]["src_video"].startswith(where)
    assert manifest["input"]["src_video"] == fields["input"]["src_video"]
    for url in urls:
        signature = url.rpartition("X-Amz-Signature=")[2] if store == "s3" else "/v1/files"
        assert signature not in log + str(fields) + str(payload) + str(manifest)


def test_path_objects_go_through_a_dag_as_airflow_keeps_it(
    airflow: Airflow, s3: S3, runs: dict[str, str]
) -> None:
    assert runs["as_objects s3"] == "success"
    (file,) = payload_of(airflow, "as_objects", "s3", "clip")["files"]
    assert file["uri"].startswith("s3://clips/objects/as_objects/s3/clip-")
    assert content_of(s3, file["uri"])


def test_the_triggerer_saves_in_time_while_all_worker_slots_are_busy(
    airflow: Airflow, s3: S3, forgetful: Emulator
) -> None:
    names = ("late_worker", "late_triggerer")
    for name in names:
        airflow.trigger(name, "late")
    # Both wait in the triggerer before all slots are taken, so no worker starts either.
    until(lambda: all(airflow.states(name, "late")["clip"] == "deferred" for name in names))
    began = time.time()
    airflow.trigger("busy", "busy")
    until(lambda: [t["state"] for t in airflow.tasks("busy", "busy")].count("running") == SLOTS, 60)
    assert all(run.finished_at(time.time()) is None for run in forgetful.world.runs.values())
    states = {name: ended(airflow, name, "late") for name in names}
    # The worker came after the vendor had deleted the file; the triggerer needed no slot.
    assert states == {"late_worker": "failed", "late_triggerer": "success"}
    (file,) = payload_of(airflow, "late_triggerer", "late", "clip")["files"]
    saved = content_of(s3, file["uri"])
    assert hashlib.sha256(saved).hexdigest() == file["sha256"]
    manifest = json.loads(s3.read(file["uri"].removeprefix("s3://clips/") + ".json"))
    (run,) = [r for r in forgetful.world.runs.values() if r.id == manifest["id"]]
    times = {
        "busy until": BUSY_SECONDS,
        "made": round((run.finished_at(time.time()) or 0) - began, 1),
        "saved": round(_moment(manifest["saved_at"]) - began, 1),
        "tasks ended": round(time.time() - began, 1),
    }
    assert times["saved"] < times["made"] + RETENTION_SECONDS
    assert times["tasks ended"] > BUSY_SECONDS
    assert "its file is gone" in airflow.log("late_worker", "late", "clip", 1)
    assert forgetful.bill["charged"] == 2
    show("seconds after all slots were taken", times)


def _downloaded(url: str) -> bytes:
    return requests.get(url, timeout=60).content


def _moment(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
