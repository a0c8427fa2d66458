"""What a cluster stands on keeps its word: a strike is no excuse for what it had promised."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

if "VACE_CLUSTER" in os.environ:
    import psycopg2

    from cluster.servers import Postgres, Vendor

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("VACE_CLUSTER" not in os.environ, reason="VACE_CLUSTER is not set: needs PostgreSQL"),
]


def test_what_a_database_has_acknowledged_outlives_its_end() -> None:
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


def test_what_is_killed_leaves_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("vace-*"))
    with Vendor(tmp_path) as vendor:
        made = list(vendor.folder.rglob("vace-emulator-*"))
        vendor.stop()
    assert made
    assert set(Path(tempfile.gettempdir()).glob("vace-*")) <= before
    assert list(tmp_path.iterdir()) == []
