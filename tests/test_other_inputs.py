"""Files in the inputs of models other than prunaai/vace-14b."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import normalize_input
from airflow_vace.other_inputs import names_file

MODEL = "owner/speech"


@pytest.mark.parametrize(
    "text",
    [
        "s3://conn@bucket/a.wav",
        " S3://bucket/my clip.mp4 ",
        "gs://bucket/a",
        "abfs://c@container/a",
        "file:///data/a b.txt",
        "file:/etc/passwd",
        "simplecache::s3://bucket/a",
        "zip://a.mp4::file:///data/a.zip",
        "/data/clip.mp4",
        "/data/frames/001.PNG",
        "/data/my clip.mp4",
        "~/clip.mp4",
        "./my clip.mov",
        "../a/b.wav",
    ],
)
def test_the_address_of_a_store_or_a_media_file_is_a_path(text: str) -> None:
    assert names_file(text)
    with pytest.raises(VaceInputError, match=r"'scene\.refs\[1\]' is a path") as caught:
        normalize_input({"prompt": "x", "scene": {"refs": ["https://x/a.png", text]}}, model=MODEL)
    assert caught.value.field == "scene.refs[1]"
    assert normalize_input({"x": text}, model=MODEL, paths=True)[0] == {"x": text}


@pytest.mark.parametrize(
    "text",
    [
        "/imagine a fox",
        "/",
        "/data/weights.safetensors",
        "a/b.png",
        "a fox in /data/clip.mp4",
        "/imagine a fox in clip.mp4",
        "... and then a.mp4",
        "~ a.mp4",
        "https://x.example/a.mp4",
        "data:image/png;base64,AA",
        "hf://owner/weights",
        "rtmp://x.example/live",
        "s3://bucket is where it lies\nand more",
        "compare s3://a/b with gs://c/d",
        "write to me@x.example",
        "/x" * 5000,
    ],
)
def test_a_text_about_files_stays_text(text: str) -> None:
    assert not names_file(text)
    assert normalize_input({"prompt": text, "n": 5}, model=MODEL)[0] == {"prompt": text, "n": 5}


def test_an_existing_file_of_any_suffix_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "some notes"
    path.write_text("x")
    assert names_file(str(path), lambda text: Path(text).is_file())
    assert not names_file(f"{path} and more", lambda text: Path(text).is_file())


@pytest.mark.parametrize(
    "text",
    [
        "look at s3://conn@bucket/a.mp4",
        '["s3://bucket/a.png", "s3://bucket/b.png"]',
        "{'video': 'gs://bucket/a.mp4'}",
        "two\ns3://conn@bucket/a.mp4",
        "s3:/conn@bucket/a.mp4 as Path writes it",
    ],
)
def test_a_stores_address_inside_a_longer_text_does_not_leave(text: str) -> None:
    with pytest.raises(VaceInputError, match="inside a longer text") as caught:
        normalize_input({"prompt": text}, model=MODEL)
    assert caught.value.field == "prompt"
    assert "give the address alone" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"s3://conn@bucket/a.mp4": "x"},
        {"refs": [{"weights": {"s3://conn@bucket/a.mp4": 0.5}}]},
        {"x": str(Path("s3://conn@bucket/a.mp4"))},
    ],
)
@pytest.mark.parametrize("paths", [False, True])
def test_a_connection_in_a_name_or_in_the_text_of_a_path_does_not_leave(
    values: dict[str, Any], *, paths: bool
) -> None:
    from airflow_vace.hooks import VaceHook
    from airflow_vace.storage.upload import InputFiles

    def send() -> None:
        found, _ = normalize_input(values, model=MODEL, paths=paths)
        InputFiles(VaceHook(), seconds=60, model=MODEL).reachable(found)

    with pytest.raises(VaceInputError, match="the address of a store"):
        send()


@pytest.mark.parametrize("prompt", ["like s3://conn@bucket/a.mp4", "s3://conn@bucket/a.mp4", "gs:/c@b/a"])
@pytest.mark.parametrize("paths", [False, True])
def test_a_connection_in_a_prompt_does_not_leave(prompt: str, *, paths: bool) -> None:
    with pytest.raises(VaceInputError, match="the address of a store") as caught:
        normalize_input({"prompt": prompt}, paths=paths)
    assert caught.value.field == "prompt"
    assert normalize_input({"prompt": "like s3://bucket/a.mp4"}, paths=paths)[0]["prompt"]


def test_path_objects_become_text_in_any_nesting() -> None:
    from airflow.sdk import ObjectStoragePath

    given: dict[str, Any] = {
        "video": Path("/data/a b.mp4"),
        "more": [{"ref": (ObjectStoragePath("s3://conn@bucket/a.png"), 5)}],
    }
    values, _ = normalize_input(given, model=MODEL, paths=True)
    assert values == {
        "video": "file:///data/a b.mp4",
        "more": [{"ref": ["s3://conn@bucket/a.png", 5]}],
    }


def test_a_relative_path_object_is_refused() -> None:
    with pytest.raises(VaceInputError, match="as a path not absolute") as caught:
        normalize_input({"videos": [Path("a.mp4")]}, model=MODEL, paths=True)
    assert caught.value.field == "videos[0]"
