"""Destinations: names, checks before any payment, and saves to a store and a local directory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_vace.exceptions import PredictionExpired, VaceInputError, VaceTransportError
from airflow_vace.hooks import VaceHook
from airflow_vace.storage.destination import Destination
from airflow_vace.storage.paths import place_of
from airflow_vace.storage.save import save_output
from conftest import scale_waits
from support.films import DATA_URL, MP4
from support.saving import TASK, succeeded, to
from support.stores import files_in

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry", "any_connection", "memory")


def of_run(run_id: str) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(TASK), "run_id": run_id})


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (("d", "r", "t", -1), "d/r/t-abc.mp4"),
        (("d", "r", "group.t", 12), "d/r/group.t-12-abc.mp4"),
        (
            ("d", "scheduled__2026-11-22T00:00:00+00:00", "t", 0),
            "d/scheduled__2026-11-22T00_00_00_00_00/t-0-abc.mp4",
        ),
        (("ü", "../..", "a/b c", -1), "_/_/a_b_c-abc.mp4"),
        (("..", "x" * 999, "y" * 999, 3), f"_/{'x' * 150}/{'y' * 100}-3-abc.mp4"),
    ],
)
def test_a_name_is_made_of_the_task_and_safe_in_any_store(task: tuple[Any, ...], name: str) -> None:
    ti = SimpleNamespace(dag_id=task[0], run_id=task[1], task_id=task[2], map_index=task[3])
    for save_to, start in (("s3://b/clips/", None), ("memory://b/clips/", "memory://b/clips/")):
        if start:
            assert to(save_to, ti).place_of("abc", None, ".mp4").uri == start + name
    assert to("/clips/", ti).place_of("abc", None, ".mp4").uri == f"file:///clips/{name}"


def test_a_trigger_keeps_a_destination_as_json() -> None:
    values = {"prompt": "a fox", "src_video": "https://x.example/a.mp4?X-Amz-Signature=s3cr3t", "seed": 7}
    destination = to("memory://b/clips/", values=values)
    row = json.loads(json.dumps(destination.as_json()))
    assert Destination.from_json(row) == destination
    assert Destination.from_json({**row, "later": 1}) == destination
    assert "s3cr3t" not in str(row)


@pytest.mark.parametrize(
    ("save_to", "uri"),
    [
        ("memory://b/latest.mp4", "memory://b/latest.mp4"),
        ("memory://b/2026.11/latest.MP4", "memory://b/2026.11/latest.MP4"),
    ],
)
def test_a_files_name_is_the_authors(save_to: str, uri: str) -> None:
    assert to(save_to).place_of("abc", None, ".mp4").uri == uri
    several = to("memory://b/latest.mp4").place_of("abc", 2, ".mp4")
    assert several.uri == "memory://b/latest-2.mp4"


def test_path_objects_are_places_too(tmp_path: Path) -> None:
    from airflow.sdk import ObjectStoragePath

    in_store = to(ObjectStoragePath("memory://b/clips")).place_of("abc", None, ".mp4")
    assert in_store.uri == "memory://b/clips/d/r/t-abc.mp4"
    assert to(ObjectStoragePath("memory://b/a.mp4")).place_of("abc", None, ".mp4").uri == "memory://b/a.mp4"
    local = to(tmp_path / "new folder").place_of("abc", None, ".mp4")
    assert local.uri == f"file://{tmp_path}/new folder/d/r/t-abc.mp4"
    assert to(ObjectStoragePath(f"file://{tmp_path}/x")).save_to == f"file://{tmp_path}/x/"


@pytest.mark.parametrize(
    ("save_to", "said"),
    [
        ("nowhere://b/c/", "can't be opened here"),
        ("simplecache::memory://b/", "is no path"),
        ("memory:///clips/", "names no bucket"),
        ("memory://nobody@b/clips/", "nobody"),
    ],
)
def test_an_unusable_place_is_refused_before_any_payment(save_to: str, said: str) -> None:
    with pytest.raises(VaceInputError, match=said) as caught:
        to(save_to).check()
    assert caught.value.field == "save_to"


def test_a_store_that_cannot_be_opened_now_may_be_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the metadata server is away")

    monkeypatch.setattr("airflow.sdk.ObjectStoragePath", broken)
    with pytest.raises(VaceTransportError, match="metadata server is away") as caught:
        to("memory://b/clips/").check()
    assert not caught.value.sent


class HttpError(Exception):
    """The form of an error of gcsfs."""

    code = 403


@pytest.mark.parametrize("trouble", [PermissionError("no"), HttpError("no")])
def test_a_key_that_may_only_write_passes_with_a_warning(
    memory: Any, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def info(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(type(memory), "info", info)
    assert "can be written to is unknown" in str(to("memory://b/clips/").check())


def test_a_store_that_does_not_answer_may_answer_later(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def info(*_: object) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(type(memory), "info", info)
    with pytest.raises(VaceTransportError, match="did not answer") as caught:
        to("memory://b/clips/").check()
    assert not caught.value.sent


@pytest.mark.parametrize(
    "save_to", ["memory://clips.mp4", "s3://conn@bucket.mp4", "~nobody-of-that-name/clips/"]
)
def test_a_mistake_in_an_address_is_refused_before_any_payment(save_to: str) -> None:
    with pytest.raises(VaceInputError, match="save_to"):
        to(save_to)


def test_a_local_address_of_a_store_must_be_absolute_too() -> None:
    with pytest.raises(VaceInputError, match="is not absolute"):
        to("local://x/y/").check()


def test_a_directory_that_cannot_be_made_is_refused_before_any_payment(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file where the DAG's directory would be")
    with pytest.raises(VaceInputError, match="can't be written to"):
        to(f"{tmp_path}/").check()


def test_a_disk_that_fails_for_now_is_no_input_error(
    tmp_path: Path,
) -> None:
    destination = to(f"{tmp_path}/")
    destination.check()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(tmp_path, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, limits[1]))
    try:
        with pytest.raises(VaceTransportError, match="Too many open files") as caught:
            destination.check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not caught.value.sent


@pytest.mark.parametrize(
    ("save_to", "name"),
    [
        ("memory://b/clip.mp4", "clip-3.mp4"),
        ("memory://b/clip-3.mp4", "clip-3.mp4"),
        ("memory://b/3-clip.mp4", "3-clip.mp4"),
        ("memory://b/3-2026-11-03.mp4", "3-2026-11-03.mp4"),
        ("memory://b/2026-3-1.mp4", "2026-3-1-3.mp4"),
        ("memory://b/clip-30.mp4", "clip-30-3.mp4"),
        ("memory://b/003/clip.mp4", "clip-3.mp4"),
    ],
)
def test_the_files_of_mapped_instances_have_different_names(save_to: str, name: str) -> None:
    mapped = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=3)
    assert to(save_to, mapped).place_of("abc", None, ".mp4").name == name


def test_named_secrets_are_masked_and_prompts_stay() -> None:
    prompt = "Data: a fox, in snow\n\nas in http://x.example/a?sig=s3cr3t"
    values = {"prompt": prompt, "api_key": "hunter2", "nested": {"password": "hunter3"}}
    kept = to("memory://b/clips/", values=values).as_json()["input"]
    assert kept["prompt"] == "Data: a fox, in snow\n\nas in http://x.example/a?…"
    assert "hunter" not in str(kept)


def test_a_missing_bucket_is_refused_before_any_payment() -> None:
    with pytest.raises(VaceInputError, match="'b', which does not exist"):
        to("memory://b/clips/").check()


def test_a_store_without_credentials_is_refused_before_any_payment(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.mkdir("/b")
    monkeypatch.setattr(type(memory), "anon", True, raising=False)
    with pytest.raises(VaceInputError, match="without credentials; name an Airflow connection"):
        to("memory://b/clips/").check()


# --- saving in a store -----------------------------------------------------------------------------


def test_a_video_is_put_into_a_store_with_a_manifest_beside_it(memory: Any) -> None:
    prediction = succeeded(
        model="prunaai/vace-14b",
        version="1.0",
        created_at="2026-11-22T10:00:00Z",
        completed_at="2026-11-22T10:01:00Z",
        metrics={"predict_time": 60.5},
        input={"seed": 7},
    )
    values = {
        "prompt": "a fox",
        "src_video": "s3://aws_default@library/a.mp4",
        "src_mask": "s3://key:secret@library/a.mp4",
        "src_ref_images": ["https://s3cr3t@x.example/a.png?sig=s3cr3t", DATA_URL],
    }
    (file,) = save_output(VaceHook(), prediction, to("memory://b/clips/", values=values))
    digest = hashlib.sha256(MP4).hexdigest()
    assert file == {
        "uri": "memory://b/clips/d/r/t-abc.mp4",
        "size": len(MP4),
        "sha256": digest,
        "content_type": "video/mp4",
    }
    stored = files_in(memory)
    assert list(stored) == ["/b/clips/d/r/t-abc.mp4", "/b/clips/d/r/t-abc.mp4.json"]
    assert stored["/b/clips/d/r/t-abc.mp4"] == MP4
    manifest = json.loads(stored["/b/clips/d/r/t-abc.mp4.json"])
    assert manifest.pop("saved_at") > "2026"
    data = manifest["input"]["src_ref_images"].pop()
    assert data.startswith("data:video/mp4;sha256=")
    assert manifest == {
        "format": 1,
        "id": "abc",
        "model": "prunaai/vace-14b",
        "version": "1.0",
        "input": {
            "prompt": "a fox",
            "src_video": "s3://aws_default@library/a.mp4",
            "src_mask": "s3://library/a.mp4",
            "src_ref_images": ["https://x.example/a.png?…"],
        },
        "seed": 7,
        "label": None,
        "map_index": None,
        "output": 1,
        "outputs": 1,
        "metrics": {"predict_time": 60.5},
        "cost": None,
        "created_at": "2026-11-22T10:00:00Z",
        "started_at": None,
        "completed_at": "2026-11-22T10:01:00Z",
        "task": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1},
        **file,
    }


def test_a_saved_file_is_not_downloaded_again(fast_emulator: Emulator, object_store: Any) -> None:
    memory = object_store
    hook = VaceHook()
    prediction = hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox", "frame_num": 5}))
    first = save_output(hook, prediction, to("memory://b/clips/"))
    fast_emulator.faults.add(path="/_delivery/*", times=None, status=404)
    assert save_output(hook, prediction, to("memory://b/clips/")) == first
    # A killed attempt wrote the video, but not the manifest.
    (manifest,) = [path for path in files_in(memory) if path.endswith(".json")]
    memory.rm_file(manifest)
    assert save_output(hook, prediction, to("memory://b/clips/")) == first
    assert manifest in files_in(memory)
    # An invalid manifest is replaced.
    memory.pipe_file(manifest, b"[")
    assert save_output(hook, prediction, to("memory://b/clips/")) == first


def test_without_a_manifest_a_possibly_partial_file_is_replaced(memory: Any) -> None:
    memory.pipe_file("/b/clips/d/r/t-abc.mp4", MP4[:20])
    (file,) = save_output(VaceHook(), succeeded(), to("memory://b/clips/"))
    assert file["size"] == len(MP4)
    assert files_in(memory)["/b/clips/d/r/t-abc.mp4"] == MP4


def test_a_connection_deleted_after_the_payment_is_no_input_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    destination = to("memory://b/clips/")

    def gone(*_: object, **__: object) -> None:
        raise AirflowNotFoundException("The conn_id `store` isn't defined")

    monkeypatch.setattr("airflow.sdk.ObjectStoragePath", gone)
    with pytest.raises(OSError, match="abc succeeded, but its video could not be written") as caught:
        save_output(VaceHook(), succeeded(), destination)
    assert "It is billed" in str(caught.value)


def test_a_fixed_name_goes_to_the_prediction_of_the_next_run(memory: Any) -> None:
    save_output(VaceHook(), succeeded("one"), to("memory://b/latest.mp4", of_run("r1")))
    place = to("memory://b/latest.mp4", of_run("r2"))
    other = MP4 + b"\0\0\0\x08free"
    url = "data:video/mp4," + "".join(f"%{byte:02x}" for byte in other)
    (file,) = save_output(VaceHook(), succeeded("two", url), place)
    stored = files_in(memory)
    assert list(stored) == ["/b/latest.mp4", "/b/latest.mp4.json"]
    assert stored["/b/latest.mp4"] == other
    assert json.loads(stored["/b/latest.mp4.json"])["id"] == "two"
    # The same prediction again, after its server has deleted it.
    gone = succeeded("two", "http://127.0.0.1:1/gone.mp4")
    assert save_output(VaceHook(), gone, place) == [file]


def test_several_outputs_have_a_manifest_each(memory: Any) -> None:
    save_output(VaceHook(), succeeded(output=[DATA_URL, DATA_URL]), to("memory://b/latest.mp4"))
    names = [path.rpartition("/")[2] for path in files_in(memory)]
    assert names == ["latest-1.mp4", "latest-1.mp4.json", "latest-2.mp4", "latest-2.mp4.json"]


class Watched:
    """Counts writes to a store, and lets the first ones fail halfway."""

    def __init__(self, store: Any, monkeypatch: pytest.MonkeyPatch, trouble: list[Exception | None]) -> None:
        self.store, self.trouble, self.calls = store, trouble, 0
        put = type(store).put_file

        def put_file(fs: Any, lpath: str, rpath: str, **options: Any) -> None:
            self.calls += 1
            trouble = self.trouble.pop(0) if self.trouble else None
            if trouble is not None:
                fs.pipe_file(rpath, Path(lpath).read_bytes()[:5])
                raise trouble
            put(fs, lpath, rpath, **options)

        monkeypatch.setattr(type(store), "put_file", put_file)


def test_a_failing_store_is_retried_and_shows_no_partial_file(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(memory, monkeypatch, [ConnectionError("reset"), RuntimeError("odd")])
    (file,) = save_output(VaceHook(), succeeded(), to("memory://b/clips/"))
    assert file["size"] == len(MP4)
    assert watched.calls == 4  # two failures, the video, its manifest
    assert [path.rpartition(".")[2] for path in files_in(memory)] == ["mp4", "json"]


@pytest.mark.parametrize(
    ("trouble", "calls"), [(RuntimeError("odd"), 3), (PermissionError("may not"), 1)], ids=["any", "refused"]
)
def test_a_store_that_refuses_writes_names_the_bill(
    memory: Any, monkeypatch: pytest.MonkeyPatch, trouble: Exception, calls: int
) -> None:
    watched = Watched(memory, monkeypatch, [trouble] * 9)
    with pytest.raises(OSError, match="abc succeeded, but its video could not be written") as caught:
        save_output(VaceHook(), succeeded(), to("memory://b/clips/"))
    assert watched.calls == calls
    for said in ("memory://b/clips/d/r/t-abc.mp4", "It is billed", "another save_to", str(trouble)):
        assert said in str(caught.value)
    assert files_in(memory) == {}


def test_a_store_that_keeps_less_than_it_got_is_an_error(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(memory).put_file

    def half(fs: Any, lpath: str, rpath: str, **options: Any) -> None:
        put(fs, lpath, rpath, **options)
        fs.pipe_file(rpath, b"half")

    monkeypatch.setattr(type(memory), "put_file", half)
    with pytest.raises(OSError, match=f"4 bytes are there of {len(MP4)}"):
        save_output(VaceHook(), succeeded(), to("memory://b/clips/"))


def test_a_deleted_output_is_expired_for_any_destination(fast_emulator: Emulator, memory: Any) -> None:
    fast_emulator.faults.add(path="/_delivery/*", status=404)
    with pytest.raises(PredictionExpired):
        save_output(
            VaceHook(), succeeded(output=f"{fast_emulator.url}/_delivery/abc/output.mp4"), to("memory://b/c/")
        )
    assert files_in(memory) == {}


def test_a_key_that_may_only_write_writes_again(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def info(*_: object, **__: object) -> None:
        raise PermissionError("may not look")

    monkeypatch.setattr(type(memory), "info", info)
    for _ in range(2):
        (file,) = save_output(VaceHook(), succeeded(), to("memory://b/clips/"))
        assert file["size"] == len(MP4)


def test_a_long_transfer_logs_its_progress(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = VaceHook()
    prediction = hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox", "frame_num": 5}))
    save_output(hook, prediction, to("memory://b/quick/"))
    assert "Fetched" not in capfd.readouterr().out
    scale_waits(monkeypatch, 1.0, slow_download_seconds=0.0)
    save_output(hook, prediction, to("memory://b/slow/"))
    logged = capfd.readouterr().out
    assert re.search(r"Fetched \d+ of \d+ MB", logged)
    assert re.search(r"Stored \d+ of \d+ MB", logged)
    assert re.search(rf"Saved prediction {prediction.id} as memory://b/slow/.* MB, sha256 ", logged)
    assert fast_emulator.bill["charged"] == 1
    assert files_in(memory)


# --- local files -----------------------------------------------------------------------------------


def test_only_old_temporary_files_are_deleted(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "d" / "r"
    folder.mkdir(parents=True)
    old, fresh = folder / ".t-abc.mp4.x1.part", folder / ".t-abc.mp4.x2.part"
    for part in (old, fresh):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    save_output(VaceHook(), succeeded(), to(f"{tmp_path}/"))
    assert sorted(path.name for path in folder.iterdir()) == [fresh.name, "t-abc.mp4", "t-abc.mp4.json"]


def test_a_place_reads_at_any_offset(tmp_path: Path, memory: Any) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    memory.pipe_file("/b/a", b"0123456789")
    for place in (place_of(str(tmp_path / "a"), "x"), place_of("memory://b/a", "x")):
        assert (place.size(), place.read(2, 3), place.read(8, 99)) == (10, b"234", b"89")
        with place.open() as file:
            assert file.read(4) == b"0123"
        assert place.renamed(lambda _: "none").size() is None
        assert place.parent.size() is None
