"""Rate limits: of all requests or of creates if asked for, and Replicate's own, scaled like all durations."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from airflow_vace.emulator.dialects import refusal

if TYPE_CHECKING:
    from aiohttp import web

    from airflow_vace.emulator.dialects import BackendName

# https://replicate.com/docs/reference/http: requests a minute.
_CREATES_PER_MINUTE = 600
_OTHERS_PER_MINUTE = 3000


class Bucket:
    """A token bucket; a pause earns no larger burst than the bucket holds.

    :param size: requests in one burst
    :param rate: tokens a second
    """

    def __init__(self, size: float, rate: float) -> None:
        self.size = size
        self.rate = rate
        self._tokens, self._refilled_at = size, time.monotonic()

    def take(self) -> bool:
        """Take a token; return False if none is left."""
        now = time.monotonic()
        refilled = self._tokens + (now - self._refilled_at) * self.rate
        self._tokens, self._refilled_at = min(refilled, self.size), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def remaining(self) -> int:
        """The number of further requests in this moment."""
        return int(self._tokens)

    @property
    def next_in(self) -> int:
        """Seconds until the next request may come, at least one."""
        return max(math.ceil((1 - self._tokens) / self.rate), 1)

    @property
    def reset(self) -> int:
        """Seconds until the bucket is full, at least one."""
        return max(math.ceil((self.size - self._tokens) / self.rate), 1)


class VendorLimits:
    """Replicate's limits of creates and of other calls, or a limit of creates on all back-ends.

    :param time_scale: durations as a fraction of real ones; Replicate's limits never fall below the real ones
    :param create_limit: accepted creates a minute on all back-ends, not scaled (default: Replicate's, scaled)
    :param create_burst: creates in one burst (default: a minute's worth)
    """

    def __init__(
        self, time_scale: float, create_limit: float | None = None, create_burst: int | None = None
    ) -> None:
        minute = 60 * min(max(time_scale, 1e-9), 1.0)
        self.is_stated = create_limit is not None
        rate = _CREATES_PER_MINUTE / minute if create_limit is None else create_limit / 60
        self.creates = Bucket(create_burst or create_limit or _CREATES_PER_MINUTE, rate)
        self.others = Bucket(_OTHERS_PER_MINUTE, _OTHERS_PER_MINUTE / minute)

    def bucket_of(self, request: web.Request, backend: BackendName) -> Bucket | None:
        """Return the bucket that a request takes from, None without a limit."""
        if request.method == "POST" and request.path.endswith("/predictions"):
            return self.creates if self.is_stated or backend == "replicate" else None
        return self.others if backend == "replicate" else None


def throttled(backend: BackendName, seconds: int = 1) -> web.Response:
    """Return a 429 with its pause in header and text."""
    detail = f"Request was throttled. Your rate limit resets in ~{seconds}s."
    response = refusal(backend, 429, detail, "Too many requests")
    response.headers["Retry-After"] = str(seconds)
    return response
