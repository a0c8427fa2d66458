"""Control videos from S3 to S3, through Airflow's connection, against a server with its protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from airflow.sdk import ObjectStoragePath

from airflow_vace.exceptions import VaceInputError
from airflow_vace.video import inspect
from airflow_vace.video_files import extend, join, last_frame, local_copy, outpaint
from support import clips
from support.s3 import NEEDS_S3, S3, connected_s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = NEEDS_S3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with connected_s3("films") as server:
        yield server


@pytest.fixture
def clip(s3: S3, tmp_path: Path) -> str:
    """Return the address of a saved clip, as a payload has it."""
    path = clips.write(tmp_path / "clip.mp4", clips.pan(np.random.default_rng(3), 160, 96, 9), 1)
    s3.put("in/clip.mp4", path.read_bytes())
    return "s3://clips/in/clip.mp4"


@pytest.mark.parametrize("is_path", [False, True])
def test_control_videos_stay_in_the_bucket_with_its_connection(s3: S3, clip: str, *, is_path: bool) -> None:
    path = ObjectStoragePath("s3://clips/control/", conn_id="films") if is_path else None
    to = path or "s3://films@clips/control/"
    made = extend(clip, frames=9, overlap=5, to=to)
    assert made["src_video"] == "s3://films@clips/control/src_video.mp4"
    assert made["src_mask"] == "s3://films@clips/control/src_mask.mp4"
    assert sorted(s3.files("control/")) == ["control/src_mask.mp4", "control/src_video.mp4"]
    assert s3.unfinished() == []
    with local_copy(made["src_video"]) as found:
        assert inspect(found).frames == 9


def test_a_joined_video_and_its_last_frame_are_in_the_bucket(s3: S3, clip: str) -> None:
    assert join([clip, clip], overlap=1, to="s3://films@clips/long.mp4") == "s3://films@clips/long.mp4"
    with local_copy(ObjectStoragePath("s3://clips/long.mp4", conn_id="films")) as path:
        assert inspect(path).frames == 17
    assert last_frame("s3://films@clips/long.mp4", "s3://films@clips/last.png").endswith("/last.png")
    assert s3.read("last.png").startswith(b"\x89PNG")


def test_a_missing_bucket_is_named_before_any_decoding(clip: str) -> None:
    with pytest.raises(VaceInputError, match=r"to is .*is in 'absent', which does not exist"):
        outpaint(clip, size="480*832", to="s3://films@absent/control/")
