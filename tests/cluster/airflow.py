"""A whole Airflow in parts that tests kill and start again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import requests

from airflow_vace import throwaway
from cluster.processes import kill_tree, title, tree, until

if TYPE_CHECKING:
    from collections.abc import Callable

    import psutil


# Airflow notices dead parts within half a minute; the defaults take up to five.
NOTICING = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "30",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
}


class Airflow:
    """Airflow's parts as separate processes, and its REST API.

    :param dags: text of DAG files, by name
    :param execution_api: returns the address for workers, given the API server's
    :param home: parent of its directory (default: the system's for temporary files)
    """

    def __init__(
        self,
        database: str,
        dags: dict[str, str],
        connections: dict[str, str],
        execution_api: Callable[[str], str] = lambda address: address,
        settings: dict[str, str] | None = None,
        *,
        home: Path | None = None,
        **more: str,
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="vace-airflow-", dir=home))
        folder = self.home / "dags"
        folder.mkdir()
        for name, text in dags.items():
            (folder / f"{name}.py").write_text(text)
        port = throwaway.free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.environment = throwaway.environment_for(self.home) | {
            "TMPDIR": str(self.home),  # what is killed leaves its files there
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "20",
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "12",  # more than tests run at once, so no task waits for a slot
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
            "AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": "64",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__WORKERS": "1",  # each takes 300 MB
            # Each part would draw a secret, and refuse the tokens of the others.
            "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-this-test-that-is-long-enough-for-a-signature" * 2,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": execution_api(self.address) + "/execution/",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(throwaway.free_port()),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            **NOTICING,
            **{f"AIRFLOW_CONN_{name.upper()}": text for name, text in connections.items()},
            **(settings or {}),
            **more,
        }
        self.parts: dict[str, subprocess.Popen[bytes]] = {}
        throwaway.run_airflow(["db", "migrate"], self.environment, self.home / "migrate.log")

    def start(self, *names: str) -> None:
        """Start parts: `api-server`, `scheduler`, `dag-processor`, `triggerer`, `triggerer-2`, ..."""
        for name in names:
            with (self.home / f"{name}.log").open("ab") as log:
                self.parts[name] = subprocess.Popen(
                    [sys.executable, "-m", "airflow", *self.command_of(name)],
                    env=self.environment_of(name),
                    cwd=self.home,  # `-m` puts this first on the path, and the checkout must not be there
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # so Ctrl-C ends the test first, and its end all parts
                )

    def command_of(self, name: str) -> list[str]:
        """Return the arguments of `airflow` for a part."""
        return [name.rstrip("-0123456789")]

    def environment_of(self, name: str) -> dict[str, str]:
        environment = dict(self.environment)
        if name.startswith("triggerer"):
            environment["AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT"] = str(throwaway.free_port())
        return environment

    def kill(self, *names: str) -> None:
        """Send SIGKILL to all processes of parts."""
        for name in names:
            process = self.parts.pop(name)
            kill_tree(process.pid)
            process.wait()

    def pause(self, name: str) -> None:
        """Suspend a part's processes, as on a machine that hangs."""
        for process in tree(self.parts[name].pid):
            process.suspend()

    def go_on(self, name: str) -> None:
        for process in tree(self.parts[name].pid):
            process.resume()

    def __enter__(self) -> Self:
        try:
            self.start_all()
        except BaseException:  # `with` would call no `__exit__`, and the parts would go on
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(*self.parts)
        # The logs go with the directory, so a person in search of a cause copies them.
        kept = os.environ.get("VACE_KEEP_LOGS")
        if kept:
            shutil.copytree(self.home, f"{kept}/{self.home.name}", dirs_exist_ok=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def start_all(self) -> None:
        self.start("api-server", "scheduler", "dag-processor", "triggerer")
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        def is_healthy() -> bool:
            # Until the server listens, a connection is refused; then some parts are missing at first.
            with contextlib.suppress(requests.RequestException, ValueError):
                answer = requests.get(f"{self.address}/api/v2/monitor/health", timeout=5).json()
                names = ("metadatabase", "scheduler", "triggerer", "dag_processor")
                return all(answer[name]["status"] == "healthy" for name in names)
            return False

        until(is_healthy, 240)
        token = requests.get(f"{self.address}/auth/token", timeout=30).json()["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    def task_processes(self) -> list[psutil.Process]:
        """Return the processes of running tasks."""
        # LocalExecutor forks its workers from the scheduler, and each worker forks one task at a time.
        workers = [p for p in tree(self.parts["scheduler"].pid) if "LocalExecutor: " in title(p)]
        return [child for worker in workers for child in worker.children()]

    # --- REST --------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self.address}/api/v2{path}"
        answer = requests.request(method, url, json=body, headers=self.headers, timeout=60)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def wait_for_dags(self, *dag_ids: str) -> None:
        def are_there() -> bool:
            found = {dag["dag_id"] for dag in self.ask("GET", "/dags?limit=100")["dags"]}
            return set(dag_ids) <= found

        until(are_there, 120)

    def trigger(self, dag_id: str, run_id: str, **conf: Any) -> str:
        body = {"logical_date": None, "dag_run_id": run_id, "conf": conf}
        self.ask("POST", f"/dags/{dag_id}/dagRuns", body)
        return run_id

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        # Airflow cuts a page to 100, so a larger limit would lose tasks silently.
        while True:
            path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100&offset={len(found)}"
            page = self.ask("GET", path)
            found += page["task_instances"]
            if len(found) >= page["total_entries"]:
                return found

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        return {ti["task_id"]: ti["state"] for ti in self.tasks(dag_id, run_id)}

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.ask("PATCH", path, {"new_state": state})

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": list(task_ids), "only_failed": False}
        self.ask("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        self.ask("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": state})

    def command(self, *arguments: str) -> None:
        """Run `airflow` with arguments, as in a terminal."""
        command = [sys.executable, "-m", "airflow", *arguments]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        url = f"{self.address}/api/v2{path}"
        answer = requests.get(url, headers=self.headers, timeout=60)
        return answer.json()["value"] if answer.ok else None

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int) -> str:
        """Return the text of an attempt's log."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        content = self.ask("GET", path)["content"]
        lines = []
        for line in content:
            lines.append(f"{line.get('level', '')}: {line['event']}")
            # The message of an exception is not part of the event, yet a person sees both.
            lines += [f"{e['exc_type']}: {e['exc_value']}" for e in line.get("error_detail") or ()]
        return "\n".join(lines)
