"""A real scheduler, triggerer and API server: what `dag.test()` cannot show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace import demo
from airflow_vace.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.standalone,
    pytest.mark.skipif(
        "VACE_STANDALONE" not in os.environ, reason="VACE_STANDALONE is not set: takes minutes"
    ),
]

DAGS = Path(__file__).parent.parent / "dags"


class Airflow:
    """A running Airflow, asked over REST as a person would."""

    def __init__(self, address: str, environment: dict[str, str]) -> None:
        self.address = address
        self.environment = environment
        token = requests.get(f"{address}/auth/token", timeout=30).json()["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self.address}/api/v2{path}"
        answer = requests.request(method, url, json=body, headers=self.headers, timeout=60)
        assert answer.ok, answer.text
        return answer.json()

    def trigger(self, dag_id: str, **conf: Any) -> str:
        body = {"logical_date": None, "conf": conf}
        run_id: str = self.ask("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"]
        return run_id

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str]:
        found = self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {ti["task_id"]: ti["state"] for ti in found}

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.ask("GET", path)["value"]

    def trigger_rows(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the kwargs of all triggers in the database, decrypted."""
        code = (
            "import json; from airflow.models.trigger import Trigger\n"
            "from airflow.utils.session import create_session\n"
            "with create_session() as session:\n"
            "    print(json.dumps([[t.classpath, t.kwargs] for t in session.query(Trigger)]))"
        )
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        rows: list[tuple[str, dict[str, Any]]] = json.loads(found.stdout.splitlines()[-1])
        return rows


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Ask again and again until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, "not so in time"
        time.sleep(0.5)
    return answer


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, emulator: Emulator) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    dags = home / "dags"
    shutil.copytree(DAGS, dags)
    port = demo._free_port()
    environment = demo._environment(home) | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(demo._free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(demo._free_port()),
        "AIRFLOW_CONN_VACE_DEFAULT": emulator.connection,
    }
    log = home / "airflow.log"
    demo._run_airflow(["db", "migrate"], environment, log)
    command = [sys.executable, "-m", "airflow", "standalone"]
    with demo._started(command, environment, log) as process:
        address = f"http://127.0.0.1:{port}"
        demo._wait_until_healthy(address, process, log)
        running = Airflow(address, environment)
        until(lambda: running.ask("GET", "/dags")["total_entries"] == 4)
        yield running


def test_a_run_triggered_over_rest_defers_and_succeeds(
    airflow: Airflow, emulator: Emulator, tmp_path: Path
) -> None:
    run_id = airflow.trigger("vace_text_to_video", prompt="a cat", save_to=f"{tmp_path}/")
    until(lambda: airflow.tasks("vace_text_to_video", run_id)["wait"] == "deferred")
    rows = airflow.trigger_rows()
    until(lambda: set(airflow.tasks("vace_text_to_video", run_id).values()) == {"success"})
    ((classpath, kwargs),) = rows
    assert classpath == "airflow_vace.triggers.VacePredictionTrigger"
    assert kwargs["deadline"] > time.time()
    payload = airflow.xcom("vace_text_to_video", run_id, "wait")
    assert payload["status"] == "succeeded"
    assert kwargs["prediction"]["id"] == payload["id"]
    (video,) = tmp_path.rglob("*.mp4")
    assert video.as_uri() == payload["files"][0]["uri"]
    assert video.name == f"wait-{payload['id']}.mp4"
    path = f"/dags/vace_text_to_video/dagRuns/{run_id}/taskInstances/wait/links"
    assert airflow.ask("GET", path)["extra_links"]["Prediction"] == payload["urls"]["web"]
    assert emulator.api_key not in json.dumps([rows, payload])
    assert emulator.bill["charged"] == 1
