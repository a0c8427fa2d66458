"""Refusals by class, whichever envelope they come in."""

from __future__ import annotations

import json
import math
import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from airflow_vace.core.forms import is_html, json_of, text_of, without_key
from airflow_vace.core.retry import says_no_channel
from airflow_vace.exceptions import (
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceRateLimited,
    excerpt,
)

if TYPE_CHECKING:
    from airflow_vace.core.requests import Api, Request, Response


def read_error(api: Api, request: Request, response: Response) -> VaceAPIError:
    """Return the refusal in an answer outside of 2xx, whichever of the known envelopes it came in."""
    status, text = response.status_code, text_of(api, response)
    detail, code, invalid_fields, body_retry = _detail_of(text)
    if is_html(response, text):
        title = re.search(r"<title[^>]{0,200}>([^<]{0,200})", text[:5000], re.IGNORECASE)
        detail = f"an HTML page, {title[1].strip()!r}" if title else "an HTML page"
    if 300 <= status < 400:
        target = excerpt(without_key(api, response.header("location") or "nowhere"))
        detail = f"a redirect to {target}, not followed since the key would go along"
    detail = excerpt(detail, 500) or "no reason given"
    retry_after = _retry_after(response, body_retry, detail)
    kind, remedy = _kind_of(status, code, detail)
    bill = " Nothing is billed." if request.verb == "create" and 400 <= status < 500 and status != 408 else ""
    about = f"prediction {request.prediction_id}: " if request.prediction_id else ""
    fields = "".join(f" {n}: {problem}." for n, problem in invalid_fields.items() if problem not in detail)
    named = f" [{code}]" if code else ""
    said = f"{about}{request.shown} was refused with {status}{named}: {detail.rstrip('.')}.{fields}"
    return kind(
        f"{said} {remedy}{bill}",
        status_code=status,
        detail=detail,
        code=code,
        retry_after=retry_after,
        invalid_fields=invalid_fields,
        is_from_api=_is_object(text),
    )


def _kind_of(status: int, code: str | None, detail: str) -> tuple[type[VaceAPIError], str]:
    """Return the class for a status and code, and what to do about it."""
    no_money = code is not None and re.search(r"insufficient\w*(quota|balance|credit|funds)", code.lower())
    if status == 402 or (no_money and 400 <= status < 500):
        return (
            VaceBillingError,
            "The account has no money left: top it up.",
        )
    if status == 401:
        return VaceAuthError, "The key was not accepted: check the connection's password and host."
    if status == 403:
        return (
            VaceAuthError,
            "The key may not do this: check its permissions, allowed addresses and models.",
        )
    if status == 429:
        return VaceRateLimited, "Too many requests: wait, and use a pool to send fewer at once."
    known = {
        400: "The input or version was refused: mend what is named and run again.",
        404: "Not known there: check model, version, id and the connection's api_prefix; a prediction may"
        " belong to another account, or be deleted.",
        413: "The request is too large: give a URL instead of a data: URL.",
        422: "The input or version was refused: mend what is named and run again.",
    }
    if status in known:
        return VaceAPIError, known[status]
    if says_no_channel(status, code, detail):
        return (
            VaceAPIError,
            "The gateway has no channel for this model: check its name. Nothing is billed.",
        )
    if 300 <= status < 400:
        return VaceAPIError, "Put the server's final address into the connection's host."
    return VaceAPIError, "The server is in trouble, or what stands before it."


def _is_object(text: str) -> bool:
    """Return True for a JSON object, as the API refuses; a proxy refuses with a page or plain text."""
    try:
        return isinstance(json_of(text), dict)
    except ValueError:
        return False


def _detail_of(text: str) -> tuple[str, str | None, dict[str, str], float | None]:
    """Return (detail, code, invalid fields, retry_after) of any known error envelope."""
    try:
        data = json_of(text)
    except ValueError:
        return text, None, {}, None
    if not isinstance(data, dict):
        return text, None, {}, None
    inner = data.get("error")
    nested = inner if isinstance(inner, dict) else {}
    detail: Any = next(
        (
            said
            for said in (
                data.get("detail"),
                nested.get("message"),
                inner,
                data.get("message"),
                data.get("status_message"),
                data.get("title"),
            )
            if said
        ),
        "",
    )
    invalid = _invalid_fields(data.get("invalid_fields"))
    if isinstance(detail, list):
        invalid |= _invalid_fields(detail)
        detail = "; ".join(f"{name}: {problem}" for name, problem in invalid.items())
    if not isinstance(detail, str):
        detail = json.dumps(detail, ensure_ascii=False)
    code = next(
        (c for c in (nested.get("code"), data.get("code"), nested.get("type"), data.get("type")) if c),
        data.get("status_code"),
    )
    named = (data, nested, data.get("parameters"))
    waits = (_seconds(part.get("retry_after")) for part in named if isinstance(part, dict))
    retry_after = next((seconds for seconds in waits if seconds is not None), None)
    return detail, excerpt(str(code), 80) if code else None, invalid, retry_after


def _invalid_fields(items: Any) -> dict[str, str]:
    """Read `[{field, description}]` and `[{loc, msg}]` alike."""
    fields: dict[str, str] = {}
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, dict):
            continue
        place = item.get("field") or item.get("loc")
        if isinstance(place, list):
            place = ".".join(str(part) for part in place if part != "body")
        problem = item.get("description") or item.get("msg") or item.get("type") or "refused"
        fields[excerpt(str(place or "input"), 80)] = excerpt(str(problem), 200)
    return fields


# A limit's reset beyond this is a point in time, not a duration.
_EPOCHS_START = 1e8
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNIT = r"(?:ms|s(?:ec\w{0,5})?|m(?:in[a-z]{0,5})?|h(?:ours?)?)(?![a-z])"
_DURATION = rf"\d{{1,9}}(?:\.\d{{1,9}})?\s?{_UNIT}"
_RESETS_IN = re.compile(
    r"(?:resets?|retry|again|wait|available)\D{0,20}?"
    rf"((?:{_DURATION}[\s,]{{0,2}})+|\d{{1,9}}(?:\.\d{{1,9}})?\s*$)",
    re.IGNORECASE,
)
_PART = re.compile(r"([\d.]+)\s*(ms|[smh])?", re.IGNORECASE)


def _retry_after(response: Response, body: float | None, detail: str) -> float | None:
    """Return how many seconds to wait, from header, body or text; None where none says it."""
    header = response.header("retry-after")
    for said in (_seconds(header), _seconds_until(header, response.header("date")), body):
        if said is not None:
            return said
    if match := _RESETS_IN.search(detail):
        return sum(float(n) * _UNITS[(unit or "s").lower()] for n, unit in _PART.findall(match[1]))
    reset = _seconds(response.header("ratelimit-reset")) if response.status_code == 429 else None
    if reset is not None and reset > _EPOCHS_START:
        return max(reset - _served_at(response.header("date")), 0.0)
    return reset


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) and not isinstance(value, bool) else None


def _seconds_until(date: str | None, served: str | None) -> float | None:
    """Return the time until an HTTP date, by the server's own clock where it tells it."""
    moment = _epoch(date)
    return None if moment is None else max(moment - _served_at(served), 0.0)


def _served_at(date: str | None) -> float:
    moment = _epoch(date)
    return time.time() if moment is None else moment


def served_at(response: Response) -> float | None:
    """Return the server's time when it sent an answer, in seconds since the epoch; None if it shows none.

    An answer from a cache is older by its `Age` (RFC 9111, 5.1).
    """
    moment = _epoch(response.header("date"))
    return None if moment is None else moment + (_seconds(response.header("age")) or 0.0)


def _epoch(date: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(date or "")
        # One of HTTP's three forms names no zone; all of them are in GMT.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def read_detail(text: str) -> str:
    """Return what an error envelope says, or the text itself if it is none."""
    return _detail_of(text)[0]
