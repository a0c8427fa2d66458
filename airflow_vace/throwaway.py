"""A throw-away Airflow in one directory: environment, ports and processes, for the demo and for tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_vace.interrupts import check, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PACKAGE = Path(__file__).resolve().parent
_MAX_START_SECONDS = 300
_END_GRACE_SECONDS = 8.0
_LAST_LINES = 15
_LOOK_SECONDS = 0.1


class DemoError(Exception):
    """A problem for the person at the terminal; the message names the fix."""


def dags_folder(package: Path = _PACKAGE) -> Path:
    """Return the directory of the example DAGs, in an installed wheel or in the checkout.

    :param package: directory of the package `airflow_vace`
    """
    folders = (package / "example_dags", package.parent / "dags")
    return next(folder for folder in folders if folder.is_dir())


def environment_for(home: Path) -> dict[str, str]:
    """Return an environment in which Airflow uses only this home and the example DAGs."""
    # The person's own settings could point to a real database, so none of them is inherited.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return inherited | {
        # `airflow standalone` starts `airflow` by name, so the directory of this Python must be on the PATH.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder()),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__PARALLELISM": "4",
        # Nobody logs in here, so other machines must not reach the server.
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # A proxy can't reach this machine's loopback, so its parts and the emulator bypass the proxy.
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1,localhost"))),
        "PYTHONUNBUFFERED": "1",
    }


def find_airflow(environment: dict[str, str]) -> None:
    """Check that `airflow standalone` can start its parts, which it starts by name.

    :raises DemoError: if the program `airflow` is not on the path
    """
    if shutil.which("airflow", path=environment["PATH"]) is None:
        raise DemoError(
            f"the program `airflow` is neither in {Path(sys.executable).parent} nor on the PATH, and Airflow"
            " starts its parts by this name; run the demo with the Python that has Airflow"
        )


def run_airflow(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """Run an `airflow` command to its end, with its output in the log.

    :raises DemoError: if the command fails; the message has the last lines of the log
    """
    command = [sys.executable, "-m", "airflow", *arguments]
    with started(command, environment, log) as process:
        if wait_for(process):
            raise DemoError(f"airflow {arguments[0]} {arguments[1]} failed:\n{tail_of(log)}")


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in a new process group, and end the whole group after the block."""
    check()
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Airflow starts many processes, and a signal to the first one alone would orphan the rest.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end_group(process)


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """Block until a process ends, and return its exit code.

    :raises KeyboardInterrupt: see :func:`airflow_vace.interrupts.pause`
    """
    while (code := process.poll()) is None:
        pause(_LOOK_SECONDS)
    return code


def end_group(process: subprocess.Popen[bytes], patience: float = _END_GRACE_SECONDS) -> None:
    """Terminate a process group, and kill the remaining processes.

    :param patience: seconds between SIGTERM and SIGKILL
    """
    kill: Callable[[int, int], None] = os.killpg
    with contextlib.suppress(ProcessLookupError, PermissionError):
        kill(process.pid, signal.SIGTERM)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            # Reap the first process: a zombie still counts as a member of the group.
            process.poll()
            # Signal 0 raises as soon as the group is empty.
            kill(process.pid, 0)
            time.sleep(0.1)
        kill(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Block until all parts of Airflow are healthy.

    :raises DemoError: if the process or one of its parts ends, or after five minutes
    """
    until = time.monotonic() + _MAX_START_SECONDS
    ended: set[int] = set()
    while time.monotonic() < until:
        if process.poll() is not None:
            raise DemoError(f"Airflow ended while it started:\n{tail_of(log)}")
        # Airflow does not notice the end of a part, and reaps short-lived children between two looks.
        before, ended = ended, _ended_children(process.pid)
        if before & ended:
            raise DemoError(f"a part of Airflow ended while it started:\n{tail_of(log)}")
        with (
            contextlib.suppress(urllib.error.URLError, OSError, ValueError),
            urllib.request.urlopen(f"{address}/api/v2/monitor/health", timeout=5) as response,  # noqa: S310
        ):
            parts = json.load(response)
            # A part without a status is not configured, so its health does not matter.
            if all(part.get("status") in ("healthy", None) for part in parts.values()):
                return
        pause(1)
    raise DemoError(f"Airflow was not healthy after five minutes:\n{tail_of(log)}")


def _ended_children(pid: int) -> set[int]:
    """Return the ids of a process's children that have ended and that nobody has reaped."""
    import psutil

    with contextlib.suppress(psutil.Error):
        children = psutil.Process(pid).children()
        return {child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE}
    return set()


def tail_of(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_port_taken(port: int) -> bool:
    """Return True if a program listens at this port of the loopback address."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False
