"""Budget of requests of one connection, and pauses while the server refuses or fails."""

from __future__ import annotations

import random
from collections import deque

from airflow_vace.core.timing import Timing

# Other programs may use the same account, so a tenth of the limit stays unused.
_USED_SHARE = 0.9
_MIN_RATE = 0.5
# After a first 429 the limit is unknown, so the rate grows fast and often.
_SEARCH_SECONDS = 1.0
_SEARCH_GROWTH = 1.3
# Near a known limit each step may cost a refusal, so growth is slow.
_PROBE_SECONDS = 15.0
_PROBE_GROWTH = 1.05
# No rate above the last refused one is tried for this long.
_REFUSED_RATE_SECONDS = 180.0
# One prediction may fail for reasons in itself, so an outage needs this many failures in a row, of several.
_MIN_OUTAGE_FAILURES = 6
# Responses within this time share one entry, so memory stays small at high rates.
_COUNTING_SECONDS = 0.1
# Requests that may go out together after a pause.
_BURST = 4


class Pace:
    """Request budget that all waits of a connection share; `now` is any clock in seconds.

    A known limit is respected from the start. An unknown limit is learned from 429: the pace pauses as long
    as the server demands and then stays below the rate that succeeded before. During an outage a single
    request probes the server, less and less often.

    :param limit: requests per second of the account (default: unknown)
    :param timing: pauses and probes
    """

    def __init__(self, limit: float | None = None, timing: Timing = Timing()) -> None:
        self._timing = timing
        self._max_rate = None if limit is None else limit * _USED_SHARE
        self.rate = self._max_rate
        # Infinite while the limit is unknown.
        self._ceiling = float("inf")
        self._refused_at = float("-inf")
        self._raised_at = float("-inf")
        self._held_until = float("-inf")
        self._next_at = float("-inf")
        self._answers: deque[tuple[float, int]] = deque()
        self._failing: set[str] = set()
        self._failures = 0
        self._probe_pause = timing.first_probe_seconds
        self._is_probing = False

    @property
    def is_down(self) -> bool:
        """Return True during an outage: many failures in a row, of several predictions."""
        return self._failures >= _MIN_OUTAGE_FAILURES and len(self._failing) > 1

    def delay(self, now: float) -> float:
        """Return the seconds until a request may be sent, 0.0 for at once."""
        if self.is_down and self._is_probing:
            return self._timing.first_probe_seconds
        return max(self._held_until - now, self._next_at - now, 0.0)

    def sent(self, now: float) -> None:
        """Record a request."""
        self._is_probing = self.is_down
        if self.rate is not None:
            gap = 1 / self.rate
            self._next_at = max(self._next_at, now - _BURST * gap) + gap

    def answered(self, now: float) -> None:
        """Record a response other than 429 or trouble."""
        self._failures, self._is_probing = 0, False
        self._probe_pause = self._timing.first_probe_seconds
        self._failing.clear()
        if self._answers and now - self._answers[-1][0] < _COUNTING_SECONDS:
            first, count = self._answers[-1]
            self._answers[-1] = (first, count + 1)
        else:
            self._answers.append((now, 1))
            while now - self._answers[0][0] > self._timing.max_retry_after_seconds:
                self._answers.popleft()
        self._raise_rate(now)

    def refused(self, now: float, retry_after: float | None) -> None:
        """Record a 429.

        :param now: time of the response
        :param retry_after: seconds that the server demands, None if unknown
        """
        self._is_probing = False
        hold = self._timing.default_hold_seconds if retry_after is None else retry_after
        hold = min(hold, self._timing.max_retry_after_seconds)
        hold *= random.uniform(1.0, 1.1)  # noqa: S311 - jitter is no secret
        last_hold_ended = self._held_until
        self._held_until = max(self._held_until, now + hold)
        if now < last_hold_ended:
            # Sent before the first refusal was known, so the refusal contains no news.
            return
        self._lower_rate(now, max(hold, 1.0), since_hold=now - last_hold_ended)
        self._refused_at = self._raised_at = now

    def failed(self, now: float, prediction_id: str) -> None:
        """Record a poll without a response, or with a response of a server in trouble."""
        self._failures += 1
        if len(self._failing) < _MIN_OUTAGE_FAILURES:
            self._failing.add(prediction_id)
        self._is_probing = False
        if self.is_down and now >= self._held_until:
            pause = self._probe_pause * random.uniform(0.75, 1.0)  # noqa: S311 - jitter is no secret
            self._held_until = now + pause
            self._probe_pause = min(self._probe_pause * 2, self._timing.max_probe_seconds)

    def _lower_rate(self, now: float, window: float, since_hold: float) -> None:
        count = sum(count for moment, count in self._answers if now - moment <= window)
        # Shortly after a pause few responses exist, and other users of the account may be the cause, so the
        # count would be too low.
        is_count_unfair = self._ceiling < float("inf") and since_hold < window
        succeeded = max(self.rate or 0.0 if is_count_unfair else count / window, _MIN_RATE)
        if self.rate is None:
            # An unlimited burst met the limit. The rest of the account's usage is unknown, so the limit is
            # searched from below.
            self._ceiling = float("inf")
        else:
            succeeded = self._ceiling = min(self.rate, max(succeeded, self.rate / 2))
        self.rate = max(succeeded * _USED_SHARE, _MIN_RATE)

    def _raise_rate(self, now: float) -> None:
        is_searching = self._ceiling == float("inf")
        pause, growth = (_SEARCH_SECONDS, _SEARCH_GROWTH) if is_searching else (_PROBE_SECONDS, _PROBE_GROWTH)
        if self.rate is None or now - self._raised_at < pause or now < self._held_until:
            return
        self._raised_at = now
        more = self.rate * growth
        if more > self._ceiling * _USED_SHARE and now - self._refused_at < _REFUSED_RATE_SECONDS:
            return
        self.rate = more if self._max_rate is None else min(more, self._max_rate)
