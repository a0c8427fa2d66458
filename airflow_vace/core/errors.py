"""Refusals by a server, in all known formats, as errors of this package."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_vace.core.bodies import is_html, json_object_of, text_of, without_key
from airflow_vace.core.envelope_members import has_reason
from airflow_vace.core.response_times import read_retry_after, seconds_of
from airflow_vace.core.retry import may_be_accepted, says_no_channel, says_not_found
from airflow_vace.exceptions import (
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceRateLimited,
)
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.core.requests import Api, Request, Response

# `insufficient_user_quota`, `pre_consume_token_quota_failed` (new-api), `InsufficientBalance`,
# `credit_balance_too_low`, `payment_required`.
_MONEY = r"(?:quota|balance|credits?|funds?)"
_NO_CREDIT = re.compile(
    rf"insufficient[\w .-]*{_MONEY}|{_MONEY}[\w .-]*(?:insufficient|not[ _.-]?enough|too[ _.-]?low|exhausted)"
    rf"|(?:not[ _.-]?enough|run out of) {_MONEY}|pre_consume\w*quota_failed|payment[ _.-]?required"
    r"|余额不足|额度不足|欠费"
)
# `invalid_api_key`, `Unauthorized`, `authentication_error`; `AccessDenied`, `permission_denied`, `forbidden`.
_STATUS_BY_CODE = {
    401: re.compile(
        r"unauthori[sz]ed|unauthenticated|(?:invalid|incorrect|expired)_?(?:api_?)?(?:key|token)"
        r"|(?:authentication|authorization)_?(?:error|failed)"
    ),
    403: re.compile(r"forbidden|(?:access|permission)_?denied|permission_?error"),
}
# A size or a mode, and no address.
_SHORT_TEXT = re.compile(r"[^:/@]{0,40}")
_INNER_STATUSES = range(400, 600)
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,200})", re.IGNORECASE)
# A title stands near the start of a page, and a page may be megabytes long.
_MAX_TITLE_SEARCH = 5000

_FIX_INPUT = "The server refused the input or the version: correct the values that it names, and run again."
_REMEDIES = {
    400: _FIX_INPUT,
    404: "The server does not know the model or the version: check both, and the connection's api_prefix.",
    413: "The request is too large: give a URL instead of a data: URL.",
    422: _FIX_INPUT,
}
_UNKNOWN_PREDICTION = (
    "The server does not know the prediction: check the id and the connection's api_prefix. The prediction"
    " may belong to another account, or be deleted; a gateway knows its own ids only, not the vendor's."
)
_NO_CHANNEL = (
    "The gateway has no channel to a vendor of this model: check the model's name, or ask the"
    " gateway's operator. Nothing is billed."
)
NOT_THE_API = (
    "A website or a proxy has answered in place of the API: check the connection's host, port and api_prefix."
)
# Phrases of new-api and one-api, the longest first: https://github.com/QuantumNous/new-api
_TRANSLATIONS = {
    "无可用渠道": "no channel is available",
    "用户额度不足": "the user's quota is exhausted",
    "额度不足": "the quota is exhausted",
    "余额不足": "the balance is too low",
    "欠费": "the account is in arrears",
    "无效的令牌": "the key is invalid",
    "令牌已过期": "the key has expired",
    "任务不存在": "the task does not exist",
    "请求过于频繁": "too many requests",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    """The members of an error body.

    :param detail: explanation, "" if absent
    :param code: error code, None if absent
    :param codes: all codes and types, most specific first
    :param invalid_fields: problem by name of the input
    :param retry_after: seconds to wait, None if absent
    """

    detail: str
    code: str | None = None
    codes: tuple[str, ...] = ()
    invalid_fields: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None


def read_error(
    api: Api, request: Request, response: Response, inner_status: int | None = None
) -> VaceAPIError:
    """Return the error for a response outside of 2xx, or with an error inside.

    :param api: API of the connection
    :param request: the refused request
    :param response: the refusal, with any body
    :param inner_status: HTTP status that the body of a 2xx stands for
    """
    status, text = inner_status or response.status_code, text_of(api, response)
    envelope = _read_envelope(text)
    detail = excerpt(_detail_for_people(api, response, text) or envelope.detail, 500) or "no reason given"
    kind, remedy = _kind_of(status, envelope, detail)
    if request.prediction_id and remedy in (_FIX_INPUT, _REMEDIES[404]):
        remedy = _UNKNOWN_PREDICTION
    if is_html(response, text) and 400 <= status < 500 and kind in (VaceAPIError, VaceAuthError):
        remedy = NOT_THE_API
    is_free = request.verb == "create" and 400 <= status < 500 and not may_be_accepted(status)
    bill = " Nothing is billed." if is_free else ""
    about = f"prediction {request.prediction_id}: " if request.prediction_id else ""
    problems = envelope.invalid_fields.items()
    fields = "".join(f" {name}: {problem}." for name, problem in problems if problem not in detail)
    fields += _sent_values(request, envelope.invalid_fields)
    code = f" [{envelope.code}]" if envelope.code and envelope.code != detail else ""
    inside = f", inside of a {response.status_code}" if inner_status else ""
    reason = f"{detail.rstrip('.')}{_in_english(detail)}"
    refusal = f"{about}{request.shown} was refused with {status}{code}{inside}: {reason}.{fields}"
    return kind(
        f"{refusal} {remedy}{bill}",
        status_code=status,
        detail=detail,
        code=envelope.code,
        retry_after=read_retry_after(response, envelope.retry_after, detail),
        invalid_fields=envelope.invalid_fields,
        # An empty object is no word of anybody.
        is_from_api=bool(json_object_of(text)),
    )


def error_inside(api: Api, request: Request, response: Response) -> VaceAPIError | None:
    """Return the refusal that a 2xx without a prediction contains; None if no status can be derived.

    Without a status, the request may have been accepted, and only the caller's general error is right.
    """
    data = json_object_of(text_of(api, response)) or {}
    envelope = _read_envelope(text_of(api, response))
    if _says_no_credit(*envelope.codes, envelope.detail):
        return read_error(api, request, response, 402)
    for status, pattern in _STATUS_BY_CODE.items():
        if any(pattern.fullmatch(code.lower().replace("-", "_")) for code in envelope.codes):
            return read_error(api, request, response, status)
    nested = data.get("error")
    inner = nested if isinstance(nested, dict) else {}
    members = (inner.get("code"), inner.get("status"), data.get("code"), data.get("status"))
    for value in (*members, inner.get("status_code"), data.get("status_code")):
        number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) == 3 else value
        if isinstance(number, int) and number in _INNER_STATUSES:
            return read_error(api, request, response, number)
    is_error = has_reason(nested) or bool(envelope.codes)
    if is_error and request.prediction_id and says_not_found(envelope.code):
        return read_error(api, request, response, 404)
    return None


def read_detail(text: str) -> str:
    """Return the explanation in an error body; in an unknown format the whole text."""
    return _read_envelope(text).detail


def _sent_values(request: Request, invalid_fields: Mapping[str, str]) -> str:
    """Return the short values of refused inputs, "" without any; never a URL, which may be signed."""
    body = json_object_of(request.body.decode()) if isinstance(request.body, bytes) else None
    given = (body or {}).get("input")
    values = {}
    for name in invalid_fields:
        value = given.get(name.removeprefix("input.")) if isinstance(given, dict) else None
        if isinstance(value, int | float) or (isinstance(value, str) and _SHORT_TEXT.fullmatch(value)):
            values[name.removeprefix("input.")] = value
    return f" Sent: {', '.join(f'{name}={value!r}' for name, value in values.items())}." if values else ""


def _detail_for_people(api: Api, response: Response, text: str) -> str | None:
    """Return a summary of a redirect or web page, None for an API's body."""
    if 300 <= response.status_code < 400:
        target = excerpt(without_key(api, response.header("location") or "nowhere"))
        return f"a redirect to {target}, not followed since the key would go along"
    if is_html(response, text):
        title = _TITLE.search(text[:_MAX_TITLE_SEARCH])
        return f"an HTML page, {title[1].strip()!r}" if title else "an HTML page"
    return None


def _kind_of(status: int, envelope: _Envelope, detail: str) -> tuple[type[VaceAPIError], str]:
    """Return the class of an error and the remedy."""
    # Gateways report exhausted credit as 400 or 403, so the code counts more than the status. The text of a
    # 422 may repeat the prompt, and that of a 429 may be about a quota of requests.
    has_no_credit = _says_no_credit(*envelope.codes, "" if status in (422, 429) else detail)
    if status == 402 or (has_no_credit and 400 <= status < 500):
        return VaceBillingError, "The account has no credit left: top it up at the vendor, and run again."
    if status == 401:
        return VaceAuthError, "The API key was not accepted: check the connection's password and host."
    if status == 403:
        return (
            VaceAuthError,
            "The API key lacks a permission: check its permissions, its allowed addresses and its models.",
        )
    if status == 429:
        return VaceRateLimited, "Too many requests: wait, and use a pool to send fewer at once."
    if status in _REMEDIES:
        return VaceAPIError, _REMEDIES[status]
    if says_no_channel(status, envelope.code, detail):
        return VaceAPIError, _NO_CHANNEL
    if 300 <= status < 400:
        return VaceAPIError, "Put the server's final address into the connection's host."
    return VaceAPIError, "The server, or a proxy in front of it, is in trouble."


def _in_english(detail: str) -> str:
    """Return the meaning of a gateway's Chinese phrases in brackets, "" for another text."""
    meanings: list[str] = []
    for phrase, meaning in _TRANSLATIONS.items():
        if phrase in detail:
            detail = detail.replace(phrase, "")
            meanings.append(meaning)
    return f" (in English: {'; '.join(meanings)})" if meanings else ""


def _says_no_credit(*texts: str) -> bool:
    return any(_NO_CREDIT.search(text.lower()) for text in texts)


def _read_envelope(text: str) -> _Envelope:
    """Read any known error body: Replicate, OpenAI, FastAPI, one-api, new-api, problem details."""
    data = json_object_of(text)
    if data is None:
        return _Envelope(detail=text)
    inner = data.get("error")
    if isinstance(inner, list) and inner:
        # Cloudflare's gateway sends a list: https://developers.cloudflare.com/ai-gateway/
        inner = inner[0]
    nested: dict[str, Any] = inner if isinstance(inner, dict) else {}
    details = (
        data.get("detail"),
        nested.get("message"),
        inner,
        data.get("message"),
        data.get("msg"),
        data.get("status_message"),
        data.get("title"),
    )
    detail: Any = next((item for item in details if item), "")
    invalid_fields = _invalid_fields(data.get("invalid_fields"))
    if isinstance(detail, list):
        invalid_fields |= _invalid_fields(detail)
        detail = "; ".join(f"{name}: {problem}" for name, problem in invalid_fields.items())
    if not isinstance(detail, str):
        detail = json.dumps(detail, ensure_ascii=False)
    given = (
        nested.get("code"),
        data.get("code"),
        nested.get("type"),
        data.get("type"),
        data.get("status_code"),
        inner if isinstance(inner, str) and inner.replace("_", "").isalnum() else None,
    )
    codes = tuple(excerpt(str(item), 80) for item in given if item)
    places = (data, nested, data.get("parameters"))
    waits = (seconds_of(place.get("retry_after")) for place in places if isinstance(place, dict))
    return _Envelope(
        detail=detail,
        code=next(iter(codes), None),
        codes=codes,
        invalid_fields=invalid_fields,
        retry_after=next((seconds for seconds in waits if seconds is not None), None),
    )


def _invalid_fields(items: Any) -> dict[str, str]:
    """Read `[{field, description}]` (Replicate) and `[{loc, msg}]` (FastAPI)."""
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
