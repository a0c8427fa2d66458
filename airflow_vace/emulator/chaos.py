"""Random faults of all known kinds, as real back-ends show them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from airflow_vace.emulator.faults import JSON, LOGIN_PAGE, Fault, RetryForm, rate_limited

# Only a known gateway code proves that nothing was forwarded. Words such as "busy" prove nothing, so a client
# must treat the responses in _UNKNOWN as creates that may be billed.
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
# An error code decides whether another run may help, and an empty error says nothing.
_ENDS: tuple[dict[str, Any], ...] = (
    {"status": "failed", "error": "E6716: timed out while starting"},
    {"status": "failed", "error": "E1001: out of memory"},
    {"status": "failed", "error": ""},
    {"status": "canceled"},
    {"status": "aborted"},
)


def chaos(share: float) -> list[Fault]:
    """Return faults of all kinds that together hit a share of the requests of each kind.

    :param share: fraction of the requests, 0 to 1
    """
    if not share:
        return []
    # The same failures after the work is done: a client can't distinguish the two.
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
        # A fault sees only the requests that earlier faults let pass, so its own share must grow.
        remaining = 1.0
        for fault in faults:
            part = share / len(faults)
            found.append(replace(fault, **where, share=part / remaining))
            remaining -= part
    return found
