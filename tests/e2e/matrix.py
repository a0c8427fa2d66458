"""The tests on each Airflow and Python, on the built wheel: `uv run python tests/e2e/matrix.py [CELL ...]`.

A cell is `airflow:python`, such as `3.4.0b2:3.13`; without any, all are run. Prints a table for the README.
"""

from __future__ import annotations

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
# What looks at the source tree, which is not there: the wheel is what is tested.
LEFT_OUT = "not imports_point_down and not wheel_holds and not links_between_the_pages"
# With the libraries of its own day: Airflow 3.2.2 does not start its own `dag.test()` with later ones.
DAYS = {"3.2.2": "2026-06-10"}
NEWEST = ("apache-airflow-providers-common-compat", "apache-airflow-providers-http")
NEEDED = ("hypothesis>=6", "jsonschema>=4", "pytest>=8.4", "pytest-xdist>=3.8", "replicate<2")


def interpreter(version: str) -> str | None:
    """Return the path of a Python of this minor version, None if this machine has none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = sorted(pyenv.glob(f"{version}.*/bin/python"))
    return str(installed[-1]) if installed else shutil.which(f"python{version}")


def run(cell: str, wheel: Path, scratch: Path) -> tuple[bool, str]:
    """Run the tests of one cell; return whether all is well, and its row of the table."""
    airflow, _, version = cell.partition(":")
    python = interpreter(version)
    if python is None:
        return True, f"| {airflow} | {version} | not run: no Python {version} here | |"
    place, started = scratch / cell.replace(":", "-"), time.monotonic()
    uv = shutil.which("uv") or "uv"
    subprocess.run([uv, "venv", "-q", "--python", python, str(place / "venv")], check=True)
    own = str(place / "venv/bin/python")
    # As a person installs it; the date keeps what resolves repeatable.
    found = re.search(r'^exclude-newer = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    today = found[1]
    install = [uv, "pip", "install", "-q", "--python", own, "--exclude-newer", DAYS.get(airflow, today)]
    for name in NEWEST:
        install += ["--exclude-newer-package", f"{name}={today}"]
    wanted = [f"apache-airflow=={airflow}", f"{wheel}[emulator]", *NEEDED]
    subprocess.run([*install, "--prerelease", "if-necessary-or-explicit", *wanted], check=True)
    for name in ("tests", "dags", "deploy", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, place / "repo" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, place / "repo" / name)
    tests = subprocess.run(
        [own, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-k", LEFT_OUT],
        cwd=place / "repo",
        env={**os.environ, "PATH": f"{place / 'venv/bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = tests.stdout.splitlines()
    print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR"))), flush=True)
    told = re.sub(r"=+ ?| in [\d.]+s.*", "", lines[-1] if lines else tests.stderr[-500:])
    shutil.rmtree(place)
    return tests.returncode == 0, f"| {airflow} | {version} | {told} | {time.monotonic() - started:.0f} s |"


def main(cells: list[str]) -> int:
    """Run the cells one after the other; return 1 if one of them failed."""
    rows, is_well = [], True
    with tempfile.TemporaryDirectory(prefix="vace-matrix-") as name:
        scratch = Path(name)
        build = ["uv", "build", "-q", "--wheel", "--out-dir", str(scratch / "dist"), str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = (scratch / "dist").glob("*.whl")
        for cell in cells or CELLS:
            is_good, row = run(cell, wheel, scratch)
            is_well = is_well and is_good
            rows.append(row)
            print(row, flush=True)
    print("\n| Airflow | Python | tests | took, with the installation |\n|---|---|---|---|", *rows, sep="\n")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
