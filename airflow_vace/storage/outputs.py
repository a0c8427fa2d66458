"""Outputs to save: addresses of files, or the text or JSON that a model returns without any file."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.output import length_beside_urls, rest_of
from airflow_vace.storage.suffixes import Announced, FileType

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction

# Less beside the addresses of files is a description of the files.
_MIN_REST_LENGTH = 1024
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BLANKS = re.compile(rb"\s+")


@dataclass(frozen=True, slots=True)
class Inline:
    """An output without an address: text as UTF-8, any other value as JSON."""

    content: bytes = field(repr=False)
    type: FileType


def outputs_of(prediction: Prediction) -> list[str | Inline]:
    """Return the addresses in an output, in order; without addresses the whole output as one file.

    Text and numbers beside the addresses, such as the words of a recording, are one more file if they are too
    large for XCom.
    """
    output = prediction.output
    if prediction.output_urls:
        is_too_large = not prediction.fits_payload and length_beside_urls(output) >= _MIN_REST_LENGTH
        return [*prediction.output_urls, *([_json(rest_of(output))] if is_too_large else ())]
    if not prediction.has_output:
        return []
    if isinstance(output, str):
        return [Inline(_encoded(output), FileType("text/plain", ".txt"))]
    return [_json(output)]


def likely_suffix_of(output: str | Inline) -> str:
    """Return the suffix that an output will most likely have."""
    return output.type.suffix if isinstance(output, Inline) else Announced.of(output).likely_suffix


def content_of(url: str) -> bytes:
    """Return the content of a `data:` URL.

    Base64 may have line breaks, the alphabet for URLs, percent-encoded letters, and no padding.

    :raises VaceProtocolError: if the content is no Base64 although the URL says so
    """
    head, _, data = url.partition(",")
    content = unquote_to_bytes(data)
    if "base64" not in [word.strip().lower() for word in head.split(";")[1:]]:
        return content
    letters = _BLANKS.sub(b"", content).translate(_URL_SAFE).rstrip(b"=")
    try:
        return base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except binascii.Error as error:
        raise VaceProtocolError(f"The output is a data: URL that can't be decoded: {error}") from error


def _json(output: Any) -> Inline:
    text = json.dumps(output, indent=2, ensure_ascii=False) + "\n"
    return Inline(_encoded(text), FileType("application/json", ".json"))


def _encoded(text: str) -> bytes:
    # Half of a surrogate pair has no UTF-8.
    return text.encode(errors="replace")
