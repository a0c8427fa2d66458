"""Drawing of the emulator's videos: real H.264 with prompt and seed on each frame."""

from __future__ import annotations

import colorsys
import hashlib
import math
import textwrap
from typing import TYPE_CHECKING

from airflow_vace.emulator.world import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from airflow_vace.emulator.world import Run


def render(run: Run, path: Path) -> None:
    """Write the video of a run as an MP4; the same prompt and seed give the same frames.

    The file appears under its name only when it is complete.
    """
    import av
    from PIL import ImageDraw, ImageFont

    width, height = run.size
    prompt = str(run.input.get("prompt", ""))
    # Colour and path follow from prompt and seed, so tests can compare two videos.
    noise = hashlib.sha256(f"{run.seed}:{prompt}".encode()).digest()
    hue, phase, speed = noise[0] / 255, noise[1] / 40, 1 + noise[2] % 3
    background = _gradient(width, height, hue)
    draw = ImageDraw.Draw(background)
    font = ImageFont.load_default(size=max(height // 20, 10))
    lines = textwrap.wrap(prompt, width=max(width // max(height // 36, 6), 10))[:6]
    draw.multiline_text((width // 20, height // 16), "\n".join(lines), font=font, fill="white")
    draw.text((width // 20, height - height // 8), f"seed {run.seed}", font=font, fill="white")
    ball = tuple(int(255 * part) for part in colorsys.hsv_to_rgb((hue + 0.5) % 1, 0.7, 1.0))
    radius = height // 10
    # Render under another name, so no request can send an incomplete file.
    unfinished = path.with_suffix(".part")
    with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # Single-threaded and fast: tests run many emulators on few cores.
        stream.options = {"preset": "ultrafast", "crf": "28", "threads": "1"}
        for number in range(run.frames):
            angle = phase + speed * 2 * math.pi * number / max(run.frames, 1)
            x = width / 2 + math.cos(angle) * width / 3
            y = height / 2 + math.sin(2 * angle) * height / 5
            image: Image.Image = background.copy()
            ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=ball)
            frame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    unfinished.replace(path)


def _gradient(width: int, height: int, hue: float) -> Image.Image:
    from PIL import Image

    # One column, stretched by Pillow: drawing each pixel in Python would take seconds.
    column = Image.new("RGB", (1, 64))
    for row in range(64):
        parts = colorsys.hsv_to_rgb(hue, 0.6, 0.25 + 0.5 * row / 63)
        column.putpixel((0, row), tuple(int(255 * part) for part in parts))
    return column.resize((width, height))
