"""Bodies of answers as text and JSON, whatever bytes came."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import excerpt

if TYPE_CHECKING:
    from airflow_vace.api.requests import Api, Response


_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def text_of(api: Api, response: Response) -> str:
    """Return the body as text, without the key if the server echoes it."""
    return without_key(api, response.body.decode("utf-8", errors="replace"))


def without_key(api: Api, text: str) -> str:
    """Return text without the key, in whatever way a server may have written it."""
    for form in api.key_forms:
        text = text.replace(form, "***")
    return text


def excerpt_of(api: Api, response: Response) -> str:
    """Return what of a body may be shown to people."""
    return excerpt(text_of(api, response), 300)


def json_of(text: str) -> Any:
    """Parse JSON, with NaN and its kin as None.

    :raises ValueError: for what is none
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_html(response: Response, text: str) -> bool:
    """Whether a body is a page for people: a proxy's, or a log-in."""
    kind = response.header("content-type") or ""
    return "html" in kind.lower() or text.lstrip()[:14].lower().startswith(("<!doctype", "<html"))


def is_torn(text: str) -> bool:
    """Whether a body may be the remains of a prediction instead of a message in its own right."""
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return not start or "\N{REPLACEMENT CHARACTER}" in text
    try:
        json_of(text)
    except ValueError:
        return True
    return False
