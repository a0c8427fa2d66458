"""Drawing of the emulator's videos: real H.264 that says `emulated`, with prompt and seed on each frame."""

from __future__ import annotations

import colorsys
import hashlib
import math
import textwrap
from typing import TYPE_CHECKING

from airflow_vace.emulator.world import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image, ImageDraw

    from airflow_vace.emulator.world import Run

_BADGE = "EMULATED"
_NOTE = "a placeholder, not made by the model"
_MAX_PROMPT_LINES = 6


def render(run: Run, path: Path) -> None:
    """Write the video of a run as an MP4, see :func:`draw`."""
    defect = run.outcome.get("video")
    prompt = str(run.input.get("prompt", ""))
    draw(path, prompt=prompt, seed=run.seed, size=run.size, frames=run.frames, defect=defect)


def draw(  # noqa: PLR0913 - the parts of a video
    path: Path, *, prompt: str, seed: int, size: tuple[int, int], frames: int, defect: str | None = None
) -> None:
    """Write a placeholder video as an MP4; the same prompt and seed give the same frames.

    The file appears under its name only when it is complete.

    :param size: width and height in pixels
    :param frames: number of frames
    :param defect: `black` or `frozen`, see :class:`~airflow_vace.emulator.Fault`
    """
    import av
    from PIL import Image

    # Colour and path follow from prompt and seed, so tests can compare two videos.
    noise = hashlib.sha256(f"{seed}:{prompt}".encode()).digest()
    still = _Still(size, noise[0] / 255, prompt, seed)
    phase, turns = noise[1] / 40, 1 + noise[2] % 3
    # Render under another name, so no request can send an incomplete file.
    unfinished = path.with_suffix(".part")
    with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        # Single-threaded and fast: tests run many emulators on few cores.
        stream.options = {"preset": "ultrafast", "crf": "28", "threads": "1"}
        for number in range(frames):
            share = 0.0 if defect == "frozen" else number / max(frames, 1)
            image = Image.new("RGB", size) if defect == "black" else still.at(share, phase, turns)
            frame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    unfinished.replace(path)


class _Still:
    """The unmoving part of a video: background, badge, prompt and seed.

    :param size: width and height in pixels
    :param hue: 0 to 1
    """

    def __init__(self, size: tuple[int, int], hue: float, prompt: str, seed: int) -> None:
        from PIL import ImageDraw

        self.size = size
        self.hue = hue
        self._image = _background(size, hue)
        self._draw_texts(ImageDraw.Draw(self._image), prompt, seed)

    def _draw_texts(self, draw: ImageDraw.ImageDraw, prompt: str, seed: int) -> None:
        from PIL import ImageFont

        width, height = self.size
        unit = min(width, height)
        margin, large, small = unit // 14, max(unit // 18, 10), max(unit // 30, 8)
        font, small_font = ImageFont.load_default(size=large), ImageFont.load_default(size=small)
        # A badge on a light plate, readable on each colour and in a small poster.
        box = draw.textbbox((margin, margin), _BADGE, font=font)
        pad = large // 3
        plate = (box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad)
        draw.rounded_rectangle(plate, radius=pad, fill="white")
        draw.text((margin, margin), _BADGE, font=font, fill=_color(self.hue, 0.9, 0.35))
        draw.text((margin, plate[3] + pad), _NOTE, font=small_font, fill="white")
        columns = max(int((width - 2 * margin) / (large * 0.55)), 10)
        lines = textwrap.wrap(prompt, width=columns)[:_MAX_PROMPT_LINES]
        bottom = height - margin - small * 2
        draw.multiline_text((margin, bottom), "\n".join(lines), font=font, fill="white", anchor="ld")
        draw.text((margin, height - margin), f"seed {seed}", font=small_font, fill="white", anchor="ls")

    def at(self, share: float, phase: float, turns: int) -> Image.Image:
        """Return the frame at a share of the video, 0 to 1, with the ball and the bar of time.

        :param phase: angle of the ball at the start, in radians
        :param turns: number of the ball's rounds
        """
        from PIL import ImageDraw

        width, height = self.size
        image = self._image.copy()
        draw = ImageDraw.Draw(image)
        angle = phase + turns * 2 * math.pi * share
        x = width / 2 + math.cos(angle) * width / 3
        y = height * 0.45 + math.sin(2 * angle) * height / 8
        radius = min(width, height) // 12
        shadow = (x - radius, y - radius * 0.8, x + radius, y + radius * 1.3)
        draw.ellipse(shadow, fill=_color(self.hue, 0.6, 0.3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_color(self.hue + 0.5, 0.6, 1.0))
        draw.rectangle((0, height - max(height // 80, 4), width * share, height), fill="white")
        return image


def _color(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def _background(size: tuple[int, int], hue: float) -> Image.Image:
    """Return a diagonal gradient between two neighbouring colours."""
    from PIL import Image

    # A few pixels, stretched by Pillow: drawing each pixel in Python would take seconds.
    small = Image.new("RGB", (16, 16))
    for x in range(16):
        for y in range(16):
            share = (x + y) / 30
            small.putpixel((x, y), _color(hue + 0.12 * share, 0.65, 0.3 + 0.4 * share))
    return small.resize(size, Image.Resampling.BICUBIC)
