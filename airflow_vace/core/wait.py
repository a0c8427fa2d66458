"""The meaning of an answer or an error for a wait: decisions without I/O, clock or sleep."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_vace.core.identity import is_confirmed, is_same_end
from airflow_vace.core.outcome import timed_out
from airflow_vace.core.retry import Backoff, Failure, failure_of, settling_limits, verdict_of
from airflow_vace.core.schedule import Experience, Schedule
from airflow_vace.core.timing import Timing
from airflow_vace.prediction import Prediction, PredictionStatus

if TYPE_CHECKING:
    from airflow_vace.exceptions import VaceError
    from airflow_vace.progress import Progress


@dataclass(frozen=True, slots=True)
class PollAgain:
    """Poll again after a number of seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Final:
    """The prediction is terminal, with success or without."""

    prediction: Prediction


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop the wait and raise the error."""

    error: VaceError


Decision = PollAgain | Final | GiveUp


@dataclass(slots=True)
class _Refusals:
    """Refusals of the same class in a row, and the time of the first."""

    kind: tuple[Failure, object, object]
    since: float
    count: int = 0


@dataclass(slots=True, kw_only=True)
class Wait:
    """The wait for a prediction: decide after each answer and each error.

    The waiting call and the shared poller both use this class and end a wait alike. After each decision
    `news` holds a line for the log, or None without a change, and `is_troubled` makes the line a warning.

    :param prediction: last known state, without input and logs while the prediction runs
    :param deadline: seconds since the epoch; None waits without end
    :param poll_interval: bound in seconds on how late an end is noticed (default: see :class:`Schedule`)
    :param experience: run times that other waits have learned
    """

    prediction: Prediction
    deadline: float | None = None
    poll_interval: float | None = None
    experience: Experience = field(default_factory=Experience, repr=False)
    timing: Timing = field(default=Timing(), repr=False)
    news: str | None = field(init=False, default=None)
    is_troubled: bool = field(init=False, default=False)
    _schedule: Schedule = field(init=False)
    _backoff: Backoff | None = field(init=False, default=None)
    _refusals: _Refusals | None = field(init=False, default=None)
    _trouble: str | None = field(init=False, default=None)
    _unconfirmed_end: Prediction | None = field(init=False, default=None, repr=False)
    _unconfirmed_count: int = field(init=False, default=0)
    _logged_status: PredictionStatus = field(init=False)
    _logged_tenth: int = field(init=False, default=-1)
    _next_boot_notice: float = field(init=False)

    def __post_init__(self) -> None:
        self._schedule = Schedule(self.poll_interval, self.experience, self.timing)
        self._logged_status = self.prediction.status
        self._next_boot_notice = self.timing.cold_boot_notice_seconds

    @property
    def is_unsettled(self) -> bool:
        """Return True after a refusal, and after the first end under an unknown id, while the wait goes on.

        Only the next poll of the same wait can settle either, and a rescheduled sensor has a new wait.
        """
        return self._refusals is not None or self._unconfirmed_count == 1

    def mark_logged(self, status: object) -> None:
        """Leave a status out of the news after another process has logged the status; an end stays news."""
        if isinstance(status, str) and not PredictionStatus(status).is_final:
            self._logged_status = PredictionStatus(status)

    def answered(self, prediction: Prediction, now: float) -> Decision:
        """Decide after an answer; without a terminal status, poll again until the deadline.

        :param now: seconds since the epoch, by the clock of the deadline
        """
        is_believed = is_confirmed(self.prediction, prediction) or is_same_end(
            self._unconfirmed_end, prediction
        )
        if prediction.status.is_final and not is_believed:
            return self._unconfirmed(prediction, now)
        self._unconfirmed_end, self._unconfirmed_count = None, 0
        if not self.prediction.status.is_final:
            self._schedule.learn(prediction, now)
        is_renamed = prediction.upstream_id not in (None, self.prediction.upstream_id)
        self._keep(prediction)
        self.news = self._change(prediction, now)
        if is_renamed:
            status = self.news or f"Prediction {self.prediction.id}: {self.prediction.status}"
            self.news = f"{status} (the server's answers name it {prediction.upstream_id})"
        if self._trouble and not self.news:
            self.news = f"Prediction {self.prediction.id}: {self.prediction.status}, answers come again"
        self.is_troubled = not self.prediction.status.is_known
        self._refusals = self._trouble = self._backoff = None
        if self.prediction.status.is_final:
            return Final(self.prediction)
        if self._is_over(now):
            return GiveUp(timed_out(self.prediction))
        return self._poll_after(self._schedule.next_delay(now), now)

    def _unconfirmed(self, latest: Prediction, now: float) -> Decision:
        """Poll again after an end under an unknown id; a second answer with the same id or end confirms."""
        known = self.prediction
        self.prediction = replace(known, upstream_id=latest.upstream_id)
        self._unconfirmed_end, self._unconfirmed_count = latest, self._unconfirmed_count + 1
        self.news = f"Prediction {known.id}: an answer says {latest.status} and names {latest.upstream_id};"
        self.news += " polling again for a confirmation"
        self.is_troubled, self._refusals = False, None
        if self._is_over(now):
            return GiveUp(timed_out(known))
        return self._poll_after(self.timing.first_poll_gap_seconds, now)

    def failed(self, error: VaceError, now: float) -> Decision:
        """Decide after an error; a refusal ends the wait only after several in a row.

        :param now: seconds since the epoch, by the clock of the deadline
        """
        if not verdict_of(error, "poll").now:
            return GiveUp(error)
        trouble = f"A poll of the prediction failed: {error}"
        # A server in trouble answers alike for minutes, so only a changed message is logged.
        self.news = trouble if trouble != self._trouble else None
        self.is_troubled, self._trouble = True, trouble
        if self._is_settled(error, now):
            return GiveUp(error)
        if self._is_over(now):
            return GiveUp(timed_out(self.prediction, error))
        if self._backoff is None:
            self._backoff = Backoff(self.poll_interval, self.timing)
        return self._poll_after(self._backoff.delay_after(error), now)

    def overdue(self, now: float) -> GiveUp | None:
        """Return the time-out while no poll is possible; None before the deadline."""
        if not self._is_over(now):
            return None
        self.news = None
        return GiveUp(timed_out(self.prediction))

    def _keep(self, latest: Prediction) -> None:
        """Keep the latest state without inputs and logs, because thousands of waits share a process."""
        known = self.prediction
        if latest.status.is_final or known.status.is_final:
            self.prediction = known.updated(latest)
        elif (
            latest.status != known.status
            or known.logs
            or known.input
            or latest.upstream_id not in (None, known.upstream_id)
        ):
            self.prediction = replace(known.updated(latest), logs=None, input={})

    def _change(self, latest: Prediction, now: float) -> str | None:
        """Return a log line about the change since the last answer; None if there is none."""
        known = self.prediction
        progress = latest.progress if known.status is PredictionStatus.PROCESSING else None
        is_of_steps = progress is not None and progress.is_of_steps
        if known.status != self._logged_status:
            self._logged_status = known.status
            if not is_of_steps:
                return f"Prediction {known.id}: {known.status}{_remark(known)}"
        if progress is not None and is_of_steps and progress.percent // 10 != self._logged_tenth:
            self._logged_tenth = progress.percent // 10
            return f"Prediction {known.id}: {known.status}, {_in_words(progress, self._schedule, now)}"
        waited = now - (now if self._schedule.began is None else self._schedule.began)
        if known.status is PredictionStatus.STARTING and waited >= self._next_boot_notice:
            self._next_boot_notice = 2 * waited
            return f"Prediction {known.id}: starting for {waited:.0f} s, a cold boot or a queue"
        return None

    def _is_settled(self, error: VaceError, now: float) -> bool:
        """Count a refusal; return True after the number in a row, and the seconds, of a lasting refusal."""
        failure = failure_of(error)
        limits = settling_limits(failure, self.timing)
        if limits is None:
            self._refusals = None
            return False
        # Different refusals in turn come from a server in trouble.
        status, code = getattr(error, "status_code", None), getattr(error, "code", None)
        is_named = failure in (Failure.REFUSED, Failure.BROKEN_OFF)
        kind = (failure, status, code) if is_named else (failure, None, None)
        if self._refusals is None or self._refusals.kind != kind:
            self._refusals = _Refusals(kind, now)
        self._refusals.count += 1
        max_count, grace = limits
        return self._refusals.count >= max_count and now - self._refusals.since >= grace

    def _is_over(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def _poll_after(self, delay: float, now: float) -> PollAgain:
        # The last poll falls on the deadline and not after it, so a late success still counts.
        return PollAgain(delay if self.deadline is None else min(delay, self.deadline - now))


def _remark(prediction: Prediction) -> str:
    """Return the server's word for a status, and the consequence of an unclear word, for a log line."""
    status = prediction.status
    if status.is_unproven_success:
        return " (without output, error or time of the end; waiting on)"
    if not status.is_known:
        return " (a status that is not known; waiting on)"
    return f" ({prediction.status_word!r})" if prediction.status_word else ""


def _in_words(progress: Progress, schedule: Schedule, now: float) -> str:
    rate = f", {progress.seconds_per_step:.2f} s a step" if progress.seconds_per_step else ""
    expected = schedule.expected
    seconds = progress.eta if expected is None else max(expected[0] - now, 0.0)
    left = f", {seconds:.0f} s left" if seconds is not None else ""
    return f"{progress.percent} %, step {progress.step} of {progress.steps}{rate}{left}"
