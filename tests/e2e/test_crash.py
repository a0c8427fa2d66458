"""Kill processes of a whole Airflow at the worst moments, and count the bill."""

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

if "VACE_CRASH" in os.environ:  # a dependency group brings these
    import psutil

    from cluster import Airflow, kill_tree, postgres, table, until
    from support.wire import Passing, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

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
# The cap is the price of one clip, so a second bill would need a fault in both ledger and cap.
CAP = {"max_cost": 0.40}

for shape in ("deferred", "waiting", "sensed"):
    with DAG(shape, schedule=None, params={"backend": "replicate"}) as dag:
        operator = VacePredictionOperator(
            task_id="operator",
            wait_for_completion=shape != "sensed",
            deferrable=shape == "deferred",
            end_from_trigger=False,
            **COMMON,
            **CAP,
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
        # The vendor's own failures are billed, and one more is right then.
        max_cost=0.80,
        retries=30,
        retry_delay=timedelta(seconds=1),
    ).expand(input=prompts())
"""

# Mapped predictions that are made while workers and the triggerer are killed at random.
MANY = int(os.environ.get("VACE_CRASH_MAPPED", "20"))
# A triggerer takes ten seconds to start, so more of its deaths would only stop the waits.
MAX_TRIGGERER_KILLS = max(3, MANY // 8)

BEFORE_THE_CREATE = "before the create is sent"
ACCEPTED = "accepted, before the answer"
ANSWERED = "answered, before the record"
RECORDED = "recorded, before the wait"
TRIGGERER = "triggerer, while it waits"
WORKER = "worker, while it waits"
ENDED = "ended, before the result"
ALL = "all of Airflow, while it waits"

# A wait in the triggerer has no worker to kill, and one on a worker no triggerer.
POINTS = {
    "deferred": (BEFORE_THE_CREATE, ACCEPTED, ANSWERED, RECORDED, TRIGGERER, ENDED),
    "waiting": (BEFORE_THE_CREATE, ACCEPTED, ANSWERED, RECORDED, WORKER, ENDED),
    "sensed": (BEFORE_THE_CREATE, ACCEPTED, ANSWERED, RECORDED, TRIGGERER, ENDED),
}
PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
# One lists its predictions, so a lost create can be found; the other does not.
BACKENDS = ("replicate", "gateway")

# At these a prediction must not end before its moment has come, however busy the machine is.
HELD = (TRIGGERER, WORKER, ALL)
_HOLD_SECONDS = 3600.0


@dataclass
class Scenario:
    """One run of a shape over a back-end, with one kill at one point."""

    shape: str
    backend: str
    point: str
    has_killed: bool = False
    polls: int = 0
    predictions: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.backend}-{self.point}".replace(" ", "_").replace(",", "")

    def comes_to(self, point: str) -> bool:
        """Return True the first time that the run comes to its point."""
        if self.has_killed or point != self.point:
            return False
        self.has_killed = True
        return True


class Watch:
    """Recognise a scenario by its traffic, and kill at its point."""

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
                return bool(scenario and scenario.comes_to(BEFORE_THE_CREATE) and kill_sender(passing))
            scenario = self.by_prediction.get(passing.path.rpartition("/")[2])
            if passing.method != "GET" or scenario is None:
                return False
            scenario.polls += 1
            # The first poll follows the record, so the record is there and the wait is not.
            if scenario.polls == 1 and scenario.shape != "sensed" and scenario.comes_to(RECORDED):
                return kill_sender(passing)
            if scenario.polls >= 3 and scenario.comes_to(WORKER):
                self.release(scenario)
                return kill_sender(passing)
            # The worker polls once before it defers, so the second poll is a triggerer's.
            if scenario.polls >= 2 and scenario.comes_to(TRIGGERER):
                self.release(scenario)
                # All scenarios share the triggerer, so the test kills it, and starts another.
                self.triggerer_is_to_die.set()
                return True
            return False

    def release(self, scenario: Scenario) -> None:
        """Let a held prediction end."""
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
            return bool(scenario.comes_to(ACCEPTED) and kill_sender(passing))

    # --- between workers and Airflow's API server --------------------------------------------------

    def airflow_before(self, passing: Passing) -> bool:
        with self.lock:
            if passing.method == "PUT" and "/store/ti/" in passing.path:
                value = passing.body["value"]
                scenario = self.by_prediction.get((value.get("prediction") or {}).get("id", ""))
                # The intent is written before the create; the record of the answer follows it.
                is_record = value["phase"] == "submitted"
                return bool(is_record and scenario and scenario.comes_to(ANSWERED) and kill_worker(passing))
            if passing.method == "PATCH" and passing.path.endswith("/state"):
                scenario = self.by_task.get(passing.path.split("/")[-2])
                if scenario is None or passing.body.get("state") != "success":
                    return False
                self.successes[scenario.name] = nth = self.successes.get(scenario.name, 0) + 1
                # The operator of this shape only submits, so its success comes before the wait.
                if scenario.shape == "sensed" and nth == 1:
                    return bool(scenario.comes_to(RECORDED) and kill_worker(passing))
                return bool(scenario.comes_to(ENDED) and kill_worker(passing))
            return False

    def airflow_after(self, passing: Passing) -> bool:
        # Later calls name the task instance alone; only the answer to its start names the run too.
        if passing.method == "PATCH" and passing.path.endswith("/run") and isinstance(passing.answer, dict):
            run = passing.answer.get("dag_run", {}).get("run_id", "")
            with self.lock:
                if run in self.scenarios:
                    self.by_task[passing.path.split("/")[-2]] = self.scenarios[run]
        return False


def kill_sender(passing: Passing) -> bool:
    """Kill the task's own process, the sender of requests to the vendor."""
    pid = passing.sender
    assert pid is not None, passing
    psutil.Process(pid).kill()
    return True


def kill_worker(passing: Passing) -> bool:
    """Kill the executor's worker, the sender of requests to Airflow, and the task below."""
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
            backend: emulator.connection_to(backend=backend, prices=PRICES).replace(emulator.url, vendor.url)
            for backend in BACKENDS
        }
        # Airflow chooses its port when it is made, so the wire before it is made in between.
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
    """Return a scenario's attempts, billed predictions, final states, and "payload" for a whole one."""
    tasks = {ti["task_id"]: ti for ti in airflow.tasks(scenario.shape, scenario.name)}
    billed = [run for run in emulator.world.runs.values() if run.input["prompt"] == scenario.name]
    last = "sensor" if scenario.shape == "sensed" else "operator"
    payload = airflow.xcom(scenario.shape, scenario.name, last)
    is_whole = bool(payload) and payload["status"] == "succeeded" and payload["id"] in {r.id for r in billed}
    attempts = "+".join(str(tasks[name]["try_number"]) for name in sorted(tasks))
    states = "+".join(str(tasks[name]["state"]) for name in sorted(tasks))
    return attempts, len(billed), states, "payload" if is_whole else "-"


HEAD = ("killed", "shape", "back-end", "attempts", "billed", "final state", "XCom")


def judged(airflow: Airflow, scenario: Scenario, billed: int, states: str, xcom: str) -> bool:
    """Return True if one prediction was billed and its payload returned.

    A back-end without a list cannot answer for a lost create, so there the task fails and pays for no second.
    """
    is_done = set(states.split("+")) == {"success"} and xcom == "payload" and billed == 1
    if scenario.backend == "gateway" and scenario.point in (BEFORE_THE_CREATE, ACCEPTED, ANSWERED):
        accepted = 0 if scenario.point == BEFORE_THE_CREATE else 1
        said = "SubmissionUnknown: A request for a prediction was started at"
        attempt = airflow.tasks(scenario.shape, scenario.name)
        last = max(ti["try_number"] for ti in attempt if ti["task_id"] == "operator")
        is_explained = said in airflow.log(scenario.shape, scenario.name, "operator", last)
        return billed == accepted and states.startswith("failed") and is_explained
    return is_done


def test_one_prediction_is_billed_after_a_kill_at_any_point(
    airflow: Airflow, emulator: Emulator, watch: Watch
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
        if not scenario.has_killed or not judged(airflow, scenario, billed, states, xcom):
            wrong.append(row)
    print(table(HEAD, sorted(rows)))
    assert wrong == []


def test_waits_survive_the_death_of_all_of_airflow(
    airflow: Airflow, emulator: Emulator, watch: Watch
) -> None:
    scenarios = [Scenario(shape, backend, ALL) for backend in BACKENDS for shape in POINTS]
    watch.scenarios |= {scenario.name: scenario for scenario in scenarios}
    for scenario in scenarios:
        airflow.trigger(scenario.shape, scenario.name, backend=scenario.backend)
    until(lambda: all(scenario.polls >= 2 for scenario in scenarios), 180, every=0.2)
    # The predictions end while nothing of Airflow runs.
    names = list(airflow.parts)
    airflow.kill(*names)
    for scenario in scenarios:
        watch.release(scenario)
    airflow.start(*names)
    airflow.wait_until_healthy()
    until(lambda: finished(airflow, scenarios), 300)
    rows = [(s.point, s.shape, s.backend, *described(airflow, emulator, s)) for s in scenarios]
    print(table(HEAD, sorted(rows)))
    assert all(judged(airflow, s, row[4], row[5], row[6]) for s, row in zip(scenarios, rows, strict=True))


def test_mapped_predictions_survive_random_deaths_of_workers_and_triggerers(
    airflow: Airflow, emulator: Emulator
) -> None:
    chance = random.Random(MANY)  # noqa: S311 - no secret
    prompts = [f"many {number}" for number in range(MANY)]
    # A transient failure of the vendor, after which another prediction is right.
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
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
                chance.choice(found).kill()
                killed["workers"] += 1
        if time.monotonic() - last > 25 and killed["triggerers"] < MAX_TRIGGERER_KILLS:
            last = time.monotonic()
            airflow.kill("triggerer")
            airflow.start("triggerer")
            killed["triggerers"] += 1
        return False

    until(is_over, 3000, every=2)
    tasks = [ti for ti in airflow.tasks("many", "many") if ti["task_id"] == "operator"]
    runs = [run for run in emulator.world.runs.values() if run.input["prompt"] in prompts]
    failed = [run for run in runs if run.outcome.get("status")]
    ended = Counter(run.input["prompt"] for run in runs if not run.outcome.get("status"))
    print(
        f"\n{MANY} mapped predictions, {time.monotonic() - began:.0f} s, killed: {killed}, attempts:"
        f" {sum(ti['try_number'] for ti in tasks)}, billed: {len(runs)}, of them failed by the vendor:"
        f" {len(failed)}, states: {dict(Counter(ti['state'] for ti in tasks))}"
    )
    assert killed["workers"]
    assert {ti["state"] for ti in tasks} == {"success"}
    assert ended == dict.fromkeys(prompts, 1)
    assert len(failed) == failing
    assert all(run.status_at(time.time()) in ("succeeded", "failed") for run in runs)
