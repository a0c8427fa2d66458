"""Scripted faults: for the next requests that match, the server misbehaves as real ones do."""

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
    from collections.abc import Callable

Moment = Literal["before", "after"]
RetryForm = Literal["seconds", "decimal", "date", "body", "text", "none"]
_FORMS = get_args(RetryForm)

LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to the next `times` requests (None: to all) whose method and path match.

    :param method: HTTP method, `*` for any
    :param path: pattern with `*` for the path, such as `*/predictions/*`
    :param times: how many requests it hits
    :param skip: how many matching requests pass unharmed before
    :param share: hits this share of the matching requests, by chance; the same seed hits the same
    :param delay: seconds before anything happens
    :param accept: let the server do what was asked (a create is then on the bill) before it misbehaves
    :param reset: break the connection off, `before` or `after` the server did what was asked
    :param hang: never answer, `before` or `after` the server did what was asked
    :param status: answer this status ...
    :param headers: ... and these headers ...
    :param body: ... and this body: text, or JSON
    :param drip: send the true answer byte by byte, with so many seconds between two
    :param truncate: send only so many bytes of the true answer, then break off
    :param patch: members to set in the true answer's JSON object
    :param drop: members to leave out of it
    :param clock: how far, in seconds, the server's clock is ahead in the true answer's `Date`
    :param logs: append so many lines to the true answer's logs
    :param outcome: a prediction created so will end like this: `{"status": "failed", "error": "..."}`
    """

    method: str = "*"
    path: str = "*"
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
        """Read a fault; `preset` names one of :data:`PRESETS` to start from.

        The preset `rate_limited` takes a `form` (seconds, decimal, date, body, text or none) and `seconds`.

        :raises ValueError: for what is no fault
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
        unknown = set(given) - set(_WANTED)
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        for name, value in given.items():
            if not _WANTED[name](value):
                raise ValueError(f"a fault's {name} can't be {value!r}")
        if "drop" in given:
            given["drop"] = tuple(given["drop"])
        return replace(start, **given)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def matches(self, method: str, path: str) -> bool:
        return self.method in ("*", method) and fnmatchcase(path, self.path)

    def encoded_body(self) -> bytes:
        if self.body is None:
            return b""
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


# What each member may be; a script that is wrong shall not become a server that is.
_WANTED: dict[str, Callable[[Any], bool]] = {
    "method": lambda value: isinstance(value, str),
    "path": lambda value: isinstance(value, str),
    "times": lambda value: value is None or _count(value),
    "skip": _count,
    "share": lambda value: _seconds(value) and value <= 1,
    "delay": _seconds,
    "accept": lambda value: isinstance(value, bool),
    "reset": lambda value: value in (None, "before", "after"),
    "hang": lambda value: value in (None, "before", "after"),
    "status": lambda value: value is None or (_count(value) and 200 <= value <= 599),
    "headers": lambda value: isinstance(value, dict),
    "body": lambda _: True,
    "drip": lambda value: value is None or _seconds(value),
    "truncate": lambda value: value is None or _count(value),
    "patch": lambda value: isinstance(value, dict),
    "drop": lambda value: isinstance(value, list | tuple),
    "clock": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "logs": _count,
    "outcome": lambda value: isinstance(value, dict),
}

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
    "accepted_then_502": Fault(**_CREATE, accept=True, status=502, body="Bad Gateway"),
    "accepted_then_reset": Fault(**_CREATE, reset="after"),
    "accepted_then_silence": Fault(**_CREATE, hang="after"),
    "no_money": Fault(
        status=403,
        headers=JSON,
        body={"error": {"message": "quota exhausted", "code": "insufficient_user_quota"}},
    ),
    "aborted": Fault(**_CREATE, outcome={"status": "aborted"}),
    "unknown_status": Fault(**_GET, patch={"status": "warming-up", "output": None}),
    "no_output": Fault(**_GET, patch={"status": "succeeded", "output": None}),
    "expired": Fault(**_GET, patch={"status": "succeeded", "output": None, "data_removed": True}),
    "backwards": Fault(**_GET, patch={"status": "starting", "output": None}),
    "huge_logs": Fault(**_GET, logs=200_000),
}


def rate_limited(form: RetryForm = "seconds", seconds: float = 1.0, **match: Any) -> Fault:
    """Return a 429 that tells its time in one of the forms that are met in the wild."""
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
    """The faults that are scripted, in order; each request meets the first that matches."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, *faults: Fault | str, **of_one: Any) -> None:
        """Script faults: :class:`Fault` objects, names of presets, or one by its parameters.

        :raises ValueError: for what is no fault
        """
        found = [Fault.from_json({"preset": f}) if isinstance(f, str) else f for f in faults]
        if of_one:
            checked = Fault.from_json(of_one)
            found = [replace(f, **{n: getattr(checked, n) for n in of_one}) for f in found] or [checked]
        with self._lock:
            self._waiting += found

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def waiting(self) -> list[Fault]:
        with self._lock:
            return list(self._waiting)

    def next_for(self, method: str, path: str) -> Fault | None:
        """Return the fault that this request meets, and count it."""
        with self._lock:
            for place, fault in enumerate(self._waiting):
                if not fault.matches(method, path):
                    continue
                if fault.skip:
                    self._waiting[place] = replace(fault, skip=fault.skip - 1)
                    continue
                if fault.share < 1 and self._chance.random() >= fault.share:
                    continue
                if fault.times is not None:
                    left = fault.times - 1
                    self._waiting[place : place + 1] = [replace(fault, times=left)] if left else []
                return fault
        return None
