"""Number of polls against lateness: fixed intervals, and the package's schedule.

Run with `uv run python benchmarks/frontier.py`; `--picture` draws `frontier.svg` in the same folder. This
is a simulation: the clock is virtual, the decisions are the package's (`airflow_vace.core.wait`), and
predictions boot, run and log like the emulator's, with noise. Both sides see the same predictions.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

from airflow_vace.core.schedule import Experience
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.emulator.world import Timeline, iso
from airflow_vace.inputs import SPEED_MODES
from airflow_vace.prediction import Prediction

PREDICTIONS = 600
FIXED = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
BOUNDS = (2.0, 5.0, None, 20.0, 30.0)
LATENCY = 0.15
# Seconds a step takes at 832*480 and 81 frames on the slowest mode: https://replicate.com/prunaai/vace-14b
STEP = 1.57
MODES = dict(zip(SPEED_MODES.values(), (1.0, 0.6, 0.4), strict=True))
SIZES = {"832*480": 1.0, "1280*720": 2.3}
FRAMES = {81: 1.0, 49: 0.6, 121: 1.5}


@dataclass
class Run:
    """One prediction: its input, its course, and whether its logs are visible."""

    number: int
    given: dict[str, object]
    timeline: Timeline
    has_logs: bool
    fails_at: float | None

    @property
    def ended(self) -> float:
        return self.timeline.ended if self.fails_at is None else self.fails_at

    def state_at(self, now: float) -> Prediction:
        line = self.timeline
        if now >= self.ended:
            status = "succeeded" if self.fails_at is None else "failed"
        else:
            status = "processing" if now >= line.started else "starting"
        members: dict[str, object] = {
            "id": f"p{self.number}",
            "status": status,
            "model": "prunaai/vace-14b",
            "input": self.given,
            "logs": line.logs_at(now) if self.has_logs else "",
            "created_at": iso(line.created),
        }
        if now >= line.started:
            members["started_at"] = iso(line.started)
        if now >= self.ended:
            members["completed_at"] = iso(self.ended)
        return Prediction.from_json(members)


def runs(seed: int, count: int, *, has_logs: bool) -> list[Run]:
    """Return predictions over some hours: three in four of a common kind, one in five with a cold boot."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    found = []
    created = 1_700_000_000.0
    for number in range(count):
        created += chance.expovariate(1 / 15)
        common = chance.random() < 0.75
        size = "832*480" if common else chance.choice(list(SIZES))
        frames = 81 if common else chance.choice(list(FRAMES))
        mode = chance.choice(list(MODES))
        work = SIZES[size] * FRAMES[frames] * chance.gauss(1, 0.03)
        cold = chance.random() < 0.2
        boot = chance.lognormvariate(4.4, 0.6) if cold else chance.uniform(0.5, 4)
        timeline = Timeline(
            created=created,
            boot=boot,
            load=chance.uniform(2, 6),
            step=STEP * work * MODES[mode],
            steps=50,
            decode=6 * work * chance.gauss(1, 0.1),
        )
        fails = None
        if chance.random() < 0.03:
            fails = timeline.started + chance.random() * (timeline.ended - timeline.started)
        given: dict[str, object] = {"prompt": "a fox", "size": size, "frame_num": frames, "speed_mode": mode}
        found.append(Run(number, given, timeline, has_logs, fails))
    return found


def fixed(found: list[Run], interval: float, seed: int) -> tuple[list[int], list[float]]:
    """Return numbers of polls and lateness for a fixed interval with a random start."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    polls, late = [], []
    for run in found:
        now, count = run.timeline.created + chance.uniform(0, interval), 1
        while now < run.ended:
            now, count = now + interval, count + 1
        polls.append(count)
        late.append(now + LATENCY - run.ended)
    return polls, late


def ours(found: list[Run], bound: float | None) -> tuple[list[int], list[float]]:
    """Return numbers of polls and lateness for the schedule; all waits share experience."""
    experience = Experience()
    waits, polls, late = {}, [0] * len(found), [0.0] * len(found)
    due = [(run.timeline.created + LATENCY, run.number) for run in found]
    heapq.heapify(due)
    while due:
        now, number = heapq.heappop(due)
        run = found[number]
        state = run.state_at(now)
        if number not in waits:
            known = Prediction.from_json({"id": state.id, "status": "starting"})
            waits[number] = Wait(prediction=known, poll_interval=bound, experience=experience)
        polls[number] += 1
        decision = waits[number].answered(state, now + LATENCY)
        if isinstance(decision, PollAgain):
            heapq.heappush(due, (now + LATENCY + decision.seconds, number))
        else:
            late[number] = now + LATENCY - run.ended
            del waits[number]
    return polls, late


@dataclass
class Point:
    """One way to poll, over all predictions: mean number of polls, quantiles of lateness in seconds."""

    name: str
    polls: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, name: str, measured: tuple[list[int], list[float]]) -> Point:
        polls, late = measured
        centiles = statistics.quantiles(late, n=20)
        return cls(name, statistics.mean(polls), statistics.median(late), centiles[-1], max(late))

    def line(self, ratio: float | None = None) -> str:
        column = "" if ratio is None else f"{ratio:8.2f}"
        return f"{self.name:<26}{self.polls:8.1f}{self.median:10.2f}{self.p95:10.2f}{self.most:10.2f}{column}"


def fixed_polls_for(found: list[Run], median: float) -> float:
    """Return the mean number of polls of a fixed interval with this median lateness."""
    interval = max(2 * (median - LATENCY), 0.05)
    return statistics.mean((run.ended - run.timeline.created) / interval for run in found) + 0.5


def measured(*, has_logs: bool) -> tuple[list[Point], list[tuple[Point, float]]]:
    """Return the points of fixed intervals, and those of the schedule with their ratios."""
    found = runs(7, PREDICTIONS, has_logs=has_logs)
    stock = [Point.of(f"fixed, {each:g} s", fixed(found, each, 1)) for each in FIXED]
    own = []
    for bound in BOUNDS:
        name = "ours" if bound is None else f"ours, poll_interval={bound:g}"
        point = Point.of(name, ours(found, bound))
        own.append((point, point.polls / fixed_polls_for(found, point.median)))
    return stock, own


def picture(stock: list[Point], own: list[tuple[Point, float]], blind: list[tuple[Point, float]]) -> str:
    """Return the frontier as SVG: polls per prediction across, median lateness up, both logarithmic."""
    import math

    width, height, margin = 720, 440, 60
    across, up = (4.0, 200.0), (0.2, 20.0)

    def place(point: Point) -> tuple[float, float]:
        x = math.log(point.polls / across[0]) / math.log(across[1] / across[0])
        y = math.log(point.median / up[0]) / math.log(up[1] / up[0])
        return margin + x * (width - 2 * margin), height - margin - y * (height - 2 * margin)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for polls in (5, 10, 20, 50, 100, 200):
        x, _ = place(Point("", polls, 1, 1, 1))
        lines.append(
            f'<line x1="{x:.0f}" y1="{margin}" x2="{x:.0f}" y2="{height - margin}" stroke="#ddd"/>'
            f'<text x="{x:.0f}" y="{height - margin + 18}" text-anchor="middle">{polls}</text>'
        )
    for late in (0.2, 0.5, 1, 2, 5, 10, 20):
        _, y = place(Point("", 5, late, 1, 1))
        lines.append(
            f'<line x1="{margin}" y1="{y:.0f}" x2="{width - margin}" y2="{y:.0f}" stroke="#ddd"/>'
            f'<text x="{margin - 8}" y="{y + 4:.0f}" text-anchor="end">{late:g}</text>'
        )
    groups = (
        ("fixed interval", "#888", stock),
        ("ours, with logs", "#5b3fd1", [point for point, _ in own]),
        ("ours, no logs", "#c2410c", [point for point, _ in blind]),
    )
    for row, (name, color, points) in enumerate(groups):
        places = [place(point) for point in sorted(points, key=lambda point: point.polls)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in places]
        lines.append(f'<text x="{width - 190}" y="{margin + 18 + 18 * row}" fill="{color}">{name}</text>')
    lines.append(f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">polls per prediction</text>')
    lines.append(f'<text x="{margin}" y="{margin - 20}">median lateness, seconds</text></svg>')
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print both frontiers, and draw the picture on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", action="store_true", help="draw frontier.svg")
    options = parser.parse_args()
    seeing, blind = measured(has_logs=True), measured(has_logs=False)
    for name, (stock, own) in (("with logs", seeing), ("no logs", blind)):
        print(f"{PREDICTIONS} predictions, {name}")
        print(f"{'':<26}{'polls':>8}{'median':>10}{'p95':>10}{'latest':>10}{'ratio':>8}")
        for point in stock:
            print(point.line())
        for point, ratio in own:
            print(point.line(ratio))
        print()
    print("seconds late; ratio: polls, against a fixed interval of the same median lateness")
    if options.picture:
        Path(__file__).with_name("frontier.svg").write_text(picture(seeing[0], seeing[1], blind[1]))


if __name__ == "__main__":
    main()
