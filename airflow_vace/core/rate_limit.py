"""How many requests one connection may be asked for, and when it is better left alone for a while."""

from __future__ import annotations

import random
from collections import deque

from airflow_vace.core.timing import Timing

# What is used of a limit: others may share the account.
_SHARE_OF_LIMIT = 0.9
_LEAST_RATE = 0.5
# After a limit was met: how soon, and by how much, a little more is tried; at first, and once it is known.
_FIRST_PATIENCE = 1.0
_FIRST_GROWTH = 1.3
_PATIENCE = 15.0
_GROWTH = 1.05
# Beyond what was refused last nothing is tried for so long.
_LONG_PATIENCE = 180.0
# So many looks at more than one prediction fail in a row before the server is taken to be down.
_MOST_FAILURES = 6
# Answers within so many seconds are counted as one moment's.
_COUNTED_TOGETHER = 0.1
# Requests that may be sent at once after a pause.
_BURST = 4


class Pace:
    """The budget of requests that all waits of a connection share; `now` is any clock of seconds.

    A limit that is known (requests a second) is kept to from the start. One that is met (429) is learned:
    nothing is sent for as long as the server says, and then no more than came through before. A server that
    fails whomever is asked for gets one request at a time, ever more seldom, until it answers.
    """

    def __init__(self, limit: float | None = None, timing: Timing = Timing()) -> None:
        self.timing = timing
        self._most = None if limit is None else limit * _SHARE_OF_LIMIT
        self.rate = self._most
        self._ceiling = float("inf")
        self._refused_at = float("-inf")
        self._raised_at = float("-inf")
        self._held_until = float("-inf")
        self._next = float("-inf")
        self._answers: deque[tuple[float, int]] = deque()
        self._failing: set[str] = set()
        self._failures = 0
        self._probe_after = self.timing.first_probe_seconds
        self._is_probing = False

    @property
    def is_down(self) -> bool:
        """Whether the server is taken to be down."""
        return self._failures >= _MOST_FAILURES and len(self._failing) > 1

    def delay(self, now: float) -> float:
        """Return the seconds for which nothing may be sent, 0 if a request may be sent now."""
        if self.is_down and self._is_probing:
            return self.timing.first_probe_seconds
        return max(self._held_until - now, self._next - now, 0.0)

    def sent(self, now: float) -> None:
        """Note that a request goes out."""
        self._is_probing = self.is_down
        if self.rate is not None:
            gap = 1 / self.rate
            self._next = max(self._next, now - _BURST * gap) + gap

    def answered(self, now: float) -> None:
        """Note an answer, whatever it says of a prediction."""
        self._failures, self._probe_after, self._is_probing = 0, self.timing.first_probe_seconds, False
        self._failing.clear()
        if self._answers and now - self._answers[-1][0] < _COUNTED_TOGETHER:
            first, count = self._answers[-1]
            self._answers[-1] = (first, count + 1)
        else:
            self._answers.append((now, 1))
            while now - self._answers[0][0] > self.timing.max_retry_after_seconds:
                self._answers.popleft()
        self._try_more(now)

    def refused(self, now: float, retry_after: float | None) -> None:
        """Note that the server was asked too often (429)."""
        self._is_probing = False
        hold = min(
            self.timing.default_hold_seconds if retry_after is None else retry_after,
            self.timing.max_retry_after_seconds,
        )
        hold *= random.uniform(1.0, 1.1)  # noqa: S311 - jitter is no secret
        held_until = self._held_until
        was_held = now < held_until
        self._held_until = max(self._held_until, now + hold)
        if was_held:  # sent before the first refusal was known
            return
        window = max(hold, 1.0)
        came = sum(count for moment, count in self._answers if now - moment <= window)
        # Right after a pause little has come through yet, whoever is to blame: others may share the account.
        is_told_too_soon = self._ceiling < float("inf") and now - held_until < window
        through = max(self.rate or 0.0 if is_told_too_soon else came / window, _LEAST_RATE)
        if self.rate is None:
            # A burst met it, and how much of it was used up before is not known: felt for from below.
            before, self._ceiling = through, float("inf")
        else:
            before = self._ceiling = min(self.rate, max(through, self.rate / 2))
        self._refused_at = self._raised_at = now
        self.rate = max(before * _SHARE_OF_LIMIT, _LEAST_RATE)

    def failed(self, now: float, prediction_id: str) -> None:
        """Note that a look brought no answer, or one of a server in trouble."""
        self._failures += 1
        if len(self._failing) < _MOST_FAILURES:
            self._failing.add(prediction_id)
        self._is_probing = False
        if self.is_down and now >= self._held_until:
            pause = self._probe_after * random.uniform(0.75, 1.0)  # noqa: S311 - jitter is no secret
            self._held_until = now + pause
            self._probe_after = min(self._probe_after * 2, self.timing.max_probe_seconds)

    def _try_more(self, now: float) -> None:
        is_felt_for = self._ceiling == float("inf")
        patience, growth = (_FIRST_PATIENCE, _FIRST_GROWTH) if is_felt_for else (_PATIENCE, _GROWTH)
        if self.rate is None or now - self._raised_at < patience or now < self._held_until:
            return
        self._raised_at = now
        more = self.rate * growth
        if more > self._ceiling * _SHARE_OF_LIMIT and now - self._refused_at < _LONG_PATIENCE:
            return
        self.rate = more if self._most is None else min(more, self._most)
