"""Airflow ends tasks in every known way; the tests count the cancels at the vendor."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.models import FIRST_VERSION

if "VACE_CRASH" in os.environ:
    import psutil

    from cluster import Airflow, kill_tree, postgres, table, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif("VACE_CRASH" not in os.environ, reason="VACE_CRASH is not set: takes minutes"),
]

DAGS = """
from datetime import timedelta

from airflow.sdk import DAG

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor


def operator(task_id, **kwargs):
    return VacePredictionOperator(
        task_id=task_id,
        input={"prompt": "{{ run_id }} {{ task.task_id }}"},
        wait_for_completion=True,
        **{"deferrable": True, "retries": 2, "retry_delay": timedelta(seconds=1), **kwargs},
    )


def sensor(task_id, **kwargs):
    return VacePredictionSensor(
        task_id=task_id,
        prediction="{{ dag_run.conf[task.task_id] }}",
        **{"deferrable": True, "retries": 2, "retry_delay": timedelta(seconds=1), **kwargs},
    )


SHORT = {"deferrable": False, "execution_timeout": timedelta(seconds=8), "retries": 0}
POKING = {"deferrable": False, "poke_interval": 2}

with DAG("deferred", schedule=None):
    for act in ("failed", "success", "clear", "cli", "slow"):
        operator(f"operator_{act}")
        sensor(f"sensor_{act}")
        sensor(f"canceling_{act}", cancel_on_kill=True)

with DAG("on_worker", schedule=None):
    for act in ("failed", "success", "clear", "evicted"):
        operator(f"operator_{act}", deferrable=False)
        sensor(f"sensor_{act}", **POKING)
        sensor(f"canceling_{act}", cancel_on_kill=True, **POKING)

with DAG("timed", schedule=None):
    operator("operator_evicted_last", deferrable=False, retries=0)
    operator("operator_execution", **SHORT)
    sensor("sensor_execution", poke_interval=2, **SHORT)
    sensor("canceling_execution", poke_interval=2, cancel_on_kill=True, **SHORT)
    operator("operator_deadline", timeout=20)
    operator("operator_deadline_kept", timeout=20, cancel_on_timeout=False)
    operator("operator_deadline_worker", timeout=20, deferrable=False)
    sensor("sensor_deadline", timeout=20)
    sensor("canceling_deadline", timeout=20, cancel_on_kill=True)

with DAG("kept", schedule=None):
    operator("operator")
    sensor("sensor")
    sensor("canceling", cancel_on_kill=True)
"""

KINDS = ("operator", "sensor", "canceling")
TASKS = {
    "deferred": [f"{kind}_{act}" for kind in KINDS for act in ("failed", "success", "clear", "cli", "slow")],
    "on_worker": [f"{kind}_{act}" for kind in KINDS for act in ("failed", "success", "clear", "evicted")],
    "timed": [
        *("operator_evicted_last", "operator_execution", "sensor_execution", "canceling_execution"),
        *("operator_deadline", "operator_deadline_kept", "operator_deadline_worker"),
        *("sensor_deadline", "canceling_deadline"),
    ],
    "kept": list(KINDS),
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=100) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(emulator: Emulator) -> Iterator[Airflow]:
    connections = {"vace_default": emulator.connection_to(backend="replicate")}
    with postgres() as database, Airflow(database, {"ends": DAGS}, connections) as running:
        running.wait_for_dags(*TASKS)
        yield running


class Started:
    """One run of a DAG in which each task waits for another prediction."""

    def __init__(self, airflow: Airflow, emulator: Emulator, dag_id: str, run_id: str) -> None:
        self.airflow, self.emulator, self.dag_id, self.run_id = airflow, emulator, dag_id, run_id
        self.given = {
            task: self._submitted(task) for task in TASKS[dag_id] if not task.startswith("operator")
        }
        airflow.trigger(dag_id, run_id, **self.given)

    def _submitted(self, task_id: str) -> str:
        url = f"{self.emulator.url}/v1/predictions"
        headers = {"Authorization": f"Bearer {self.emulator.api_key}"}
        body = {"version": FIRST_VERSION, "input": {"prompt": f"{self.run_id} {task_id}"}}
        identifier: str = requests.post(url, json=body, headers=headers, timeout=30).json()["id"]
        return identifier

    def predictions(self, task_id: str) -> list[str]:
        prompt = f"{self.run_id} {task_id}"
        return [run.id for run in self.emulator.world.runs.values() if run.input["prompt"] == prompt]

    def polls(self, task_id: str) -> int:
        found = self.predictions(task_id)
        paths = [seen.path for seen in self.emulator.requests if seen.method == "GET"]
        return sum(path.rpartition("/")[2] in found for path in paths)

    def cancels(self, task_id: str) -> int:
        """Return the number of a task's predictions with a cancel request."""
        paths = {seen.path for seen in self.emulator.requests if seen.path.endswith("/cancel")}
        return sum(any(f"/{found}/" in path for path in paths) for found in self.predictions(task_id))

    def state(self, task_id: str) -> str:
        return self.airflow.states(self.dag_id, self.run_id)[task_id]

    def wait_until_polled(self, *task_ids: str, times: int = 2) -> None:
        """Wait for another poll of each prediction; a worker makes the first, a triggerer the rest."""
        before = {task_id: self.polls(task_id) for task_id in task_ids}
        until(lambda: all(self.polls(t) >= times and self.polls(t) > before[t] for t in task_ids), 240)

    def pid(self, task_id: str) -> int:
        """Return the process id of a task."""
        (found,) = (ti for ti in self.airflow.tasks(self.dag_id, self.run_id) if ti["task_id"] == task_id)
        return int(found["pid"])


def of(kind: str, run: Started) -> list[str]:
    return [task for task in TASKS[run.dag_id] if task.endswith(f"_{kind}")]


def counted(run: Started) -> dict[str, tuple[int, int]]:
    """Return, and print, the numbers of billed and of canceled predictions of each task."""
    found = {task: (len(run.predictions(task)), run.cancels(task)) for task in TASKS[run.dag_id]}
    states = run.airflow.states(run.dag_id, run.run_id)
    rows = [(run.run_id, task, states[task], *numbers) for task, numbers in found.items()]
    print(table(("run", "task", "state", "billed", "canceled"), rows))  # noqa: T201 - a table for people
    return found


def test_only_the_end_of_a_deferred_task_cancels(airflow: Airflow, emulator: Emulator) -> None:
    run = Started(airflow, emulator, "deferred", "deferred_1")
    run.wait_until_polled(*TASKS["deferred"], times=2)
    for task in of("slow", run):
        emulator.faults.add(path=f"*/{run.predictions(task)[0]}/cancel", delay=10)
        # The vendor takes ten seconds for this cancel, longer than Airflow waits for a trigger.
        airflow.mark("deferred", run.run_id, task, "failed")
    for state in ("failed", "success"):
        for task in of(state, run):
            airflow.mark("deferred", run.run_id, task, state)
    before = {task: run.polls(task) for task in [*of("clear", run), *of("cli", run)]}
    airflow.clear("deferred", run.run_id, *of("clear", run))
    airflow.command("tasks", "clear", "deferred", "--yes", "--task-regex", "_cli$")
    until(lambda: all(run.polls(task) >= polls + 3 for task, polls in before.items()), 240)
    until(lambda: run.cancels("operator_slow") == 1)
    until(
        lambda: all(
            emulator.world.runs[run.predictions(task)[0]].canceled is not None
            for task in ("operator_slow", "canceling_slow")
        )
    )
    # A clear goes on with the prediction, and a plain sensor waits for a prediction of somebody else.
    ended = ("failed", "success", "slow")
    wanted = {
        task: (1, int(task.endswith(ended) and not task.startswith("sensor"))) for task in TASKS["deferred"]
    }
    assert counted(run) == wanted


@pytest.mark.parametrize("state", ["failed", "success"])
def test_the_end_of_a_dag_run_cancels(airflow: Airflow, emulator: Emulator, state: str) -> None:
    run = Started(airflow, emulator, "kept", f"marked_{state}")
    run.wait_until_polled(*TASKS["kept"])
    airflow.mark_run("kept", run.run_id, state)
    until(lambda: run.cancels("operator") and run.cancels("canceling"))
    assert counted(run) == {"operator": (1, 1), "sensor": (1, 0), "canceling": (1, 1)}


def test_a_task_ended_on_a_worker_cancels_and_an_evicted_one_goes_on(
    airflow: Airflow, emulator: Emulator
) -> None:
    run = Started(airflow, emulator, "on_worker", "on_worker_1")
    run.wait_until_polled(*TASKS["on_worker"])
    workers = []
    for task in of("evicted", run):
        worker = psutil.Process(run.pid(task)).parent()
        assert worker is not None
        worker.terminate()  # as the kubelet does first ...
        workers.append(worker)
    for state in ("failed", "success"):
        for task in of(state, run):
            airflow.mark("on_worker", run.run_id, task, state)
    before = {task: run.polls(task) for task in [*of("clear", run), *of("evicted", run)]}
    airflow.clear("on_worker", run.run_id, *of("clear", run))
    time.sleep(4)  # ... and SIGKILL follows some time later
    for worker in workers:
        kill_tree(worker.pid)
    until(
        lambda: all(
            run.cancels(f"{kind}_{s}") for kind in ("operator", "canceling") for s in ("failed", "success")
        )
    )

    def goes_on(task: str) -> bool:
        (found,) = (ti for ti in airflow.tasks("on_worker", run.run_id) if ti["task_id"] == task)
        return found["try_number"] > 1 and found["state"] == "running" and run.polls(task) > before[task] + 2

    until(lambda: all(goes_on(task) for task in before), 300)
    wanted = {
        task: (1, int(task.endswith(("failed", "success")) and not task.startswith("sensor")))
        for task in TASKS["on_worker"]
    }
    assert counted(run) == wanted
    airflow.mark_run("on_worker", run.run_id, "failed")
    until(lambda: set(airflow.states("on_worker", run.run_id).values()) <= {"failed", "success", "skipped"})


def test_timeouts_and_a_last_eviction_cancel(airflow: Airflow, emulator: Emulator) -> None:
    run = Started(airflow, emulator, "timed", "timed_1")
    run.wait_until_polled("operator_evicted_last")
    worker = psutil.Process(run.pid("operator_evicted_last")).parent()
    assert worker is not None
    worker.terminate()  # no retry is to come, so nobody would go on with the prediction
    until(lambda: run.cancels("operator_evicted_last"))
    kill_tree(worker.pid)
    until(lambda: set(airflow.states("timed", run.run_id).values()) == {"failed"}, 300)
    # Only an operator owns its prediction; a sensor cancels if its author says so.
    canceled = {
        *("operator_evicted_last", "operator_execution", "canceling_execution"),
        *("operator_deadline", "operator_deadline_worker"),
    }
    assert counted(run) == {task: (1, int(task in canceled)) for task in TASKS["timed"]}


def test_the_hand_over_of_a_hanging_triggerer_cancels_nothing(airflow: Airflow, emulator: Emulator) -> None:
    run = Started(airflow, emulator, "kept", "kept_1")
    run.wait_until_polled(*TASKS["kept"])
    airflow.start("triggerer-2")
    airflow.pause("triggerer")
    time.sleep(12)  # beyond its threshold of 8
    run.wait_until_polled(*TASKS["kept"], times=4)
    airflow.go_on("triggerer")
    time.sleep(8)  # the triggerer learns that its waits are another's, and must cancel none
    run.wait_until_polled(*TASKS["kept"], times=6)
    airflow.parts["triggerer"].terminate()
    airflow.parts.pop("triggerer").wait(60)
    run.wait_until_polled(*TASKS["kept"], times=8)
    airflow.kill("triggerer-2")
    airflow.start("triggerer")
    run.wait_until_polled(*TASKS["kept"], times=9)
    assert set(airflow.states("kept", run.run_id).values()) == {"deferred"}
    assert counted(run) == dict.fromkeys(TASKS["kept"], (1, 0))
