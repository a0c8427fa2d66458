"""Facts about a video file from one decode pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_vace.video.errors import video_extra
from airflow_vace.video.measures import COPY_SIDE, Meter
from airflow_vace.video.reading import opened, stretch_of, unreadable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from airflow_vace.video.reading import Path, Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """Measured properties of a video.

    Shares are between 0 and 1, of the decoded frames.

    :param width: pixels, as a player shows the video
    :param height: pixels, as a player shows the video
    :param frames: decoded frames
    :param declared_frames: frames to show according to the container, None if the container has no count
    :param fps: frames per second
    :param seconds: duration of the decoded frames
    :param codec: FFmpeg's name, such as `h264`
    :param has_audio: True if the file has a stream of audio
    :param brightness: mean of all pixels, 0 (black) to 1 (white)
    :param black_share: frames without a visible pixel
    :param single_colour_share: frames of one colour other than black
    :param frozen_share: frames that repeat an earlier frame of the same run
    :param longest_freeze: seconds of the longest run of equal frames
    :param stutter_share: frames that are repeated while the motion goes on
    :param grey_area_share: frames with a rectangle of VACE's filler (middle grey)
    :param black_area_share: frames with a black rectangle other than bars on two sides
    :param damaged_frames: frames or packets that the decoder could not restore fully
    :param decode_error: the decoder's first error, None for a whole file
    """

    width: int
    height: int
    frames: int
    declared_frames: int | None
    fps: float
    seconds: float
    codec: str
    has_audio: bool
    brightness: float
    black_share: float
    single_colour_share: float
    frozen_share: float
    longest_freeze: float
    stutter_share: float
    grey_area_share: float
    black_area_share: float
    damaged_frames: int
    decode_error: str | None

    def as_json(self) -> dict[str, Any]:
        """Return a plain dict for manifests and payloads."""
        return asdict(self)


@dataclass(slots=True)
class _Pass:
    """State of a decode pass that may end early."""

    meter: Meter
    stretch: float = 1.0
    width: int = 0
    height: int = 0
    damaged: int = 0
    hidden: int = 0
    error: str | None = None


def inspect(path: Path) -> VideoFacts:
    """Return facts about a local video file.

    One decode pass measures small copies of the frames, so memory does not grow with the length. 81 frames of
    832x480 take a quarter of a second on one core.

    :param path: local file
    :raises VideoUnreadable: if no frame can be decoded
    :raises VideoExtraMissing: without the extra `video`
    """
    found = _Pass(Meter())
    try:
        with opened(path) as (container, stream):
            _measure(container, stream, found)
            if not found.meter.frames:
                raise unreadable(path, found.error or "the file has no frames")
            return _facts(container, stream, found)
    except OSError as error:
        # FFmpeg reports a missing file in its own class; a directory or a denied one may come from Python.
        raise unreadable(path, error.strerror or str(error)) from error


def _measure(container: InputContainer, stream: VideoStream, found: _Pass) -> None:
    with video_extra():
        import av
    found.stretch = stretch_of(stream)
    try:
        for packet in container.demux(stream):
            # The edit list of a shortened MP4 hides frames that the container still counts.
            found.hidden += packet.is_discard
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                # Players go on behind a damaged packet, and so do the counts.
                found.damaged += 1
                found.error = found.error or error.strerror
                continue
            for frame in frames:
                _measure_frame(frame, found)
    except av.error.FFmpegError as error:
        # Without any frame the file is unreadable; with some, the end is missing.
        if not found.meter.frames:
            raise
        found.error = error.strerror or str(error)
    found.meter.end()


def _measure_frame(frame: VideoFrame, found: _Pass) -> None:
    is_turned = round(frame.rotation / 90) % 2
    width, height = round(frame.width * found.stretch), frame.height
    found.width, found.height = (height, width) if is_turned else (width, height)
    found.damaged += frame.is_corrupt
    found.meter.add(small_copy(frame))


def small_copy(frame: VideoFrame) -> Picture:
    """Return a copy of a frame with a longest side of at most 208 pixels, RGB."""
    scale = min(1.0, COPY_SIDE / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    copy = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    pixels: Any = copy.to_ndarray()
    picture: Picture = pixels
    return picture


def _facts(container: InputContainer, stream: VideoStream, found: _Pass) -> VideoFacts:
    meter = found.meter
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    # The rate of a single frame may be unknown.
    second = 1 / fps if fps else 0.0
    return VideoFacts(
        width=found.width,
        height=found.height,
        frames=meter.frames,
        declared_frames=max(stream.frames - found.hidden, 0) or None,
        fps=round(fps, 3),
        seconds=round(meter.frames * second, 3),
        codec=stream.codec_context.name,
        has_audio=bool(container.streams.audio),
        brightness=round(meter.light / meter.frames, 4),
        black_share=_share(meter.black, meter),
        single_colour_share=_share(meter.flat, meter),
        frozen_share=_share(meter.frozen, meter),
        longest_freeze=round(meter.longest_freeze * second, 3) if meter.longest_freeze > 1 else 0.0,
        stutter_share=_share(meter.stuttering, meter),
        grey_area_share=_share(meter.grey_area, meter),
        black_area_share=_share(meter.black_area, meter),
        damaged_frames=found.damaged,
        decode_error=found.error,
    )


def _share(count: int, meter: Meter) -> float:
    return round(count / meter.frames, 4)
