"""Rows and manifests in S3, through Airflow's connection, against a server with its protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_vace.batch import read_manifest
from airflow_vace.batch.manifest import write_manifest
from airflow_vace.batch.rows import read_rows
from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import DEFAULT_MODEL
from support.s3 import NEEDS_S3, S3, connected_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = NEEDS_S3
FOLDER = "s3://rows@clips/2026-11-28"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with connected_s3("rows") as server:
        yield server


def test_rows_of_more_than_one_block_are_read(s3: S3) -> None:
    text = "sku,prompt\n" + "".join(f'TR-{number},"a fox,\n{"running " * 150}"\n' for number in range(10_000))
    s3.client.put_object(Bucket="clips", Key="2026-11-28/products.csv", Body=text.encode())
    rows, bad = read_rows(f"{FOLDER}/products.csv", key="sku", model=DEFAULT_MODEL, check=lambda _: None)
    assert not bad
    assert [row.key for row in rows] == [f"TR-{number}" for number in range(10_000)]


def test_a_manifest_is_read_from_the_address_in_the_result(s3: S3) -> None:
    rows = [
        {"key": f"TR-{number}", "status": "succeeded", "columns": {"n": number}} for number in range(10_000)
    ]
    uri = write_manifest(f"{FOLDER}/batch.jsonl", rows)
    assert uri == f"{FOLDER}/batch.jsonl"
    assert [row["n"] for row in read_manifest(uri)] == list(range(10_000))
    assert list(s3.files("2026-11-28/batch")) == ["2026-11-28/batch.jsonl"]


@pytest.mark.parametrize("path", ["clips/none.csv", "clips", "absent/products.csv"])
def test_a_missing_file_or_bucket_is_named(s3: S3, path: str) -> None:
    assert s3.url
    with pytest.raises(VaceInputError, match=f"{path}'|no list and no file"):
        read_rows(f"s3://rows@{path}", key=None, model=DEFAULT_MODEL, check=lambda _: None)


def test_an_unknown_connection_is_named() -> None:
    with pytest.raises(VaceInputError, match="absent"):
        read_rows("s3://absent@clips/a.csv", key=None, model=DEFAULT_MODEL, check=lambda _: None)
