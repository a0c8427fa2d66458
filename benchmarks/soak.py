"""A cluster under a steady load: growth of memory, open files and connections of each part.

Run with `uv run --group cluster --group stores python benchmarks/soak.py`; half an hour, `--minutes` for
another time. Debian's `postgresql` and `redis-server` are needed. `--picture` draws `soak.svg` beside this
file. Each half minute the program submits predictions in four modes, and each ten seconds samples each part.
Only lasting processes count: a worker's processes for tasks come and go.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil

from cluster import table, until
from cluster.campaign import DAGS, audit
from cluster.scene import Scene, scene

SAMPLE_SECONDS = 10.0
ROUND_SECONDS = 30.0
# Predictions of a round, by mode of the wait.
ROUND = {"deferred": 3, "saved_by_triggerer": 2, "waiting": 1, "sensor": 2}
# Parts in the report and in the picture.
WATCHED = ("triggerer-1", "triggerer-2", "worker-1", "worker-2", "scheduler-1", "api-server")
COLORS = ("#5b3fd1", "#0e7490", "#c2410c", "#a16207", "#6b7280", "#111827")
SENSOR = """

ON = {"vace_conn_id": "vace"}

with DAG("sensor", schedule=None, params={"count": 2}, **ROOM) as sensor:

    @sensor.task(**AGAIN)
    def wishes(params=None, dag_run=None):
        return [{"prompt": f"sensor {dag_run.run_id} {n}", "frame_num": 5} for n in range(params["count"])]

    submitted = VacePredictionOperator.partial(task_id="submit", **ON, **AGAIN).expand(input=wishes())
    VacePredictionSensor.partial(
        task_id="clip", deferrable=True, **ON, start_from_trigger=True, **AGAIN
    ).expand(prediction=submitted.output)
"""
# Messages of asyncio, aiohttp and Airflow about leaks and a blocked loop.
COMPLAINTS = re.compile(
    r"never awaited|never retrieved|was destroyed but it is pending|Unclosed|async thread was blocked"
)


@dataclass
class Held:
    """Resources of a part at a moment: MiB, open files, connections."""

    memory: float
    files: int
    connections: int


@dataclass
class Samples:
    """Resources of each part over time, in seconds from the start."""

    at: list[float] = field(default_factory=list)
    parts: dict[str, list[Held]] = field(default_factory=lambda: {name: [] for name in WATCHED})
    open_waits: list[int] = field(default_factory=list)

    def take(self, found: Scene, began: float) -> None:
        """Add a sample of each part."""
        self.at.append(time.monotonic() - began)
        for name in WATCHED:
            self.parts[name].append(_held(found.cluster.parts[name].pid))
        ((waits,),) = found.cluster.sql("SELECT count(*) FROM trigger")
        self.open_waits.append(int(waits))


def _held(pid: int) -> Held:
    """Return the resources of a part: the process and the direct children."""
    # Grandchildren are a worker's processes for tasks, which come and go.
    part = psutil.Process(pid)
    memory, files, connections = 0.0, 0, 0
    for process in (part, *part.children()):
        try:
            memory += process.memory_info().rss / 2**20
            files += process.num_fds()
            connections += len(process.net_connections("tcp"))
        except psutil.NoSuchProcess:
            continue
    return Held(memory, files, connections)


def soak(found: Scene, seconds: float) -> tuple[Samples, list[tuple[str, str, int]]]:
    """Load the cluster for `seconds`, wait for all ends, and return samples and runs."""
    samples = Samples()
    runs: list[tuple[str, str, int]] = []
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        if now >= len(runs) / len(ROUND) * ROUND_SECONDS:
            for dag_id, count in ROUND.items():
                run_id = f"round-{len(runs) // len(ROUND)}"
                found.cluster.trigger(dag_id, run_id, count=count)
                runs.append((dag_id, run_id, count))
        samples.take(found, began)
        time.sleep(max(0.0, len(samples.at) * SAMPLE_SECONDS - (time.monotonic() - began)))
    open_runs = "SELECT count(*) FROM dag_run WHERE state NOT IN ('success', 'failed')"
    until(lambda: found.cluster.sql(open_runs) == [(0,)], 600, every=2)
    # Pools and pollers close a while after the last wait, so a leak shows only then.
    for _ in range(9):
        samples.take(found, began)
        time.sleep(SAMPLE_SECONDS)
    return samples, runs


def complaints(found: Scene) -> Counter[str]:
    """Count the complaints in the logs of all parts and tasks."""
    counts: Counter[str] = Counter()
    for path in found.cluster.home.rglob("*.log"):
        counts.update(COMPLAINTS.findall(path.read_text(errors="replace")))
    return counts


def account(found: Scene, runs: list[tuple[str, str, int]]) -> bool:
    """Print the bill and the results; return True if both are correct."""
    open_books = partial(audit, found.cluster, found.vendor, found.s3)
    books = [open_books(run[:2], run[2]) for run in runs if run[0] != "sensor"]
    asked_for = Counter(run.input["prompt"] for run in found.vendor.journal.runs().values())
    sensors = [count for prompt, count in asked_for.items() if prompt.startswith("sensor ")]
    print(f"\nof {sum(book.billed for book in books)} saved ones: ", end="")
    print(f"lost {sum(len(book.lost) for book in books)},", end=" ")
    print(f"billed twice {sum(len(book.billed_twice) for book in books)},", end=" ")
    print(f"falsely failed {sum(len(book.failed_falsely) for book in books)};", end=" ")
    print(f"of {len(sensors)} of the sensors: billed twice {sum(count > 1 for count in sensors)}")
    return all(book.are_clean for book in books) and set(sensors) == {1}


def report(samples: Samples) -> str:
    """Return a table of medians for each part: second sixth of the load, last sixth, after the end."""
    loaded = [n for n, waits in enumerate(samples.open_waits) if waits] or [0]
    end = loaded[-1]
    spans = {"early": range(end // 6, end // 3), "late": range(end - end // 6, end), "after": range(-3, 0)}
    rows: list[tuple[str, ...]] = []
    for name, held in samples.parts.items():
        cells = [
            " / ".join(
                f"{statistics.median(getattr(held[n], what) for n in span):.0f}" for span in spans.values()
            )
            for what in ("memory", "files", "connections")
        ]
        rows.append((name, *cells, f"{_slope(samples, name, end // 6, end):+.1f}"))
    head = (
        "part (early / late / after)",
        "memory, MiB",
        "open files",
        "connections",
        "MiB an hour",
    )
    return table(head, rows)


def _slope(samples: Samples, name: str, first: int, last: int) -> float:
    """Return the growth of a part in MiB an hour, by least squares."""
    at = samples.at[first:last]
    memory = [held.memory for held in samples.parts[name][first:last]]
    return statistics.linear_regression(at, memory).slope * 3600


def picture(samples: Samples) -> str:
    """Return an SVG with memory, open files and connections of each part over time."""
    width, height, margin = 760, 230, 60
    panels = (("memory", "memory, MiB"), ("files", "open files"), ("connections", "connections"))
    total = len(panels) * height + 30
    span = samples.at[-1]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" font-size="12">',
        f'<rect width="{width}" height="{total}" fill="white"/>',
    ]
    for row, (what, name) in enumerate(panels):
        top, bottom = row * height + 30, (row + 1) * height - 10
        most = max(getattr(held, what) for part in samples.parts.values() for held in part) * 1.05
        lines.append(f'<text x="{margin}" y="{top - 8}">{name}</text>')
        for quarter in range(5):
            y = bottom - (bottom - top) * quarter / 4
            lines.append(
                f'<line x1="{margin}" y1="{y:.0f}" x2="{width - 130}" y2="{y:.0f}" stroke="#ddd"/>'
                f'<text x="{margin - 8}" y="{y + 4:.0f}" text-anchor="end">{most * quarter / 4:.0f}</text>'
            )
        for (part, held), color in zip(samples.parts.items(), COLORS, strict=True):
            points = " ".join(
                f"{margin + (width - 130 - margin) * at / span:.1f},"
                f"{bottom - (bottom - top) * getattr(one, what) / most:.1f}"
                for at, one in zip(samples.at, held, strict=True)
            )
            lines.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
            if not row:
                y = top + 18 + 18 * list(samples.parts).index(part)
                lines.append(f'<text x="{width - 120}" y="{y}" fill="{color}">{part}</text>')
    for minute in range(0, int(span / 60) + 1, 5):
        x = margin + (width - 130 - margin) * minute * 60 / span
        lines.append(f'<text x="{x:.0f}" y="{total - 18}" text-anchor="middle">{minute}</text>')
    lines.append(f'<text x="{width - 130}" y="{total - 2}" text-anchor="end">minutes</text></svg>')
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the load, and print resources, results and complaints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the load lasts (30)")
    parser.add_argument("--picture", action="store_true", help="draw soak.svg")
    asked = parser.parse_args()
    with scene(dags={"campaign": DAGS + SENSOR}) as found:
        found.cluster.wait_for_dags(*ROUND)
        samples, runs = soak(found, asked.minutes * 60)
        print(report(samples))
        states = (
            "SELECT dag_id, state, count(*), sum(try_number) FROM task_instance"
            " WHERE map_index >= 0 GROUP BY 1, 2"
        )
        print(table(("dag", "state", "tasks", "attempts"), sorted(found.cluster.sql(states))))
        is_clean = account(found, runs)
        print(f"open waits at most {max(samples.open_waits)}; complaints in logs: {dict(complaints(found))}")
    if asked.picture:
        Path(__file__).with_name("soak.svg").write_text(picture(samples))
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
