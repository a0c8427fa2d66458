"""Members of gateways' objects under other names: output, error, times and addresses."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from airflow_vace.core.envelope_ids import STATUSES, id_of, text_in
from airflow_vace.output import has_content, urls_in
from airflow_vace.status import PredictionStatus, says_success

# `video_url`, `resultUrls`, `outputs`, `task_result`.
_OUTPUT_NAME = re.compile(
    r"(?:outputs?|(?:task_?)?results?|videos?|files?|images?|media|generations?|download|contents?|artifacts?"
    r"|assets?|creations?|works|mp4|unsigned)(?:_?ur[li]s?|_?json)?",
    re.IGNORECASE,
)
# The address of the video after a success at new-api, the reason after a failure.
_OUTPUT_OR_REASON = "fail_reason"
_REASONS = ("fail_reason", "failReason", "failure_reason", "error_message", "task_status_msg", "reason")
_TEXTS = ("message", "msg")
MOMENTS = {
    "created_at": ("created_at", "createdAt", "submit_time", "create_time"),
    "started_at": ("started_at", "startedAt", "start_time"),
    "completed_at": ("completed_at", "completedAt", "finished_at", "finish_time", "finishTime", "end_time"),
}
# Members of the vendor's own object, which a gateway may hand on inside.
_INNER = ("model", "version", "input", "logs", "error", "metrics", "urls", "data_removed")
# Milliseconds since the epoch are larger, seconds are smaller.
_MAX_EPOCH_SECONDS = 1e11
_EPOCH = re.compile(r"\d{9,13}(?:\.\d+)?", re.ASCII)


def members_of(chain: list[dict[str, Any]], holder: dict[str, Any], word: str | None) -> dict[str, Any]:
    """Return the members of a prediction, completed from the objects inside and around."""
    inside = inside_of(chain, holder)
    members = dict(holder)
    for name in _INNER:
        members[name] = next((item[name] for item in inside if item.get(name) not in (None, "", {})), None)
    for name, names in MOMENTS.items():
        moments = (_moment(item.get(other)) for item in inside for other in names)
        members[name] = next((moment for moment in moments if moment), None)
    if isinstance(members.get("get_url") or members.get("status_url"), str):
        address = members.get("get_url") or members["status_url"]
        members["urls"] = {"get": address, **(members["urls"] if isinstance(members["urls"], dict) else {})}
    around = [item for item in chain if not any(item is other for other in inside)]
    status = PredictionStatus(word or "unknown")
    has_failed = status.is_final and not says_success(status)
    members["output"] = _output_of([*inside, *around], has_failed=has_failed)
    if has_failed and not has_reason(members["error"]):
        members["error"] = _reason_in(inside, around)
    return members


def _output_of(places: list[dict[str, Any]], *, has_failed: bool) -> Any:
    """Return the output under any name, else the verbatim `output` of the first place."""
    for item in places:
        output = item.get("output")
        if has_content(output) and not any(output is place for place in places):
            return output
        for name, value in item.items():
            is_output = _OUTPUT_NAME.fullmatch(name) or (name == _OUTPUT_OR_REASON and not has_failed)
            is_task = isinstance(value, dict) and text_in(value, STATUSES)
            if is_output and not is_task and urls_in(value):
                return value
        if urls := _listed_urls(item):
            return urls
    return places[0].get("output")


def _listed_urls(item: dict[str, Any]) -> list[str]:
    """Return the addresses of `{"created": …, "data": [{"url": …}]}`, the image route of new-api."""
    items = item.get("data")
    objects = [part for part in items if isinstance(part, dict)] if isinstance(items, list) else []
    bare = [part for part in [*objects, item.get("metadata")] if isinstance(part, dict) and not id_of(part)]
    return [url for part in bare for url in urls_in(part.get("url"))]


def _reason_in(inside: list[dict[str, Any]], around: list[dict[str, Any]]) -> str | None:
    """Return the text for a failure that has no `error`."""
    for item in (*inside, *around):
        text = text_in(item, (*_REASONS, *_TEXTS))
        # Envelopes say "success" about the request.
        if text and not says_success(text):
            return text
    return None


def _moment(value: object) -> object:
    """Return a time as text; numbers are seconds or milliseconds since the epoch.

    Text of other forms than ISO 8601 becomes ISO 8601, as far as known: digits, and the form of HTTP headers.
    """
    if isinstance(value, str):
        if _EPOCH.fullmatch(value):
            return _moment(float(value))
        with suppress(ValueError):
            return parsedate_to_datetime(value).isoformat() if value[:1].isalpha() else value
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    seconds = value if abs(value) < _MAX_EPOCH_SECONDS else value / 1000
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds > 0 else None
    except (OverflowError, ValueError, OSError):
        return None


def has_reason(error: object) -> bool:
    """Return True if an `error` member is more than a filler such as `{"code": "", "message": ""}`."""
    return bool(error) and (not isinstance(error, dict) or any(error.values()))


def stand_in(holder: dict[str, Any], members: dict[str, Any]) -> str | None:
    """Return a word for a prediction without a status in words: a number, or "unknown" after the end."""
    numbers = (value for name in STATUSES if isinstance(value := holder.get(name), int))
    number = next((value for value in numbers if not isinstance(value, bool)), None)
    if number is not None:
        return str(number)
    # The time of the end decides then, see :func:`airflow_vace.status.status_of`.
    return "unknown" if members["completed_at"] else None


def inside_of(chain: list[dict[str, Any]], holder: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an object of the chain and the objects inside."""
    start = next(place for place, item in enumerate(chain) if item is holder)
    return chain[start:]
