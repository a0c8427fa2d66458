"""Last frames and joined videos."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.video import fitting, reading
from airflow_vace.video.errors import video_extra
from airflow_vace.video.writing import FINE, video_writer, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av.container import InputContainer
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

# Codecs that players expect in an MP4.
_MP4_CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4")


def last_frame(video: reading.Path, to: reading.Path) -> Path:
    """Write the last frame of a video as a PNG, and return the path.

    :param video: local file
    :param to: path of the PNG; missing directories are created
    :raises VideoUnreadable: if the video cannot be decoded
    """
    with video_extra():
        from PIL import Image
    picture = reading.still(video, at_end=True)
    with whole(to) as part:
        Image.fromarray(picture).save(part, "PNG")
    return Path(reading.local(to))


def join(videos: Sequence[reading.Path], *, overlap: int = 0, to: reading.Path) -> Path:
    """Write videos one after another as an MP4, and return the path.

    Equal streams without an overlap are copied without a new encoding. All others are encoded once more
    (H.264, crf 14) in size and rate of the first video, without sound.

    :param videos: local files, in order
    :param overlap: frames at the start of each further video that repeat the end of the video before, and are
        dropped; the `overlap` of :func:`extend`
    :param to: path of the MP4; missing directories are created
    :raises VaceInputError: without a video, or for an overlap that leaves nothing of a video
    :raises VideoUnreadable: if a video cannot be decoded
    """
    if not videos or isinstance(videos, str):
        raise fitting.input_error("videos", videos, "is not a list of files", "give one file at least")
    if overlap < 0:
        raise fitting.input_error("overlap", overlap, "is negative", "give 0, or the overlap of extend")
    forms = [_form(video) for video in videos]
    if not overlap and len(set(forms)) == 1 and forms[0][-1] is True:
        _copy(videos, to)
    else:
        log.info("%s is encoded once more: %s", os.fspath(to), "overlap" if overlap else "the streams differ")
        _encode(videos, overlap, to)
    return Path(reading.local(to))


def _form(video: reading.Path) -> tuple[object, ...]:
    """Return the properties that streams must share to be copied into one."""
    with reading.opened(video) as (container, stream):
        context = stream.codec_context
        is_exact = _is_exact(container, stream)
        container.seek(0)
        first = next(container.decode(stream), None)
        if first is None:
            raise reading.unreadable(video, "the file has no frames")
        # Sound and rotation would be lost in a copy, so a unique object makes the video unlike all others.
        is_plain = is_exact and not container.streams.audio and not first.rotation
        layout = (context.name, context.pix_fmt, context.width, context.height, context.extradata)
        return (*layout, stream.average_rate, stream.time_base, is_plain or object())


def _is_exact(container: InputContainer, stream: VideoStream) -> bool:
    """Return True if an MP4 of the packets shows the same pictures at the same times."""
    if stream.codec_context.codec.canonical_name not in _MP4_CODECS:
        return False
    packets = [packet for packet in container.demux(stream) if packet.size]
    times = [packet.pts for packet in packets if packet.pts is not None]
    # Matroska states few decoding times, an edit list hides pictures, and MPEG does not begin at zero.
    is_timed = len(times) == len(packets) and all(
        packet.dts is not None and packet.duration for packet in packets
    )
    return is_timed and min(times, default=-1) == 0 and not any(packet.is_discard for packet in packets)


def _copy(videos: Sequence[reading.Path], to: reading.Path) -> None:
    with video_extra():
        import av
    options = {"movflags": "faststart"}
    with whole(to) as part, av.open(str(part), "w", format="mp4", options=options) as result:
        target: Any = None
        offset = 0
        for video in videos:
            with reading.opened(video) as (container, stream):
                target = target or result.add_stream_from_template(stream)
                length = 0
                for packet in container.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    length = max(length, packet.pts + (packet.duration or 0))
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = target
                    result.mux(packet)
                offset += length


def _encode(videos: Sequence[reading.Path], overlap: int, to: reading.Path) -> None:
    with reading.opened(videos[0]) as (_, stream):
        rate = Fraction(stream.average_rate or fitting.RATE)
    first = reading.still(videos[0], at_end=False)
    # Chroma of 4:2:0 needs even sides.
    size = first.shape[1] // 2 * 2, first.shape[0] // 2 * 2
    with contextlib.ExitStack() as files:
        add = files.enter_context(video_writer(to, size, rate=rate, options=FINE, pixels="yuv420p"))
        for number, video in enumerate(videos):
            kept = itertools.islice(reading.pictures(video), overlap if number else 0, None)
            count = 0
            for picture in fitting.at_rate(kept, rate):
                if not count:
                    fitting.log_crop(video, (picture.shape[1], picture.shape[0]), size)
                add(fitting.cropped(picture, size))
                count += 1
            if not count:
                remedy = "give the overlap that extend used"
                raise fitting.input_error("overlap", overlap, f"leaves nothing of {os.fspath(video)}", remedy)
