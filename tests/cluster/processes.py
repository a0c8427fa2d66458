"""Wait for, list and kill trees of processes, and format tables."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable


def until(condition: Callable[[], Any], seconds: float = 180, *, every: float = 0.5) -> Any:
    """Return the first true result of a condition, evaluated `every` so many seconds.

    :raises AssertionError: after `seconds` without one
    """
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"not so after {seconds:g} s"
        time.sleep(every)
    return answer


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    widths = [max(len(str(row[n])) for row in [head, *rows]) for n in range(len(head))]
    lines = (
        "  ".join(f"{cell!s:<{width}}" for cell, width in zip(r, widths, strict=True)) for r in [head, *rows]
    )
    return "\n".join(["", *lines])


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def title(process: psutil.Process) -> str:
    """Return a process's command line, empty after its end."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_tree(pid: int) -> None:
    found = tree(pid)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()  # so none starts another meanwhile
    # A second look finds children that were started before the suspension.
    for process in [*found, *tree(pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
