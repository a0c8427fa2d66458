"""The values that other tasks pass to a task: a change of them is a new order."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container


def handed_over(given: Any, rendered: Any, resolved: Container[int], *, literals: bool = False) -> Any:
    """Return a field with the values from other tasks, and None in place of the rest.

    A template may render differently in each attempt, and the order stays the same. Another element of an
    upstream list is another order: the video would be another product's.

    :param given: the field before rendering; of a mapped task with the element in place
    :param rendered: the field after rendering
    :param resolved: ids of the values that Airflow had resolved before
    :param literals: keep literals and unrendered templates too, as for the arguments of a function
    """
    # Airflow resolves mapped arguments before it renders, so these ids mark values from other tasks.
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
        # An XComArg, or an argument of a mapped task group: the resolved value came from another task.
        return rendered
    return given if literals else None
