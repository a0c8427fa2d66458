"""Run the tests on each Airflow and Python, on the built wheel: `uv run nox -s matrix`.

A cell is `airflow:python`, such as `3.4.0b2:3.13`; the default is all cells. The program prints a table for
the README. `--airflow-only` saves time: it runs the tests that another Airflow can change.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CELLS = ("3.1.8:3.11", "3.2.2:3.12", "3.3.2:3.11", "3.3.2:3.12", "3.3.2:3.13", "3.4.0b2:3.13")
# These tests read the source tree, which is absent: the wheel is tested.
DESELECTED = "not imports_point_down and not wheel_holds and not links_between_the_pages"
# The rooms of the package that import no Airflow: a test of layers holds that line, so another Airflow cannot
# change these results. Another Python could, so a run without `--airflow-only` has them too. The tests of
# video run in any case, since a newer Python gets a newer PyAV.
AIRFLOW_FREE = (
    "tests/client",
    "tests/core",
    "tests/emulator/test_chaos.py",
    "tests/emulator/test_emulator.py",
    "tests/fuzzing",
    "tests/test_exceptions.py",
    "tests/test_inputs.py",
    "tests/test_plain.py",
    "tests/test_prediction.py",
)
# Libraries of the release's own day: Airflow 3.2.2 does not start its own `dag.test()` with later ones.
RELEASE_DATES = {"3.2.2": "2026-06-10"}
NEWEST = ("apache-airflow-providers-common-compat", "apache-airflow-providers-http")
NEEDED = ("hypothesis>=6", "jsonschema>=4", "pytest>=8.4", "pytest-xdist>=3.8", "replicate<2", "statsd>=4")


def interpreter(version: str) -> str | None:
    """Return the path of a Python of this minor version, None if this machine has none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = sorted(pyenv.glob(f"{version}.*/bin/python"))
    return str(installed[-1]) if installed else shutil.which(f"python{version}")


def install(cell: str, python: str, wheel: Path, folder: Path) -> Path:
    """Return the interpreter of a new environment with one Airflow and the wheel."""
    airflow = cell.partition(":")[0]
    uv = shutil.which("uv") or "uv"
    subprocess.run([uv, "venv", "-q", "--python", python, str(folder)], check=True)
    own = folder / "bin/python"
    # The date makes the resolution repeatable.
    found = re.search(r'^exclude-newer = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    today = found[1]
    command = [uv, "pip", "install", "-q", "--python", str(own)]
    command += [
        "--exclude-newer",
        RELEASE_DATES.get(airflow, today),
        "--prerelease",
        "if-necessary-or-explicit",
    ]
    for name in NEWEST:
        command += ["--exclude-newer-package", f"{name}={today}"]
    subprocess.run([*command, f"apache-airflow=={airflow}", f"{wheel}[emulator,video]", *NEEDED], check=True)
    return own


def run(cell: str, wheel: Path, scratch: Path, options: list[str]) -> tuple[bool, str]:
    """Run the tests of one cell; return True if they pass, and the cell's row of the table.

    :param options: further options of pytest; without any the long tests run too
    """
    airflow, _, version = cell.partition(":")
    python = interpreter(version)
    if python is None:
        return True, f"| {airflow} | {version} | not run: no Python {version} here | |"
    place, started = scratch / cell.replace(":", "-"), time.monotonic()
    own = install(cell, python, wheel, place / "venv")
    installed = time.monotonic() - started
    for name in ("tests", "dags", "deploy", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, place / "repo" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "constraints.txt", "zensical.toml"):
        shutil.copy(ROOT / name, place / "repo" / name)
    more = {"VACE_DAGS": "1"} if options else {"VACE_DAGS": "1", "VACE_LONG": "1"}
    tests = subprocess.run(
        [own, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-k", DESELECTED, *options],
        cwd=place / "repo",
        env={**os.environ, **more, "PATH": f"{place / 'venv/bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = tests.stdout.splitlines()
    print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR"))), flush=True)
    outcome = re.sub(r"=+ ?| in [\d.]+s.*", "", lines[-1] if lines else tests.stderr[-500:])
    shutil.rmtree(place)
    took = f"{time.monotonic() - started:.0f} s, {installed:.0f} s of it the installation"
    return tests.returncode == 0, f"| {airflow} | {version} | {outcome} | {took} |"


def main() -> int:
    """Run the cells one after the other; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cells", nargs="*", metavar="AIRFLOW:PYTHON", default=CELLS)
    parser.add_argument(
        "--airflow-only", action="store_true", help="leave out the rooms that import no Airflow"
    )
    given = parser.parse_args()
    options = [f"--ignore={path}" for path in AIRFLOW_FREE] if given.airflow_only else []
    rows, is_well = [], True
    with tempfile.TemporaryDirectory(prefix="vace-matrix-") as name:
        scratch = Path(name)
        build = ["uv", "build", "-q", "--wheel", "--out-dir", str(scratch / "dist"), str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = (scratch / "dist").glob("*.whl")
        for cell in given.cells:
            is_good, row = run(cell, wheel, scratch, options)
            is_well = is_well and is_good
            rows.append(row)
            print(row, flush=True)
    print("\n| Airflow | Python | tests | took |\n|---|---|---|---|", *rows, sep="\n")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
