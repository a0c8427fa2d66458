"""Random histories of tasks with a cap: no bill passes the cap, and each receipt equals its bill.

Run with `uv run python benchmarks/budget.py`; 10,000 histories take some five minutes. Ledgers, decisions
and calls are the package's own; vendor and clock are virtual. A history has items, failures, retries, clears,
rejected clips, lost answers, and kills around each request and each write of the state store.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import conftest  # noqa: F401 - gives Airflow a home of its own
from support.histories import fault_of, history


def main() -> None:
    """Play the histories, and print what they have spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first history")
    options = parser.parse_args()
    found: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.histories):
        played = history(seed)
        if fault := fault_of(played):
            sys.exit(f"history {seed}: {fault}: {played}")
        found["histories"] += 1
        found["predictions"] += played.predictions
        found["predictions in place of rejected clips"] += played.regenerated
        found["creates refused by a cap"] += played.refused
        found["receipts with an unknown create"] += played.is_unknown
        found["receipts equal to their bill"] += not played.is_unknown
        found["bills above a cap by a run longer than all before"] += played.spent > played.cap
    for name, count in found.items():
        print(f"{count:>8,}  {name}")


if __name__ == "__main__":
    main()
