"""`vace-reconcile` with a real Airflow: records in its database, read by its REST API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import requests
from airflow.sdk import DAG

from airflow_vace.emulator import Emulator
from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from airflow_vace.reconcile.cli import main
from conftest import scale_waits
from support.api_server import USERS, api_server
from support.runs import run
from support.supervisor import needs_airflow_3_3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
FOREIGN = 20
BATCH, MAPPED = 196, 4


@dataclass
class Account:
    """An emulator, an Airflow, and the ids of the predictions by owner."""

    server: Emulator
    airflow: str
    ours: set[str]
    orphans: set[str]
    foreign: set[str]


class Clip(VacePredictionOperator):
    """An author's own operator."""


def foreign_prediction(server: Emulator, number: int) -> str:
    """Submit a prediction as another program with the same key does."""
    answer = requests.post(
        f"{server.url}/replicate/v1/models/prunaai/vace-14b/predictions",
        json={"input": {"prompt": f"a stray dog {number}", "frame_num": 5}},
        headers={"Authorization": f"Bearer {server.api_key}"},
        timeout=30,
    )
    found = server.world.runs[answer.json()["id"]]
    # Some minutes away from all intents, since without an input only the time is left.
    found.timeline.created -= 600
    return found.id


def ids(server: Emulator) -> set[str]:
    return set(server.world.runs)


def lose_creates(server: Emulator) -> None:
    """Let creates be accepted without an answer, while the list is not readable."""
    server.faults.add(method="POST", path="*/predictions", times=None, accept=True, status=502)
    server.faults.add(method="GET", path="*/predictions", times=None, status=503)


def failing_dag(task: str, folder: Path) -> DAG:
    with DAG(f"lost_{task}", schedule=None) as dag:
        if task == "batch":
            rows = [{"prompt": "a heron", "sku": "heron-1"}]
            VaceBatchOperator(task_id="clips", inputs=rows, key="sku", save_to=f"{folder}/")
        elif task == "subclass":
            Clip(task_id="clip", input={"prompt": "a heron"})
        else:
            VacePredictionOperator.partial(task_id="clip").expand(input=[{"prompt": "a heron"}])
    return dag


@pytest.fixture(scope="module")
def account(airflow_db: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    assert airflow_db
    folder = tmp_path_factory.mktemp("reconcile")
    rows = [{"prompt": f"fox {number}", "frame_num": 1, "sku": f"sku-{number}"} for number in range(BATCH)]
    with (
        pytest.MonkeyPatch.context() as patch,
        # Emulators of one seed make equal ids, and other tests' runs are in the same Airflow.
        Emulator(time_scale=0.0002, seed=2000) as server,
        api_server(folder) as airflow,
    ):
        scale_waits(patch, 0.01, max_trouble_seconds=0.5, intent_grace_seconds=0.3)
        connection = server.connection_to(lists=True, prices=PRICES)
        patch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
        with DAG("ours", schedule=None) as dag:
            VaceBatchOperator(task_id="clips", inputs=rows, key="sku", save_to=f"{folder}/", max_in_flight=50)
            VacePredictionOperator.partial(task_id="clip").expand(
                input=[{"prompt": f"dog {number}"} for number in range(MAPPED)]
            )
        run(dag)
        ours = ids(server)
        foreign = {foreign_prediction(server, number) for number in range(FOREIGN)}
        orphans: set[str] = set()
        for task in ("batch", "subclass", "mapped"):
            before = ids(server)
            lose_creates(server)
            run(failing_dag(task, folder))
            server.faults.clear()
            orphans |= ids(server) - before
        yield Account(server, airflow, ours, orphans, foreign)


@pytest.fixture
def reconciled(account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    connection = account.server.connection_to(lists=True, prices=PRICES)
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
    monkeypatch.setenv("AIRFLOW_CLI_PASSWORD", USERS["viewer"])

    def reconcile(*arguments: str, since: str = "2026-01-01") -> tuple[int, Any]:
        given = ["--since", since, "--airflow-url", account.airflow, "--username", "viewer", *arguments]
        status = main(given)
        out = capsys.readouterr().out
        # The API server of this process logs to the same output.
        lines = [line for line in out.splitlines() if line.startswith("{")]
        return status, json.loads(lines[0]) if "--json" in arguments else out

    return reconcile


@needs_airflow_3_3
def test_each_prediction_of_an_account_has_its_owner(account: Account, reconciled: Any) -> None:
    status, found = reconciled("--json")
    owners: dict[str, set[str]] = {"ours": set(), "orphan": set(), "foreign": set()}
    for row in found["predictions"]:
        owners[row["owner"]].add(row["id"])
    assert len(account.ours) == BATCH + MAPPED
    assert owners == {"ours": account.ours, "orphan": account.orphans, "foreign": account.foreign}
    assert status == found["exit_code"] == 1
    assert found["troubles"] == []
    assert {name: total["amounts"]["USD"] for name, total in found["totals"].items()} == {
        "ours": "80.00",
        "orphan": "1.20",
        "foreign": "8.00",
    }


def test_each_prediction_of_ours_has_its_task(account: Account, reconciled: Any) -> None:
    _, found = reconciled("--json")
    rows = {row["id"]: row["task"] for row in found["predictions"] if row["owner"] == "ours"}
    assert set(rows) == account.ours
    prompts = {run.id: run.input["prompt"] for run in account.server.world.runs.values()}
    for identifier, task in rows.items():
        kind, number = prompts[identifier].split()
        assert (task["dag_id"], task["run_id"][:8]) == ("ours", "manual__")
        if kind == "fox":
            assert (task["task_id"], task["item"]) == ("clips", f"sku-{number}")
        else:
            assert (task["task_id"], task["map_index"]) == ("clip", int(number))


@needs_airflow_3_3
def test_an_orphan_comes_with_its_task_and_the_next_step(account: Account, reconciled: Any) -> None:
    status, text = reconciled()
    assert status == 1
    assert "    ours 200 predictions, " in text
    assert "ours.clips: 196 predictions, " in text
    assert "  orphan 3 predictions, " in text
    assert " foreign 20 predictions, " in text
    for identifier in account.orphans:
        (_, after) = text.split(f"Orphan {identifier}: succeeded, created ")
        _, reason, advice = after.splitlines()[:3]
        assert reason.startswith("  Of lost_")
        assert "It is billed. Clear the task: its next attempt continues with this prediction." in advice
    assert "Of lost_batch.clips, run manual__" in text
    assert ", item heron-1, whose create of " in text
    assert "Of lost_mapped.clip[0], run manual__" in text
    assert account.server.api_key not in text


def test_later_predictions_only(reconciled: Any) -> None:
    status, text = reconciled(since=datetime.now(UTC).isoformat())
    assert status == 0
    assert "ours 0 predictions, 0 s" in text


@needs_airflow_3_3
def test_the_program_prints_nothing_but_json(account: Account) -> None:
    environment = {
        **os.environ,
        "AIRFLOW_CONN_VACE_DEFAULT": account.server.connection_to(lists=True),
        "AIRFLOW_CLI_PASSWORD": USERS["viewer"],
    }
    command = [sys.executable, "-m", "airflow_vace.reconcile.cli", "--since", "2026-01-01", "--json"]
    command += ["--airflow-url", account.airflow, "--username", "viewer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert len(found["predictions"]) == 223
    # Without a price nothing is guessed.
    assert found["totals"]["ours"] | {"predict_seconds": 0} == {
        "count": 200,
        "predict_seconds": 0,
        "amounts": {},
        "unpriced": 200,
    }


def test_a_user_without_rights_checks_nothing(
    account: Account, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", account.server.connection_to(lists=True))
    given = ["--since", "2026-01-01", "--airflow-url", account.airflow, "--username"]
    monkeypatch.setenv("AIRFLOW_CLI_PASSWORD", USERS["nobody"])
    assert main([*given, "nobody"]) == 2
    assert "needs to read task instances and XComs" in capsys.readouterr().err
    assert main([*given, "viewer"]) == 2
    assert "gave no token (401): set AIRFLOW_CLI_TOKEN" in capsys.readouterr().err


@needs_airflow_3_3
def test_without_inputs_an_orphan_is_probable(
    account: Account, reconciled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The vendor deletes inputs after an hour.
    monkeypatch.setattr(account.server.world, "retention", 0.0)
    status, found = reconciled("--json")
    assert status == 1
    assert {row["id"] for row in found["predictions"] if row["owner"] == "ours"} == account.ours
    orphans = [row for row in found["predictions"] if row["owner"] == "orphan"]
    assert {row["id"] for row in orphans} == account.orphans
    for row in orphans:
        assert row["reason"].startswith("Probably of lost_")
        assert "nothing can be fetched. To submit again, clear the task with" in row["advice"]
        assert not row["is_certain"]
