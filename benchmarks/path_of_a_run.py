"""Count the steps of one run: how often it repeats work, and how often a reader changes the file.

One operator submits, polls once and finds the prediction final, at the emulator, with Airflow's task state
store. Only calls of this package in the task's thread count; imports and the emulator do not.

    uv run benchmarks/path_of_a_run.py [--calls]

`--calls` prints the path itself: one line for each run of calls in one file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

_HERE = Path(__file__).resolve().parent
_PACKAGE = _HERE.parent / "airflow_vace"
# The emulator stands for the vendor, so its calls are no part of the path.
_APART = (str(_PACKAGE / "emulator"),)
# The work that a run must not repeat, by the names of the functions that do it.
_COUNTED = {
    "input normalised": {"normalize_input"},
    "order digested": {"Order.fingerprint"},
    "digests of any kind": {"_digest"},
    "record parsed": {"Record.from_json"},
    "prediction parsed": {"Prediction.from_json"},
}

sys.path.insert(0, str(_HERE.parent / "tests"))


def calls_of(work: Any) -> list[tuple[str, str]]:
    """Run `work` and return (file, qualified name) of each call of this package, in order."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        is_ours = code.co_filename.startswith(str(_PACKAGE)) and not code.co_filename.startswith(_APART)
        if event == "call" and is_ours and code.co_name != "<module>":
            calls.append((str(Path(code.co_filename).relative_to(_PACKAGE)), code.co_qualname))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def file_runs(calls: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return the consecutive calls in one file, as (file, names)."""
    return [(file, [name for _, name in group]) for file, group in groupby(calls, key=lambda call: call[0])]


def run_once() -> Any:
    """Return the run of an operator that waits on its worker for a prediction without files."""
    from airflow_vace.operators import VacePredictionOperator
    from support.tasks import Run, Store

    def operator() -> VacePredictionOperator:
        return VacePredictionOperator(
            task_id="t", input={"prompt": "a fox"}, wait_for_completion=True, deferrable=False
        )

    return Run(operator, _CountingStore(Store()))  # type: ignore[arg-type]


class _CountingStore:
    """Counts the reads of a state store, each of which is a request to Airflow's API server."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.reads = self.writes = 0

    def get(self, key: str) -> Any:
        self.reads += 1
        return self.store.get(key)

    def set(self, key: str, value: Any, **kwargs: Any) -> None:
        self.writes += 1
        self.store.set(key, value, **kwargs)

    def delete(self, key: str) -> None:
        self.store.delete(key)


def main() -> None:
    """Run the operator twice, and print the counts of the second run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", action="store_true", help="print the path too")
    arguments = parser.parse_args()
    # A home of its own, so that nothing of the person's installation counts.
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="vace-path-")
    from airflow_vace.emulator import Emulator

    with Emulator(time_scale=0.0) as server:
        # The response to the create comes before the end, so the run polls once.
        server.faults.add(method="POST", patch={"status": "starting", "output": None}, times=None)
        os.environ["AIRFLOW_CONN_VACE_DEFAULT"] = server.connection
        run_once().result()  # the imports and caches of the first run
        run = run_once()
        calls = calls_of(run.result)
        requests = Counter(seen.method for seen in server.requests)
    runs = file_runs(calls)
    counts = Counter(name for _, name in calls)
    if arguments.calls:
        for file, names in runs:
            print(f"{file:28} {' '.join(names)}")
    store = run.context["task_state_store"]
    print(f"requests of two runs: {dict(requests)}")
    print(f"ledger: {store.reads} reads, {store.writes} writes")
    for work, functions in _COUNTED.items():
        print(f"{work}: {sum(counts[name] for name in functions)}")
    print(f"calls: {len(calls)}")
    print(f"changes of file: {len(runs) - 1}")


if __name__ == "__main__":
    main()
