"""Rows of a batch: checks, keys, and the separation of inputs and further columns."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from airflow_vace.batch.keys import Keys
from airflow_vace.batch.sources import FIELD, records_of, refused
from airflow_vace.batch.tables import Record, json_cell
from airflow_vace.exceptions import VaceInputError
from airflow_vace.input_files import is_path
from airflow_vace.inputs import DEFAULT_MODEL, FIELDS, read_input
from airflow_vace.plain import NotPlainError, is_absent, is_record, plain, unwrapped
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_INPUT = "input"
_MAX_SHOWN = 20
_MAX_PROBLEM_LENGTH = 600
_MAX_TEXT_LENGTH = 200
# The similarity of `frame_nums` and `frame_num`, while `style` and `size` stay different names.
_SIMILAR = 0.85
_NO_BILL = re.compile(r"[.;]?\s*Nothing (was sent, nothing )?is billed\.$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One item of a batch.

    :param position: from 0, in the order of the source
    :param key: unique in the batch, and safe as the stem of a file name everywhere
    :param input: input as given, in plain JSON
    :param columns: further members or columns, in plain JSON; None for an empty cell
    """

    position: int
    key: str
    input: dict[str, Any]
    columns: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that cannot become a prediction.

    :param position: from 0, in the order of the source
    :param key: None for an invalid or unknown key
    :param problem: number of the row from 1, field, value and remedy, in one line
    :param columns: see :class:`Row`
    """

    position: int
    key: str | None
    problem: str
    columns: dict[str, Any]


def read_rows(
    inputs: object, *, key: str | None, model: str, check: Callable[[dict[str, Any]], None]
) -> tuple[list[Row], list[BadRow]]:
    """Read and check all rows of a batch; files are read in a stream.

    A text is a prompt. The member `input` of a mapping is the input if `input` is a mapping too, and all
    other members are columns. Otherwise the inputs of prunaai/vace-14b are the input and other members are
    columns; for another model all members but the key are the input.

    An empty cell of a CSV file is "not given". Several reference images in one cell are separated by `|`, or
    a JSON list. For another model a cell with a JSON number, boolean, list or object becomes that value,
    except in the column `prompt`. No text is rendered as a template.

    :param inputs: texts and mappings (dataclasses, Pydantic models) in any iterable; or the absolute path of
        a file that ends in `.jsonl`, `.ndjson` or `.csv`, local or in a store, in UTF-8
    :param key: name of the member or column that identifies a row; None: the position, such as `00000`
    :param model: `owner/name`, also with `:version`
    :param check: raises VaceInputError for an input that the model would refuse
    :return: the rows, and the rows that cannot be used, each in the order of the source
    :raises VaceInputError: for a source that is no list and no file of rows, is missing or has no row, and
        for a CSV file with a repeated column or with quotes that do not match
    :raises VaceTransportError: if the store of the file did not answer
    """
    records, file_name = records_of(inputs)
    reader = _Reader(None if is_absent(key) else key, model, check, file_name)
    rows: list[Row] = []
    bad: list[BadRow] = []
    for position, record in enumerate(records):
        found = reader.read(position, record)
        if isinstance(found, Row):
            rows.append(found)
        else:
            bad.append(found)
    if not rows and not bad:
        raise refused(inputs, "has no rows")
    return rows, bad


def refuse_bad_rows(bad: Sequence[BadRow], total: int) -> None:
    """Raise one error for all bad rows; return if there are none.

    :param bad: bad rows in order; the first 20 are shown
    :param total: number of all rows
    :raises VaceInputError: if there is a bad row
    """
    if not bad:
        return
    remedy = "correct the rows, or leave them out with on_bad_input='skip'"
    shown = "\n".join(f"- {row.problem}" for row in bad[:_MAX_SHOWN])
    more = f"\n- and {len(bad) - _MAX_SHOWN} more" if len(bad) > _MAX_SHOWN else ""
    raise VaceInputError(
        f"{len(bad)} of {total} rows of {FIELD} can't be used; {remedy}. Nothing was sent, nothing is billed."
        f"\n{shown}{more}",
        field=FIELD,
        value=[row.position for row in bad],
        remedy=remedy,
    )


class _Reader:
    """Reader of the rows of one source, see :func:`read_rows`."""

    def __init__(
        self, key: str | None, model: str, check: Callable[[dict[str, Any]], None], file_name: str
    ) -> None:
        self.keys = Keys(key)
        self.is_vace = model.partition(":")[0].strip().lower() == DEFAULT_MODEL
        self.check = check
        self.file_name = excerpt(file_name, 100)
        self._known_names: set[str] = set()

    def read(self, position: int, record: Record) -> Row | BadRow:
        """Return a row, or the reason why the row cannot be used."""
        key, columns, members, name = None, {}, {}, self.keys.name
        try:
            members = _members_of(record.value) if not record.problem or record.is_text else {}
            given, further = self._separate(members, is_text=record.is_text)
            columns = {name: _plain_column(value) for name, value in further.items()}
            if record.problem:
                raise ValueError(record.problem)
            key = self.keys.claim(members.get(name, given.get(name)) if name else None, position)
            values = read_input(given)
            self.check(values)
        except ValueError as error:
            # VaceInputError is a ValueError, and all of them state problem and remedy.
            problem = f"{self._place_of(position, record, key)}: {_NO_BILL.sub('', str(error))}"
            is_key_missing = key is None and name is not None and name not in members
            if columns and (is_key_missing or getattr(error, "field", None) == "prompt"):
                problem += f"; the row has {', '.join(map(repr, columns))}"
            return BadRow(
                position=position, key=key, problem=excerpt(problem, _MAX_PROBLEM_LENGTH), columns=columns
            )
        return Row(position=position, key=key, input=values, columns=columns)

    def _place_of(self, position: int, record: Record, key: str | None) -> str:
        line = "" if record.line is None else f" ({self.file_name}, line {record.line})"
        return f"Row {position + 1}{line}{'' if key is None or not self.keys.name else f', {key}'}"

    def _separate(
        self, members: Mapping[str, Any], *, is_text: bool
    ) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the input of a row, and all further members."""
        whole = members.get(_INPUT)
        if is_text and isinstance(whole, str):
            whole = json_cell(whole)
        if is_record(whole):
            whole = unwrapped(whole)
        if isinstance(whole, Mapping):
            return whole, {name: value for name, value in members.items() if name != _INPUT}
        given = {name: value for name, value in members.items() if self._is_input(name)}
        further = {name: value for name, value in members.items() if name not in given}
        if is_text:
            given = {name: self._cell(name, value) for name, value in given.items() if value is not None}
        return given, further

    def _is_input(self, name: str) -> bool:
        if not self.is_vace:
            return name != self.keys.name
        if name not in FIELDS and name not in self._known_names:
            self._known_names.add(name)
            word = re.sub(r"[\s_-]+", "_", name.strip().lower())
            for near in get_close_matches(word, FIELDS, n=1, cutoff=_SIMILAR):
                log.warning(
                    "%r is no input of %s and stays a column; the input is %r",
                    excerpt(name, 60),
                    DEFAULT_MODEL,
                    near,
                )
        return name in FIELDS

    def _cell(self, name: str, text: str) -> Any:
        """Return the value of a CSV file's cell."""
        if not self.is_vace:
            # A prompt is text for each model, and `1e5` would become `100000.0`.
            return text if name == "prompt" else json_cell(text)
        is_list = FIELDS[name].kind == "urls" and not text.lstrip().startswith(("[", "(", "{"))
        return [part for part in text.split("|") if part.strip()] if is_list else text


def _members_of(value: object) -> dict[str, Any]:
    """Return the members of a row; a text is the prompt.

    :raises ValueError: for any other value
    """
    content = unwrapped(value)
    # A path would become a prompt, and a paid video of no use.
    if isinstance(content, str) and not is_path(content.strip()):
        return {"prompt": content}
    if isinstance(content, Mapping):
        return {str(name): item for name, item in content.items()}
    shown = excerpt(repr(value), 120)
    raise ValueError(f"is {shown}, neither text nor an object; give a prompt, or {{'prompt': '...'}}")


def _plain_column(value: object) -> Any:
    """Return a column's value as JSON; the text of a value without a form in JSON."""
    try:
        return plain(value)
    except NotPlainError:
        return excerpt(str(value), _MAX_TEXT_LENGTH)
