"""Predictions of tasks that are killed, stopped, or out of time."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_vace.emulator.faults import rate_limited
from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.sensors import VacePredictionSensor
from conftest import scale_waits
from support.attempts import Killed, billed, methods_of, statuses, task, waiting
from support.interrupts import interrupting, raising
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def backend() -> str:
    return "replicate"


# --- being killed ----------------------------------------------------------------------------------


class Supervisor:
    """Answers what state a task is in, as Airflow does over its own socket."""

    def __init__(self, state: str | Exception | None) -> None:
        self.state = state

    def send(self, question: Any) -> Any:
        assert (question.dag_id, question.task_ids, question.run_ids) == ("d", ["t"], ["r"])
        if isinstance(self.state, Exception):
            raise self.state
        return SimpleNamespace(task_states={"r": {"t": self.state} if self.state else {}})


@pytest.fixture
def airflow_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | Exception | None], None]:
    def set_state(state: str | Exception | None) -> None:
        where = "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS"
        monkeypatch.setattr(where, Supervisor(state), raising=False)

    return set_state


def kill(leg: Any) -> None:
    """Call `on_kill` as the handler of SIGTERM does, and wait for what it has begun."""
    import threading

    leg.on_kill()
    for thread in threading.enumerate():
        if thread.name == "vace-on-kill":
            thread.join()


@pytest.mark.parametrize(
    ("state", "canceled"),
    [
        ("failed", True),
        ("success", True),
        ("skipped", True),
        (None, True),
        ("running", False),
        ("restarting", False),
        ("up_for_retry", False),
        (RuntimeError("no answer"), False),
    ],
    ids=str,
)
def test_a_stopped_worker_cancels_only_without_a_next_attempt(
    server: Emulator,
    airflow_says: Callable[[Any], None],
    capfd: pytest.CaptureFixture[str],
    state: Any,
    *,
    canceled: bool,
) -> None:
    run = task()
    run.result()
    airflow_says(state)
    kill(run.legs[-1])
    assert statuses(server) == ["canceled" if canceled else "starting"]
    said = "is canceled. It is billed for" if canceled else "is not canceled"
    assert said in capfd.readouterr().out


@pytest.mark.parametrize(("state", "canceled"), [("running", True), ("restarting", False)])
def test_a_stopped_worker_cancels_after_the_last_retry_unless_cleared(
    server: Emulator, airflow_says: Callable[[Any], None], state: str, *, canceled: bool
) -> None:
    run = task()
    run.ti.try_number = 3
    run.result()
    airflow_says(state)
    kill(run.legs[-1])
    assert statuses(server) == ["canceled" if canceled else "starting"]


def killing(leg: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call that a SIGTERM interrupts before it begins."""

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        kill(leg)
        return call(*args, **kwargs)

    return interrupted


def test_a_kill_before_the_create_sends_none(
    server: Emulator, airflow_says: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_says("running")
    store = Store()
    run = task(store)
    leg = run.leg()
    monkeypatch.setattr(store, "set", killing(leg, store.set))
    with pytest.raises(VaceTransportError, match="nothing was submitted"):
        leg.execute(run.context)
    assert methods_of(server) == []
    assert store.rows == {}


@pytest.mark.parametrize("state", ["failed", "running"])
def test_a_persons_kill_during_the_record_of_a_create_cancels(
    server: Emulator, airflow_says: Callable[[Any], None], state: str
) -> None:
    airflow_says(state)

    class Interrupted(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            if value["phase"] == "submitted":
                kill(leg)
            super().set(key, value, retention=retention)

    run = task(Interrupted())
    leg = run.leg()
    leg.execute(run.context)
    server.wait_for(lambda: statuses(server) == ["canceled" if state == "failed" else "starting"])


def test_a_persons_kill_during_the_poll_of_an_earlier_prediction_cancels(
    server: Emulator, airflow_says: Callable[[Any], None]
) -> None:
    airflow_says("failed")
    run = task()
    run.result()
    leg = run.retried().leg()
    server.faults.add(method="GET", path="*/predictions*", delay=0.5)
    # The poll may see the cancel or not; in neither case does the attempt submit again.
    with suppress(VaceTransportError), interrupting(leg.on_kill, lambda: "GET" in methods_of(server)):
        leg.execute(run.context)
    server.wait_for(lambda: statuses(server) == ["canceled"])


def test_a_stopped_worker_cancels_if_a_retry_would_pay_again(server: Emulator) -> None:
    run = task(durable=False)
    run.result()
    kill(run.legs[-1])
    assert statuses(server) == ["canceled"]


def test_a_kill_during_a_create_cancels_when_the_id_is_known(
    server: Emulator, airflow_says: Callable[[Any], None]
) -> None:
    airflow_says("failed")
    run = task()
    leg = run.leg()
    server.faults.add(method="POST", delay=0.3)
    with interrupting(leg.on_kill, lambda: methods_of(server)):
        leg.execute(run.context)
    server.wait_for(lambda: statuses(server) == ["canceled"])


def poked(created: dict[str, Any], *, cancel_on_kill: bool, try_number: int = 1) -> Any:
    """Return a sensor that has polled once, in a process of its own."""
    sensor = VacePredictionSensor(task_id="t", prediction=created, cancel_on_kill=cancel_on_kill, timeout=0)
    run = Run(lambda: sensor, Store())
    run.ti.try_number = try_number
    leg = run.leg()
    with pytest.raises(AirflowSensorTimeout):
        leg.execute(run.context)
    return leg


@pytest.mark.parametrize("cancel_on_kill", [True, False])
@pytest.mark.parametrize("state", ["failed", "running"])
def test_a_sensor_cancels_on_request_and_only_after_an_end_by_a_person(
    server: Emulator, airflow_says: Callable[[Any], None], state: str, *, cancel_on_kill: bool
) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox"})
    leg = poked(created.payload(), cancel_on_kill=cancel_on_kill)
    airflow_says(state)
    kill(leg)
    is_canceled = cancel_on_kill and state == "failed"
    assert statuses(server) == ["canceled" if is_canceled else "starting"]


def test_a_sensor_in_its_last_attempt_says_that_nobody_goes_on(
    server: Emulator, airflow_says: Callable[[Any], None], capfd: pytest.CaptureFixture[str]
) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox"})
    leg = poked(created.payload(), cancel_on_kill=True, try_number=3)
    airflow_says("running")
    kill(leg)
    assert statuses(server) == ["starting"]
    assert "this was its last attempt; it runs on" in capfd.readouterr().out


def test_a_stopped_worker_cancels_an_unrecorded_prediction(server: Emulator) -> None:
    class Deaf(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            if value["phase"] != "intent":
                raise RuntimeError("away")
            super().set(key, value, retention=retention)

    run = task(Deaf())
    run.result()
    kill(run.legs[-1])
    assert statuses(server) == ["canceled"]


def test_a_task_does_not_end_before_its_cancel_has(
    server: Emulator, airflow_says: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 1.0)
    airflow_says("failed")
    server.faults.add(method="POST", delay=0.3)
    server.faults.add(path="*/cancel", delay=0.5)
    run = task()
    leg = run.leg()
    with interrupting(leg.on_kill, lambda: methods_of(server)):
        leg.execute(run.context)
    assert statuses(server) == ["canceled"], "the process ends right after this, with all its threads"


@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_an_execution_timeout_of_a_sensor_cancels_on_request(
    server: Emulator, *, cancel_on_kill: bool
) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox"})
    leg = poked(created.payload(), cancel_on_kill=cancel_on_kill)
    try:
        raise AirflowTaskTimeout
    except AirflowTaskTimeout:  # in here Airflow calls it
        leg.on_kill()
    assert statuses(server) == ["canceled" if cancel_on_kill else "starting"]


def test_an_execution_timeout_of_the_operator_cancels_and_is_recorded(server: Emulator) -> None:
    store = Store()
    late = interrupting(raising(AirflowTaskTimeout), lambda: "GET" in methods_of(server))
    with pytest.raises(AirflowFailException, match="execution_timeout"), late:
        waiting(store).result()
    assert statuses(server) == ["canceled"]
    assert store.record["prediction"]["status"] == "canceled"


def test_a_canceled_prediction_leads_to_a_single_new_one(server: Emulator) -> None:
    run = task()
    first = run.result()
    VaceHook().cancel_prediction(first)
    second = run.cleared().result()
    assert run.retried().result()["id"] == second["id"]
    assert statuses(server) == ["canceled", "starting"]


def test_an_execution_timeout_during_the_first_poll_of_a_retry_cancels(server: Emulator) -> None:
    store = Store()
    run = task(store)
    run.result()
    server.faults.add(method="GET", path="*/predictions*", delay=0.5)
    late = interrupting(raising(AirflowTaskTimeout), lambda: "GET" in methods_of(server))
    with pytest.raises(AirflowFailException, match="execution_timeout"), late:
        run.retried().result()
    assert statuses(server) == ["canceled"]
    assert store.record["prediction"]["status"] == "canceled"


def test_an_execution_timeout_right_after_the_create_does_not_forget_it(server: Emulator) -> None:
    run = task()
    server.faults.add("accepted_then_silence")
    late = interrupting(raising(AirflowTaskTimeout), lambda: billed(server))
    with pytest.raises(SubmissionUnknown), late:
        run.result()
    run.retried().result()
    assert billed(server) == 1


def test_an_execution_timeout_while_the_intent_is_written_leaves_none(server: Emulator) -> None:
    class Late(Store):
        def get(self, key: str) -> Any:
            if self.rows:
                raise AirflowTaskTimeout
            return super().get(key)

    store = Late()
    with pytest.raises(AirflowTaskTimeout):
        task(store).result()
    assert store.rows == {}
    assert methods_of(server) == []


def test_an_attempt_that_was_superseded_leaves_the_new_ones_intent_alone(server: Emulator) -> None:
    store = Store()
    old = waiting(store, deferrable=True)
    with pytest.raises(TaskDeferred):
        old.leg().execute(old.context)
    (first,) = server.world.runs

    class Dies(Store):
        """Ends the new attempt after its intent is written."""

        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            super().set(key, value, retention=retention)
            if value["phase"] == "submitted":
                raise Killed

    dies = Dies()
    dies.rows = store.rows
    with pytest.raises(Killed):
        waiting(dies, input={"prompt": "an otter"}).result()
    intent = {**dies.record, "phase": "intent", "prediction": None}
    store.rows["vace_prediction"] = json.dumps(intent)
    told = {"id": first, "status": "canceled", "urls": {}}
    with pytest.raises(AirflowFailException):
        old.leg().resume_execution("execute_complete", {"event": told}, old.context)
    assert store.record == intent


def test_an_execution_timeout_during_a_save_is_retried(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object, **__: object) -> None:
        raise AirflowTaskTimeout

    memory.mkdir("/b")
    run = waiting(save_to="memory://b/")
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", late)
        with pytest.raises(AirflowTaskTimeout):
            run.result()
    assert run.retried().result()["files"]
    assert billed(fast_emulator) == 1


def test_an_execution_timeout_between_two_tries_of_a_create_leaves_no_intent(
    server: Emulator,
) -> None:
    store = Store()
    server.faults.add(rate_limited("seconds", 3, method="POST"))

    def is_pausing() -> bool:
        return bool(server.requests) and time.time() - server.requests[0].time > 0.5

    with pytest.raises(AirflowTaskTimeout), interrupting(raising(AirflowTaskTimeout), is_pausing):
        task(store).result()
    assert store.rows == {}


def test_a_failed_note_of_a_clear_keeps_the_recorded_prediction(
    server: Emulator, airflow_says: Callable[[Any], None], capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store()
    run = task(store)
    run.result()
    store.trouble.append(("set", RuntimeError("away")))
    run.cleared().result()
    assert "only this attempt knows" not in capfd.readouterr().out
    airflow_says("running")
    kill(run.legs[-1])
    assert statuses(server) == ["starting"]
