"""Gateways' forms of a prediction, converted to Replicate's members.

Known forms: `{code, message, data: {…}}`, also twice nested or in a list of one; ids as `task_id` or only in
`urls.get`; other names for status, output, error and times. Sources: WaveSpeed
(https://wavespeed.ai/docs/get-result), DashScope (https://help.aliyun.com/zh/model-studio/wan-vace-api-reference)
and the task routes of new-api (https://github.com/QuantumNous/new-api/blob/main/dto/task.go).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_vace.core.envelope_ids import ADDRESSES, STATUSES, id_in_addresses, id_of, names_task, text_in
from airflow_vace.core.envelope_members import MOMENTS, has_reason, inside_of, members_of, stand_in
from airflow_vace.core.references import id_in_url
from airflow_vace.ids import is_id
from airflow_vace.output import has_content, urls_in
from airflow_vace.status import PredictionStatus, says_success

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRAPPERS = ("data", "result", "response", "prediction", "task")
# These may have an id and a status too, of something else.
_NO_WRAPPERS = (*_WRAPPERS, "output", "input", "error", "urls", "metrics", "model", "version", "user")
_MAX_DEPTH = 5
# An object with any of these is a prediction and not only the envelope of one.
_EVIDENCE = frozenset(
    {
        *("output", "outputs", "input", "model", "version", "urls", "logs", "metrics", "progress"),
        *ADDRESSES,
        *(name for names in MOMENTS.values() for name in names),
    }
)
_LISTS = ("results", "data", "predictions", "items", "tasks", "list", "records")
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
    identifier = id_of(holder) or id_in_addresses(chain, base_url) or _bare_id(data)
    members = members_of(chain, holder, word)
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
    identifier, word = id_of(holder), _word_of(chain, holder)
    if identifier != asked and (word is None or not _has_evidence(holder)):
        return None
    members = members_of(chain, holder, word)
    if word is None and not members["completed_at"] and _is_about_request(chain, holder, word):
        return None
    members |= {"id": asked, "status": word or stand_in(holder, members)}
    url = holder.get("url")
    if word and says_success(word) and not has_content(members["output"]) and isinstance(url, str):
        # A bare `url` may lead to a page or a route of the task, so only a file's own address counts.
        members["output"] = url if urls_in(url) and asked not in url and not id_in_url(url) else None
    return Found(members=members, other_id=None if identifier == asked else identifier)


def find_in_refusal(data: dict[str, Any], asked: str | None) -> Found | None:
    """Return the prediction in the body of an error status; None for a refusal.

    Some gateways pass on the vendor's prediction under an error status. Discarded, the create would be paid
    again.

    :param data: JSON of the answer
    :param asked: the requested id, None for a create
    """
    chain = _chain(data)
    holder = _holder(chain)
    identifier, word = id_of(holder), _word_of(chain, holder)
    if identifier is None or word is None or asked not in (None, identifier) or not _has_evidence(holder):
        return None
    members = members_of(chain, holder, word)
    status = PredictionStatus(word)
    if not (status.is_known or says_success(word)):
        return None
    has_failed = has_reason(members["error"]) or (status.is_final and not says_success(word))
    # A create that failed at once is a refusal with a reason.
    if asked is None and has_failed:
        return None
    return Found(members={**members, "id": identifier, "status": word})


def find_listed(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a list in Replicate's members, as far as the object is a prediction."""
    chain = _chain(item)
    holder = _holder(chain)
    word = _word_of(chain, holder)
    return {**members_of(chain, holder, word), "id": id_of(holder) or item.get("id"), "status": word}


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
        value = _only(item.get(name))
        # DashScope wraps the task in `output`, where other vendors have the output itself.
        if isinstance(value, dict) and (name != "output" or names_task(value)):
            yield value
    if id_of(item):
        return
    for value in (_only(value) for name, value in item.items() if name not in _NO_WRAPPERS):
        # Under any other name, only an object with an id and a status is a prediction.
        if isinstance(value, dict) and id_of(value) and text_in(value, STATUSES):
            yield value


def _only(value: object) -> object:
    """Return the item of a list of one; other values unchanged."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _has_evidence(item: dict[str, Any]) -> bool:
    """Return True if an object has more than an id and a status of a prediction."""
    return names_task(item) or not _EVIDENCE.isdisjoint(item)


def _is_about_request(chain: list[dict[str, Any]], holder: dict[str, Any], word: str | None) -> bool:
    """Return True if an envelope's id and status are the request's, and no prediction's."""
    if word is None:
        return any(has_reason(item.get("error")) for item in chain)
    is_foreign_word = word.strip().lower() != PredictionStatus.FAILED
    has_failed = PredictionStatus(word) is PredictionStatus.FAILED
    return has_failed and is_foreign_word and not _has_evidence(holder)


def _holder(chain: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the object that is the prediction: with id and status, else with id, else with a status."""
    identified = [item for item in chain if id_of(item)]
    stated = [item for item in chain if text_in(item, STATUSES)]
    complete = [item for item in stated if id_of(item)]
    candidates = complete or identified or stated
    # Envelopes may have an id and a status about the request, and nothing else of a prediction.
    proven = (item for item in candidates if _has_evidence(item))
    return next(proven, candidates[-1] if candidates else chain[0])


def _word_of(chain: list[dict[str, Any]], holder: dict[str, Any]) -> str | None:
    """Return the word for the status in an object, in the objects inside, or in the envelope."""
    for item in inside_of(chain, holder):
        if word := text_in(item, STATUSES):
            return word
    words = (text_in(item, STATUSES) for item in chain)
    # A success in an envelope is about the request.
    return next((word for word in words if word and not says_success(word)), None)


# --- an id alone ---------------------------------------------------------------------------------


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
