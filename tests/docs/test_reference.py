"""The pages of reference and explanation: parameters, settings, connections, hook, policy and test work."""

from __future__ import annotations

import ast
import configparser
import inspect
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import Connection

import airflow_vace
from airflow_vace.client.settings import Settings
from airflow_vace.emulator.faults import PRESETS, Fault
from airflow_vace.exceptions import VaceRateLimited, VaceTransportError
from airflow_vace.inputs import FIELDS
from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from airflow_vace.provider_info import get_provider_info
from airflow_vace.sensors import VacePredictionSensor
from support.films import MP4
from support.pages import PAGES, blocks, dag_file
from support.stores import files_in

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator


@pytest.mark.usefixtures("airflow_db")
def test_the_dag_of_the_page_on_files_saves_into_a_store(fast_emulator: Emulator, memory: Any) -> None:
    memory.pipe_file("/my-bucket/in/fox.mp4", MP4)
    run = runpy.run_path(str(dag_file("files")))["dag"].test()
    assert {str(ti.state) for ti in run.get_task_instances()} == {"success"}
    assert fast_emulator.bill["charged"] == 1
    saved = [path for path in files_in(memory) if path.startswith("/my-bucket/out/")]
    assert [path.rpartition(".")[2] for path in saved] == ["mp4", "jpg", "json"]


@pytest.mark.dags
def test_the_test_of_the_page_on_the_emulator_passes(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("emulator", "python") if "def test_" in block]
    (tmp_path / "test_block.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "1 passed" in found.stdout, found.stdout


def test_the_function_of_the_page_on_the_hook_works(fast_emulator: Emulator) -> None:
    (block,) = blocks("hook", "python")
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - it is our own page
    assert names["video_of"]("a fox").startswith(fast_emulator.url)


def test_the_retry_policy_of_the_page_on_retries_waits_out_a_limit() -> None:
    sdk = pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="Airflow 3.3 brings it")
    (block,) = [block for block in blocks("retries-and-money", "python") if "ExceptionRetryPolicy" in block]
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - it is our own page
    task = VacePredictionOperator(task_id="t", input="{}", retries=5, retry_policy=names["patiently"])
    limited = VaceRateLimited("slow down", status_code=429)
    assert task.retry_policy is not None
    decision = task.retry_policy.evaluate(limited, 1, 5)
    assert (decision.action, decision.retry_delay) == (sdk.RetryAction.RETRY, timedelta(minutes=5))
    other = task.retry_policy.evaluate(VaceTransportError("no answer", sent=False), 1, 5)
    assert other.action is sdk.RetryAction.DEFAULT


CONNECTIONS = re.findall(r"^export AIRFLOW_CONN_VACE_DEFAULT='(.*)'$", PAGES["connection"], re.MULTILINE)


@pytest.mark.parametrize("written", CONNECTIONS)
def test_the_connections_of_the_page_are_valid(written: str) -> None:
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


def test_the_page_on_the_connection_has_all_kinds_of_connections() -> None:
    assert len(CONNECTIONS) == 4


def test_every_field_of_the_connection_is_on_its_page() -> None:
    (kind,) = get_provider_info()["connection-types"]
    assert all(f"`{name}`" in PAGES["connection"] for name in kind["conn-fields"])


@pytest.mark.parametrize(
    ("task", "page"),
    [
        (VacePredictionOperator, "operators"),
        (VaceBatchOperator, "operators"),
        (VacePredictionSensor, "sensor"),
    ],
)
def test_every_parameter_is_on_the_page_of_its_task(task: type, page: str) -> None:
    names = set(inspect.signature(task).parameters) - {"kwargs"}
    assert [name for name in names if f"`{name}`" not in PAGES[page]] == []


def test_every_input_is_on_the_page_on_inputs() -> None:
    assert [name for name in FIELDS if f"`{name}`" not in PAGES["inputs"]] == []


def test_every_setting_is_on_the_page_on_settings() -> None:
    options = get_provider_info()["config"]["vace"]["options"]
    assert set(options) == set(re.findall(r"^\| `(\w+)`", PAGES["settings"], re.MULTILINE))
    (shown,) = blocks("screens", "ini")
    parser = configparser.ConfigParser()
    parser.read_string(shown)
    assert set(parser["vace"]) <= set(options)


def test_every_preset_of_a_fault_is_on_the_page_on_tests() -> None:
    assert [name for name in (*PRESETS, "rate_limited") if f"`{name}`" not in PAGES["testing"]] == []


def test_every_member_of_a_fault_is_on_the_page_on_tests_with_its_default() -> None:
    for known in fields(Fault):
        (row,) = [
            line for line in PAGES["testing"].splitlines() if re.match(rf"\|.*`{known.name}`.*\|.*\|", line)
        ]
        default = known.default
        if isinstance(default, int | float) and not isinstance(default, bool) and default:
            assert f"{default:g}" in row.split("|")[2], row


def test_the_reference_describes_every_public_name() -> None:
    described = {name for page in PAGES.values() for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert described == {
        "airflow_vace.batch.read_manifest",
        "airflow_vace.decorators.vace_task",
        "airflow_vace.exceptions",
        "airflow_vace.hooks.VaceHook",
        "airflow_vace.triggers.VacePredictionTrigger",
    }


def strings_of(path: Path) -> list[str]:
    """Return the strings of a source file; `…` stands for the values of an f-string."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(re.sub(r"%\.?\d*[srdf]", "…", node.value))
    return found


def test_every_message_of_the_page_on_troubleshooting_is_one_of_the_package() -> None:
    shown = re.findall(r"^\| `([^`]+)` \|", PAGES["troubleshooting"], re.MULTILINE)
    assert len(shown) > 25
    said = [text for path in Path(airflow_vace.__file__).parent.rglob("*.py") for text in strings_of(path)]
    unknown = [
        message
        for message in shown
        if not any(all(part.strip() in text for part in message.split("…")) for text in said)
    ]
    assert unknown == []
