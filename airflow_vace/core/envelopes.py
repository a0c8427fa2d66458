"""Gateways' forms of a prediction, converted to Replicate's members.

Known forms: `{code, message, data: {…}}`, also twice nested or in a list of one; ids as `task_id` or only in
`urls.get`; other names for status, output, error and times. Sources: WaveSpeed
(https://wavespeed.ai/docs/get-result), DashScope (https://help.aliyun.com/zh/model-studio/wan-vace-api-reference)
and the task routes of new-api (https://github.com/QuantumNous/new-api/blob/main/dto/task.go).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from airflow_vace.core.references import id_in_url
from airflow_vace.ids import is_id
from airflow_vace.output import has_content, urls_in
from airflow_vace.status import PredictionStatus, says_success

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRAPPERS = ("data", "result", "response", "prediction", "task")
_MAX_DEPTH = 5
_IDS = ("id", "task_id", "taskId", "prediction_id", "predictionId")
# Error envelopes name the HTTP request by this, so the name counts only beside a status.
_REQUEST_IDS = ("request_id", "requestId")
_STATUSES = ("status", "task_status", "taskStatus", "state")
_ADDRESSES = ("get_url", "status_url")
# `video_url`, `resultUrls`, `outputs`, `task_result`.
_OUTPUT_NAME = re.compile(
    r"(?:outputs?|(?:task_?)?results?|videos?|files?|images?|media|generation|download)(?:_?urls?|_?json)?",
    re.IGNORECASE,
)
# The address of the video after a success at new-api, the reason after a failure.
_OUTPUT_OR_REASON = "fail_reason"
_REASONS = ("fail_reason", "failReason", "failure_reason", "error_message", "task_status_msg", "reason")
_TEXTS = ("message", "msg")
_MOMENTS = {
    "created_at": ("created_at", "createdAt", "submit_time"),
    "started_at": ("started_at", "startedAt", "start_time"),
    "completed_at": ("completed_at", "completedAt", "finished_at", "finish_time", "finishTime", "end_time"),
}
# Members of the vendor's own object, which a gateway may hand on inside.
_INNER = ("model", "version", "input", "logs", "error", "metrics", "urls", "data_removed")
# An object with any of these is a prediction and not only the envelope of one.
_EVIDENCE = frozenset(
    {
        *_IDS[1:],
        *("output", "outputs", "input", "model", "version", "urls", "logs", "metrics", "progress"),
        *("task_status", "taskStatus", *_ADDRESSES),
        *(name for names in _MOMENTS.values() for name in names),
    }
)
_TASK_NAMES = frozenset({*_IDS[1:], "task_status", "taskStatus"})
_LISTS = ("results", "data", "predictions", "items", "tasks", "list", "records")
# Milliseconds since the epoch are larger, seconds are smaller.
_MAX_EPOCH_SECONDS = 1e11
_MIN_BARE_ID_LENGTH = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A prediction in a body.

    :param members: members in Replicate's names
    :param other_id: the id in the body if a poll asked for another id, else None
    """

    members: dict[str, Any]
    other_id: str | None = None


def find_created(data: dict[str, Any], base_url: str) -> Found | None:
    """Return the prediction in the answer to a create; None for an error or another object.

    The create is billed, so an id suffices for a prediction that starts. An `output` without an id gets an id
    from the digest of the output, because nobody could find the output again. A mere list of addresses, as an
    image route answers, is no prediction.

    :param data: JSON of the answer
    :param base_url: address of the server, for relative addresses
    """
    chain = _chain(data)
    holder = _holder(chain)
    word = _word_of(chain, holder)
    if _is_about_request(chain, holder, word):
        return None
    identifier = _id_of(holder) or _id_in_addresses(chain, base_url) or _bare_id(data)
    members = _members(chain, holder, word)
    if identifier is not None:
        return Found(members={**members, "id": identifier, "status": word or PredictionStatus.STARTING})
    output = members["output"]
    has_ended = says_success(word) if word else "output" in holder
    if not has_ended or not urls_in(output) or has_reason(members.get("error")):
        return None
    digest = hashlib.sha256(json.dumps(output).encode()).hexdigest()[:20]
    status = PredictionStatus.SUCCEEDED
    return Found(members={**members, "id": f"output-{digest}", "status": status, "output": output})


def find_polled(data: dict[str, Any], asked: str) -> Found | None:
    """Return the prediction in the answer to a poll; None for an error or another object.

    A poll at the own path is about the requested id, whatever id the answer names.

    :param data: JSON of the answer
    :param asked: the requested id
    """
    chain = _chain(data)
    holder = _holder(chain)
    identifier, word = _id_of(holder), _word_of(chain, holder)
    if identifier != asked and (word is None or _EVIDENCE.isdisjoint(holder)):
        return None
    if word is None and _is_about_request(chain, holder, word):
        return None
    members = {**_members(chain, holder, word), "id": asked, "status": word}
    url = holder.get("url")
    if word and says_success(word) and not has_content(members["output"]) and isinstance(url, str):
        # A bare `url` may lead to a page or a route of the task, so only a file's own address counts.
        members["output"] = url if urls_in(url) and asked not in url and not id_in_url(url) else None
    return Found(members=members, other_id=None if identifier == asked else identifier)


def find_listed(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a list in Replicate's members, as far as the object is a prediction."""
    chain = _chain(item)
    holder = _holder(chain)
    word = _word_of(chain, holder)
    return {**_members(chain, holder, word), "id": _id_of(holder) or item.get("id"), "status": word}


def find_results(data: object) -> tuple[list[Any], object] | None:
    """Return the items of a list and the address of the next page; None for another body.

    An empty list proves that a lost create was never accepted, so only Replicate's form, or an envelope that
    says success, may be empty.
    """
    if isinstance(data, list):
        return (data, None) if data else None
    if not isinstance(data, dict) or _has_failed(data):
        return None
    for depth, part in enumerate(chain := _chain(data)):
        for name in _LISTS:
            items = part.get(name)
            if isinstance(items, list) and (items or name == "results" or _has_succeeded(data)):
                following = (outer.get("next") for outer in reversed(chain[: depth + 1]))
                return items, next((address for address in following if address), None)
    return None


def has_reason(error: object) -> bool:
    """Return True if an `error` member is more than a filler such as `{"code": "", "message": ""}`."""
    return bool(error) and (not isinstance(error, dict) or any(error.values()))


def _has_succeeded(data: dict[str, Any]) -> bool:
    """Return True if an envelope says that the request succeeded."""
    codes = (data.get("code"), data.get("status"), data.get("success"))
    return any(
        (isinstance(code, int) and code in (0, 200) and code is not False)
        or code is True
        or (isinstance(code, str) and (code in ("0", "200") or says_success(code)))
        for code in codes
    )


def _has_failed(data: dict[str, Any]) -> bool:
    """Return True if an envelope has an error, or a code other than a success."""
    if has_reason(data.get("error")) or data.get("success") is False:
        return True
    code = data.get("code")
    return code not in (None, "", 0, 1, 200) and not _has_succeeded({"code": code})


# --- the object ------------------------------------------------------------------------------------


def _chain(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an object and the objects inside its wrappers, outermost first."""
    chain, level = [], [data]
    for _ in range(_MAX_DEPTH):
        chain += level
        level = [inner for item in level for inner in _wrapped_in(item)]
    return chain


def _wrapped_in(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in (*_WRAPPERS, "output"):
        value = item.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        # DashScope wraps the task in `output`, where other vendors have the output itself.
        if isinstance(value, dict) and (name != "output" or not _TASK_NAMES.isdisjoint(value)):
            yield value


def _is_about_request(chain: list[dict[str, Any]], holder: dict[str, Any], word: str | None) -> bool:
    """Return True if an envelope's id and status are the request's, and no prediction's."""
    if word is None:
        return any(has_reason(item.get("error")) for item in chain)
    is_foreign_word = word.strip().lower() != PredictionStatus.FAILED
    has_failed = PredictionStatus(word) is PredictionStatus.FAILED
    return has_failed and is_foreign_word and _EVIDENCE.isdisjoint(holder)


def _holder(chain: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the object that is the prediction: with id and status, else with id, else with a status."""
    identified = [item for item in chain if _id_of(item)]
    stated = [item for item in chain if _text_in(item, _STATUSES)]
    complete = [item for item in stated if _id_of(item)]
    candidates = complete or identified or stated
    # Envelopes may have an id and a status about the request, and nothing else of a prediction.
    proven = (item for item in candidates if not _EVIDENCE.isdisjoint(item))
    return next(proven, candidates[-1] if candidates else chain[0])


def _word_of(chain: list[dict[str, Any]], holder: dict[str, Any]) -> str | None:
    """Return the word for the status in an object, in the objects inside, or in the envelope."""
    for item in _from(chain, holder):
        if word := _text_in(item, _STATUSES):
            return word
    words = (_text_in(item, _STATUSES) for item in chain)
    # A success in an envelope is about the request.
    return next((word for word in words if word and not says_success(word)), None)


def _from(chain: list[dict[str, Any]], holder: dict[str, Any]) -> list[dict[str, Any]]:
    start = next(place for place, item in enumerate(chain) if item is holder)
    return chain[start:]


def _text_in(item: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((v for name in names if isinstance(v := item.get(name), str) and v.strip()), None)


# --- the id ----------------------------------------------------------------------------------------


def _id_of(item: dict[str, Any]) -> str | None:
    names = (*_IDS, *_REQUEST_IDS) if _text_in(item, _STATUSES) else _IDS
    # new-api sends a row of its database as `id` beside `task_id`, so polls by that number find nothing.
    if isinstance(item.get("id"), int):
        names = (*names[1:], "id")
    for name in names:
        value = item.get(name)
        # Some gateways number their tasks.
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return str(value)
        if isinstance(value, str) and (found := value if is_id(value) else id_in_url(value)):
            return found
    return None


def _id_in_addresses(chain: list[dict[str, Any]], base_url: str) -> str | None:
    for item in chain:
        urls = item.get("urls")
        for address in (urls.get("get") if isinstance(urls, dict) else None, *map(item.get, _ADDRESSES)):
            if isinstance(address, str) and (found := id_in_url(joined(base_url, address))):
                return found
    return None


def _bare_id(data: dict[str, Any]) -> str | None:
    """Return an id that is the whole `data`, as in `{"code": "success", "data": "ID"}`."""
    value = data.get("data") or data.get("result")
    # Midjourney's proxies say 1 for a success.
    has_succeeded = _has_succeeded(data) or (data.get("code") == 1 and "result" in data)
    if not has_succeeded or _has_failed(data) or not isinstance(value, str) or not is_id(value):
        return None
    # A sentence has no digits, and `OK` is no id.
    is_long = len(value) >= _MIN_BARE_ID_LENGTH and any(letter.isdigit() for letter in value)
    return value if is_long else None


def joined(base_url: str, address: str) -> str:
    """Return an address of the server as an absolute URL."""
    try:
        return urljoin(base_url, address)
    except ValueError:
        # The download reports an invalid address with more context than is known here.
        return address


# --- other members ---------------------------------------------------------------------------------


def _members(chain: list[dict[str, Any]], holder: dict[str, Any], word: str | None) -> dict[str, Any]:
    """Return the members of a prediction, completed from the objects inside and around."""
    inside = _from(chain, holder)
    members = dict(holder)
    for name in _INNER:
        members[name] = next((item[name] for item in inside if item.get(name) not in (None, "", {})), None)
    for name, names in _MOMENTS.items():
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
            is_task = isinstance(value, dict) and _text_in(value, _STATUSES)
            if is_output and not is_task and urls_in(value):
                return value
        if urls := _listed_urls(item):
            return urls
    return places[0].get("output")


def _listed_urls(item: dict[str, Any]) -> list[str]:
    """Return the addresses of `{"created": …, "data": [{"url": …}]}`, the image route of new-api."""
    items = item.get("data")
    objects = [part for part in items if isinstance(part, dict)] if isinstance(items, list) else []
    bare = [part for part in [*objects, item.get("metadata")] if isinstance(part, dict) and not _id_of(part)]
    return [url for part in bare for url in urls_in(part.get("url"))]


def _reason_in(inside: list[dict[str, Any]], around: list[dict[str, Any]]) -> str | None:
    """Return the text for a failure that has no `error`."""
    for item in (*inside, *around):
        text = _text_in(item, (*_REASONS, *_TEXTS))
        # Envelopes say "success" about the request.
        if text and not says_success(text):
            return text
    return None


def _moment(value: object) -> object:
    """Return a time as text; numbers are seconds or milliseconds since the epoch."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    seconds = value if abs(value) < _MAX_EPOCH_SECONDS else value / 1000
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds > 0 else None
    except (OverflowError, ValueError, OSError):
        return None
