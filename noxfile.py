"""Run the checks of the package, a session for each kind: `uv run nox -s crash`; `uv run nox -l` lists them.

The sessions share the project's environment, which uv manages: a second installation of Airflow would cost
minutes. Arguments after `--` go to the program that the session runs: `uv run nox -s tests -- -n 0 -k label`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]

# The oldest and the newest Airflow; `tests/e2e/matrix.py` knows those in between.
EDGES = ("3.1.8:3.11", "3.4.0b2:3.13")
# The rooms without Airflow, I/O or a clock; a branch that no test takes there has no excuse.
CORE = (
    *("airflow_vace/exceptions.py", "airflow_vace/prediction.py"),
    *("airflow_vace/ids.py", "airflow_vace/status.py"),
    *("airflow_vace/inputs.py", "airflow_vace/input_fields.py", "airflow_vace/plain.py"),
    *("airflow_vace/redaction.py", "airflow_vace/core/*"),
)

# Shows the output of tests that pass: tables of what was killed and billed.
TABLES = ("-rfEsP",)


def run(session: nox.Session, *command: str, groups: tuple[str, ...] = (), **environment: str) -> None:
    """Run a program in the project's environment, together with further dependency groups."""
    options = [part for group in groups for part in ("--group", group)]
    session.run("uv", "run", *options, *command, env=environment)


def whole(session: nox.Session, marker: str, *options: str, groups: tuple[str, ...] = (), **env: str) -> None:
    """Run the tests of one marker on whole Airflows."""
    # One process unless an option says otherwise: each module starts an Airflow, which fills a core.
    command = ("pytest", "-n", "0", "-m", marker, *options)
    run(session, *command, *session.posargs, groups=groups, **env)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests without further programs."""
    run(session, "pytest", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """Run the tests that take many seconds of a core: kills, hostile servers, random histories."""
    run(session, "pytest", "-n", "4", "-m", "long", *session.posargs, VACE_LONG="1")


@nox.session
def dags(session: nox.Session) -> None:
    """Run whole DAGs: those of the pages, the examples, and others with a database."""
    run(session, "pytest", "-n", "4", "-m", "dags", *session.posargs, VACE_DAGS="1")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    run(session, "ruff", "check", *session.posargs)
    run(session, "ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of all code with mypy, and the public types with pyright too."""
    session.run("uv", "run", "--all-groups", "mypy", *session.posargs)
    run(session, "pyright")


@nox.session
def e2e(session: nox.Session) -> None:
    """Run the tests on `airflow standalone`, and those with the vendor's clients."""
    with tempfile.TemporaryDirectory() as folder:
        session.run(
            "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, "replicate@1"
        )
        # The development group has the client 1.x; both versions are one package, so 2.x lives elsewhere.
        python = f"{folder}/python2/bin/python"
        session.run("uv", "venv", "-q", f"{folder}/python2")
        session.run("uv", "pip", "install", "-q", "--python", python, "replicate>=2.0.0b1,<3")
        whole(
            session,
            "standalone or clients",
            *TABLES,
            VACE_STANDALONE="1",
            VACE_NODE_MODULES=f"{folder}/node_modules",
            VACE_PYTHON2=python,
        )


@nox.session
def crash(session: nox.Session) -> None:
    """Kill parts of whole Airflows on PostgreSQL, and count the bill."""
    # Its tests mostly wait for Airflow to notice a death, so two modules fit side by side.
    parallel = ("-n", "2", "--dist", "loadfile", *TABLES)
    whole(session, "crash", *parallel, groups=("cluster",), VACE_CRASH="1")


@nox.session
def stores(session: nox.Session) -> None:
    """Read from and save to an S3 server, alone and in a whole Airflow."""
    whole(session, "stores", groups=("cluster", "stores"), VACE_STORES="1")


@nox.session
def cluster(session: nox.Session) -> None:
    """Disturb each part of a cluster with two of each; `VACE_CLUSTER=all` adds half an hour."""
    whole(
        session,
        "cluster",
        *TABLES,
        groups=("cluster", "stores"),
        VACE_CLUSTER=os.environ.get("VACE_CLUSTER", "1"),
    )


@nox.session
def browser(session: nox.Session) -> None:
    """Check a whole Airflow's pages in Chromium."""
    whole(session, "browser", groups=("browser",), VACE_BROWSER="1")


@nox.session
def matrix(session: nox.Session) -> None:
    """Test the built wheel on the oldest and the newest Airflow."""
    cells = session.posargs or ["--airflow-only", *EDGES]
    run(session, "python", "tests/e2e/matrix.py", *cells)


@nox.session
def wheel(session: nox.Session) -> None:
    """Install the wheel elsewhere with the tested versions, and run the demo there."""
    with tempfile.TemporaryDirectory() as folder:
        session.run("uv", "build", "-q", "--wheel", "--out-dir", f"{folder}/dist")
        (built,) = Path(folder, "dist").glob("*.whl")
        python = f"{folder}/venv/bin/python"
        session.run("uv", "venv", "-q", f"{folder}/venv")
        install = ("uv", "pip", "install", "-q", "--python", python, "-c", "constraints.txt")
        session.run(*install, f"{built}[emulator]")
        check = str(Path("tests/e2e/wheel.py").resolve())
        with session.chdir(folder):  # where the checkout is not on Python's path
            session.run(python, check)


@nox.session
def lineage(session: nox.Session) -> None:
    """Read the events of OpenLineage's provider, installed elsewhere: the provider listens to each task."""
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/bin/python"
        session.run("uv", "venv", "-q", folder)
        install = ("uv", "pip", "install", "-q", "--python", python, "-c", "constraints.txt")
        needed = ("pytest", "pytest-xdist", "hypothesis", "apache-airflow-providers-openlineage>=2.20")
        session.run(*install, "-e", ".[emulator]", *needed)
        session.run(python, "-m", "pytest", "-n", "0", "tests/observability/test_lineage.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into `site/`, without a network; a link without a target is an error."""
    # The reference is read from the source, so nothing of the package is imported.
    run(session, "zensical", "build", "--strict", "--clean", groups=("docs",))


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz each reader of foreign bytes, guided by coverage, for ten seconds."""
    arguments = session.posargs or ["--seconds", "10"]
    run(session, "python", "tests/fuzzing/guided.py", *arguments, groups=("fuzz",))


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks by name, such as `waits` (default: two of less than a minute)."""
    for name in session.posargs or ("import_time", "frontier"):
        run(session, "python", f"benchmarks/{name}.py", groups=("cluster", "stores"))


@nox.session
def coverage(session: nox.Session) -> None:
    """Require all branches of the core, and 95 % of the package, in earlier sessions' measurements."""
    if list(Path.cwd().glob(".coverage.*")):
        run(session, "coverage", "combine", "-q")
    run(session, "coverage", "report", f"--include={','.join(CORE)}", "--fail-under=100")
    run(session, "coverage", "report", "--fail-under=95")
