"""Back-ends as data, and requests to them described as values."""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode, urljoin, urlsplit

from airflow_vace.exceptions import VaceInputError, VaceProtocolError, excerpt
from airflow_vace.inputs import DEFAULT_MODEL, literal
from airflow_vace.prediction import PREDICTION_ID, Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


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
    files: str | None = None
    # Requests a second that an account may send.
    limit: float | None = None


GATEWAY = Backend(name="gateway", prefix="/replicate/v1")
# https://replicate.com/docs/reference/http; 3,000 requests a minute:
# https://replicate.com/docs/topics/predictions/rate-limits
REPLICATE = Backend(
    name="replicate",
    prefix="/v1",
    create_version="/predictions",
    list="/predictions",
    files="/files",
    limit=50.0,
)
# https://docs.api.pruna.ai
PRUNA = Backend(
    name="pruna",
    prefix="/v1",
    key_header="apikey",
    key_form="{key}",
    create="/predictions",
    get="/predictions/status/{id}",
    cancel=None,
    files="/files",
)
BACKENDS: Mapping[str, Backend] = {b.name: b for b in (GATEWAY, REPLICATE, PRUNA)}
_BACKEND_BY_HOST = {"api.replicate.com": REPLICATE, "api.pruna.ai": PRUNA}

Verb = Literal["create", "get", "cancel", "list", "file", "upload"]


class _Part:
    """The first `size` bytes of a file, which may grow meanwhile."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        piece = self._file.read(min(size, self._left)) if self._left else b""
        self._left -= len(piece)
        return piece


class Form:
    """A form of one file, `content`, read while it is sent (RFC 7578); once only.

    :param file: open for reading, with so many bytes (`size`) to come
    """

    def __init__(self, file: BinaryIO, *, name: str, content_type: str, size: int) -> None:
        boundary = f"vace-{secrets.token_hex(16)}"
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name) or "file"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="content"; filename="{plain}"\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        )
        self.content_type = f"multipart/form-data; boundary={boundary}"
        tail = f"\r\n--{boundary}--\r\n"
        self._parts: tuple[BinaryIO | _Part, ...] = (
            BytesIO(head.encode()),
            _Part(file, size),
            BytesIO(tail.encode()),
        )
        self._length = self._left = len(head) + size + len(tail)

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, as many as were announced and no more.

        :raises OSError: if the file has fewer than it had
        """
        most = self._left if size < 0 else min(size, self._left)
        piece = next((piece for part in self._parts if (piece := part.read(most))), b"") if most else b""
        if most and not piece:
            raise OSError(f"The file has become shorter by {self._left} bytes while it was sent")
        self._left -= len(piece)
        return piece

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(_PIECE), b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, ready to be carried; `headers` hold the key and are never shown."""

    verb: Verb
    method: Literal["GET", "POST"]
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes | Form | None = field(default=None, repr=False)
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


_PIECE = 64 * 1024
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][\w.:/-]*", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]+")
# No blanks, controls, backslashes: what two readers of a URL may take for two hosts.
_PLAIN = re.compile(r"[!-\[\]-~]+")
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

    @cached_property
    def key_forms(self) -> tuple[str, ...]:
        """The key in whatever way a server may write it; none if it is too short to be told from text."""
        if len(self.key) <= 3:
            return ()
        in_json = json.dumps(self.key)[1:-1]
        forms = (self.key, in_json, in_json.replace("/", "\\/"), quote(self.key, safe=""), quote(self.key))
        return tuple(dict.fromkeys(forms))

    @classmethod
    def at(
        cls,
        base_url: str,
        key: str | None,
        *,
        backend: str | None = None,
        prefix: str | None = None,
        lists: bool | None = None,
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
            or not _PLAIN.fullmatch(base_url)
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
        if lists is not None:
            chosen = replace(chosen, list=REPLICATE.list if lists else None)
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
        if self.backend.name == PRUNA.name:
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
        try:
            own = self._at_own_origin(urljoin(self.base_url, url))
        except ValueError:
            own = None
        if own is None:
            raise VaceProtocolError(f"The next page of the list is at a foreign origin: {excerpt(url)}")
        return self._request("list", "GET", "", url=own)

    def file(self, url: str, *, start: int = 0, etag: str | None = None) -> Request:
        """Describe the download of a file; it carries the key only to the connection's own origin.

        :param start: where to go on, in bytes, if the file is still the one with this `etag`
        :raises VaceProtocolError: if it is not at an http(s) address
        """
        # As it is: a length and a range mean nothing of what is compressed on the way.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag:
                headers["If-Range"] = etag
        own = self._at_own_origin(url)
        if own:
            return self._request("file", "GET", "", url=own, headers=headers)
        if _origin(url) is None or not _PLAIN.fullmatch(url):
            raise VaceProtocolError(f"The output is at no http(s) address: {excerpt(url)}")
        return Request(verb="file", method="GET", url=url, headers=headers)

    def upload(self, form: Form) -> Request:
        """Describe the upload of a file that an input may then name.

        :raises VaceInputError: if the back-end has no such call
        """
        if not self.backend.files:
            raise self._lacks("upload", "give a URL that it can reach")
        return self._request("upload", "POST", self.backend.files, body=form)

    def is_own_host(self, url: str) -> bool:
        """Whether a URL's host is the connection's, on whatever port."""
        return urlsplit(url).hostname == urlsplit(self.base_url).hostname

    def _request(  # noqa: PLR0913 - the parts of a request
        self,
        verb: Verb,
        method: Literal["GET", "POST"],
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Form | None = None,
        prediction_id: str | None = None,
        url: str | None = None,
    ) -> Request:
        sent = {
            self.backend.key_header: self.backend.key_form.format(key=self.key),
            "Accept": "application/json",
            **(headers or {}),
        }
        if isinstance(body, Form):
            sent["Content-Type"] = body.content_type
        elif body is not None:
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

    def _at_own_origin(self, url: str) -> str | None:
        """Return the URL, put together anew, if it is at the connection's scheme, host and port."""
        if not _PLAIN.fullmatch(url):
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


def read_known(prediction: object) -> Prediction:
    """Return what a reference tells of a prediction before the first look; its status is not known.

    :raises VaceInputError: if there is no prediction in it
    """
    identifier, url = read_reference(prediction)
    is_payload = isinstance(prediction, str) and prediction.lstrip().startswith("{")
    told = literal(str(prediction)) if is_payload else prediction
    told = told if isinstance(told, Mapping) else {}
    kept = {name: told.get(name) for name in ("model", "version", "created_at", "seed", "label")}
    urls = told.get("urls") or ({"get": url} if url else {})
    return Prediction.from_json({**kept, "id": identifier, "status": "unknown", "urls": urls})


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
