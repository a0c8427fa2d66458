"""JSON Lines and CSV files, read row by row in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceError, VaceTransportError
from airflow_vace.redaction import excerpt
from airflow_vace.storage.errors import describe_error, is_refusal, store_error
from airflow_vace.storage.place import unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_vace.storage.place import Place

# A row with a few `data:` URLs is far smaller, so a longer line is no row.
MAX_LINE_BYTES = 16 * 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t"
_QUOTED = re.compile(r'"[^"]*"')
_UNDECODED = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row of a source, before inputs and columns are separated.

    :param value: text, mapping, or any other value of the source
    :param line: number of the row's first line in the file, from 1; None for a row of a list
    :param is_text: True if the value is a mapping from columns to text, or to None for an empty cell
    :param problem: reason against the row, with the remedy; empty for a readable row
    """

    value: Any = None
    line: int | None = None
    is_text: bool = False
    problem: str = ""


def read_lines(place: Place, field: str, remedy: str) -> Iterator[bytes]:
    """Yield the lines of a file with their ends, without a byte order mark.

    :param field: name of the user's argument, for errors
    :param remedy: usable files, for errors
    :raises VaceInputError: for a missing, empty or forbidden file, and for a file that is no UTF-8 text
    :raises VaceTransportError: if the store did not answer
    """
    try:
        size = place.size()
        if not size:
            problem = "does not exist, or is no file" if size is None else "is empty"
            raise unusable(field, place.uri, problem, remedy)
        with place.open() as opened, io.BufferedReader(opened) as file:  # type: ignore[type-var]
            mark = _BYTE_ORDER_MARK
            while line := file.readline(MAX_LINE_BYTES + 1):
                if problem := _problem_of_line(line):
                    raise unusable(field, place.uri, problem, "save it as UTF-8 text, a row on each line")
                yield line.removeprefix(mark)
                mark = b""
    except VaceError:
        raise
    except Exception as error:  # store libraries share no base class of errors
        if is_refusal(error):
            raise unusable(
                field, place.uri, f"may not be read ({describe_error(error)})", "let the worker read it"
            ) from error
        problem = f"{field}: {place.uri} could not be read; nothing was sent, nothing is billed"
        raise VaceTransportError(str(store_error(problem, error)), sent=False) from error


def json_records(lines: Iterator[bytes]) -> Iterator[Record]:
    """Yield the rows of a JSON Lines file; blank lines are skipped."""
    for number, line in enumerate(lines, start=1):
        if not line.isspace():
            yield _json_record(line, number)


def csv_records(lines: Iterator[bytes], place: Place, field: str) -> Iterator[Record]:
    """Yield the rows of a CSV file by column; rows without any content are skipped.

    The first line with content is the header. The delimiter is a comma, a semicolon or a tab: the most
    frequent one in the header.

    :param field: name of the user's argument, for errors
    :raises VaceInputError: for a header with a repeated name, and for quotes that do not match
    """
    texts = (line.decode(errors="surrogateescape") for line in lines)
    first: list[str] = []
    for text in texts:
        first.append(text)
        if not text.isspace():
            break
    reader = csv.reader(
        chain(first, texts),
        delimiter=_delimiter_of(first[-1] if first else ""),
        skipinitialspace=True,
        # Without an error an unclosed quote would make one prompt of many rows.
        strict=True,
    )
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problem = f"is no CSV file in the row that starts in line {line} ({error})"
            remedy = "close each quote, double the quotes inside, and give long cells as JSON Lines"
            raise unusable(field, place.uri, problem, remedy) from error
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if names:
            yield _csv_record(names, cells, line)
        else:
            names = [name.strip() for name in cells]
            _check_header(names, place, field)


def json_cell(text: str) -> Any:
    """Return the JSON number, boolean, list or object in a cell; other texts unchanged."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text
    return text if value is None or isinstance(value, str) else value


def _problem_of_line(line: bytes) -> str:
    if b"\0" in line:
        return "is no UTF-8 text"
    if len(line) > MAX_LINE_BYTES:
        return f"has a line of more than {MAX_LINE_BYTES // 1024**2} MiB"
    return ""


def _json_record(line: bytes, number: int) -> Record:
    remedy = "write one JSON object, or one text in quotes, on each line"
    try:
        return Record(value=json.loads(line.decode(), object_pairs_hook=_distinct), line=number)
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"is no JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError) as error:
        problem = f"is no JSON ({error})"
    return Record(line=number, problem=f"{problem}: {_shown(line)}; {remedy}")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"two members have the name {_repeated([name for name, _ in pairs])}")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _delimiter_of(header: str) -> str:
    counts = Counter(_QUOTED.sub("", header))
    return max(_DELIMITERS, key=lambda delimiter: counts[delimiter])


def _check_header(names: Sequence[str], place: Place, field: str) -> None:
    problem, remedy = "", "give each column a name of its own"
    if _UNDECODED.search("".join(names)):
        problem, remedy = "is not UTF-8 in its header", "save the file as UTF-8 text"
    elif len(named := [name for name in names if name]) > len(set(named)):
        problem = f"has two columns with the name {_repeated(named)}"
    if problem:
        raise unusable(field, place.uri, problem, remedy)


def _csv_record(names: Sequence[str], cells: Sequence[str], line: int) -> Record:
    values = {name: cell if cell.strip() else None for name, cell in zip(names, cells, strict=False) if name}
    values.update({name: None for name in names[len(cells) :] if name})
    without_name = [cell for cell, name in zip(cells, names, strict=False) if not name]
    further = [cell for cell in (*without_name, *cells[len(names) :]) if cell.strip()]
    problem = ""
    if bad := next((cell for cell in cells if _UNDECODED.search(cell)), None):
        shown = excerpt(bad.encode(errors="surrogateescape").decode(errors="replace"), 60)
        problem = f"is not UTF-8: {shown!r}; save the file as UTF-8 text"
        values = {
            name: None if value and _UNDECODED.search(value) else value for name, value in values.items()
        }
    elif further:
        problem = (
            f"has the cell {excerpt(further[0], 60)!r} in no column of the header ({len(cells)} cells,"
            f" {len(names)} columns); put a cell that contains the delimiter in double quotes"
        )
    return Record(value=values, line=line, is_text=True, problem=problem)


def _repeated(names: Sequence[str]) -> str:
    return repr(excerpt(next(name for name in names if names.count(name) > 1), 60))


def _shown(line: bytes) -> str:
    return repr(excerpt(line[:1000].decode(errors="replace"), 60))
