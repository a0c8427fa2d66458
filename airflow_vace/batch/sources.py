"""Sources of a batch's rows: lists, results of other tasks, and files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from airflow_vace.batch.tables import Record, csv_records, json_records, read_lines
from airflow_vace.input_files import path_text
from airflow_vace.inputs import literal
from airflow_vace.plain import is_absent, is_record
from airflow_vace.storage.paths import existing_place_of
from airflow_vace.storage.place import unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.exceptions import VaceInputError

FIELD = "inputs"
REMEDY = (
    "give a list of prompts or of inputs, the result of another task, or the absolute path of a file that"
    " ends in .jsonl, .ndjson or .csv, such as 's3://bucket/products.jsonl'"
)
_JSON_SUFFIXES = (".jsonl", ".ndjson")
_SUFFIXES = (*_JSON_SUFFIXES, ".csv")
# One request to Airflow's API server brings this many results of a mapped task.
_ITEMS_PER_REQUEST = 500


def records_of(inputs: object) -> tuple[Iterator[Record], str]:
    """Return the rows of a source, read in a stream, and the name of the file (empty for a list).

    :param inputs: see :func:`airflow_vace.batch.rows.read_rows`
    :raises VaceInputError: if the source is no list and no file; files raise as in
        :mod:`airflow_vace.batch.tables`
    """
    if is_absent(inputs):
        remedy = f"{REMEDY}; if a template renders inputs, check the task_ids of xcom_pull"
        raise unusable(FIELD, inputs, "is missing", remedy)
    given = _literal_list(inputs) if isinstance(inputs, str) else inputs
    path = path_text(given)
    if path is not None:
        return _file_records(path)
    return (Record(value=item) for item in _items_of(given)), ""


def refused(inputs: object, problem: str) -> VaceInputError:
    """Return the error for a source without usable rows."""
    return unusable(FIELD, inputs, problem, REMEDY)


def _literal_list(text: str) -> object:
    """Return the list that a template has rendered to text; other texts unchanged."""
    value = literal(text) if text.lstrip().startswith(("[", "(")) else text
    return value if isinstance(value, list | tuple) else text


def _file_records(path: str) -> tuple[Iterator[Record], str]:
    if not path.lower().endswith(_SUFFIXES) or "\n" in path:
        raise refused(path, "is no list and no file of rows")
    place = existing_place_of(path, FIELD, REMEDY)
    lines = read_lines(place, FIELD, REMEDY)
    is_json = path.lower().endswith(_JSON_SUFFIXES)
    return json_records(lines) if is_json else csv_records(lines, place, FIELD), place.name


def _items_of(inputs: object) -> Iterable[Any]:
    if isinstance(inputs, Mapping) or is_record(inputs):
        raise refused(inputs, "is a single input")
    # The items of a data frame are the names of its columns, which would become prompts.
    if hasattr(inputs, "columns"):
        remedy = "give its rows: json.loads(frame.to_json(orient='records'))"
        raise unusable(FIELD, type(inputs).__name__, "is a data frame", remedy)
    if isinstance(inputs, bytes | bytearray | memoryview) or not isinstance(inputs, Iterable):
        raise refused(inputs, "is no list")
    if isinstance(inputs, AbstractSet):
        # Python orders a set differently in each process, so a retry would read other positions.
        return sorted(inputs, key=str)
    # An import of Airflow's private module for `isinstance` would be expensive here.
    return _in_slices(inputs) if type(inputs).__name__ == "LazyXComSequence" else inputs


def _in_slices(results: Any) -> Iterator[Any]:
    """Yield the results of a mapped task, which cost a request each without slices."""
    start = 0
    while part := results[start : start + _ITEMS_PER_REQUEST]:
        yield from part
        start += len(part)
