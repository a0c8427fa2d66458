"""Rows of JSON Lines and CSV files, local and in stores."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.batch.rows import BadRow, Row, read_rows
from airflow_vace.exceptions import VaceInputError, VaceTransportError
from airflow_vace.inputs import DEFAULT_MODEL, normalize_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OTHER = "owner/name"
IMAGE = "https://example.com/a.png"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[list[Row], list[BadRow]]]:
    """Return a function that reads a file with this name and content."""

    def read_file(
        name: str, content: str | bytes, key: str | None = None, model: str = DEFAULT_MODEL
    ) -> tuple[list[Row], list[BadRow]]:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return rows_at(path, key, model)

    return read_file


def rows_at(
    path: object, key: str | None = None, model: str = DEFAULT_MODEL
) -> tuple[list[Row], list[BadRow]]:
    def check(values: dict[str, Any]) -> None:
        normalize_input(values, model=model, paths=True)

    return read_rows(path, key=key, model=model, check=check)


Read = Any
TWO = [("TR-1", {"prompt": "a fox"}), ("TR-2", {"prompt": "an ötter"})]
JSON = '{"sku": "TR-1", "prompt": "a fox"}\n{"sku": "TR-2", "prompt": "an ötter"}\n'
CSV = "sku,prompt\nTR-1,a fox\nTR-2,an ötter\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSON),
        ("a.ndjson", JSON),
        ("A.JSONL", JSON),
        ("a.jsonl", f"\ufeff{JSON}"),
        ("a.jsonl", JSON.replace("\n", "\r\n")),
        ("a.jsonl", f"\n  \n{JSON}\n\n".replace("\n", "\n\n")),
        ("a.jsonl", JSON.strip()),
        ("a.jsonl", JSON.replace("ö", "\\u00f6")),
        ("a.csv", CSV),
        ("a.CSV", CSV),
        ("a.csv", f"\ufeff{CSV}"),
        ("a.csv", CSV.replace("\n", "\r\n")),
        ("a.csv", CSV.replace("\n", "\r\n\r\n")),
        ("a.csv", f"\r\n{CSV},\n,,\n".strip()),
        ("a.csv", CSV.replace(",", ";")),
        ("a.csv", CSV.replace(",", "\t")),
        ("a.csv", CSV.replace(",", ", ").replace("\n", " \n", 1)),
        ("a.csv", 'sku,prompt\n"TR-1","a fox"\n"TR-2", "an ötter"'),
        ("a.csv", '"sku";"prompt";"with, a comma, or two"\nTR-1;a fox;\nTR-2;an ötter'),
        ("a.csv", CSV.replace("\n", ",\n")),
    ],
)
def test_rows_are_read_whatever_the_dialect(read: Read, name: str, content: str) -> None:
    rows, bad = read(name, content, key="sku")
    assert not bad
    assert [(row.key, row.input) for row in rows] == TWO
    assert all(row.columns["sku"] == row.key for row in rows)


def test_a_line_of_json_may_be_a_prompt(read: Read) -> None:
    rows, bad = read("a.jsonl", '"a fox"\n"an otter, \\"quoted\\""\n')
    assert not bad
    assert [row.input["prompt"] for row in rows] == ["a fox", 'an otter, "quoted"']


def test_cells_hold_line_breaks_delimiters_and_quotes(read: Read) -> None:
    rows, bad = read("a.csv", 'sku,prompt\r\n1,"a fox,\r\nrunning"\r\n2,"an ""otter"""\r\n3,5" tall\r\n')
    assert not bad
    assert [row.input["prompt"] for row in rows] == ["a fox,\r\nrunning", 'an "otter"', '5" tall']


def test_a_file_is_found_by_any_kind_of_address(tmp_path: Path, memory: Any) -> None:
    from airflow.sdk import ObjectStoragePath

    (tmp_path / "with blank.csv").write_text(CSV)
    memory.pipe("/b/a.csv", CSV.encode())
    path = tmp_path / "with blank.csv"
    for address in (
        path,
        str(path),
        f" {path} ",
        f"file://{path}",
        path.as_uri(),
        ObjectStoragePath(f"file://{path}"),
        "memory://b/a.csv",
        ObjectStoragePath("memory://b/a.csv"),
    ):
        assert [row.key for row in rows_at(address, key="sku")[0]] == ["TR-1", "TR-2"]


def test_empty_cells_are_not_given(read: Read) -> None:
    content = "prompt,seed,frame_num,colour,size\na fox,7, 81 ,,\nan otter,,,red\n"
    rows, bad = read("a.csv", content)
    assert not bad
    assert [row.input for row in rows] == [
        {"prompt": "a fox", "seed": "7", "frame_num": "81 "},
        {"prompt": "an otter"},
    ]
    assert [row.columns for row in rows] == [{"colour": None}, {"colour": "red"}]
    assert normalize_input(rows[0].input)[0]["frame_num"] == 81


@pytest.mark.parametrize(
    ("cell", "images"),
    [
        (IMAGE, [IMAGE]),
        (f"{IMAGE}|{IMAGE}?2", [IMAGE, f"{IMAGE}?2"]),
        (f" {IMAGE} | {IMAGE}?2 |", [IMAGE, f"{IMAGE}?2"]),
        (f'"[""{IMAGE}"", ""{IMAGE}?2""]"', [IMAGE, f"{IMAGE}?2"]),
        ("s3://b/a.png|/data/b.png", ["s3://b/a.png", "file:///data/b.png"]),
    ],
)
def test_one_cell_holds_several_images(read: Read, cell: str, images: list[str]) -> None:
    (row,), bad = read("a.csv", f"prompt;src_ref_images\na fox;{cell}\n")
    assert not bad
    assert normalize_input(row.input, paths=True)[0]["src_ref_images"] == images


def test_cells_of_another_model_are_json_or_text(read: Read) -> None:
    header = "sku,prompt,steps,ratio,is_loop,tags,scene,word,none,zip,nan"
    line = '007,1e5,4,1.5,true,"[1, ""a""]","{""a"": null}",fox,null,007,NaN'
    (row,), bad = read("a.csv", f"{header}\n{line}\n", key="sku", model=OTHER)
    assert not bad
    assert (row.key, row.columns) == ("007", {"sku": "007"})
    assert row.input == {
        "prompt": "1e5",
        "steps": 4,
        "ratio": 1.5,
        "is_loop": True,
        "tags": [1, "a"],
        "scene": {"a": None},
        "word": "fox",
        "none": "null",
        "zip": "007",
        "nan": "NaN",
    }


@pytest.mark.parametrize("model", [DEFAULT_MODEL, OTHER])
def test_a_cell_may_hold_the_whole_input(read: Read, model: str) -> None:
    content = 'sku,input,seed\n1,"{""prompt"": ""a fox"", ""seed"": 7}",8\n'
    (row,), bad = read("a.csv", content, key="sku", model=model)
    assert not bad
    assert row.input == {"prompt": "a fox", "seed": 7}
    assert row.columns == {"sku": "1", "seed": "8"}


# --- bad rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'"a fox"\n\n{"prompt": \n', ["Row 2 (a.jsonl, line 3): is no JSON", "column", "write"]),
        ("a.jsonl", b'"a fox"\n[1]\n', ["Row 2 (a.jsonl, line 2): is [1], neither"]),
        ("a.jsonl", b'"a fox"\nnull\n', ["neither text nor an object"]),
        ("a.jsonl", b'"a fox"\nan otter\n', ["is no JSON", "'an otter'", "one text in quotes"]),
        ("a.jsonl", b'"a fox"\n"\xe4"\n', ["is not UTF-8"]),
        ("a.jsonl", b'"a fox"\n{"prompt": "a", "prompt": "b"}\n', ["two members have the name 'prompt'"]),
        ("a.jsonl", b'"a fox"\n' + b"[" * 100_000 + b"\n", ["is no JSON", "recursion"]),
        ("a.jsonl", b'"a fox"\n{"prompt": "a", "seed": NaN}\n', ["'seed'", "finite"]),
        (
            "a.csv",
            b'sku,prompt\n1,"a\nfox"\n2,an otter, or two\n',
            ["Row 2 (a.csv, line 4): has the cell 'or two'", "3 cells, 2 columns", "double quotes"],
        ),
        ("a.csv", b"sku,prompt,\n1,a fox,\n2,an otter,x\n", ["'x' in no column"]),
        ("a.csv", b"sku,prompt\n1,a fox\n2,an \xf6tter\n", ["is not UTF-8", "save"]),
        ("a.csv", b"sku,prompt\n1,a fox\n2,\n", ["'prompt'", "is missing"]),
        ("a.csv", b'prompt,seed\na fox,\nan otter,"1,5"\n', ["'seed'", "'1,5'", "an integer"]),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(
    read: Read, name: str, content: bytes, words: list[str]
) -> None:
    rows, (bad,) = read(name, content)
    assert [row.input["prompt"].replace("\n", " ") for row in rows] == ["a fox"]
    assert bad.position == 1
    assert not [word for word in words if word not in bad.problem]
    json.dumps(bad.columns).encode()


def test_a_bad_row_of_a_file_shows_its_key(read: Read) -> None:
    _, (bad,) = read("a.csv", "sku,prompt,seed\nTR-1,a fox,x\n", key="sku")
    assert bad.problem.startswith("Row 1 (a.csv, line 2), TR-1: Input 'seed' must be an integer: got 'x'")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.jsonl", b"\n \n", "has no rows"),
        ("a.csv", b"\n", "has no rows"),
        ("a.csv", b"\xef\xbb\xbfsku,prompt\n", "has no rows"),
        ("a.csv", b"sku,prompt, sku\n1,a fox,2\n", "two columns with the name 'sku'"),
        ("a.csv", b"sku,pr\xf6mpt\n1,a fox\n", "not UTF-8 in its header"),
        ("a.csv", b'sku,prompt\n1,a fox\n2,"an otter\n3,a hare\n', "starts in line 3"),
        ("a.csv", b'sku,prompt\n1,"a" fox\n', "starts in line 2"),
        ("a.csv", b"sku,prompt\n1," + b"x" * 200_000, "starts in line 2"),
        ("a.csv", "sku,prompt\n1,a fox\n".encode("utf-16"), "is no UTF-8 text"),
        ("a.jsonl", JSON.encode("utf-16-le"), "is no UTF-8 text"),
        ("a.jsonl", b"PK\x03\x04\0\0", "is no UTF-8 text"),
    ],
)
def test_a_file_without_usable_rows_is_refused(read: Read, name: str, content: bytes, problem: str) -> None:
    with pytest.raises(VaceInputError, match=problem) as caught:
        read(name, content)
    assert name in str(caught.value)
    assert "Nothing was sent, nothing is billed." in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_without_an_end_is_not_read_whole(read: Read, name: str) -> None:
    with pytest.raises(VaceInputError, match="more than 16 MiB"):
        read(name, b"x" * (17 * 1024 * 1024))


def test_a_missing_file_is_named(tmp_path: Path, memory: Any) -> None:
    assert memory
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "a.csv", tmp_path / "folder.csv", "memory://b/none.jsonl"):
        with pytest.raises(VaceInputError, match="does not exist, or is no file") as caught:
            rows_at(path)
        assert str(path).rpartition("/")[2] in str(caught.value)


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (PermissionError(13, "denied"), VaceInputError, "may not be read"),
        (TimeoutError("no answer"), VaceTransportError, "could not be read; nothing was sent"),
        (RuntimeError("https://host/?token=secret"), VaceTransportError, "could not be read"),
    ],
    ids=str,
)
def test_a_store_without_an_answer_is_no_bad_source(
    memory: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception], words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    memory.pipe("/b/a.csv", CSV.encode())
    monkeypatch.setattr(memory, "open", fail)
    with pytest.raises(raised, match=words) as caught:
        rows_at("memory://b/a.csv")
    assert "secret" not in str(caught.value)
    assert "memory://b/a.csv" in str(caught.value)


# --- many rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_ten_thousand_lines_are_read_in_a_stream(memory: Any, name: str) -> None:
    items = [{"sku": f"TR-{number}", "prompt": "a fox", "colour": "red"} for number in range(10_000)]
    text = "".join(json.dumps(item) + "\n" for item in items) if name == "a.jsonl" else as_csv(items)
    memory.pipe(f"/b/{name}", text.encode())
    rows, bad = read_rows(f"memory://b/{name}", key="sku", model=DEFAULT_MODEL, check=lambda _: None)
    assert not bad
    assert [row.key for row in rows] == [item["sku"] for item in items]
    assert rows[-1].columns == {"sku": "TR-9999", "colour": "red"}


def as_csv(items: list[dict[str, Any]], delimiter: str = ",") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(items[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(items)
    return file.getvalue()


# NUL is no text, and a CSV cell of blanks is "not given".
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).filter(
    lambda text: text == text.strip() and text.lower() not in ("", "none", "null")
)
ITEMS = st.lists(
    st.fixed_dictionaries({"prompt": TEXTS, "sku": st.integers(0, 10**6), "colour": TEXTS}),
    min_size=1,
    max_size=8,
    unique_by=lambda item: item["sku"],
)


@given(ITEMS, st.sampled_from(",;\t"), st.sampled_from(["", "\ufeff"]))
def test_a_list_and_both_kinds_of_files_give_the_same_rows(
    items: list[dict[str, Any]], delimiter: str, mark: str
) -> None:
    from airflow.sdk.io import attach
    from fsspec.implementations.memory import MemoryFileSystem

    store = MemoryFileSystem()
    attach(protocol="memory", fs=store)
    lines = "\r\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    store.pipe("/b/a.jsonl", (mark + lines).encode())
    store.pipe("/b/a.csv", (mark + as_csv(items, delimiter)).encode())
    first, *others = (rows_at(source, "sku") for source in (items, "memory://b/a.jsonl", "memory://b/a.csv"))
    assert len(first[0]) == len(items)
    for rows, bad in others:
        assert not bad
        assert [row.input for row in rows] == [row.input for row in first[0]]
        assert [row.columns["colour"] for row in rows] == [row.columns["colour"] for row in first[0]]
