"""Scripted faults: how the server misbehaves towards the next matching requests."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from email.utils import formatdate
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Moment = Literal["before", "after"]
RetryForm = Literal["seconds", "decimal", "date", "body", "text", "none"]
_FORMS = get_args(RetryForm)
VIDEO_DEFECTS = ("black", "frozen")

LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Misbehaviour towards the next `times` requests with a matching method, path and input.

    Durations are seconds. Without the fault, the server sends the "correct response".

    :param method: HTTP method, `*` for any
    :param path: pattern with `*` for the path, such as `*/predictions/*`
    :param input: members of the input of the request's prediction; a text may contain `*`, as in
        `{"prompt": "*fox*"}`. A request without a prediction does not match
    :param times: number of requests that the fault hits, None for all
    :param skip: number of matching requests that pass unharmed first
    :param share: fraction of the matching requests that the fault hits, at random; repeatable by seed
    :param delay: pause before the response, and before the effect of the request
    :param accept: process the request first, so a create is billed, then misbehave
    :param reset: reset the connection `before` or `after` the server has processed the request
    :param hang: send no response, `before` or `after` the server has processed the request
    :param status: send this status instead of the correct response, with `headers` and `body`
    :param headers: headers sent with `status`
    :param body: body sent with `status`: text, or a value for JSON
    :param drip: send the correct response byte by byte, with this pause between two bytes
    :param truncate: send only the first `truncate` bytes of the correct response, then disconnect
    :param patch: members to set in the correct response's JSON object
    :param drop: members to remove from the correct response's JSON object
    :param clock: offset of the server's clock in the correct response's `Date`
    :param logs: number of lines to append to the correct response's logs
    :param outcome: how a prediction created by this request ends: `{"status": "failed", "error": "..."}`, or
        with a defective video: `{"video": "black"}` or `{"video": "frozen"}`
    """

    method: str = "*"
    path: str = "*"
    input: dict[str, Any] = field(default_factory=dict)
    times: int | None = 1
    skip: int = 0
    share: float = 1.0
    delay: float = 0.0
    accept: bool = False
    reset: Moment | None = None
    hang: Moment | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    drip: float | None = None
    truncate: int | None = None
    patch: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    clock: float = 0.0
    logs: int = 0
    outcome: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: object) -> Fault:
        """Return a fault from a JSON object.

        The member `preset` names an entry of :data:`PRESETS` to start from. The preset `rate_limited` takes
        a `form` (seconds, decimal, date, body, text or none) and `seconds`.

        :raises ValueError: if the value is not a fault
        """
        if not isinstance(data, dict):
            raise ValueError(f"a fault is an object, not {data!r}")  # noqa: TRY004 - one error to catch
        given = dict(data)
        preset = given.pop("preset", None)
        if preset == "rate_limited":
            start = rate_limited(given.pop("form", "seconds"), given.pop("seconds", 1.0))
        elif preset is None or preset in PRESETS:
            start = PRESETS[preset] if preset else cls()
        else:
            raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}, rate_limited")
        unknown = set(given) - set(_CHECKS)
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        for name, value in given.items():
            if not _CHECKS[name](value):
                raise ValueError(f"a fault's {name} can't be {value!r}")
        if "drop" in given:
            given["drop"] = tuple(given["drop"])
        return replace(start, **given)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object for :meth:`from_json`."""
        return asdict(self)

    def matches(self, method: str, path: str, input: Mapping[str, Any] | None = None) -> bool:  # noqa: A002 - the API's own word
        """Return True if the fault is meant for this method, path and input.

        :param input: input of the request's prediction, None for a request without one
        """
        if self.method not in ("*", method) or not fnmatchcase(path, self.path):
            return False
        given = input or {}
        return all(name in given and _fits(given[name], wanted) for name, wanted in self.input.items())

    def encoded_body(self) -> bytes:
        """Return `body` as bytes: text in UTF-8, other values as JSON."""
        if self.body is None:
            return b""
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


def faults_from_json(data: object) -> list[Fault]:
    """Return the faults of a script: one JSON object, or a list.

    :raises ValueError: if an element is not a fault
    """
    return [Fault.from_json(element) for element in (data if isinstance(data, list) else [data])]


def _fits(value: object, wanted: object) -> bool:
    """Return True if a member of an input is the wanted value, or a text that fits the wanted pattern."""
    if isinstance(value, str) and isinstance(wanted, str):
        return value == wanted or fnmatchcase(value, wanted)
    return value == wanted


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


# Check each member: a typo in a script would otherwise surface later, as an error inside the server.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "method": lambda value: isinstance(value, str),
    "path": lambda value: isinstance(value, str),
    "input": lambda value: isinstance(value, dict),
    "times": lambda value: value is None or _is_count(value),
    "skip": _is_count,
    "share": lambda value: _is_seconds(value) and value <= 1,
    "delay": _is_seconds,
    "accept": lambda value: isinstance(value, bool),
    "reset": lambda value: value in (None, "before", "after"),
    "hang": lambda value: value in (None, "before", "after"),
    "status": lambda value: value is None or (_is_count(value) and 200 <= value <= 599),
    "headers": lambda value: (
        isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
    ),
    "body": lambda _: True,
    "drip": lambda value: value is None or _is_seconds(value),
    "truncate": lambda value: value is None or _is_count(value),
    "patch": lambda value: isinstance(value, dict),
    "drop": lambda value: isinstance(value, list | tuple),
    "clock": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "logs": _is_count,
    "outcome": lambda value: isinstance(value, dict) and value.get("video") in (None, *VIDEO_DEFECTS),
}

# Presets match any path of their kind, so they work with each back-end's prefix.
_GET: dict[str, Any] = {"method": "GET", "path": "*/predictions/*"}
_CREATE: dict[str, Any] = {"method": "POST", "path": "*/predictions"}
JSON = {"Content-Type": "application/json"}

PRESETS: dict[str, Fault] = {
    "login_page": Fault(status=200, headers={"Content-Type": "text/html"}, body=LOGIN_PAGE),
    "bad_gateway": Fault(
        status=502,
        headers={"Content-Type": "text/html"},
        body="<html><head><title>502 Bad Gateway</title></head></html>",
    ),
    "garbage": Fault(status=200, headers=JSON, body="\x00\x01\ufffd not json"),
    # The three lost responses: a create that is billed although the client sees an error.
    "accepted_then_502": Fault(**_CREATE, accept=True, status=502, body="Bad Gateway"),
    "accepted_then_reset": Fault(**_CREATE, reset="after"),
    "accepted_then_silence": Fault(**_CREATE, hang="after"),
    # A gateway reports an empty account with a 403, which elsewhere means a refused key.
    "no_money": Fault(
        status=403,
        headers=JSON,
        body={"error": {"message": "quota exhausted", "code": "insufficient_user_quota"}},
    ),
    # new-api's billing sends some errors with a 200.
    "no_money_in_a_200": Fault(
        **_CREATE,
        status=200,
        headers=JSON,
        body={"error": {"message": "quota exhausted", "code": "insufficient_user_quota"}},
    ),
    "aborted": Fault(**_CREATE, outcome={"status": "aborted"}),
    # Successes that only a look at the video distinguishes from good ones.
    "black_video": Fault(**_CREATE, outcome={"video": "black"}),
    "frozen_video": Fault(**_CREATE, outcome={"video": "frozen"}),
    "unknown_status": Fault(**_GET, patch={"status": "warming-up", "output": None}),
    "no_output": Fault(**_GET, patch={"status": "succeeded", "output": None}),
    "expired": Fault(**_GET, patch={"status": "succeeded", "output": None, "data_removed": True}),
    "backwards": Fault(**_GET, patch={"status": "starting", "output": None}),
    "huge_logs": Fault(**_GET, logs=200_000),
}


def rate_limited(form: RetryForm = "seconds", seconds: float = 1.0, **match: Any) -> Fault:
    """Return a 429 with a pause, stated in a form of real servers.

    :param form: the place and format of the pause; `none` states no pause
    :param seconds: the pause
    :param match: further members of the fault, such as `method` or `times`
    :raises ValueError: if the form is unknown
    """
    headers, detail = dict(JSON), "Request was throttled."
    body: dict[str, Any] = {"status": 429}
    if form not in _FORMS:
        raise ValueError(f"form {form!r} is none of {', '.join(_FORMS)}")
    match form:
        case "seconds":
            headers["Retry-After"] = str(round(seconds))
        case "decimal":
            headers["Retry-After"] = f"{seconds:.3f}"
        case "date":
            headers["Retry-After"] = formatdate(time.time() + seconds, usegmt=True)
        case "body":
            body["retry_after"] = seconds
        case "text":
            detail += f" Your rate limit resets in ~{seconds:g}s."
    body["detail"] = detail
    return Fault(status=429, headers=headers, body=body, **match)


class Faults:
    """The scripted faults, in order: the first match hits a request.

    :param seed: the same seed hits the same requests where faults have a `share`
    """

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, *faults: Fault | str, **members: Any) -> None:
        """Append faults: :class:`Fault` objects, names of presets, or the members of a new fault.

        Members beside faults override these faults' own.

        :raises ValueError: if a preset is unknown or a member has a wrong value
        """
        found = [Fault.from_json({"preset": f}) if isinstance(f, str) else f for f in faults]
        if members:
            checked = Fault.from_json(members)
            found = [replace(f, **{n: getattr(checked, n) for n in members}) for f in found] or [checked]
        with self._lock:
            self._waiting += [fault for fault in found if fault.times != 0]

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._waiting.clear()

    def waiting(self) -> list[Fault]:
        """Return the remaining faults."""
        with self._lock:
            return list(self._waiting)

    def needs_input(self) -> bool:
        """Return True if one of the remaining faults looks at inputs."""
        return any(fault.input for fault in self.waiting())

    def next_for(self, method: str, path: str, input: Mapping[str, Any] | None = None) -> Fault | None:  # noqa: A002 - the API's own word
        """Return the fault for this request, None if no fault matches, and count the hit.

        :param input: see :meth:`Fault.matches`
        """
        with self._lock:
            for place, fault in enumerate(self._waiting):
                if not fault.matches(method, path, input):
                    continue
                if fault.skip:
                    self._waiting[place] = replace(fault, skip=fault.skip - 1)
                    continue
                # Draw only for a fault with a share, so faults without one leave the sequence unchanged.
                if fault.share < 1 and self._chance.random() >= fault.share:
                    continue
                if fault.times is not None:
                    left = fault.times - 1
                    self._waiting[place : place + 1] = [replace(fault, times=left)] if left else []
                return fault
        return None
