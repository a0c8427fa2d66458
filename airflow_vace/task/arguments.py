"""What was handed to a task, apart from what its own templates render: it says whom the video is for."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container


def handed_over(given: Any, rendered: Any, resolved: Container[int], *, literals: bool = False) -> Any:
    """Return the part of a field that came from other tasks; None in the place of all else.

    A template that renders differently in each attempt is no other order, but another element of an upstream
    list is: the video would be another product's.

    :param given: the field before it was rendered; of a mapped task with its element in place
    :param rendered: the same afterwards
    :param resolved: ids of the values that Airflow has resolved already
    :param literals: keep literal values too, and templates as they are written: a function's arguments
    """
    if id(given) in resolved:
        return rendered
    if isinstance(given, Mapping) and isinstance(rendered, Mapping):
        parts = {
            name: handed_over(item, rendered.get(name), resolved, literals=literals)
            for name, item in given.items()
        }
        return parts if any(part is not None for part in parts.values()) else None
    if isinstance(given, list | tuple) and isinstance(rendered, list | tuple):
        pairs = zip(given, rendered, strict=False)
        items = [handed_over(one, other, resolved, literals=literals) for one, other in pairs]
        return items if any(item is not None for item in items) else None
    if not isinstance(given, str | PathLike) and hasattr(given, "resolve"):
        return rendered  # an XComArg, or an argument of a mapped task group
    return given if literals else None
