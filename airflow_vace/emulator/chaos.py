"""All that goes wrong in the wild, by chance: what a client must live with from day to day."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from airflow_vace.emulator.faults import JSON, LOGIN_PAGE, Fault, RetryForm, rate_limited

# Every way in which API and files are known to fail: what is asked, what comes back, how a prediction ends.
# Only a known gateway's code proves that nothing was forwarded; words such as "busy" prove nothing.
_BUSY = {
    "error": {"message": "system cpu overloaded", "type": "new_api_error", "code": "system_cpu_overloaded"}
}
_NO_CHANNEL = {"error": {"message": "no channel", "code": "model_not_found"}}
_UNKNOWN: tuple[dict[str, Any], ...] = (
    *({"status": status, "body": "trouble"} for status in (408, 500, 502, 504, 524)),
    {"status": 503, "headers": JSON, "body": {"detail": "all workers are busy"}},
    {"reset": "before"},
    {"hang": "before"},
    {"status": 200, "headers": {"Content-Type": "text/html"}, "body": LOGIN_PAGE},
    {"status": 200, "headers": JSON, "body": "not json"},
    {"status": 200, "headers": JSON, "body": {"error": {"message": "try later", "code": "internal"}}},
    {"status": 200},
)
_LIMITED = tuple(rate_limited(form, 1.0) for form in get_args(RetryForm))
_REFUSED: tuple[dict[str, Any], ...] = (
    *({"status": status, "body": {"detail": "refused"}} for status in (400, 401, 402, 403, 404, 413, 422)),
    {"status": 503, "body": _NO_CHANNEL},
)
_ENDS: tuple[dict[str, Any], ...] = (
    {"status": "failed", "error": "E6716: timed out while starting"},
    {"status": "failed", "error": "E1001: out of memory"},
    {"status": "failed", "error": ""},
    {"status": "canceled"},
    {"status": "aborted"},
)


def chaos(share: float) -> list[Fault]:
    """Return all that goes wrong in the wild: this share of the requests of each kind meets some of it."""
    accepted = [{**kind, "accept": True} for kind in _UNKNOWN if "status" in kind]
    after: list[dict[str, Any]] = [{"reset": "after"}, {"hang": "after"}, {"truncate": 30}]
    busy: list[dict[str, Any]] = [{"status": 503, "body": _BUSY}]
    ends = [{"outcome": outcome} for outcome in _ENDS]
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {
        ("POST", "*/predictions"): [*_UNKNOWN, *accepted, *after, *busy, *_REFUSED, *ends],
        ("GET", "*/predictions*"): [*_UNKNOWN, *after, *busy, *_REFUSED],
        ("POST", "*/cancel"): [*_UNKNOWN, *after, *busy],
        ("GET", "*/_delivery/*"): [*_UNKNOWN[:7], {"truncate": 1000}, {"status": 403}, {"status": 404}],
    }
    found = []
    for (method, path), ways in kinds.items():
        faults = [Fault(**way) for way in ways]
        if path.endswith(("/predictions", "/predictions*")):
            faults += _LIMITED
        where: dict[str, Any] = {"method": method, "path": path, "times": None}
        # Each is tried after those before it, so that a little more than its part is left for it.
        left = 1.0
        for fault in faults:
            part = share / len(faults)
            found.append(replace(fault, **where, share=part / left))
            left -= part
    return found
