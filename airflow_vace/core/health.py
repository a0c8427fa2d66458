"""Trouble of a server, as opposed to trouble of some predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_vace.core.timing import Timing

# One prediction may fail for reasons in itself, so an outage needs this many failures in a row.
_MIN_OUTAGE_FAILURES = 6
# Trouble of some predictions must not stop the others, so an outage needs failures of this many predictions
# without trouble before, and of more while others are healthy.
_MIN_FALLEN = 2
_MIN_FALLEN_AMONG_HEALTHY = 3


class Health:
    """Predictions of a connection by the results of their polls.

    A prediction has trouble of its own if another one was answered since its trouble began.
    """

    def __init__(self, timing: Timing) -> None:
        # Predictions whose last poll was answered; and the others by the moment at which the trouble began.
        self.healthy: set[str] = set()
        self._troubled: dict[str, float] = {}
        self._timing = timing
        self._answered_at = float("-inf")
        # Since the last answer: failures, and predictions whose failure may be the server's.
        self._failures = 0
        self._fallen: set[str] = set()

    @property
    def is_down(self) -> bool:
        """Return True after many failures in a row, healthy predictions included."""
        count = _MIN_FALLEN_AMONG_HEALTHY if self.healthy else _MIN_FALLEN
        return self._failures >= _MIN_OUTAGE_FAILURES and len(self._fallen) >= count

    def is_own_trouble(self, now: float, prediction_id: str) -> bool:
        """Return True if trouble with a prediction says nothing about the server."""
        is_silent = now - self._answered_at > self._timing.max_silence_seconds
        return self._troubled.get(prediction_id, now) < self._answered_at and not is_silent

    def is_new(self, prediction_id: str) -> bool:
        """Return True for a prediction without a poll before."""
        return prediction_id not in self.healthy and prediction_id not in self._troubled

    def answered(self, now: float, prediction_id: str | None) -> None:
        """Record an answer, for None to a request without a prediction."""
        self._answered_at = now
        self._failures = 0
        self._fallen.clear()
        if prediction_id is not None:
            self.healthy.add(prediction_id)
            self._troubled.pop(prediction_id, None)

    def failed(self, now: float, prediction_id: str) -> None:
        """Record a failure."""
        self._failures += 1
        # A new prediction may never have existed, so it proves nothing while others are healthy.
        is_doubtful = bool(self.healthy) and self.is_new(prediction_id)
        is_full = len(self._fallen) >= _MIN_FALLEN_AMONG_HEALTHY
        if not (is_full or is_doubtful or self.is_own_trouble(now, prediction_id)):
            self._fallen.add(prediction_id)
        self.refused(now, prediction_id)

    def refused(self, now: float, prediction_id: str) -> None:
        """Record a 429, which is no sign of an outage."""
        self.healthy.discard(prediction_id)
        self._troubled.setdefault(prediction_id, now)

    def forget(self, prediction_id: str) -> None:
        """Forget a prediction."""
        self.healthy.discard(prediction_id)
        self._troubled.pop(prediction_id, None)
