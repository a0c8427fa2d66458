"""Decoding of local video files."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections import deque
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceInputError
from airflow_vace.input_files import is_path
from airflow_vace.redaction import excerpt
from airflow_vace.video.errors import VideoUnreadable, video_extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av
    import numpy as np
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from numpy.typing import NDArray
    from PIL import Image

    Picture = NDArray[np.uint8]
    Path = str | os.PathLike[str]

# 8192 x 8192, so a malicious header cannot make the decoder allocate gigabytes.
_MAX_PIXELS = 8192 * 8192
# Players follow a rotation in the container, and so does this room: degrees to quarter turns.
_QUARTER = 90


def local(path: Path) -> str:
    """Return the text of a local path, without `file://`.

    :raises VaceInputError: for the address of a store
    """
    text = os.fspath(path)
    if text.startswith("file://"):
        return text.removeprefix("file://")
    if is_path(text):
        remedy = "import the function from airflow_vace.video_files, which takes addresses of stores"
        raise VaceInputError(
            f"{excerpt(text)} is in a store, and airflow_vace.video takes local files; {remedy}. Nothing was"
            " sent, nothing is billed.",
            field="path",
            value=excerpt(text),
            remedy=remedy,
        )
    return text


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a local file, and yield the container and its first video stream.

    Decoding uses one thread, because a worker's cores belong to other tasks.

    :raises VaceInputError: for the address of a store
    :raises VideoUnreadable: if the file is no video, also inside of the block
    :raises VideoExtraMissing: without the extra `video`
    """
    with video_extra():
        import av
    try:
        # No text of a file matters here, and titles may be in any encoding, which PyAV from 19 on accepts.
        lenient: Any = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
        # FFmpeg takes the text before a colon in a relative name for a protocol.
        with av.open(pathlib.Path(local(path)).absolute(), **lenient) as container:
            if not container.streams.video:
                raise unreadable(path, "the file has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
            yield container, stream
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise unreadable(path, _reason(error)) from error


def unreadable(path: Path, reason: str) -> VideoUnreadable:
    """Return the error for a file that cannot be decoded."""
    name = os.fspath(path)
    return VideoUnreadable(
        f"The video {name} cannot be decoded: {reason}. If a prediction made this video, the prediction is"
        " billed: download the file again while the vendor has it (one hour), or submit with another seed.",
        path=name,
        reason=reason,
    )


def _reason(error: Exception) -> str:
    # FFmpeg's own words, without the path and PyAV's name of the failing call.
    return str(getattr(error, "strerror", None) or error)


def pictures(path: Path) -> Iterator[tuple[float, Picture]]:
    """Yield time in seconds and pixels (height, width, 3; RGB) of each frame, upright.

    :raises VideoUnreadable: for a file without a frame, and at the end of a truncated file
    """
    for at, frame, stretch in _frames(path):
        yield at, upright(frame, stretch)


def times(path: Path) -> Iterator[float]:
    """Yield the time of each frame in seconds.

    :raises VideoUnreadable: see :func:`pictures`
    """
    for at, _, _ in _frames(path):
        yield at


def _frames(path: Path) -> Iterator[tuple[float, av.VideoFrame, float]]:
    with opened(path) as (container, stream):
        stretch = stretch_of(stream)
        rate = float(stream.average_rate or 0) or 25.0
        start, number = 0.0, 0
        for frame in container.decode(stream):
            at = number / rate if frame.pts is None else frame.time
            start = start if number else at
            yield at - start, frame, stretch
            number += 1
        if not number:
            raise unreadable(path, "the file has no frames")


def is_image(path: Path) -> bool:
    """Return True for a file with a single picture, such as PNG and JPEG."""
    with video_extra():
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(local(path)) as image:
            # Pillow recognises MPEG videos without reading them.
            return image.format != "MPEG" and not getattr(image, "is_animated", False)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return False


def still(path: Path, *, at_end: bool, background: str = "white") -> Picture:
    """Return an image, or one frame of a video: upright, RGB.

    :param at_end: True for the last frame, False for the first
    :param background: colour of the transparent parts of an image; VACE shows references on white
        (`preprocessor.py`)
    :raises VideoUnreadable: if the file is neither
    """
    with video_extra():
        import numpy as np
        from PIL import Image, ImageOps
    if is_image(path):
        try:
            with Image.open(local(path)) as image:
                picture: Picture = np.asarray(_opaque(ImageOps.exif_transpose(image), background))
        except OSError as error:
            raise unreadable(path, str(error)) from error
        return picture
    frames = (found for _, found in pictures(path))
    (kept,) = deque(frames, maxlen=1) if at_end else (next(frames),)
    return kept


def _opaque(image: Image.Image, background: str) -> Image.Image:
    """Return an image without transparency."""
    with video_extra():
        import numpy as np
        from PIL import Image
    if image.mode.startswith("I;16"):
        # Pillow cuts levels of 16 bits off at 255, so all but black would become white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), layered).convert("RGB")


def stretch_of(stream: VideoStream) -> float:
    """Return the factor by which a player stretches the width of a video, such as 4/3 for HDV."""
    stretch = float(stream.sample_aspect_ratio or 1)
    # Rounded proportions do not matter, and a malicious header must not fill the memory.
    return stretch if 0.25 <= stretch <= 4 and abs(stretch - 1) > 0.02 else 1.0


def upright(frame: av.VideoFrame, stretch: float = 1.0) -> Picture:
    """Return the pixels of a frame as a player shows them.

    :param stretch: see :func:`stretch_of`
    """
    with video_extra():
        import numpy as np
    # Bicubic with accurate rounding, so a conversion from YUV loses half a level at most.
    width = round(frame.width * stretch)
    pixels: Any = frame.to_ndarray(format="rgb24", width=width, height=frame.height, interpolation="BICUBIC")
    if turns := round(frame.rotation / _QUARTER) % 4:
        pixels = np.ascontiguousarray(np.rot90(pixels, turns))
    picture: Picture = pixels
    return picture
