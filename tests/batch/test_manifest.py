"""Manifests of batches: written whole, without secrets, read row by row."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.batch import read_manifest
from airflow_vace.batch.manifest import write_manifest
from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import VaceInputError
from support.stores import fail_writes, files_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FILE = {"uri": "s3://b/TR-1.mp4", "size": 9, "sha256": "ab", "content_type": "video/mp4"}
COST = {"amount": "0.40", "currency": "USD", "basis": "per_run"}
SAVED: dict[str, Any] = {
    "key": "TR-1",
    "id": "abc",
    "status": "succeeded",
    "error": None,
    "seed": 7,
    "files": [FILE],
    "cost": COST,
}
FAILED: dict[str, Any] = {**SAVED, "key": "TR-2", "status": "failed", "error": "no GPU", "files": []}
PATIENCE = Timing().scaled(0.001)


def written(folder: Path, *rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(read_manifest(write_manifest(folder / "batch.jsonl", rows)))


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert written(tmp_path, SAVED, FAILED) == [SAVED, FAILED]


def test_further_columns_stand_in_the_row(tmp_path: Path) -> None:
    row = {**SAVED, "columns": {"sku": "TR-1", "price": 9.5, "tags": ["a"], "note": "größer\u2028als"}}
    (found,) = written(tmp_path, row)
    assert found == {**SAVED, "sku": "TR-1", "price": 9.5, "tags": ["a"], "note": "größer\u2028als"}


def test_a_column_with_the_name_of_a_member_gets_a_prefix(tmp_path: Path) -> None:
    columns = {"status": "in stock", "columns": {"a": 1}, "columns.status": "old", "cost": 5}
    first = written(tmp_path, {**SAVED, "columns": columns})
    assert first == [
        {
            **SAVED,
            "columns.status": "in stock",
            "columns.columns": {"a": 1},
            "columns.columns.status": "old",
            "columns.cost": 5,
        }
    ]
    assert written(tmp_path, *first) == first


def test_absent_members_are_null(tmp_path: Path) -> None:
    absent = dict.fromkeys(("id", "error", "seed", "cost"))
    assert written(tmp_path, {"key": "a", "status": "skipped"}) == [
        {**absent, "key": "a", "status": "skipped", "files": []}
    ]


def test_no_secret_is_written(tmp_path: Path) -> None:
    columns = {
        "page": "https://user:pw123456@host/a?token=t0ps3cret",
        "image": "data:image/png;base64,AAAA",
        "source": "s3://conn@b/a.png",
        "api_key": "k3y-of-a-vendor",
    }
    error = "GET https://host/a.mp4?X-Amz-Signature=t0ps3cret failed"
    (found,) = written(tmp_path, {**SAVED, "error": error, "columns": columns})
    text = json.dumps(found)
    assert not [word for word in ("t0ps3cret", "pw123456", "AAAA", "k3y-of-a-vendor") if word in text]
    assert found["source"] == "s3://conn@b/a.png"


def test_a_manifest_is_a_line_of_json_per_row(tmp_path: Path) -> None:
    uri = write_manifest(str(tmp_path / "deep" / "batch.jsonl"), [SAVED, {**FAILED, "error": "\ud83d a\nb"}])
    path = tmp_path / "deep" / "batch.jsonl"
    assert uri == f"file://{path}"
    lines = path.read_bytes().decode().split("\n")
    assert [json.loads(line)["key"] for line in lines[:-1]] == ["TR-1", "TR-2"]
    assert lines[-1] == ""
    assert [item.name for item in path.parent.iterdir()] == ["batch.jsonl"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_the_next_attempt_replaces_the_manifest(tmp_path: Path) -> None:
    assert written(tmp_path, SAVED, FAILED) == [SAVED, FAILED]
    assert written(tmp_path, SAVED) == [SAVED]


def test_a_failed_write_leaves_the_earlier_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write_manifest(tmp_path / "batch.jsonl", [SAVED])
    with monkeypatch.context() as patch:
        fail_writes(patch, OSError(28, "No space left"))
        with pytest.raises(OSError, match=r"batch\.jsonl could not be written, no video is lost") as caught:
            write_manifest(tmp_path / "batch.jsonl", [FAILED])
    assert caught.value.errno == 28
    assert list(read_manifest(uri)) == [SAVED]
    assert [item.name for item in tmp_path.iterdir()] == ["batch.jsonl"]


def test_rows_that_end_early_write_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield SAVED
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(tmp_path / "batch.jsonl", rows())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("store", ["memory", "object_store"])
def test_a_store_takes_and_gives_a_manifest(store: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(store)
    uri = write_manifest("memory://b/clips/batch.jsonl", [SAVED, FAILED])
    assert uri == "memory://b/clips/batch.jsonl"
    assert list(read_manifest(uri)) == [SAVED, FAILED]
    assert list(files_in(found)) == ["/b/clips/batch.jsonl"]


def test_the_address_keeps_the_name_of_the_connection(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.io import attach

    attach(protocol="memory", conn_id="store", fs=memory)
    monkeypatch.setenv("AIRFLOW_CONN_STORE", '{"conn_type": "generic"}')
    uri = write_manifest("memory://store@b/a.jsonl", [SAVED])
    assert uri == "memory://store@b/a.jsonl"
    assert list(read_manifest(uri)) == [SAVED]


def test_a_store_in_trouble_gets_the_manifest_again(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put, failures = memory.put_file, [OSError("busy"), OSError("busy")]

    def busy(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return put(*args, **kwargs)

    monkeypatch.setattr(memory, "put_file", busy)
    uri = write_manifest("memory://b/batch.jsonl", [SAVED], timing=PATIENCE)
    assert list(read_manifest(uri)) == [SAVED]


@pytest.mark.parametrize("path", ["batch.jsonl", "", "s3:///batch.jsonl"])
def test_a_manifest_needs_an_absolute_path(path: str) -> None:
    with pytest.raises(VaceInputError, match="manifest is"):
        write_manifest(path, [SAVED])
    with pytest.raises(VaceInputError, match="manifest is"):
        list(read_manifest(path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty"),
        ('{"key": "a", "status": "failed"}\n{"key": "b", "sta', "is truncated in its last line"),
        ('{"key": "a", "status": "failed"}', "is truncated in its last line"),
        ('{"key": "a", "status": "failed"}\n{"prompt": "a fox"}\n', "no row of a batch in line 2"),
        ('{\n  "format": 1\n}\n', "no row of a batch in line 1: is no JSON"),
        ("sku,prompt\n1,a fox\n", "no row of a batch in line 1: is no JSON"),
        ("[]\n", "no row of a batch in line 1"),
        ("\0\0\0\n", "is no UTF-8 text"),
        (None, "does not exist, or is no file"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "batch.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(VaceInputError, match=problem) as caught:
        list(read_manifest(path))
    assert str(path) in str(caught.value)
    assert caught.value.field == "manifest"


def test_rows_come_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    path.write_text(f"{json.dumps(SAVED)}\nno row\n")
    rows = read_manifest(path)
    assert next(rows) == SAVED
    with pytest.raises(VaceInputError, match="line 2"):
        next(rows)


def test_ten_thousand_rows_are_written_and_read(tmp_path: Path) -> None:
    rows = [{**SAVED, "key": f"TR-{number}", "columns": {"n": number}} for number in range(10_000)]
    assert [row["n"] for row in written(tmp_path, *rows)] == list(range(10_000))


def test_reading_a_manifest_imports_no_airflow_before_its_use() -> None:
    code = "import sys; from airflow_vace.batch import read_manifest; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    roots = {name.partition(".")[0] for name in loaded.split()}
    assert roots.isdisjoint({"airflow", "requests", "aiohttp", "fsspec"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\u2028\n ö", max_size=4), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(["key", "status", "columns", "columns.key", "files"]) | st.text("abcö ", max_size=5)


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_no_column_is_lost(tmp_path_factory: pytest.TempPathFactory, columns: dict[str, Any]) -> None:
    (found,) = written(tmp_path_factory.getbasetemp(), {**SAVED, "columns": columns})
    assert SAVED.items() <= found.items()
    further = sorted(json.dumps(value) for name, value in found.items() if name not in SAVED)
    assert further == sorted(json.dumps(value) for value in columns.values())
