"""Kill the processes of a directory and remove the directory after its owner's end; a program.

The end of standard input marks the owner's end, since a pipe is closed after SIGKILL too. A process belongs
to the directory if its working directory or its output is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def processes_in(folder: Path) -> list[int]:
    """Return the ids of processes that work or log in a directory."""
    mine = os.getpid()
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and int(entry.name) != mine and _is_of(entry, str(folder) + "/")
    ]


def _is_of(entry: Path, folder: str) -> bool:
    for name in ("cwd", "fd/1", "fd/2"):
        with contextlib.suppress(OSError):
            if (str((entry / name).readlink()) + "/").startswith(folder):
                return True
    return False


def reap(folder: Path) -> None:
    """Kill until no process is left, then remove the directory."""
    for _ in range(100):
        for pid in (found := processes_in(folder)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            break
        time.sleep(0.1)  # a killed process leaves the list a moment later
    shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start a reaper, which acts when this process or the returned one's input ends."""
    command = [sys.executable, __file__, str(folder)]
    # A session of its own survives a Ctrl-C, and another working directory its own search.
    return subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", start_new_session=True)


if __name__ == "__main__":
    sys.stdin.read()
    reap(Path(sys.argv[1]))
