"""Import time of the operator and sensor on top of `airflow.sdk`, compared with providers-http.

Run with `uv run python benchmarks/import_time.py`. Each figure is a median over new processes,
with the candidates in turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 7
CANDIDATES = {
    "airflow_vace": "import airflow_vace.operators, airflow_vace.sensors",
    "providers-http": "import airflow.providers.http.operators.http, airflow.providers.http.sensors.http",
}
CODE = """
import time
import airflow.sdk
from airflow.sdk import BaseOperator, BaseSensorOperator
start = time.perf_counter()
{imports}
print(time.perf_counter() - start)
"""


def seconds(imports: str) -> float:
    """Return the seconds for the imports in a new process with `airflow.sdk` already loaded."""
    command = [sys.executable, "-c", CODE.format(imports=imports)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(found.stdout.splitlines()[-1])


def main() -> None:
    """Measure in turns, and print medians and the ratio."""
    measured: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    # In turns, so a slow moment of the machine hits both candidates.
    for _ in range(ROUNDS):
        for name, imports in CANDIDATES.items():
            measured[name].append(seconds(imports))
    medians = {name: statistics.median(found) for name, found in measured.items()}
    for name, median in medians.items():
        print(f"{name:<16}{median * 1000:8.1f} ms")
    print(f"{'ratio':<16}{medians['airflow_vace'] / medians['providers-http']:8.3f}")


if __name__ == "__main__":
    main()
