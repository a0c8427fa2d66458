"""Templates of mapped tasks: text that came from another task is data, and is never rendered.

Airflow renders again what `expand_kwargs` takes from XCom (`ListOfDictsExpandInput.resolve`), and what a
subclass makes of its arguments. A prompt from outside would then read variables and connections.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from inspect import unwrap
from typing import TYPE_CHECKING, Any

from airflow_vace.redaction import unsigned

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_LABEL = 1000
_CONTAINERS = (dict, list, tuple, set, frozenset)


def oids_of_data(task: Any, given: Mapping[str, Any] | None, map_index: int, jinja_env: Any) -> set[int]:
    """Return the ids of the objects in a task's fields that are data: a renderer returns them as they are.

    :param task: the instance of a mapped task, whose fields are to be rendered
    :param given: the arguments that the instance was made with; None if they are not known, and all that is
        not in the DAG's file then counts as data
    :param map_index: of the instance
    :param jinja_env: the environment that renders, whose delimiters say what a template is
    """
    mapped = task.dag.task_dict.get(task.task_id) if task.has_dag() else None
    if mapped is None or not mapped.is_mapped:
        return set()
    literals, is_from_xcom = _literals_of(mapped, map_index)
    if not is_from_xcom:
        return set()
    literal_ids = {id(item) for item in _items([*literals, *_constants_of(type(task))])}
    # A function's arguments from both places are put into one new dictionary.
    roots = {**(given or {}), **((given or {}).get("op_kwargs") or {})}
    roots.pop("op_kwargs", None)
    data = {id(item): item for item in _items(list(roots.values())) if id(item) not in literal_ids}
    starts = (jinja_env.variable_start_string, jinja_env.block_start_string, jinja_env.comment_start_string)
    # A subclass that strips or joins texts can complete a mark, so its first character counts.
    marks = {start[0] for start in starts}
    has_marks = any(isinstance(item, str) and marks.intersection(item) for item in data.values())
    if has_marks or given is None:
        # What a subclass has made of data is not known from its text, so nothing but literals is rendered.
        fields = [getattr(task, name, None) for name in task.template_fields]
        made = (item for item in _items(fields) if not isinstance(item, _CONTAINERS))
        data.update({id(item): item for item in made if id(item) not in literal_ids})
    return {oid for oid, item in data.items() if not _is_reference(item)}


def oids_of_references(given: Mapping[str, Any] | None) -> set[int]:
    """Return the ids of the XComArgs in a task's arguments, which are still to be resolved.

    `expand_kwargs` over a list in the DAG's file counts them as resolved, so that a task would get them as
    they are.
    """
    return {id(item) for item in _items(given) if _is_reference(item)}


def label_text(label: Any) -> str | None:
    """Return a label as the payload holds it: text that every database can store; None if it is empty."""
    if label is None:
        return None
    text = unsigned(str(label)).replace("\0", "").encode(errors="replace").decode()
    return text[:_LONGEST_LABEL] or None


def _literals_of(mapped: Any, map_index: int) -> tuple[list[Any], bool]:
    """Return what the DAG's file says of one instance, and whether more comes from XCom."""
    # A function's arguments are mapped apart from its operator's.
    expanded = getattr(mapped, "op_kwargs_expand_input", None) or mapped.expand_input
    source, literals = expanded.value, [mapped.partial_kwargs]
    if isinstance(source, Mapping):
        known = [value for value in source.values() if isinstance(value, Mapping | Sequence)]
        return [*literals, *known], len(known) < len(source)
    if isinstance(source, Sequence) and isinstance(element := source[map_index], Mapping):
        return [*literals, element], False
    return literals, True


def _constants_of(made_by: type) -> Iterator[Any]:
    """Yield the literals that a class and its bases hand to their fields."""
    for base in made_by.__mro__:
        if "__init__" in vars(base):
            code = getattr(unwrap(vars(base)["__init__"]), "__code__", None)
            yield from code.co_consts if code else ()


def _is_reference(value: Any) -> bool:
    return not isinstance(value, os.PathLike) and callable(getattr(value, "resolve", None))


def _items(value: Any) -> Iterator[Any]:
    """Yield what stands in a container, its keys too, down to the last; a container may hold itself."""
    todo, seen = [value], {id(value)}
    while todo:
        container = todo.pop()
        inner = [*container, *container.values()] if isinstance(container, dict) else container or ()
        for item in inner:
            yield item
            if isinstance(item, _CONTAINERS) and id(item) not in seen:
                seen.add(id(item))
                todo.append(item)
