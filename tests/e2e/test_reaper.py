"""A cluster's processes and files are gone after its owner's exit or death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).parents[1]
# Starts a reaper, a process that works in the folder and another that logs there; prints their ids.
STARTER = f"""
import subprocess, sys, time
sys.path.insert(0, {str(TESTS / "cluster")!r})
import reaper
from pathlib import Path
folder = Path(sys.argv[1])
minder = reaper.start(folder)
sleep = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"]
one = subprocess.Popen(sleep, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
two = subprocess.Popen(sleep, cwd="/", stdout=(folder / "log").open("w"), start_new_session=True)
print(one.pid, two.pid, flush=True)
time.sleep(600 if sys.argv[2] == "stay" else 0)
if sys.argv[2] == "leave":
    minder.communicate()
"""


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc")
@pytest.mark.parametrize("end", ["leave", "stay"])
def test_processes_in_a_directory_end_with_their_owner(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "scene"
    beside = tmp_path / "scene-of-another"
    folder.mkdir()
    beside.mkdir()
    neighbour = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=beside)
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder), end], stdout=subprocess.PIPE, text=True
    )
    try:
        assert starter.stdout is not None
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 2
        if end == "stay":
            os.kill(starter.pid, signal.SIGKILL)
        starter.wait(30)
        _until(lambda: not any(_runs(pid) for pid in pids) and not folder.exists())
        assert neighbour.poll() is None
        assert beside.exists()
    finally:
        neighbour.kill()
        neighbour.wait()
        starter.kill()
