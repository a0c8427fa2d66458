"""Control videos, last frames and joined videos of files in stores, and their way into tasks."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from airflow.sdk import DAG, ObjectStoragePath, task
from PIL import Image

from airflow_vace import video as local_files
from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import normalize_input
from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from airflow_vace.video import VideoExtraMissing, VideoUnreadable, inspect
from airflow_vace.video_files import between, extend, inpaint, join, last_frame, local_copy, outpaint
from conftest import scale_waits
from support import clips
from support.runs import run, states, xcom
from support.stores import files_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clips.write(tmp_path / "clip.mp4", clips.pan(np.random.default_rng(3), 160, 96, 9), 1)


@pytest.fixture
def stored(memory: Any, clip: Path) -> str:
    """Return the address of the clip in a store."""
    memory.pipe_file("/b/in/clip.mp4", clip.read_bytes())
    return "memory://b/in/clip.mp4"


# --- control videos --------------------------------------------------------------------------------


def test_a_control_video_goes_from_store_to_store(
    memory: Any, clip: Path, stored: str, tmp_path: Path
) -> None:
    made = outpaint(stored, size="480*832", anchor="top", to="memory://b/control/")
    assert made == {
        "src_video": "memory://b/control/src_video.mp4",
        "src_mask": "memory://b/control/src_mask.mp4",
        "size": "480*832",
        "frame_num": 9,
    }
    here = local_files.outpaint(clip, size="480*832", anchor="top", to=tmp_path / "here")
    found = files_in(memory)
    assert found["/b/control/src_video.mp4"] == Path(here["src_video"]).read_bytes()
    assert found["/b/control/src_mask.mp4"] == Path(here["src_mask"]).read_bytes()
    values, doubts = normalize_input({**made, "prompt": "a fox"}, paths=True)
    assert (values["src_mask"], doubts) == (made["src_mask"], [])
    assert outpaint(stored, size="480*832", anchor="top", to="memory://b/control") == made
    assert files_in(memory) == found


MAKERS: list[tuple[Callable[..., Any], tuple[str, ...], dict[str, Any]]] = [
    (extend, ("clip.mp4",), {"frames": 9, "overlap": 5}),
    (between, ("clip.mp4", "last.png"), {"frames": 9}),
    (inpaint, ("clip.mp4",), {"box": (10, 10, 90, 60)}),
    (outpaint, ("clip.mp4",), {"size": "832*480"}),
]


@pytest.mark.parametrize(("make", "names", "options"), MAKERS, ids=lambda item: getattr(item, "__name__", ""))
def test_each_function_gives_the_files_of_its_local_twin(
    memory: Any, clip: Path, make: Any, names: tuple[str, ...], options: dict[str, Any]
) -> None:
    Image.new("RGB", (160, 96), "green").save(clip.with_name("last.png"))
    for name in names:
        memory.pipe_file(f"/b/{name}", clip.with_name(name).read_bytes())
    made = make(*(f"memory://b/{name}" for name in names), **options, to="memory://b/control/")
    twin = getattr(local_files, make.__name__)
    here = twin(*(clip.with_name(name) for name in names), **options, to=clip.with_name("here"))
    for field in ("src_video", "src_mask"):
        content = files_in(memory)[made[field].removeprefix("memory:/")]
        assert content == Path(here[field]).read_bytes()
    assert (made["size"], made["frame_num"]) == (here["size"], here["frame_num"])


def test_a_mask_may_be_in_another_place_than_the_video(memory: Any, clip: Path, tmp_path: Path) -> None:
    Image.new("L", (160, 96), 255).save(tmp_path / "mask.png")
    memory.pipe_file("/b/mask.png", (tmp_path / "mask.png").read_bytes())
    made = inpaint(clip, mask="memory://b/mask.png", to=tmp_path / "control")
    assert inspect(made["src_mask"]).frames == made["frame_num"] == 9
    assert made["src_mask"] == f"{tmp_path}/control/src_mask.mp4"


def test_local_paths_stay_local(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    monkeypatch.setenv("HOME", str(clip.parent))
    wanted = outpaint(clip, size="480*832", to=clip.parent / "control")
    assert wanted["src_video"] == f"{clip.parent}/control/src_video.mp4"
    for video, to in (
        ("clip.mp4", "control/"),
        ("~/clip.mp4", "~/control/"),
        (clip.as_uri(), f"file://{clip.parent}/control/"),
        (ObjectStoragePath(f"file://{clip}"), ObjectStoragePath(f"file://{clip.parent}/control")),
    ):
        assert outpaint(video, size="480*832", to=to) == wanted
    assert join(["clip.mp4", clip], to="long.mp4") == f"{clip.parent}/long.mp4"
    assert last_frame("clip.mp4", "last.png") == f"{clip.parent}/last.png"


def test_the_connection_of_the_target_reads_a_saved_file_of_the_same_bucket(
    memory: Any, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_vace.storage import paths

    monkeypatch.setenv("AIRFLOW_CONN_STORE", '{"conn_type": "generic"}')
    opened: list[str] = []
    open_store = paths._open_store

    def noted(text: str, conn_id: str, *rest: str) -> tuple[Any, str]:
        opened.append(conn_id)
        return memory, open_store(text.replace("store@", ""), "", *rest)[1]

    monkeypatch.setattr(paths, "_open_store", noted)
    made = outpaint(stored, size="480*832", to="memory://store@b/control/")
    assert made["src_mask"] == "memory://store@b/control/src_mask.mp4"
    assert opened == ["store", "store"]
    memory.pipe_file("/other/clip.mp4", files_in(memory)["/b/in/clip.mp4"])
    assert outpaint("memory://other/clip.mp4", size="480*832", to="memory://store@b/control") == made
    assert opened[2:] == ["store", ""]


# --- last frames, joined videos, copies ------------------------------------------------------------


def test_a_last_frame_and_a_joined_video_go_to_a_store(memory: Any, stored: str, clip: Path) -> None:
    assert last_frame(stored, "memory://b/last.png") == "memory://b/last.png"
    local_files.last_frame(clip, clip.with_name("last.png"))
    assert files_in(memory)["/b/last.png"] == clip.with_name("last.png").read_bytes()
    assert join([stored, str(clip)], overlap=4, to="memory://b/long.mp4") == "memory://b/long.mp4"
    with local_copy("memory://b/long.mp4") as path:
        assert path.suffix == ".mp4"
        assert inspect(path).frames == 14
    assert not path.exists()
    with local_copy(clip.as_uri()) as path:
        assert path == clip


# --- trouble ---------------------------------------------------------------------------------------


def test_a_failed_upload_leaves_no_file_under_the_name(
    memory: Any, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 0.001)
    seen: list[list[str]] = []
    put = type(memory).put_file

    def half(store: Any, source: str, target: str, **options: Any) -> None:
        Path(source).write_bytes(Path(source).read_bytes()[:100])
        put(store, source, target, **options)
        seen.append([name for name in files_in(memory) if "/control/src_" in name])
        raise OSError("no space")

    monkeypatch.setattr(type(memory), "put_file", half)
    with pytest.raises(OSError, match=r"memory://b/control/src_mask.mp4 could not be written.*no space"):
        outpaint(stored, size="480*832", to="memory://b/control/")
    assert seen == [[]] * 3
    assert list(files_in(memory)) == ["/b/in/clip.mp4"]


def test_a_failed_upload_is_repeated(memory: Any, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 0.001)
    failures = [OSError("busy"), OSError("busy")]
    put = type(memory).put_file

    def sometimes(store: Any, source: str, target: str, **options: Any) -> None:
        if failures:
            raise failures.pop()
        put(store, source, target, **options)

    monkeypatch.setattr(type(memory), "put_file", sometimes)
    outpaint(stored, size="480*832", to="memory://b/control/")
    assert [name for name in files_in(memory) if "src" in name] == [
        "/b/control/src_mask.mp4",
        "/b/control/src_video.mp4",
    ]


def test_a_file_that_arrives_incomplete_is_not_used(
    memory: Any, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(files_in(memory)["/b/in/clip.mp4"])
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: {"type": "file", "size": size + 1})
    with pytest.raises(OSError, match=rf"clip.mp4 could not be read .*{size} bytes came of {size + 1}"):
        last_frame(stored, "memory://b/last.png")
    assert list(files_in(memory)) == ["/b/in/clip.mp4"]


@pytest.mark.parametrize(
    ("video", "to", "words"),
    [
        ("memory://b/absent.mp4", "memory://b/control/", "video is .*absent.mp4.* does not exist"),
        ("https://example.com/clip.mp4", "memory://b/control/", "video is .*is no path"),
        ("memory://b/in/clip.mp4", "nowhere://b/control/", "to is .*can't be opened here"),
        ("memory://b/in/clip.mp4", None, "to is None, which is no path"),
        (7, "memory://b/control/", "video is 7, which is no path"),
        ("memory://b/in/clip.mp4", "memory://absent@b/control/", "to is memory://b/control/.*connection"),
    ],
)
@pytest.mark.usefixtures("stored")
def test_an_unusable_address_is_named(memory: Any, video: Any, to: Any, words: str) -> None:
    with pytest.raises(VaceInputError, match=words):
        outpaint(video, size="480*832", to=to)
    assert list(files_in(memory)) == ["/b/in/clip.mp4"]


def test_a_file_is_not_written_over_a_directory(memory: Any, stored: str, tmp_path: Path) -> None:
    for to in ("memory://b/out/", f"{tmp_path}/new/", tmp_path):
        for make in (
            partial(last_frame, stored),
            partial(join, [stored]),
        ):
            with pytest.raises(VaceInputError, match="is a directory") as caught:
                make(to=to)
            assert caught.value.field == "to"
    assert list(files_in(memory)) == ["/b/in/clip.mp4"]


def test_a_mistake_in_the_numbers_writes_nothing(memory: Any, stored: str, clip: Path) -> None:
    with pytest.raises(VaceInputError, match="frames is not of the form"):
        extend(stored, frames=10, to="memory://b/control/")
    with pytest.raises(VaceInputError, match="is not a list of files"):
        join(stored, to="memory://b/long.mp4")
    with pytest.raises(VideoUnreadable, match="cannot be decoded"):
        last_frame(clip.with_name("absent.mp4"), "memory://b/last.png")
    assert list(files_in(memory)) == ["/b/in/clip.mp4"]


def test_the_local_functions_name_the_module_for_stores(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    for call in (
        lambda: local_files.outpaint("s3://b/clip.mp4", size="480*832", to="control"),
        lambda: local_files.outpaint(clip, size="480*832", to="s3://b/control/"),
        lambda: local_files.join([clip], to="s3://b/long.mp4"),
        lambda: local_files.inspect("s3://b/clip.mp4"),
    ):
        with pytest.raises(VaceInputError, match=r"s3://b/.*airflow_vace\.video_files"):
            call()
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]
    assert inspect(clip.as_uri()).frames == 9


def test_a_worker_without_the_extra_says_what_to_install(
    stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoExtraMissing, match=r"pip install 'airflow-provider-vace\[video\]'"):
        outpaint(stored, size="480*832", to="memory://b/control/")


# --- tasks -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("airflow_db")
def test_a_task_hands_its_control_video_to_operator_and_batch(
    fast_emulator: Emulator, stored: str, connect: Callable[[str], None]
) -> None:
    connect(fast_emulator.connection_to(backend="replicate"))
    with DAG("control_in_store", schedule=None) as dag:

        @task
        def control() -> dict[str, Any]:
            return {**extend(stored, frames=9, overlap=5, to="memory://b/control/"), "prompt": "a fox"}

        @task
        def rows() -> list[dict[str, Any]]:
            return [
                {
                    **outpaint(stored, size="480*832", to=f"memory://b/rows/{name}/"),
                    "prompt": name,
                    "name": name,
                }
                for name in ("one", "two")
            ]

        VacePredictionOperator(
            task_id="clip",
            input=control(),  # type: ignore[arg-type]  # Airflow resolves it before the call
            wait_for_completion=True,
            save_to="memory://b/out/",
        )
        VaceBatchOperator(task_id="batch", inputs=rows(), key="name", save_to="memory://b/batch/")
    found = run(dag)
    assert set(states(found).values()) == {"success"}
    assert fast_emulator.bill["charged"] == 3
    for made in fast_emulator.world.runs.values():
        assert made.input["src_video"].startswith(fast_emulator.url)
        assert made.input["src_mask"].startswith(fast_emulator.url)
        assert made.input["frame_num"] == 9
    assert xcom(found, "control")["src_video"] == "memory://b/control/src_video.mp4"
    # The address of a saved file is a source.
    with local_copy(xcom(found, "clip")["files"][0]["uri"]) as path:
        facts = inspect(path)
    assert (facts.width, facts.height, facts.frames) == (832, 480, 9)
