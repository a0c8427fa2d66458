"""Encoding of local video files; a file appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.video import reading
from airflow_vace.video.errors import video_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from fractions import Fraction

# H.264 without loss. Readers that use FFmpeg decode the profile (High 4:4:4 Predictive) in software, as the
# loader of VACE does (decord in `vace/models/utils/preprocessor.py`); hardware decoders fail. Whether the
# servers of prunaai/vace-14b read the profile is not documented.
LOSSLESS: Mapping[str, str] = {"qp": "0", "preset": "ultrafast", "threads": "1"}
# Visually without loss, for films that people watch.
FINE: Mapping[str, str] = {"crf": "14", "preset": "veryfast", "threads": "1"}
_BT601 = 6
_LIMITED_RANGE = 1


@contextlib.contextmanager
def whole(to: reading.Path) -> Iterator[Path]:
    """Yield a path beside the target, and rename the file to the target after the block.

    Missing directories are created. The file is deleted if the block raises.
    """
    # FFmpeg takes the text before a colon in a relative name for a protocol.
    target = Path(reading.local(to)).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def video_writer(
    to: reading.Path,
    size: tuple[int, int],
    *,
    rate: Fraction | int,
    options: Mapping[str, str] = LOSSLESS,
    pixels: str = "yuv444p",
) -> Iterator[Callable[[reading.Picture], None]]:
    """Yield a function that appends a picture to an MP4 with H.264.

    `yuv444p` keeps the colour of each pixel; the conversion from RGB and back costs half a level (52 dB).

    :param size: width, height
    :param rate: frames per second
    :param options: of libx264
    :param pixels: FFmpeg's name of the layout
    """
    with video_extra():
        import av
    movflags = {"movflags": "faststart"}
    with whole(to) as part, av.open(str(part), "w", format="mp4", options=movflags) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt, stream.options = pixels, dict(options)
        # Players guess another matrix for 720 lines, unless the file names one.
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED_RANGE

        def append(picture: reading.Picture) -> None:
            frame = av.VideoFrame.from_ndarray(_contiguous(picture), format="rgb24")
            frame = frame.reformat(format=pixels, dst_colorspace="ITU601", interpolation="BICUBIC")
            # Without a number, the encoder counts by itself.
            frame.pts = None
            container.mux(stream.encode(frame))

        yield append
        container.mux(stream.encode(None))


def _contiguous(picture: reading.Picture) -> Any:
    with video_extra():
        import numpy as np
    return np.ascontiguousarray(picture)
