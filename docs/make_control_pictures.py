"""Draw the pictures of `control-videos.md`: source, control video and mask of each function.

`uv run python docs/make_control_pictures.py` writes `docs/images/control-*.jpg`.
"""  # noqa: INP001 - a program, no package

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from airflow_vace.video import between, extend, inpaint, outpaint
from airflow_vace.video.reading import pictures
from airflow_vace.video.writing import FINE, video_writer

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGES = Path(__file__).parent / "images"
SIZE = (832, 480)
COLUMNS = 5
CELL_HEIGHT, GAP, MARGIN = 110, 6, 74


def scene(share: float, sky: str = "#8ec5e8") -> Image.Image:
    """Return a street with a car at a share of its way."""
    image = Image.new("RGB", SIZE, sky)
    draw = ImageDraw.Draw(image)
    draw.ellipse((620, 50, 700, 130), fill="#ffe9a8")
    for x in range(SIZE[0]):
        top = 250 + 40 * math.sin(x / 90) + 18 * math.sin(x / 31 + 2)
        draw.line((x, top, x, 360), fill="#5d8f5a")
    draw.rectangle((0, 360, *SIZE), fill="#55575c")
    for x in range(-40, SIZE[0], 120):
        draw.rectangle((x, 425, x + 60, 433), fill="#e8e8e8")
    draw.rectangle((120, 210, 290, 360), fill="#c9b79c")
    draw.polygon(((105, 212), (205, 130), (305, 212)), fill="#8c3b2e")
    draw.rectangle((180, 280, 230, 360), fill="#5b4030")
    left = -60 + 820 * share
    draw.rounded_rectangle((left, 350, left + 150, 400), 14, fill="#c8202f")
    draw.rounded_rectangle((left + 30, 320, left + 115, 360), 14, fill="#c8202f")
    draw.rectangle((left + 42, 328, left + 103, 350), fill="#cfe6f2")
    for wheel in (left + 22, left + 98):
        draw.ellipse((wheel, 382, wheel + 34, 416), fill="#1d1d1f")
    return image


def film(path: Path, count: int = 33) -> Path:
    """Write the car's way as a video."""
    with video_writer(path, SIZE, rate=16, options=FINE, pixels="yuv420p") as append:
        for number in range(count):
            append(np.asarray(scene(number / (count - 1))))
    return path


def rows(made: Mapping[str, object], source: list[Image.Image]) -> list[tuple[str, list[Image.Image]]]:
    """Return titles and frames of the three rows of a picture."""
    found = [("source", source)]
    for title, name in (("src_video", "src_video"), ("src_mask", "src_mask")):
        whole = [Image.fromarray(picture) for _, picture in pictures(str(made[name]))]
        found.append((title, evenly(whole)))
    return found


def evenly(frames: list[Image.Image]) -> list[Image.Image]:
    """Return five frames from the first to the last."""
    last = len(frames) - 1
    return [frames[round(column * last / (COLUMNS - 1))] for column in range(COLUMNS)]


def draw(name: str, lines: list[tuple[str, list[Image.Image]]]) -> None:
    """Write rows of frames with titles as one JPEG."""
    font = ImageFont.load_default(size=13)
    small = [(title, [_cell(frame) for frame in frames]) for title, frames in lines]
    width = MARGIN + max(sum(cell.width + GAP for cell in cells) for _, cells in small)
    height = sum(max(cell.height for cell in cells) + GAP for _, cells in small) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    top = GAP
    for title, cells in small:
        tallest = max(cell.height for cell in cells)
        ImageDraw.Draw(sheet).text((GAP, top + tallest / 2 - 8), title, font=font, fill="#333")
        left = MARGIN
        for cell in cells:
            sheet.paste(cell, (left, top + (tallest - cell.height) // 2))
            left += cell.width + GAP
        top += tallest + GAP
    sheet.save(IMAGES / f"control-{name}.jpg", quality=80, optimize=True)


def _cell(frame: Image.Image) -> Image.Image:
    scale = CELL_HEIGHT / min(SIZE)
    small = frame.resize((round(frame.width * scale), round(frame.height * scale)), Image.Resampling.LANCZOS)
    # A line around white masks on white paper.
    ImageDraw.Draw(small).rectangle((0, 0, small.width - 1, small.height - 1), outline="#999")
    return small


def main() -> None:
    """Make one picture for each function."""
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder)
        clip = film(to / "clip.mp4")
        source = evenly([Image.fromarray(picture) for _, picture in pictures(clip)])
        draw("extend", rows(extend(clip, frames=33, overlap=17, to=to), source))
        draw("outpaint", rows(outpaint(clip, size="480*832", to=to), source))
        draw("inpaint", rows(inpaint(clip, box=(560, 20, 760, 160), to=to), source))
        ends = [scene(0.2), scene(0.8, sky="#e3a27a")]
        for name, image in zip(("first.png", "last.png"), ends, strict=True):
            image.save(to / name)
        draw("between", rows(between(to / "first.png", to / "last.png", frames=33, to=to), ends))


if __name__ == "__main__":
    main()
