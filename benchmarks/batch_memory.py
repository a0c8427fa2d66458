"""Peak memory of a batch's task and of a batch's trigger, for 100 and for 10,000 items.

Run with `uv run --group cluster python benchmarks/batch_memory.py`; half an hour. Each measurement is a
separate process without the rest of Airflow: the operator over HTTP against the emulator, with videos on disk
and records in files, and the trigger in one event loop against `vendor.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from vendor import VendorProcess

from airflow_vace.throwaway import environment_for
from cluster.servers import TEMPORARY, Vendor
from support.films import MP4

COUNTS = (100, 10_000)
DURATION = {"boot": 1.0, "load": 1.0, "step": 0.5, "decode": 1.0}
# A file from disk, since the drawing of 10,000 videos would take the vendor's core for minutes.
MODEL = "acme/film"


class FileStore:
    """Values in files, as Airflow's state store keeps them outside of the task's process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Any:
        """Return a value, None for an unknown key."""
        path = self.folder / key
        return json.loads(path.read_text()) if path.exists() else None

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        """Write a value."""
        del retention
        (self.folder / key).write_text(json.dumps(value))


class Elsewhere(dict[str, Any]):
    """XComs, which Airflow's database keeps; a simulated task instance would keep them in this process."""

    def __setitem__(self, key: str, value: Any) -> None:
        del key, value


def use_of_task(folder: Path, count: int) -> str:
    """Run a batch on a worker to the end; return the number of successes as text."""
    from airflow_vace.operators import VaceBatchOperator
    from support.tasks import Run

    rows, store, videos = folder / "rows.jsonl", folder / "store", folder / "videos"
    store.mkdir()
    with rows.open("w") as file:
        file.writelines(json.dumps({"prompt": f"a fox runs through snow, {n}"}) + "\n" for n in range(count))
    parameters: dict[str, Any] = {
        "inputs": str(rows),
        "save_to": f"{videos}/",
        "model": MODEL,
        "deferrable": False,
        # A decoder's buffers are no part of the batch.
        "checks": "off",
    }
    run = Run(lambda: VaceBatchOperator(task_id="t", **parameters))
    run.context["task_state_store"] = FileStore(store)
    run.ti.xcoms = Elsewhere()
    return str(run.result()["counts"]["succeeded"])


def use_of_trigger(folder: Path, count: int) -> str:
    """Wait for all items in one event loop; return the number of ends as text."""
    del folder
    from airflow_vace.batch.trigger import VaceBatchTrigger

    items = [[f"{n:05d}", f"p{n}", time.time() + 3600, None] for n in range(count)]

    async def ends() -> int:
        event = await anext(aiter(VaceBatchTrigger(items=items).run()))
        return len(event.payload["ended"])

    return str(asyncio.run(ends()))


def measured(part: str, count: int, connection: dict[str, Any]) -> float:
    """Run a part in a separate process; return its peak memory in MiB."""
    with tempfile.TemporaryDirectory(prefix="vace-batch-memory-") as home:
        environment = environment_for(Path(home)) | {
            "AIRFLOW_CONN_VACE_DEFAULT": json.dumps(connection),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, __file__, part, home, str(count)]
        start = time.monotonic()
        found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    peak, ended = found.stdout.splitlines()[-1].split()
    wall = time.monotonic() - start
    print(f"{part:8} {count:6} items  {float(peak):7.1f} MiB  {ended} ended  {wall:.0f} s", flush=True)
    return float(peak)


def main() -> None:
    """Compare both counts for task and trigger."""
    if len(sys.argv) == 4:
        use = {"task": use_of_task, "trigger": use_of_trigger}[sys.argv[1]]
        ended = use(Path(sys.argv[2]), int(sys.argv[3]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, ended)
        return
    peaks: dict[str, list[float]] = {"trigger": [], "task": []}
    with VendorProcess() as vendor:
        extra = {"backend": "replicate", "verify": str(vendor.chain)}
        connection = {"conn_type": "vace", "host": vendor.url, "password": "benchmark-key", "extra": extra}
        for count in COUNTS:
            vendor.plan([DURATION] * count)
            peaks["trigger"].append(measured("trigger", count, connection))
    with tempfile.NamedTemporaryFile(suffix=".mp4") as film:
        film.write(MP4)
        film.flush()
        with Vendor(TEMPORARY, **{"time-scale": "0.05", "model": f"{MODEL}={film.name}"}) as emulator:
            for count in COUNTS:
                peaks["task"].append(measured("task", count, emulator.connection_to(backend="gateway")))
    for part, (few, many) in peaks.items():
        print(f"{part}: {COUNTS[1]:,} items take {many - few:+.1f} MiB over {COUNTS[0]}")


if __name__ == "__main__":
    main()
