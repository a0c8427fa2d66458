"""Attempts of one operator on one state store, and their bill."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import BaseOperator

    from airflow_vace.emulator import Emulator

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
BACKENDS = pytest.mark.parametrize("backend", ["gateway", "replicate"])
DONE = {"status": "succeeded", "output": "https://example.com/a.mp4"}


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the package runs afterwards."""


def task(store: Store | None = None, **kwargs: Any) -> Run:
    arguments = {"task_id": "t", "input": {"prompt": "a fox"}, **kwargs}
    return Run(lambda: VacePredictionOperator(**arguments), store or Store())


def waiting(store: Store | None = None, **kwargs: Any) -> Run:
    return task(store, **{"wait_for_completion": True, **kwargs})


@contextmanager
def hooked(run: Run, kind: type[VaceHook]) -> Iterator[None]:
    """Give another class of hooks to the operators of a run."""
    make = run.make

    def made() -> BaseOperator:
        operator: Any = make()
        operator.hook = kind(operator.vace_conn_id)
        return cast("BaseOperator", operator)

    run.make = made
    yield
    run.make = make


def dying_at(name: str, *, after: bool = False) -> type[VaceHook]:
    """Return a class of hooks whose call kills the process, before the request or `after` its response."""
    real = getattr(VaceHook, name)

    def die(self: VaceHook, *args: Any, **kwargs: Any) -> Any:
        if after:
            real(self, *args, **kwargs)
        raise Killed

    # A wait polls through `poll`, any other reader through `get_prediction`.
    names = (name, "poll", "wait_for_prediction") if name == "get_prediction" else (name,)
    return type("DyingHook", (VaceHook,), dict.fromkeys(names, die))


def killed_at(run: Run, name: str, *, after: bool = False) -> None:
    """Kill an attempt at a call of its hook, and prepare the retry."""
    with hooked(run, dying_at(name, after=after)), pytest.raises(Killed):
        run.result()
    run.retried()


def billed(server: Emulator) -> int:
    return len(server.bill["predictions"])


def statuses(server: Emulator) -> list[str]:
    return [found["status"] for found in server.bill["predictions"]]


def methods_of(server: Emulator) -> list[str]:
    """Return the methods of all requests about predictions."""
    return [seen.method for seen in server.requests if "/predictions" in seen.path]


def forget(server: Emulator) -> None:
    """End the retention of files on the server."""
    server.world.retention = 0.0


def set_clock_ahead(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set this machine's wall clock ahead of the server's, or behind for negative seconds."""
    monkeypatch.setattr(VaceHook, "wall_clock", staticmethod(lambda: time.time() + seconds))
