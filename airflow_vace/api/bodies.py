"""Bodies of answers as text and JSON, whatever bytes came."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import excerpt

if TYPE_CHECKING:
    from airflow_vace.api.requests import Api, Response


def text_of(api: Api, response: Response) -> str:
    """Return the body as text, without the key if the server echoes it."""
    text = response.body.decode("utf-8", errors="replace")
    return text.replace(api.key, "***") if len(api.key) > 3 else text


def excerpt_of(api: Api, response: Response) -> str:
    """Return what of a body may be shown to people."""
    return excerpt(text_of(api, response), 300)


def json_of(text: str) -> Any:
    """Parse JSON, with NaN and its kin as None; raise ValueError for what is none."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
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
