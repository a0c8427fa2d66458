"""Manifest of a batch: one line of JSON for each item, in the order of the rows."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from airflow_vace.batch.tables import json_records, read_lines
from airflow_vace.core.timing import Timing
from airflow_vace.input_files import path_text
from airflow_vace.redaction import without_secrets
from airflow_vace.storage.errors import store_error
from airflow_vace.storage.paths import existing_place_of, place_of
from airflow_vace.storage.place import unusable
from airflow_vace.storage.progress import Progress
from airflow_vace.storage.write import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

_FIELD = "manifest"
_COLUMNS = "columns"
_MEMBERS = ("key", "id", "status", "error", "seed", "files", "cost")
_REMEDY = "give the manifest that a VaceBatchOperator has returned, such as 's3://bucket/clips/batch.jsonl'"


def write_manifest(
    manifest: str | Path | ObjectStoragePath, rows: Iterable[Mapping[str, Any]], *, timing: Timing = Timing()
) -> str:
    """Write the manifest of a batch in one piece; an earlier one is replaced.

    Each row has the members `key, id, status, error, seed, files, cost` and any further ones. The mapping
    `columns` of a row is merged into the row. A column with the name of another member, or with the name
    `columns`, becomes `columns.<name>`. Signatures, keys and the content of `data:` URLs are removed.

    :param manifest: absolute path of the file, local or in a store, also with the name of a connection
    :param rows: rows in the order of the source, JSON values; read once, in a stream
    :param timing: limits of the write to a store
    :return: address that :func:`read_manifest` reads
    :raises VaceInputError: if the path is no place for a file
    :raises VaceTransportError: if the store can't be opened at the moment
    :raises OSError: if the write failed, for any reason that a store gives
    """
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the public module hides the name

    place = place_of(manifest, _FIELD, "give a file such as '/data/clips/batch.jsonl'")
    try:
        part = place.new_part(".jsonl", timing.stale_part_seconds)
        try:
            with part.open("wb") as file:
                file.writelines(_line_of(row, redact) for row in rows)
            write_file(part, place, Progress(timing, log, "Stored", None, part.stat().st_size))
        finally:
            part.unlink(missing_ok=True)
    except Exception as error:  # store libraries share no base class of errors
        problem = f"The manifest {place.uri} could not be written, no video is lost"
        raise store_error(problem, error) from error
    text = path_text(manifest)
    # Without the name of its connection a file in a store could not be read again.
    return text if text and "@" in text.partition("://")[2].partition("/")[0] else place.uri


def read_manifest(manifest: str | Path | ObjectStoragePath) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch's manifest, in the order of the batch's inputs.

    ::

        @task
        def clips(batch: dict) -> list[dict]:
            return [row for row in read_manifest(batch["manifest"]) if row["status"] == "succeeded"]

    Each row has `key, id, status, error, seed, files, cost` and the further columns of the inputs. A column
    with one of these names is `columns.<name>`.

    :param manifest: the `manifest` in the result of the batch
    :raises VaceInputError: for a file that is missing, truncated, or no manifest of a batch
    :raises VaceTransportError: if the store did not answer
    """
    place = existing_place_of(path_text(manifest) or "", _FIELD, _REMEDY)
    for record in json_records(_whole_lines(read_lines(place, _FIELD, _REMEDY), place.uri)):
        row = record.value
        if not isinstance(row, dict) or not {"key", "status"} <= row.keys():
            reason = f": {record.problem.partition('; ')[0]}" if record.problem else ""
            raise unusable(_FIELD, place.uri, f"is no row of a batch in line {record.line}{reason}", _REMEDY)
        yield row


def _whole_lines(lines: Iterator[bytes], uri: str) -> Iterator[bytes]:
    for line in lines:
        if not line.endswith(b"\n"):
            raise unusable(
                _FIELD, uri, "is truncated in its last line", "copy the file again, or clear the batch"
            )
        yield line


def _line_of(row: Mapping[str, Any], redact: Callable[[str, str | None], Any]) -> bytes:
    members = {**dict.fromkeys(_MEMBERS), **row}
    members["files"] = members["files"] or []
    columns = members.pop(_COLUMNS, None) or {}
    for name, value in columns.items():
        free = name
        while free in members or free == _COLUMNS:
            free = f"{_COLUMNS}.{free}"
        members[free] = value
    text = json.dumps(without_secrets(members, redact), ensure_ascii=False, default=str)
    # UTF-8 can't encode half a surrogate pair, but JSON can escape it.
    return text.encode(errors="backslashreplace") + b"\n"
