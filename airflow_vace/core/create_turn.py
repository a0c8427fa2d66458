"""One create in the budget of its account: the wait for a turn, and the pause before another attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from airflow_vace.core.retry import CreateRetries
from airflow_vace.core.steps import Note, Pause
from airflow_vace.exceptions import VaceError, VaceRateLimited

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.core.response_times import Allowance
    from airflow_vace.core.steps import Call
    from airflow_vace.core.timing import Timing


class Turn(Protocol):
    """The place of one create in the queue of :class:`airflow_vace.core.create_budget.CreateBudget`."""

    @property
    def is_overtaken(self) -> bool:
        """True if another create was accepted since the last refusal of this one."""

    def take(self) -> float:
        """Return 0.0 if the create may be sent, else seconds until the next question."""

    def notice(self, delay: float) -> str | None:
        """Return a line for the log about a long wait, once in a while."""

    def accepted(self, allowance: Allowance | None) -> None:
        """Record the acceptance."""

    def refused(self, hold: float, retry_after: float | None) -> bool:
        """Record a 429; return True if the pause of all creates is news."""

    def end(self, *, is_sent: bool) -> None:
        """Give the place up; `is_sent` is False if no create was sent."""


@dataclass(slots=True, kw_only=True)
class CreateAttempts:
    """The attempts of one create, each in its turn.

    :param now: returns seconds since the epoch
    :param before_resend: called before a create that was refused, or that waited for
        `min_retry_seconds`, is sent; an exception ends the call
    :param while_waiting: called during each wait, at least once in `max_create_pause_seconds`; an
        exception ends the call
    """

    turn: Turn
    timing: Timing
    now: Callable[[], float]
    before_resend: Callable[[], None] | None = None
    while_waiting: Callable[[], None] | None = None
    _retries: CreateRetries = field(init=False)
    _began: float = field(init=False)
    # Seconds in the queue, which is no trouble of this create.
    _queued: float = field(init=False, default=0.0)
    _is_again: bool = field(init=False, default=False)
    _is_sent: bool = field(init=False, default=False)
    _restarts: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._start()

    def begin(self) -> Call[None]:
        """Wait until the budget lets the create go."""
        waited, self._is_sent = 0.0, False
        while (delay := self.turn.take()) > 0.0:
            if notice := self.turn.notice(delay):
                yield Note(notice)
            delay = min(delay, self.timing.max_create_pause_seconds)
            yield from self._pause(delay)
            waited += delay
        self._queued += waited
        if self.before_resend is not None and (self._is_again or waited >= self.timing.min_retry_seconds):
            self.before_resend()
        self._is_sent = True

    def pause_after(self, error: VaceError) -> Call[bool]:
        """Pause after a failure; return False if the create may not be sent again."""
        is_limited = isinstance(error, VaceRateLimited)
        if is_limited and self.turn.is_overtaken and self._restarts < self.timing.max_create_attempts:
            # Other creates of this process were accepted, so a queue alone must not use up the attempts.
            self._restarts += 1
            self._start()
        # A clock that was set back meanwhile must not lengthen the time for repetitions.
        delay = self._retries.next_delay(error, max(self.now() - self._began - self._queued, 0.0))
        is_news = True
        if isinstance(error, VaceRateLimited):
            stated = error.retry_after
            # Other creates pause even where this one gives up.
            hold = delay if delay is not None else stated or self.timing.min_retry_seconds
            is_news = self.turn.refused(hold, stated)
        else:
            self.turn.end(is_sent=True)
        if delay is None:
            return False
        if is_news:
            yield Note(f"Nothing was accepted; submitting again in {delay:.1f} s: {error}", is_warning=True)
        self._is_again = True
        while delay > 0.0:
            step = min(delay, self.timing.max_create_pause_seconds)
            yield from self._pause(step)
            delay -= step
        return True

    def close(self) -> None:
        """Give the place in the queue up."""
        self.turn.end(is_sent=self._is_sent)

    def _start(self) -> None:
        self._retries, self._began, self._queued = CreateRetries(self.timing), self.now(), 0.0

    def _pause(self, seconds: float) -> Call[None]:
        yield Pause(seconds)
        if self.while_waiting is not None:
            self.while_waiting()
