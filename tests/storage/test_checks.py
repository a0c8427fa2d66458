"""Checks and posters during a save: what is measured, what is written, and trouble that costs no video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from airflow_vace.hooks import VaceHook
from airflow_vace.storage import save
from airflow_vace.storage.checks import packed, unpacked
from airflow_vace.storage.destination import Destination
from airflow_vace.video import VideoFacts
from support.saving import to
from support.stores import files_in

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction

FACTS = VideoFacts(
    width=832,
    height=480,
    frames=81,
    declared_frames=81,
    fps=16.0,
    seconds=5.062,
    codec="h264",
    has_audio=False,
    brightness=0.3,
    black_share=0.0,
    single_colour_share=0.0,
    frozen_share=0.0,
    longest_freeze=0.0,
    stutter_share=0.0,
    grey_area_share=0.0,
    black_area_share=0.0,
    damaged_frames=0,
    decode_error=None,
).as_json()


def made() -> Prediction:
    hook = VaceHook()
    return hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox", "frame_num": 5}))


def saved(prediction: Prediction, destination: Destination | Path) -> dict[str, Any]:
    (file,) = save.save_output(VaceHook(), prediction, destination)  # type: ignore[arg-type]
    return file


def at(save_to: str, **more: Any) -> Destination:
    return replace(to(save_to), **{"checks": "warn", **more})


# --- posters ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fast_emulator")
def test_a_poster_stands_beside_a_local_video(tmp_path: Path) -> None:
    file = saved(made(), at(f"{tmp_path}/fox.mp4"))
    assert file["poster"] == f"file://{tmp_path}/fox.mp4.jpg"
    poster = tmp_path / "fox.mp4.jpg"
    assert poster.stat().st_size < 25_000
    with Image.open(poster) as image:
        assert image.size == (640, 369)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox.mp4", "fox.mp4.jpg", "fox.mp4.json"]


@pytest.mark.usefixtures("fast_emulator")
def test_a_poster_stands_beside_a_video_in_a_store(object_store: Any) -> None:
    file = saved(made(), at("memory://b/fox.mp4"))
    assert file["poster"] == "memory://b/fox.mp4.jpg"
    assert files_in(object_store)["/b/fox.mp4.jpg"].startswith(b"\xff\xd8")


@pytest.mark.usefixtures("fast_emulator")
def test_a_saved_image_of_the_same_name_stays(tmp_path: Path) -> None:
    still = tmp_path / "fox.jpg"
    still.write_bytes(b"paid for")
    saved(made(), at(f"{tmp_path}/fox.mp4"))
    assert still.read_bytes() == b"paid for"


@pytest.mark.usefixtures("fast_emulator")
def test_a_poster_that_cannot_be_written_costs_no_video(tmp_path: Path) -> None:
    (tmp_path / "fox.mp4.jpg" / "occupied").mkdir(parents=True)
    file = saved(made(), at(f"{tmp_path}/fox.mp4"))
    assert "poster" not in file
    assert (tmp_path / "fox.mp4").stat().st_size == file["size"]


@pytest.mark.usefixtures("fast_emulator")
def test_a_later_attempt_names_the_poster_again(tmp_path: Path) -> None:
    prediction, destination = made(), at(f"{tmp_path}/clips/")
    first = saved(prediction, destination)
    assert saved(prediction, destination) == first
    # A killed attempt wrote the video, but not the manifest.
    Path(first["uri"].removeprefix("file://") + ".json").unlink()
    assert saved(prediction, destination) == first


# --- rows and records ------------------------------------------------------------------------------


def test_a_trigger_row_has_the_mode_but_no_function() -> None:
    destination = at("/data/clips/", checks="fail", rule=lambda facts, path: f"{facts} {path}")
    assert destination.as_json()["checks"] == "fail"
    assert "rule" not in destination.as_json()
    assert Destination.from_json(destination.as_json()).checks == "fail"
    unchecked = at("/data/clips/", checks="off").as_json()
    assert "checks" not in unchecked
    assert Destination.from_json(unchecked).checks == "off"


@pytest.mark.parametrize(
    "facts",
    [
        {**FACTS, "problems": []},
        {**FACTS, "declared_frames": None, "problems": []},
        {**FACTS, "declared_frames": 90, "damaged_frames": 9, "problems": ["9 frames are damaged."]},
        {"problems": ["The video cannot be decoded: Invalid data."]},
    ],
)
def test_a_record_keeps_all_facts_in_a_short_form(facts: dict[str, Any]) -> None:
    files: list[dict[str, Any]] = [
        {"uri": "s3://b/fox.mp4", "size": 7, "facts": facts, "poster": "s3://b/fox.mp4.jpg"},
        {"uri": "s3://b/fox.txt"},
    ]
    assert unpacked(packed(files)) == files
    assert len(str(packed(files)[0]["facts"])) < 220
