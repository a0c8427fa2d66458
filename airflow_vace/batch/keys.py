"""Keys of a batch's rows, which are stems of file names."""

from __future__ import annotations

import re
from typing import Any

from airflow_vace.plain import id_text, is_absent
from airflow_vace.redaction import excerpt

MAX_KEY_LENGTH = 100
_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
# Windows reserves these names with any suffix:
# https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file#naming-conventions
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_SAFE_REMEDY = (
    f"use at most {MAX_KEY_LENGTH} letters from A to Z, digits, '-', '_' and '.', and no '.' at the start"
)


class Keys:
    """Keys of one batch, each of them unique regardless of upper and lower case.

    :param name: member or column with the key; None: the position is the key
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._positions: dict[str, int] = {}

    def claim(self, value: object, position: int) -> str:
        """Return the key of a row as text.

        :param value: value of the member or column, None if the row has none; ignored without a name
        :param position: position of the row, from 0
        :raises ValueError: with problem and remedy, for a value that is no key or another row's key
        """
        if self.name is None:
            return f"{position:05}"
        shown = f"key {self.name!r} is {excerpt(repr(value), 120)}, which"
        if is_absent(value):
            raise ValueError(
                f"key {self.name!r} is missing; give each row a unique {self.name!r}, or leave out `key` to"
                " name rows by their positions"
            )
        text = _text_of(value)
        if text is None:
            raise ValueError(f"{shown} is neither text nor an integer; {_SAFE_REMEDY}")
        if not _SAFE.fullmatch(text) or len(text) > MAX_KEY_LENGTH:
            raise ValueError(f"{shown} is no safe file name; {_SAFE_REMEDY}")
        if _RESERVED.fullmatch(text):
            raise ValueError(f"{shown} is a name that Windows reserves; put another letter before it")
        # macOS and Windows take two names that differ in case only for one file.
        other = self._positions.setdefault(text.lower(), position)
        if other != position:
            raise ValueError(
                f"{shown} is the key of row {other + 1} already, regardless of upper and lower case;"
                " give each row another key"
            )
        return text


def _text_of(value: object) -> str | None:
    text: Any = id_text(value)
    if isinstance(text, int) and not isinstance(text, bool):
        return str(text)
    return text.strip() if isinstance(text, str) else None
