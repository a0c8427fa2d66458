"""When to look at a prediction next, from what is known of when it ends.

A gap between two looks is never longer than the bound on lateness, for a prediction may fail at any
moment. Within that bound looks are put where the end is likely: with an end expected at `E`, give or take
`s` seconds, looks lie as dense as the square root of the chance that it ends now, which is what makes
the lateness least for a number of looks.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_vace.core.timing import Timing
from airflow_vace.inputs import FIELDS
from airflow_vace.prediction import PredictionStatus, parse_time

if TYPE_CHECKING:
    from collections.abc import Hashable

    from airflow_vace.prediction import Prediction, Progress

# How late an end may be noticed unless the author says it: `max_poll_delay_seconds`, or this share of the
# time waited.
LATENESS_SHARE = 0.05

# Without any idea of the end, gaps grow from the first one by this share of the time waited.
_GROWTH = 0.5
# Looks for lateness: the higher, the fewer looks around the expected end.
_THRIFT = 0.7
_JITTER = 0.15

# What is not known of an end, in seconds and as a share.
_LEAST_DOUBT = 0.25
_DOUBT_OF_RUN = 0.01
_DOUBT_OF_STEPS = 0.02
_SHARE_AFTER_STEPS = 0.06

# An answer tells of a moment before it came.
_LATENCY = 1.0

_MOST_RUNS = 16
_MOST_KINDS = 256

_KIND = ("size", "frame_num", "sample_steps", "speed_mode")


@dataclass(slots=True)
class _Kind:
    """How long predictions of one kind have run, and what came after their last step, in seconds."""

    runs: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_RUNS))
    tails: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_RUNS))


class Experience:
    """What the last predictions taught: how long each kind runs, and how the server's clock differs.

    A kind is a model with the size, frames, steps and speed mode that it was asked for.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._least_skew, self._most_skew = -math.inf, math.inf

    def of(self, kind: Hashable) -> _Kind:
        known = self._kinds.pop(kind, None) or _Kind()
        self._kinds[kind] = known
        while len(self._kinds) > _MOST_KINDS:
            self._kinds.popitem(last=False)
        return known

    def saw(self, event: float, *, after: float, until: float) -> None:
        """Note that what the server dates so happened between two moments of our own clock."""
        least, most = max(self._least_skew, after - event), min(self._most_skew, until - event)
        if least > most:  # one of the clocks was set
            least, most = after - event, until - event
        self._least_skew, self._most_skew = least, most

    def local(self, event: float) -> tuple[float, float]:
        """Return when on our own clock something happened that the server dates so, and the doubt in it."""
        skew = min(max(0.0, self._least_skew), self._most_skew)
        return event + skew, 0.0 if skew == 0.0 else min(self._most_skew - self._least_skew, 5.0) / 2


@dataclass(slots=True)
class Schedule:
    """The looks at one prediction: tell it each answer, and it says when to look again.

    :param poll_interval: bound on lateness in seconds (default: 10 s, or 5 % of the time waited)
    """

    poll_interval: float | None = None
    experience: Experience = field(default_factory=Experience)
    timing: Timing = field(default=Timing(), repr=False)
    began: float | None = field(init=False, default=None)
    progress: Progress | None = field(init=False, default=None)
    _looked: float | None = field(init=False, default=None)
    _status: PredictionStatus | None = field(init=False, default=None)
    _kind: Hashable = field(init=False, default=None)
    _started: tuple[float, float] | None = field(init=False, default=None)
    _steps_end: tuple[float, float] | None = field(init=False, default=None)

    def bound(self, now: float) -> float:
        """Return how far apart two looks may be."""
        if self.poll_interval is not None:
            return max(self.poll_interval, self.timing.min_poll_interval_seconds)
        waited = 0.0 if self.began is None else now - self.began
        return max(self.timing.max_poll_delay_seconds, LATENESS_SHARE * waited)

    def learn(self, prediction: Prediction, now: float) -> None:
        """Take up what an answer tells of when the prediction ends, or has ended."""
        if self.began is None:
            self.began = min(now, self._dated(prediction.created_at, now))
        if self._kind is None and prediction.input:
            asked = prediction.input
            self._kind = (prediction.model, *(str(asked.get(n, FIELDS[n].default)) for n in _KIND))
        if prediction.status is PredictionStatus.PROCESSING and self._started is None:
            self._note_start(prediction, now)
        if prediction.status.is_final:
            self._note_end(prediction, now)
        elif prediction.logs:
            self._note_progress(prediction, now)
        self._looked, self._status = now, prediction.status

    def next_delay(self, now: float) -> float:
        """Return the seconds until the next look; jitter only ever shortens them."""
        bound = self.bound(now)
        expected = self.expected
        if expected is None:
            waited = 0.0 if self.began is None else now - self.began
            gap = bound if self._is_too_early else max(self.timing.first_poll_gap_seconds, _GROWTH * waited)
            return min(gap, bound) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - jitter is no secret
        gap = max(_gap_before(expected[0] - now, expected[1]), self.timing.min_poll_gap_seconds)
        if gap <= bound:
            return gap
        # So many equal steps that one of them lands where a look is wanted.
        return gap / math.ceil(gap / bound) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - likewise

    @property
    def expected(self) -> tuple[float, float] | None:
        """When it ends, by our own clock, and the doubt in it; in seconds, None if nothing tells."""
        found = [guess for guess in (self._by_experience(), self._by_progress()) if guess is not None]
        if len(found) == 2 and abs(found[0][0] - found[1][0]) > 4 * (found[0][1] + found[1][1]):
            return found[1]  # this run is not like the last ones
        return min(found, key=lambda guess: guess[1], default=None)

    @property
    def _is_too_early(self) -> bool:
        """Whether it has not even started, and others of its kind have run for longer than a look is late."""
        if self._status is not PredictionStatus.STARTING or self._kind is None:
            return False
        runs = self.experience.of(self._kind).runs
        return bool(runs) and min(runs) > self.timing.first_poll_gap_seconds

    def _by_experience(self) -> tuple[float, float] | None:
        if self._started is None or self._kind is None:
            return None
        runs = self.experience.of(self._kind).runs
        if not runs:
            return None
        usual, spread = _middle(runs)
        return self._started[0] + usual, max(spread, self._started[1], _DOUBT_OF_RUN * usual, _LEAST_DOUBT)

    def _by_progress(self) -> tuple[float, float] | None:
        if self._steps_end is None:
            return None
        end, doubt = self._steps_end
        tails = self.experience.of(self._kind).tails if self._kind is not None else ()
        if tails:
            tail, spread = _middle(tails)
            return end + tail, max(doubt, spread, _LEAST_DOUBT)
        steps = self.progress
        whole = steps.steps * (steps.seconds_per_step or 0.0) if steps else 0.0
        tail = _SHARE_AFTER_STEPS * whole
        return end + tail, max(doubt, tail / 2, _LEAST_DOUBT)

    def _note_start(self, prediction: Prediction, now: float) -> None:
        before = self._looked if self._status is PredictionStatus.STARTING else None
        dated = parse_time(prediction.started_at)
        if dated is None:
            if before is not None:
                self._started = (before + now) / 2, (now - before) / 4
            return
        if before is not None:
            self.experience.saw(dated.timestamp(), after=before - _LATENCY, until=now)
        start, doubt = self.experience.local(dated.timestamp())
        self._started = min(start, now), doubt

    def _note_progress(self, prediction: Prediction, now: float) -> None:
        progress = prediction.progress
        if progress is None or not progress.is_of_steps:
            return
        fresh = self.progress is None or progress.step > self.progress.step
        self.progress = progress
        rate = progress.seconds_per_step
        if rate is None or not (fresh or self._steps_end is None):
            return
        left = progress.steps - progress.step
        # The bar was drawn up to one step ago, and after the last step it is not drawn again.
        drawn = now - (rate / 2 if left else 0.0)
        known = self._steps_end
        if left == 0 and known is not None:
            self._steps_end = min(known[0], now), known[1]
        else:
            self._steps_end = drawn + left * rate, max(_DOUBT_OF_STEPS * left * rate, rate / 4)

    def _note_end(self, prediction: Prediction, now: float) -> None:
        ended, started = parse_time(prediction.completed_at), parse_time(prediction.started_at)
        if ended is None:
            return
        if self._looked is not None:
            self.experience.saw(ended.timestamp(), after=self._looked - _LATENCY, until=now)
        if prediction.status is not PredictionStatus.SUCCEEDED or self._kind is None:
            return
        known = self.experience.of(self._kind)
        if started is not None and ended > started:
            known.runs.append((ended - started).total_seconds())
        if self._steps_end is not None:
            end, _ = self.experience.local(ended.timestamp())
            known.tails.append(max(end - self._steps_end[0], 0.0))

    def _dated(self, text: str | None, now: float) -> float:
        moment = parse_time(text)
        return now if moment is None else self.experience.local(moment.timestamp())[0]


def _middle(values: deque[float]) -> tuple[float, float]:
    """Return the median, and what a half of the values is away from it; a single value is doubted."""
    usual = statistics.median(values)
    if len(values) == 1:
        return usual, 0.04 * usual
    return usual, 1.2 * statistics.median(abs(value - usual) for value in values)


def _gap_before(left: float, doubt: float) -> float:
    """Return the seconds to the next look, with so many seconds left until the expected end.

    The chance to end now is taken as that of a logistic distribution, 1/s at most; its square root is
    integrated up to the next look, so far as one look is worth.
    """
    root = math.sqrt(doubt)
    # In units of `doubt`, from the expected end.
    passed = -left / doubt
    spent = root * (2 * math.exp(passed / 2) if passed < 0 else 2 + passed)
    spent += _THRIFT
    wanted = spent / root
    at = 2 * math.log(wanted / 2) if wanted < 2 else wanted - 2
    gap = (at - passed) * doubt
    # The longer it is overdue, the less the expectation is worth.
    return max(gap, _THRIFT * math.sqrt(-left)) if passed > 4 else gap
