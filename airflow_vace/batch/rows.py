from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Never

from airflow_vace.exceptions import VaceInputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    position: int
    key: str
    input: dict[str, Any]
    columns: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    position: int
    key: str | None
    problem: str
    columns: dict[str, Any]


def read_rows(inputs, *, key, model, check):
    rows, bad = [], []
    for i, r in enumerate(inputs):
        r = {"prompt": r} if isinstance(r, str) else dict(r)
        k = r.pop(key) if key else f"{i:05d}"
        try:
            check(r)
            rows.append(Row(position=i, key=k, input=r, columns={key: k} if key else {}))
        except VaceInputError as e:
            bad.append(BadRow(position=i, key=k, problem=f"row {i + 1}: {e}", columns={}))
    return rows, bad


def refuse_bad_rows(bad, total) -> Never:
    raise VaceInputError("; ".join(b.problem for b in bad), field="inputs", value=None, remedy="fix")
