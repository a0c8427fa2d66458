"""When to look at a prediction next, and what an answer or an error means: decisions, no I/O, no sleep."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from airflow_vace.exceptions import (
    PredictionCanceled,
    PredictionExpired,
    PredictionFailed,
    PredictionTimeout,
    VaceAPIError,
    VaceAuthError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.prediction import Prediction, PredictionStatus

SHORTEST_INTERVAL = 2.0
LONGEST_INTERVAL = 15.0
# An author's interval of nought must not become a loop without a pause.
LEAST_POLL_INTERVAL = 0.05
# What a server may ask for at most: its files live for an hour.
LONGEST_RETRY_AFTER = 300.0
_GROWTH = 1.5
_JITTER = 0.2

# Errors that cannot heal end a wait, but only in a row: keys are changed, replicas lag behind a create.
MOST_REFUSALS = 5
MOST_NOT_FOUND = 8
NOT_FOUND_GRACE_SECONDS = 10.0


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


@dataclass(slots=True)
class Schedule:
    """Intervals that grow from 2 s to 15 s, or to `poll_interval`, the author's bound on lateness.

    Jitter only ever shortens an interval, so that the bound holds.
    """

    poll_interval: float | None = None
    interval: float = field(init=False)

    def __post_init__(self) -> None:
        self.interval = min(SHORTEST_INTERVAL, self.longest)

    @property
    def longest(self) -> float:
        if self.poll_interval is None:
            return LONGEST_INTERVAL
        return max(self.poll_interval, LEAST_POLL_INTERVAL)

    def next_delay(self, retry_after: float | None = None) -> float:
        """Return the seconds until the next look; at least what the server asked for."""
        delay = self.interval * random.uniform(1 - _JITTER, 1)  # noqa: S311 - jitter is no secret
        self.interval = min(self.interval * _GROWTH, self.longest)
        return max(delay, min(retry_after or 0.0, LONGEST_RETRY_AFTER))


@dataclass(slots=True, kw_only=True)
class Wait:
    """One wait for one prediction: tell it each answer and each error, and it says what is next.

    `prediction` is its last known state; `deadline` is wall-clock time in seconds since the epoch, None
    waits without end; `poll_interval` is in seconds, see :class:`Schedule`. After each call `news` is what
    is worth a line in the log, None most of the time, and `is_troubled` says that it is a warning.
    """

    prediction: Prediction
    deadline: float | None = None
    poll_interval: float | None = None
    news: str | None = field(init=False, default=None)
    is_troubled: bool = field(init=False, default=False)
    _schedule: Schedule = field(init=False)
    _refusals: int = field(init=False, default=0)
    _refused_since: float = field(init=False, default=0.0)
    _trouble: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._schedule = Schedule(self.poll_interval)

    def answered(self, prediction: Prediction, now: float) -> Decision:
        """Decide after an answer: an end is an end, anything else is looked at again until the deadline."""
        before, self.prediction = self.prediction, self.prediction.updated(prediction)
        self.news = change(before, self.prediction)
        if self._trouble and not self.news:
            self.news = f"Prediction {self.prediction.id}: {self.prediction.status}, answers come again"
        self.is_troubled = not self.prediction.status.is_known
        self._refusals, self._trouble = 0, None
        if self.prediction.status.is_final:
            return Final(self.prediction)
        if self._is_over(now):
            return GiveUp(timed_out(self.prediction))
        return self._again(now)

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
        if self._is_settled(error, now):
            return GiveUp(error)
        if self._is_over(now):
            return GiveUp(timed_out(self.prediction, error))
        return self._again(now, error.retry_after if isinstance(error, VaceAPIError) else None)

    def _is_settled(self, error: VaceError, now: float) -> bool:
        """Whether a refusal has come so often in a row, and a 404 for so long, that it will stay."""
        if is_not_found(error):
            waited = now - self._refused_since
            return self._refusals >= MOST_NOT_FOUND and waited >= NOT_FOUND_GRACE_SECONDS
        return self._refusals >= MOST_REFUSALS

    def _is_over(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def _again(self, now: float, retry_after: float | None = None) -> LookAgain:
        delay = self._schedule.next_delay(retry_after)
        if self.deadline is not None:
            # The last look falls on the deadline, and not after it.
            delay = min(delay, self.deadline - now)
        return LookAgain(delay)


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


# A create that was refused at the door: how often, and how long in all, one call tries by itself.
MOST_CREATES = 6
LONGEST_CREATE_SECONDS = 120.0


def next_create(error: VaceError, attempt: int, waited: float) -> float | None:
    """Return the seconds after which a create that was certainly not accepted is sent again, or None.

    `attempt` counts from 1, `waited` is in seconds; whether the error allows it at all, the wire says
    (:func:`airflow_vace.api.may_create_again`).
    """
    retry_after = error.retry_after if isinstance(error, VaceAPIError) else None
    if retry_after is None and isinstance(error, VaceRateLimited):
        retry_after = SHORTEST_INTERVAL
    schedule = Schedule()
    for _ in range(attempt):
        delay = schedule.next_delay(retry_after)
    if attempt >= MOST_CREATES or waited + delay > LONGEST_CREATE_SECONDS:
        return None
    return delay


def timed_out(prediction: Prediction, error: VaceError | None = None) -> PredictionTimeout:
    """Return the error for a prediction that was not final at its deadline."""
    last = f" The last look failed: {error}" if error else ""
    return PredictionTimeout(
        f"Prediction {prediction.id} was still {prediction.status} at its deadline. {prediction.bill}"
        f" Raise the timeout, or cancel it.{last}",
        prediction=prediction,
    )


def read_end(prediction: Prediction) -> Prediction:
    """Return a prediction that succeeded and still has its output.

    :raises PredictionFailed: for `failed`
    :raises PredictionCanceled: for `canceled` and `aborted`
    :raises PredictionExpired: if it succeeded and its files have been deleted since
    :raises VaceProtocolError: if it succeeded without any output
    """
    said = f": {prediction.error}" if prediction.error else " without saying why"
    match prediction.status:
        case PredictionStatus.FAILED:
            advice = (
                "The same input may well succeed in another run."
                if prediction.worth_another_run
                else "Change the input before running it again."
            )
            raise PredictionFailed(
                f"Prediction {prediction.id} failed{said}. {prediction.bill} {advice}",
                prediction=prediction,
            )
        case PredictionStatus.CANCELED | PredictionStatus.ABORTED:
            raise PredictionCanceled(
                f"Prediction {prediction.id} was {prediction.status} by somebody or by its deadline."
                f" {prediction.bill} Run it again if the video is still wanted.",
                prediction=prediction,
            )
    if prediction.has_expired:
        raise PredictionExpired(
            f"Prediction {prediction.id} succeeded, but its files have been deleted: they live for an"
            f" hour. {prediction.bill} Save them in time with save_to, and submit it anew.",
            prediction=prediction,
        )
    if not prediction.has_output and not prediction.files:
        raise VaceProtocolError(
            f"Prediction {prediction.id} succeeded, but brought no output. {prediction.bill} Look at"
            f" {prediction.urls.get('web', 'it at the vendor')}, and ask the vendor for the money back.",
        )
    return prediction


def change(before: Prediction, after: Prediction) -> str | None:
    """Return what is new in an answer, in words for the log; None if it is not worth a line."""
    if before.status != after.status:
        unknown = "" if after.status.is_known else " (a status that is not known; waiting on)"
        return f"Prediction {after.id}: {after.status}{unknown}"
    progress, old = after.progress, before.progress
    if progress is None or (old is not None and progress.percent // 10 == old.percent // 10):
        return None
    rate = f", {progress.seconds_per_step:.2f} s a step" if progress.seconds_per_step else ""
    left = f", {progress.eta:.0f} s left" if progress.eta is not None else ""
    return (
        f"Prediction {after.id}: {after.status}, {progress.percent} %,"
        f" step {progress.step} of {progress.steps}{rate}{left}"
    )
