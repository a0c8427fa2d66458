"""Outputs of predictions: arbitrary JSON, usually one URL or a list of URLs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_vace.redaction import is_data, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterable

# Real outputs are two levels deep; a hostile one must not exhaust the stack.
_MAX_DEPTH = 8
# Signed URLs have up to some kilobytes, and a list of them some more. Events and XCom live in database rows,
# so a larger output stays out of the payload.
MAX_TEXT_LENGTH = 8192
_MAX_PAYLOAD_OUTPUT_LENGTH = 65536


def urls_in(output: object, depth: int = 0) -> list[str]:
    """Return the http, https and data URLs in an output, in order.

    :param depth: nesting of this part of the output
    """
    if isinstance(output, str):
        is_url = output.lstrip()[:8].lower().startswith(("http://", "https://", "data:"))
        return [output.strip()] if is_url else []
    items = _items_of(output) if depth < _MAX_DEPTH else ()
    return [url for item in items for url in urls_in(item, depth + 1)]


def has_content(output: object, depth: int = 0) -> bool:
    """Return True if any part of an output is a non-empty value.

    :param depth: nesting of this part of the output
    """
    if isinstance(output, list | dict) and depth < _MAX_DEPTH:
        return any(has_content(item, depth + 1) for item in _items_of(output))
    return output is not None and output not in ("", [], {})


def public_output(output: Any) -> Any:
    """Return an output for events and XCom, its URLs without secrets.

    None stands for an output with a `data:` URL, with deep nesting, with more than 64 KiB, or with keys that
    are equal without their signatures: a partial output would look complete.
    """
    try:
        public = _without_secrets(output)
    except _LossyError:
        return None
    is_short_text = isinstance(public, str) and len(public) <= MAX_TEXT_LENGTH
    return public if is_short_text or len(json.dumps(public)) <= _MAX_PAYLOAD_OUTPUT_LENGTH else None


class _LossyError(Exception):
    """Raised inside this module if redaction would lose a part of the output."""


def _without_secrets(output: Any, depth: int = 0) -> Any:
    if isinstance(output, str):
        if is_data(output):
            raise _LossyError
        return unsigned(output)
    if not isinstance(output, list | dict):
        return output
    if depth >= _MAX_DEPTH:
        raise _LossyError
    if isinstance(output, list):
        return [_without_secrets(item, depth + 1) for item in output]
    public = {_without_secrets(str(key)): _without_secrets(item, depth + 1) for key, item in output.items()}
    if len(public) < len(output):
        raise _LossyError
    return public


def _items_of(output: object) -> Iterable[object]:
    if isinstance(output, dict):
        return output.values()
    return output if isinstance(output, list) else ()
