"""Attempts of one operator on what Airflow keeps across them, and what they cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.core import calls
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
BACKENDS = pytest.mark.parametrize("backend", ["gateway", "replicate"])
DONE = {"status": "succeeded", "output": "https://example.com/a.mp4"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


def task(store: Store | None = None, **kwargs: Any) -> Run:
    arguments = {"task_id": "t", "input": {"prompt": "a fox"}, **kwargs}
    return Run(lambda: VacePredictionOperator(**arguments), store or Store())


def waiting(store: Store | None = None, **kwargs: Any) -> Run:
    return task(store, **{"wait_for_completion": True, **kwargs})


def killed_at(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, *, after: bool = False) -> None:
    """Run a task until the hook's call, or `after` it, and let nothing of it go on."""
    # A wait polls without the hook's own method.
    owner, name = (calls, "get") if name == "get_prediction" else (VaceHook, name)
    real = getattr(owner, name)

    def die(*args: Any, **kwargs: Any) -> Any:
        if after:
            real(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(Killed):
            run.result()
    run.retried()


def billed(server: Emulator) -> int:
    return len(server.bill["predictions"])


def statuses(server: Emulator) -> list[str]:
    return [found["status"] for found in server.bill["predictions"]]


def looks(server: Emulator) -> list[str]:
    return [seen.method for seen in server.requests]


def forget(server: Emulator) -> None:
    """Let the files' hour be over."""
    server.world.retention = 0.0


class Ahead:
    """The module `time` on a machine whose clock is ahead."""

    def __init__(self, real: Callable[[], float], seconds: float) -> None:
        self.real, self.seconds = real, seconds

    def time(self) -> float:
        return self.real() + self.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
