"""The example DAGs on a real Airflow, and a search for the key in logs, database and files."""

from __future__ import annotations

import base64
import itertools
import json
import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from airflow_vace.video import inspect
from airflow_vace.video.reading import pictures
from support import clips
from support.films import film
from support.runs import content_of

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

    from airflow_vace.emulator import Emulator

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"

pytestmark = pytest.mark.usefixtures("airflow_db")


def run(dag_id: str, **conf: Any) -> DagRun:
    """Run a DAG to the end, in this process."""
    (path,) = [path for path in DAGS.glob("*.py") if f"def {dag_id}()" in path.read_text()]
    dag = runpy.run_path(str(path))[dag_id]()
    found: DagRun = dag.test(run_conf=conf)
    return found


def states(found: DagRun) -> dict[tuple[str, int], str]:
    return {(ti.task_id, ti.map_index): str(ti.state) for ti in found.get_task_instances()}


def xcom(found: DagRun, task_id: str) -> Any:
    ti = found.get_task_instance(task_id)
    assert ti is not None
    return ti.xcom_pull(task_ids=task_id)


def test_a_dag_file_parses_without_connection_network_or_variables() -> None:
    code = (
        "import runpy, socket, sys\n"
        "import airflow.sdk\n"
        "from airflow.sdk import Connection, Variable\n"
        "def no(*a, **k): raise AssertionError('asked for')\n"
        "socket.socket.connect = Connection.get = Variable.get = no\n"
        "for path in sys.argv[1:]: runpy.run_path(path)\n"
        "print('requests' in sys.modules, 'aiohttp' in sys.modules)"
    )
    paths = [str(path) for path in DAGS.glob("*.py")]
    command = [sys.executable, "-c", code, *paths]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines()[-1:] == ["False False"], found.stderr


def test_text_to_video_submits_waits_and_passes_on_the_file(fast_emulator: Emulator, tmp_path: Path) -> None:
    found = run(
        "vace_text_to_video", prompt="a cat", size="480*832", seed=7, speed="extra", save_to=f"{tmp_path}/"
    )
    assert set(states(found).values()) == {"success"}
    submitted, waited = xcom(found, "submit"), xcom(found, "wait")
    assert submitted["status"] == "starting"
    assert waited["id"] == submitted["id"]
    assert waited["status"] == "succeeded"
    (path,) = tmp_path.rglob(f"vace_text_to_video/*/wait-{waited['id']}.mp4")
    assert xcom(found, "use") == waited["files"][0]["uri"] == path.as_uri()
    assert path.with_name(path.name + ".json").exists()
    (seen,) = fast_emulator.world.runs.values()
    assert seen.input == {
        "prompt": "a cat",
        "size": "480*832",
        "seed": 7,
        "speed_mode": "Extra Juiced 🚀 (even more speed)",
    }


@pytest.mark.parametrize("dag_id", ["vace_campaign", "vace_campaign_taskflow"])
def test_a_failed_clip_does_not_affect_the_rest_of_a_campaign(
    fast_emulator: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str], dag_id: str
) -> None:
    fast_emulator.faults.add(method="POST", skip=1, outcome={"status": "failed", "error": "E1001 memory"})
    found = run(dag_id, save_to=f"{tmp_path}/", min_share=0.5)
    clips = [state for (task_id, _), state in sorted(states(found).items()) if task_id == "clip"]
    assert sorted(clips) == ["failed", "success", "success"]
    assert str(found.state) == states(found)["summary", -1] == "success"
    summary = xcom(found, "summary")
    assert list(summary) == ["Trail shoe", "Rain jacket", "Head lamp"]
    assert [clip is None for clip in summary.values()] == [state == "failed" for state in clips]
    (missing,) = [name for name, clip in summary.items() if clip is None]
    assert re.search(rf"{missing}: Prediction \w+ failed: E1001 memory", capfd.readouterr().out)
    prompts = {made.id: made.input["prompt"] for made in fast_emulator.world.runs.values()}
    for name, uri in summary.items():
        made = uri and next(prompt for identifier, prompt in prompts.items() if identifier in uri)
        assert made is None or made.startswith(name)
    saved = sorted(path.name for path in tmp_path.rglob("*.mp4"))
    succeeded = [str(index) for index, state in enumerate(clips) if state == "success"]
    assert [name.split("-")[1] for name in saved] == succeeded
    assert fast_emulator.bill["charged"] == 3
    images = [run.input["src_ref_images"] for run in fast_emulator.world.runs.values()]
    assert all(len(image) == 1 for image in images)


def test_a_campaign_with_too_few_clips_fails(fast_emulator: Emulator, tmp_path: Path) -> None:
    # A create that is refused leaves no prediction, and a reason all the same.
    fast_emulator.faults.add(method="POST", times=1, status=422, body={"detail": "prompt refused"})
    products = [{"name": name, "image": "https://example.com/1.png"} for name in ("One", "Two")]
    found = run("vace_campaign", save_to=f"{tmp_path}/", products=products)
    assert str(found.state) == "failed"
    assert states(found)["summary", -1] == "failed"


def test_a_further_run_of_the_catalogue_pays_for_changed_rows_only(
    fast_emulator: Emulator, tmp_path: Path, airflow_db: str
) -> None:
    catalogue, videos = tmp_path / "products.csv", tmp_path / "videos"
    lines = (DAGS / "vace_catalogue.csv").read_text().splitlines()
    catalogue.write_text("\n".join(lines))
    first = run("vace_catalogue", catalogue=str(catalogue), save_to=f"{videos}/")
    assert states(first) == {("clips", -1): "success", ("summary", -1): "success"}
    keys = [line.partition(",")[0] for line in lines[1:]]
    assert xcom(first, "summary") == {key: (videos / f"{key}.mp4").as_uri() for key in keys}
    assert fast_emulator.bill["charged"] == len(keys)
    catalogue.write_text("\n".join([*lines[:-1], lines[-1].replace("close-up", "from afar")]))
    second = run("vace_catalogue", catalogue=str(catalogue), save_to=f"{videos}/")
    counts = xcom(second, "clips")["counts"]
    assert (counts["succeeded"], counts["reused"]) == (1, len(keys) - 1)
    assert fast_emulator.bill["charged"] == len(keys) + 1
    with sqlite3.connect(airflow_db) as database:
        rows = database.execute("SELECT extra FROM asset_event WHERE source_dag_id = 'vace_catalogue'")
        events = [json.loads(extra) for (extra,) in rows]
    assert [event["counts"]["succeeded"] for event in events] == [len(keys), 1]


@pytest.mark.usefixtures("fast_emulator")
def test_a_batch_of_forty_ends_in_a_test_of_a_dag(tmp_path: Path) -> None:
    catalogue = tmp_path / "products.jsonl"
    rows = [{"sku": f"TR-{number}", "prompt": "a fox", "frame_num": 5} for number in range(40)]
    catalogue.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run("vace_catalogue", catalogue=str(catalogue), save_to=f"{tmp_path}/videos/")
    # `dag.test()` serves requests of all threads in one process.
    assert str(found.state) == "success"
    assert xcom(found, "clips")["counts"]["succeeded"] == 40


def test_a_failed_clip_does_not_affect_the_rest_of_the_catalogue(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    fast_emulator.faults.add(method="POST", skip=1, outcome={"status": "failed", "error": "E1001 memory"})
    found = run("vace_catalogue", save_to=f"{tmp_path}/")
    assert str(found.state) == "success"
    clips = xcom(found, "summary")
    assert len(clips) == 6
    assert sum(uri is None for uri in clips.values()) == 1


def test_each_video_of_a_restyled_library_is_an_asset_event(
    fast_emulator: Emulator, tmp_path: Path, airflow_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for name in ("b.mp4", "a.MP4"):
        film(library / name, 64, 48)
    (library / "notes.txt").write_text("no video")
    connection = fast_emulator.connection_to(input_roots=str(library))
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
    found = run("vace_restyle_library", library=f"file://{library}/", style="watercolour")
    assert set(states(found)) == {("videos", -1), ("restyle", 0), ("restyle", 1)}
    assert set(states(found).values()) == {"success"}
    sent = [seen.input["src_video"] for seen in fast_emulator.world.runs.values()]
    assert [url[:21] for url in sent] == ["data:video/mp4;base64"] * 2
    saved = sorted((library / "restyled").rglob("*.mp4"))
    assert len(saved) == 2
    manifest = json.loads(saved[0].with_name(saved[0].name + ".json").read_text())
    assert manifest["input"]["src_video"] == f"file://{library}/a.MP4"
    with sqlite3.connect(airflow_db) as database:
        rows = database.execute("SELECT extra FROM asset_event WHERE source_dag_id = 'vace_restyle_library'")
        events = [json.loads(extra) for (extra,) in rows]
    assert {event["uri"] for event in events} == {path.as_uri() for path in saved}
    for event in events:
        assert event["seed"] == 7
        assert (event["map_index"], event["label"]) in [(0, "a.MP4"), (1, "b.mp4")]
        assert event["prediction_id"] in event["uri"]
        assert len(event["sha256"]) == 64
        assert event["metrics"]["predict_time"] > 0


def uploading(emulator: Emulator, folder: Path, **extra: Any) -> str:
    """Return a connection that takes files of a folder as uploads."""
    return emulator.connection_to(backend="replicate", input_roots=[str(folder)], **extra)


def test_a_library_becomes_portraits_and_a_further_run_pays_for_nothing(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", uploading(fast_emulator, tmp_path))
    names = sorted(path.name for path in (DAGS / "vace_library").iterdir())
    for _ in range(2):
        found = run("vace_vertical", save_to=f"{tmp_path}/")
        assert set(states(found).values()) == {"success"}
        assert xcom(found, "summary") == {name: (tmp_path / name).as_uri() for name in names}
        assert fast_emulator.bill["charged"] == len(names) == 2
    for name in names:
        facts = inspect(tmp_path / name)
        assert (facts.width, facts.height, facts.frames) == (480, 832, 33)
    for made in fast_emulator.world.runs.values():
        assert made.input["size"] == "480*832"
        assert made.input["src_mask"].startswith(fast_emulator.url)


@pytest.mark.parametrize(("min_share", "state"), [(1.0, "failed"), (0.5, "success")])
def test_a_missing_share_of_portraits_fails_the_summary(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, min_share: float, state: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", uploading(fast_emulator, tmp_path))
    library = tmp_path / "library"
    library.mkdir()
    (library / "broken.mp4").write_bytes(b"no video")
    shutil.copy(next((DAGS / "vace_library").iterdir()), library / "whole.mp4")
    found = run("vace_vertical", library=f"{library}/", save_to=f"{tmp_path}/", min_share=min_share)
    assert states(found) == {
        ("clips", -1): "success",
        ("canvas", 0): "failed",
        ("canvas", 1): "success",
        ("portraits", -1): "success",
        ("summary", -1): state,
    }
    assert fast_emulator.bill["charged"] == 1
    if state == "success":
        assert xcom(found, "summary") == {
            "broken.mp4": None,
            "whole.mp4": (tmp_path / "whole.mp4").as_uri(),
        }


def test_each_clip_of_a_long_shot_begins_with_the_end_of_the_one_before(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", uploading(fast_emulator, tmp_path))
    found = run("vace_long_shot", save_to=f"{tmp_path}/")
    assert {str(ti.state) for ti in found.get_task_instances()} == {"success"}
    assert fast_emulator.bill["charged"] == 4
    made = list(fast_emulator.world.runs.values())
    assert "src_video" not in made[0].input
    for before, after in itertools.pairwise(made):
        assert after.input["prompt"] != before.input["prompt"]
        (clip,) = tmp_path.rglob(f"*clip-{before.id}.mp4")
        control = tmp_path / "control" / before.id
        kept = [picture for _, picture in pictures(control / "src_video.mp4")][:17]
        shown = [picture for _, picture in pictures(clip)][-17:]
        assert np.abs(np.stack(kept).astype(int) - np.stack(shown)).max() <= 3
    (film,) = tmp_path.glob("film-*.mp4")
    assert xcom(found, "film") == str(film)
    facts = inspect(film)
    assert (facts.frames, facts.width, facts.height) == (4 * 81 - 3 * 17, 832, 480)


def test_takes_go_on_until_one_is_good(fast_emulator: Emulator, tmp_path: Path) -> None:
    found = run("vace_until_good", save_to=f"{tmp_path}/")
    assert str(found.state) == "success"
    assert [made.input["seed"] for made in fast_emulator.world.runs.values()] == [7, 8]
    assert fast_emulator.bill["charged"] == 2
    (good,) = [made.id for made in fast_emulator.world.runs.values() if made.input["seed"] == 8]
    assert good in xcom(found, "publish")


def test_a_take_that_cannot_be_decoded_is_followed_by_another(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    clips.defective(tmp_path / "broken.mp4", "overwritten", 1, (96, 64, 9))
    url = f"data:video/mp4;base64,{base64.b64encode((tmp_path / 'broken.mp4').read_bytes()).decode()}"
    broken = {"status": "succeeded", "output": url}
    fast_emulator.faults.add(method="POST", path="*/predictions", outcome=broken)
    found = run("vace_until_good", save_to=f"{tmp_path}/")
    assert str(found.state) == "success"
    assert fast_emulator.bill["charged"] == 2


def test_takes_end_without_a_good_one(fast_emulator: Emulator, tmp_path: Path) -> None:
    found = run("vace_until_good", save_to=f"{tmp_path}/", min_brightness=1)
    assert str(found.state) == "failed"
    assert [made.input["seed"] for made in fast_emulator.world.runs.values()] == [7, 8, 9]
    assert fast_emulator.bill["charged"] == 3


@pytest.mark.parametrize("is_of_run", [True, False])
def test_takes_end_at_the_cap(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_of_run: bool
) -> None:
    prices = {"prunaai/vace-14b": {"per_run": 0.40}}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(prices=prices))
    if is_of_run:
        monkeypatch.setenv("AIRFLOW__VACE__MAX_COST_PER_DAG_RUN", "0.80")
    found = run(
        "vace_until_good", save_to=f"{tmp_path}/", min_brightness=1, max_cost=None if is_of_run else 0.3
    )
    assert str(found.state) == "failed"
    assert fast_emulator.bill["charged"] == (2 if is_of_run else 0)


def test_the_key_is_in_no_log_row_or_file_of_airflow(
    fast_emulator: Emulator, tmp_path: Path, airflow_db: str, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "r8_the_key_that_nobody_may_see"
    fast_emulator.api_key = key
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection)
        echo = {"error": f"bad key {key}", "urls": {"web": f"https://example.com/?key={key}"}}
        fast_emulator.faults.add(method="GET", status=401, body={"detail": f"Incorrect API key: {key}"})
        fast_emulator.faults.add(method="GET", patch={"status": "processing", **echo})
        good = run("vace_text_to_video", save_to=f"{tmp_path}/")
        fast_emulator.faults.add(method="GET", times=None, patch={"status": "failed", **echo})
        bad = run("vace_text_to_video", save_to=f"{tmp_path}/")
    assert (str(good.state), str(bad.state)) == ("success", "failed")
    out, err = capfd.readouterr()
    assert "Prediction" in out
    assert key not in out + err
    assert key not in json.dumps([xcom(good, task) for task in ("submit", "wait", "use")])
    with sqlite3.connect(airflow_db) as database:
        dump = "\n".join(database.iterdump())
    assert "vace_text_to_video" in dump
    assert "r8_the_key" not in dump
    for path in Path(airflow_db).parent.rglob("*"):
        if path.is_file():
            assert key.encode() not in content_of(path), path
