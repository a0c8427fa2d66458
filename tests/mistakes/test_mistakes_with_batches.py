"""Mistakes in batches, and in the options of `vace-reconcile`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.mistakes import Mistake, Scene, row

if TYPE_CHECKING:
    from collections.abc import Callable


def _batch(**kwargs: Any) -> Callable[[Scene], object]:
    return lambda scene: scene.batch(**kwargs)


def _rows(*inputs: Any, **kwargs: Any) -> Callable[[Scene], object]:
    return _batch(inputs=list(inputs), **kwargs)


def _file(text: str, name: str = "rows.csv") -> Callable[[Scene], object]:
    """Return a mistake in a file of rows."""

    def make(scene: Scene) -> object:
        path = scene.folder / name
        path.write_text(text)
        return scene.batch(inputs=str(path))

    return make


def _reconcile(*argv: str) -> Callable[[Scene], object]:
    def make(scene: Scene) -> object:
        from airflow_vace.reconcile.cli import main

        return scene.command(main, *argv)

    return make


FREE = "Nothing was sent, nothing is billed"
LIST = ("inputs is", "give a list of prompts", ".jsonl, .ndjson or .csv", FREE)
BAD = ("correct the rows", "on_bad_input='skip'", FREE)
PARSED: dict[str, Any] = {"outcome": "import error"}
ANSWERED: dict[str, Any] = {"outcome": "answers"}
MISTAKES = (
    row("no rows", _rows(), "[]", "no rows", *LIST),
    row("None as `inputs`", _batch(inputs=None), "None", "xcom_pull", *LIST),
    row(
        "`inputs` from a task without a value",
        _batch(inputs="{{ ti.xcom_pull(task_ids='list') }}"),
        *("None", "check the task_ids of xcom_pull", *LIST),
    ),
    row(
        "one input as `inputs`",
        _batch(inputs={"prompt": "a fox"}),
        "{'prompt': 'a fox'}",
        "single input",
        *LIST,
    ),
    row("one prompt as `inputs`", _batch(inputs="a fox"), "'a fox'", "no list", *LIST),
    row(
        "a number and None as rows",
        _rows("a fox", 5, None),
        "2 of 3 rows",
        "Row 2: is 5",
        "Row 3: is None",
        *BAD,
    ),
    row(
        "an empty prompt",
        _rows("a fox", ""),
        "Row 2: Input 'prompt' is missing",
        "describe the content",
        *BAD,
    ),
    row(
        "a misspelt prompt",
        _rows({"promt": "a"}),
        "Row 1: Input 'prompt' is missing",
        "the row has 'promt'",
        *BAD,
    ),
    row(
        "a text as seed",
        _rows({"prompt": "a", "seed": "x"}),
        "Row 1: Input 'seed'",
        "'x'",
        "an integer",
        *BAD,
    ),
    row(
        "a key twice, in another case",
        _rows({"prompt": "a", "sku": "A1"}, {"prompt": "b", "sku": "a1"}, key="sku"),
        *("Row 2: key 'sku' is 'a1'", "the key of row 1", "give each row another key", *BAD),
    ),
    row(
        "a misspelt key",
        _rows({"prompt": "a", "sku": "A1"}, key="skus"),
        *("Row 1: key 'skus' is missing", "leave out `key`", "the row has 'sku'", *BAD),
    ),
    row(
        "a key that is no file name",
        _rows({"prompt": "a", "sku": "a/b"}, key="sku"),
        *("key 'sku' is 'a/b'", "no safe file name", "letters from A to Z", *BAD),
    ),
    row(
        "a file as `save_to`",
        _batch(save_to="/data/clip.mp4"),
        "save_to is '/data/clip.mp4'",
        "needs a directory",
    ),
    row(
        "no `save_to`",
        _batch(save_to=None),
        "save_to is missing",
        "give a directory such as '/data/",
        **PARSED,
    ),
    row("0 in flight", _batch(max_in_flight=0), "max_in_flight is 0", "a positive number", **PARSED),
    row("95.0 as `min_success`", _batch(min_success=95.0), "min_success is 95.0", "0.95", **PARSED),
    row("95% as `min_success`", _batch(min_success="95%"), "min_success is '95%'", "0.95", **PARSED),
    row("an unknown `on_bad_input`", _batch(on_bad_input="ignore"), "'ignore'", "'fail' or 'skip'", **PARSED),
    row(
        "a text as `cancel_on_kill`",
        _batch(cancel_on_kill="no"),
        "cancel_on_kill is 'no'",
        "True or",
        **PARSED,
    ),
    row("`max_cost` in words", _batch(max_cost="2 dollars"), "max_cost is '2 dollars'", "such as 12.50"),
    row("a missing file of rows", _batch(inputs="/no/rows.csv"), "/no/rows.csv", "does not exist", *LIST),
    row("a spreadsheet", _file("x", "rows.xlsx"), "rows.xlsx", "no file of rows", *LIST),
    row("a table without rows", _file("prompt\n"), "rows.csv", "no rows", *LIST),
    row(
        "a table without prompts",
        _file("text,size\na fox,832*480\n"),
        "rows.csv, line 2",
        "the row has 'text'",
        *BAD,
    ),
    row(
        "a column twice", _file("prompt,prompt\na,b\n"), "rows.csv", "two columns", "a name of its own", FREE
    ),
    row(
        "a line without JSON",
        _file('{"prompt": \n', "a.jsonl"),
        "a.jsonl, line 1",
        "write one JSON object",
        *BAD,
    ),
    row(
        "`vace-reconcile` with a word as date",
        _reconcile("--since", "yesterday"),
        *("--since", "'yesterday'", "give 2026-11-01"),
        **ANSWERED,
    ),
    row(
        "`vace-reconcile` with a date in the future",
        _reconcile("--since", "2999-01-01"),
        *("--since", "'2999-01-01' is in the future", "give the start"),
        **ANSWERED,
    ),
    row(
        "`vace-reconcile` without a connection",
        _reconcile("--since", "2026-01-01", "--conn-id", "vace_defualt"),
        *("'vace_defualt'", "correct --conn-id", "AIRFLOW_CONN_VACE_DEFUALT"),
        **ANSWERED,
    ),
    row(
        "`vace-reconcile` at a gateway",
        _reconcile("--since", "2026-01-01"),
        *("'vace_default'", "no list of predictions", "give a --conn-id"),
        **ANSWERED,
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_mistake_in_a_batch_is_explained(mistake: Mistake, explain: Any) -> None:
    explain(mistake)
