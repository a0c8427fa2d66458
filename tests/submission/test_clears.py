"""Retries and clears of tasks whose input changes: who asks for a new video, and who does not."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk import DAG

from airflow_vace.decorators import vace_task
from airflow_vace.hooks import VaceHook
from airflow_vace.submission.order import digest_of_arguments
from support.attempts import DONE, MODES, Killed, billed, dying_at, hooked, killed_at, statuses, waiting
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def backend() -> str:
    return "replicate"


# --- inputs that change ----------------------------------------------------------------------------


@MODES
def test_a_template_that_renders_differently_costs_a_retry_nothing(
    server: Emulator, capfd: pytest.CaptureFixture[str], *, deferrable: bool
) -> None:
    clock = itertools.count()

    def differently() -> Any:
        return waiting(deferrable=deferrable, input={"prompt": f"a fox at {next(clock)}"}).make()

    run = Run(differently, Store())
    killed_at(run, "get_prediction")
    server.faults.add(method="GET", path="*/predictions*", skip=2, times=None, patch=DONE)
    run.result()
    assert statuses(server) == ["starting"]
    assert "This attempt has another input than the one before" in capfd.readouterr().out
    run.cleared().result()
    assert billed(server) == 2, "a clear is a wish for the new input"


def made_of(function: Callable[..., Any], *arguments: Any, **kwargs: Any) -> Callable[[], Any]:
    def make() -> Any:
        with DAG("d", schedule=None):
            made: Any = vace_task(task_id="t", **kwargs)(function)
            return made(*arguments).operator

    return make


@pytest.mark.parametrize(
    ("one", "other"),
    [("Trail shoe", "Rain jacket"), ({"name": "a", "tags": {"x", "y"}}, {"name": "b"}), ([1, 2], [2, 1])],
    ids=["text", "object", "order"],
)
def test_another_argument_of_a_function_is_another_order(server: Emulator, one: Any, other: Any) -> None:
    def clip(product: Any) -> dict[str, Any]:
        return {"prompt": f"{product!r} on a beach"}

    run = Run(made_of(clip, one, wait_for_completion=True), Store())
    killed_at(run, "get_prediction")
    run.make = made_of(clip, other, wait_for_completion=True)
    server.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=DONE)
    payload = run.result()
    assert server.world.runs[payload["id"]].input["prompt"] == f"{other!r} on a beach"


def test_the_same_arguments_are_the_same_order_in_each_process(server: Emulator) -> None:
    class Product:
        """Its repr differs from process to process."""

    def clip(product: Any, names: set[str]) -> dict[str, Any]:
        return {"prompt": f"{product!r} of {sorted(names)} on a beach"}

    run = Run(made_of(clip, Product(), {"a", "b"}, wait_for_completion=True), Store())
    killed_at(run, "get_prediction")
    run.make = made_of(clip, Product(), {"b", "a"}, wait_for_completion=True)
    server.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=DONE)
    run.result()
    assert billed(server) == 1


class Lazy(Sequence[Any]):
    """Stands for the results of a mapped task, which Airflow fetches when they are asked for."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Any) -> Any:
        return list(self.items[key]) if isinstance(key, slice) else self.items[key]


@dataclass
class Product:
    name: str
    shown: Any = print
    tags: Any = frozenset({"a", "b"})


class Plain:
    def __init__(self, name: str) -> None:
        self.name = name


class Table:
    def __init__(self, name: str) -> None:
        self.name = name

    def to_json(self) -> str:
        return json.dumps(self.name)


@pytest.mark.parametrize(
    "kind",
    [Lazy, Product, Plain, Table, lambda name: {frozenset({name})}],
    ids=["lazy", "data", "plain", "table", "set"],
)
def test_arguments_of_any_type_are_distinguished(kind: Callable[[str], Any]) -> None:
    one, same, other = (digest_of_arguments([kind(name)]) for name in ("shoe", "shoe", "jacket"))
    assert one == same != other


def test_arguments_are_the_same_in_each_process() -> None:
    code = (
        "from airflow_vace.submission.order import digest_of_arguments\n"
        "print(digest_of_arguments([{frozenset({'a', 'b', 'c'}), frozenset({'d'})}, {'x': {'e', 'f', 'g'}}]))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


# --- clears of tasks that run ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["operator", "function"])
def test_a_clear_of_a_deferred_task_takes_the_corrected_prompt(server: Emulator, kind: str) -> None:
    prompts = ["a fix runs"]

    def make() -> Any:
        if kind == "function":
            return made_of(lambda: {"prompt": prompts[-1]}, deferrable=True, wait_for_completion=True)()
        return waiting(input={"prompt": prompts[-1]}, deferrable=True).make()

    run = Run(make, Store())
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    prompts.append("a fox runs")
    run.retried()  # as Airflow clears a task that it takes for a running one: the same max_tries
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    assert [found.input["prompt"] for found in server.world.runs.values()] == prompts
    assert statuses(server) == ["canceled", "starting"]


def test_an_attempt_beyond_airflows_retries_counts_as_a_clear(server: Emulator) -> None:
    store = Store()
    run = waiting(store)
    run.ti.max_tries = 0
    killed_at(run, "get_prediction")
    other = waiting(store, input={"prompt": "an otter"})
    other.ti.max_tries, other.ti.try_number = 0, 2
    server.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=DONE)
    other.result()
    assert [found.input["prompt"] for found in server.world.runs.values()] == ["a fox", "an otter"]


def test_a_retry_after_an_ended_wait_keeps_the_paid_prediction(server: Emulator) -> None:
    store = Store()
    run = waiting(store, deferrable=True)
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    event = VaceHook().get_prediction(store.record["prediction"]["id"]).payload()
    with hooked(run, dying_at("get_prediction")), pytest.raises(Killed):
        # The triggerer has given the wait up, and now the worker dies too.
        run.leg().resume_execution("execute_complete", {"event": event, "deadline": None}, run.context)
    again = waiting(store, input={"prompt": "an otter"}).retried()
    server.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=DONE)
    again.result()
    assert billed(server) == 1
