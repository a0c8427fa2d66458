"""A batch against mapped tasks in a whole Airflow on PostgreSQL, with a vendor limited as Replicate is.

Run with `uv run --group cluster python benchmarks/batch.py`; PostgreSQL's programs must be installed. All
ways run one after another in the same Airflow. Processor time counts all processes of Airflow, ended ones
included, minus the use of an idle Airflow in the same time. Seconds of a slot are the running tasks, summed
over time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psycopg2
import requests
from airflow_waits import seconds_used

from airflow_vace.prediction import parse_time
from cluster import Airflow, table, tree, until
from cluster.servers import TEMPORARY, Postgres, Vendor

SLOTS = 8
IDLE_SECONDS = 20.0
SAMPLE_SECONDS = 0.2
# Predictions of five frames take 45 to 60 s then, so waits matter and the drawing of videos does not.
TIME_SCALE = 6.0
CREATES_PER_MINUTE = 600
# Size of a value in KiB: one record, eleven records, and a chunk near Airflow's limit of 64.
SIZES = (1, 16, 50)
CALLS = 50

DAGS = """
import time

import psutil
from airflow.sdk import DAG, get_current_context, task
from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator

PARAMS = {"count": 1, "name": "fox"}
# A check decodes the video, which costs more than all of Airflow.
SAVED = {"save_to": "VIDEOS/{{ dag.dag_id }}/{{ run_id }}/", "checks": "off"}
BATCHES = {
    "batch": {"deferrable": True},
    "batch_saved_by_triggerer": {"deferrable": True, "save_in": "triggerer"},
    "batch_on_worker": {"deferrable": False},
    "batch_unknown_limit": {"deferrable": True, "vace_conn_id": "gateway"},
}

def rows():
    params = get_current_context()["params"]
    return [{"prompt": f"{params['name']} {n}", "frame_num": 5} for n in range(params["count"])]

for name, more in BATCHES.items():
    with DAG(name, schedule=None, params=PARAMS):
        listed = task(task_id="listed")(rows)()
        VaceBatchOperator(task_id="clip", inputs=listed, max_in_flight=100_000, **SAVED, **more)

for name, is_deferred in {"mapped": True, "mapped_on_workers": False}.items():
    with DAG(name, schedule=None, params=PARAMS):
        VacePredictionOperator.partial(
            task_id="clip", wait_for_completion=True, deferrable=is_deferred, **SAVED
        ).expand(input=task(task_id="listed")(rows)())

with DAG("store", schedule=None, params={"sizes": [], "calls": 1, "pids": []}):

    def used(pids):
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)

    @task
    def measure():
        context = get_current_context()
        store, params = context["task_state_store"], context["params"]
        found = []
        for size in params["sizes"]:
            for call in ("set", "get"):
                before, start = used(params["pids"]), time.monotonic()
                for _ in range(params["calls"]):
                    store.set("value", "x" * (1024 * size)) if call == "set" else store.get("value")
                wall, cpu = time.monotonic() - start, used(params["pids"]) - before
                found.append([size, call, *(1000 * spent / params["calls"] for spent in (wall, cpu))])
        return found

    measure()
"""

HEAD = (
    *("way", "clips", "saved", "wall s", "submitted after s", "CPU s", "less idle", "CPU s a clip"),
    *("slot s a clip", "requests a clip", "refused creates"),
)


@dataclass(frozen=True)
class Stage:
    """An Airflow and its vendors."""

    airflow: Airflow
    database: str
    vendors: dict[str, Vendor]
    videos: Path
    idle: float


class Slots:
    """The time in slots of workers, from samples of running tasks in a thread."""

    def __init__(self, database: str) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._database = database.replace("+psycopg2", "")
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        query = "SELECT count(*) FROM task_instance WHERE state = 'running' AND task_id = 'clip'"
        with psycopg2.connect(self._database) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            last = time.monotonic()
            while not self._over.wait(SAMPLE_SECONDS):
                cursor.execute(query)
                ((running,),) = cursor.fetchall()
                now = time.monotonic()
                self.seconds += running * (now - last)
                last = now


def answer_of(vendor: Vendor, name: str) -> Any:
    """Return a list of the emulator's control plane."""
    return requests.get(f"{vendor.url}/_emulator/{name}", timeout=120).json()


def wait_for_end(airflow: Airflow, dag_id: str, run_id: str) -> None:
    """Return after the end of a run."""
    until(lambda: airflow.run_state(dag_id, run_id) in ("success", "failed"), 3600, every=2.0)


def measured(stage: Stage, way: str, count: int) -> tuple[Any, ...]:
    """Run `count` clips in a way; return a row of the table."""
    airflow = stage.airflow
    vendor = stage.vendors["gateway" if way == "batch_unknown_limit" else "vace_default"]
    paid, asked = len(answer_of(vendor, "bill")["predictions"]), len(answer_of(vendor, "requests"))
    run_id, before, start = f"n{count}", seconds_used(airflow), time.monotonic()
    with Slots(stage.database) as slots:
        airflow.trigger(way, run_id, count=count, name=way)
        wait_for_end(airflow, way, run_id)
    wall = time.monotonic() - start
    used = seconds_used(airflow) - before
    seen = answer_of(vendor, "requests")[asked:]
    creates = [each for each in seen if each["method"] == "POST" and each["path"].endswith("/predictions")]
    accepted = answer_of(vendor, "bill")["predictions"][paid:]
    moments = sorted(filter(None, (parse_time(each["created_at"]) for each in accepted)))
    saved = len(list((stage.videos / way / run_id).rglob("*.mp4")))
    return (
        way,
        count,
        f"{saved}, {len(accepted)} billed",
        f"{wall:.0f}",
        f"{(moments[-1] - moments[0]).total_seconds():.1f}",
        f"{used:.1f}",
        f"{used - stage.idle * wall:.1f}",
        f"{(used - stage.idle * wall) / count:.3f}",
        f"{slots.seconds / count:.3f}",
        f"{len(seen) / count:.2f}",
        len(creates) - len(accepted),
    )


def store_costs(stage: Stage) -> None:
    """Measure a write and a read of Airflow's task state store, from a task."""
    pids = [process.pid for process in tree(stage.airflow.parts["api-server"].pid)]
    stage.airflow.trigger("store", "store", sizes=SIZES, calls=CALLS, pids=pids)
    wait_for_end(stage.airflow, "store", "store")
    found = stage.airflow.xcom("store", "store", "measure")
    rows = [(f"{size} KiB", call, f"{wall:.1f}", f"{cpu:.1f}") for size, call, wall, cpu in found]
    print(table(("value", "call", "ms", "ms of the API server's CPU"), rows), flush=True)


def warm_up(airflow: Airflow, vendors: dict[str, Vendor]) -> None:
    """Spend the vendors' cold boots, and the first run of each kind, which imports modules once."""
    bearer = {"Authorization": f"Bearer {vendors['gateway'].api_key}"}
    body = {"input": {"prompt": "warm up", "frame_num": 5}}
    for vendor in vendors.values():
        path = "/replicate/v1/models/prunaai/vace-14b/predictions"
        requests.post(vendor.url + path, json=body, headers=bearer, timeout=10).raise_for_status()
    for way in ("mapped", "batch"):
        airflow.trigger(way, "warm", count=2, name="warm")
    for way in ("mapped", "batch"):
        wait_for_end(airflow, way, "warm")


def main() -> None:
    """Start an Airflow, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1000, help="clips of a batch")
    parser.add_argument("--mapped", type=int, default=200, help="clips of a mapped, deferred task")
    parser.add_argument("--waiting", type=int, default=4 * SLOTS, help="clips that wait on workers")
    options = parser.parse_args()
    counts = {
        "batch": options.items,
        "mapped": options.mapped,
        "batch_on_worker": options.items,
        "batch_unknown_limit": options.items,
        "mapped_on_workers": options.waiting,
        "batch_saved_by_triggerer": options.items,
    }
    limited = {"create-limit": str(CREATES_PER_MINUTE), "create-burst": "10"}
    with (
        Vendor(TEMPORARY, **{"time-scale": str(TIME_SCALE)}) as replicate,
        Vendor(TEMPORARY, **{"time-scale": str(TIME_SCALE)}, **limited) as gateway,
        Postgres() as server,
        tempfile.TemporaryDirectory(prefix="vace-videos-") as videos,
    ):
        vendors = {"vace_default": replicate, "gateway": gateway}
        connections = {
            "vace_default": json.dumps(replicate.connection_to(backend="replicate")),
            "gateway": json.dumps(gateway.connection_to(backend="gateway")),
        }
        settings: dict[str, Any] = {
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1024",
            "AIRFLOW__CORE__PARALLELISM": str(SLOTS),
        }
        dags = {"benchmark": DAGS.replace("VIDEOS", videos)}
        with Airflow(server.url, dags, connections, settings=settings) as airflow:
            airflow.wait_for_dags("store", *counts)
            warm_up(airflow, vendors)
            time.sleep(10)
            before = seconds_used(airflow)
            time.sleep(IDLE_SECONDS)
            idle = (seconds_used(airflow) - before) / IDLE_SECONDS
            print(f"idle: {idle:.2f} s of CPU a second", flush=True)
            stage = Stage(airflow, server.url, vendors, Path(videos), idle)
            store_costs(stage)
            rows = []
            for way, count in counts.items():
                rows.append(measured(stage, way, count))
                print(dict(zip(HEAD, rows[-1], strict=True)), flush=True)
            print(table(HEAD, rows))


if __name__ == "__main__":
    main()
