"""The cost of waits in a whole Airflow: scheduler, workers, triggerer and API server on PostgreSQL.

Run with `uv run --group cluster python benchmarks/airflow_waits.py`; PostgreSQL's programs must be installed.
The same waits run in each mode, in turns in the same Airflow. Processor time counts all processes of Airflow,
ended ones included, minus the use of an idle Airflow in the same time.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.world import DEFAULT_KEY
from cluster import Airflow, postgres, table, tree, until

WAITS = 60
EARLY = 100
ROUNDS = 2
IDLE_SECONDS = 20.0

DAGS = """
import os
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, task
from airflow_vace.sensors import VacePredictionSensor

def ids():
    from airflow.sdk import get_current_context
    return get_current_context()["params"]["ids"]

MODES = {
    "deferred": {"end_from_trigger": False},
    "ended": {},
    "both": {"start_from_trigger": True},
    "saved": {"save_to": "/tmp/vace-benchmark/", "poke_interval": 1.0},
    "early": {"poke_interval": 1.0},
}
for mode, more in MODES.items():
    with DAG(f"mapped_{mode}", schedule=None, params={"ids": []}):
        VacePredictionSensor.partial(task_id="wait", deferrable=True, retries=0, timeout=600, **more).expand(
            prediction=task(task_id="listed")(ids)()
        )
    with DAG(f"one_{mode}", schedule=None, params={"ids": []}):
        VacePredictionSensor(
            task_id="wait", deferrable=True, prediction=task(task_id="listed")(lambda: ids()[0])(), **more
        )

with DAG("one_http", schedule=None, params={"ids": []}):
    HttpSensor(
        task_id="wait",
        endpoint="/replicate/v1/predictions/{{ params.ids[0] }}",
        headers={"Authorization": "Bearer KEY"},
        response_check=lambda response: response.json()["status"] == "succeeded",
        poke_interval=5,
    )
"""


def seconds_used(airflow: Airflow) -> float:
    """Return the processor time of all processes up to now, including ended ones."""
    used = 0.0
    for part in airflow.parts.values():
        for process in tree(part.pid):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            used += times.user + times.system + times.children_user + times.children_system
    return used


def ended(airflow: Airflow, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    """Wait for the end of a run, and return the task instances of the waits."""
    until(lambda: airflow.run_state(dag_id, run_id) in ("success", "failed"), 900, every=0.5)
    return [ti for ti in airflow.tasks(dag_id, run_id) if ti["task_id"] == "wait"]


def created(emulator: Emulator, count: int, *, seconds: float) -> list[str]:
    """Start `count` predictions with a runtime of `seconds`; return the ids."""
    found = []
    for number in range(count):
        values = {"prompt": f"fox {number}", "frame_num": 5}
        run = emulator.world.create(values, model="prunaai/vace-14b", version=None, now=time.time())
        line = run.timeline
        line.boot, line.load, line.step, line.decode = 0.0, 0.0, seconds / line.steps, 0.0
        found.append(run.id)
    return found


def mapped(airflow: Airflow, emulator: Emulator, idle: float) -> None:
    """Compare the modes over mapped waits."""
    rows = []
    # Rounds rather than one long run, so a slow moment of the machine hits all modes.
    for number in range(ROUNDS):
        for mode in ("deferred", "ended", "both"):
            ids = created(emulator, WAITS, seconds=30)
            run_id, before, start = f"r{number}", seconds_used(airflow), time.monotonic()
            airflow.trigger(f"mapped_{mode}", run_id, ids=ids)
            tasks = ended(airflow, f"mapped_{mode}", run_id)
            wall = time.monotonic() - start
            used = seconds_used(airflow) - before
            failed = sum(ti["state"] != "success" for ti in tasks)
            rows.append(
                (mode, number, len(tasks), failed, f"{used:.1f}", f"{used - idle * wall:.1f}", f"{wall:.0f}")
            )
    print(table(("mode", "round", "waits", "failed", "CPU s", "less idle", "wall s"), rows))


def early(airflow: Airflow, emulator: Emulator) -> None:
    """Count false failures of waits for predictions with an end before, or within two seconds."""
    rows = []
    for mode in ("early", "saved"):
        dag_id = f"mapped_{mode}"
        final = created(emulator, EARLY // 2, seconds=0.01)
        soon = set(created(emulator, EARLY // 2, seconds=1e6))
        airflow.trigger(dag_id, "early", ids=[*final, *soon])
        while airflow.run_state(dag_id, "early") not in ("success", "failed"):
            end_soon(emulator, soon)
            time.sleep(0.3)
        tasks = ended(airflow, dag_id, "early")
        rows.append((mode, len(tasks), sum(ti["state"] != "success" for ti in tasks)))
    print(table(("mode", "waits", "false failures"), rows))


def end_soon(emulator: Emulator, identifiers: set[str]) -> None:
    """Let each prediction end 1.5 s after the first poll, and remove the id from the set."""
    for request in emulator.requests:
        identifier = request.path.rsplit("/", 1)[1]
        if identifier in identifiers:
            identifiers.discard(identifier)
            line = emulator.world.runs[identifier].timeline
            line.step = (max(request.time + 1.5, time.time()) - line.started) / line.steps


def slots(airflow: Airflow, emulator: Emulator) -> None:
    """Measure the time in a worker's slot for a wait of a minute."""
    rows = []
    for mode in ("http", "deferred", "ended", "both"):
        dag_id = f"one_{mode}"
        ids = created(emulator, 1, seconds=60)
        airflow.trigger(dag_id, "slot", ids=ids)
        taken, last = 0.0, time.monotonic()
        while airflow.run_state(dag_id, "slot") not in ("success", "failed"):
            states = {ti["task_id"]: ti["state"] for ti in airflow.tasks(dag_id, "slot")}
            now = time.monotonic()
            if states.get("wait") == "running":
                taken += now - last
            last = now
            time.sleep(0.05)
        rows.append((mode, airflow.run_state(dag_id, "slot"), f"{taken:.2f}"))
    print(table(("mode", "run", "seconds of a slot"), rows))


def main() -> None:
    """Start an Airflow, and measure."""
    chosen = set(sys.argv[1:]) or {"mapped", "early", "slots"}
    with Emulator(time_scale=1.0) as emulator, postgres() as database:
        http = f'{{"conn_type": "http", "host": "{emulator.url}"}}'
        connections = {"vace_default": emulator.connection, "http_default": http}
        dags = {"benchmark": DAGS.replace("KEY", DEFAULT_KEY)}
        settings: dict[str, Any] = {
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "256",
            "AIRFLOW__CORE__PARALLELISM": "8",
        }
        with Airflow(database, dags, connections, **settings) as airflow:
            airflow.wait_for_dags(
                "one_http", *(f"mapped_{m}" for m in ("deferred", "ended", "both", "saved"))
            )
            # The first run of each kind imports modules once, so it does not count.
            for mode in ("deferred", "both"):
                airflow.trigger(f"mapped_{mode}", "warm", ids=created(emulator, 4, seconds=5))
                ended(airflow, f"mapped_{mode}", "warm")
            time.sleep(10)
            before = seconds_used(airflow)
            time.sleep(IDLE_SECONDS)
            idle = (seconds_used(airflow) - before) / IDLE_SECONDS
            print(f"idle: {idle:.2f} s of CPU a second")
            if "mapped" in chosen:
                mapped(airflow, emulator, idle)
            if "early" in chosen:
                early(airflow, emulator)
            if "slots" in chosen:
                slots(airflow, emulator)


if __name__ == "__main__":
    main()
