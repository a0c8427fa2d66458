"""Masks of inpainting: from a box, an image or a video."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from airflow_vace.video import fitting, reading
from airflow_vace.video.errors import video_extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from airflow_vace.exceptions import VaceInputError

    # Height x width; True: generate.
    Mask = NDArray[np.bool_]

log = logging.getLogger(__name__)

# Level of missing parts in `src_video`; the upper half of the levels in a mask is white.
FILLER = 127


def from_box(box: tuple[int, int, int, int], source: fitting.Size, target: fitting.Size) -> Iterator[Mask]:
    """Return the mask of a box, again and again.

    :param box: left, top, right, bottom in pixels of the source
    :param source: width and height of the video
    :param target: width and height of the result
    :raises VaceInputError: for a box without a pixel in the result
    """
    with video_extra():
        import numpy as np
    left, top, right, bottom = box
    mask = np.zeros((source[1], source[0], 3), np.uint8)
    mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 255
    area = _area(mask, target)
    if not area.any():
        remedy = f"give left, top, right, bottom inside of {source[0]}x{source[1]}"
        raise fitting.input_error("box", box, "covers no pixel of the result", remedy)
    return _for_ever(area)


def from_file(path: reading.Path, source: fitting.Size, target: fitting.Size) -> Iterator[Mask]:
    """Return the masks of a video, or the mask of an image again and again.

    :param path: local image or video; light areas are generated
    :param source: width and height of the video
    :param target: width and height of the result
    :raises VaceInputError: for other proportions than the source, and for an image without a light area
    :raises VideoUnreadable: if the file cannot be decoded
    """
    # Layers of painting programs are transparent where nothing is painted.
    first = reading.still(path, at_end=False, background="black")
    width, height = first.shape[1], first.shape[0]
    # A rounded side of a scaled mask may be off by one pixel.
    if abs(width * source[1] - height * source[0]) > max(*source, width, height):
        remedy = f"give a mask of {source[0]}x{source[1]}"
        raise fitting.input_error("mask", f"{width}x{height}", "has other proportions than the video", remedy)
    if reading.is_image(path):
        area = _area(first, target)
        if not area.any():
            raise without_light(path)
        return _for_ever(area)
    return _moving(path, target)


def without_light(path: reading.Path) -> VaceInputError:
    """Return the error for a mask that keeps everything, which would be a paid copy of the video."""
    remedy = "paint the part to replace white"
    return fitting.input_error("mask", os.fspath(path), "has no light area", remedy)


def _moving(path: reading.Path, target: fitting.Size) -> Iterator[Mask]:
    area: Mask | None = None
    for picture in fitting.at_16_fps(path):
        area = _area(picture, target)
        yield area
    if area is not None:
        log.info("%s: the last mask is repeated if the video is longer.", os.fspath(path))
        yield from _for_ever(area)


def _for_ever(area: Mask) -> Iterator[Mask]:
    while True:
        yield area


def _area(picture: reading.Picture, target: fitting.Size) -> Mask:
    area: Mask = fitting.cropped(picture, target, is_mask=True).mean(axis=2) > FILLER
    return area
