"""Requests to a back-end and its responses, as values without I/O."""

from __future__ import annotations

import json
import math
import time
from base64 import b64encode
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode, urlsplit

from airflow_vace.core.backends import REPLICATE, Backend
from airflow_vace.core.base_urls import place_of
from airflow_vace.core.credentials import Headers, hidden_forms, read_key
from airflow_vace.core.multipart import Form
from airflow_vace.core.names import check_model
from airflow_vace.core.origins import is_http, own_page, own_url, without_user
from airflow_vace.core.references import id_in_url, read_reference
from airflow_vace.exceptions import VaceInputError, VaceProtocolError
from airflow_vace.ids import id_in_path
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.prediction import Prediction
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Mapping

Verb = Literal["create", "get", "cancel", "list", "file", "upload", "model"]

# Replicate refuses less: https://replicate.com/docs/reference/http#predictions.create
_MIN_CANCEL_AFTER_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request, ready to send.

    :param verb: kind of call
    :param method: HTTP method
    :param url: complete address
    :param headers: all headers; secret, because the API key is a value
    :param body: JSON or form, None without a body
    :param prediction_id: required id of the response, None for all but get and cancel
    """

    verb: Verb
    method: Literal["GET", "POST"]
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes | Form | None = field(default=None, repr=False)
    prediction_id: str | None = None

    @property
    def shown(self) -> str:
        """Method and URL without secrets, for messages."""
        return f"{self.method} {excerpt(self.url)}"


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response.

    :param status_code: HTTP status
    :param headers: values by name
    :param body: complete body
    :param received_at: local time of arrival in seconds since the epoch
    """

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    received_at: float = field(default_factory=time.time, repr=False, compare=False)

    def header(self, name: str) -> str | None:
        """Return a header's value, None if absent; names match in any case."""
        name = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == name), None)


@dataclass(frozen=True, kw_only=True)
class Api:
    """Describes requests to the server of a connection.

    :param backend: kind of server
    :param base_url: scheme, host, optional port and optional path
    :param prefix: path between `base_url` and the back-end's paths
    :param key: API key, "" where the headers replace the key; secret
    :param headers: further headers for the own origin, for gateways with two keys; secret
    """

    backend: Backend
    base_url: str
    prefix: str
    key: str = field(repr=False)
    headers: Headers = field(default=(), repr=False)

    @classmethod
    def at(  # noqa: PLR0913 - the fields of a connection
        cls,
        base_url: str,
        key: str | None,
        *,
        backend: str | None = None,
        prefix: str | None = None,
        lists: bool | None = None,
        headers: Headers = (),
    ) -> Api:
        """Return the API of a connection after a check of its fields.

        :param base_url: address of the server
        :param key: API key
        :param backend: name in `BACKENDS` (default: by host)
        :param prefix: path before all calls (default: the back-end's)
        :param lists: whether the server has a list of predictions (default: as the back-end documents)
        :param headers: see :func:`airflow_vace.core.credentials.check_headers`
        :raises VaceInputError: for an invalid address, key or back-end
        """
        place = place_of(base_url, backend, prefix)
        chosen = place.backend
        if lists is not None:
            # Only the operator of a gateway knows whether the gateway has a list, so the connection decides.
            chosen = replace(chosen, list=REPLICATE.list if lists else None)
        return cls(
            backend=chosen,
            base_url=place.base_url,
            prefix=place.prefix,
            key=read_key(key, headers, chosen.key_header),
            headers=headers,
        )

    @cached_property
    def key_forms(self) -> tuple[str, ...]:
        """All spellings of the secrets in responses: plain, in JSON, in URLs; without very short secrets."""
        return hidden_forms(self.key, self.headers)

    @cached_property
    def credentials(self) -> dict[str, str]:
        """All headers with keys, for the own origin only."""
        key = {self.backend.key_header: self.backend.key_form.format(key=self.key)}
        return {**dict(self.headers), **(key if self.key else {})}

    def create(
        self,
        values: Mapping[str, Any],
        *,
        model: str = DEFAULT_MODEL,
        version: str | None = None,
        cancel_after: float | None = None,
    ) -> Request:
        """Describe the create, which is the paid request.

        :param values: input of the model
        :param model: `owner/name`
        :param version: id of a version (default: the latest)
        :param cancel_after: seconds until the server cancels the run (default: no limit)
        :raises VaceInputError: for an invalid model or version, and for an input other than JSON
        """
        check_model(model, version)
        body: dict[str, Any] = {"input": dict(values)}
        path = self.backend.create.format(model=model)
        headers = {}
        if self.backend.model_header:
            # Pruna names the same model without its owner, and has no versions.
            headers[self.backend.model_header] = "vace" if model == DEFAULT_MODEL else model.split("/")[1]
        elif version:
            path = self.backend.create_version or path
            body = {"version": version, **body}
        if cancel_after is not None:
            # Whole seconds, rounded up: an early cancel would waste a paid run.
            headers["Cancel-After"] = f"{max(math.ceil(cancel_after), _MIN_CANCEL_AFTER_SECONDS)}s"
        return self._request("create", self._url(path), headers=headers, body=_encode(body))

    def get(self, prediction: object) -> Request:
        """Describe one poll of a prediction.

        `urls.get` is used at the connection's own origin only, and only for this id. A gateway returns the
        vendor's `urls.get`, where the connection's key must not go, so the id determines the URL then.

        :param prediction: payload, id, `urls.get` or :class:`~airflow_vace.prediction.Prediction`
        :raises VaceInputError: if the reference contains no prediction
        """
        identifier, url = _reference_of(prediction)
        own = own_url(self.base_url, url) if url else None
        # Some gateways keep the vendor's id in the address, and answer to their own ids only.
        if own and id_in_url(own) not in (None, identifier):
            own = None
        path = self.backend.get.format(id=id_in_path(identifier))
        return self._request("get", own or self._url(path), prediction_id=identifier)

    def cancel(self, prediction: object) -> Request:
        """Describe the cancel of a prediction.

        :param prediction: see :meth:`get`
        :raises VaceInputError: if the reference contains no prediction, or the back-end has no cancel
        """
        identifier, _ = _reference_of(prediction)
        if not self.backend.cancel:
            raise _lacking(self.backend, "cancel", "let the prediction run to its end")
        path = self.backend.cancel.format(id=id_in_path(identifier))
        return self._request("cancel", self._url(path), prediction_id=identifier)

    def model(self, model: str) -> Request:
        """Describe the look-up of a model, `owner/name`."""
        check_model(model, None)
        return self._request("model", self._url(self.backend.model.format(model=model)))

    def list(self, created_after: str | None = None) -> Request:
        """Describe the first page of the account's predictions, newest first.

        :param created_after: ISO 8601 time (default: all predictions)
        :raises VaceInputError: if the back-end has no list
        """
        if not self.backend.list:
            raise _lacking(self.backend, "list", "keep the ids of your predictions")
        query = f"?{urlencode({'created_after': created_after})}" if created_after else ""
        return self._request("list", self._url(self.backend.list + query))

    def page(self, url: str) -> Request:
        """Describe a further page of the list.

        :param url: the server's address of the page, absolute or relative
        :raises VaceProtocolError: if the page is at another origin and has no cursor
        """
        own = own_page(self.base_url, self._url(self.backend.list or ""), url)
        if own is None:
            raise VaceProtocolError(f"The next page of the list is at a foreign origin: {excerpt(url)}")
        return self._request("list", own)

    def file(self, url: str, *, start: int = 0, etag: str | None = None, with_key: bool = True) -> Request:
        """Describe a download; the key goes to the connection's own origin only.

        :param url: address of the file; user and password in front of the host go in a header
        :param start: first byte to send, for a resumed download
        :param etag: ETag of the first part; the server sends the complete file if the ETag differs
        :param with_key: False after the own origin has refused the key for this file
        :raises VaceProtocolError: for an address other than http(s)
        """
        # Lengths and ranges of a compressed response do not match the file, so compression is declined.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag:
                headers["If-Range"] = etag
        url, user_info = without_user(url)
        if user_info is not None:
            headers["Authorization"] = f"Basic {b64encode(user_info.encode()).decode()}"
        own = own_url(self.base_url, url) if user_info is None else None
        # Storage hosts reject or log unknown credentials, so a foreign address gets no key.
        if own and with_key:
            return self._request("file", own, headers=headers)
        if not is_http(url):
            raise VaceProtocolError(f"The output is at no http(s) address: {excerpt(url)}")
        return Request(verb="file", method="GET", url=url, headers=headers)

    def upload(self, form: Form) -> Request:
        """Describe the upload of a file for use in an input.

        :param form: the file
        :raises VaceInputError: if the back-end has no upload
        """
        if not self.backend.files:
            raise _lacking(self.backend, "upload", "give a URL that it can reach")
        return self._request("upload", self._url(self.backend.files), body=form)

    def is_own(self, url: str) -> bool:
        """Return True if a URL has the connection's origin, so that requests carry the key."""
        return own_url(self.base_url, url) is not None

    def is_own_host(self, url: str) -> bool:
        """Return True if a URL has the connection's host, on any port."""
        return urlsplit(url).hostname == urlsplit(self.base_url).hostname

    def _url(self, path: str) -> str:
        return f"{self.base_url}{self.prefix}{path}"

    def _request(
        self,
        verb: Verb,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Form | None = None,
        prediction_id: str | None = None,
    ) -> Request:
        # Keys travel in headers only: URLs end up in logs of proxies.
        sent = {**self.credentials, "Accept": "application/json", **(headers or {})}
        if verb in ("get", "list"):
            # Proxies with a cache repeat the first answer otherwise, and the end would never be seen.
            sent["Cache-Control"] = "no-cache"
        if body is not None:
            sent["Content-Type"] = body.content_type if isinstance(body, Form) else "application/json"
        method: Literal["GET", "POST"] = "POST" if verb in ("create", "cancel", "upload") else "GET"
        about = prediction_id
        return Request(verb=verb, method=method, url=url, headers=sent, body=body, prediction_id=about)


def _reference_of(prediction: object) -> tuple[str, str | None]:
    if isinstance(prediction, Prediction):
        return prediction.id, prediction.urls.get("get")
    return read_reference(prediction)


def _lacking(backend: Backend, call: str, remedy: str) -> VaceInputError:
    return VaceInputError(
        f"The back-end {backend.name!r} documents no {call}: {remedy}.",
        field="backend",
        value=backend.name,
        remedy=remedy,
    )


def _encode(body: dict[str, Any]) -> bytes:
    try:
        # NaN and infinity are Python's extension of JSON, and servers refuse the whole body.
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise VaceInputError(
            f"The input is not JSON: {excerpt(str(error))}. Nothing was sent, nothing is billed.",
            field="input",
            remedy="text, numbers, booleans, lists and objects only",
        ) from error
