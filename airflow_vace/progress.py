"""Progress of a prediction, read from the tqdm progress bars in its logs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

# One tqdm bar: " 38%|███▊      | 19/50 [00:30<00:48,  1.57s/it]". Logs are third-party text, so every
# repetition is bounded.
_BAR = re.compile(
    r"(?P<percent>\d{1,3})%\|[^|\r\n]{0,300}\|\s{0,10}(?P<step>\d{1,9})/(?P<steps>\d{1,9})"
    r" \[[^\]<\r\n]{0,40}<(?P<eta>[^\],\r\n]{0,40})(?:,\s{0,10}(?P<rate>[\d.]{1,20})(?P<unit>s/it|it/s))?"
)
# Logs may be megabytes long and the newest bars are at the end, so only the end is read.
_MAX_LOG_CHARACTERS = 256 * 1024
_MAX_BARS = 500


@dataclass(frozen=True, slots=True)
class Progress:
    """State of the newest progress bar.

    :param percent: 0 to 100
    :param step: number of finished steps
    :param steps: total number of steps
    :param eta: seconds to the end of the bar, None if unknown
    :param seconds_per_step: None if unknown
    :param is_of_steps: True for the bar of the requested sampling steps, False for loading or decoding
    """

    percent: int
    step: int
    steps: int
    eta: float | None = None
    seconds_per_step: float | None = None
    is_of_steps: bool = False

    @classmethod
    def from_logs(cls, logs: str | None, steps: int | None = None) -> Self | None:
        """Return the progress in a log, None without a bar.

        :param steps: requested number of sampling steps; the newest bar with this total is preferred
        """
        newest: re.Match[str] | None = None
        preferred: re.Match[str] | None = None
        for bar in _bars_from_the_end(logs or ""):
            newest = bar if newest is None else newest
            if int(bar["steps"]) == steps:
                preferred = bar
                break
        found = preferred or newest
        if found is None:
            return None
        rate = _number(found["rate"])
        # tqdm switches the unit once a step takes less than a second.
        if rate and found["unit"] == "it/s":
            rate = 1 / rate
        return cls(
            percent=min(int(found["percent"]), 100),
            step=int(found["step"]),
            steps=int(found["steps"]),
            eta=_seconds(found["eta"]),
            seconds_per_step=rate or None,
            is_of_steps=preferred is not None,
        )


def _bars_from_the_end(logs: str) -> Iterator[re.Match[str]]:
    """Yield the bars of a log, newest first."""
    end = len(logs)
    start = max(end - _MAX_LOG_CHARACTERS, 0)
    for _ in range(_MAX_BARS):
        end = logs.rfind("%|", start, end)
        if end < 0:
            return
        digits = re.search(r"\d{1,3}$", logs[max(end - 3, start) : end])
        bar = _BAR.match(logs, end - len(digits[0])) if digits else None
        if bar:
            yield bar


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _seconds(clock: str) -> float | None:
    """Return the seconds in tqdm's `48`, `00:48` or `1:02:03`; None for `?`."""
    parts = clock.strip().split(":")
    if not all(part.isascii() and part.isdigit() for part in parts):
        return None
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return seconds
