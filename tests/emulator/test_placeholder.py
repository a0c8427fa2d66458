"""The emulator's videos: a badge on each frame, motion, and the same frames for the same prompt and seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import pytest

from airflow_vace.emulator.video import draw

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

SIZES = [(832, 480), (480, 832), (1280, 720)]


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


@pytest.mark.parametrize("size", SIZES)
def test_each_frame_has_a_badge_on_a_white_plate(tmp_path: Path, size: tuple[int, int]) -> None:
    draw(tmp_path / "a.mp4", prompt="a fox", seed=7, size=size, frames=5)
    frames = frames_of(tmp_path / "a.mp4")
    assert len(frames) == 5
    for frame in frames:
        corner = frame[: frame.shape[0] // 5, : frame.shape[1] // 2]
        is_white = (corner > 220).all(axis=2)
        rows = is_white.sum(axis=1)
        # The plate is a solid strip, with dark letters inside.
        assert rows.max() > min(size) // 5
        inside = corner[rows > min(size) // 10]
        assert (inside.max(axis=2) < 150).any()


def test_the_video_moves_and_follows_from_prompt_and_seed(tmp_path: Path) -> None:
    for name, prompt, seed in (("a", "a fox", 7), ("b", "a fox", 7), ("c", "a fox", 8), ("d", "a dog", 7)):
        draw(tmp_path / f"{name}.mp4", prompt=prompt, seed=seed, size=(480, 832), frames=4)
    contents = {name: (tmp_path / f"{name}.mp4").read_bytes() for name in "abcd"}
    assert contents["a"] == contents["b"]
    assert len({contents["a"], contents["c"], contents["d"]}) == 3
    first, *_, last = frames_of(tmp_path / "a.mp4")
    assert (abs(first - last).max(axis=2) > 60).mean() > 0.01
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"] * 4


def test_a_long_prompt_stays_inside_the_frame(tmp_path: Path) -> None:
    draw(tmp_path / "a.mp4", prompt="wide " * 200, seed=7, size=(480, 832), frames=1)
    (frame,) = frames_of(tmp_path / "a.mp4")
    right = frame[:, -480 // 40 :]
    assert not (right[: -frame.shape[0] // 20] > 220).all(axis=2).any()
