"""The cluster's own servers keep their promises when they are killed."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

if "VACE_CLUSTER" in os.environ:
    import psycopg2

    from cluster.servers import Postgres, Vendor

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("VACE_CLUSTER" not in os.environ, reason="VACE_CLUSTER is not set: needs PostgreSQL"),
]


def test_acknowledged_rows_survive_the_end_of_the_database() -> None:
    with Postgres() as server:
        address = server.url.replace("+psycopg2", "")

        def run(query: str, *values: int) -> list[tuple[int]]:
            with closing(psycopg2.connect(address)) as connection:
                connection.autocommit = True
                cursor = connection.cursor()
                cursor.execute(query, values)
                return list(cursor.fetchall())

        run("CREATE TABLE said AS SELECT 0 AS word; SELECT 1")
        for word in range(1, 4):
            run("INSERT INTO said VALUES (%s) RETURNING word", word)
            server.stop()
            server.start()
            assert len(run("SELECT word FROM said")) == word + 1


def test_a_killed_server_leaves_nothing_outside_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    # Other programs share the machine's own directory, so this test has one to itself.
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    with Vendor(home) as vendor:
        made = list(vendor.folder.rglob("vace-emulator-*"))
        vendor.stop()
    assert made
    assert list(elsewhere.iterdir()) == []
    assert list(home.iterdir()) == []
