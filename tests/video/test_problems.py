"""Problems of videos: defects are refused with a sentence, good clips of many kinds pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_vace.inputs import normalize_input
from airflow_vace.video import Expected, Limits, check, inspect, problems
from support import clips

if TYPE_CHECKING:
    from pathlib import Path

SMALL = (208, 120, 33)

# A defect, and words of the sentence that describes it.
WORDS = {
    "black": "100% of the frames are black (limit: 20%)",
    "black_from_the_middle": "of the frames are black",
    "half_black": "have an empty black rectangle",
    "half_grey": "have an empty grey rectangle",
    "grey_box": "have an empty grey rectangle",
    "frozen": "The picture is frozen for 2.06 s (limit: 0.72 s)",
    "frozen_from_the_middle": "The picture is frozen for",
    "single_colour": "100% of the frames have one colour (limit: 35%)",
    "flat_with_noise": "of the frames have one colour",
    "stuttering": "The video stutters",
    "every_frame_twice": "The video stutters",
    "zero_bytes": "The video cannot be decoded",
    "error_page": "The video cannot be decoded",
    "truncated": "of 33 frames can be decoded",
    "overwritten_in_the_middle": "frames are damaged",
    "wrong_size": "The size is 104x60, expected 208x120.",
    "turned": "The size is 120x208, expected 208x120.",
    "too_few_frames": "The video has 29 frames, expected 33.",
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_defect_is_described(tmp_path: Path, kind: str) -> None:
    clip = clips.defective(tmp_path / "clip.mp4", kind, 1, SMALL)
    _, found = check(clip.path, expected=clip.expected)
    assert WORDS[kind] in " ".join(found)


@pytest.mark.parametrize("kind", sorted({*clips.KINDS_OF_DEFECTS} - WORDS.keys()))
def test_a_further_defect_is_found(tmp_path: Path, kind: str) -> None:
    clip = clips.defective(tmp_path / "clip.mp4", kind, 2, SMALL)
    assert check(clip.path, expected=clip.expected)[1]


@pytest.mark.parametrize("kind", clips.GOOD)
def test_a_good_clip_passes(tmp_path: Path, kind: str) -> None:
    clip = clips.good(tmp_path / "clip.mp4", kind, 3, SMALL)
    facts, found = check(clip.path, expected=clip.expected)
    assert found == []
    assert facts


def test_clips_of_few_frames_pass(tmp_path: Path) -> None:
    for count in (1, 5, 9):
        clip = clips.good(tmp_path / f"{count}.mp4", "ball", 4, (96, 64, count))
        assert check(clip.path, expected=clip.expected)[1] == []


def test_a_team_sets_its_own_limits(tmp_path: Path) -> None:
    clip = clips.good(tmp_path / "clip.mp4", "fade_both", 3, SMALL)
    facts = inspect(clip.path)
    strict = problems(facts, limits=Limits(black_share=0.0, single_colour_share=0.0))
    assert len(strict) == 1
    assert "(limit: 0%)" in strict[0]


def test_an_input_gives_the_expected_size_and_length() -> None:
    values, _ = normalize_input({"prompt": "a fox", "size": "480x832", "frame_num": 49})
    assert Expected.of(values) == Expected(width=480, height=832, frames=49)
    assert Expected.of({"prompt": "a fox"}) == Expected()
    assert Expected.of({**values, "src_video": "https://example.com/a.mp4"}) == Expected()


def test_a_number_of_frames_that_vace_cannot_make_is_not_expected() -> None:
    assert Expected.of({"size": "832*480", "frame_num": 80}) == Expected(width=832, height=480)


def test_only_what_is_expected_is_compared(tmp_path: Path) -> None:
    clip = clips.good(tmp_path / "clip.mp4", "pan", 5, (96, 64, 9))
    facts = inspect(clip.path)
    assert problems(facts) == []
    assert problems(facts, expected=Expected(height=64)) == []
    assert problems(facts, expected={"width": 100}) == ["The size is 96x64, expected 100x64."]
