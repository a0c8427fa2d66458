"""Checks of requests, as strict as the model and Replicate's OpenAPI document."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from airflow_vace.inputs import FIELDS, InputField

# The model's limit is not published; a laptop can draw this many frames.
_MAX_FRAMES = 1001
# https://api.replicate.com/openapi.json, header `Cancel-After`.
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_MIN_CANCEL_SECONDS = 5.0
WEBHOOK_EVENTS = ("start", "output", "logs", "completed")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def cancel_after_seconds(text: str) -> float:
    """Return the seconds of a header `Cancel-After`: `30`, `30s`, `2h30m`, `1h30m45s`.

    :raises ValueError: if the text has another form or the duration is shorter than 5 s
    """
    match = _DURATION.fullmatch(text)
    # A bare number means seconds only on its own: `1h30` has no documented meaning.
    if not text or match is None or (text[-1].isdigit() and not text.isdigit()):
        raise ValueError("Cancel-After must be a duration such as 30, 30s, 5m or 2h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total < _MIN_CANCEL_SECONDS:
        raise ValueError("Cancel-After must be at least 5 seconds")
    return total


def invalid_webhook(body: dict[str, Any]) -> list[dict[str, str]]:
    """Return the problems of the members `webhook` and `webhook_events_filter` of a create.

    Replicate accepts HTTPS URLs only; the emulator also accepts plain HTTP to this machine.
    """
    problems = []
    target, events = body.get("webhook"), body.get("webhook_events_filter")
    if target is not None and not _is_target(target):
        problems.append(_problem("webhook", "Must be an HTTPS URL"))
    if events is not None and not (isinstance(events, list) and all(e in WEBHOOK_EVENTS for e in events)):
        problems.append(_problem("webhook_events_filter", f"Must be a list of {', '.join(WEBHOOK_EVENTS)}"))
    return problems


def _is_target(value: Any) -> bool:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
    except ValueError:
        return False
    is_local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    return bool(parts.hostname) and (parts.scheme == "https" or is_local)


def _problem(field: str, description: str, kind: str = "invalid") -> dict[str, str]:
    return {"type": kind, "field": field, "description": description}


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "url": (str,),
    "int": (int,),
    "number": (int, float),
    "urls": (list,),
}


def _are_urls(value: Any) -> bool:
    urls = value if isinstance(value, list) else [value]
    return all(isinstance(url, str) and url.startswith(("http://", "https://", "data:")) for url in urls)


def _is_outside(known: InputField, value: Any) -> bool:
    too_low = known.low is not None and value < known.low
    high = _MAX_FRAMES if known.name == "frame_num" else known.high
    return too_low or (high is not None and value > high)


def invalid_fields(values: Any) -> list[dict[str, str]]:
    """Return the problems of an input, in the form of the API's member `invalid_fields`.

    Nothing is normalised: the model does not accept `1280x720` for `1280*720` either.
    """
    if not isinstance(values, dict):
        return [_problem("input", "Expected an object", "invalid_type")]
    problems = []
    for name, value in values.items():
        known = FIELDS.get(name)
        problem = None
        if known is None:
            problem = "Unexpected field"
        elif isinstance(value, bool) or not isinstance(value, _TYPES[known.kind]):
            problem = f"Expected {known.kind}, given {type(value).__name__}"
        elif known.name in ("size", "speed_mode", "sample_solver") and value not in known.values:
            problem = f"Must be one of {', '.join(known.values)}"
        elif known.kind in ("url", "urls") and not _are_urls(value):
            problem = "Must be a URL that can be fetched"
        elif _is_outside(known, value):
            problem = "Is out of bounds"
        if problem:
            problems.append(_problem(f"input.{name}", problem))
    if not values.get("prompt"):
        problems.append(_problem("input.prompt", "prompt is required", "required"))
    return problems


def accepted_fields(values: Any) -> dict[str, Any]:
    """Return the inputs that the model accepts; another model's inputs may have the same names."""
    wrong = {problem["field"] for problem in invalid_fields(values)}
    given = values if isinstance(values, dict) else {}
    return {name: value for name, value in given.items() if f"input.{name}" not in wrong}
