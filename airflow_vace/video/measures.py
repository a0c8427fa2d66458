"""Measurements of single frames on small copies, with bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_vace.video.rectangles import has_filler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_vace.video.reading import Picture

    # Colours first (3 x height x width), so numpy reduces colours in whole planes.
    Planes = NDArray[np.int16]

# Longest side of the small copy: stars of a night sky survive, noise of a codec is averaged away.
COPY_SIDE = 208
_BLOCK = 4
# Differences in levels of 255, from the clips of the benchmark `video_checks.py`.
_BLACK_LEVEL = 20
_FLAT_BLOCK_LEVEL, _FLAT_LEVEL = 6, 40
_STILL_LEVEL, _STILL_MEAN = 10, 0.2
# Key frames redraw a frozen picture with other errors of the codec; more than a third is slow motion.
_KEY_FRAME_LEVEL, _KEY_FRAMES = 13, 3
_MOVED_LEVEL = 12
_NEGLIGIBLE = 0.0005
# A drawn film shows each picture twice, so pairs count as a stutter only if the whole picture moves.
_LONGEST_HOLD = 6
_LOCAL_CHANGE, _WIDE_CHANGE = 0.008, 0.25


@dataclass
class Meter:
    """Counts of black, flat, repeated and partly empty frames of one video; keeps three frames at most."""

    frames: int = 0
    black: int = 0
    flat: int = 0
    frozen: int = 0
    stuttering: int = 0
    grey_area: int = 0
    black_area: int = 0
    longest_freeze: int = 0
    light: float = 0.0
    _run: int = 0
    _redrawn: int = 0
    _first: Planes | None = None
    _last: Planes | None = None
    # The last step of a motion: mean change, picture before the step, repeated frames since.
    _step: float = 0.0
    _before: Planes | None = None
    _held: int = 0

    def add(self, copy: Picture) -> None:
        """Measure the next frame.

        :param copy: small copy, height x width x 3, RGB
        """
        planes = copy.transpose(2, 0, 1).astype("int16", order="C")
        self.frames += 1
        self.light += float(planes.mean()) / 255
        if is_black(copy):
            self.black += 1
        elif _is_flat(planes):
            self.flat += 1
        else:
            self.grey_area += has_filler(abs(planes - 127.5).max(axis=0) <= 12, planes, share=0.15, edge=16)
            self.black_area += has_filler(planes.max(axis=0) <= 14, planes, share=0.3, edge=60)
        self._follow(planes)

    def end(self) -> None:
        """Count the last run of equal frames."""
        self.longest_freeze = max(self.longest_freeze, self._run)

    def _follow(self, planes: Planes) -> None:
        last, self._last = self._last, planes
        if last is None or last.shape != planes.shape:
            self._start_run(planes)
            return
        difference = abs(planes - last)
        change = float(difference.mean())
        self._count_stutter(planes, last, change)
        is_still = bool(change <= _STILL_MEAN and difference.max() <= _STILL_LEVEL)
        self.frozen += is_still
        self._redrawn += not is_still
        if self._is_frozen(planes):
            self._run += 1
        else:
            self._start_run(planes)

    def _start_run(self, planes: Planes) -> None:
        self.end()
        self._first, self._run, self._redrawn = planes, 1, 0

    def _is_frozen(self, planes: Planes) -> bool:
        # Slow motion adds up since the first frame of a run, unlike the errors of key frames.
        is_near = self._first is not None and abs(planes - self._first).max() <= _KEY_FRAME_LEVEL
        return bool(is_near and self._redrawn <= 2 + self._run // _KEY_FRAMES)

    def _count_stutter(self, planes: Planes, last: Planes, change: float) -> None:
        """Count the repeated frames between two steps of a motion."""
        moved = _moved(planes, last)
        if moved >= _LOCAL_CHANGE and change >= self._step / 2:
            is_step_of_motion = change <= self._step * 2 and (self._held > 1 or moved >= _WIDE_CHANGE)
            # A blinking light returns to an earlier picture; motion does not.
            if is_step_of_motion and not self._returns(planes):
                self.stuttering += self._held
            self._before, self._step, self._held = last, change, 0
        elif moved >= _LOCAL_CHANGE or self._held >= _LONGEST_HOLD:
            self._step, self._held = change, 0
        elif change <= self._step / 4:
            self._held += 1

    def _returns(self, planes: Planes) -> bool:
        return self._before is not None and _moved(planes, self._before) < _LOCAL_CHANGE / 2


def is_black(picture: Picture) -> bool:
    """Return True for a frame without a visible pixel.

    :param picture: height x width x 3
    """
    lit = (
        (picture[..., 0] > _BLACK_LEVEL) | (picture[..., 1] > _BLACK_LEVEL) | (picture[..., 2] > _BLACK_LEVEL)
    )
    return float(lit.mean()) <= _NEGLIGIBLE


def _moved(planes: Planes, other: Planes) -> float:
    """Return the share of pixels that differ clearly; 1 for pictures of different sizes."""
    if planes.shape != other.shape:
        return 1.0
    return float((abs(planes - other).max(axis=0) > _MOVED_LEVEL).mean())


def _is_flat(planes: Planes) -> bool:
    """Return True for a frame of one colour, apart from noise."""
    colour = planes[:, ::_BLOCK, ::_BLOCK].mean(axis=(1, 2))[:, None, None]
    if (abs(planes - colour).max(axis=0) > _FLAT_LEVEL).mean() > _NEGLIGIBLE:
        return False
    height, width = (max(side // _BLOCK, 1) for side in planes.shape[1:])
    inner = planes[:, : height * _BLOCK, : width * _BLOCK]
    blocks = inner.reshape(3, height, -1, width, inner.shape[2] // width).mean(axis=(2, 4))
    return bool(abs(blocks - colour).max() <= _FLAT_BLOCK_LEVEL)
