"""Bodies of answers as text and JSON, whatever bytes came."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import excerpt

if TYPE_CHECKING:
    from airflow_vace.core.requests import Api, Response


# A prediction is three deep; what is much deeper can be read, and then not be written any more.
_DEEPEST = 100


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)


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
    """Parse JSON into what a database can hold: without infinite numbers, NUL and halves of characters.

    :raises ValueError: for what is none, or is nested deeper than anybody means it
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep(value):
        raise ValueError("nested too deeply")
    is_odd = any(escape in text for escape in ("\\u0000", "\\ud", "\\uD"))
    return _storable(value) if is_odd else value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return True


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_storable(name): _storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value.replace("\0", "").encode(errors="replace").decode() if isinstance(value, str) else value


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
