"""What an answer or an error means for a wait: decisions, no I/O, no sleep."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from airflow_vace.core.outcome import timed_out
from airflow_vace.core.retry import Backoff
from airflow_vace.core.schedule import Experience, Schedule
from airflow_vace.exceptions import (
    VaceAPIError,
    VaceAuthError,
    VaceConnectionMissing,
    VaceError,
    VaceInputError,
    VaceTransportError,
)
from airflow_vace.prediction import Prediction, PredictionStatus, Progress

# Errors that cannot heal end a wait, but only in a row: keys are changed, replicas lag behind a create.
MOST_REFUSALS = 5
MOST_NOT_FOUND = 8
NOT_FOUND_GRACE_SECONDS = 10.0
# The same of a connection that Airflow does not know: a secrets back-end in trouble says so for a moment.
FEWEST_MISSING = 5
MISSING_GRACE_SECONDS = 60.0

# Starting for so long is worth a line; the next one when it has taken twice as long.
COLD_BOOT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Look again in so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Final:
    """The prediction has ended; how, its status says."""

    prediction: Prediction


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop waiting, because of this error."""

    error: VaceError


Decision = LookAgain | Final | GiveUp


@dataclass(slots=True, kw_only=True)
class Wait:
    """One wait for one prediction: tell it each answer and each error, and it says what is next.

    `prediction` is its last known state, without input and logs as long as it runs; `deadline` is
    wall-clock time in seconds since the epoch, None waits without end; `poll_interval` is in seconds and
    `experience` what other waits have learned, see :class:`Schedule`. After each call `news` is what is worth
    a line in the log, None most of the time, and `is_troubled` says that it is a warning.
    """

    prediction: Prediction
    deadline: float | None = None
    poll_interval: float | None = None
    experience: Experience = field(default_factory=Experience, repr=False)
    news: str | None = field(init=False, default=None)
    is_troubled: bool = field(init=False, default=False)
    _schedule: Schedule = field(init=False)
    _backoff: Backoff | None = field(init=False, default=None)
    _refusals: int = field(init=False, default=0)
    _refused_since: float = field(init=False, default=0.0)
    _missing: int = field(init=False, default=0)
    _missing_since: float = field(init=False, default=0.0)
    _trouble: str | None = field(init=False, default=None)
    _told: PredictionStatus | None = field(init=False, default=None)
    _told_tenth: int = field(init=False, default=-1)
    _tell_boot_after: float = field(init=False, default=COLD_BOOT_SECONDS)

    def __post_init__(self) -> None:
        self._schedule = Schedule(self.poll_interval, self.experience)
        self._told = self.prediction.status

    def told_before(self, status: object) -> None:
        """Leave out of the news that it is what somebody has already told of it."""
        if isinstance(status, str) and not PredictionStatus(status).is_final:
            self._told = PredictionStatus(status)

    def answered(self, prediction: Prediction, now: float) -> Decision:
        """Decide after an answer: an end is an end, anything else is looked at again until the deadline."""
        if not self.prediction.status.is_final:
            self._schedule.learn(prediction, now)
        self._take(prediction)
        self.news = self._change(prediction, now)
        if self._trouble and not self.news:
            self.news = f"Prediction {self.prediction.id}: {self.prediction.status}, answers come again"
        self.is_troubled = not self.prediction.status.is_known
        self._refusals, self._missing, self._trouble, self._backoff = 0, 0, None, None
        if self.prediction.status.is_final:
            return Final(self.prediction)
        if self._is_over(now):
            return GiveUp(timed_out(self.prediction))
        return self._again(self._schedule.next_delay(now), now)

    def failed(self, error: VaceError, now: float) -> Decision:
        """Decide after an error: what cannot heal ends the wait after some in a row, the rest does not."""
        if isinstance(error, VaceInputError):
            return GiveUp(error)
        trouble = f"A look at the prediction failed: {error}"
        self.news = trouble if trouble != self._trouble else None
        self.is_troubled, self._trouble = True, trouble
        self._refusals = self._refusals + 1 if is_refusal(error) else 0
        if self._refusals == 1:
            self._refused_since = now
        self._missing = self._missing + 1 if isinstance(error, VaceConnectionMissing) else 0
        if self._missing == 1:
            self._missing_since = now
        if self._is_settled(error, now):
            return GiveUp(error)
        if self._is_over(now):
            return GiveUp(timed_out(self.prediction, error))
        if self._backoff is None:
            self._backoff = Backoff(self.poll_interval)
        retry_after = error.retry_after if isinstance(error, VaceAPIError) else None
        return self._again(self._backoff.next_delay(retry_after), now)

    def overdue(self, now: float) -> GiveUp | None:
        """Decide where no look is possible: the deadline ends a wait also then."""
        if not self._is_over(now):
            return None
        self.news = None
        return GiveUp(timed_out(self.prediction))

    def _take(self, prediction: Prediction) -> None:
        """Keep what an answer tells; of a prediction that runs only what is small."""
        known = self.prediction
        if prediction.status.is_final or known.status.is_final:
            self.prediction = known.updated(prediction)
        elif prediction.status != known.status or known.logs or known.input:
            self.prediction = replace(known.updated(prediction), logs=None, input={})

    def _change(self, latest: Prediction, now: float) -> str | None:
        """Return what is new in an answer, in words for the log; None if it is not worth a line."""
        known = self.prediction
        progress = latest.progress if known.status is PredictionStatus.PROCESSING else None
        tenth = self._told_tenth if progress is None else progress.percent // 10
        if known.status != self._told:
            self._told = known.status
            if progress is None or not progress.is_of_steps:
                unknown = "" if known.status.is_known else " (a status that is not known; waiting on)"
                return f"Prediction {known.id}: {known.status}{unknown}"
        if progress is not None and progress.is_of_steps and tenth != self._told_tenth:
            self._told_tenth = tenth
            return f"Prediction {known.id}: {known.status}, {_in_words(progress, self._schedule, now)}"
        waited = now - (now if self._schedule.began is None else self._schedule.began)
        if known.status is PredictionStatus.STARTING and waited >= self._tell_boot_after:
            self._tell_boot_after = 2 * waited
            return f"Prediction {known.id}: starting for {waited:.0f} s, a cold boot or a queue"
        return None

    def _is_settled(self, error: VaceError, now: float) -> bool:
        """Whether a refusal has come so often in a row, and a 404 for so long, that it will stay."""
        if isinstance(error, VaceConnectionMissing):
            waited = now - self._missing_since
            return self._missing >= FEWEST_MISSING and waited >= MISSING_GRACE_SECONDS
        if is_not_found(error):
            waited = now - self._refused_since
            return self._refusals >= MOST_NOT_FOUND and waited >= NOT_FOUND_GRACE_SECONDS
        return self._refusals >= MOST_REFUSALS

    def _is_over(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def _again(self, delay: float, now: float) -> LookAgain:
        if self.deadline is not None:
            # The last look falls on the deadline, and not after it.
            delay = min(delay, self.deadline - now)
        return LookAgain(delay)


def _in_words(progress: Progress, schedule: Schedule, now: float) -> str:
    rate = f", {progress.seconds_per_step:.2f} s a step" if progress.seconds_per_step else ""
    expected = schedule.expected
    seconds = progress.eta if expected is None else max(expected[0] - now, 0.0)
    left = f", {seconds:.0f} s left" if seconds is not None else ""
    return f"{progress.percent} %, step {progress.step} of {progress.steps}{rate}{left}"


def is_refusal(error: VaceError) -> bool:
    """Whether looking again can hardly help: the key, its permissions, or no such prediction."""
    return isinstance(error, VaceAuthError) or is_not_found(error)


def is_passing(error: Exception) -> bool:
    """Whether the same request may well be answered another time: no answer, or a server in trouble."""
    if isinstance(error, VaceAPIError):
        return error.status_code >= 500 or error.status_code in (408, 429)
    return isinstance(error, VaceTransportError)


def is_not_found(error: VaceError) -> bool:
    """Whether the server says that it knows no such prediction."""
    return isinstance(error, VaceAPIError) and error.status_code in (404, 410)
