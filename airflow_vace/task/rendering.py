"""Templates of mapped tasks: text from another task is data, and is never rendered.

Airflow renders values from XCom again after `expand_kwargs` (`ListOfDictsExpandInput.resolve`), and after a
subclass has combined arguments. A prompt from outside would then read variables and connections.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from inspect import unwrap
from typing import TYPE_CHECKING, Any

from airflow_vace.inputs import literal
from airflow_vace.plain import is_absent
from airflow_vace.redaction import unsigned

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_LABEL_LENGTH = 1000
_CONTAINERS = (dict, list, tuple, set, frozenset)


def protect_data(
    task: Any, given: Mapping[str, Any] | None, map_index: int, jinja_env: Any, seen_oids: set[int]
) -> None:
    """Exclude data in a task's fields from rendering, and include XComArgs.

    :param task: the instance of a mapped task, before Airflow renders its fields
    :param given: the arguments of the instance, None if unknown
    :param map_index: index of the instance
    :param jinja_env: the environment that renders
    :param seen_oids: ids of the objects that Airflow does not render; changed in place
    """
    seen_oids.update(oids_of_data(task, given, map_index, jinja_env))
    seen_oids.difference_update(oids_of_references(given))


def mask_fields(task: Any) -> None:
    """Mask the secrets in the URLs of rendered fields."""
    from airflow_vace.storage.masking import mask_signatures

    # Airflow keeps rendered fields in its database, where every viewer of the DAG sees them.
    fields = [getattr(task, name, None) for name in task.template_fields]
    mask_signatures([fields, [literal(field) for field in fields if isinstance(field, str)]])


def oids_of_data(task: Any, given: Mapping[str, Any] | None, map_index: int, jinja_env: Any) -> set[int]:
    """Return the ids of the data in a task's fields.

    :param task: the instance of a mapped task, before Airflow renders the fields
    :param given: the arguments of the instance; None if unknown, and then all text from outside of the DAG's
        file counts as data
    :param map_index: index of the instance
    :param jinja_env: the environment that renders, with the delimiters of a template
    """
    mapped = task.dag.task_dict.get(task.task_id) if task.has_dag() else None
    if mapped is None or not mapped.is_mapped:
        return set()
    literals, is_from_xcom = _literals_of(mapped, map_index)
    if not is_from_xcom:
        return set()
    literal_ids = {id(item) for item in _items([*literals, *_constants_of(type(task))])}
    # Airflow copies a function's arguments from both places into one new dictionary, so its id says nothing.
    roots = {**(given or {}), **((given or {}).get("op_kwargs") or {})}
    roots.pop("op_kwargs", None)
    data = {id(item): item for item in _items(list(roots.values())) if id(item) not in literal_ids}
    starts = (jinja_env.variable_start_string, jinja_env.block_start_string, jinja_env.comment_start_string)
    # A subclass that strips or joins texts can complete a mark, so its first character counts.
    marks = {start[0] for start in starts}
    has_marks = any(isinstance(item, str) and marks.intersection(item) for item in data.values())
    if has_marks or given is None:
        # The text of a subclass does not show its sources, so nothing but literals is rendered.
        fields = [getattr(task, name, None) for name in task.template_fields]
        made = (item for item in _items(fields) if not isinstance(item, _CONTAINERS))
        data.update({id(item): item for item in made if id(item) not in literal_ids})
    return {oid for oid, item in data.items() if not _is_reference(item)}


def oids_of_references(given: Mapping[str, Any] | None) -> set[int]:
    """Return the ids of the XComArgs in a task's arguments.

    `expand_kwargs` over a list in the DAG's file counts XComArgs as resolved, and a task would get the
    references in place of the values.
    """
    return {id(item) for item in _items(given) if _is_reference(item)}


def label_text(label: Any) -> str | None:
    """Return a label as text for every database; None for an absent label."""
    if is_absent(label):
        return None
    text = unsigned(str(label)).replace("\0", "").encode(errors="replace").decode()
    return text[:_MAX_LABEL_LENGTH] or None


def _literals_of(mapped: Any, map_index: int) -> tuple[list[Any], bool]:
    """Return an instance's literals in the DAG's file, and True if XCom brings more."""
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
    """Yield the literals in the constructors of a class and all bases."""
    for base in made_by.__mro__:
        if "__init__" in vars(base):
            code = getattr(unwrap(vars(base)["__init__"]), "__code__", None)
            yield from code.co_consts if code else ()


def _is_reference(value: Any) -> bool:
    return not isinstance(value, os.PathLike) and callable(getattr(value, "resolve", None))


def _items(value: Any) -> Iterator[Any]:
    """Yield the items and keys of nested containers; a container may hold itself."""
    todo, seen = [value], {id(value)}
    while todo:
        container = todo.pop()
        inner = [*container, *container.values()] if isinstance(container, dict) else container or ()
        for item in inner:
            yield item
            if isinstance(item, _CONTAINERS) and id(item) not in seen:
                seen.add(id(item))
                todo.append(item)
