"""Tasks with files: sources of inputs, destinations of videos, saves by worker and triggerer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_vace.exceptions import VaceInputError, VaceTransportError
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.storage.destination import Destination
from airflow_vace.task.trigger_saving import savers
from airflow_vace.triggers import VacePredictionTrigger
from conftest import scale_waits
from support.films import DATA_URL, MP4
from support.stores import files_in
from support.tasks import Run, Store

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry", "memory")

IN_TRIGGERER: dict[str, Any] = {"deferrable": True, "save_in": "triggerer"}


def operator(**kwargs: Any) -> VacePredictionOperator:
    given = {"task_id": "t", "input": {"prompt": "a fox", "frame_num": 5}, "wait_for_completion": True}
    return VacePredictionOperator(**{**given, **kwargs})


def clip(store: Store | None = None, **kwargs: Any) -> Run:
    return Run(partial(operator, **kwargs), store)


def sensed(emulator: Emulator, **kwargs: Any) -> Run:
    assert emulator.url
    created = VaceHook().create_prediction({"prompt": "a fox", "frame_num": 5, "seed": 3})
    given = {"task_id": "t", "prediction": created.payload(), "deferrable": True, **kwargs}
    return Run(partial(VacePredictionSensor, **given))


def later(emulator: Emulator) -> None:
    """Let the first look of a task find its prediction under way, so that it defers."""
    emulator.faults.add(method="GET", path="*/predictions/*", patch={"status": "processing", "output": None})


# --- saved in the triggerer ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["operator", "sensor"])
def test_the_triggerer_saves_and_no_worker_fetches_again(
    fast_emulator: Emulator, memory: Any, kind: str
) -> None:
    given = {**IN_TRIGGERER, "save_to": "memory://b/clips/"}
    memory.mkdir("/b")
    task = clip(**given) if kind == "operator" else sensed(fast_emulator, **given)
    later(fast_emulator)
    seen: list[int] = []

    def gone() -> None:
        seen.append(len(files_in(memory)))
        fast_emulator.faults.add(path="/_delivery/*", skip=1, times=None, status=404)

    payload = task.result(between=gone)
    assert len(task.deferred) == 1
    assert seen == [0]
    (file,) = payload["files"]
    assert files_in(memory)[file["uri"].removeprefix("memory:/")]
    manifest = json.loads(files_in(memory)[file["uri"].removeprefix("memory:/") + ".json"])
    assert manifest["id"] == payload["id"]
    assert manifest["input"]["prompt"] == "a fox"
    assert manifest["task"] == {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    assert fast_emulator.bill["charged"] == 1


def test_a_worker_saves_after_a_failed_save_in_the_triggerer(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    memory.mkdir("/b")
    put = type(memory).put_file
    threads: list[str] = []

    def only_here(fs: Any, *args: Any, **options: Any) -> None:
        threads.append(threading.current_thread().name)
        if threads[-1].startswith("vace-save"):
            raise PermissionError("the triggerer may not write")
        put(fs, *args, **options)

    monkeypatch.setattr(type(memory), "put_file", only_here)
    later(fast_emulator)
    payload = clip(**IN_TRIGGERER, save_to="memory://b/clips/").result()
    assert payload["files"][0]["size"] > 0
    assert threads[0].startswith("vace-save")
    assert not threads[-1].startswith("vace-save")
    assert "a worker tries it again" in capfd.readouterr().out


def test_a_data_url_that_the_triggerer_saved_is_in_no_event(slow_emulator: Emulator, memory: Any) -> None:
    memory.mkdir("/b")
    patch = {"status": "succeeded", "output": DATA_URL}
    slow_emulator.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=patch)
    task = clip(**IN_TRIGGERER, save_to="memory://b/a.mp4")
    payload = task.result()
    assert files_in(memory)["/b/a.mp4"] == MP4
    assert payload["output"] is None
    assert payload["files"][0]["uri"] == "memory://b/a.mp4"


@pytest.mark.parametrize("given", [IN_TRIGGERER, {"deferrable": True}], ids=["triggerer", "worker"])
def test_files_in_a_list_are_all_saved(slow_emulator: Emulator, memory: Any, given: dict[str, Any]) -> None:
    memory.mkdir("/b")
    patch = {"status": "succeeded", "output": [DATA_URL, "none", DATA_URL]}
    slow_emulator.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=patch)
    task = clip(**given, save_to="memory://b/a.mp4")
    assert len(task.result()["files"]) == 2
    assert files_in(memory)["/b/a-2.mp4"] == MP4


def test_a_failure_saves_nothing(slow_emulator: Emulator, memory: Any) -> None:
    memory.mkdir("/b")
    slow_emulator.faults.add(
        method="GET", path="*/predictions*", skip=1, times=None, patch={"status": "failed", "error": "E1001"}
    )
    with pytest.raises(AirflowFailException):
        clip(**IN_TRIGGERER, save_to="memory://b/clips/").result()
    assert files_in(memory) == {}


def test_a_triggerer_limits_its_saves_and_its_loop_goes_on(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = VaceHook.timing.max_trigger_saves
    at_once, most, ticks, lock = 0, 0, 0, threading.Lock()
    enough = threading.Event()
    put = type(memory).put_file

    def slow(fs: Any, *args: Any, **options: Any) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        enough.wait(60)
        put(fs, *args, **options)
        with lock:
            at_once -= 1

    monkeypatch.setattr(type(memory), "put_file", slow)
    hook = VaceHook()
    created = [hook.create_prediction({"prompt": "a fox", "frame_num": 5}) for _ in range(9)]
    destination = Destination.of("memory://b/clips/")
    assert destination is not None

    async def tick() -> None:
        nonlocal ticks
        while not (most == limit and ticks > 20):
            ticks += 1
            await asyncio.sleep(0.01)
        enough.set()

    async def all_of() -> list[Any]:
        async def wait(prediction: Any) -> Any:
            trigger = VacePredictionTrigger(prediction.payload(), destination=destination.as_json())
            return [event.payload async for event in trigger.run()]

        *events, _ = await asyncio.gather(*(wait(p) for p in created), tick())
        return events

    events = asyncio.run(asyncio.wait_for(all_of(), 60))
    assert most == limit
    assert all(event["files"] for (event,) in events)
    assert fast_emulator.bill["charged"] == 9


def test_a_save_too_slow_for_the_triggerer_goes_to_a_worker(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    memory.mkdir("/b")
    scale_waits(monkeypatch, 0.01, max_trigger_save_seconds=0.2)
    over = threading.Event()
    put = type(memory).put_file

    def slow(fs: Any, *args: Any, **options: Any) -> None:
        if threading.current_thread().name.startswith("vace-save"):
            over.wait(60)
        put(fs, *args, **options)

    monkeypatch.setattr(type(memory), "put_file", slow)
    later(fast_emulator)
    task = clip(**IN_TRIGGERER, save_to="memory://b/clips/")
    try:
        assert task.result()["files"]
    finally:
        over.set()
    assert "not done within 0.2 s" in capfd.readouterr().out


@pytest.mark.usefixtures("fast_emulator")
def test_a_store_that_throws_anything_leaves_the_wait_its_end(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.mkdir("/b")

    def broken(*_: object, **__: object) -> None:
        raise LookupError("of a third-party library")

    monkeypatch.setattr(type(memory), "put_file", broken)
    created = VaceHook().create_prediction({"prompt": "a fox", "frame_num": 5})
    destination = Destination.of("memory://b/clips/")
    assert destination is not None
    trigger = VacePredictionTrigger(created.payload(), destination=destination.as_json())

    async def first() -> Any:
        return [event.payload async for event in trigger.run()]

    (event,) = asyncio.run(first())
    assert event["status"] == "succeeded"
    assert "files" not in event


def test_a_canceled_save_occupies_no_thread(fast_emulator: Emulator, memory: Any) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox", "frame_num": 5})
    fast_emulator.faults.add(path="/_delivery/*", times=None, drip=0.01)
    destination = Destination.of("memory://b/clips/")
    assert destination is not None

    async def cut_off() -> None:
        trigger = VacePredictionTrigger(created.payload(), destination=destination.as_json())
        task = asyncio.ensure_future(anext(trigger.run()))
        while not any("/_delivery/" in request.path for request in fast_emulator.requests):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cut_off())
    until = time.monotonic() + 20
    while savers(VaceHook.timing.max_trigger_saves)._work_queue.qsize() or any(
        t.name.startswith("vace-save") and _is_busy(t) for t in threading.enumerate()
    ):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert files_in(memory) == {}


def _is_busy(thread: threading.Thread) -> bool:
    import sys

    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "_fetch":
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize(
    "wrong",
    [
        {"save_in": "scheduler", "save_to": "/a/"},
        {"save_in": "triggerer", "deferrable": True},
        {"save_in": "triggerer", "save_to": "/a/", "deferrable": False},
    ],
    ids=str,
)
def test_a_place_of_saving_that_cannot_be_fails_at_import(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="save_in"):
        operator(**wrong)
    with pytest.raises(ValueError, match="save_in"):
        VacePredictionSensor(task_id="t", prediction="abc", **wrong)


# --- saved before ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["another place", "file deleted"])
def test_a_cleared_task_saves_again_where_its_file_is_not(
    fast_emulator: Emulator, tmp_path: Path, change: str
) -> None:
    store = Store()
    first = clip(store, save_to=f"{tmp_path}/a/")
    (file,) = first.result()["files"]
    Path(file["uri"].removeprefix("file://")).unlink()
    where = "b" if change == "another place" else "a"
    again = clip(store, save_to=f"{tmp_path}/{where}/")
    again.ti = first.cleared().ti
    again.context = {**first.context, "ti": again.ti}
    (saved,) = again.result()["files"]
    assert Path(saved["uri"].removeprefix("file://")).is_relative_to(tmp_path / where)
    assert Path(saved["uri"].removeprefix("file://")).stat().st_size == file["size"]
    assert fast_emulator.bill["charged"] == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_files_at_an_earlier_place_are_returned_after_their_hour(
    fast_emulator: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str], *, is_there: bool
) -> None:
    store = Store()
    first = clip(store, save_to=f"{tmp_path}/a/")
    files = first.result()["files"]
    fast_emulator.world.retention = 0.0
    again = clip(store, save_to=f"{tmp_path}/{'a' if is_there else 'b'}/")
    again.ti = first.cleared().ti
    again.context = {**first.context, "ti": again.ti}
    assert again.result()["files"] == files
    assert ("is not at save_to" in capfd.readouterr().out) is not is_there
    assert fast_emulator.bill["charged"] == 1


@pytest.mark.parametrize("name", ["", "fox.mp4"], ids=["directory", "file"])
def test_trouble_with_a_videos_description_loses_no_video(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the API server is away")

    task = clip(save_to=f"{tmp_path}/{name}", deferrable=True)
    later(fast_emulator)
    away = partial(monkeypatch.setattr, type(task.ti), "xcom_pull", broken)
    assert task.result(between=away)["files"]


# --- a store in trouble ----------------------------------------------------------------------------


@pytest.fixture
def broken_store(memory: Any, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """A store that can't be opened while there is an error in the list."""
    from airflow.sdk import ObjectStoragePath

    memory.mkdir("/b")
    trouble: list[Exception] = [RuntimeError("the metadata server is away")]

    def opened(text: str) -> Any:
        if trouble:
            raise trouble[0]
        return ObjectStoragePath(text)

    monkeypatch.setattr("airflow.sdk.ObjectStoragePath", opened)
    return trouble


def test_a_store_that_cannot_be_opened_costs_an_attempt_and_no_money(
    fast_emulator: Emulator, broken_store: list[Exception]
) -> None:
    task = clip(Store(), save_to="memory://b/clips/")
    with pytest.raises(VaceTransportError, match="metadata server is away"):
        task.result()
    assert fast_emulator.requests == []
    broken_store.clear()
    assert task.retried().result()["files"]
    assert fast_emulator.bill["charged"] == 1


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_sensor_waits_on_while_its_store_is_away(
    slow_emulator: Emulator,
    broken_store: list[Exception],
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    deferrable: bool,
) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox"})
    succeeded = {"status": "succeeded", "output": DATA_URL}
    slow_emulator.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=succeeded)

    def healed(*_: object) -> None:
        broken_store.clear()

    given: dict[str, Any] = {"save_to": "memory://b/a.mp4", "deferrable": deferrable, "poke_interval": 0.1}
    task = Run(partial(VacePredictionSensor, task_id="t", prediction=created.payload(), **given))
    if not deferrable:
        monkeypatch.setattr("airflow.sdk.bases.sensor.time.sleep", healed)
    assert task.result(between=healed)["files"]
    assert files_in(memory)["/b/a.mp4"] == MP4


# --- inputs ----------------------------------------------------------------------------------------


def test_a_file_is_uploaded_once_and_not_again_by_a_retry(
    slow_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/b/in.mp4", MP4)
    connection = slow_emulator.connection_to(backend="replicate")
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
    store = Store()
    task = clip(store, input={"prompt": "a fox", "src_video": "memory://b/in.mp4"}, wait_for_completion=False)
    first = task.result()
    memory.rm_file("/b/in.mp4")
    assert task.retried().result()["id"] == first["id"]
    uploads = [r for r in slow_emulator.requests if r.path == "/v1/files"]
    assert len(uploads) == 1
    (run,) = slow_emulator.world.runs.values()
    assert run.input["src_video"].startswith(f"{slow_emulator.url}/v1/files/")
    assert "/v1/files" not in str(store.rows)


def test_a_lost_create_is_found_by_the_url_of_its_input(
    slow_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/b/in.mp4", MP4)
    connection = slow_emulator.connection_to(backend="replicate")
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
    slow_emulator.faults.add("accepted_then_reset", path="*/predictions")
    values = {"prompt": "a fox", "src_video": "memory://b/in.mp4", "seed": 7}
    payload = clip(Store(), input=values, wait_for_completion=False).result()
    (charged,) = slow_emulator.bill["predictions"]
    assert payload["id"] == charged["id"]


def test_a_file_that_is_missing_costs_nothing(slow_emulator: Emulator, memory: Any) -> None:
    memory.mkdir("/b")
    store = Store()
    with pytest.raises(AirflowFailException, match="does not exist") as caught:
        clip(store, input={"prompt": "a fox", "src_video": "memory://b/none.mp4"}).result()
    assert isinstance(caught.value.__cause__, VaceInputError)
    assert slow_emulator.requests == []
    assert store.rows == {}


def test_signatures_in_an_input_are_masked_before_airflow_keeps_it(fast_emulator: Emulator) -> None:
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # Airflow tells of no other

    assert fast_emulator.url
    with DAG("d", schedule=None):
        task = operator(
            input={"prompt": "a fox", "src_video": "https://x.example/{{ name }}?Signature=abcdefghijklmnop0"}
        )
    task.render_template_fields({"name": "a.mp4"})  # type: ignore[typeddict-unknown-key]  # all that is rendered
    assert task.input["src_video"].endswith("/a.mp4?Signature=abcdefghijklmnop0")  # type: ignore[index]
    assert "abcdefghijklmnop0" not in str(redact(task.input))


# --- what Airflow is told --------------------------------------------------------------------------


def test_an_asset_event_has_address_and_origin_of_the_video(fast_emulator: Emulator, tmp_path: Path) -> None:
    asset, alias = Asset(name="clips", uri="x-clips://all"), AssetAlias("each_clip")
    task = clip(Store(), save_to=f"{tmp_path}/", outlets=[asset, alias])
    events = task.context["outlet_events"] = OutletEventAccessors()
    payload = task.result()
    (file,) = payload["files"]
    (run,) = fast_emulator.world.runs.values()
    extra = events[asset].extra
    assert extra == {
        "prediction_id": payload["id"],
        "uri": file["uri"],
        "sha256": file["sha256"],
        "seed": run.input["seed"],
        "metrics": payload["metrics"],
        "cost": {"amount": None, "currency": None, "basis": "unknown"},
        "files": [file],
        "map_index": None,
        "label": None,
    }
    (event,) = events[alias].asset_alias_events
    assert event.dest_asset_key.uri == file["uri"]
    assert event.extra == extra
    assert json.loads(json.dumps(extra)) == extra


def test_without_a_file_an_asset_event_names_the_prediction(fast_emulator: Emulator) -> None:
    asset, alias = Asset(name="clips", uri="x-clips://all"), AssetAlias("each_clip")
    task = sensed(fast_emulator, outlets=[asset, alias])
    events = task.context["outlet_events"] = OutletEventAccessors()
    payload = task.result()
    assert events[asset].extra["prediction_id"] == payload["id"]
    assert events[asset].extra["uri"] is None
    assert events[asset].extra["seed"] == 3
    assert events[alias].asset_alias_events == []


def test_lineage_gets_input_and_output_files(
    fast_emulator: Emulator, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []

    class Collector:
        def add_input_asset(self, context: object, uri: str) -> None:
            assert isinstance(context, VaceHook)
            told.append(("in", uri))

        def add_output_asset(self, context: object, uri: str) -> None:
            assert isinstance(context, VaceHook)
            told.append(("out", uri))

    where = "airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector"
    monkeypatch.setattr(where, Collector)
    memory.pipe_file("/b/in.mp4", MP4)
    payload = clip(
        input={"prompt": "a fox", "src_video": "memory://b/in.mp4", "frame_num": 5}, save_to=f"{tmp_path}/"
    ).result()
    assert told == [("in", "memory://b/in.mp4"), ("out", payload["files"][0]["uri"])]
    assert fast_emulator.bill["charged"] == 1

    def broken() -> None:
        raise RuntimeError("a plugin's own trouble")

    monkeypatch.setattr(where, broken)
    assert clip(save_to=f"{tmp_path}/").result()["files"]
