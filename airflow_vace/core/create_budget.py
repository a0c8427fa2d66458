"""Budget of creates of one account: turns, pauses after a 429, and a pace below the limit."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING

from airflow_vace.core.timing import Timing

if TYPE_CHECKING:
    from airflow_vace.core.response_times import Allowance

# Clocks and latencies vary, so a known limit is used up to this share.
_USED_SHARE = 0.97
# Replicate counts creates a minute: https://replicate.com/docs/topics/predictions/rate-limits
_LIMIT_PERIOD_SECONDS = 60.0
# Other processes may create at the same time, so this share of a full bucket stays unused.
_RESERVED_SHARE = 0.05
_ROUNDING = 1e-6
# A late thread may catch up this many seconds of creates.
_BURST_SECONDS = 0.25
# A first 429 shows a burst and not the limit, so the first rate stays below the measured one.
_FIRST_SHARE = 0.9
# Creates after which the rate grows, and the growth: after a first refusal, and after later ones.
_SEARCH = (20, 1.1)
# Few creates before a first refusal measure nothing: other processes may have used the limit.
_SLOW_START = (2, 2.0)
_FEW_CREATES = 8
# Six a minute is the lowest documented limit, for accounts with little credit.
_MIN_FIRST_RATE = 0.1
_APPROACH = (60, 1.04)
# A limit measured by many creates between two refusals is tested again only after many creates, since each
# test may cost a 429.
_MEASURED_CREATES = 100
_CEILING_CREATES = 400
# While the limit is unknown, and after a 429, the creates in flight grow from this number, so a 429 hits few.
_MIN_IN_FLIGHT = 4
_CREATES_PER_SLOT = 16


class CreateBudget:
    """Turns of creates, first come, first served; `now` is any clock in seconds.

    A known limit is respected from the start, and `ratelimit-*` headers allow the vendor's burst. An unknown
    limit is learned from 429. After a start or a 429, a single create goes first and shows whether more may
    follow.

    :param limit: creates per second of the account (default: unknown)
    :param timing: bounds of pauses
    """

    def __init__(self, limit: float | None = None, timing: Timing = Timing()) -> None:
        self._timing = timing
        self._limit = limit
        self.rate = self._max_rate = None if limit is None else limit * _USED_SHARE
        self.accepted_count = 0
        self._joined_count = 0
        self._waiting: list[int] = []
        # Moments of the creates in flight.
        self._sent: dict[int, float] = {}
        self._tokens, self._filled_at = 1.0, float("-inf")
        self._is_alone = True
        self._held_until = self._announced_until = self._noticed_at = float("-inf")
        # Moments of accepted creates, as far back as the longest pause.
        self._accepted: list[float] = []
        self._refused_at = float("-inf")
        # Refusals without an accepted create between: the start of the measured window.
        self._streak_since: float | None = None
        self._accepted_at_refusal = self._accepted_at_change = 0
        self._step, self._is_measured = _SEARCH, False
        # Creates that the last headers allowed; None if headers contradicted the server.
        self._hinted: float | None = 0.0

    def join(self) -> int:
        """Return the number of a new turn; lower numbers go first."""
        self._joined_count += 1
        return self._joined_count

    def take(self, turn: int, now: float) -> float:
        """Take a turn; return 0.0 if the create may be sent, else seconds until the next question.

        A turn in wait keeps its place until :meth:`end`.
        """
        place = bisect_left(self._waiting, turn)
        if self._waiting[place : place + 1] != [turn]:
            insort(self._waiting, turn)
        delay = self._delay(place, now)
        if delay > 0.0:
            return delay
        del self._waiting[place]
        self._tokens -= 1
        self._sent[turn] = now
        return 0.0

    def accepted(self, turn: int, now: float, allowance: Allowance | None = None) -> None:
        """Record an accepted create.

        :param allowance: of the response's headers; ignored at servers without a known limit
        """
        if self._sent.pop(turn, now) > self._refused_at:
            self._is_alone, self._streak_since = False, None
        self.accepted_count += 1
        self._accepted.append(now)
        since = now - self._timing.max_retry_after_seconds
        del self._accepted[: bisect_left(self._accepted, since)]
        if allowance is not None and self._limit is not None and self._hinted is not None:
            self._follow(allowance, self._limit, now)
        else:
            self._raise_rate()

    def refused(self, turn: int, now: float, hold: float, retry_after: float | None = None) -> bool:
        """Record a 429, which pauses all creates; return True if the pause is news.

        :param hold: seconds of the pause
        :param retry_after: seconds that the server states, None without
        """
        sent_at = self._sent.pop(turn, now)
        hold = min(hold, self._timing.max_retry_after_seconds)
        until = now + hold * random.uniform(1.0, 1.1)  # noqa: S311 - jitter is no secret
        # A create sent before the last refusal was known contains no news about the rate.
        is_new = sent_at > self._refused_at
        if is_new:
            self._lower_rate(now, max(retry_after or hold, self._timing.default_hold_seconds))
            self._refused_at = now
        if until > self._held_until:
            self._hold(until)
        is_news = is_new or until > self._announced_until + self._timing.create_notice_seconds
        if is_news:
            self._announced_until = until
        return is_news

    def end(self, turn: int, *, is_sent: bool) -> None:
        """Forget a turn without an answer.

        :param is_sent: False if no create was sent, so the next turn may go instead
        """
        if self._sent.pop(turn, None) is not None and not is_sent:
            self._tokens += 1
        if turn in self._waiting:
            self._waiting.remove(turn)

    def notice(self, delay: float, now: float) -> str | None:
        """Return a line for the log about a long wait for a turn, once in a while; else None.

        :param delay: seconds until the turn
        """
        is_recent = now - self._noticed_at < self._timing.create_notice_interval_seconds
        if delay < self._timing.create_notice_seconds or now < self._announced_until or is_recent:
            return None
        self._noticed_at = now
        return f"The account's rate limit delays this prediction by about {delay:.0f} s"

    def _delay(self, place: int, now: float) -> float:
        if now < self._held_until:
            return self._held_until - now + (place / self.rate if self.rate else 0.0)
        if self._is_alone and self._sent:
            # A create without an answer must not stop the others for long.
            remaining = max(self._sent.values()) + self._timing.max_create_probe_seconds - now
            if remaining > 0.0:
                return min(remaining, self._timing.create_probe_poll_seconds)
        if self._is_full:
            return self._timing.create_probe_poll_seconds
        if self.rate is None:
            return 0.0
        self._refill(now, self.rate)
        missing = place + 1 - self._tokens
        # A clock may not advance by a rounding error, so the error must not delay a create.
        return missing / self.rate if missing > _ROUNDING else 0.0

    @property
    def _is_full(self) -> bool:
        """Return True if a 429 now would refuse too many creates in flight."""
        if self._limit is not None and self._refused_at == float("-inf"):
            return False
        accepted = self.accepted_count - self._accepted_at_refusal
        return len(self._sent) >= _MIN_IN_FLIGHT + accepted // _CREATES_PER_SLOT

    def _refill(self, now: float, rate: float) -> None:
        size = max(rate * _BURST_SECONDS, 1.0)
        idle = now - max(self._filled_at, self._accepted[-1] if self._accepted else float("-inf"))
        # The allowance of an old response may be used by others since.
        most = size if idle > self._timing.max_create_probe_seconds else max(size, self._tokens)
        self._tokens = min(self._tokens + max(now - self._filled_at, 0.0) * rate, most)
        self._filled_at = max(self._filled_at, now)

    def _hold(self, until: float) -> None:
        """Let nothing go before a moment, and then a single create."""
        self._held_until = self._filled_at = until
        self._tokens, self._is_alone = 1.0, True

    def _follow(self, allowance: Allowance, limit: float, now: float) -> None:
        """Use the vendor's own count of the creates that the account may send."""
        usable = self._hinted = allowance.remaining - len(self._sent)
        size = limit * _LIMIT_PERIOD_SECONDS
        full = allowance.remaining + allowance.reset_seconds * limit
        if size - limit <= full <= size + 2 * limit:
            # A bucket of the known size that fills at the known rate.
            self.rate = limit
            self._tokens, self._filled_at = usable - _RESERVED_SHARE * size, now
        elif usable >= 1.0:
            # Another limit: its rest is spread over the time until the reset.
            self._refill(now, self.rate or limit)
            self.rate = usable / max(allowance.reset_seconds, 1.0)
            self._tokens = min(self._tokens, usable)
        else:
            self._hold(now + min(allowance.reset_seconds, self._timing.max_retry_after_seconds))

    def _lower_rate(self, now: float, window: float) -> None:
        """Measure the limit by the accepted creates.

        :param window: seconds before this moment for the count, if this is the first refusal
        """
        reserve = (self._limit or 0.0) * _LIMIT_PERIOD_SECONDS * _RESERVED_SHARE
        if self._hinted is not None and self._hinted > reserve:
            # The headers allowed far more than this create, so the headers describe another limit.
            self._hinted = None
        if self._streak_since is not None:
            self._measure_streak(now, self._streak_since)
        elif self.rate is None or self._refused_at == float("-inf"):
            self._measure_first(now, window)
        else:
            # The vendor's bucket was empty at both refusals, so the accepted creates between show the limit.
            count = self.accepted_count - self._accepted_at_refusal
            measured = (count + 0.5) / max(now - self._refused_at, window)
            self.rate = max(min(measured, self.rate), self.rate / 4) * _USED_SHARE
            self._step = _SEARCH if count < _FEW_CREATES else _APPROACH
            self._is_measured = count >= _MEASURED_CREATES
        if self._streak_since is None:
            self._streak_since = now - window
        self._accepted_at_refusal = self._accepted_at_change = self.accepted_count

    def _measure_first(self, now: float, window: float) -> None:
        count = len(self._accepted) - bisect_right(self._accepted, now - window)
        # The server promises one create after the stated time.
        measured = max(max(count, 1) / window, _MIN_FIRST_RATE) * _FIRST_SHARE
        self.rate = min(measured, self._max_rate or measured)
        self._step = _SLOW_START if count < _FEW_CREATES else _SEARCH

    def _measure_streak(self, now: float, since: float) -> None:
        """Measure by the creates before a series of refusals, over the whole series."""
        # An early probe is refused at a correct rate too, so the series must last for two creates.
        if self.rate is not None and (now - since) * self.rate >= 2.0:
            count = len(self._accepted) - bisect_right(self._accepted, since)
            self.rate = min(self.rate, max(count, 0.5) / (now - since) * _FIRST_SHARE)
            self._is_measured = False

    def _raise_rate(self) -> None:
        if self.rate is None or self._refused_at == float("-inf"):
            return
        if self.accepted_count - self._accepted_at_refusal >= _CEILING_CREATES:
            self._is_measured, self._hinted = False, 0.0
        creates, growth = self._step
        if self._is_measured or self.accepted_count - self._accepted_at_change < creates:
            return
        self._accepted_at_change = self.accepted_count
        self.rate = min(self.rate * growth, self._max_rate or float("inf"))
