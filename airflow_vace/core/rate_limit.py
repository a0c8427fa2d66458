"""Budget of requests of one connection, and pauses while the server refuses or fails."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

from airflow_vace.core.health import Health
from airflow_vace.core.timing import Timing

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

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
# The same, where only predictions without a poll before were refused: each may have trouble of its own.
_DOUBTFUL_RATE_SECONDS = 5.0
# A single refused prediction may have trouble of its own, so the rate falls after refusals of several, within
# the latest requests or a second.
_MIN_LIMIT_REFUSED = 2
_RECENT_REQUESTS = 8
# Responses within this time share one entry, so memory stays small at high rates.
_COUNTING_SECONDS = 0.1
# Requests that may go out together after a pause.
_BURST = 4


class Pace:
    """Request budget that all waits of a connection share; `now` is any clock in seconds.

    A known limit is respected from the start. An unknown limit is learned from 429: the pace pauses as long
    as the server demands and then stays below the rate that succeeded before. During an outage a single
    request probes the server, less and less often.

    Predictions with trouble of their own hold up no others: see :class:`~airflow_vace.core.health.Health`.

    :param limit: requests per second of the account (default: unknown)
    :param timing: pauses and probes
    """

    def __init__(self, limit: float | None = None, timing: Timing = Timing()) -> None:
        self._timing = timing
        self._max_rate = None if limit is None else limit * _USED_SHARE
        self.rate = self._max_rate
        self._ban_seconds = _REFUSED_RATE_SECONDS
        # Infinite while the limit is unknown.
        self._ceiling = float("inf")
        self._refused_at = float("-inf")
        self._raised_at = float("-inf")
        self._held_until = float("-inf")
        # Of the current hold: the seconds since the one before, and whether the rate was lowered.
        self._since_hold, self._is_lowered = float("inf"), False
        self._next_at = float("-inf")
        self._answers: deque[tuple[float, int]] = deque()
        # A burst of requests that met an unknown limit: its seconds, and the answers to it.
        self._burst_seconds: float | None = None
        self._burst_answers = 0
        self._health = Health(timing)
        # Moments of the latest requests.
        self._recent = deque([float("inf")], maxlen=_RECENT_REQUESTS)
        # Refused predictions without trouble of their own: the moment, and whether the prediction was new.
        self._suspects: dict[str, tuple[float, bool]] = {}
        self._probe_pause = timing.first_probe_seconds
        self._is_probing = False

    @property
    def is_down(self) -> bool:
        """Return True during an outage."""
        return self._health.is_down

    @property
    def healthy(self) -> AbstractSet[str]:
        """The predictions whose last poll was answered."""
        return self._health.healthy

    def delay(self, now: float) -> float:
        """Return the seconds until a request may be sent, 0.0 for at once."""
        if self.is_down and self._is_probing:
            return self._timing.first_probe_seconds
        return max(self._held_until - now, self._next_at - now, 0.0)

    def sent(self, now: float) -> None:
        """Record a request."""
        self._recent.append(now)
        self._is_probing = self.is_down
        if self.rate is not None:
            gap = 1 / self.rate
            self._next_at = max(self._next_at, now - _BURST * gap) + gap

    def answered(self, now: float, prediction_id: str | None = None) -> None:
        """Record a response other than 429 or trouble.

        :param prediction_id: None for a page of a list
        """
        self._is_probing = False
        self._probe_pause = self._timing.first_probe_seconds
        self._health.answered(now, prediction_id)
        if self._answers and now - self._answers[-1][0] < _COUNTING_SECONDS:
            first, count = self._answers[-1]
            self._answers[-1] = (first, count + 1)
        else:
            self._answers.append((now, 1))
            while now - self._answers[0][0] > self._timing.max_retry_after_seconds:
                self._answers.popleft()
        self._count_burst(now)
        self._raise_rate(now)

    def refused(self, now: float, retry_after: float | None, prediction_id: str | None = None) -> None:
        """Record a 429.

        The time that a server states holds all requests. The rate falls if several predictions are refused.
        Neither happens after a 429 of a prediction with trouble of its own.

        :param now: time of the response
        :param retry_after: seconds that the server demands, None if unknown
        :param prediction_id: None for a page of a list
        """
        self._is_probing = False
        if prediction_id is not None and self._health.is_own_trouble(now, prediction_id):
            return
        is_limit = prediction_id is None or self._is_limit(now, prediction_id)
        if not is_limit and retry_after is None:
            return
        hold = self._timing.default_hold_seconds if retry_after is None else retry_after
        hold = min(hold, self._timing.max_retry_after_seconds)
        hold *= random.uniform(1.0, 1.1)  # noqa: S311 - jitter is no secret
        if now >= self._held_until:
            self._since_hold, self._is_lowered = now - self._held_until, False
        self._held_until = max(self._held_until, now + hold)
        # Further refusals during a hold were sent before the first was known, so these contain no news.
        if not is_limit or self._is_lowered:
            return
        # New predictions may each have trouble of their own, so these alone lower the rate little and not for
        # long.
        is_sure = prediction_id is None or sum(not is_new for _, is_new in self._suspects.values()) > 1
        if is_sure or self.rate is None:
            self._ban_seconds = _REFUSED_RATE_SECONDS
            self._lower_rate(now, max(hold, 1.0), self._since_hold)
        elif self._ceiling == float("inf"):
            self._ban_seconds = _DOUBTFUL_RATE_SECONDS
            self.rate = self._ceiling = max(self.rate / _SEARCH_GROWTH, _MIN_RATE)
        self._is_lowered = True
        self._refused_at = self._raised_at = now

    def failed(self, now: float, prediction_id: str, max_pause: float | None = None) -> None:
        """Record a poll without a response, or with a response of a server in trouble.

        :param max_pause: bound in seconds on the pause between two probes
        """
        self._health.failed(now, prediction_id)
        self._is_probing = False
        if self.is_down and now >= self._held_until:
            pause = self._probe_pause * random.uniform(0.75, 1.0)  # noqa: S311 - jitter is no secret
            longest = self._timing.max_probe_seconds
            bound = longest if max_pause is None else min(longest, max_pause)
            self._held_until = now + min(pause, bound)
            self._probe_pause = min(self._probe_pause * 2, bound)

    def forget(self, prediction_id: str) -> None:
        """Forget a prediction without a wait."""
        self._health.forget(prediction_id)

    def _is_limit(self, now: float, prediction_id: str) -> bool:
        """Count a refusal; return True if several predictions were refused just now."""
        self._suspects[prediction_id] = now, self._health.is_new(prediction_id)
        self._health.refused(now, prediction_id)
        # The latest requests count, and with many waits those of the last second.
        since = min(now - self._timing.default_hold_seconds, self._recent[0])
        self._suspects = {known: seen for known, seen in self._suspects.items() if seen[0] >= since}
        return len(self._suspects) >= _MIN_LIMIT_REFUSED

    def _lower_rate(self, now: float, window: float, since_hold: float) -> None:
        count = sum(count for moment, count in self._answers if now - moment <= window)
        # Shortly after a pause few responses exist, and other users of the account may be the cause, so the
        # count would be too low.
        is_count_unfair = self._ceiling < float("inf") and since_hold < window
        succeeded = max(self.rate or 0.0 if is_count_unfair else count / window, _MIN_RATE)
        self._burst_seconds = None
        if self.rate is None:
            # An unlimited burst met the limit. The rest of the account's usage is unknown, so the limit is
            # searched from below.
            self._ceiling = float("inf")
            self._burst_seconds, self._burst_answers = window, count
        else:
            succeeded = self._ceiling = min(self.rate, max(succeeded, self.rate / 2))
        self.rate = max(succeeded * _USED_SHARE, _MIN_RATE)

    def _count_burst(self, now: float) -> None:
        """Raise a learned rate by the answers to the burst that come after its first refusal."""
        if self._burst_seconds is None or now >= self._held_until:
            self._burst_seconds = None
            return
        self._burst_answers += 1
        self.rate = max(self.rate or 0.0, self._burst_answers / self._burst_seconds * _USED_SHARE)

    def _raise_rate(self, now: float) -> None:
        if now - self._refused_at >= self._ban_seconds < _REFUSED_RATE_SECONDS:
            self._ceiling = float("inf")
        is_searching = self._ceiling == float("inf")
        pause, growth = (_SEARCH_SECONDS, _SEARCH_GROWTH) if is_searching else (_PROBE_SECONDS, _PROBE_GROWTH)
        if self.rate is None or now - self._raised_at < pause or now < self._held_until:
            return
        self._raised_at = now
        more = self.rate * growth
        if more > self._ceiling * _USED_SHARE and now - self._refused_at < _REFUSED_RATE_SECONDS:
            return
        self.rate = more if self._max_rate is None else min(more, self._max_rate)
