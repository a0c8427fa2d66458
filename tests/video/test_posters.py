"""Posters and contact sheets: small JPEG files of frames that show something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from airflow_vace.video import VideoUnreadable, contact_sheet, poster
from support import clips

if TYPE_CHECKING:
    from pathlib import Path


def test_a_poster_is_the_first_frame_that_is_not_black(tmp_path: Path) -> None:
    red = np.zeros((64, 96, 3), np.uint8) + np.array([200, 20, 20], np.uint8)
    path = clips.write(tmp_path / "clip.mp4", [*[red * 0] * 5, *[red] * 5], 1)
    assert poster(path, tmp_path / "posters" / "clip.jpg") == tmp_path / "posters" / "clip.jpg"
    image = Image.open(tmp_path / "posters" / "clip.jpg")
    assert (image.format, image.size) == ("JPEG", (96, 64))
    left, middle, right = image.convert("RGB").getpixel((48, 32))  # type: ignore[misc]
    assert left > 180
    assert max(middle, right) < 60


def test_a_black_video_has_a_poster_too(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", [np.zeros((64, 96, 3), np.uint8)] * 5)
    poster(path, tmp_path / "clip.jpg")
    assert Image.open(tmp_path / "clip.jpg").size == (96, 64)


def test_a_poster_of_a_large_noisy_video_is_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8)
    path = clips.write(tmp_path / "clip.mp4", [noise] * 2, 1)
    poster(path, tmp_path / "clip.jpg")
    assert (tmp_path / "clip.jpg").stat().st_size <= 24_000
    assert max(Image.open(tmp_path / "clip.jpg").size) <= 640


def test_a_contact_sheet_shows_first_and_last_frame(tmp_path: Path) -> None:
    greys = [np.full((48, 96, 3), 10 + 24 * number, np.uint8) for number in range(10)]
    path = clips.write(tmp_path / "clip.mp4", greys, 1)
    contact_sheet(path, tmp_path / "sheet.jpg", columns=2, rows=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.jpg").convert("L"))
    assert sheet.shape == (48 * 2 + 4, 96 * 2 + 4)
    assert abs(int(sheet[24, 48]) - 10) < 8
    assert abs(int(sheet[-24, -48]) - 226) < 8


def test_a_sheet_of_few_frames_has_few_cells(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", [np.full((48, 96, 3), 90, np.uint8)] * 2, 1)
    contact_sheet(path, tmp_path / "sheet.jpg")
    assert Image.open(tmp_path / "sheet.jpg").size == (4 * 100 - 4, 48)
    contact_sheet(path, tmp_path / "one.jpg", columns=1, rows=1)
    assert Image.open(tmp_path / "one.jpg").size == (96, 48)
    with pytest.raises(ValueError, match="0x3"):
        contact_sheet(path, tmp_path / "none.jpg", columns=0)


def test_the_path_of_an_address_is_returned(tmp_path: Path) -> None:
    clip = clips.write(tmp_path / "clip.mp4", clips.pan(np.random.default_rng(1), 96, 64, 5))
    for draw in (poster, contact_sheet):
        assert draw(f"file://{clip}", f"file://{tmp_path}/{draw.__name__}.jpg").exists()


def test_an_unreadable_video_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    for draw in (poster, contact_sheet):
        with pytest.raises(VideoUnreadable):
            draw(tmp_path / "clip.mp4", tmp_path / "clip.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_turned_video_has_an_upright_poster(tmp_path: Path) -> None:
    picture = np.zeros((64, 96, 3), np.uint8) + 40
    # The telephone was turned, so the upper left corner belongs to the upper right.
    picture[:16, :16] = 250
    path = clips.turned(clips.write(tmp_path / "clip.mp4", [picture] * 3, 1))
    poster(path, tmp_path / "clip.jpg")
    image = np.asarray(Image.open(tmp_path / "clip.jpg").convert("L"))
    assert image.shape == (96, 64)
    assert image[8, 56] > 200
    assert image[8, 8] < 80
