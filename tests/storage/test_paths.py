from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_vace.exceptions import PredictionExpired, VaceInputError, VaceTransportError
from airflow_vace.hooks import VaceHook
from airflow_vace.prediction import Prediction
from airflow_vace.storage.destination import Destination
from airflow_vace.storage.paths import Place
from airflow_vace.storage.save import save_output
from support.films import DATA_URL, MP4
from support.stores import files_in

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry", "any_connection", "memory")

TASK = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)


def to(save_to: Any, ti: Any = TASK, values: dict[str, Any] | None = None) -> Destination:
    destination = Destination.of(save_to, ti, values)
    assert destination is not None
    return destination


def told(identifier: str = "abc", output: Any = DATA_URL, **more: Any) -> Prediction:
    return Prediction.from_json({"id": identifier, "status": "succeeded", "output": output, **more})


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
    assert to("/clips/", ti).place_of("abc", None, ".mp4").local == Path("/clips") / name


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
    assert local.local == tmp_path / "new folder" / "d" / "r" / "t-abc.mp4"
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
def test_what_cannot_be_written_to_is_refused_before_money_is_spent(save_to: str, said: str) -> None:
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
    """As gcsfs has it."""

    code = 403


@pytest.mark.parametrize("trouble", [PermissionError("no"), HttpError("no")])
def test_whoever_may_only_write_is_believed_with_a_word(
    memory: Any, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def info(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(type(memory), "info", info)
    assert "could not be told" in str(to("memory://b/clips/").check())


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
def test_a_slip_in_an_address_is_told_before_money_is_spent(save_to: str) -> None:
    with pytest.raises(VaceInputError, match="save_to"):
        to(save_to)


def test_a_local_address_of_a_store_must_be_absolute_too() -> None:
    with pytest.raises(VaceInputError, match="is not absolute"):
        to("local://x/y/").check()


def test_a_directory_of_the_name_that_cannot_be_made_is_told_before_money_is_spent(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file where the DAG's directory would be")
    with pytest.raises(VaceInputError, match="can't be written to"):
        to(f"{tmp_path}/").check()


def test_a_disk_that_is_full_for_now_is_no_error_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("airflow_vace.storage.paths.tempfile.TemporaryFile", full)
    with pytest.raises(VaceTransportError, match="No space left"):
        to(f"{tmp_path}/").check()


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
def test_the_files_of_a_mapped_task_are_told_apart(save_to: str, name: str) -> None:
    mapped = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=3)
    assert to(save_to, mapped).place_of("abc", None, ".mp4").name == name


def test_what_is_named_a_secret_is_kept_nowhere_and_a_prompt_is_kept_as_it_is() -> None:
    prompt = "Data: a fox, in snow\n\nas in http://x.example/a?sig=s3cr3t"
    values = {"prompt": prompt, "api_key": "hunter2", "nested": {"password": "hunter3"}}
    kept = to("memory://b/clips/", values=values).as_json()["input"]
    assert kept["prompt"] == "Data: a fox, in snow\n\nas in http://x.example/a?…"
    assert "hunter" not in str(kept)


def test_a_bucket_that_does_not_exist_is_told_before_money_is_spent() -> None:
    with pytest.raises(VaceInputError, match="'b', which does not exist"):
        to("memory://b/clips/").check()


def test_a_store_without_credentials_is_told_before_money_is_spent(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.mkdir("/b")
    monkeypatch.setattr(type(memory), "anon", True, raising=False)
    with pytest.raises(VaceInputError, match="without credentials; name an Airflow connection"):
        to("memory://b/clips/").check()


# --- saving in a store -----------------------------------------------------------------------------


def test_a_video_is_put_into_a_store_with_a_manifest_beside_it(memory: Any) -> None:
    prediction = told(
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
        "created_at": "2026-11-22T10:00:00Z",
        "started_at": None,
        "completed_at": "2026-11-22T10:01:00Z",
        "task": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1},
        **file,
    }


def test_what_is_there_already_is_not_fetched_again(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_vace.storage.paths._ATOMIC", {"memory"})
    hook = VaceHook()
    prediction = hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox", "frame_num": 5}))
    first = save_output(hook, prediction, to("memory://b/clips/"))
    fast_emulator.faults.add(path="/_delivery/*", times=None, status=404)
    assert save_output(hook, prediction, to("memory://b/clips/")) == first
    # Without its manifest, which an attempt that was killed did not come to write:
    (manifest,) = [path for path in files_in(memory) if path.endswith(".json")]
    memory.rm_file(manifest)
    assert save_output(hook, prediction, to("memory://b/clips/")) == first
    assert manifest in files_in(memory)
    # A manifest that is none is written anew.
    memory.pipe_file(manifest, b"[")
    assert save_output(hook, prediction, to("memory://b/clips/")) == first


def test_where_a_file_may_be_half_one_it_is_not_believed_without_its_manifest(memory: Any) -> None:
    memory.pipe_file("/b/clips/d/r/t-abc.mp4", MP4[:20])
    (file,) = save_output(VaceHook(), told(), to("memory://b/clips/"))
    assert file["size"] == len(MP4)
    assert files_in(memory)["/b/clips/d/r/t-abc.mp4"] == MP4


def test_a_store_whose_connection_is_gone_after_the_money_is_no_error_of_the_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    destination = to("memory://b/clips/")

    def gone(*_: object, **__: object) -> None:
        raise AirflowNotFoundException("The conn_id `store` isn't defined")

    monkeypatch.setattr("airflow.sdk.ObjectStoragePath", gone)
    with pytest.raises(OSError, match="abc succeeded, but its video could not be written") as caught:
        save_output(VaceHook(), told(), destination)
    assert "It is billed" in str(caught.value)


def test_a_name_that_is_always_the_same_is_taken_over_by_the_next_prediction(memory: Any) -> None:
    place = to("memory://b/latest.mp4")
    save_output(VaceHook(), told("one"), place)
    other = MP4 + b"\0\0\0\x08free"
    url = "data:video/mp4," + "".join(f"%{byte:02x}" for byte in other)
    (file,) = save_output(VaceHook(), told("two", url), place)
    stored = files_in(memory)
    assert list(stored) == ["/b/latest.mp4", "/b/latest.mp4.json"]
    assert stored["/b/latest.mp4"] == other
    assert json.loads(stored["/b/latest.mp4.json"])["id"] == "two"
    # The same prediction again, although its server has forgotten it.
    gone = told("two", "http://127.0.0.1:1/gone.mp4")
    assert save_output(VaceHook(), gone, place) == [file]


def test_several_outputs_have_a_manifest_each(memory: Any) -> None:
    save_output(VaceHook(), told(output=[DATA_URL, DATA_URL]), to("memory://b/latest.mp4"))
    names = [path.rpartition("/")[2] for path in files_in(memory)]
    assert names == ["latest-1.mp4", "latest-1.mp4.json", "latest-2.mp4", "latest-2.mp4.json"]


class Watched:
    """Puts files into the store under a watch: which names were there after each step."""

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


def test_a_store_that_falters_is_tried_again_and_shows_no_half_file(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(memory, monkeypatch, [ConnectionError("reset"), RuntimeError("odd")])
    (file,) = save_output(VaceHook(), told(), to("memory://b/clips/"))
    assert file["size"] == len(MP4)
    assert watched.calls == 4  # twice for naught, the video, its manifest
    assert [path.rpartition(".")[2] for path in files_in(memory)] == ["mp4", "json"]


@pytest.mark.parametrize(
    ("trouble", "calls"), [(RuntimeError("odd"), 3), (PermissionError("may not"), 1)], ids=["any", "refused"]
)
def test_a_store_that_takes_nothing_fails_with_what_it_means_for_the_bill(
    memory: Any, monkeypatch: pytest.MonkeyPatch, trouble: Exception, calls: int
) -> None:
    watched = Watched(memory, monkeypatch, [trouble] * 9)
    with pytest.raises(OSError, match="abc succeeded, but its video could not be written") as caught:
        save_output(VaceHook(), told(), to("memory://b/clips/"))
    assert watched.calls == calls
    for said in ("memory://b/clips/d/r/t-abc.mp4", "It is billed", "another save_to", str(trouble)):
        assert said in str(caught.value)
    assert files_in(memory) == {}


def test_a_store_that_keeps_less_than_it_was_given_is_not_believed(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(memory).put_file

    def half(fs: Any, lpath: str, rpath: str, **options: Any) -> None:
        put(fs, lpath, rpath, **options)
        fs.pipe_file(rpath, b"half")

    monkeypatch.setattr(type(memory), "put_file", half)
    with pytest.raises(OSError, match=f"4 bytes are there of {len(MP4)}"):
        save_output(VaceHook(), told(), to("memory://b/clips/"))


def test_an_expired_file_is_named_so_wherever_it_should_go(fast_emulator: Emulator, memory: Any) -> None:
    fast_emulator.faults.add(path="/_delivery/*", status=404)
    with pytest.raises(PredictionExpired):
        save_output(
            VaceHook(), told(output=f"{fast_emulator.url}/_delivery/abc/output.mp4"), to("memory://b/c/")
        )
    assert files_in(memory) == {}


def test_whoever_may_not_look_puts_the_file_there_anew(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def info(*_: object, **__: object) -> None:
        raise PermissionError("may not look")

    monkeypatch.setattr(type(memory), "info", info)
    for _ in range(2):
        (file,) = save_output(VaceHook(), told(), to("memory://b/clips/"))
        assert file["size"] == len(MP4)


def test_a_long_transfer_tells_how_far_it_is(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = VaceHook()
    prediction = hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox", "frame_num": 5}))
    save_output(hook, prediction, to("memory://b/quick/"))
    assert "Fetched" not in capfd.readouterr().out
    monkeypatch.setattr("airflow_vace.storage.download._TELL_SECONDS", 0.0)
    save_output(hook, prediction, to("memory://b/slow/"))
    logged = capfd.readouterr().out
    assert re.search(r"Fetched \d+ of \d+ MB", logged)
    assert re.search(r"Stored \d+ of \d+ MB", logged)
    assert re.search(rf"Saved prediction {prediction.id} as memory://b/slow/.* MB, sha256 ", logged)
    assert fast_emulator.bill["charged"] == 1
    assert files_in(memory)


# --- local files -----------------------------------------------------------------------------------


def test_what_a_killed_attempt_has_left_is_swept_up_and_what_a_running_one_writes_is_not(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "d" / "r"
    folder.mkdir(parents=True)
    old, fresh = folder / ".t-abc.mp4.x1.part", folder / ".t-abc.mp4.x2.part"
    for part in (old, fresh):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    save_output(VaceHook(), told(), to(f"{tmp_path}/"))
    assert sorted(path.name for path in folder.iterdir()) == [fresh.name, "t-abc.mp4", "t-abc.mp4.json"]


def test_a_place_reads_from_where_it_is_told(tmp_path: Path, memory: Any) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    memory.pipe_file("/b/a", b"0123456789")
    for place in (Place.of(str(tmp_path / "a"), "x"), Place.of("memory://b/a", "x")):
        assert (place.size(), place.read(2, 3), place.read(8, 99)) == (10, b"234", b"89")
        with place.open() as file:
            assert file.read(4) == b"0123"
        assert place.renamed(lambda _: "none").size() is None
        assert place.parent.size() is None
