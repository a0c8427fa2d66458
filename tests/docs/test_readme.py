"""The README: its DAGs, its test, its hook, its policy and its connections work."""

from __future__ import annotations

import inspect
import re
import runpy
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import Connection

from airflow_vace.client.settings import Settings
from airflow_vace.exceptions import VaceRateLimited, VaceTransportError
from airflow_vace.inputs import FIELDS
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from support.films import MP4
from support.stores import files_in

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_dags_of_the_readme_run(fast_emulator: Emulator, airflow_db: str, memory: Any) -> None:
    memory.pipe_file("/my-bucket/in/fox.mp4", MP4)
    paths = sorted((Path(airflow_db).parent / "dags").glob("readme_*.py"))
    dags = [runpy.run_path(str(path))["dag"] for path in paths]
    assert [dag.dag_id for dag in dags] == ["fox", "zoo", "beach", "restyle"]
    for dag, charged in zip(dags, (1, 4, 6, 7), strict=True):
        run = dag.test()
        assert {str(ti.state) for ti in run.get_task_instances()} == {"success"}
        assert fast_emulator.bill["charged"] == charged
    saved = [path for path in files_in(memory) if path.startswith("/my-bucket/out/")]
    assert [path.rpartition(".")[2] for path in saved] == ["mp4", "json"]


def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if "def test_" in block]
    (tmp_path / "test_readme_block.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "1 passed" in found.stdout, found.stdout


def test_the_hook_of_the_readme_works(fast_emulator: Emulator) -> None:
    (block,) = [block for block in BLOCKS if "def video_of" in block]
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - it is our own README
    assert names["video_of"]("a fox").startswith(fast_emulator.url)


def test_the_retry_policy_of_the_readme_waits_out_a_limit() -> None:
    sdk = pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="Airflow 3.3 brings it")
    (block,) = [block for block in BLOCKS if "ExceptionRetryPolicy" in block]
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - it is our own README
    task = VacePredictionOperator(task_id="t", input="{}", retries=5, retry_policy=names["patiently"])
    limited = VaceRateLimited("slow down", status_code=429)
    assert task.retry_policy is not None
    decision = task.retry_policy.evaluate(limited, 1, 5)
    assert (decision.action, decision.retry_delay) == (sdk.RetryAction.RETRY, timedelta(minutes=5))
    other = task.retry_policy.evaluate(VaceTransportError("no answer", sent=False), 1, 5)
    assert other.action is sdk.RetryAction.DEFAULT


CONNECTIONS = re.findall(r"^export AIRFLOW_CONN_VACE_DEFAULT='(.*)'$", README, re.MULTILINE)


@pytest.mark.parametrize("written", CONNECTIONS)
def test_the_connections_of_the_readme_are_valid(written: str) -> None:
    read = Connection.from_json if written.startswith("{") else Connection.from_uri
    connection = read(written, conn_id="vace_default")
    api = Settings.of(connection, connection.extra_dejson).api
    assert api.key == "KEY"
    assert api.base_url in {
        "https://gateway.example",
        "https://api.replicate.com",
        "https://gateway.example:8443",
        "http://127.0.0.1:8642",
    }
    assert api.backend.name == ("replicate" if "replicate" in written else "gateway")


@pytest.mark.parametrize("task", [VacePredictionOperator, VacePredictionSensor])
def test_every_parameter_is_in_the_readme(task: type) -> None:
    names = set(inspect.signature(task).parameters) - {"kwargs"}
    assert all(f"`{name}`" in README for name in names)
    assert all(f"`{name}`" in README for name in FIELDS)


def test_demo_and_tests_are_one_command_each() -> None:
    commands = re.findall(r"^\$ (python -m pip .*)$", README, re.MULTILINE)
    assert commands == [
        "python -m pip install -q uv && uv run vace-demo",
        "python -m pip install -q uv && uv run pytest",
    ]
