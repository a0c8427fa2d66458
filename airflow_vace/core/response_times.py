"""Times in a response: the server's clock, and the wait before a retry."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_vace.core.requests import Response

# `ratelimit-reset` is a duration at some vendors and an epoch at others; no duration is this large.
_MIN_EPOCH = 1e8
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNIT = r"(?:ms|s(?:ec\w{0,5})?|m(?:in[a-z]{0,5})?|h(?:ours?)?)(?![a-z])"
_DURATION = rf"\d{{1,9}}(?:\.\d{{1,9}})?\s?{_UNIT}"
# "Your rate limit resets in ~5s", "try again in 1m30s", "retry after 3".
_RESETS_IN = re.compile(
    r"(?:resets?|retry|again|wait|available)\D{0,20}?"
    rf"((?:{_DURATION}[\s,]{{0,2}})+|\d{{1,9}}(?:\.\d{{1,9}})?\s*$)",
    re.IGNORECASE,
)
_PART = re.compile(r"([\d.]+)\s*(ms|[smh])?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Allowance:
    """The headers `ratelimit-remaining` and `ratelimit-reset` of a response.

    :param remaining: further requests that the account may send
    :param reset_seconds: seconds until the limit is whole again
    """

    remaining: float
    reset_seconds: float


def served_at(response: Response) -> float | None:
    """Return the server's time of a response in seconds since the epoch; None without a `Date`.

    A response from a cache is older by its `Age` (RFC 9111, 5.1).
    """
    moment = _epoch(response.header("date"))
    return None if moment is None else moment + (seconds_of(response.header("age")) or 0.0)


def read_retry_after(response: Response, body_seconds: float | None, detail: str) -> float | None:
    """Return the seconds to wait before a retry, None if the response states no time.

    The order is: header `Retry-After`, body, text, header `ratelimit-reset` of a 429.

    :param body_seconds: wait in the body's members, None if absent
    :param detail: the server's explanation
    """
    header = response.header("retry-after")
    for stated in (seconds_of(header), _seconds_until(header, response), body_seconds):
        if stated is not None:
            return stated
    if match := _RESETS_IN.search(detail):
        return sum(float(n) * _UNIT_SECONDS[(unit or "s").lower()] for n, unit in _PART.findall(match[1]))
    # Vendors send this header with every response, so only a 429 makes the reset a wait.
    return _reset_seconds(response) if response.status_code == 429 else None


def read_allowance(response: Response) -> Allowance | None:
    """Return the vendor's count of further requests; None without both headers."""
    remaining, reset = seconds_of(response.header("ratelimit-remaining")), _reset_seconds(response)
    return None if remaining is None or reset is None else Allowance(remaining, reset)


def seconds_of(value: Any) -> float | None:
    """Return a number of seconds of at least 0, also from text; None for other values."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) and not isinstance(value, bool) else None


def _reset_seconds(response: Response) -> float | None:
    reset = seconds_of(response.header("ratelimit-reset"))
    if reset is not None and reset > _MIN_EPOCH:
        return max(reset - _sent_at(response), 0.0)
    return reset


def _seconds_until(date: str | None, response: Response) -> float | None:
    moment = _epoch(date)
    return None if moment is None else max(moment - _sent_at(response), 0.0)


def _sent_at(response: Response) -> float:
    """Return the server's time of a response, or the local time of arrival without a `Date`."""
    moment = _epoch(response.header("date"))
    return response.received_at if moment is None else moment


def _epoch(date: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(date or "")
        # One of HTTP's three date formats has no zone; all of them are in GMT.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
