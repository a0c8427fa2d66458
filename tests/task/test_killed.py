"""Tasks that are killed, stopped, or out of time: what becomes of their predictions."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.submission.ledger import Ledger
from airflow_vace.submission.record import Phase, Record
from support.attempts import Killed, billed, statuses, task, waiting
from support.stores import fail_writes
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
def test_a_worker_that_is_stopped_cancels_only_what_nobody_goes_on_with(
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
def test_with_no_retry_left_a_worker_that_is_stopped_cancels_unless_the_task_is_cleared(
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


def test_what_is_killed_before_its_create_is_sent_sends_none(
    server: Emulator, airflow_says: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_says("running")
    store = Store()
    run = task(store)
    leg = run.leg()
    monkeypatch.setattr(store, "set", killing(leg, store.set))
    with pytest.raises(VaceTransportError, match="nothing was submitted"):
        leg.execute(run.context)
    assert server.requests == []
    assert store.rows == {}


@pytest.mark.parametrize("state", ["failed", "running"])
def test_what_is_killed_while_its_answer_is_recorded_is_canceled_if_a_person_did_it(
    server: Emulator, airflow_says: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    airflow_says(state)
    run = task()
    leg = run.leg()
    monkeypatch.setattr(Ledger, "write", killing_on_submitted(leg, Ledger.write))
    leg.execute(run.context)
    server.wait_for(lambda: statuses(server) == ["canceled" if state == "failed" else "starting"])


def killing_on_submitted(leg: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    def interrupted(self: Ledger, record: Record) -> None:
        if record.phase is Phase.SUBMITTED:
            kill(leg)
        call(self, record)

    return interrupted


def test_what_is_killed_while_it_asks_for_what_was_left_is_canceled_if_a_person_did_it(
    server: Emulator, airflow_says: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_says("failed")
    run = task()
    run.result()
    leg = run.retried().leg()
    monkeypatch.setattr(
        VaceHook, "get_prediction", killing(leg, partial(VaceHook.get_prediction, VaceHook()))
    )
    server.faults.add(path="*/cancel", patch={"status": "canceled"})
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever becomes of the attempt
        leg.execute(run.context)
    assert statuses(server)[0] == "canceled"


def test_where_a_retry_would_pay_anew_a_worker_that_is_stopped_cancels(server: Emulator) -> None:
    run = task(durable=False)
    run.result()
    kill(run.legs[-1])
    assert statuses(server) == ["canceled"]


def test_what_is_killed_while_it_submits_is_canceled_once_its_id_is_known(
    server: Emulator, airflow_says: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_says("failed")
    run = task()
    leg = run.leg()
    real = VaceHook.create_prediction

    def interrupted(self: VaceHook, *args: Any, **kwargs: Any) -> Any:
        leg.on_kill()
        return real(self, *args, **kwargs)

    monkeypatch.setattr(VaceHook, "create_prediction", interrupted)
    leg.execute(run.context)
    server.wait_for(lambda: statuses(server) == ["canceled"])


def poked(created: dict[str, Any], *, cancel_on_kill: bool) -> Any:
    """Return a sensor that has looked once, in its own process."""
    sensor = VacePredictionSensor(task_id="t", prediction=created, cancel_on_kill=cancel_on_kill, timeout=0)
    run = Run(lambda: sensor, Store())
    leg = run.leg()
    with pytest.raises(AirflowSensorTimeout):
        leg.execute(run.context)
    return leg


@pytest.mark.parametrize("cancel_on_kill", [True, False])
@pytest.mark.parametrize("state", ["failed", "running"])
def test_a_sensor_cancels_only_if_it_shall_and_only_what_a_person_has_ended(
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
    leg = poked(created.payload(), cancel_on_kill=True)
    leg._ti.try_number = 3
    airflow_says("running")
    kill(leg)
    assert statuses(server) == ["starting"]
    assert "this was its last attempt; it runs on" in capfd.readouterr().out


def test_what_could_not_be_recorded_is_canceled_when_its_worker_is_stopped(server: Emulator) -> None:
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
    airflow_says("failed")
    server.faults.add(path="*/cancel", delay=0.5)
    run = task()
    leg = run.leg()
    real = VaceHook.create_prediction

    def interrupted(self: VaceHook, *args: Any, **kwargs: Any) -> Any:
        leg.on_kill()
        return real(self, *args, **kwargs)

    monkeypatch.setattr(VaceHook, "create_prediction", interrupted)
    leg.execute(run.context)
    assert statuses(server) == ["canceled"], "the process ends right after this, with all its threads"


@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_an_execution_timeout_of_a_sensor_cancels_if_it_shall(
    server: Emulator, *, cancel_on_kill: bool
) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox"})
    leg = poked(created.payload(), cancel_on_kill=cancel_on_kill)
    try:
        raise AirflowTaskTimeout
    except AirflowTaskTimeout:  # in here Airflow calls it
        leg.on_kill()
    assert statuses(server) == ["canceled" if cancel_on_kill else "starting"]


def test_an_execution_timeout_of_the_operator_cancels_and_is_recorded(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()

    def late(*_: object, **__: object) -> None:
        raise AirflowTaskTimeout

    monkeypatch.setattr(VaceHook, "wait_for_prediction", late)
    with pytest.raises(AirflowFailException, match="execution_timeout"):
        waiting(store).result()
    assert statuses(server) == ["canceled"]
    assert store.record["prediction"]["status"] == "canceled"


def test_what_was_canceled_ends_in_one_new_prediction_and_in_no_loop(server: Emulator) -> None:
    run = task()
    first = run.result()
    VaceHook().cancel_prediction(first)
    second = run.cleared().result()
    assert run.retried().result()["id"] == second["id"]
    assert statuses(server) == ["canceled", "starting"]


def test_an_execution_timeout_while_it_asks_what_was_left_cancels_and_is_not_retried(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    run = task(store)
    run.result()

    def late(*_: object) -> None:
        raise AirflowTaskTimeout

    monkeypatch.setattr(VaceHook, "get_prediction", late)
    with pytest.raises(AirflowFailException, match="execution_timeout"):
        run.retried().result()
    assert statuses(server) == ["canceled"]
    assert store.record["prediction"]["status"] == "canceled"


def test_an_execution_timeout_right_after_the_create_does_not_forget_it(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = VaceHook.create_prediction

    def late(self: VaceHook, *args: Any, **kwargs: Any) -> Any:
        real(self, *args, **kwargs)
        raise AirflowTaskTimeout

    run = task()
    with monkeypatch.context() as patch:
        patch.setattr(VaceHook, "create_prediction", late)
        with pytest.raises(SubmissionUnknown):
            run.result()
    run.retried().result()
    assert billed(server) == 1


def test_an_execution_timeout_while_the_intent_is_written_leaves_none(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()

    def late(_: Ledger) -> None:
        if store.rows:
            raise AirflowTaskTimeout

    monkeypatch.setattr(Ledger, "read", late)
    with pytest.raises(AirflowTaskTimeout):
        task(store).result()
    assert store.rows == {}
    assert server.requests == []


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


def test_an_execution_timeout_while_it_saves_is_left_to_a_retry_that_saves(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = waiting(save_to=f"{tmp_path}/")
    with monkeypatch.context() as patch:
        fail_writes(patch, AirflowTaskTimeout())
        with pytest.raises(AirflowTaskTimeout):
            run.result()
    assert run.retried().result()["files"]
    assert billed(fast_emulator) == 1


def test_an_execution_timeout_between_two_tries_of_a_create_leaves_no_intent(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(_: float) -> None:
        raise AirflowTaskTimeout

    store = Store()
    server.faults.add(method="POST", status=429, body={"detail": "slow down"})
    with monkeypatch.context() as patch:
        patch.setattr("airflow_vace.client.client.time.sleep", late)
        with pytest.raises(AirflowTaskTimeout):
            task(store).result()
    assert store.rows == {}


def test_a_clear_that_cannot_be_noted_does_not_make_a_recorded_prediction_unknown(
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
