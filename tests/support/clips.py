"""Seeded good and defective clips: drawn scenes, encoded as models and services do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]
    Scene = Callable[[np.random.Generator, int, int, int], Iterator[Picture]]


# --- pictures --------------------------------------------------------------------------------------


def texture(
    rng: np.random.Generator, width: int, height: int, *, low: float = 0, high: float = 255
) -> Picture:
    """Return a landscape-like picture: noise of several scales, coloured."""
    total = np.zeros((height, width, 3))
    for cells, weight in ((3, 1.0), (8, 0.6), (24, 0.3), (64, 0.12)):
        noise = rng.integers(0, 256, (max(cells * height // width, 2), cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += weight * np.asarray(layer, float)
    total -= total.min()
    picture: Picture = (low + total / total.max() * (high - low)).astype(np.uint8)
    return picture


def gradient(rng: np.random.Generator, width: int, height: int, *, high: int = 255) -> Picture:
    top, bottom = rng.integers(0, high, (2, 3))
    column = np.linspace(top, bottom, height)[:, None, :]
    return np.broadcast_to(column, (height, width, 3)).astype(np.uint8)


def disc(picture: Picture, x: float, y: float, radius: float, colour: Iterable[int]) -> Picture:
    image = Image.fromarray(picture)
    box = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(image).ellipse(box, fill=tuple(int(part) for part in colour))
    return np.asarray(image)


def around(number: int, count: int, width: int, height: int, turns: float = 1) -> tuple[float, float]:
    angle = 2 * math.pi * turns * number / count
    return width * (0.5 + 0.3 * math.cos(angle)), height * (0.5 + 0.25 * math.sin(2 * angle))


# --- good scenes -----------------------------------------------------------------------------------


def ball(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back, colour, turns = gradient(rng, width, height), rng.integers(0, 256, 3), rng.uniform(0.5, 3)
    for number in range(count):
        yield disc(back, *around(number, count, width, height, turns), height / 10, colour)


def pan(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    whole = texture(rng, width * 2, height)
    for number in range(count):
        left = int(number * width / count)
        yield whole[:, left : left + width]


def small_motion(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back, radius = texture(rng, width, height), max(height * rng.uniform(0.01, 0.03), 1.5)
    row, light = height * rng.uniform(0.2, 0.8), rng.choice([(250, 250, 250), (10, 10, 10), (200, 60, 40)])
    for number in range(count):
        x = width * (0.1 + 0.8 * number / count)
        yield disc(back, x, row + 3 * math.sin(number), radius, light)


def grey_room(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back = np.full((height, width, 3), rng.integers(120, 136), np.uint8)
    for number in range(count):
        yield disc(back, *around(number, count, width, height), height / 12, rng.integers(0, 90, 3))


def fade_in(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    scene, length = rng.choice(np.array([ball, pan, zoom], object)), int(count * rng.uniform(0.1, 0.35))
    for number, picture in enumerate(scene(rng, width, height, count)):
        yield (picture * min(number / length, 1)).astype(np.uint8)


def fade_out(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    yield from list(fade_in(rng, width, height, count))[::-1]


def fade_both(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    length, white = int(count * rng.uniform(0.1, 0.25)), rng.integers(0, 2) * 255
    for number, picture in enumerate(pan(rng, width, height, count)):
        share = min(number / length, (count - 1 - number) / length, 1)
        yield (picture * share + white * (1 - share)).astype(np.uint8)


def night(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    sky = texture(rng, width, height, low=float(rng.integers(0, 6)), high=float(rng.integers(8, 40)))
    image = Image.fromarray(sky)
    draw = ImageDraw.Draw(image)
    size = max(width / 300, 1)
    for x, y in zip(rng.integers(0, width, 40), rng.integers(0, height // 2, 40), strict=True):
        draw.ellipse((x, y, x + size, y + size), fill=(210, 210, 190))
    back, row = np.asarray(image), height * 0.8
    for number in range(count):
        car = width * number / count
        lit = disc(back, car, row, height / 60 + 1, (255, 240, 200))
        yield disc(lit, width - car, row + height / 20, height / 70 + 1, (200, 30, 20))


def dark_street(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back = texture(rng, width, height, low=0, high=float(rng.integers(45, 70))).copy()
    back[: int(height * rng.uniform(0.3, 0.6))] //= 12
    for number in range(count):
        x, y = around(number, count, width, height)
        yield disc(back, x, height * 0.6 + y / 5, height / 25, (90, 80, 60))


def cuts(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    parts = rng.integers(2, 5)
    for part in np.array_split(np.arange(count), parts):
        scene = rng.choice(np.array([ball, pan, small_motion, zoom], object))
        yield from scene(rng, width, height, len(part))


def zoom(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    image, depth = Image.fromarray(texture(rng, width, height)), rng.uniform(0.04, 0.25)
    for number in range(count):
        inset = depth / 2 * number / count
        box = (width * inset, height * inset, width * (1 - inset), height * (1 - inset))
        yield np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def snow(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back = texture(rng, width, height, low=150, high=235)
    x, y = rng.uniform(0, width, 150), rng.uniform(0, height, 150)
    speed, size = rng.uniform(1, 3, 150) * height / 240, max(height / 160, 1)
    for number in range(count):
        image = Image.fromarray(back)
        draw = ImageDraw.Draw(image)
        for left, top in zip(x + 2 * np.sin(number / 5 + y), (y + speed * number) % height, strict=True):
            draw.ellipse((left, top, left + size, top + size), fill="white")
        yield np.asarray(image)


def text(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back = rng.choice(np.array([gradient, texture], object))(rng, width, height)
    font = ImageFont.load_default(size=max(height // 12, 8))
    words = "The picture of a city that never sleeps, written letter by letter by somebody patient"
    for number in range(count):
        image, shown = Image.fromarray(back), words[: 1 + number * len(words) // count]
        lines = "\n".join(shown[at : at + 28] for at in range(0, len(shown), 28))
        ImageDraw.Draw(image).multiline_text((width * 0.06, height * 0.2), lines, font=font, fill="white")
        yield np.asarray(image)


def flashes(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    lit = set(rng.integers(0, count, max(count // 10, 1)).tolist())
    for number, picture in enumerate(small_motion(rng, width, height, count)):
        yield np.full_like(picture, 250) if number in lit else picture


def storm(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    lit = set(rng.integers(0, count, max(count // 16, 1)).tolist())
    for number, picture in enumerate(night(rng, width, height, count)):
        yield (picture.astype(np.int16) + 120).clip(0, 255).astype(np.uint8) if number in lit else picture


def blinking(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back, period = texture(rng, width, height), int(rng.integers(3, 9))
    lamp = disc(back, width * 0.7, height * 0.3, height / 30 + 1, (255, 30, 20))
    for number in range(count):
        yield lamp if number // period % 2 else back


def candle(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back = texture(rng, width, height, high=150).astype(float)
    rows, columns = np.mgrid[:height, :width]
    glow = np.exp(-(((columns - width / 2) / width) ** 2 + ((rows - height / 2) / height) ** 2) * 12)
    for _ in range(count):
        yield (back * (0.6 + rng.uniform(0.2, 0.5) * glow[..., None])).clip(0, 255).astype(np.uint8)


def waves(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    rows, columns = np.mgrid[:height, :width] / height * 14
    colour, drift = rng.uniform(0.3, 1, 3), rng.uniform(0.05, 0.3)
    for number in range(count):
        level = (
            128
            + 60 * np.sin(rows + np.sin(columns * 0.7 + number * drift))
            + 40 * np.sin(columns - number * drift)
        )
        yield (level[..., None] * colour).clip(0, 255).astype(np.uint8)


def fog(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    whole = texture(rng, width * 3 // 2, height, low=170, high=230)
    for number in range(count):
        left = int(number * width / 2 / count)
        yield whole[:, left : left + width]


def cartoon(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    # Drawn films show each picture twice.
    drawn = list(small_motion(rng, width, height, (count + 1) // 2))
    for number in range(count):
        yield drawn[number // 2]


def bars(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    upright, part = rng.integers(0, 2), rng.uniform(0.1, 0.3)
    for picture in pan(rng, width, height, count):
        framed, side = picture.copy(), int((width if upright else height) * part)
        whole = framed.transpose(1, 0, 2) if upright else framed
        whole[:side] = whole[-side:] = 0
        yield framed


def grain(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    back = texture(rng, width, height).astype(np.int16)
    for number in range(count):
        noise = rng.integers(-12, 13, back.shape, dtype=np.int16)
        lit = back + int(14 * math.sin(number / 6))
        yield (lit + noise).clip(0, 255).astype(np.uint8)


def pause(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    # A title stands still for a second.
    held = min(16, count // 4)
    pictures = list(text(rng, width, height, count - held))
    yield from pictures
    yield from [pictures[-1]] * held


def dip(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Picture]:
    middle, length = count / 2, count / rng.uniform(6, 10)
    for number, picture in enumerate(cuts(rng, width, height, count)):
        yield (picture * min(max(abs(number - middle) / length - 0.15, 0), 1)).astype(np.uint8)


GOOD: dict[str, Scene] = {
    scene.__name__: scene
    for scene in (
        *(
            ball,
            pan,
            small_motion,
            grey_room,
            fade_in,
            fade_out,
            fade_both,
            night,
            dark_street,
            cuts,
            zoom,
            snow,
        ),
        *(text, flashes, storm, blinking, candle, waves, fog, cartoon, bars, grain, pause, dip),
    )
}
# Scenes whose defects are visible: a title that stands still is also a frozen video.
MOVING = (ball, pan, zoom, snow, waves, cuts, candle)


# --- files -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """A file and the size and number of frames that its request asked for."""

    path: Path
    kind: str
    expected: dict[str, int]


CODINGS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "ultrafast", "crf": "28"}),
    ("libx264", {"preset": "veryfast", "crf": "18"}),
    ("libx264", {"preset": "veryfast", "crf": "23", "g": "12"}),
    ("libx264", {"preset": "veryfast", "crf": "33"}),
    ("mpeg4", {"b": "1500000"}),
)


def write(path: Path, pictures: Iterable[Picture], coding: int = 0, *, fps: int = 16) -> Path:
    """Encode pictures as an MP4 with an index at the front."""
    codec, options = CODINGS[coding % len(CODINGS)]
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.pix_fmt, stream.options = "yuv420p", options | {"threads": "1"}
        for number, picture in enumerate(pictures):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turned(path: Path) -> Path:
    """Write a quarter turn into the header of an MP4, as telephones do."""
    content = bytearray(path.read_bytes())
    # The matrix of a track header is 40 bytes behind its start.
    at = content.index(b"tkhd") + 4 + 40
    quarter = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    content[at : at + 36] = b"".join(number.to_bytes(4, signed=True) for number in quarter)
    path.write_bytes(content)
    return path


def shortened(path: Path) -> Path:
    """Return a copy of an MP4 without the first five frames, which an edit list hides."""
    short = path.with_stem(f"{path.stem}-short")
    # The copy starts in the middle of a group of frames, so it needs the frames before.
    with av.open(str(path)) as source, av.open(str(short), "w") as result:
        stream = source.streams.video[0]
        target = result.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts is not None and stream.time_base:
                packet.pts -= int(5 / 16 / stream.time_base)
                packet.dts -= int(5 / 16 / stream.time_base)
                packet.stream = target
                result.mux(packet)
    return short


def good(path: Path, kind: str, seed: int, size: tuple[int, int, int]) -> Clip:
    """Write a good clip.

    :param size: width, height, frames
    """
    rng = np.random.default_rng(seed)
    write(path, GOOD[kind](rng, *size), int(rng.integers(len(CODINGS))))
    return Clip(path, kind, dict(zip(("width", "height", "frames"), size, strict=True)))


# --- defects ---------------------------------------------------------------------------------------


def _black(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    return [np.full_like(picture, rng.integers(0, 9)) for picture in pictures]


def _black_from_the_middle(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    first = int(len(pictures) * rng.uniform(0.3, 0.7))
    return [picture if number < first else picture * 0 for number, picture in enumerate(pictures)]


def _black_in_the_middle(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    first, length = int(len(pictures) * 0.3), int(len(pictures) * rng.uniform(0.28, 0.4))
    return [
        picture * 0 if first <= number < first + length else picture
        for number, picture in enumerate(pictures)
    ]


def _half_black(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    return _half(rng, pictures, 0)


def _half_grey(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    return _half(rng, pictures, int(rng.integers(127, 129)))


def _half(rng: np.random.Generator, pictures: list[Picture], level: int) -> list[Picture]:
    side, part, changed = int(rng.integers(0, 4)), rng.uniform(0.35, 0.6), []
    for picture in pictures:
        turned = np.rot90(picture, side).copy()
        turned[: int(len(turned) * part)] = level
        changed.append(np.ascontiguousarray(np.rot90(turned, -side)))
    return changed


def _grey_box(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    height, width = pictures[0].shape[:2]
    top, left = int(height * rng.uniform(0.1, 0.3)), int(width * rng.uniform(0.1, 0.3))
    changed = [picture.copy() for picture in pictures]
    for picture in changed:
        picture[top : top + int(height * 0.55), left : left + int(width * 0.5)] = 127
    return changed


def _frozen(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    return [pictures[rng.integers(0, len(pictures))]] * len(pictures)


def _frozen_from_the_middle(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    first = int(len(pictures) * rng.uniform(0.3, 0.6))
    return pictures[:first] + [pictures[first]] * (len(pictures) - first)


def _frozen_at_the_start(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    first = int(len(pictures) * rng.uniform(0.4, 0.6))
    return [pictures[first]] * first + pictures[first:]


def _single_colour(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    colour = rng.integers(30, 256, 3)
    return [np.full_like(picture, 0) + colour.astype(np.uint8) for picture in pictures]


def _flat_with_noise(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    colour = rng.integers(40, 200, 3)
    noisy = (colour + rng.integers(-3, 4, (len(pictures), *pictures[0].shape))).astype(np.uint8)
    return list(noisy)


def _colour_from_the_middle(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    first = int(len(pictures) * rng.uniform(0.3, 0.55))
    return pictures[:first] + _single_colour(rng, pictures[first:])


def _stuttering(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    hold = int(rng.integers(3, 8))
    return [pictures[number // hold * hold] for number in range(len(pictures))]


def _every_frame_twice(rng: np.random.Generator, pictures: list[Picture]) -> list[Picture]:
    height, width = pictures[0].shape[:2]
    moving = list(pan(rng, width, height, len(pictures)))
    return [moving[number // 2 * 2] for number in range(len(moving))]


DEFECTS: dict[str, Callable[[np.random.Generator, list[Picture]], list[Picture]]] = {
    change.__name__.strip("_"): change
    for change in (
        *(_black, _black_from_the_middle, _black_in_the_middle, _half_black, _half_grey, _grey_box, _frozen),
        *(_frozen_from_the_middle, _frozen_at_the_start, _single_colour, _flat_with_noise),
        *(_colour_from_the_middle, _stuttering, _every_frame_twice),
    )
}


def _zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])


def _truncated_in_the_last_frame(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: -len(content) // 100])


def _without_index(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b"moov")
    path.write_bytes(content[: at - 4] + content[content.index(b"mdat") - 4 :])


def _error_page(path: Path) -> None:
    path.write_bytes(b"<html><body>502 Bad Gateway</body></html>" * 50)


def _overwritten(path: Path) -> None:
    content = path.read_bytes()
    first = content.index(b"mdat") + 4
    path.write_bytes(content[:first] + bytes(len(content) - first))


def _overwritten_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    first = content.index(b"mdat") + 4
    at, length = first + (len(content) - first) // 3, (len(content) - first) // 4
    content[at : at + length] = np.random.default_rng(7).bytes(length)
    path.write_bytes(content)


BROKEN: dict[str, Callable[[Path], None]] = {
    change.__name__.strip("_"): change
    for change in (
        *(_zero_bytes, _truncated, _truncated_in_the_last_frame, _without_index, _error_page, _overwritten),
        _overwritten_in_the_middle,
    )
}
WRONG = ("wrong_size", "turned", "too_few_frames", "too_many_frames")
KINDS_OF_DEFECTS = (*DEFECTS, *BROKEN, *WRONG)


def defective(path: Path, kind: str, seed: int, size: tuple[int, int, int]) -> Clip:
    """Write a defective clip.

    :param size: width, height, frames of the request
    """
    rng = np.random.default_rng(seed)
    width, height, count = size
    match kind:
        case "wrong_size":
            width, height = width // 4 * 2, height // 4 * 2
        case "turned":
            width, height = height, width
        case "too_few_frames":
            count -= 4
        case "too_many_frames":
            count += 4
    # In a slow zoom, a stutter is smaller than the errors of a codec; in the dark, a black half is the night.
    scenes = (ball, pan) if kind in ("stuttering", "half_black") else MOVING
    scene = scenes[int(rng.integers(len(scenes)))]
    pictures = list(scene(rng, width, height, count))
    if kind in DEFECTS:
        pictures = DEFECTS[kind](rng, pictures)
    write(path, pictures, int(rng.integers(len(CODINGS))))
    if kind in BROKEN:
        BROKEN[kind](path)
    return Clip(path, kind, dict(zip(("width", "height", "frames"), size, strict=True)))
