"""Checks of saved videos: what `checks` and `check=` do in each mode of a task, and without the extra."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_vace.decorators import vace_task
from airflow_vace.exceptions import VideoRejected
from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.storage.destination import Destination
from airflow_vace.triggers import VacePredictionTrigger
from support import clips
from support.attempts import billed
from support.batches import batch, rows_of
from support.polled import end_all
from support.supervisor import Supervisor, created, events_of, needs_airflow_3_3, ti_of
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator
    from airflow_vace.video import VideoFacts

pytestmark = pytest.mark.usefixtures("hurry", "memory")

SIZE = (832, 480, 9)
FOX = {"prompt": "a fox", "frame_num": 9}
MODES: dict[str, dict[str, Any]] = {
    "worker": {"deferrable": False},
    "deferred": {"deferrable": True},
    "triggerer": {"deferrable": True, "save_in": "triggerer"},
}
EACH_MODE = pytest.mark.parametrize("mode", MODES)


def clip(save_to: object, store: Store | None = None, **kwargs: Any) -> Run:
    given = {"task_id": "t", "input": FOX, "wait_for_completion": True, "save_to": save_to, **kwargs}
    return Run(partial(VacePredictionOperator, **given), store)


def sensed(server: Emulator, save_to: object, **kwargs: Any) -> Run:
    """Return a sensor of a prediction that another task has submitted."""
    submitted = Run(partial(VacePredictionOperator, task_id="s", input=FOX), Store()).result()
    given = {"task_id": "t", "prediction": submitted, "poke_interval": 0.01, "save_to": save_to, **kwargs}
    assert billed(server) == 1
    return Run(partial(VacePredictionSensor, **given))


@pytest.fixture
def films(fast_emulator: Emulator, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that makes the emulator return a clip of a kind, such as `black`."""

    def bring(kind: str) -> None:
        path = tmp_path / "film.mp4"
        make = clips.good if kind in clips.GOOD else clips.defective
        make(path, kind, 1, SIZE)
        url = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
        fast_emulator.faults.clear()
        fast_emulator.faults.add(
            method="POST", path="*/predictions", times=None, outcome={"status": "succeeded", "output": url}
        )

    return bring


@pytest.fixture
def without_av(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that blocks the import of PyAV, as on a worker without the extra."""
    return partial(monkeypatch.setitem, sys.modules, "av", None)


def path_of(file: dict[str, Any], suffix: str = "") -> Path:
    return Path(urlsplit(file["uri"]).path + suffix)


def manifest_of(file: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path_of(file, ".json").read_text())
    return found


def failure_of(task: Run) -> AirflowFailException:
    with pytest.raises(AirflowFailException) as caught:
        task.result()
    return caught.value


# --- warn ------------------------------------------------------------------------------------------


@EACH_MODE
def test_problems_are_logged_and_stand_in_payload_and_manifest(
    films: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: str
) -> None:
    films("black")
    payload = clip(f"{tmp_path}/clips/", **MODES[mode]).result()
    (file,) = payload["files"]
    assert file["facts"]["black_share"] == 1
    assert file["facts"]["problems"] == ["100% of the frames are black (limit: 20%)."]
    assert manifest_of(file)["facts"] == file["facts"]
    assert f"{file['uri']} has a problem: 100% of the frames are black" in capfd.readouterr().out


@EACH_MODE
@pytest.mark.usefixtures("fast_emulator")
def test_a_good_video_has_facts_and_passes_strict_checks(tmp_path: Path, mode: str) -> None:
    (file,) = clip(f"{tmp_path}/clips/", checks="fail", **MODES[mode]).result()["files"]
    expected = {"width": 832, "height": 480, "frames": 9, "fps": 16.0, "codec": "h264", "problems": []}
    assert file["facts"].items() >= expected.items()


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("wrong_size", "The size is 416x240, expected 832x480."),
        ("too_many_frames", "The video has 13 frames, expected 9."),
    ],
)
def test_size_and_length_are_those_of_the_input(
    films: Callable[[str], None], tmp_path: Path, kind: str, problem: str
) -> None:
    films(kind)
    (file,) = clip(f"{tmp_path}/fox.mp4").result()["files"]
    assert file["facts"]["problems"] == [problem]


def test_a_video_that_cannot_be_decoded_is_saved_with_its_problem(
    films: Callable[[str], None], tmp_path: Path
) -> None:
    films("overwritten")
    (file,) = clip(f"{tmp_path}/fox.mp4").result()["files"]
    (problem,) = file["facts"].pop("problems")
    assert problem.startswith("The video cannot be decoded: ")
    assert file["facts"] == {}
    assert "poster" not in file
    assert path_of(file).stat().st_size == file["size"]


def test_checks_that_are_off_measure_nothing(films: Callable[[str], None], tmp_path: Path) -> None:
    films("black")
    (file,) = clip(f"{tmp_path}/fox.mp4", checks="off").result()["files"]
    assert file.keys() == {"uri", "size", "sha256", "content_type"}
    assert "facts" not in manifest_of(file)
    assert not path_of(file, ".jpg").exists()


def test_a_function_becomes_a_checked_task(films: Callable[[str], None], tmp_path: Path) -> None:
    films("black")

    def fox() -> dict[str, Any]:
        return FOX

    given: dict[str, Any] = {"wait_for_completion": True, "save_to": f"{tmp_path}/", "checks": "fail"}

    def made() -> Any:
        with DAG("d", schedule=None):
            return vace_task(**given)(fox)().operator

    assert "frames are black" in str(failure_of(Run(made)))


# --- fail ------------------------------------------------------------------------------------------


@EACH_MODE
def test_a_rejected_video_stays_saved_and_is_paid_once(
    fast_emulator: Emulator, films: Callable[[str], None], tmp_path: Path, mode: str
) -> None:
    films("frozen")
    store = Store()
    task = clip(f"{tmp_path}/fox.mp4", store, checks="fail", **MODES[mode])
    failure = failure_of(task)
    assert isinstance(failure.__cause__, VideoRejected)
    (file,) = map(dict, failure.__cause__.files)
    assert failure.__cause__.problems == tuple(file["facts"]["problems"])
    assert "frozen" in str(failure)
    assert path_of(file).stat().st_size == file["size"]
    assert manifest_of(file)["facts"] == file["facts"]
    assert task.ti.xcoms["vace_view"]["prediction"]["files"] == [file]
    again = failure_of(task.cleared())
    assert "It is billed. A retry or a clear gives the same video" in str(again)
    task.make = clip(f"{tmp_path}/fox.mp4", checks="warn", **MODES[mode]).make
    assert task.cleared().result()["files"] == [file]
    assert billed(fast_emulator) == 1


@EACH_MODE
def test_a_gateway_that_hides_the_model_switches_no_check_off(
    fast_emulator: Emulator, films: Callable[[str], None], tmp_path: Path, mode: str
) -> None:
    films("pan")
    for method in ("POST", "GET"):
        fast_emulator.faults.add(method=method, path="*/predictions*", times=None, patch={"model": "hidden"})
    wanted = FOX | {"size": "480*832"}
    task = clip(f"{tmp_path}/fox.mp4", Store(), input=wanted, checks="fail", **MODES[mode])
    assert "The size is 832x480, expected 480x832." in str(failure_of(task))
    given: dict[str, Any] = {"inputs": [wanted], "checks": "fail", **MODES[mode]}
    assert "The size is 832x480" in str(failure_of(batch(tmp_path, Store(), **given)))


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_sensor_rejects_a_saved_video_too(
    fast_emulator: Emulator, films: Callable[[str], None], tmp_path: Path, *, deferrable: bool
) -> None:
    films("black")
    task = sensed(fast_emulator, f"{tmp_path}/", checks="fail", deferrable=deferrable)
    assert "frames are black" in str(failure_of(task))
    # The vendor deletes its file, and the saved one is found.
    fast_emulator.world.retention = 0.0
    assert "frames are black" in str(failure_of(task.cleared()))
    assert len(list(tmp_path.rglob("t-*.mp4"))) == 1


def test_a_video_without_a_manifest_in_a_store_is_checked_by_the_next_attempt(
    fast_emulator: Emulator, films: Callable[[str], None], object_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    films("black")
    put = type(object_store).put_file

    def without_manifests(store: Any, source: str, target: str, **options: Any) -> None:
        if target.endswith(".json"):
            raise OSError("the store is down")
        put(store, source, target, **options)

    task = clip("memory://b/clips/", Store(), checks="fail")
    with monkeypatch.context() as patch:
        patch.setattr(type(object_store), "put_file", without_manifests)
        with pytest.raises(OSError, match="the store is down"):
            task.result()
    assert "frames are black" in str(failure_of(task.retried()))
    assert billed(fast_emulator) == 1


def test_a_rejected_video_is_not_reused_by_strict_tasks(
    fast_emulator: Emulator, films: Callable[[str], None], tmp_path: Path
) -> None:
    films("black")
    clip(f"{tmp_path}/fox.mp4").result()
    assert clip(f"{tmp_path}/fox.mp4", reuse="saved").result()["reused"]
    assert billed(fast_emulator) == 1
    films("ball")
    strict = clip(f"{tmp_path}/fox.mp4", reuse="saved", checks="fail")
    strict.ti.run_id = "tuesday"
    assert "reused" not in strict.result()
    assert billed(fast_emulator) == 2
    (file,) = clip(f"{tmp_path}/fox.mp4", reuse="saved", checks="fail").result()["files"]
    assert file["facts"]["problems"] == []
    assert file["poster"] == f"{file['uri']}.jpg"
    assert billed(fast_emulator) == 2


@needs_airflow_3_3
@pytest.mark.parametrize("checks", ["warn", "fail"])
@pytest.mark.usefixtures("fast_emulator")
def test_only_a_worker_rejects_a_video_of_the_triggerer(
    supervisor: Supervisor, tmp_path: Path, checks: Any
) -> None:
    # The emulator returns 81 frames without a `frame_num`.
    destination = Destination.of(f"{tmp_path}/fox.mp4", values={"frame_num": 9})
    assert destination is not None
    row = replace(destination, checks=checks).as_json()
    event = events_of(VacePredictionTrigger(created(), end_from_trigger=True, destination=row), ti_of())
    files = event.payload["files"] if checks == "fail" else supervisor.left["return_value"]["files"]
    assert files[0]["facts"]["problems"]
    assert ("return_value" in supervisor.left) == (checks == "warn")


# --- a team's own rule -----------------------------------------------------------------------------


def _too_short(facts: VideoFacts, path: Path) -> str | None:
    assert path.stat().st_size
    return f"{facts.frames} frames are too few for us." if facts.frames < 81 else None


def _broken(facts: VideoFacts, path: Path) -> str | None:
    raise RuntimeError(f"no brand detector for {facts.codec} at {path.name[:1]}")


def _no_text(facts: VideoFacts, path: Path) -> bool:
    return facts.frames > 0 and path.exists()


@pytest.mark.parametrize("save_to", ["fox.mp4", "memory://b/clips/"])
@pytest.mark.usefixtures("fast_emulator")
def test_a_teams_rule_rejects_a_video(tmp_path: Path, memory: Any, save_to: str) -> None:
    memory.mkdir("/b")
    place = save_to if "://" in save_to else f"{tmp_path}/{save_to}"
    task = clip(place, check=_too_short, checks="fail")
    assert "9 frames are too few for us." in str(failure_of(task))


@EACH_MODE
@pytest.mark.parametrize(("rule", "reason"), [(_broken, "no brand detector"), (_no_text, "TypeError")])
@pytest.mark.usefixtures("fast_emulator")
def test_a_rule_that_crashes_costs_no_video(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], rule: Any, reason: str, mode: str
) -> None:
    if mode == "triggerer":
        pytest.skip("a rule runs on a worker")
    (file,) = clip(f"{tmp_path}/fox.mp4", check=rule, checks="fail", **MODES[mode]).result()["files"]
    assert file["facts"]["problems"] == []
    assert path_of(file).exists()
    assert reason in capfd.readouterr().out


async def _async_rule(facts: VideoFacts, path: Path) -> str | None:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"checks": "strict"}, "it must be 'off' or 'warn' or 'fail'"),
        ({"check": "black"}, "it must be a plain function"),
        ({"check": _async_rule}, "it must be a plain function"),
        ({"check": _too_short, "checks": "off"}, "no effect with checks='off'"),
        ({"check": _too_short, "deferrable": True, "save_in": "triggerer"}, "runs on a worker"),
        ({"checks": "fail", "save_to": None}, "checks need save_to"),
        ({"check": _too_short, "save_to": None}, "checks need save_to"),
    ],
)
def test_a_mistake_is_an_error_when_airflow_reads_the_dag(given: dict[str, Any], reason: str) -> None:
    values: dict[str, Any] = {"task_id": "t", "save_to": "/data/clips/", **given}
    with pytest.raises(ValueError, match=reason):
        VacePredictionOperator(**{"input": FOX, "wait_for_completion": True, **values})
    with pytest.raises(ValueError, match=reason):
        VacePredictionSensor(**{"prediction": "abc", **values})
    if values["save_to"] is not None:
        with pytest.raises(ValueError, match=reason):
            VaceBatchOperator(**{"inputs": ["a fox"], **values})


# --- without the extra -----------------------------------------------------------------------------


@EACH_MODE
def test_without_the_extra_videos_are_saved_as_before(
    films: Callable[[str], None], tmp_path: Path, without_av: Callable[[], None], mode: str
) -> None:
    films("black")
    without_av()
    (file,) = clip(f"{tmp_path}/clips/", **MODES[mode]).result()["files"]
    assert file.keys() == {"uri", "size", "sha256", "content_type"}
    assert sorted(path.suffix for path in path_of(file).parent.iterdir()) == [".json", ".mp4"]


@pytest.mark.parametrize("given", [{"checks": "warn"}, {"checks": "fail"}, {"check": _too_short}])
def test_without_the_extra_checks_fail_before_anything_is_paid(
    fast_emulator: Emulator, tmp_path: Path, without_av: Callable[[], None], given: dict[str, Any]
) -> None:
    without_av()
    tasks = [clip(f"{tmp_path}/", Store(), **given), batch(tmp_path, Store(), **given)]
    for task in tasks:
        failure = str(failure_of(task))
        assert "pip install 'airflow-provider-vace[video]'" in failure
        assert "no package av here" in failure
    assert billed(fast_emulator) == 0


def test_a_triggerer_without_the_extra_leaves_strict_saves_to_a_worker(
    fast_emulator: Emulator,
    films: Callable[[str], None],
    tmp_path: Path,
    without_av: Callable[[], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    films("black")
    fast_emulator.world.time_scale = 100.0

    def end_without_av() -> None:
        without_av()
        end_all(fast_emulator)

    task = clip(f"{tmp_path}/fox.mp4", Store(), checks="fail", **MODES["triggerer"])
    with pytest.raises(AirflowFailException, match="was not checked"):
        task.result(between=end_without_av)
    assert "Not saved in the triggerer, a worker tries it again" in capfd.readouterr().out


def test_a_sensor_without_the_extra_saves_the_paid_video_first(
    fast_emulator: Emulator, films: Callable[[str], None], tmp_path: Path, without_av: Callable[[], None]
) -> None:
    films("black")
    without_av()
    task = sensed(fast_emulator, f"{tmp_path}/clips/", checks="fail")
    failure = str(failure_of(task))
    (saved,) = tmp_path.rglob("t-*.mp4")
    assert saved.as_uri() in failure
    assert "was not checked" in failure
    assert "pip install" in failure


# --- batches ---------------------------------------------------------------------------------------


def _not_nine_frames(facts: VideoFacts, path: Path) -> str | None:
    return "Nine frames are a draft." if facts.frames == 9 and path.exists() else None


ROWS = [{"sku": f"TR-{number}", "prompt": "fox", "frame_num": 9 if number == 2 else 5} for number in range(4)]


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_batch_fails_the_item_whose_video_has_a_problem(
    fast_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    given: dict[str, Any] = {"inputs": ROWS, "key": "sku", "min_success": 3, "deferrable": deferrable}
    task = batch(tmp_path, Store(), check=_not_nine_frames, checks="fail", **given)
    result = task.result()
    assert (result["counts"]["succeeded"], result["counts"]["failed"]) == (3, 1)
    rows = {row["key"]: row for row in rows_of(result)}
    assert "Nine frames are a draft." in rows["TR-2"]["error"]
    (file,) = rows["TR-2"]["files"]
    assert file["facts"]["problems"] == ["Nine frames are a draft."]
    assert path_of(file).stat().st_size == file["size"]
    assert rows["TR-1"]["files"][0]["facts"].items() >= {"frames": 5, "black_share": 0.0}.items()
    again = task.cleared().result()
    assert again["counts"] == result["counts"]
    task.make = batch(tmp_path, **given).make
    accepted = task.cleared().result()
    assert accepted["counts"]["succeeded"] == 4
    assert billed(fast_emulator) == 4


def test_a_batch_in_the_triggerer_fails_items_with_problems(
    fast_emulator: Emulator, films: Callable[[str], None], tmp_path: Path
) -> None:
    films("black")
    given: dict[str, Any] = {"inputs": ROWS, "key": "sku", "checks": "fail", **MODES["triggerer"]}
    task = batch(tmp_path, Store(), **given)
    failure = str(failure_of(task))
    assert "0 of 4 items succeeded" in failure
    assert "No retry can improve these" in failure
    assert "black" in failure
    assert len(list(tmp_path.glob("TR-*.mp4"))) == 4
    failure_of(task.retried())
    assert billed(fast_emulator) == 4


def test_records_of_a_checked_batch_fit_into_the_state_store(
    fast_emulator: Emulator, films: Callable[[str], None], tmp_path: Path
) -> None:
    films("black")
    rows = [{"prompt": "a fox", "frame_num": 9}] * 32
    store = Store()
    rows_of(batch(tmp_path, store, inputs=rows).result())
    (chunk,) = [value for key, value in store.rows.items() if key.startswith("vace_batch_")]
    assert len(chunk) < 64 * 1024
    assert billed(fast_emulator) == 32
