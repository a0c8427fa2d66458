"""Airflow with Celery workers, and two of each part that may be two."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg2

from airflow_vace import throwaway
from cluster.airflow import Airflow
from cluster.processes import tree, until

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.servers import Postgres, Redis

PARTS = (
    "api-server",
    "scheduler-1",
    "scheduler-2",
    "dag-processor",
    "triggerer-1",
    "triggerer-2",
    "worker-1",
    "worker-2",
)
# Airflow notices a dead part after these seconds; comments give the defaults, too long for a test.
NOTICING = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",  # 300 s
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",  # 600 s
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",  # 120 s
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "30",  # the default
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "5",  # the default
}


class Cluster(Airflow):
    """Two schedulers, two triggerers, two Celery workers, DAG processor and API server.

    :param dags: text of DAG files, by name
    :param home: parent of its directory
    :param slots: tasks that a worker runs at a time
    """

    def __init__(
        self,
        database: Postgres,
        queue: Redis,
        dags: dict[str, str],
        connections: dict[str, str],
        *,
        home: Path,
        slots: int = 4,
        **settings: str,
    ) -> None:
        self.database = database
        self.code: dict[str, Path] = {}
        # Size of each part's log at its last start: what follows is of this start.
        self.log_starts: dict[str, int] = {}
        celery = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "64",
            "AIRFLOW__CELERY__BROKER_URL": queue.url,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database.url}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(slots),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "10",
        }
        super().__init__(database.url, dags, connections, settings=celery | NOTICING | settings, home=home)

    def start(self, *names: str) -> None:
        for name in names:
            log = self.home / f"{name}.log"
            self.log_starts[name] = log.stat().st_size if log.exists() else 0
        super().start(*names)

    def command_of(self, name: str) -> list[str]:
        if not name.startswith("worker"):
            return super().command_of(name)
        pid = str(self.home / f"{name}.pid")
        # Without `--without-mingle` a worker waits for answers of killed ones.
        return ["celery", "worker", "--celery-hostname", f"{name}@%h", "--pid", pid, "--without-mingle"]

    def environment_of(self, name: str) -> dict[str, str]:
        found = super().environment_of(name)
        if name.startswith("worker"):
            found["AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT"] = str(throwaway.free_port())
        if name.startswith("triggerer"):
            found["LOGNAME"] = name  # a job's row then shows which of the two it is
        if name in self.code:
            found["PYTHONPATH"] = os.pathsep.join([str(self.code[name]), found.get("PYTHONPATH", "")])
        return found

    def kill(self, *names: str) -> None:
        super().kill(*names)
        for name in names:
            # Celery refuses to start beside the file of a worker that had no time to remove it.
            (self.home / f"{name}.pid").unlink(missing_ok=True)

    def run_on(self, part: str, code: Path | None) -> None:
        """Set the version of the package for a part's next start; None is this one."""
        self.code.pop(part, None)
        if code is not None:
            self.code[part] = code

    def revive(self) -> None:
        """Start ended parts again, as a supervisor would."""
        ended = [name for name, part in self.parts.items() if part.poll() is not None]
        self.kill(*ended)
        self.start(*ended)

    def start_all(self) -> None:
        self.start(*PARTS)
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        """Wait for every part; the health check needs one of each kind only."""
        super().wait_until_healthy()
        wanted = {"SchedulerJob": 2, "TriggererJob": 2, "DagProcessorJob": 1}
        # The row of a killed part says "running" for some time, so its heartbeat counts.
        alive = (
            "SELECT job_type, count(*) FROM job"
            " WHERE state = 'running' AND latest_heartbeat > now() - interval '12 s'"
            " GROUP BY 1"
        )

        def are_there() -> bool:
            found = dict(self.sql(alive))
            return all(found.get(kind, 0) >= count for kind, count in wanted.items())

        until(are_there, 120)
        until(lambda: all(self._is_ready(name) for name in PARTS if name.startswith("worker")), 120)

    def _is_ready(self, worker: str) -> bool:
        return b" ready." in (self.home / f"{worker}.log").read_bytes()[self.log_starts[worker] :]

    def part_of(self, pid: int) -> str:
        """Return the name of a process's part."""
        return next(
            name for name, part in self.parts.items() if pid in {process.pid for process in tree(part.pid)}
        )

    def waits(self) -> dict[str, int]:
        """Return the number of waits by triggerer."""
        query = (
            "SELECT job.unixname, count(*) FROM trigger JOIN job ON job.id = trigger.triggerer_id GROUP BY 1"
        )
        return dict(self.sql(query))

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query, for questions about a thousand tasks at once."""
        with psycopg2.connect(self.database.url.replace("+psycopg2", "")) as connection:
            # An open transaction would hold back a restart of the database.
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, values)
                return list(cursor.fetchall())
