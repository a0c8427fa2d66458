"""Rows of lists and other tasks' results: inputs, columns, keys, and bad rows."""

from __future__ import annotations

import json
import logging
from collections import UserString
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.batch.rows import BadRow, Row, read_rows, refuse_bad_rows
from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import DEFAULT_MODEL, normalize_input
from support.runs import run
from support.values import Array, Clip

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER = "owner/name"
IMAGE = "https://example.com/a.png"


def read(
    inputs: object, key: str | None = None, model: str = DEFAULT_MODEL
) -> tuple[list[Row], list[BadRow]]:
    def check(values: dict[str, Any]) -> None:
        normalize_input(values, model=model, paths=True)

    return read_rows(inputs, key=key, model=model, check=check)


def rows_of(inputs: object, key: str | None = None, model: str = DEFAULT_MODEL) -> list[Row]:
    rows, bad = read(inputs, key, model)
    assert not bad
    return rows


def problem_of(item: object, key: str | None = None, model: str = DEFAULT_MODEL) -> str:
    rows, (bad,) = read([{"sku": "first", "prompt": "a fox"}, item], key, model)
    assert [row.position for row in rows] == [0]
    assert bad.position == 1
    assert bad.problem.startswith("Row 2")
    assert "\n" not in bad.problem
    assert not bad.problem.endswith("billed.")
    return bad.problem


def shown(value: object) -> str:
    """Return a name for a test that is equal in all processes."""
    return value if isinstance(value, str) else type(value).__name__


# --- sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [
        ["a fox", "an otter"],
        ("a fox", "an otter"),
        {"an otter", "a fox"},
        (text for text in ("a fox", "an otter")),
        [UserString("a fox"), {"prompt": "an otter"}],
        [Clip("a fox"), {"input": Clip("an otter")}],
        '["a fox", "an otter"]',
        "['a fox', 'an otter']",
        " ('a fox', {'prompt': 'an otter'}) ",
    ],
    ids=shown,
)
def test_prompts_come_from_any_list(inputs: object) -> None:
    assert [(row.position, row.key, row.input["prompt"]) for row in rows_of(inputs)] == [
        (0, "00000", "a fox"),
        (1, "00001", "an otter"),
    ]


class Frame:
    columns = ("sku", "prompt")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ("a fox", "is no list and no file of rows"),
        ("/data/products.json", "is no list and no file of rows"),
        ("https://example.com/products.csv?signature=abcdef", "is no list and no file of rows"),
        ("{'prompt': 'a fox'}", "is no list and no file of rows"),
        ("LazyXComSequence([2 items])", "is no list and no file of rows"),
        ("https://example.com/products.csv", "is no path"),
        ("products.csv", "is not absolute"),
        ("s3:///products.csv", "names no bucket"),
        ("memory://absent@b/products.csv", "absent"),
        (Path("products.jsonl"), "is not absolute"),
        (Path("/data/products.xlsx"), "is no list and no file of rows"),
        (None, "is missing"),
        (" None ", "is missing"),
        ("", "is missing"),
        ([], "has no rows"),
        ("[]", "has no rows"),
        ({"prompt": "a fox"}, "is a single input"),
        (Clip("a fox"), "is a single input"),
        (b"a fox", "is no list"),
        (7, "is no list"),
        (Frame(), "is a data frame"),
    ],
    ids=shown,
)
def test_a_source_without_rows_is_refused_with_a_remedy(inputs: object, problem: str) -> None:
    with pytest.raises(VaceInputError, match=problem) as caught:
        read(inputs)
    assert caught.value.field == "inputs"
    assert caught.value.remedy
    assert "abcdef" not in str(caught.value)
    assert "directory" not in caught.value.remedy


def test_results_of_mapped_tasks_are_rows(fast_emulator: object, airflow_db: str, tmp_path: Path) -> None:
    assert fast_emulator
    assert airflow_db

    @task
    def product(number: int) -> dict[str, Any]:
        return {"sku": f"TR-{number}", "prompt": "{{ a fox }}", "price": number}

    @task
    def batch(products: Any) -> None:
        found = [[row.key, row.input, row.columns] for row in rows_of(products, key="sku")]
        (tmp_path / "rows.json").write_text(json.dumps([type(products).__name__, found]))

    with DAG("rows", schedule=None) as dag:
        batch(product.expand(number=[1, 2, 3]))
    run(dag)
    kind, found = json.loads((tmp_path / "rows.json").read_text())
    assert kind == "LazyXComSequence"
    assert found == [
        [f"TR-{number}", {"prompt": "{{ a fox }}"}, {"sku": f"TR-{number}", "price": number}]
        for number in (1, 2, 3)
    ]


class LazyXComSequence:
    """Stands for the results of a mapped task, which Airflow fetches when they are asked for."""

    def __init__(self, count: int) -> None:
        self.items = [f"fox {number}" for number in range(count)]
        self.requests: list[slice] = []

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("a request for each item")

    def __getitem__(self, key: slice) -> list[str]:
        self.requests.append(key)
        return self.items[key]


@pytest.mark.parametrize(("count", "requests"), [(1, 2), (500, 2), (1001, 4)])
def test_results_of_mapped_tasks_come_500_with_one_request(count: int, requests: int) -> None:
    results = LazyXComSequence(count)
    assert [row.input["prompt"] for row in rows_of(results)] == results.items
    assert len(results.requests) == requests


# --- inputs and columns ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "values", "columns"),
    [
        ("a fox", {"prompt": "a fox"}, {}),
        ({"prompt": "a fox", "seed": 7}, {"prompt": "a fox", "seed": 7}, {}),
        ({"prompt": "a fox", "colour": "red"}, {"prompt": "a fox"}, {"colour": "red"}),
        (
            {"input": {"prompt": "a fox"}, "seed": 7, "tags": ("a", "b")},
            {"prompt": "a fox"},
            {"seed": 7, "tags": ["a", "b"]},
        ),
        ({"prompt": "a fox", "seed": Array(7), "n": Array(8)}, {"prompt": "a fox", "seed": 7}, {"n": 8}),
        ({"prompt": "a fox", "price": float("nan")}, {"prompt": "a fox"}, {"price": "nan"}),
        ({"prompt": "a fox", "made_by": None}, {"prompt": "a fox"}, {"made_by": None}),
        ({"prompt": "a fox", "n": None, "seed": None}, {"prompt": "a fox", "seed": None}, {"n": None}),
        (Clip("a fox"), {"prompt": "a fox", "seed": None}, {}),
        ({"prompt": "a fox", "status": "{{ 1 }}"}, {"prompt": "a fox"}, {"status": "{{ 1 }}"}),
    ],
    ids=shown,
)
def test_members_that_the_model_knows_are_the_input(
    item: object, values: dict[str, Any], columns: dict[str, Any]
) -> None:
    for model in (DEFAULT_MODEL, f"{DEFAULT_MODEL}:abc123", "PrunaAI/VACE-14b"):
        (row,) = rows_of([item], model=model)
        assert (row.input, row.columns) == (values, columns)


@pytest.mark.parametrize(
    ("item", "values", "columns"),
    [
        ({"sku": 7, "steps": 4, "colour": "red"}, {"steps": 4, "colour": "red"}, {"sku": 7}),
        ({"sku": 7, "input": {"steps": 4}, "colour": "red"}, {"steps": 4}, {"sku": 7, "colour": "red"}),
        ({"sku": 7, "input": "a fox"}, {"input": "a fox"}, {"sku": 7}),
        ({"input": {"sku": 7, "steps": 4}, "colour": "red"}, {"sku": 7, "steps": 4}, {"colour": "red"}),
    ],
    ids=shown,
)
def test_all_members_but_the_key_are_the_input_of_another_model(
    item: object, values: dict[str, Any], columns: dict[str, Any]
) -> None:
    (row,) = rows_of([item], key="sku", model=OTHER)
    assert (row.key, row.input, row.columns) == ("7", values, columns)


def test_a_key_among_the_inputs_stays_an_input() -> None:
    (row,) = rows_of([{"prompt": "a fox", "seed": 7}], key="seed")
    assert (row.key, row.input, row.columns) == ("7", {"prompt": "a fox", "seed": 7}, {})


def test_a_column_named_almost_like_an_input_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    items = [{"prompt": "a fox", "Frame Num": 5, "style": "flat"}] * 3
    with caplog.at_level(logging.WARNING):
        assert [row.columns for row in rows_of(items)] == [{"Frame Num": 5, "style": "flat"}] * 3
    (line,) = [record.getMessage() for record in caplog.records if "stays a column" in record.message]
    assert "'Frame Num'" in line
    assert "'frame_num'" in line


# --- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("TR-101", "TR-101"),
        (" TR_1.0 ", "TR_1.0"),
        (7, "7"),
        (0, "0"),
        (-7, "-7"),
        (Array(7), "7"),
        ("007", "007"),
        ("x" * 100, "x" * 100),
        ("console", "console"),
        ("com10", "com10"),
        ("a.con", "a.con"),
        ("-", "-"),
    ],
    ids=shown,
)
def test_keys_are_text_or_integers(value: object, key: str) -> None:
    (row,) = rows_of([{"sku": value, "prompt": "a fox"}], key="sku")
    assert row.key == key


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is missing"),
        ("", "is missing"),
        ("  ", "is missing"),
        ("None", "is missing"),
        (True, "neither text nor an integer"),
        (1.5, "neither text nor an integer"),
        (["a"], "neither text nor an integer"),
        ({"a": 1}, "neither text nor an integer"),
        ("a b", "no safe file name"),
        ("a/b", "no safe file name"),
        ("..", "no safe file name"),
        (".hidden", "no safe file name"),
        ("a\nb", "no safe file name"),
        ("a:b", "no safe file name"),
        ("schön", "no safe file name"),
        ("٣", "no safe file name"),
        ("x" * 101, "no safe file name"),
        ("nul", "Windows reserves"),
        ("CON", "Windows reserves"),
        ("Lpt1", "Windows reserves"),
        ("aux.v2", "Windows reserves"),
        ("First", "the key of row 1 already"),
        (" first ", "the key of row 1 already"),
    ],
    ids=shown,
)
def test_a_key_that_is_no_unique_file_name_is_a_bad_row(value: object, problem: str) -> None:
    found = problem_of({"sku": value, "prompt": "a fox"}, key="sku")
    assert problem in found
    assert "'sku'" in found
    assert "; " in found


def test_a_row_without_the_key_is_bad() -> None:
    assert "key 'sku' is missing" in problem_of("an otter", key="sku")
    assert "key 'sku' is missing" in problem_of({"prompt": "an otter"}, key="sku")


def test_keys_without_a_name_are_positions_of_all_rows() -> None:
    rows, bad = read(["a fox", 7, "an otter"], key="None")
    assert [(row.position, row.key) for row in rows] == [(0, "00000"), (2, "00002")]
    assert [(row.position, row.key) for row in bad] == [(1, None)]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12) | st.integers(-50, 50), max_size=20))
def test_accepted_keys_are_distinct_file_names(values: list[object]) -> None:
    rows, bad = read([{"k": value, "prompt": "a fox"} for value in [*values, "last"]], key="k")
    assert len(rows) + len(bad) == len(values) + 1
    assert len({row.key.lower() for row in rows}) == len(rows)
    for row in rows:
        assert row.key.isascii()
        assert Path(f"{row.key}.mp4").name == f"{row.key}.mp4"
        assert not row.key.startswith(".")


# --- bad rows --------------------------------------------------------------------------------------


class Size(Enum):
    WIDE = 1280


@dataclass
class Shoe:
    size: int


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (7, ["is 7", "neither text nor an object", "give"]),
        (None, ["is None", "neither text nor an object"]),
        (["a fox"], ["neither text nor an object"]),
        (Size.WIDE, ["neither text nor an object"]),
        (Path("/data/a.mp4"), ["neither text nor an object"]),
        ("s3://bucket/products.jsonl", ["neither text nor an object"]),
        ("", ["'prompt'", "is missing", "describe"]),
        ("None", ["'prompt'", "a template renders"]),
        ({"sku": "a"}, ["'prompt'", "is missing"]),
        (Shoe(7), ["'prompt'", "is missing"]),
        ({"prompt": "a fox", "frame_num": "many"}, ["'frame_num'", "'many'", "an integer", "81"]),
        ({"prompt": "a fox", "seed": float("nan")}, ["'seed'", "finite"]),
        ({"prompt": "a fox", "src_video": "a.mp4"}, ["'src_video'", "'a.mp4'", "URL"]),
        ({"input": {"prompt": "a fox", "style": "x"}}, ["'style'", "not an input of the model"]),
        ({"prompt": "a\nfox", "src_video": "https://x/a b?token=secret"}, ["'src_video'"]),
    ],
    ids=shown,
)
def test_a_bad_row_names_field_value_and_remedy(item: object, words: list[str]) -> None:
    found = problem_of(item)
    assert not [word for word in words if word not in found]
    assert "secret" not in found


def test_a_bad_row_keeps_key_and_columns_for_the_manifest() -> None:
    _, (bad,) = read([{"sku": "TR-1", "prompt": "a fox", "seed": "x", "colour": "red"}], key="sku")
    assert (bad.key, bad.columns) == ("TR-1", {"sku": "TR-1", "colour": "red"})
    assert bad.problem.startswith("Row 1, TR-1: Input 'seed' must be an integer")


def test_one_error_names_all_bad_rows() -> None:
    rows, bad = read([{"prompt": "a fox", "seed": text} for text in ("1", "x", "2", "y")])
    with pytest.raises(VaceInputError) as caught:
        refuse_bad_rows(bad, len(rows) + len(bad))
    text = str(caught.value)
    assert text.startswith("2 of 4 rows of inputs can't be used; correct the rows")
    assert "Nothing was sent, nothing is billed." in text
    assert "\n- Row 2: Input 'seed'" in text
    assert "\n- Row 4: Input 'seed'" in text
    assert caught.value.field == "inputs"


def test_the_first_20_bad_rows_are_shown_and_the_rest_counted() -> None:
    _, bad = read([7] * 1000)
    with pytest.raises(VaceInputError) as caught:
        refuse_bad_rows(bad, 1000)
    assert str(caught.value).count("\n- Row ") == 20
    assert str(caught.value).endswith("\n- and 980 more")


def test_no_bad_row_is_no_error() -> None:
    refuse_bad_rows([], 3)


def test_ten_thousand_rows_are_read() -> None:
    items = [{"sku": f"TR-{number}", "prompt": "a fox", "seed": number, "n": 1} for number in range(10_000)]
    rows, bad = read_rows(iter(items), key="sku", model=DEFAULT_MODEL, check=lambda _: None)
    assert not bad
    assert [row.key for row in rows] == [item["sku"] for item in items]
