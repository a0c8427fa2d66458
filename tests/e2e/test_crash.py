"""Processes of a whole Airflow are killed at the worst moments; then the bill is counted."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.emulator import Emulator

if "VACE_CRASH" in os.environ:
    import psutil

    from cluster import Airflow, kill_tree, postgres, table, until
    from support.wire import Passing, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif("VACE_CRASH" not in os.environ, reason="VACE_CRASH is not set: takes minutes"),
]

SHAPES = """
from datetime import timedelta

from airflow.sdk import DAG

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor

COMMON = {
    "input": {"prompt": "{{ run_id }}"},
    "vace_conn_id": "{{ params.backend }}",
    "retries": 2,
    "retry_delay": timedelta(seconds=1),
}

for shape in ("deferred", "waiting", "sensed"):
    with DAG(shape, schedule=None, params={"backend": "replicate"}) as dag:
        operator = VacePredictionOperator(
            task_id="operator",
            wait_for_completion=shape != "sensed",
            deferrable=shape == "deferred",
            end_from_trigger=False,
            **COMMON,
        )
        if shape == "sensed":
            VacePredictionSensor(
                task_id="sensor",
                prediction=operator.output,
                vace_conn_id="{{ params.backend }}",
                deferrable=True,
                end_from_trigger=False,
                retries=2,
                retry_delay=timedelta(seconds=1),
            )
    globals()[shape] = dag

with DAG("many", schedule=None, params={"prompts": []}) as many:

    @many.task(retries=9, retry_delay=timedelta(seconds=1))
    def prompts(params=None):
        return [{"prompt": text} for text in params["prompts"]]

    VacePredictionOperator.partial(
        task_id="operator",
        wait_for_completion=True,
        deferrable=True,
        vace_conn_id="replicate",
        retries=30,
        retry_delay=timedelta(seconds=1),
    ).expand(input=prompts())
"""

# How many mapped predictions are made while workers and the triggerer are killed at random.
MANY = int(os.environ.get("VACE_CRASH_MAPPED", "20"))

BEFORE_THE_CREATE = "before the create is sent"
ACCEPTED = "accepted, before the answer"
ANSWERED = "answered, before the record"
RECORDED = "recorded, before the wait"
TRIGGERER = "triggerer, while it waits"
WORKER = "worker, while it waits"
ENDED = "ended, before the result"
ALL = "all of Airflow, while it waits"

POINTS = {
    "deferred": (BEFORE_THE_CREATE, ACCEPTED, ANSWERED, RECORDED, TRIGGERER, ENDED),
    "waiting": (BEFORE_THE_CREATE, ACCEPTED, ANSWERED, RECORDED, WORKER, ENDED),
    "sensed": (BEFORE_THE_CREATE, ACCEPTED, ANSWERED, RECORDED, TRIGGERER, ENDED),
}
BACKENDS = ("replicate", "gateway")

# At these a prediction must not end before its moment has come, however busy the machine is.
HELD = (TRIGGERER, WORKER, ALL)
_HOLD_SECONDS = 3600.0


@dataclass
class Scenario:
    """One run of a shape over a back-end, which is struck once, at one point."""

    shape: str
    backend: str
    point: str
    is_struck: bool = False
    looks: int = 0
    predictions: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.backend}-{self.point}".replace(" ", "_").replace(",", "")

    def strike(self, point: str) -> bool:
        """Whether this is the moment; it comes once."""
        if self.is_struck or point != self.point:
            return False
        self.is_struck = True
        return True


class Watch:
    """Knows from what goes over the wire which scenario it belongs to, and kills."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.scenarios: dict[str, Scenario] = {}
        self.by_prediction: dict[str, Scenario] = {}
        self.by_task: dict[str, Scenario] = {}
        self.successes: dict[str, int] = {}
        self.triggerer_is_to_die = threading.Event()
        self.lock = threading.Lock()

    # --- between workers or triggerer, and the vendor ----------------------------------------------

    def vendor_before(self, passing: Passing) -> bool:
        with self.lock:
            if passing.method == "POST" and passing.path.endswith("/predictions"):
                scenario = self.scenarios.get(passing.body["input"]["prompt"])
                return bool(scenario and scenario.strike(BEFORE_THE_CREATE) and kill_sender(passing))
            scenario = self.by_prediction.get(passing.path.rpartition("/")[2])
            if passing.method != "GET" or scenario is None:
                return False
            scenario.looks += 1
            if scenario.looks == 1 and scenario.shape != "sensed" and scenario.strike(RECORDED):
                return kill_sender(passing)
            if scenario.looks >= 3 and scenario.strike(WORKER):
                self.release(scenario)
                return kill_sender(passing)
            if scenario.looks >= 2 and scenario.strike(TRIGGERER):
                self.release(scenario)
                self.triggerer_is_to_die.set()
                return True
            return False

    def release(self, scenario: Scenario) -> None:
        """Let a prediction that was held go on to its end."""
        for identifier in scenario.predictions:
            self.emulator.world.runs[identifier].timeline.decode -= _HOLD_SECONDS

    def vendor_after(self, passing: Passing) -> bool:
        if passing.method != "POST" or not passing.path.endswith("/predictions"):
            return False
        with self.lock:
            scenario = self.scenarios.get(passing.body["input"]["prompt"])
            if scenario is None or "id" not in passing.answer:
                return False
            self.by_prediction[passing.answer["id"]] = scenario
            scenario.predictions.append(passing.answer["id"])
            if scenario.point in HELD:
                self.emulator.world.runs[passing.answer["id"]].timeline.decode += _HOLD_SECONDS
            return bool(scenario.strike(ACCEPTED) and kill_sender(passing))

    # --- between workers and Airflow's API server --------------------------------------------------

    def airflow_before(self, passing: Passing) -> bool:
        with self.lock:
            if passing.method == "PUT" and "/store/ti/" in passing.path:
                value = passing.body["value"]
                scenario = self.by_prediction.get((value.get("prediction") or {}).get("id", ""))
                is_record = value["phase"] == "submitted"
                return bool(is_record and scenario and scenario.strike(ANSWERED) and kill_worker(passing))
            if passing.method == "PATCH" and passing.path.endswith("/state"):
                scenario = self.by_task.get(passing.path.split("/")[-2])
                if scenario is None or passing.body.get("state") != "success":
                    return False
                self.successes[scenario.name] = nth = self.successes.get(scenario.name, 0) + 1
                if scenario.shape == "sensed" and nth == 1:
                    return bool(scenario.strike(RECORDED) and kill_worker(passing))
                return bool(scenario.strike(ENDED) and kill_worker(passing))
            return False

    def airflow_after(self, passing: Passing) -> bool:
        if passing.method == "PATCH" and passing.path.endswith("/run") and isinstance(passing.answer, dict):
            run = passing.answer.get("dag_run", {}).get("run_id", "")
            with self.lock:
                if run in self.scenarios:
                    self.by_task[passing.path.split("/")[-2]] = self.scenarios[run]
        return False


def kill_sender(passing: Passing) -> bool:
    """Kill the task's own process, which speaks to the vendor."""
    pid = passing.sender
    assert pid is not None, passing
    psutil.Process(pid).kill()
    return True


def kill_worker(passing: Passing) -> bool:
    """Kill the executor's worker, which speaks to Airflow for the task, and the task with it."""
    pid = passing.sender
    assert pid is not None, passing
    kill_tree(pid)
    return True


@pytest.fixture(scope="module")
def watch(emulator: Emulator) -> Watch:
    return Watch(emulator)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.15) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(emulator: Emulator, watch: Watch) -> Iterator[Airflow]:
    with postgres() as database, Wire(emulator.url, watch.vendor_before, watch.vendor_after) as vendor:
        connections = {
            backend: emulator.connection_to(backend=backend).replace(emulator.url, vendor.url)
            for backend in BACKENDS
        }
        wires: list[Wire] = []

        def between(address: str) -> str:
            wires.append(Wire(address, watch.airflow_before, watch.airflow_after))
            return wires[0].__enter__().url

        with Airflow(database, {"shapes": SHAPES}, connections, between) as running:
            running.wait_for_dags(*POINTS)
            yield running
        wires[0].__exit__()


def finished(airflow: Airflow, scenarios: list[Scenario]) -> bool:
    return all(airflow.run_state(s.shape, s.name) in ("success", "failed") for s in scenarios)


def described(airflow: Airflow, emulator: Emulator, scenario: Scenario) -> tuple[Any, ...]:
    """Return what became of a scenario: attempts, billed, final states, whether the payload is there."""
    tasks = {ti["task_id"]: ti for ti in airflow.tasks(scenario.shape, scenario.name)}
    billed = [run for run in emulator.world.runs.values() if run.input["prompt"] == scenario.name]
    last = "sensor" if scenario.shape == "sensed" else "operator"
    payload = airflow.xcom(scenario.shape, scenario.name, last)
    is_whole = bool(payload) and payload["status"] == "succeeded" and payload["id"] in {r.id for r in billed}
    attempts = "+".join(str(tasks[name]["try_number"]) for name in sorted(tasks))
    states = "+".join(str(tasks[name]["state"]) for name in sorted(tasks))
    return attempts, len(billed), states, "payload" if is_whole else "-"


HEAD = ("killed", "shape", "back-end", "attempts", "billed", "final state", "XCom")


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def print_past_pytest(text: str) -> None:
        with capsys.disabled():
            print(text)  # noqa: T201 - the table is what a person wants of these tests

    return print_past_pytest


def judged(airflow: Airflow, scenario: Scenario, billed: int, states: str, xcom: str) -> bool:
    """Whether it ended as promised: one prediction; or none that could be known, and then never a second."""
    is_done = set(states.split("+")) == {"success"} and xcom == "payload" and billed == 1
    if scenario.backend == "gateway" and scenario.point in (BEFORE_THE_CREATE, ACCEPTED, ANSWERED):
        accepted = 0 if scenario.point == BEFORE_THE_CREATE else 1
        said = "SubmissionUnknown: A create was started at"
        attempt = airflow.tasks(scenario.shape, scenario.name)
        last = max(ti["try_number"] for ti in attempt if ti["task_id"] == "operator")
        told = said in airflow.log(scenario.shape, scenario.name, "operator", last)
        return billed == accepted and states.startswith("failed") and told
    return is_done


def test_whoever_is_killed_one_prediction_is_billed(
    airflow: Airflow, emulator: Emulator, watch: Watch, show: Callable[[str], None]
) -> None:
    scenarios = [Scenario(s, b, p) for b in BACKENDS for s, points in POINTS.items() for p in points]
    watch.scenarios |= {scenario.name: scenario for scenario in scenarios}
    for scenario in scenarios:
        airflow.trigger(scenario.shape, scenario.name, backend=scenario.backend)

    def is_over() -> bool:
        if watch.triggerer_is_to_die.is_set():
            watch.triggerer_is_to_die.clear()
            airflow.kill("triggerer")
            airflow.start("triggerer")
        return finished(airflow, scenarios)

    until(is_over, 900, every=1)
    rows, wrong = [], []
    for scenario in scenarios:
        attempts, billed, states, xcom = described(airflow, emulator, scenario)
        row = (scenario.point, scenario.shape, scenario.backend, attempts, billed, states, xcom)
        rows.append(row)
        if not scenario.is_struck or not judged(airflow, scenario, billed, states, xcom):
            wrong.append(row)
    show(table(HEAD, sorted(rows)))
    assert wrong == []


def test_all_of_airflow_is_killed_while_it_waits_and_started_again(
    airflow: Airflow, emulator: Emulator, watch: Watch, show: Callable[[str], None]
) -> None:
    scenarios = [Scenario(shape, backend, ALL) for backend in BACKENDS for shape in POINTS]
    watch.scenarios |= {scenario.name: scenario for scenario in scenarios}
    for scenario in scenarios:
        airflow.trigger(scenario.shape, scenario.name, backend=scenario.backend)
    until(lambda: all(scenario.looks >= 2 for scenario in scenarios), 180, every=0.2)
    names = list(airflow.parts)
    airflow.kill(*names)
    for scenario in scenarios:
        watch.release(scenario)
    airflow.start(*names)
    airflow.wait_until_healthy()
    until(lambda: finished(airflow, scenarios), 300)
    rows = [(s.point, s.shape, s.backend, *described(airflow, emulator, s)) for s in scenarios]
    show(table(HEAD, sorted(rows)))
    assert all(judged(airflow, s, row[4], row[5], row[6]) for s, row in zip(scenarios, rows, strict=True))


def test_mapped_predictions_survive_workers_and_triggerers_that_die_at_random(
    airflow: Airflow, emulator: Emulator, show: Callable[[str], None]
) -> None:
    chance = random.Random(MANY)  # noqa: S311 - no secret
    prompts = [f"many {number}" for number in range(MANY)]
    worth_another = {"status": "failed", "error": "E6716: timed out while starting"}
    failing = MANY // 20
    for number in range(failing):
        emulator.faults.add(method="POST", path="*/predictions", skip=number * 10, outcome=worth_another)
    airflow.trigger("many", "many", prompts=prompts)
    killed = {"workers": 0, "triggerers": 0}
    last = began = time.monotonic()

    def is_over() -> bool:
        nonlocal last
        if airflow.run_state("many", "many") in ("success", "failed"):
            return True
        found = airflow.task_processes()
        if found and chance.random() < 0.5:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(found).kill()
                killed["workers"] += 1
        if time.monotonic() - last > 25:
            last = time.monotonic()
            airflow.kill("triggerer")
            airflow.start("triggerer")
            killed["triggerers"] += 1
        return False

    until(is_over, 3000, every=2)
    tasks = [ti for ti in airflow.tasks("many", "many") if ti["task_id"] == "operator"]
    runs = [run for run in emulator.world.runs.values() if run.input["prompt"] in prompts]
    failed = [run for run in runs if run.outcome]
    ended = Counter(run.input["prompt"] for run in runs if not run.outcome)
    show(
        f"\n{MANY} mapped predictions, {time.monotonic() - began:.0f} s, killed: {killed}, attempts:"
        f" {sum(ti['try_number'] for ti in tasks)}, billed: {len(runs)}, of them failed by the vendor:"
        f" {len(failed)}, states: {dict(Counter(ti['state'] for ti in tasks))}"
    )
    assert killed["workers"]
    assert {ti["state"] for ti in tasks} == {"success"}
    assert ended == dict.fromkeys(prompts, 1)
    assert len(failed) == failing
    assert all(run.status_at(time.time()) in ("succeeded", "failed") for run in runs)
