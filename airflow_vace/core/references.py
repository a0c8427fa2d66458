"""References to predictions in DAGs: a payload, an id, or a URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote, urlsplit

from airflow_vace.exceptions import VaceInputError
from airflow_vace.ids import is_id
from airflow_vace.inputs import literal
from airflow_vace.plain import id_text, is_absent
from airflow_vace.prediction import Prediction
from airflow_vace.redaction import excerpt

_STATUS_PATH = re.compile(r"/predictions/(?:status/)?([^/?#]+?)(?:/cancel|/result)?/?(?:$|[?#])")
_CANCEL_PATH = re.compile(r"/cancel/?(?:$|[?#])")
# The vendor's pages: https://replicate.com/p/ID and https://replicate.com/OWNER/NAME?prediction=ID
_PAGE_PATH = re.compile(r"/p/([^/]+)/?$")
# Browsers hide the scheme of an address.
_NO_SCHEME = re.compile(r"(?:www\.|api\.)?replicate\.com/", re.IGNORECASE)
_QUOTED = re.compile(r"([\"'])(.*)\1|<(.*)>", re.DOTALL)
# JSON without blanks has the letters of an id; a UUID in braces is no JSON.
_CONTAINER = re.compile(r"[\[{](?:\W|$)")
# Templates render a missing value as one of these words, which would otherwise pass as ids.
_MISSING = ("none", "null")


def read_known(prediction: object) -> Prediction:
    """Return the facts in a reference, before the first poll; the status is unknown.

    :param prediction: see :func:`read_reference`
    :raises VaceInputError: if the reference contains no prediction
    """
    identifier, url = read_reference(prediction)
    is_payload = isinstance(prediction, str) and prediction.lstrip().startswith("{")
    given = literal(str(prediction)) if is_payload else prediction
    given = given if isinstance(given, Mapping) else {}
    names = ("model", "version", "created_at", "seed", "label", "upstream_id", "reused", "cost")
    kept = {name: given.get(name) for name in names}
    # A final status in a payload may be old or forged, so the first poll decides.
    urls = given.get("urls") or ({"get": url} if url else {})
    return Prediction.from_json({**kept, "id": identifier, "status": "unknown", "urls": urls})


def read_reference(prediction: object) -> tuple[str, str | None]:
    """Return the id, and `urls.get` if known, of a prediction.

    :param prediction: payload (dict, JSON text or Python text), id, or `urls.get`; an id of digits may be an
        integer
    :raises VaceInputError: if the reference contains no prediction
    """
    prediction = id_text(prediction)
    if isinstance(prediction, str):
        text = prediction.strip()
        if quoted := _QUOTED.fullmatch(text):
            # Templates render a text as JSON, in quotes.
            text = (quoted[2] or quoted[3] or "").strip()
        text = f"https://{text}" if _NO_SCHEME.match(text) else text
        if is_id(text) and not _CONTAINER.match(text) and text.lower() not in _MISSING:
            return text, None
        if identifier := id_in_url(text):
            # A cancel address answers POST only, and a page is no API, so neither can serve as `urls.get`.
            return identifier, text if _STATUS_PATH.search(text) and not _CANCEL_PATH.search(text) else None
        prediction = literal(text) if text.startswith("{") else prediction
    if isinstance(prediction, Mapping):
        identifier, urls = id_text(prediction.get("id")), prediction.get("urls")
        url = urls.get("get") if isinstance(urls, Mapping) else None
        if isinstance(identifier, str) and is_id(identifier):
            return identifier, url if isinstance(url, str) else None
        if isinstance(url, str) and identifier is None:
            return read_reference(url)
    # A template without a value is the usual reason.
    where = ""
    if is_absent(prediction):
        where = " If a template renders it, check the task_ids (and map_indexes) of xcom_pull."
    raise VaceInputError(
        f"prediction is {excerpt(repr(prediction), 200)}, which is no prediction. Give the payload that"
        f" VacePredictionOperator returns (`submit.output`), a prediction's id, or its urls.get.{where}",
        field="prediction",
        value=prediction,
        remedy="give a payload, an id or a urls.get",
    )


def id_in_url(text: str) -> str | None:
    """Return the id in the http(s) address of a prediction, or of its page; None for other text."""
    if not text[:8].lower().startswith(("http://", "https://")):
        return None
    try:
        parts = urlsplit(text)
        asked = parse_qs(parts.query).get("prediction", [""])[0]
    except ValueError:
        return None
    match = _STATUS_PATH.search(parts.path) or _PAGE_PATH.search(parts.path)
    identifier = unquote(match[1]) if match else asked
    return identifier if is_id(identifier) else None
