"""Fields of a task as the author means them: no text "None" from a missing param, ids as text."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import read_input
from airflow_vace.plain import id_text, is_absent, is_record, plain, unwrapped
from airflow_vace.redaction import excerpt
from airflow_vace.task.airflow_internals import is_set_during_execution

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from airflow.sdk import Context

log = logging.getLogger(__name__)

# As Jinja renders a missing value.
_NONE = re.compile(r"\bNone\b")
DEFAULT_CONN_ID = "vace_default"

_TEXT_FIELDS = frozenset(
    {"model", "version", "vace_conn_id", "save_to", "video_label", "prediction", "partition_key"}
)


def read_fields(task: Any) -> None:
    """Replace the fields of a task by plain values, and absent fields by defaults.

    This raises nothing, since the task may resume after a deferral with a paid video: a field that cannot
    work stays as it is, and fails where the field is needed.

    :param task: operator or sensor, with rendered fields; changed in place
    """
    for name, default in (("vace_conn_id", DEFAULT_CONN_ID), ("model", None), ("version", None)):
        if hasattr(task, name):
            value = getattr(task, name)
            setattr(task, name, default if is_absent(value) else id_text(value))
    if is_absent(task.save_to):
        task.save_to = None
    values = getattr(task, "input", None)
    if values is not None and not is_set_during_execution(values):
        # A generator gives its items once only, and a submission reads the input for each model again.
        with suppress(VaceInputError):
            task.input = read_input(values)


def renderable(values: Any) -> Any:
    """Return a mapping, a dataclass or a Pydantic model as a dict; other values unchanged.

    Airflow renders a dict, and would send the templates in any other mapping as they are.
    """
    if is_record(values):
        return unwrapped(values)
    return dict(values) if isinstance(values, Mapping) else values


def without_missing(given: Any, rendered: Any) -> Any:
    """Return a rendered field with None in place of each template that has rendered to nothing.

    A literal text "None" stays, since it may be a value of another model.

    :param given: the field before rendering
    """
    if isinstance(given, str):
        _warn_of_none_inside(given, rendered)
        # Jinja's `Undefined` is a missing value too, and has an empty text.
        is_missing = is_absent(rendered) or _is_undefined(rendered)
        return None if is_missing and not is_absent(given) else rendered
    if given is rendered:
        return rendered
    if isinstance(given, dict) and isinstance(rendered, dict):
        return {name: without_missing(given.get(name), item) for name, item in rendered.items()}
    if isinstance(given, list | tuple) and isinstance(rendered, list | tuple):
        return [without_missing(one, other) for one, other in zip(given, rendered, strict=True)]
    return rendered


def _warn_of_none_inside(given: str, rendered: Any) -> None:
    """Log a warning for a longer text in which a template has rendered to nothing."""
    is_text = isinstance(rendered, str) and not is_absent(rendered)
    if is_text and "{" in given and len(_NONE.findall(rendered)) > len(_NONE.findall(given)):
        log.warning(
            "The word None is in the rendered text %r: if a template has rendered to nothing there, check"
            " the task_ids (and map_indexes) of xcom_pull",
            excerpt(rendered, 200),
        )


def _is_undefined(value: Any) -> bool:
    """Return True for the value of an unknown name in a template."""
    from jinja2 import Undefined

    return isinstance(value, Undefined)


def is_native(task: Any, jinja_env: Any) -> bool:
    """Return True if the DAG of a task makes Python values of rendered text."""
    from jinja2.nativetypes import NativeEnvironment

    return task.has_dag() and isinstance(jinja_env, NativeEnvironment)


def render_as_text(task: Any, names: Iterable[str], context: Context, seen_oids: Container[int]) -> list[str]:
    """Render the text fields of a task with native rendering; return the names of all other fields.

    Native rendering (`render_template_as_native_obj`) makes the number 202611 of the label `2026_11`.

    :param names: names of the template fields
    :param context: Airflow's context of the task instance
    :param seen_oids: ids of the values that are not rendered
    """
    env, others = task.get_dag().get_template_env(force_sandboxed=True), []
    for name in names:
        value = getattr(task, name)
        if name not in _TEXT_FIELDS or not isinstance(value, str):
            others.append(name)
        elif id(value) not in seen_oids:
            setattr(task, name, env.from_string(value).render(context))
    return others


def with_text_prompt(
    task: Any, given: Any, rendered: Any, context: Context, seen_oids: Container[int]
) -> Any:
    """Return a rendered input whose prompt is text if native rendering has made a number of the prompt.

    The number has lost the author's spelling: a prompt `1e5` would be sent as `100000.0`, `3.10` as `3.1`.

    :param given: the input before rendering
    :param seen_oids: ids of the values that are not rendered
    """
    if not isinstance(given, dict) or not isinstance(rendered, dict):
        return rendered
    template, value = given.get("prompt"), rendered.get("prompt")
    if not isinstance(template, str) or not isinstance(value, int | float) or id(template) in seen_oids:
        return rendered
    env = task.get_dag().get_template_env(force_sandboxed=True)
    return {**rendered, "prompt": env.from_string(template).render(context)}


def seconds(value: Any, default: float | None) -> Any:
    """Return a duration in seconds; the default for an absent one, and other values unchanged.

    :param value: number, number as text, `timedelta`, or None
    """
    if is_absent(value):
        return default
    with suppress(ValueError):
        number = plain(value)
        return float(number) if isinstance(number, str) else number
    return value
