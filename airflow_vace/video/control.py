"""Control videos and masks for VACE: extension, transition, outpainting, inpainting.

Each function writes `src_video.mp4` and `src_mask.mp4` to a local directory and returns the inputs
`src_video, src_mask, size, frame_num`; add a prompt: `{**extend(...), "prompt": "..."}`.

VACE's conventions, from `UserGuide.md` (section 3.1) of https://github.com/ali-vilab/VACE at commit 48eb44f:

- White areas of the mask are generated, black areas are retained. VACE compares each pixel with one half
  (`vace/models/wan/wan_vace.py: vace_encode_frames`), so the masks here have no shades.
- "Gray areas (values equal to 127) represent missing video part". VACE's own tools use 127
  (`annotators/frameref.py`) and 128 (`annotators/inpainting.py`); 127 it is here.
- `src_mask` has "the same shape" as `src_video`.
- VACE encodes the first frame alone and then groups of four (`vae_stride`), so 4n+1 kept frames fill groups.

Kept pixels are kept exactly up to the encoding, which is H.264 without loss in yuv444p (see `writing.py`).
The mask is exact after decoding.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from airflow_vace.video import fitting, masks, reading
from airflow_vace.video.errors import video_extra
from airflow_vace.video.writing import video_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Pair = tuple[reading.Picture, masks.Mask]

log = logging.getLogger(__name__)


# The limit of Replicate's `POST /v1/files`, in bytes. Noise at 1280x720 exceeds it, a real film does not.
_MAX_UPLOAD = 100_000_000


class ControlInput(TypedDict):
    """Inputs of prunaai/vace-14b without the prompt; merge into a :class:`VaceInput`."""

    src_video: str
    src_mask: str
    size: str
    frame_num: int


def extend(
    video: reading.Path,
    *,
    frames: int = fitting.MAX_FRAMES,
    overlap: int = 17,
    size: str | None = None,
    to: reading.Path,
) -> ControlInput:
    """Write the inputs that continue a video: the last frames, then frames to generate.

    The result of the model starts with the kept frames: `join([video, result], overlap=overlap)`.

    :param video: local file
    :param frames: frames of the control video, 4n+1; `frames - overlap` of them are new
    :param overlap: frames to keep from the end of the video; 4n+1 is best. 17 are about a second
    :param size: one of VACE's sizes; default: the nearest
    :param to: local directory
    :raises VaceInputError: for wrong numbers
    :raises VideoUnreadable: if the video cannot be decoded
    """
    fitting.check_frames(frames)
    if not 1 <= overlap < frames:
        raise fitting.input_error(
            "overlap", overlap, f"is not between 1 and {frames - 1}", "give 17, about a second"
        )
    text, target = _size(video, reading.still(video, at_end=False), size)
    # Cropped at once, so the frames of a large video do not fill the memory.
    kept = deque((fitting.cropped(picture, target) for picture in fitting.at_16_fps(video)), maxlen=overlap)
    if len(kept) < overlap:
        log.warning("%s has only %d frames, so the overlap is %d.", os.fspath(video), len(kept), len(kept))
    return _write(to, text, _in_time(list(kept), frames - len(kept), []))


def between(
    first: reading.Path,
    last: reading.Path,
    *,
    frames: int = fitting.MAX_FRAMES,
    size: str | None = None,
    to: reading.Path,
) -> ControlInput:
    """Write the inputs of a transition: one picture at the start, one at the end, the rest to generate.

    :param first: local image, or video whose last frame is used
    :param last: local image, or video whose first frame is used
    :param frames: frames of the transition with both pictures, 4n+1
    :param size: one of VACE's sizes; default: the nearest to `first`
    :param to: local directory
    :raises VaceInputError: for a wrong number of frames or size
    :raises VideoUnreadable: if a file cannot be decoded
    """
    fitting.check_frames(frames)
    start, end = reading.still(first, at_end=True), reading.still(last, at_end=False)
    text, target = _size(first, start, size)
    fitting.log_crop(last, (end.shape[1], end.shape[0]), target)
    kept = [fitting.cropped(picture, target) for picture in (start, end)]
    return _write(to, text, _in_time(kept[:1], frames - 2, kept[1:]))


_ANCHORS = {
    "center": (0.5, 0.5),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "top-left": (0.0, 0.0),
    "top-right": (1.0, 0.0),
    "bottom-left": (0.0, 1.0),
    "bottom-right": (1.0, 1.0),
}


def outpaint(video: reading.Path, *, size: str, anchor: str = "center", to: reading.Path) -> ControlInput:
    """Write the inputs that enlarge the canvas of a video, such as landscape to portrait.

    A video that fits into the canvas keeps its pixels; a larger one is scaled down.

    :param video: local file; the first 4n+1 frames, at most 81, are used
    :param size: one of VACE's sizes, the canvas
    :param anchor: place of the video on the canvas: `center`, `top`, `bottom`, `left`, `right`, or a corner
        such as `top-left`
    :param to: local directory
    :raises VaceInputError: for a wrong size or anchor, and if the video would fill the canvas
    :raises VideoUnreadable: if the video cannot be decoded
    """
    with video_extra():
        import numpy as np
    if anchor not in _ANCHORS:
        raise fitting.input_error("anchor", anchor, "is unknown", f"give one of {', '.join(_ANCHORS)}")
    text, (width, height) = fitting.size_of(size, (0, 0))
    first = reading.still(video, at_end=False)
    scale = min(1.0, width / first.shape[1], height / first.shape[0])
    inner = round(first.shape[1] * scale), round(first.shape[0] * scale)
    if inner == (width, height):
        raise fitting.input_error(
            "size", size, "is filled by the video already", "give a size of other proportions"
        )
    if scale < 1:
        log.info("%s is scaled down to %dx%d inside of %dx%d.", os.fspath(video), *inner, width, height)
    across, down = _ANCHORS[anchor]
    left, top = round((width - inner[0]) * across), round((height - inner[1]) * down)
    mask = np.ones((height, width), bool)
    mask[top : top + inner[1], left : left + inner[0]] = False

    def pairs() -> Iterator[Pair]:
        for picture in fitting.groups(video, fitting.at_16_fps(video)):
            canvas = np.full((height, width, 3), masks.FILLER, np.uint8)
            canvas[top : top + inner[1], left : left + inner[0]] = fitting.scaled(picture, inner)
            yield canvas, mask

    return _write(to, text, pairs())


def inpaint(
    video: reading.Path,
    *,
    box: tuple[int, int, int, int] | None = None,
    mask: reading.Path | None = None,
    size: str | None = None,
    to: reading.Path,
) -> ControlInput:
    """Write the inputs that replace a part of each frame.

    :param video: local file; the first 4n+1 frames, at most 81, are used
    :param box: left, top, right, bottom in pixels of the video; right and bottom are outside of the box
    :param mask: local image or video in the proportions of the video; light areas are generated
    :param size: one of VACE's sizes; default: the nearest
    :param to: local directory
    :raises VaceInputError: unless one of `box` and `mask` is given, and for an area without a pixel
    :raises VideoUnreadable: if a file cannot be decoded
    """
    first = reading.still(video, at_end=False)
    text, target = _size(video, first, size)
    if (box is None) is (mask is None):
        raise fitting.input_error("box", box, "and mask exclude each other", "give one of box and mask")
    source = (first.shape[1], first.shape[0])
    if box is not None:
        areas = masks.from_box(box, source, target)
    else:
        areas = masks.from_file(mask or "", source, target)

    def pairs() -> Iterator[Pair]:
        pixels = 0
        for picture, area in zip(fitting.groups(video, fitting.at_16_fps(video)), areas, strict=False):
            filled = fitting.cropped(picture, target).copy()
            filled[area] = masks.FILLER
            pixels += int(area.sum())
            yield filled, area
        if not pixels:
            raise masks.without_light(mask or "")

    return _write(to, text, pairs())


def _size(path: reading.Path, picture: reading.Picture, size: str | None) -> tuple[str, fitting.Size]:
    source = (picture.shape[1], picture.shape[0])
    text, target = fitting.size_of(size, source)
    fitting.log_crop(path, source, target)
    return text, target


def _in_time(start: list[reading.Picture], count: int, end: list[reading.Picture]) -> Iterator[Pair]:
    """Yield kept pictures around a number of frames to generate."""
    with video_extra():
        import numpy as np
    shape = start[0].shape
    keep, generate = np.zeros(shape[:2], bool), np.ones(shape[:2], bool)
    yield from ((picture, keep) for picture in start)
    yield from ((np.full(shape, masks.FILLER, np.uint8), generate) for _ in range(count))
    yield from ((picture, keep) for picture in end)


def _write(to: reading.Path, size: str, pairs: Iterable[Pair]) -> ControlInput:
    with video_extra():
        import numpy as np
    folder = Path(reading.local(to)).absolute()
    video, mask = folder / "src_video.mp4", folder / "src_mask.mp4"
    frames = 0
    with contextlib.ExitStack() as files:
        # Black and white need no colour, so every reader restores this mask exactly.
        open_mask = video_writer(mask, fitting.SIZES[size], rate=fitting.RATE, pixels="yuv420p")
        add_mask: Callable[[reading.Picture], None] = files.enter_context(open_mask)
        add = files.enter_context(video_writer(video, fitting.SIZES[size], rate=fitting.RATE))
        for picture, area in pairs:
            add(picture)
            add_mask(np.repeat(area[..., None], 3, axis=2).astype(np.uint8) * 255)
            frames += 1
    if (size_of_file := video.stat().st_size) > _MAX_UPLOAD:
        log.warning(
            "%s has %d MB; Replicate takes files of at most 100 MB.", video, size_of_file // 1_000_000
        )
    return ControlInput(src_video=str(video), src_mask=str(mask), size=size, frame_num=frames)
