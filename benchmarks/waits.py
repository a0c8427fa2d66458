"""The cost of many waits in a triggerer: this package and the stock ways, side by side in one run.

Run with `uv run python benchmarks/waits.py` (all, half an hour), or name scenarios:
`polls memory scale limiter lookups lateness`. Each way runs in a separate process, in turns; the vendor is
another process, over TLS on loopback, and counts the requests. Figures are medians of the rounds, with the
spread in brackets.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from vendor import VendorProcess

WAITER = Path(__file__).with_name("waiter.py")
ROUNDS = 3
NEVER = {"boot": 0.0, "load": 1.0, "step": 60.0, "decode": 5.0}


def waited(  # noqa: PLR0913 - a scenario
    vendor: VendorProcess,
    way: str,
    plan: list[dict[str, float]],
    *,
    interval: float,
    seconds: float,
    lookup: float = 0.0,
) -> dict[str, Any]:
    """Let a way wait for planned predictions; return its use of resources and the vendor's counters."""
    vendor.plan(plan)
    environment = dict(os.environ, SSL_CERT_FILE=str(vendor.chain), VACE_LOOKUP_SECONDS=str(lookup))
    command = [sys.executable, str(WAITER), way, vendor.url, str(len(plan)), str(interval), str(seconds)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    used: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return used | {"vendor": vendor.counts()}


def polls_of(used: dict[str, Any]) -> int:
    """Return the number of polls at the vendor."""
    return sum(used["vendor"]["polls"])


def shown(values: list[float], form: str = "{:.3g}") -> str:
    """Return the median of some rounds, and their spread."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form.format(middle)} [{form.format(low)}-{form.format(high)}]"


def line(*cells: object) -> None:
    """Print a row."""
    print("".join(f"{cell!s:<30}" if number == 0 else f"{cell!s:<24}" for number, cell in enumerate(cells)))


def polls() -> None:
    """Compare the processor time of a poll."""
    ways = ("ours", "raw pool", "HttpEventTrigger")
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with VendorProcess() as vendor:
        for _ in range(ROUNDS):
            for way in ways:
                # HttpEventTrigger reaches its limit below 400 polls a second, so no more waits than this.
                found[way].append(waited(vendor, way, [NEVER] * 400, interval=2, seconds=20))
    print("\n400 waits, a poll each 2 s; microseconds of CPU per poll")
    line("", "CPU us a poll", "connections a poll", "open at most", "lag p99 ms", "lost")
    cost = {}
    for way, rounds in found.items():
        cost[way] = [used["cpu_share"] / used["polls_share"] * 1e6 for used in map(with_shares, rounds)]
        line(
            way,
            shown(cost[way]),
            shown([used["vendor"]["connections"] / polls_of(used) for used in rounds]),
            max(used["vendor"]["max_open"] for used in rounds),
            shown([used["lag_p99"] * 1000 for used in rounds]),
            sum(used["lost"] for used in rounds),
        )
    for way in ways[1:]:
        ratios = [mine / theirs for mine, theirs in zip(cost["ours"], cost[way], strict=True)]
        line(f"ours / {way}", shown(ratios))


def with_shares(used: dict[str, Any]) -> dict[str, Any]:
    """Return the use after the start, with the share of polls in this time."""
    # Polls are evenly spread, so the share follows from the duration.
    share = (used["until"] - used["from"]) / (used["until"] - used["vendor"]["started"])
    return used | {"cpu_share": used["cpu"], "polls_share": polls_of(used) * share}


def memory() -> None:
    """Compare the memory of a wait."""
    with VendorProcess() as vendor:
        mine = [waited(vendor, "ours", [NEVER] * 5000, interval=20, seconds=40) for _ in range(2)]
        raw = [waited(vendor, "raw pool", [NEVER] * 5000, interval=20, seconds=40) for _ in range(2)]
        theirs = [waited(vendor, "own sessions", [NEVER] * 500, interval=20, seconds=30) for _ in range(2)]
    print("\nmemory of a wait, KiB (5,000 waits; own sessions: 500, the most that fits)")
    line("ours", shown([used["memory"] / 5000 / 1024 for used in mine]))
    line("raw pool", shown([used["memory"] / 5000 / 1024 for used in raw]))
    line("own sessions", shown([used["memory"] / 500 / 1024 for used in theirs]))


def scale() -> None:
    """Measure the loop's lag, and the punctuality of polls, with many waits."""
    print("\nmany waits")
    line("", "polls/s", "lag p99 ms", "lag max ms", "gaps in time", "open", "CPU share")
    with VendorProcess() as vendor:
        for count, interval in ((1000, 2.0), (5000, 10.0), (10000, 0.0)):
            for way in ("ours", "raw pool"):
                seconds = 60.0
                used = waited(vendor, way, [NEVER] * count, interval=interval, seconds=seconds)
                bound = interval or (10.0 if way == "ours" else 5.0)
                pauses = used["vendor"]["longest_pause"]
                in_time = sum(pause <= bound * 1.05 + 0.25 for pause in pauses) / count
                line(
                    f"{count} {way}, bound {bound:g} s",
                    f"{polls_of(used) / seconds:.0f}",
                    f"{used['lag_p99'] * 1000:.1f}",
                    f"{used['lag_max'] * 1000:.0f}",
                    f"{in_time:.2%}",
                    used["vendor"]["max_open"],
                    f"{used['cpu'] / (used['until'] - used['from']):.0%}",
                )


def realistic(count: int, seed: int) -> list[dict[str, float]]:
    """Return durations as of VACE, with starts over some minutes, short enough to wait for all ends."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    plan = []
    for _ in range(count):
        work = chance.choice((0.4, 0.6, 0.6, 1.0)) * chance.gauss(1, 0.03)
        cold = chance.random() < 0.2
        boot = chance.uniform(20, 60) if cold else chance.uniform(0.5, 30)
        load, decode = chance.uniform(2, 6), 6 * work
        plan.append({"boot": boot, "load": load, "step": 1.57 * work, "decode": decode})
    return plan


def limiter() -> None:
    """Count lost waits and refused requests under a limit of 50 requests a second."""
    print("\n400 waits under a limit of 50 requests a second (429, Retry-After: 1)")
    line("", "requests", "refused", "share", "ended", "lost", "median late s")
    with VendorProcess(limit=50.0) as vendor:
        for way, interval in (
            ("ours", 0.0),
            ("pages", 0.0),
            ("HttpEventTrigger", 5.0),
            ("replicate-python", 5.0),
        ):
            used = waited(vendor, way, realistic(400, 5), interval=interval, seconds=400)
            seen = used["vendor"]
            late = [each for each in seen["late"] if each is not None]
            line(
                way,
                seen["requests"],
                seen["refused"],
                f"{seen['refused'] / seen['requests']:.2%}",
                used["ended"],
                used["lost"],
                f"{statistics.median(late):.2f}",
            )


def lookups() -> None:
    """Count connection lookups of 70 ms, and measure the delay until the last wait is polled."""
    with VendorProcess() as vendor:
        used = waited(vendor, "ours", [NEVER] * 1000, interval=30, seconds=10, lookup=0.07)
    first = [each for each in used["vendor"]["first_poll"] if each is not None]
    print("\n1,000 triggers that begin at once, each lookup of the connection as slow as Airflow's (70 ms)")
    line("lookups", used["lookups"])
    line("polled", len(first))
    line("last first poll after the first", f"{max(first) - min(first):.2f} s")


def lateness() -> None:
    """Compare polls and processor time of ending predictions, at equal median lateness."""
    plan = realistic(150, 7)
    print("\n150 predictions, as long as VACE's; a fixed interval with our median lateness")
    line("", "polls each", "CPU ms each", "median late s", "ended")
    with VendorProcess() as vendor:
        mine = waited(vendor, "ours", plan, interval=0, seconds=240)
        middle = statistics.median(each for each in mine["vendor"]["late"] if each is not None)
        rows = [("ours", mine)]
        # A fixed interval is late by half its length in the median, so this one has our lateness.
        interval = max(2 * middle, 0.2)
        rows += [
            (way, waited(vendor, way, plan, interval=interval, seconds=240))
            for way in ("raw pool", "HttpEventTrigger")
        ]
    with VendorProcess() as vendor:
        plan = realistic(400, 8)
        listed = waited(vendor, "pages", plan, interval=0, seconds=240)
        rows.append(("pages, 400 waits", listed))
    per: dict[str, tuple[float, float, float]] = {}
    for name, used in rows:
        late = [each for each in used["vendor"]["late"] if each is not None]
        requests = used["vendor"]["requests"] / len(used["vendor"]["polls"])
        per[name] = requests, used["cpu_wait"] / len(late) * 1000, statistics.median(late)
        line(name, f"{requests:.1f}", f"{per[name][1]:.1f}", f"{per[name][2]:.2f}", used["ended"])
    line("CPU, ours / HttpEventTrigger", f"{per['ours'][1] / per['HttpEventTrigger'][1]:.3f}")
    line("polls, ours / fixed", f"{per['ours'][0] / per['raw pool'][0]:.3f}")
    paged = per["pages, 400 waits"]
    total = statistics.mean(sum((p["boot"], p["load"], 50 * p["step"], p["decode"])) for p in plan)
    line("requests, pages / fixed", f"{paged[0] / (total / (2 * paged[2])):.3f}")


SCENARIOS = {
    "polls": polls,
    "memory": memory,
    "scale": scale,
    "limiter": limiter,
    "lookups": lookups,
    "lateness": lateness,
}


def main() -> None:
    """Run the named scenarios, all by default."""
    for name in sys.argv[1:] or SCENARIOS:
        # `looks` is the earlier name of `polls`.
        SCENARIOS["polls" if name == "looks" else name]()
        sys.stdout.flush()


if __name__ == "__main__":
    main()
