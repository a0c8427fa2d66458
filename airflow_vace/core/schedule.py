"""Times of polls, from estimates of the end of a prediction.

A prediction may fail at any moment, so the gap between two polls never exceeds the bound on lateness. Within
this bound, poll density is proportional to the square root of the completion-time density around the expected
end; this minimises lateness for a given number of polls. Estimates come from earlier runs of the same kind
and from the progress bar in the logs.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from airflow_vace.core.timing import Timing
from airflow_vace.inputs import FIELDS
from airflow_vace.prediction import PredictionStatus, parse_time

if TYPE_CHECKING:
    from collections.abc import Hashable

    from airflow_vace.prediction import Prediction
    from airflow_vace.progress import Progress

# Default lateness, as a share of the time waited: a long run need not be noticed to the second.
MAX_DELAY_SHARE = 0.05

# Without an estimate, a gap is this share of the time waited, so polls of a short run are dense.
_GAP_SHARE = 0.5
# Price of one poll in the trade against lateness: a higher price means fewer polls around the expected end.
_POLL_PRICE = 0.7
# Waits that start together would poll together forever, so gaps are shortened at random.
_JITTER = 0.15

# Even identical runs differ, so no estimate is taken as exact: minimum in seconds, and shares of a duration.
_MIN_DOUBT_SECONDS = 0.25
_RUN_DOUBT_SHARE = 0.01
_STEPS_DOUBT_SHARE = 0.02
_SINGLE_RUN_DOUBT_SHARE = 0.04
# Turns a median deviation into a doubt.
_DEVIATION_FACTOR = 1.2
# Decoding follows the last step; before any experience its duration is this share of all steps.
_DECODE_SHARE = 0.06
# Estimates that differ by more than this many doubts contradict each other.
_MAX_DISAGREEMENT = 4

# A response shows the state of a moment before its arrival, at most this much before.
_MAX_LATENCY_SECONDS = 1.0
_MAX_SKEW_DOUBT_SECONDS = 5.0

# Memory of a triggerer that runs for months stays bounded.
_MAX_RUNS = 16
_MAX_KINDS = 256

# The inputs that determine the duration of a run.
_KIND_INPUTS = ("size", "frame_num", "sample_steps", "speed_mode")


class Estimate(NamedTuple):
    """A moment on the local clock and its uncertainty, in seconds."""

    moment: float
    doubt: float


@dataclass(slots=True)
class _Durations:
    """Durations of recent predictions of one kind, in seconds.

    :param runs: from start to end
    :param tails: from the last step to the end
    """

    runs: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_RUNS))
    tails: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_RUNS))


class Experience:
    """Facts from recent predictions: durations by kind, and the offset of the server's clock.

    A kind is a model with size, frames, steps and speed mode. All waits of a connection share one object.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, _Durations] = OrderedDict()
        self._min_skew, self._max_skew = -math.inf, math.inf

    def durations_of(self, kind: Hashable) -> _Durations:
        """Return the durations of a kind; the kind unused for longest is forgotten beyond 256 kinds."""
        durations = self._kinds.pop(kind, None) or _Durations()
        self._kinds[kind] = durations
        while len(self._kinds) > _MAX_KINDS:
            self._kinds.popitem(last=False)
        return durations

    def note_event(self, served: float, *, after: float, until: float) -> None:
        """Narrow the offset of the clocks by an event with a known date.

        :param served: server's time of the event
        :param after: local time before the event
        :param until: local time after the event
        """
        low, high = max(self._min_skew, after - served), min(self._max_skew, until - served)
        if low > high:
            # Contradicting bounds mean that a clock was set meanwhile, so the older bounds are void.
            low, high = after - served, until - served
        self._min_skew, self._max_skew = low, high

    def to_local(self, served: float) -> Estimate:
        """Convert a server's time to the local clock."""
        skew = min(max(0.0, self._min_skew), self._max_skew)
        if skew == 0.0:
            return Estimate(served, 0.0)
        return Estimate(served + skew, min(self._max_skew - self._min_skew, _MAX_SKEW_DOUBT_SECONDS) / 2)


@dataclass(slots=True)
class Schedule:
    """Decides the times of polls of one prediction.

    :param poll_interval: maximum gap in seconds (default: 10 s, or 5 % of the time waited)
    :param experience: shared facts from other predictions
    :param timing: gaps without an author's interval
    """

    poll_interval: float | None = None
    experience: Experience = field(default_factory=Experience)
    timing: Timing = field(default_factory=Timing)
    began: float | None = field(init=False, default=None)
    progress: Progress | None = field(init=False, default=None)
    _polled: float | None = field(init=False, default=None)
    _status: PredictionStatus | None = field(init=False, default=None)
    _kind: Hashable = field(init=False, default=None)
    _started: Estimate | None = field(init=False, default=None)
    _steps_end: Estimate | None = field(init=False, default=None)

    def bound(self, now: float) -> float:
        """Return the maximum gap between two polls in seconds."""
        if self.poll_interval is not None:
            # Guard against `poll_interval=0`, which would busy-loop.
            return max(self.poll_interval, self.timing.min_poll_interval_seconds)
        return max(self.timing.max_poll_delay_seconds, MAX_DELAY_SHARE * self._waited(now))

    def learn(self, prediction: Prediction, now: float) -> None:
        """Update the estimates from a response.

        :param prediction: state in the response
        :param now: local time of arrival
        """
        if self.began is None:
            self.began = min(now, self._local_time_of(prediction.created_at, now))
        if self._kind is None and prediction.input:
            values = (str(prediction.input.get(name, FIELDS[name].default)) for name in _KIND_INPUTS)
            self._kind = (prediction.model, *values)
        if prediction.status is PredictionStatus.PROCESSING and self._started is None:
            self._note_start(prediction, now)
        if prediction.status.is_final:
            self._note_end(prediction, now)
        elif prediction.logs:
            self._note_progress(prediction, now)
        self._polled, self._status = now, prediction.status

    def next_delay(self, now: float) -> float:
        """Return the seconds until the next poll; jitter only shortens."""
        bound = self.bound(now)
        expected = self.expected
        if expected is None:
            first_gap = self.timing.first_poll_gap_seconds
            gap = bound if self._is_far_from_end else max(first_gap, _GAP_SHARE * self._waited(now))
            return min(gap, bound) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - jitter is no secret
        gap = max(_gap_before(expected.moment - now, expected.doubt), self.timing.min_poll_gap_seconds)
        if gap <= bound:
            return gap
        # Equal steps, so that one of the polls falls on the wanted moment.
        return gap / math.ceil(gap / bound) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - likewise

    @property
    def expected(self) -> Estimate | None:
        """Expected end on the local clock, None without any evidence."""
        by_runs, by_steps = self._end_by_runs(), self._end_by_steps()
        if by_runs is None or by_steps is None:
            return by_runs or by_steps
        if abs(by_runs.moment - by_steps.moment) > _MAX_DISAGREEMENT * (by_runs.doubt + by_steps.doubt):
            # This run differs from earlier runs, so only its own steps count.
            return by_steps
        return min(by_runs, by_steps, key=lambda estimate: estimate.doubt)

    @property
    def _is_far_from_end(self) -> bool:
        """Return True if the run has not started, and known runs are longer than the first gap."""
        if self._status is not PredictionStatus.STARTING or self._kind is None:
            return False
        runs = self.experience.durations_of(self._kind).runs
        return bool(runs) and min(runs) > self.timing.first_poll_gap_seconds

    def _waited(self, now: float) -> float:
        return 0.0 if self.began is None else now - self.began

    def _end_by_runs(self) -> Estimate | None:
        if self._started is None or self._kind is None:
            return None
        runs = self.experience.durations_of(self._kind).runs
        if not runs:
            return None
        usual, spread = _median_and_spread(runs)
        doubt = max(spread, self._started.doubt, _RUN_DOUBT_SHARE * usual, _MIN_DOUBT_SECONDS)
        return Estimate(self._started.moment + usual, doubt)

    def _end_by_steps(self) -> Estimate | None:
        if self._steps_end is None:
            return None
        end, doubt = self._steps_end
        tails = self.experience.durations_of(self._kind).tails if self._kind is not None else ()
        if tails:
            tail, spread = _median_and_spread(tails)
            return Estimate(end + tail, max(doubt, spread, _MIN_DOUBT_SECONDS))
        bar = self.progress
        all_steps = bar.steps * (bar.seconds_per_step or 0.0) if bar else 0.0
        tail = _DECODE_SHARE * all_steps
        return Estimate(end + tail, max(doubt, tail / 2, _MIN_DOUBT_SECONDS))

    def _note_start(self, prediction: Prediction, now: float) -> None:
        before = self._polled if self._status is PredictionStatus.STARTING else None
        dated = parse_time(prediction.started_at)
        if dated is None:
            if before is not None:
                self._started = Estimate((before + now) / 2, (now - before) / 4)
            return
        if before is not None:
            self.experience.note_event(dated.timestamp(), after=before - _MAX_LATENCY_SECONDS, until=now)
        start = self.experience.to_local(dated.timestamp())
        self._started = start._replace(moment=min(start.moment, now))

    def _note_progress(self, prediction: Prediction, now: float) -> None:
        bar = prediction.progress
        if bar is None or not bar.is_of_steps:
            return
        is_new_step = self.progress is None or bar.step > self.progress.step
        self.progress = bar
        rate = bar.seconds_per_step
        known = self._steps_end
        if rate is None or not (is_new_step or known is None):
            return
        steps_left = bar.steps - bar.step
        if steps_left == 0 and known is not None:
            # No bar is drawn after the last step, so the steps ended between the last two polls.
            self._steps_end = known._replace(moment=min(known.moment, now))
            return
        # The bar was drawn up to one step ago, half a step on average.
        drawn = now - (rate / 2 if steps_left else 0.0)
        doubt = max(_STEPS_DOUBT_SHARE * steps_left * rate, rate / 4)
        self._steps_end = Estimate(drawn + steps_left * rate, doubt)

    def _note_end(self, prediction: Prediction, now: float) -> None:
        ended, started = parse_time(prediction.completed_at), parse_time(prediction.started_at)
        if ended is None:
            return
        if self._polled is not None:
            self.experience.note_event(
                ended.timestamp(), after=self._polled - _MAX_LATENCY_SECONDS, until=now
            )
        # A failed run stops early, so its duration predicts nothing.
        if prediction.status is not PredictionStatus.SUCCEEDED or self._kind is None:
            return
        durations = self.experience.durations_of(self._kind)
        if started is not None and ended > started:
            durations.runs.append((ended - started).total_seconds())
        if self._steps_end is not None:
            end = self.experience.to_local(ended.timestamp()).moment
            durations.tails.append(max(end - self._steps_end.moment, 0.0))

    def _local_time_of(self, text: str | None, now: float) -> float:
        moment = parse_time(text)
        return now if moment is None else self.experience.to_local(moment.timestamp()).moment


def _median_and_spread(values: deque[float]) -> tuple[float, float]:
    """Return the median, and the usual distance from the median."""
    usual = statistics.median(values)
    if len(values) == 1:
        return usual, _SINGLE_RUN_DOUBT_SHARE * usual
    return usual, _DEVIATION_FACTOR * statistics.median(abs(value - usual) for value in values)


def _gap_before(left: float, doubt: float) -> float:
    """Return the seconds to the next poll.

    The completion-time density is taken as logistic, at most 1/s. The next poll is due once the integral of
    its square root has grown by the price of one poll.

    :param left: seconds until the expected end, negative afterwards
    :param doubt: uncertainty of the expected end in seconds
    """
    root = math.sqrt(doubt)
    # In units of `doubt`, from the expected end.
    passed = -left / doubt
    spent = root * (2 * math.exp(passed / 2) if passed < 0 else 2 + passed)
    wanted = (spent + _POLL_PRICE) / root
    target = 2 * math.log(wanted / 2) if wanted < 2 else wanted - 2
    gap = (target - passed) * doubt
    # An overdue prediction disproves the estimate more and more, so polls become rarer with time.
    return max(gap, _POLL_PRICE * math.sqrt(-left)) if passed > 4 else gap
