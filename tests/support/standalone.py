"""A whole Airflow on this machine, with its REST API."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from airflow_vace import throwaway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAGS = Path(__file__).parents[2] / "dags"


class Airflow:
    """The REST API of a running Airflow."""

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
    """Return the first true result of a condition, evaluated twice a second.

    :raises AssertionError: after `seconds` without one
    """
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, "not so in time"
        time.sleep(0.5)
    return answer


@contextlib.contextmanager
def whole_airflow(home: Path, connection: str, **settings: str) -> Iterator[Airflow]:
    """Run an Airflow with the example DAGs and the connection `vace_default`."""
    dags = home / "dags"
    if not dags.exists():
        shutil.copytree(DAGS, dags)
    port = throwaway.free_port()
    environment = throwaway.environment_for(home) | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(throwaway.free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(throwaway.free_port()),
        "AIRFLOW_CONN_VACE_DEFAULT": connection,
        **settings,
    }
    log = home / "airflow.log"
    throwaway.run_airflow(["db", "migrate"], environment, log)
    command = [sys.executable, "-m", "airflow", "standalone"]
    with throwaway.started(command, environment, log) as process:
        address = f"http://127.0.0.1:{port}"
        throwaway.wait_until_healthy(address, process, log)
        running = Airflow(address, environment)
        wanted = len(list(dags.glob("*.py")))
        until(lambda: running.ask("GET", "/dags")["total_entries"] >= wanted)
        yield running
