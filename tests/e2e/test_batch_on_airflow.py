"""Kill parts of a whole Airflow during batches, and end batches whose items run; count the bill."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.batch import read_manifest
from airflow_vace.emulator import Emulator

if "VACE_CRASH" in os.environ:  # a dependency group brings these
    import psutil
    import requests

    from cluster import Airflow, Postgres, table, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif("VACE_CRASH" not in os.environ, reason="VACE_CRASH is not set: takes minutes"),
]

# Items of each batch, and kills; `VACE_CRASH_BATCH=200` takes a quarter of an hour.
ITEMS = int(os.environ.get("VACE_CRASH_BATCH", "40"))
KILLS = max(5, ITEMS // 10)
PARTS = ("worker", "triggerer", "scheduler", "api-server", "database")
BACKENDS = ("replicate", "gateway")
# A person's action, or a timeout, ends a batch; all its predictions are canceled within this time.
CANCEL_SECONDS = 30

DAGS = """
from datetime import timedelta

from airflow.sdk import DAG

from airflow_vace.operators import VaceBatchOperator


def batch(**kwargs):
    VaceBatchOperator(
        task_id="batch",
        inputs="FOLDER/{{ run_id }}.jsonl",
        key="sku",
        save_to="FOLDER/{{ run_id }}/",
        checks="off",
        retries=3,
        retry_delay=timedelta(seconds=1),
        **kwargs,
    )


for name in ("deferred", "waiting"):
    with DAG(name, schedule=None, params={"backend": "replicate"}) as dag:
        # Items that a lost create leaves unknown at a gateway end no batch.
        batch(
            vace_conn_id="{{ params.backend }}",
            deferrable=name == "deferred",
            max_in_flight=ITEMS // 4,
            min_success=0.5,
        )
    with DAG(f"open_{name}", schedule=None) as open_dag:
        batch(vace_conn_id="slow", deferrable=name == "deferred", max_in_flight=ITEMS)
    globals().update({name: dag, f"open_{name}": open_dag})

with DAG("timed", schedule=None):
    batch(vace_conn_id="slow", max_in_flight=ITEMS, execution_timeout=timedelta(seconds=30))
"""


@dataclass
class Books:
    """Predictions of a batch by prompt, keys with a saved file, and the status of each key."""

    run_id: str
    billed: Counter[str]
    saved: set[str]
    ends: dict[str, str]

    @property
    def figures(self) -> tuple[int, dict[str, int]]:
        return len(self.saved), dict(Counter(self.ends.values()))


@dataclass
class Scene:
    """A whole Airflow, its database, a vendor, and a vendor whose predictions do not end."""

    airflow: Airflow
    database: Postgres
    vendor: Emulator
    slow: Emulator
    folder: Path

    def begin(self, dag_id: str, run_id: str, prompt: str, **conf: Any) -> None:
        """Start a batch with prompts `<prompt> <number>`."""
        self.write(run_id, prompt)
        self.airflow.trigger(dag_id, run_id, **conf)

    def write(self, run_id: str, prompt: str) -> None:
        rows = [{"sku": f"TR-{n}", "prompt": f"{prompt} {n}", "frame_num": 1} for n in range(ITEMS)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / f"{run_id}.jsonl").write_text(text)

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run, empty while Airflow does not answer."""
        with contextlib.suppress(requests.RequestException, AssertionError):
            return self.airflow.run_state(dag_id, run_id)
        return ""

    def task(self, dag_id: str, run_id: str) -> dict[str, Any]:
        (found,) = self.airflow.tasks(dag_id, run_id)
        return found

    def statuses(self, prompt: str) -> Counter[str]:
        """Return the number of predictions of the slow vendor by status."""
        now = time.time()
        return Counter(
            "canceled" if run.canceled else run.status_at(now)
            for run in list(self.slow.world.runs.values())
            if run.input["prompt"].startswith(f"{prompt} ")
        )

    def books(self, dag_id: str, run_id: str) -> Books:
        """Return the bill, the files and the manifest of a batch that has ended."""
        rows = list(read_manifest(self.folder / run_id / dag_id / run_id / "batch.manifest.jsonl"))
        prompts = [run.input["prompt"] for run in self.vendor.world.runs.values()]
        return Books(
            run_id,
            billed=Counter(prompt for prompt in prompts if prompt.startswith(f"{run_id} ")),
            saved={row["key"] for row in rows if row["files"] and is_there(row["files"][0]["uri"])},
            ends={row["key"]: row["status"] for row in rows},
        )

    def kill(self, part: str, chance: random.Random) -> bool:
        """Kill a part and start it again; return False where no task's process is there to be killed."""
        if part == "worker":
            found = self.airflow.task_processes()
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
                if found:
                    chance.choice(found).kill()
                    return True
            return False
        if part == "database":
            self.database.stop()
            self.database.start()
        else:
            self.airflow.kill(part)
            self.airflow.start(part)
        return True


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("batches")
    text = DAGS.replace("FOLDER", str(folder)).replace("ITEMS", str(ITEMS))
    with Emulator(time_scale=0.15) as vendor, Emulator(time_scale=100) as slow, Postgres() as database:
        connections = {backend: vendor.connection_to(backend=backend) for backend in BACKENDS}
        connections["slow"] = slow.connection_to(backend="replicate")
        with Airflow(database.url, {"batches": text}, connections) as airflow:
            airflow.wait_for_dags("deferred", "timed")
            yield Scene(airflow, database, vendor, slow, folder)


def test_items_of_a_batch_are_billed_once_after_random_kills(scene: Scene) -> None:
    chance = random.Random(ITEMS)  # noqa: S311 - no secret
    runs = [(dag_id, f"{dag_id}-{backend}") for dag_id in ("deferred", "waiting") for backend in BACKENDS]
    for dag_id, run_id in runs:
        scene.begin(dag_id, run_id, run_id, backend=run_id.rpartition("-")[2])
    killed: Counter[str] = Counter()
    clears: Counter[str] = Counter()
    moments = [part for _ in range(KILLS // len(PARTS)) for part in chance.sample(PARTS, len(PARTS))]
    began = time.monotonic()

    def is_over() -> bool:
        states = {run_id: scene.state(dag_id, run_id) for dag_id, run_id in runs}
        for dag_id, run_id in runs:
            # The kills may use up the retries; a person clears the task then.
            if states[run_id] == "failed":
                clears[run_id] += 1
                scene.airflow.clear(dag_id, run_id, "batch")
        return set(states.values()) == {"success"}

    def has_come(requests_seen: int) -> bool:
        return len(scene.vendor.requests) >= requests_seen or is_over()

    for part in moments:
        # The kills follow the traffic, so they come at any moment of the batches.
        until(partial(has_come, len(scene.vendor.requests) + chance.randrange(1, ITEMS)), 120, every=0.1)
        if scene.kill(part, chance):
            killed[part] += 1
    until(is_over, 900, every=1)
    took = time.monotonic() - began
    books = [scene.books(dag_id, run_id) for dag_id, run_id in runs]
    rows = [
        (run_id, scene.task(dag_id, run_id)["try_number"], clears[run_id], book.billed.total(), *book.figures)
        for (dag_id, run_id), book in zip(runs, books, strict=True)
    ]
    head = ("batch", "attempts", "clears", "billed", "saved", "rows of the manifest")
    print(f"\n{ITEMS} items each, {took:.0f} s, killed: {dict(killed)}", table(head, rows))
    assert set(killed) == set(PARTS)
    for book in books:
        assert len(book.ends) == ITEMS
        assert set(book.billed.values()) == {1}
        unsaved = {book.ends[key] for key in book.ends.keys() - book.saved}
        # A back-end without a list cannot answer for a lost create, so the manifest names the item.
        assert unsaved <= ({"unknown"} if book.run_id.endswith("gateway") else set())


@pytest.mark.parametrize("dag_id", ["open_deferred", "open_waiting"])
@pytest.mark.parametrize("action", ["failed", "success"])
def test_a_person_who_ends_a_batch_cancels_all_that_runs(scene: Scene, dag_id: str, action: str) -> None:
    run_id = f"{dag_id}-{action}"
    begin_open(scene, dag_id, run_id)
    began = time.monotonic()
    scene.airflow.mark(dag_id, run_id, "batch", action)
    until(lambda: scene.statuses(run_id) == {"canceled": ITEMS}, CANCEL_SECONDS, every=0.2)
    print(f"\n{dag_id}, marked {action}: {ITEMS} canceled after {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("dag_id", ["open_deferred", "open_waiting"])
def test_a_cleared_batch_goes_on_and_cancels_items_whose_input_has_changed(scene: Scene, dag_id: str) -> None:
    run_id = f"{dag_id}-cleared"
    begin_open(scene, dag_id, run_id)
    first = scene.task(dag_id, run_id)["try_number"]
    scene.airflow.clear(dag_id, run_id, "batch")
    wanted = dag_id.removeprefix("open_").replace("waiting", "running")

    def goes_on() -> bool:
        found = scene.task(dag_id, run_id)
        return bool(found["try_number"] > first and found["state"] == wanted)

    until(goes_on, 90)
    said = f"{ITEMS} of them submitted by an earlier attempt"
    until(lambda: said in scene.airflow.log(dag_id, run_id, "batch", first + 1), 60)
    assert sum(scene.statuses(run_id).values()) == ITEMS
    # The author has corrected all prompts, so the old predictions are of no use.
    began = time.monotonic()
    scene.write(run_id, f"corrected {run_id}")
    scene.airflow.clear(dag_id, run_id, "batch")
    until(lambda: scene.statuses(run_id)["canceled"] == ITEMS, CANCEL_SECONDS + 30, every=0.2)
    print(f"\n{dag_id}, cleared: {ITEMS} canceled after {time.monotonic() - began:.1f} s")
    until(lambda: sum(scene.statuses(f"corrected {run_id}").values()) == ITEMS, 60)
    scene.airflow.mark(dag_id, run_id, "batch", "failed")


def test_an_execution_timeout_cancels_all_that_runs(scene: Scene) -> None:
    scene.begin("timed", "timed", "timed")
    until(lambda: scene.statuses("timed")["canceled"], 90, every=0.1)
    began = time.monotonic()
    until(lambda: scene.statuses("timed") == {"canceled": ITEMS}, CANCEL_SECONDS, every=0.1)
    print(f"\nexecution_timeout: {ITEMS} canceled after {time.monotonic() - began:.1f} s")
    until(lambda: scene.state("timed", "timed") == "failed", 60)
    assert scene.task("timed", "timed")["try_number"] == 1


def begin_open(scene: Scene, dag_id: str, run_id: str) -> None:
    """Start a batch, and return when all its items run and a process waits for them."""
    scene.begin(dag_id, run_id, run_id)
    until(lambda: sum(scene.statuses(run_id).values()) == ITEMS, 180)
    if dag_id == "open_waiting":
        return
    until(lambda: scene.task(dag_id, run_id)["state"] == "deferred", 60)
    # Nothing of a deferred task runs before the first poll of its trigger.
    seen = len(scene.slow.requests)
    until(lambda: len(scene.slow.requests) > seen, 60)


def is_there(uri: str) -> bool:
    """Return True if a local file exists."""
    return Path(uri.removeprefix("file://")).exists()
