"""`reuse="saved"`: the file of an equal order is the result, in any run of any DAG, at no cost."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, Asset, ObjectStoragePath

from airflow_vace.decorators import vace_task
from airflow_vace.emulator import Emulator
from airflow_vace.emulator.models import FIRST_VERSION
from airflow_vace.exceptions import PredictionFailed, VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.paths import place_of
from support.attempts import billed, killed_at, statuses
from support.films import DATA_URL
from support.runs import extras, run, states, xcom
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("hurry")

MODES: dict[str, dict[str, Any]] = {
    "worker": {"deferrable": False},
    "deferred": {"deferrable": True},
    "triggerer": {"deferrable": True, "save_in": "triggerer"},
}
FOX = {"prompt": "a fox", "frame_num": 5}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


@pytest.fixture(params=["local", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path, memory: Any) -> str:
    memory.mkdir("/b")
    return str(tmp_path) if request.param == "local" else "memory://b"


@pytest.fixture
def any_model() -> Iterator[Emulator]:
    """A fast emulator that knows any model."""
    with Emulator(time_scale=0.0002, models={"*": None}) as running:
        yield running


def clip(run_id: str, save_to: str, *, store: Store | None = None, **kwargs: Any) -> Run:
    """Return a task of a run, with the file at `save_to` as result if the file is there."""
    given = {"task_id": "t", "input": FOX, "wait_for_completion": True, "reuse": "saved", "save_to": save_to}
    task = Run(partial(VacePredictionOperator, **{**given, **kwargs}), store)
    task.ti.run_id = run_id
    return task


def change(uri: str, write: Callable[[bytes], bytes | None]) -> None:
    """Change or delete a file from outside."""
    place: Any = place_of(uri, "x")
    content = write(place.read(0, 10_000_000))
    if isinstance(place, LocalFile):
        place.path.unlink() if content is None else place.path.write_bytes(content)
    elif content is None:
        place.fs.rm_file(place.path)
    else:
        place.fs.pipe_file(place.path, content)


# --- the file is the result ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ["gateway", "replicate"])
def test_a_later_run_returns_the_saved_video_without_a_request(
    fast_emulator: Emulator,
    connect: Callable[[str], None],
    root: str,
    *,
    mode: str,
    backend: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    connect(fast_emulator.connection_to(backend=backend))
    first = clip("monday", f"{root}/fox.mp4", **MODES[mode]).result()
    assert "reused" not in first
    asked = len(fast_emulator.requests)
    store = Store()
    later = clip("tuesday", f"{root}/fox.mp4", store=store, **MODES[mode])
    later.ti.dag_id, later.ti.task_id = "another", "u"
    payload = later.result()
    assert payload["reused"] is True
    assert payload["status"] == "succeeded"
    for name in ("id", "files", "seed", "model", "version", "created_at", "metrics"):
        assert payload[name] == first[name]
    assert (billed(fast_emulator), len(fast_emulator.requests)) == (1, asked)
    assert not later.deferred
    assert store.record is None
    view = later.ti.xcoms["vace_view"]
    assert view["prediction"] == payload
    assert view["input"]["seed"] == payload["seed"]
    logged = capfd.readouterr().out
    assert f"fox.mp4: prediction {payload['id']}, of dag_id d, run_id monday, task_id t" in logged


def test_a_file_of_a_task_with_the_default_is_reused(fast_emulator: Emulator, root: str) -> None:
    first = clip("monday", f"{root}/fox.mp4", reuse=True).result()
    assert clip("tuesday", f"{root}/fox.mp4", reuse=True).result()["id"] != first["id"]
    assert billed(fast_emulator) == 2
    assert clip("wednesday", f"{root}/fox.mp4").result()["reused"]
    assert billed(fast_emulator) == 2


def test_a_nightly_run_pays_for_changed_inputs_only(fast_emulator: Emulator, root: str) -> None:
    def night(run_id: str, prompts: list[str]) -> list[dict[str, Any]]:
        return [
            clip(run_id, f"{root}/{number}.mp4", input={**FOX, "prompt": prompt}).result()
            for number, prompt in enumerate(prompts)
        ]

    night("monday", ["a fox", "a heron", "an owl", "a deer"])
    payloads = night("tuesday", ["a fox", "a crane", "an owl", "a deer"])
    assert billed(fast_emulator) == 5
    assert ["reused" in payload for payload in payloads] == [True, False, True, True]
    payloads = night("wednesday", ["a fox", "a crane", "an owl", "a deer"])
    assert all("reused" in payload for payload in payloads)
    assert billed(fast_emulator) == 5


def test_a_task_from_a_function_reuses_a_saved_video(fast_emulator: Emulator, tmp_path: Path) -> None:
    def fox() -> dict[str, Any]:
        return FOX

    given: dict[str, Any] = {"wait_for_completion": True, "reuse": "saved", "save_to": f"{tmp_path}/fox.mp4"}

    def made() -> Any:
        with DAG("d", schedule=None):
            return vace_task(**given)(fox)().operator

    first, second = (Run(made).result() for _ in range(2))
    assert (second["id"], second["reused"]) == (first["id"], True)
    assert billed(fast_emulator) == 1


def test_each_mapped_instance_reuses_its_own_file(fast_emulator: Emulator, root: str) -> None:
    def instance(run_id: str, index: int) -> dict[str, Any]:
        task = clip(run_id, f"{root}/fox.mp4", input={**FOX, "seed": index})
        task.ti.map_index = index
        payload: dict[str, Any] = task.result()
        return payload

    first = [instance("monday", index) for index in (0, 1)]
    second = [instance("tuesday", index) for index in (0, 1)]
    assert [payload["files"] for payload in second] == [payload["files"] for payload in first]
    assert [payload["map_index"] for payload in second] == [0, 1]
    assert billed(fast_emulator) == 2


def test_the_label_of_the_task_replaces_that_of_the_manifest(fast_emulator: Emulator, root: str) -> None:
    clip("monday", f"{root}/fox.mp4", label="Ada").result()
    assert clip("tuesday", f"{root}/fox.mp4", label="Grace").result()["label"] == "Grace"
    assert clip("wednesday", f"{root}/fox.mp4").result()["label"] is None
    assert billed(fast_emulator) == 1


def test_a_reused_file_is_announced_as_a_new_one(
    fast_emulator: Emulator, airflow_db: str, tmp_path: Path
) -> None:
    assert airflow_db
    found = []
    for dag_id in ("reused_monday", "reused_tuesday"):
        with DAG(dag_id, schedule=None) as dag:
            VacePredictionOperator(
                task_id=dag_id,
                input=FOX,
                wait_for_completion=True,
                save_to=f"{tmp_path}/fox.mp4",
                reuse="saved",
                outlets=[Asset(name="reused_fox", uri="x-films://reused")],
            )
        done = run(dag)
        assert states(done) == {(dag_id, -1): "success"}
        found.append((xcom(done, dag_id), *extras(dag_id)))
    (first, first_extra), (second, second_extra) = found
    assert (second["id"], second["reused"]) == (first["id"], True)
    assert second_extra == first_extra
    assert second_extra["files"] == second["files"]
    assert billed(fast_emulator) == 1


# --- another order, or no whole file ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({}, {"input": {**FOX, "prompt": "an owl"}}, "with another input, source file, model or version"),
        ({}, {"input": {**FOX, "size": "1280*720"}}, "with another input"),
        ({}, {"input": {**FOX, "src_ref_images": ["https://h.example/a.png"]}}, "with another input"),
        ({}, {"model": "owner/other"}, "with another input"),
        ({}, {"version": FIRST_VERSION}, "with another input"),
        ({"version": FIRST_VERSION}, {}, "with another input"),
        ({"input": {**FOX, "seed": 7}}, {"input": {**FOX, "seed": 8}}, "with seed 7 rather than 8"),
    ],
    ids=["prompt", "size", "file", "model", "version", "no version", "seed"],
)
def test_a_file_of_another_order_is_not_reused(
    any_model: Emulator,
    connect: Callable[[str], None],
    root: str,
    *,
    before: dict[str, Any],
    after: dict[str, Any],
    reason: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    connect(any_model.connection_to(backend="gateway"))
    first = clip("monday", f"{root}/fox.mp4", **before).result()
    second = clip("tuesday", f"{root}/fox.mp4", **after).result()
    assert "reused" not in second
    assert billed(any_model) == 2
    logged = capfd.readouterr().out
    assert f"fox.mp4 is of prediction {first['id']}, of dag_id d, run_id monday" in logged
    assert reason in logged
    # The new file has replaced the old one, so the new order finds the new file.
    assert clip("wednesday", f"{root}/fox.mp4", **after).result()["id"] == second["id"]
    assert billed(any_model) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"prompt": " a fox ", "size": "832x480", "seed": -1, "frame_num": "5"}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": 7}, {}),
        ({"src_video": "https://h.example/a.mp4?X-Amz-Signature=1"},) * 2,
        (
            {"src_ref_images": ["https://h.example/a.png?X-Amz-Signature=1&X-Amz-Date=2"]},
            {"src_ref_images": ["https://h.example/a.png?X-Amz-Signature=3&X-Amz-Date=4"]},
        ),
    ],
    ids=["defaults", "seed", "any seed", "signed", "signed again"],
)
def test_an_order_in_other_words_is_the_same(
    fast_emulator: Emulator, root: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    first = clip("monday", f"{root}/fox.mp4", input={**FOX, **before}).result()
    second = clip("tuesday", f"{root}/fox.mp4", input={**FOX, **after}).result()
    assert (second["id"], second["seed"]) == (first["id"], first["seed"])
    assert billed(fast_emulator) == 1


def test_the_seed_that_was_drawn_finds_the_video_again(fast_emulator: Emulator, root: str) -> None:
    first = clip("monday", f"{root}/fox.mp4").result()
    second = clip("tuesday", f"{root}/fox.mp4", input={**FOX, "seed": first["seed"]}).result()
    assert second["reused"]
    assert billed(fast_emulator) == 1


def test_another_connection_finds_the_same_video(
    fast_emulator: Emulator, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", fast_emulator.connection)
    clip("monday", f"{root}/fox.mp4").result()
    assert clip("tuesday", f"{root}/fox.mp4", vace_conn_id="other").result()["reused"]
    assert billed(fast_emulator) == 1


def test_a_version_of_the_connection_counts_as_asked_for(
    fast_emulator: Emulator, connect: Callable[[str], None], root: str
) -> None:
    clip("monday", f"{root}/fox.mp4").result()
    connect(fast_emulator.connection_to(version=FIRST_VERSION))
    assert "reused" not in clip("tuesday", f"{root}/fox.mp4").result()
    assert clip("wednesday", f"{root}/fox.mp4").result()["reused"]
    assert billed(fast_emulator) == 2


def without_digest(content: bytes) -> bytes:
    return json.dumps({n: v for n, v in json.loads(content).items() if n != "order_digest"}).encode()


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("fox.mp4.json", lambda _: None, "fox.mp4 has no manifest, or none that is readable (fox.mp4.json)"),
        ("fox.mp4.json", lambda _: b"{", "fox.mp4 has no manifest"),
        ("fox.mp4.json", lambda _: b"[1]", "fox.mp4 has no manifest"),
        ("fox.mp4.json", lambda _: b"{}", "the manifest of fox.mp4 is not readable"),
        ("fox.mp4.json", without_digest, "the manifest holds no digest of its order"),
        (
            "fox.mp4.json",
            lambda content: content.replace(b'"outputs": 1', b'"outputs": 2'),
            "the manifest of fox.mp4 names 2 outputs",
        ),
        ("fox.mp4", lambda _: None, "fox.mp4 has 0 bytes rather than the"),
        ("fox.mp4", lambda content: content[:-1], "bytes rather than the"),
    ],
    ids=["gone", "cut", "list", "empty", "old", "count", "no file", "short"],
)
def test_a_file_without_its_manifest_is_not_reused(
    fast_emulator: Emulator,
    root: str,
    *,
    name: str,
    write: Callable[[bytes], bytes | None],
    reason: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    clip("monday", f"{root}/fox.mp4").result()
    change(f"{root}/{name}", write)
    assert "reused" not in clip("tuesday", f"{root}/fox.mp4").result()
    assert billed(fast_emulator) == 2
    assert reason in capfd.readouterr().out
    assert clip("wednesday", f"{root}/fox.mp4").result()["reused"]


def test_the_log_says_that_nothing_is_there_yet(
    fast_emulator: Emulator, root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    clip("monday", f"{root}/fox.mp4").result()
    assert "fox.mp4: nothing is there yet" in capfd.readouterr().out
    assert billed(fast_emulator) == 1


def test_the_log_of_a_mapped_task_has_the_name_with_the_index(
    fast_emulator: Emulator, root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = clip("monday", f"{root}/fox.mp4")
    run.ti.map_index = 3
    (file,) = run.result()["files"]
    assert file["uri"].endswith("/fox-3.mp4")
    assert (
        "fox-3.mp4 is not there yet (a mapped task's name ends with the map index)" in capfd.readouterr().out
    )
    assert billed(fast_emulator) == 1


def test_a_file_that_a_sensor_has_saved_is_not_reused(
    fast_emulator: Emulator, root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    created = VaceHook().create_prediction(FOX)
    sensor = partial(VacePredictionSensor, task_id="s", prediction=created.id, save_to=f"{root}/fox.mp4")
    Run(partial(sensor, poke_interval=0.01)).result()
    assert "reused" not in clip("tuesday", f"{root}/fox.mp4").result()
    assert billed(fast_emulator) == 2
    assert "an earlier release or a sensor saved it" in capfd.readouterr().out


def test_a_store_without_an_answer_does_not_fail_the_task(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    memory.mkdir("/b")
    clip("monday", "memory://b/fox.mp4").result()

    def silent(*_: object, **__: object) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(type(memory), "cat_file", silent)
    assert "reused" not in clip("tuesday", "memory://b/fox.mp4").result()
    assert billed(fast_emulator) == 2
    assert "memory://b/fox.mp4 gives no answer (TimeoutError: no answer)" in capfd.readouterr().out


# --- source files ----------------------------------------------------------------------------------


@pytest.fixture
def sources(fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path) -> Path:
    """A directory that tasks may send from."""
    connect(fast_emulator.connection_to(backend="replicate", input_roots=[str(tmp_path)]))
    (tmp_path / "shot.png").write_bytes(PNG)
    return tmp_path


def restyled(run_id: str, save_to: str, source: str) -> dict[str, Any]:
    payload: dict[str, Any] = clip(run_id, save_to, input={**FOX, "src_ref_images": [source]}).result()
    return payload


def test_a_local_source_counts_by_its_content(fast_emulator: Emulator, root: str, sources: Path) -> None:
    shot, moved = sources / "shot.png", sources / "moved.png"
    restyled("monday", f"{root}/fox.mp4", f"file://{shot}")
    moved.write_bytes(PNG)
    assert restyled("tuesday", f"{root}/fox.mp4", f"file://{moved}")["reused"]
    assert billed(fast_emulator) == 1
    shot.write_bytes(PNG + b"\0")
    assert "reused" not in restyled("wednesday", f"{root}/fox.mp4", f"file://{shot}")
    assert billed(fast_emulator) == 2


def test_a_replaced_source_in_a_store_is_another_order(
    fast_emulator: Emulator, root: str, memory: Any
) -> None:
    memory.pipe_file("/b/shot.png", PNG)
    restyled("monday", f"{root}/fox.mp4", "memory://b/shot.png")
    assert restyled("tuesday", f"{root}/fox.mp4", "memory://b/shot.png")["reused"]
    assert billed(fast_emulator) == 1
    memory.pipe_file("/b/shot.png", PNG[:-1] + b"\1")
    assert "reused" not in restyled("wednesday", f"{root}/fox.mp4", "memory://b/shot.png")
    assert billed(fast_emulator) == 2


def test_the_manifest_describes_the_source_at_the_submission(
    slow_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    connect(slow_emulator.connection_to(backend="replicate", input_roots=[str(tmp_path)]))
    done = {"status": "succeeded", "output": DATA_URL}
    slow_emulator.faults.add(method="GET", path="*/predictions/*", skip=1, times=None, patch=done)
    shot = tmp_path / "shot.png"
    shot.write_bytes(PNG)
    given: dict[str, Any] = {"input": {**FOX, "src_ref_images": [f"file://{shot}"]}, "deferrable": True}
    first = clip("monday", f"{tmp_path}/fox.mp4", store=Store(), **given)
    payload = first.result(between=lambda: shot.write_bytes(PNG + b"\0"))
    assert len(first.deferred) == 1
    # The video is of the old file, so only the old file finds the video.
    shot.write_bytes(PNG)
    assert clip("tuesday", f"{tmp_path}/fox.mp4", **given).result()["id"] == payload["id"]
    shot.write_bytes(PNG + b"\0")
    assert "reused" not in clip("wednesday", f"{tmp_path}/fox.mp4", **given).result()
    assert billed(slow_emulator) == 2


def test_a_missing_source_fails_although_a_video_is_saved(
    fast_emulator: Emulator, root: str, sources: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shot = sources / "shot.png"
    restyled("monday", f"{root}/fox.mp4", f"file://{shot}")
    shot.unlink()
    with pytest.raises(AirflowFailException, match="does not exist"):
        restyled("tuesday", f"{root}/fox.mp4", f"file://{shot}")
    assert billed(fast_emulator) == 1
    assert "the content of a source file is unknown" in capfd.readouterr().out


# --- several outputs, and other kinds --------------------------------------------------------------


@pytest.mark.parametrize("lost", [None, "fox-2.mp4", "fox-3.mp4.json", "fox-1.mp4.json"])
def test_all_outputs_of_a_prediction_must_be_there(
    fast_emulator: Emulator, root: str, lost: str | None
) -> None:
    patch = {"status": "succeeded", "output": [DATA_URL] * 3}
    fast_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=patch)
    first = clip("monday", f"{root}/fox.mp4").result()
    assert len(first["files"]) == 3
    if lost:
        change(f"{root}/{lost}", lambda _: None)
    second = clip("tuesday", f"{root}/fox.mp4").result()
    assert second.get("reused", False) is (lost is None)
    assert len(second["files"]) == 3
    assert billed(fast_emulator) == (1 if lost is None else 2)


def test_an_output_of_another_prediction_is_not_among_them(fast_emulator: Emulator, root: str) -> None:
    patch = {"status": "succeeded", "output": [DATA_URL] * 2}
    fast_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=patch)
    first = clip("monday", f"{root}/fox.mp4").result()
    change(f"{root}/fox-2.mp4.json", lambda content: content.replace(first["id"].encode(), b"another"))
    assert "reused" not in clip("tuesday", f"{root}/fox.mp4").result()
    assert billed(fast_emulator) == 2


def test_a_file_of_another_kind_is_found_under_its_own_suffix(
    any_model: Emulator, connect: Callable[[str], None], root: str
) -> None:
    connect(any_model.connection_to(backend="gateway"))
    text = {"status": "succeeded", "output": "The fox ran."}
    any_model.faults.add(method="GET", path="*/predictions*", times=None, patch=text)
    given: dict[str, Any] = {"model": "owner/other", "input": {"question": "?"}}
    first = clip("monday", f"{root}/fox.mp4", **given).result()
    assert first["files"][0]["uri"].endswith("/fox.txt")
    second = clip("tuesday", f"{root}/fox.mp4", **given).result()
    assert (second["files"], second["reused"]) == (first["files"], True)
    assert billed(any_model) == 1


# --- beside the task's own record ------------------------------------------------------------------


def test_a_running_prediction_of_the_task_comes_first(
    fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    connect(fast_emulator.connection_to(backend="replicate"))
    own = clip("monday", f"{tmp_path}/fox.mp4", store=Store())
    killed_at(own, "get_prediction")
    other = clip("tuesday", f"{tmp_path}/fox.mp4").result()
    payload = own.result()
    assert "reused" not in payload
    assert payload["id"] != other["id"]
    assert billed(fast_emulator) == 2


def test_a_failed_attempt_is_followed_by_the_file_of_another_task(
    slow_emulator: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = clip("monday", f"{tmp_path}/fox.mp4", store=Store())
    failed = {"status": "failed", "error": "interrupted"}
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=failed)
    with pytest.raises(PredictionFailed, match="interrupted"):
        own.result()
    slow_emulator.faults.clear()
    done = {"status": "succeeded", "output": DATA_URL}
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=done)
    other = clip("tuesday", f"{tmp_path}/fox.mp4").result()
    payload = own.retried().result()
    assert (payload["id"], payload["reused"]) == (other["id"], True)
    assert billed(slow_emulator) == 2
    logged = capfd.readouterr().out
    assert "A saved file is the result, at no cost." in logged
    assert own.context["task_state_store"].record["prediction"]["id"] != other["id"]


def test_a_clear_with_a_saved_input_cancels_the_running_prediction(
    slow_emulator: Emulator, tmp_path: Path
) -> None:
    done = {"status": "succeeded", "output": DATA_URL}
    slow_emulator.faults.add(method="GET", path="*/predictions*", times=None, patch=done)
    saved = clip("monday", f"{tmp_path}/fox.mp4").result()
    slow_emulator.faults.clear()
    store = Store()
    running = clip("tuesday", f"{tmp_path}/fox.mp4", store=store, input={**FOX, "prompt": "an owl"})
    killed_at(running, "get_prediction")
    cleared = clip("tuesday", f"{tmp_path}/fox.mp4", store=store).cleared()
    assert cleared.result()["id"] == saved["id"]
    assert statuses(slow_emulator)[1] == "canceled"
    assert billed(slow_emulator) == 2


def test_a_clear_of_a_task_with_a_reused_file_reuses_again(fast_emulator: Emulator, root: str) -> None:
    clip("monday", f"{root}/fox.mp4").result()
    later = clip("tuesday", f"{root}/fox.mp4", store=Store())
    assert later.result()["reused"]
    assert later.cleared().result()["reused"]
    change(f"{root}/fox.mp4", lambda _: None)
    assert "reused" not in later.cleared().result()
    assert billed(fast_emulator) == 2


# --- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "save_to",
    [
        None,
        "",
        "/data/clips/",
        "s3://b/{{ ds }}/",
        Path("/data/clips"),
        ObjectStoragePath("file:///data/clips"),
    ],
    ids=str,
)
def test_a_directory_is_refused_when_airflow_reads_the_dag(save_to: Any) -> None:
    with pytest.raises(VaceInputError, match="finds a video by the name of its file") as caught:
        clip("monday", save_to).leg()
    assert caught.value.field == "reuse"
    assert "name a file in save_to" in caught.value.remedy


@pytest.mark.parametrize(
    "save_to", ["/data/{{ ds }}.mp4", "{{ params.place }}", Path("/data/fox.mp4")], ids=str
)
def test_a_name_and_a_template_are_accepted(save_to: Any) -> None:
    assert clip("monday", save_to).leg().task_id == "t"


@pytest.mark.parametrize("reuse", ["save", "True", None, 2])
def test_an_unknown_kind_of_reuse_is_refused(reuse: Any) -> None:
    with pytest.raises(ValueError, match="it must be True, False or 'saved'"):
        clip("monday", "/data/fox.mp4", reuse=reuse).leg()


@pytest.mark.parametrize("rendered", ["", "memory://b/clips/"], ids=["nothing", "directory"])
def test_a_template_that_renders_to_no_file_fails_before_money_is_spent(
    fast_emulator: Emulator, rendered: str
) -> None:
    task = clip("monday", "{{ params.place }}")
    make = task.make

    def made() -> Any:
        operator: Any = make()
        operator.save_to = rendered
        return operator

    task.make = made
    with pytest.raises(AirflowFailException, match="finds a video by the name of its file"):
        task.result()
    assert not fast_emulator.requests
