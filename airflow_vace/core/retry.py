"""Growing pauses after failures, and when a create that was turned away is sent again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from airflow_vace.exceptions import VaceAPIError, VaceError, VaceRateLimited

SHORTEST_INTERVAL = 2.0
LONGEST_INTERVAL = 15.0
# An author's interval of nought must not become a loop without a pause.
LEAST_POLL_INTERVAL = 0.05
# What a server may ask for at most: its files live for an hour.
LONGEST_RETRY_AFTER = 300.0
_GROWTH = 1.5
_JITTER = 0.2

# A create that was refused at the door: how often, and how long in all, one call tries by itself.
MOST_CREATES = 6
LONGEST_CREATE_SECONDS = 120.0


@dataclass(slots=True)
class Backoff:
    """Intervals that grow from 2 s to 15 s, or to `longest`; jitter only ever shortens them."""

    longest: float | None = None
    interval: float = field(init=False)

    def __post_init__(self) -> None:
        self.interval = min(SHORTEST_INTERVAL, self._most)

    @property
    def _most(self) -> float:
        return LONGEST_INTERVAL if self.longest is None else max(self.longest, LEAST_POLL_INTERVAL)

    def next_delay(self, retry_after: float | None = None) -> float:
        """Return the seconds until the next try; at least what the server asked for."""
        delay = self.interval * random.uniform(1 - _JITTER, 1)  # noqa: S311 - jitter is no secret
        self.interval = min(self.interval * _GROWTH, self._most)
        return max(delay, min(retry_after or 0.0, LONGEST_RETRY_AFTER))


def next_create(error: VaceError, attempt: int, waited: float) -> float | None:
    """Return the seconds after which a create that was certainly not accepted is sent again, or None.

    `attempt` counts from 1, `waited` is in seconds; whether the error allows it at all, the wire says
    (:func:`airflow_vace.core.errors.may_create_again`).
    """
    retry_after = error.retry_after if isinstance(error, VaceAPIError) else None
    if retry_after is None and isinstance(error, VaceRateLimited):
        retry_after = SHORTEST_INTERVAL
    backoff = Backoff()
    for _ in range(attempt):
        delay = backoff.next_delay(retry_after)
    if attempt >= MOST_CREATES or waited + delay > LONGEST_CREATE_SECONDS:
        return None
    return delay
