"""Ids and status words in objects of gateways, under all known names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from airflow_vace.core.references import id_in_url
from airflow_vace.ids import is_id

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUSES = ("status", "task_status", "taskStatus", "job_status", "jobStatus", "state")
ADDRESSES = ("get_url", "status_url")
# `task_id`, `taskId`, `jobID`; `id` itself has precedence.
_ID_NAME = re.compile(
    r"(?:(?:task|prediction|job|generation|video|run|inference)[_-]?id|uuid)", re.IGNORECASE
)
# Error envelopes name the HTTP request by this, so the name counts only beside a status.
_REQUEST_IDS = ("request_id", "requestId")


def text_in(item: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the first text that is not blank under any of the names."""
    return next((v for name in names if isinstance(v := item.get(name), str) and v.strip()), None)


def names_task(item: dict[str, Any]) -> bool:
    """Return True if an object has an id or a status under a task's name."""
    return any(_ID_NAME.fullmatch(name) or name in STATUSES[1:-1] for name in item)


def id_of(item: dict[str, Any]) -> str | None:
    """Return the id in an object, None without one."""
    for value in _ids_in(item):
        # Some gateways number their tasks.
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return str(value)
        if isinstance(value, str) and (found := text if is_id(text := value.strip()) else id_in_url(text)):
            return found
    return None


def _ids_in(item: dict[str, Any]) -> Iterator[object]:
    named = [value for name, value in item.items() if _ID_NAME.fullmatch(name)]
    requests = [item.get(name) for name in _REQUEST_IDS] if text_in(item, STATUSES) else []
    own = item.get("id")
    # new-api sends a row of its database as `id` beside `task_id`, so polls by that number find nothing.
    yield from (*named, *requests, own) if isinstance(own, int) else (own, *named, *requests)


def id_in_addresses(chain: list[dict[str, Any]], base_url: str) -> str | None:
    """Return the id in the addresses of the first object that has one."""
    for item in chain:
        urls = item.get("urls")
        for address in (urls.get("get") if isinstance(urls, dict) else None, *map(item.get, ADDRESSES)):
            if isinstance(address, str) and (found := id_in_url(joined(base_url, address))):
                return found
    return None


def joined(base_url: str, address: str) -> str:
    """Return an address of the server as an absolute URL."""
    try:
        return urljoin(base_url, address)
    except ValueError:
        # The download reports an invalid address with more context than is known here.
        return address
