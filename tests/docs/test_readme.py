"""The README: short, with commands, a DAG, a log and a connection that work."""

from __future__ import annotations

import re
import runpy
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import Connection

from airflow_vace.client.settings import Settings
from airflow_vace.emulator import Emulator
from support.pages import README, blocks, dag_file, missing_line

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_readme_fits_a_few_screens() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.usefixtures("airflow_db")
def test_the_dag_of_the_readme_prints_the_log_of_the_readme(
    connect: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    (shown,) = blocks("readme", "text")
    with Emulator(time_scale=0.02) as emulator:
        connect(emulator.connection)
        run = runpy.run_path(str(dag_file("readme")))["dag"].test()
        assert {str(ti.state) for ti in run.get_task_instances()} == {"success"}
        assert emulator.bill["charged"] == 1
    assert missing_line("".join(capfd.readouterr()), shown) is None


def test_the_connection_of_the_readme_is_valid() -> None:
    (written,) = re.findall(r"^export AIRFLOW_CONN_VACE_DEFAULT='(.*)'$", README, re.MULTILINE)
    connection = Connection.from_json(written, conn_id="vace_default")
    api = Settings.of(connection, connection.extra_dejson).api
    assert (api.key, api.base_url, api.backend.name) == ("KEY", "https://gateway.example", "gateway")


def test_demo_and_tests_are_one_command_each_and_near_the_top() -> None:
    commands = re.findall(r"^\$ (python -m pip .*)$", "\n".join(README.splitlines()[:60]), re.MULTILINE)
    assert commands == [
        "python -m pip install -q uv && uv run vace-demo",
        "python -m pip install -q uv && uv run pytest",
    ]
