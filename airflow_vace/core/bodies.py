"""Bodies of responses as text and JSON, for any bytes that a server or proxy sends."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from airflow_vace.core.requests import Api, Response

# A prediction has three levels. Python reads a much deeper value, but cannot serialise the value again.
_MAX_DEPTH = 100
_EXCERPT_LENGTH = 300
_MAX_TEXT_BEFORE_JSON = 2000
_PAGE_STARTS = ("<!doctype", "<html")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


# JSON columns refuse NaN and infinity, so both become null.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)


def text_of(api: Api, response: Response) -> str:
    """Return the body as text, without the API key if the server echoes the key."""
    return without_key(api, _decoded(response))


def without_key(api: Api, text: str) -> str:
    """Return a text with `***` in place of the API key, in all spellings of the key."""
    for form in api.key_forms:
        text = text.replace(form, "***")
    return text


def _decoded(response: Response) -> str:
    """Decode a body as UTF-8, UTF-16 or UTF-32, else in the declared encoding; other bytes become U+FFFD."""
    body = response.body
    encodings: list[str] = ["utf-8-sig", json.detect_encoding(body)]
    start, end = body[:64].lstrip()[:1], body[-64:].rstrip()[-1:]
    # Latin-1 has a character for each byte, so compressed bytes would look like text.
    if start in (b"{", b"[", b"<"):
        declared = _CHARSET.search(response.header("content-type") or "")
        encodings += [declared[1]] if declared else []
        encodings += ["latin-1"] if end in (b"}", b"]") else []
    for encoding in encodings:
        with suppress(UnicodeError, LookupError):
            text = body.decode(encoding)
            # ASCII in UTF-16 is valid UTF-8 too, with a NUL beside each letter.
            if "\0" not in text:
                return text
    return body.decode("utf-8", errors="replace")


def excerpt_of(api: Api, response: Response) -> str:
    """Return the start of a body, safe to show."""
    return excerpt(text_of(api, response), _EXCERPT_LENGTH)


def json_of(text: str) -> Any:
    """Parse JSON into values that a database can store.

    Infinite numbers become None; NUL and lone surrogates are removed or replaced.

    :raises ValueError: for invalid JSON, and for more than 100 levels of nesting
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    # Counting brackets is cheap and never too low, so the walk is rare.
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_deep(value):
        raise ValueError("nested too deeply")
    has_odd_escapes = any(escape in text for escape in ("\\u0000", "\\ud", "\\uD"))
    return _storable(value) if has_odd_escapes else value


def json_object_of(text: str) -> dict[str, Any] | None:
    """Return the object in a body; None for invalid JSON and for other values."""
    try:
        value = json_of(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def inner_object_of(text: str) -> dict[str, Any] | None:
    """Return the single object inside of other text, such as a warning of PHP or `data:`; None in a page."""
    start = text.find("{", 0, _MAX_TEXT_BEFORE_JSON)
    if start < 0 or text.lstrip().lower().startswith(_PAGE_STARTS):
        return None
    try:
        end = _DECODER.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None
    # Of several objects in a stream, none is the answer.
    return None if "{" in text[end:] else json_object_of(text[start:end])


def is_html(response: Response, text: str) -> bool:
    """Return True if a body is a web page, such as the error page of a proxy or a login form.

    PHP declares JSON as HTML by default, so the body counts more than the declaration.
    """
    start = text.lstrip()[:14].lower()
    if start.startswith(_PAGE_STARTS):
        return True
    return "html" in (response.header("content-type") or "").lower() and start[:1] not in ("{", "[")


def is_truncated(text: str) -> bool:
    """Return True if a body may be the rest of a prediction: empty, broken JSON, or not text."""
    start = text.lstrip()[:1]
    # Compressed or binary bytes decode to replacement characters, and may contain a prediction.
    if start not in ("{", "["):
        return not start or "\N{REPLACEMENT CHARACTER}" in text
    try:
        json_of(text)
    except ValueError:
        return True
    return False


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
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
