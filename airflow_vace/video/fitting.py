"""Fitting of material to VACE's sizes, rate and numbers of frames.

Sources of the facts, in https://github.com/ali-vilab/VACE at commit 48eb44f:

- Sizes: the four of the API, also of the 14B model (`vace/models/wan/configs/__init__.py: SUPPORTED_SIZES`).
- 16 frames per second: `sample_fps` in `wan/configs/shared_config.py` of Wan-Video/Wan2.1.
- 4n+1 frames, at most 81: `vace/models/utils/preprocessor.py` drops frames behind the last 4n+1, and samples
  longer videos down to 81 (`seq_len` 32760 and 75600 in `vace/models/wan/wan_vace.py: prepare_source`).

Whether the servers of prunaai/vace-14b accept more than 81 frames is not documented.
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING

from airflow_vace.exceptions import VaceInputError
from airflow_vace.input_fields import FIELDS
from airflow_vace.video import reading
from airflow_vace.video.errors import video_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from fractions import Fraction

    Size = tuple[int, int]

log = logging.getLogger(__name__)

RATE = 16
MAX_FRAMES = 81
_GROUP = 4
# Containers round times to milliseconds.
_ROUNDING = 0.005


def _pair(text: str) -> Size:
    width, height = text.split("*")
    return int(width), int(height)


SIZES: dict[str, Size] = {text: _pair(text) for text in FIELDS["size"].values}


def input_error(field: str, value: object, problem: str, remedy: str) -> VaceInputError:
    """Return the error for a wrong argument."""
    return VaceInputError(
        f"{field} {problem}: got {value!r}; {remedy}. Nothing was sent, nothing is billed.",
        field=field,
        value=value,
        remedy=remedy,
    )


def size_of(size: str | None, source: Size) -> tuple[str, Size]:
    """Return the API's text and the pixels of a size of VACE.

    :param size: such as `832*480` or `832x480`; None: the nearest size by orientation and height
    :param source: width and height of the source
    :raises VaceInputError: for another size
    """
    if size is not None:
        text = "*".join(str(size).lower().replace("x", "*").replace(" ", "").split("*"))
        if text not in SIZES:
            raise input_error("size", size, "is not a size of VACE", f"give one of {', '.join(SIZES)}")
        return text, SIZES[text]
    width, height = source
    same = [text for text, (w, h) in SIZES.items() if (w >= h) is (width >= height)]
    small, large = sorted(same, key=lambda text: SIZES[text])
    text = large if min(source) >= min(SIZES[large]) else small
    return text, SIZES[text]


def check_frames(frames: object) -> int:
    """Return a number of frames of the form 4n+1; log a warning above 81.

    :raises VaceInputError: for another number
    """
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1 + _GROUP or frames % _GROUP != 1:
        raise input_error("frames", frames, "is not of the form 4n+1", "give a number such as 49, 77 or 81")
    if frames > MAX_FRAMES:
        log.warning(
            "VACE's own loader samples %d frames down to %d, so motion gets faster.", frames, MAX_FRAMES
        )
    return frames


def crop_box(source: Size, target: Size) -> tuple[float, float, float, float]:
    """Return the centred part of the source with the proportions of the target: left, top, right, bottom."""
    scale = max(target[0] / source[0], target[1] / source[1])
    width, height = target[0] / scale, target[1] / scale
    left, top = (source[0] - width) / 2, (source[1] - height) / 2
    return left, top, left + width, top + height


def cropped(picture: reading.Picture, target: Size, *, is_mask: bool = False) -> reading.Picture:
    """Return a picture that is scaled to cover the target, and cropped around its centre.

    A picture of the right size stays as it is, to the pixel.

    :param is_mask: True keeps black and white without shades
    """
    source = (picture.shape[1], picture.shape[0])
    return _resized(picture, target, crop_box(source, target), is_mask=is_mask)


def scaled(picture: reading.Picture, target: Size) -> reading.Picture:
    """Return a picture of the target size, without a crop."""
    return _resized(picture, target, (0, 0, picture.shape[1], picture.shape[0]), is_mask=False)


def _resized(
    picture: reading.Picture, target: Size, box: tuple[float, float, float, float], *, is_mask: bool
) -> reading.Picture:
    if (picture.shape[1], picture.shape[0]) == target:
        return picture
    with video_extra():
        import numpy as np
        from PIL import Image
    method = Image.Resampling.NEAREST if is_mask else Image.Resampling.LANCZOS
    resized: reading.Picture = np.asarray(Image.fromarray(picture).resize(target, method, box=box))
    return resized


def log_crop(path: reading.Path, source: Size, target: Size) -> None:
    """Log a change of size, and the part of the picture that is lost."""
    if source == target:
        return
    left, top, right, bottom = crop_box(source, target)
    kept = (right - left) * (bottom - top) / (source[0] * source[1])
    log.info(
        "%s: %dx%d is scaled and cropped to %dx%d around the centre; %.0f %% of the picture is kept.",
        os.fspath(path),
        *source,
        *target,
        100 * kept,
    )


def at_16_fps(path: reading.Path) -> Iterator[reading.Picture]:
    """Yield the frames of a video at VACE's rate; log a change of the rate."""
    read = written = 0

    def counted() -> Iterator[tuple[float, reading.Picture]]:
        nonlocal read
        for frame in reading.pictures(path):
            read += 1
            yield frame

    for picture in at_rate(counted(), RATE):
        written += 1
        yield picture
    if read != written:
        log.info("%s: %d frames become %d frames at %d a second.", os.fspath(path), read, written, RATE)


def at_rate(
    frames: Iterable[tuple[float, reading.Picture]], rate: Fraction | float
) -> Iterator[reading.Picture]:
    """Yield the picture that a player shows at each tick of another rate.

    :param frames: time in seconds and picture
    :param rate: pictures per second
    """
    length = 1 / float(rate)
    step, tick = length, 0
    shown, start, since = None, 0.0, 0.0
    for time, picture in frames:
        start = time if shown is None else start
        at = time - start
        while shown is not None and tick * step < at - _ROUNDING:
            yield shown
            tick += 1
        length = length if shown is None else at - since
        shown, since = picture, at
    # The last frame stays as long as the frame before.
    while shown is not None and tick * step < since + length - _ROUNDING:
        yield shown
        tick += 1


def groups(path: reading.Path, pictures: Iterable[reading.Picture]) -> Iterator[reading.Picture]:
    """Yield 4n+1 pictures, at most 81; log the number of pictures that are cut off at the end."""
    rest = iter(pictures)
    yield from itertools.islice(rest, 1)
    written = 1
    while written < MAX_FRAMES:
        group = list(itertools.islice(rest, _GROUP))
        if len(group) < _GROUP:
            if group:
                _log_cut(path, written, len(group))
            return
        yield from group
        written += _GROUP
    if cut := sum(1 for _ in rest):
        _log_cut(path, written, cut)


def _log_cut(path: reading.Path, kept: int, cut: int) -> None:
    log.warning(
        "%s: the first %d frames are used and the last %d are cut off; VACE takes 4n+1 frames, at most %d.",
        os.fspath(path),
        kept,
        cut,
        MAX_FRAMES,
    )
