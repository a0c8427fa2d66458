"""The wire: back-ends as data, requests described as values, answers read by functions; no I/O.

Whoever carries a :class:`Request` returns a :class:`Response` and has it read here, so that the
synchronous and the asynchronous client cannot come to differ. The key goes into one header of
requests to one origin, the connection's own; see :meth:`Api.get`.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlencode, urljoin, urlsplit

from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
    excerpt,
)
from airflow_vace.inputs import DEFAULT_MODEL, literal
from airflow_vace.prediction import PREDICTION_ID, Prediction, PredictionStatus

# --- back-ends -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What one kind of server wants; paths are below its prefix. None: it has no such call."""

    name: str
    prefix: str
    key_header: str = "Authorization"
    key_form: str = "Bearer {key}"
    create: str = "/models/{model}/predictions"
    create_version: str | None = None
    get: str = "/predictions/{id}"
    cancel: str | None = "/predictions/{id}/cancel"
    list: str | None = None


GATEWAY = Backend(name="gateway", prefix="/replicate/v1")
# https://replicate.com/docs/reference/http
REPLICATE = Backend(name="replicate", prefix="/v1", create_version="/predictions", list="/predictions")
# https://docs.api.pruna.ai
PRUNA = Backend(
    name="pruna",
    prefix="/v1",
    key_header="apikey",
    key_form="{key}",
    create="/predictions",
    get="/predictions/status/{id}",
    cancel=None,
)
BACKENDS: Mapping[str, Backend] = {b.name: b for b in (GATEWAY, REPLICATE, PRUNA)}
_BACKEND_BY_HOST = {"api.replicate.com": REPLICATE, "api.pruna.ai": PRUNA}

# --- requests and responses ------------------------------------------------------------------------

Verb = Literal["create", "get", "cancel", "list", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, ready to be carried; `headers` hold the key and are never shown."""

    verb: Verb
    method: Literal["GET", "POST"]
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    prediction_id: str | None = None

    @property
    def shown(self) -> str:
        """What people may see of it."""
        return f"{self.method} {excerpt(self.url)}"


@dataclass(frozen=True, slots=True)
class Response:
    """One answer: status code, headers (any case of letters), body."""

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        name = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == name), None)


_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][\w.:/-]*", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]+")
_STATUS_PATH = re.compile(r"/predictions/(?:status/)?([^/]+?)(?:/cancel)?/?$")


@dataclass(frozen=True, kw_only=True)
class Api:
    """One connection's server: where it is, which back-end it is, and with which key it is asked.

    `base_url` is scheme, host, port and perhaps a path; `prefix` comes after it.
    """

    backend: Backend
    base_url: str
    prefix: str
    key: str = field(repr=False)

    @classmethod
    def at(
        cls,
        base_url: str,
        key: str | None,
        *,
        backend: str | None = None,
        prefix: str | None = None,
    ) -> Api:
        """Check what a connection says, and choose the back-end by host unless it is given.

        :raises VaceInputError: for an address, key or back-end that cannot work
        """
        try:
            parts = urlsplit(base_url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            parts, host = urlsplit(""), None
        if (
            parts.scheme not in ("http", "https")
            or not host
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
            or not re.fullmatch(r"[!-\[\]-~]+", base_url)
        ):
            raise VaceInputError(
                f"The connection's host makes no usable address: {excerpt(base_url)!r}. Give the server's"
                " base URL, such as https://api.replicate.com or https://gateway.example",
                field="host",
                value=excerpt(base_url),
                remedy="give the server's base URL",
            )
        if not key or not _KEY.fullmatch(key):
            raise VaceInputError(
                "The connection has no usable API key: put it into the password field, one line of ASCII.",
                field="password",
                remedy="put the API key into the connection's password",
            )
        if backend and backend not in BACKENDS:
            raise VaceInputError(
                f"The connection's extra 'backend' is {excerpt(backend)!r}; known are {', '.join(BACKENDS)}",
                field="backend",
                value=backend,
                remedy=f"one of {', '.join(BACKENDS)}, or leave it out",
            )
        chosen = BACKENDS[backend] if backend else _BACKEND_BY_HOST.get(host, GATEWAY)
        path = chosen.prefix if prefix is None else prefix
        path = f"/{path.strip('/')}" if path.strip("/") else ""
        return cls(backend=chosen, base_url=base_url.rstrip("/"), prefix=path, key=key)

    def create(
        self,
        values: Mapping[str, Any],
        *,
        model: str = DEFAULT_MODEL,
        version: str | None = None,
        cancel_after: float | None = None,
    ) -> Request:
        """Describe the paid request; `cancel_after` (seconds) asks the server to end the run by itself.

        :raises VaceInputError: for a model or version that cannot stand in a request
        """
        if not _MODEL.fullmatch(model) or ".." in model:
            raise VaceInputError(
                f"model is {excerpt(repr(model))}; it must be of the form 'owner/name', such as"
                f" {DEFAULT_MODEL!r}. Nothing was sent, nothing is billed.",
                field="model",
                value=model,
                remedy="owner/name",
            )
        if version and not _VERSION.fullmatch(version):
            raise VaceInputError(
                f"version is {excerpt(repr(version))}; it must be a version's id, or be left out."
                " Nothing was sent, nothing is billed.",
                field="version",
                value=version,
                remedy="the id of a version, or nothing",
            )
        body: dict[str, Any] = {"input": dict(values)}
        path = self.backend.create.format(model=model)
        headers = {}
        if self.backend is PRUNA:
            headers["Model"] = "vace" if model == DEFAULT_MODEL else model.split("/")[1]
        elif version:
            path = self.backend.create_version or path
            body = {"version": version, **body}
        if cancel_after is not None:
            headers["Cancel-After"] = f"{max(math.ceil(cancel_after), 1)}s"
        try:
            encoded = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise VaceInputError(
                f"The input is not JSON: {excerpt(str(error))}. Nothing was sent, nothing is billed.",
                field="input",
                remedy="text, numbers, booleans, lists and objects only",
            ) from error
        return self._request("create", "POST", path, headers=headers, body=encoded)

    def get(self, prediction: object) -> Request:
        """Describe one look at a prediction, given as payload, id, `urls.get` or :class:`Prediction`.

        `urls.get` is used as it stands only at the connection's own origin; a gateway's points to a
        server where its key is not valid and must not go. Otherwise its id is asked for here.

        :raises VaceInputError: if there is no prediction in it
        """
        identifier, url = self._reference(prediction)
        path = self.backend.get.format(id=identifier)
        return self._request("get", "GET", path, prediction_id=identifier, url=url)

    def cancel(self, prediction: object) -> Request:
        """Describe a cancel.

        :raises VaceInputError: if there is no prediction in it, or the back-end has no such call
        """
        identifier, _ = self._reference(prediction)
        if not self.backend.cancel:
            raise self._lacks("cancel", "let the prediction run to its end")
        path = self.backend.cancel.format(id=identifier)
        return self._request("cancel", "POST", path, prediction_id=identifier)

    def list(self, created_after: str | None = None) -> Request:
        """Describe the first page of predictions, newest first, created after an ISO 8601 time.

        :raises VaceInputError: if the back-end has no such call
        """
        if not self.backend.list:
            raise self._lacks("list", "keep the ids of your predictions")
        query = f"?{urlencode({'created_after': created_after})}" if created_after else ""
        return self._request("list", "GET", self.backend.list + query)

    def page(self, url: str) -> Request:
        """Describe a further page, whose address the server gave.

        :raises VaceProtocolError: if it is not at the connection's own origin
        """
        own = self._at_own_origin(urljoin(self.base_url, url))
        if own is None:
            raise VaceProtocolError(f"The next page of the list is at a foreign origin: {excerpt(url)}")
        return self._request("list", "GET", "", url=own)

    def file(self, url: str) -> Request:
        """Describe the download of a file; it carries the key only to the connection's own origin.

        :raises VaceProtocolError: if it is not at an http(s) address
        """
        own = self._at_own_origin(url)
        if own:
            return self._request("file", "GET", "", url=own, headers={"Accept": "*/*"})
        if _origin(url) is None:
            raise VaceProtocolError(f"The output is at no http(s) address: {excerpt(url)}")
        return Request(verb="file", method="GET", url=url, headers={"Accept": "*/*"})

    def _request(  # noqa: PLR0913 - the parts of a request
        self,
        verb: Verb,
        method: Literal["GET", "POST"],
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        prediction_id: str | None = None,
        url: str | None = None,
    ) -> Request:
        sent = {
            self.backend.key_header: self.backend.key_form.format(key=self.key),
            "Accept": "application/json",
            **(headers or {}),
        }
        if body is not None:
            sent["Content-Type"] = "application/json"
        return Request(
            verb=verb,
            method=method,
            url=url or f"{self.base_url}{self.prefix}{path}",
            headers=sent,
            body=body,
            prediction_id=prediction_id,
        )

    def _lacks(self, call: str, remedy: str) -> VaceInputError:
        return VaceInputError(
            f"The back-end {self.backend.name!r} documents no {call}: {remedy}.",
            field="backend",
            value=self.backend.name,
            remedy=remedy,
        )

    def _reference(self, prediction: object) -> tuple[str, str | None]:
        """Return the id, and `urls.get` if it is at the connection's own origin."""
        if isinstance(prediction, Prediction):
            identifier, url = prediction.id, prediction.urls.get("get")
        else:
            identifier, url = read_reference(prediction)
        return identifier, self._at_own_origin(url) if url else None

    def is_own_origin(self, url: str) -> bool:
        """Whether a URL is at the connection's scheme, host and port."""
        return self._at_own_origin(url) is not None

    def _at_own_origin(self, url: str) -> str | None:
        """Return the URL, put together anew, if it is at the connection's scheme, host and port."""
        if not re.fullmatch(r"[!-\[\]-~]+", url):  # no blanks, controls, backslashes
            return None
        if _origin(url) is None or _origin(url) != _origin(self.base_url):
            return None
        base, parts = urlsplit(self.base_url), urlsplit(url)
        query = f"?{parts.query}" if parts.query else ""
        return f"{base.scheme}://{base.netloc}{parts.path or '/'}{query}"


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def read_reference(prediction: object) -> tuple[str, str | None]:
    """Return id and `urls.get` of what a DAG author calls a prediction: payload, id, or `urls.get`.

    :raises VaceInputError: if there is no prediction in it
    """
    if isinstance(prediction, str):
        text = prediction.strip()
        if PREDICTION_ID.fullmatch(text) and text.lower() not in ("none", "null"):
            return text, None
        if text.startswith(("http://", "https://")):
            try:
                match = _STATUS_PATH.search(urlsplit(text).path)
            except ValueError:
                match = None
            if match and PREDICTION_ID.fullmatch(match[1]):
                return match[1], None if text.rstrip("/").endswith("/cancel") else text
        prediction = literal(text) if text.startswith("{") else prediction
    if isinstance(prediction, Mapping):
        identifier, urls = prediction.get("id"), prediction.get("urls")
        url = urls.get("get") if isinstance(urls, Mapping) else None
        if isinstance(identifier, str) and PREDICTION_ID.fullmatch(identifier):
            return identifier, url if isinstance(url, str) else None
        if isinstance(url, str) and identifier is None:
            return read_reference(url)
    raise VaceInputError(
        f"prediction is {excerpt(repr(prediction), 200)}, which is no prediction. Give the payload that"
        " VacePredictionOperator returns (`submit.output`), a prediction's id, or its urls.get.",
        field="prediction",
        value=prediction,
        remedy="give a payload, an id or a urls.get",
    )


# --- answers ---------------------------------------------------------------------------------------


def read_prediction(api: Api, request: Request, response: Response) -> Prediction:
    """Return the prediction in an answer to a create, a look or a cancel.

    :raises VaceAPIError: (or what is below it) if the server refused
    :raises VaceProtocolError: if the answer is not a prediction, or another one
    """
    data = _read_object(api, request, response)
    if api.backend is PRUNA:
        data = _from_pruna(api, request, data)
    if "id" not in data:
        raise _unexpected(request, response, _text_of(api, response))
    try:
        prediction = Prediction.from_json(data)
    except VaceProtocolError as error:
        raise VaceProtocolError(
            f"{error} ({request.shown} -> {response.status_code})",
            status_code=response.status_code,
            body=error.body,
        ) from None
    if request.prediction_id and prediction.id != request.prediction_id:
        raise VaceProtocolError(
            f"Asked for prediction {request.prediction_id}, got {prediction.id}",
            status_code=response.status_code,
            body=_excerpt_of(api, response),
        )
    return prediction


def read_list(api: Api, request: Request, response: Response) -> tuple[list[Prediction], str | None]:
    """Return one page of predictions and the address of the next page.

    :raises VaceAPIError: (or what is below it) if the server refused
    :raises VaceProtocolError: if the answer is no page of predictions
    """
    data = _read_object(api, request, response)
    results, following = data.get("results"), data.get("next")
    if not isinstance(results, list):
        raise _unexpected(request, response, _text_of(api, response))
    return (
        [Prediction.from_json(item) for item in results],
        following if isinstance(following, str) and following else None,
    )


def read_probe(api: Api, request: Request, response: Response) -> None:
    """Read the answer to a look for a prediction that cannot exist; return if this API refused it properly.

    :raises VaceAuthError: if the key was refused
    :raises VaceError: if it is not this API, or it is in trouble
    """
    text = _text_of(api, response)
    if response.status_code in (400, 404, 422, 429) and not _is_html(response, text):
        try:
            if isinstance(_json_of(text), dict):
                return
        except ValueError:
            pass
        raise VaceProtocolError(
            f"{request.shown}: a server answers there, but it does not speak this API:"
            f" {response.status_code} {excerpt(text, 200)}",
            status_code=response.status_code,
            body=excerpt(text, 300),
        )
    read_prediction(api, request, response)


def _from_pruna(api: Api, request: Request, data: dict[str, Any]) -> dict[str, Any]:
    """Put Pruna's answers into the common form: `generation_url` is the output, `get_url` the status."""
    known = {**data}
    if request.verb == "create":
        known.setdefault("status", PredictionStatus.STARTING)
        if isinstance(data.get("get_url"), str):
            known["urls"] = {"get": urljoin(api.base_url, data["get_url"])}
    else:
        known.setdefault("id", request.prediction_id)
        known["error"] = data.get("error") or data.get("message")
        if data.get("status") == "succeeded":
            known["error"] = None
    if isinstance(data.get("generation_url"), str) and data["generation_url"]:
        known["output"] = urljoin(f"{api.base_url}/", data["generation_url"])
    return known


def _text_of(api: Api, response: Response) -> str:
    """Return the body as text, without the key if the server echoes it."""
    text = response.body.decode("utf-8", errors="replace")
    return text.replace(api.key, "***") if len(api.key) > 3 else text


def _excerpt_of(api: Api, response: Response) -> str:
    return excerpt(_text_of(api, response), 300)


def _json_of(text: str) -> Any:
    """Parse JSON, with NaN and its kin as None; raise ValueError for what is none."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _read_object(api: Api, request: Request, response: Response) -> dict[str, Any]:
    if not 200 <= response.status_code < 300:
        raise read_error(api, request, response)
    text = _text_of(api, response)
    try:
        data = _json_of(text)
    except ValueError:
        raise _unexpected(request, response, text) from None
    if not isinstance(data, dict):
        raise _unexpected(request, response, text)
    return data


def _unexpected(request: Request, response: Response, text: str) -> VaceProtocolError:
    kind = "an HTML page" if _is_html(response, text) else "an unexpected response"
    said = excerpt(_detail_of(text)[0] or text, 300) or "an empty body"
    about = f" for prediction {request.prediction_id}" if request.prediction_id else ""
    bill = " No prediction came back; look into the vendor's list before paying again."
    return VaceProtocolError(
        f"{request.shown}{about} was answered with {response.status_code} and {kind} instead of a"
        f" prediction: {said}.{bill if request.verb == 'create' else ''}",
        status_code=response.status_code,
        body=excerpt(text, 300),
        is_torn=not _is_html(response, text) and _is_torn(text),
    )


def _is_torn(text: str) -> bool:
    """Whether a body may be the remains of a prediction instead of a message in its own right."""
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return not start or "\N{REPLACEMENT CHARACTER}" in text
    try:
        _json_of(text)
    except ValueError:
        return True
    return False


def _is_html(response: Response, text: str) -> bool:
    kind = response.header("content-type") or ""
    return "html" in kind.lower() or text.lstrip()[:14].lower().startswith(("<!doctype", "<html"))


def read_error(api: Api, request: Request, response: Response) -> VaceAPIError:
    """Return the refusal in an answer outside of 2xx, whichever of the known envelopes it came in."""
    status, text = response.status_code, _text_of(api, response)
    detail, code, invalid_fields, body_retry = _detail_of(text)
    if _is_html(response, text):
        title = re.search(r"<title[^>]{0,200}>([^<]{0,200})", text[:5000], re.IGNORECASE)
        detail = f"an HTML page, {title[1].strip()!r}" if title else "an HTML page"
    if 300 <= status < 400:
        target = excerpt(response.header("location") or "nowhere")
        detail = f"a redirect to {target}, not followed since the key would go along"
    detail = excerpt(detail, 500) or "no reason given"
    retry_after = _retry_after(response, body_retry, detail)
    kind, remedy = _kind_of(status, code, detail)
    about = f"prediction {request.prediction_id}: " if request.prediction_id else ""
    fields = "".join(f" {name}: {problem}." for name, problem in invalid_fields.items())
    named = f" [{code}]" if code else ""
    return kind(
        f"{about}{request.shown} was refused with {status}{named}: {detail}.{fields} {remedy}",
        status_code=status,
        detail=detail,
        code=code,
        retry_after=retry_after,
        invalid_fields=invalid_fields,
    )


def _kind_of(status: int, code: str | None, detail: str) -> tuple[type[VaceAPIError], str]:
    """Return the class for a status and code, and what to do about it."""
    no_money = code is not None and re.search(r"insufficient\w*(quota|balance|credit|funds)", code.lower())
    if status == 402 or (no_money and 400 <= status < 500):
        return (
            VaceBillingError,
            "The account has no money left: top it up. Nothing more was billed.",
        )
    if status == 401:
        return VaceAuthError, "The key was not accepted: check the connection's password and host."
    if status == 403:
        return (
            VaceAuthError,
            "The key may not do this: check its permissions, allowed addresses and models.",
        )
    if status == 429:
        return VaceRateLimited, "Too many requests: wait, and use a pool to send fewer at once."
    known = {
        400: "The input or version was refused: mend what is named and run again. Nothing is billed.",
        404: "Not known there: check model, version, id and the connection's api_prefix.",
        413: "The request is too large: give a URL instead of a data: URL. Nothing is billed.",
        422: "The input or version was refused: mend what is named and run again. Nothing is billed.",
    }
    if status in known:
        return VaceAPIError, known[status]
    if _says_no_channel(status, code, detail):
        return (
            VaceAPIError,
            "The gateway has no channel for this model: check its name. Nothing is billed.",
        )
    if 300 <= status < 400:
        return VaceAPIError, "Put the server's final address into the connection's host."
    return VaceAPIError, "The server is in trouble, or what stands before it."


def _detail_of(text: str) -> tuple[str, str | None, dict[str, str], float | None]:
    """Return (detail, code, invalid fields, retry_after) of any known error envelope."""
    try:
        data = _json_of(text)
    except ValueError:
        return text, None, {}, None
    if not isinstance(data, dict):
        return text, None, {}, None
    inner = data.get("error")
    nested = inner if isinstance(inner, dict) else {}
    detail: Any = next(
        (
            said
            for said in (
                data.get("detail"),
                nested.get("message"),
                inner,
                data.get("message"),
                data.get("status_message"),
                data.get("title"),
            )
            if said
        ),
        "",
    )
    invalid = _invalid_fields(data.get("invalid_fields"))
    if isinstance(detail, list):
        invalid |= _invalid_fields(detail)
        detail = "; ".join(f"{name}: {problem}" for name, problem in invalid.items())
    if not isinstance(detail, str):
        detail = json.dumps(detail, ensure_ascii=False)
    code = next(
        (c for c in (nested.get("code"), data.get("code"), nested.get("type"), data.get("type")) if c),
        data.get("status_code"),
    )
    named = (data, nested, data.get("parameters"))
    waits = (_seconds(part.get("retry_after")) for part in named if isinstance(part, dict))
    retry_after = next((seconds for seconds in waits if seconds is not None), None)
    return detail, excerpt(str(code), 80) if code else None, invalid, retry_after


def _invalid_fields(items: Any) -> dict[str, str]:
    """Read `[{field, description}]` and `[{loc, msg}]` alike."""
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


_RESETS_IN = re.compile(
    r"(?:resets?|retry|again|wait)\D{0,20}?(\d{1,9}(?:\.\d{1,9})?)\s*(ms|m(?:in\w*)?\b|s|$)",
    re.IGNORECASE,
)


def _retry_after(response: Response, body: float | None, detail: str) -> float | None:
    """Return how many seconds to wait, from header, body or text; None where none says it."""
    header = response.header("retry-after")
    for said in (_seconds(header), _seconds_until(header, response.header("date")), body):
        if said is not None:
            return said
    if match := _RESETS_IN.search(detail):
        unit = match[2].lower()
        return float(match[1]) * (0.001 if unit == "ms" else 60 if unit.startswith("m") else 1)
    return _seconds(response.header("ratelimit-reset")) if response.status_code == 429 else None


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) and not isinstance(value, bool) else None


def _seconds_until(date: str | None, served: str | None) -> float | None:
    """Return the time until an HTTP date, by the server's own clock where it tells it."""
    try:
        moment = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    try:
        start = parsedate_to_datetime(served or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        start = time.time()
    return max(moment - start, 0.0)


# --- what may be sent again ------------------------------------------------------------------------

_BUSY = re.compile(r"busy|overloaded|capacity|queue (?:is )?full|too many|繁忙|负载|饱和", re.IGNORECASE)


def _says_no_channel(status: int, code: str | None, detail: str) -> bool:
    return status == 503 and (code == "model_not_found" or "无可用渠道" in detail)


def _says_busy(error: VaceAPIError) -> bool:
    return error.status_code == 503 and bool(_BUSY.search(f"{error.code} {error.detail}"))


def may_create_again(error: Exception) -> bool:
    """Whether a create was certainly not accepted, and may be sent again after a while.

    There is no idempotency key: only what was never sent, or refused at the door for being one too
    many, may be repeated.
    """
    if isinstance(error, VaceTransportError):
        return not error.sent
    if isinstance(error, VaceAPIError):
        no_channel = _says_no_channel(error.status_code, error.code, error.detail)
        return isinstance(error, VaceRateLimited) or (_says_busy(error) and not no_channel)
    return False


def read_failed_create(error: VaceError) -> VaceError:
    """Return the error that a failed create is to its caller: itself if the refusal is certain.

    Time-outs, resets, 5xx and answers that break off may come after the server accepted: those
    become :class:`SubmissionUnknown`.
    """
    status: int | None = None
    if isinstance(error, VaceTransportError):
        certain = not error.sent
    elif isinstance(error, VaceAPIError):
        status = error.status_code
        no_channel = _says_no_channel(status, error.code, error.detail)
        certain = may_create_again(error) or no_channel or (status < 500 and status not in (303, 408))
    elif isinstance(error, VaceProtocolError):
        status, certain = error.status_code, not error.is_torn
    else:
        certain = True
    if certain:
        return error
    return SubmissionUnknown(
        "The create got no clear answer, so a prediction may be running, and be billed, whose id nobody"
        f" knows. It is not sent again by itself. Look into the vendor's list of predictions, then run"
        f" the task again if there is none. What came: {error}",
        status_code=status,
    )
