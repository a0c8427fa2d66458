"""Plain JSON in place of the values that DAGs bring, and the values that mean "not given"."""

from __future__ import annotations

import json
import math
from collections import UserString
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any
from uuid import UUID

from airflow_vace.input_files import path_text

# Jinja renders a missing value as an empty text or "None", and the filter `tojson` as "null".
_ABSENT = ("", "none", "null")
# An object may contain itself, so a conversion stops at this depth.
_MAX_DEPTH = 50


class NotPlainError(ValueError):
    """Raised for a value without a JSON form; the message completes "Input 'x' …".

    :param where: place of the value in its containers, such as `[0].image`
    """

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


def is_absent(value: object) -> bool:
    """Return True for None, and for the text that a template renders for a missing value."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _ABSENT)


def id_text(value: Any) -> Any:
    """Return an id as text, if XCom or a DAG brings an integer or a `UUID`; other values unchanged."""
    if value is None or isinstance(value, bool | Mapping | Sequence):
        return value
    with suppress(NotPlainError):
        found = plain(value)
        if isinstance(found, str) or (isinstance(found, int) and found >= 0):
            return str(found)
    return value


def is_record(value: object) -> bool:
    """Return True for a dataclass or a Pydantic model."""
    has_fields = is_dataclass(value) or callable(getattr(value, "model_dump", None))
    return has_fields and not isinstance(value, type)


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON: text, number, bool, None, list or dict.

    Accepted are also `Decimal`, `Fraction`, dates, `timedelta` (seconds), `UUID`, enumerations, absolute path
    objects, tuples, sets (sorted), generators, Airflow's lazy results, dataclasses, Pydantic models, and
    values of NumPy and pandas.

    :param depth: number of containers around the value
    :raises NotPlainError: for any other value, and for a number that is not finite
    """
    if depth > _MAX_DEPTH:
        raise NotPlainError("is nested too deeply")
    value = unwrapped(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float | Decimal | Fraction):
        return _number(value)
    if isinstance(value, date | time | timedelta | UUID):
        return _text_or_seconds(value)
    if isinstance(value, Mapping):
        return {str(name): _inside(f".{name}", item, depth) for name, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | memoryview | type):
        return _list(value, depth)
    raise NotPlainError("has no form in JSON")


def unwrapped(value: Any) -> Any:
    """Return the content of an enumeration, a model, an array or a path; other values unchanged."""
    if isinstance(value, type | bytes | bytearray | memoryview | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UserString):
        return str(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    # NumPy, pandas and PyTorch call the method `tolist`, Pydantic `model_dump`.
    for name in ("tolist", "model_dump"):
        if callable(convert := getattr(value, name, None)):
            return convert()
    path = path_text(value)
    if path is not None and "://" not in path:
        raise NotPlainError("is not a URL, and as a path not absolute")
    return value if path is None else path


def _number(value: float | Decimal | Fraction) -> float:
    if isinstance(value, int):
        return int(value)
    # A comparison with an infinite Decimal, or the size of a huge one, must not stop the process.
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise NotPlainError("is not a finite number")
    if isinstance(value, float) or value != int(value):
        return number
    return int(value)


def _text_or_seconds(value: date | time | timedelta | UUID) -> Any:
    if isinstance(value, timedelta):
        return _number(value.total_seconds())
    # pandas has a date that is missing, which equals nothing.
    if value != value:  # noqa: PLR0124
        raise NotPlainError("is a missing date")
    return str(value) if isinstance(value, UUID) else value.isoformat()


def _inside(where: str, value: Any, depth: int) -> Any:
    try:
        return plain(value, depth + 1)
    except NotPlainError as error:
        raise NotPlainError(str(error), f"{where}{error.where}") from None


def _list(value: Iterable[Any], depth: int) -> list[Any]:
    # Airflow's lazy results of a mapped task fetch a slice with one request, and an item with one each.
    with suppress(TypeError, KeyError):
        value = value[:]  # type: ignore[index]
    items = [_inside(f"[{number}]", item, depth) for number, item in enumerate(value)]
    # Python orders a set differently in each process, and the order would be a new one in each attempt.
    if isinstance(value, AbstractSet):
        items.sort(key=lambda item: json.dumps(item, sort_keys=True))
    return items
