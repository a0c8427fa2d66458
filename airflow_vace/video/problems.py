"""Problems of a video in plain English: wrong size or length, black, frozen, one colour, truncated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_vace.video.errors import VideoUnreadable
from airflow_vace.video.facts import VideoFacts, inspect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.video.reading import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Highest accepted values; a video above one of the values has a problem.

    The benchmark `video_checks.py` shows the distance of the defaults from good and defective clips.

    :param black_share: fades from and to black stay below
    :param single_colour_share: fades and flashes stay below
    :param frozen_share: share of repeated frames
    :param longest_freeze: seconds
    :param freeze_share: the longest freeze as a share of the duration, for clips of few seconds
    :param stutter_share: share of frames that are repeated while the motion goes on
    :param empty_area_share: share of frames with a rectangle of filler
    """

    black_share: float = 0.2
    single_colour_share: float = 0.35
    frozen_share: float = 0.95
    longest_freeze: float = 1.45
    freeze_share: float = 0.35
    stutter_share: float = 0.35
    empty_area_share: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Size and number of frames that an input asks for; None means any.

    :param width: pixels
    :param height: pixels
    :param frames: number of frames
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None

    @classmethod
    def of(cls, input: Mapping[str, Any]) -> Expected:  # noqa: A002 - the API's own word
        """Return the expectation of a normalised input of prunaai/vace-14b.

        With `src_video` the source decides about the number of frames, and about the size in VACE's own
        code (`vace/models/wan/wan_vace.py: prepare_source`), so nothing is expected then. VACE makes 4n+1
        frames, so no number is expected for another `frame_num`: no further clip could have that number.
        """
        if input.get("src_video"):
            return cls()
        width, _, height = str(input.get("size") or "").partition("*")
        frames = input.get("frame_num")
        return cls(
            width=int(width) if width.isdecimal() else None,
            height=int(height) if height.isdecimal() else None,
            frames=frames if isinstance(frames, int) and frames % 4 == 1 else None,
        )


def check(
    path: Path, *, expected: Expected | Mapping[str, int] | None = None, limits: Limits | None = None
) -> tuple[VideoFacts | None, list[str]]:
    """Return facts and problems of a local file; an unreadable file is a problem, without facts.

    :param path: local file
    :param expected: see :func:`problems`
    :param limits: see :func:`problems`
    :raises VideoExtraMissing: without the extra `video`
    """
    try:
        facts = inspect(path)
    except VideoUnreadable as error:
        return None, [f"The video cannot be decoded: {error.reason}."]
    return facts, problems(facts, expected=expected, limits=limits)


def problems(
    facts: VideoFacts,
    *,
    expected: Expected | Mapping[str, int] | None = None,
    limits: Limits | None = None,
) -> list[str]:
    """Return a sentence for each problem, with the value and the limit; an empty list for a good video.

    :param facts: see :func:`inspect`
    :param expected: size and frames, also as a mapping with `width`, `height` and `frames`; None: any
    :param limits: default: :class:`Limits`
    """
    limits = limits or Limits()
    wanted = Expected(**expected) if isinstance(expected, Mapping) else expected or Expected()
    return [*_truncated(facts), *_of_form(facts, wanted), *_of_content(facts, limits)]


def _truncated(facts: VideoFacts) -> Iterator[str]:
    declared = facts.declared_frames
    if declared and facts.frames < declared:
        yield f"The file is truncated or damaged: {facts.frames} of {declared} frames can be decoded."
    if facts.damaged_frames:
        yield f"{facts.damaged_frames} frames are damaged (limit: 0)."
    elif facts.decode_error:
        yield f"Decoding ends after {facts.frames} frames: {facts.decode_error}."


def _of_form(facts: VideoFacts, expected: Expected) -> Iterator[str]:
    width, height = expected.width or facts.width, expected.height or facts.height
    if (width, height) != (facts.width, facts.height):
        yield f"The size is {facts.width}x{facts.height}, expected {width}x{height}."
    if expected.frames not in (None, facts.frames):
        yield f"The video has {facts.frames} frames, expected {expected.frames}."


def _of_content(facts: VideoFacts, limits: Limits) -> Iterator[str]:
    if facts.black_share > limits.black_share:
        yield _above("{} of the frames are black", facts.black_share, limits.black_share)
    if facts.single_colour_share > limits.single_colour_share:
        yield _above(
            "{} of the frames have one colour", facts.single_colour_share, limits.single_colour_share
        )
    if facts.black_share + facts.single_colour_share < 1:
        yield from _of_motion(facts, limits)
    for colour, share in (("grey", facts.grey_area_share), ("black", facts.black_area_share)):
        if share > limits.empty_area_share:
            text = f"{{}} of the frames have an empty {colour} rectangle"
            yield _above(text, share, limits.empty_area_share)


def _of_motion(facts: VideoFacts, limits: Limits) -> Iterator[str]:
    longest = min(limits.longest_freeze, limits.freeze_share * facts.seconds)
    # Two equal frames are no freeze, so a clip of a few frames passes.
    if facts.longest_freeze > max(longest, 2.5 * facts.seconds / facts.frames):
        yield f"The picture is frozen for {facts.longest_freeze:.2f} s (limit: {longest:.2f} s)."
    elif facts.frozen_share > limits.frozen_share:
        yield _above("{} of the frames repeat an earlier frame", facts.frozen_share, limits.frozen_share)
    if facts.stutter_share > limits.stutter_share:
        yield _above(
            "The video stutters: {} of the frames are repeated", facts.stutter_share, limits.stutter_share
        )


def _above(text: str, value: float, limit: float) -> str:
    return f"{text.format(f'{value:.0%}')} (limit: {limit:.0%})."
