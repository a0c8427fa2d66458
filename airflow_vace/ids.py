"""Ids of predictions: text of the server, safe forms for URLs and file names."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

# Gateways build ids from base64, dots, colons and slashes. Blanks and controls would break headers and logs.
_VISIBLE = re.compile(r"[!-~]{1,200}")
_FILE_LETTERS = re.compile(r"[A-Za-z0-9_-]+")
_OTHER_LETTERS = re.compile(r"[^A-Za-z0-9_-]+")
# Servers decode a segment before they resolve dots, so an encoded `..` would leave the path too.
_DOTS = (".", "..")
_DIGEST_LETTERS = 8


def is_id(value: object) -> bool:
    """Return True for 1 to 200 visible ASCII characters without a scheme and without `.` or `..` as segment.

    :param value: text from a server, a DAG author or an event
    """
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value) or "://" in value:
        return False
    return not any(segment in _DOTS for segment in re.split(r"[/\\]", value))


def id_in_path(identifier: str) -> str:
    """Return an id as one segment of a URL's path, percent-encoded."""
    return quote(identifier, safe="")


def id_in_file_name(identifier: str) -> str:
    """Return an id as part of a file name, in letters that all file systems and stores accept.

    A digest keeps two ids apart that differ in the replaced characters only.
    """
    if _FILE_LETTERS.fullmatch(identifier):
        return identifier
    digest = hashlib.sha256(identifier.encode()).hexdigest()[:_DIGEST_LETTERS]
    return f"{_OTHER_LETTERS.sub('_', identifier)}-{digest}"
