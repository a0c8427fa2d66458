"""What becomes of the money when a task runs again: the operator with what Airflow keeps across attempts."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    TaskDeferred,
)

from airflow_vace.core.references import read_known
from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import (
    LedgerError,
    PredictionFailed,
    PredictionTimeout,
    VaceAuthError,
    VaceBillingError,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from support.attempts import (
    BACKENDS,
    DONE,
    MODES,
    billed,
    hooked,
    killed_at,
    methods_of,
    set_clock_ahead,
    statuses,
    task,
    waiting,
)
from support.stores import fail_writes
from support.tasks import HAS_STORE, Run, Store

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.prediction import Prediction

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def backend() -> str:
    return "replicate"


# --- a retry goes on -------------------------------------------------------------------------------


@BACKENDS
@MODES
def test_a_retry_continues_with_the_running_prediction(
    server: Emulator, capfd: pytest.CaptureFixture[str], *, deferrable: bool
) -> None:
    run = waiting(deferrable=deferrable)
    killed_at(run, "get_prediction")
    server.faults.add(method="GET", path="*/predictions*", skip=2, times=None, patch=DONE)
    payload = run.result()
    assert payload["status"] == "succeeded"
    assert billed(server) == 1
    out = capfd.readouterr().out
    assert f"An earlier attempt of this task submitted prediction {payload['id']} at" in out
    assert f"Prediction {payload['id']} is starting: continuing with it. Nothing new is submitted" in out


@BACKENDS
def test_a_retry_of_a_task_that_only_submits_returns_the_same_payload(server: Emulator) -> None:
    run = task()
    first = run.result()
    second = run.retried().result()
    assert first["id"] == second["id"]
    assert second["status"] == "starting"
    assert billed(server) == 1


@MODES
def test_a_retry_keeps_the_deadline_of_the_submission(server: Emulator, *, deferrable: bool) -> None:
    run = waiting(deferrable=deferrable, timeout=0.6)
    killed_at(run, "get_prediction")
    time.sleep(0.6)  # the wall clock is what a deadline goes by
    with pytest.raises(AirflowFailException, match="its cancel was accepted") as caught:
        run.result()
    assert isinstance(caught.value.__cause__, PredictionTimeout)
    assert statuses(server) == ["canceled"]


def test_a_raised_timeout_gives_a_running_prediction_more_time(server: Emulator) -> None:
    store = Store()
    run = waiting(store, timeout=0.3, cancel_on_timeout=False)
    with pytest.raises(AirflowFailException):
        run.result()
    longer = waiting(store, timeout=60).cleared()
    server.faults.add(method="GET", path="*/predictions*", skip=2, times=None, patch=DONE)
    assert longer.result()["status"] == "succeeded"
    assert billed(server) == 1


@BACKENDS
def test_a_success_is_returned_and_not_paid_again(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    run = waiting()
    first = run.result()
    for again in (run.retried, run.cleared):
        assert again().result() == first
    assert billed(server) == 1
    out = capfd.readouterr().out
    assert "its result is returned, nothing is paid again" in out
    assert "delete the key 'vace_prediction' in this task's state store" in out


def test_a_person_generates_again_by_deleting_the_key(server: Emulator) -> None:
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    store = Store()
    run = waiting(store)
    first = run.result()
    store.delete("vace_prediction")
    assert run.cleared().result()["id"] != first["id"]
    assert billed(server) == 2


def test_without_reuse_a_clear_generates_again_and_a_retry_does_not(server: Emulator) -> None:
    run = waiting(reuse=False)
    killed_at(run, "get_prediction")
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    first = run.result()
    assert run.retried().result()["id"] == first["id"]
    assert billed(server) == 1
    second = run.cleared().result()
    assert second["id"] != first["id"]
    assert run.retried().result()["id"] == second["id"]
    seeds = {found.input["seed"] for found in server.world.runs.values()}
    assert len(seeds) == 2, "a new video wants a new seed"


def test_without_reuse_a_retry_after_a_clear_during_the_run_pays_nothing(server: Emulator) -> None:
    run = waiting(reuse=False)
    killed_at(run, "get_prediction")
    killed_at(run.cleared(), "wait_for_prediction")
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    run.result()
    assert billed(server) == 1


def test_a_file_that_is_gone_is_not_waited_for_again(
    server: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults.add(
        method="GET",
        path="*/predictions/*",
        times=None,
        patch={**DONE, "output": f"{server.url}/_delivery/x/y", "completed_at": "2020-01-01T00:00:00Z"},
    )
    run = waiting(save_to=f"{tmp_path}/")
    with pytest.raises(VaceTransportError, match=r"less than an hour ago.* at no cost"):
        run.result()
    set_clock_ahead(monkeypatch, 4000)
    with pytest.raises(AirflowFailException, match="its file is gone"):
        run.retried().result()
    assert billed(server) == 1
    with pytest.raises(VaceTransportError, match="less than an hour ago"):
        run.cleared().result()
    assert billed(server) == 2, "a person has asked for a second video"


@pytest.mark.parametrize("end", ["failed", "canceled", "aborted"])
def test_a_prediction_without_a_video_is_submitted_again_once(
    server: Emulator, capfd: pytest.CaptureFixture[str], end: str
) -> None:
    run = waiting()
    killed_at(run, "get_prediction")
    server.faults.add(method="GET", path="*/predictions*", patch={"status": end, "error": "E9999 why"})
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    assert run.result()["status"] == "succeeded"
    assert billed(server) == 2
    out = capfd.readouterr().out
    assert "E9999 why" in out
    assert "Submitting a new one, which is billed too" in out


def test_a_run_that_is_worth_another_is_tried_again_by_airflows_retries(server: Emulator) -> None:
    server.faults.add(method="GET", path="*/predictions*", patch={"status": "failed", "error": "E6716"})
    run = waiting()
    with pytest.raises(PredictionFailed):
        run.result()
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    before = len(methods_of(server))
    assert run.retried().result()["status"] == "succeeded"
    assert billed(server) == 2
    assert methods_of(server)[before:] == ["POST", "GET"], "the end is recorded, so no poll repeats"


def test_a_clear_with_another_input_cancels_the_old_prediction(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store()
    task(store).result()
    task(store, input={"prompt": "an otter"}).cleared().result()
    assert statuses(server) == ["canceled", "starting"]
    assert "was made from another input, model, version or connection" in capfd.readouterr().out


def test_another_connection_cancels_the_old_prediction_at_the_old_server(
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store()
    monkeypatch.setenv("AIRFLOW_CONN_OLD", server.connection_to(backend="replicate"))
    task(store, vace_conn_id="old").result()
    with Emulator(time_scale=100) as new:
        monkeypatch.setenv("AIRFLOW_CONN_NEW", new.connection)
        task(store, vace_conn_id="new").retried().result()
        assert statuses(server) == ["canceled"]
        assert statuses(new) == ["starting"]
        monkeypatch.delenv("AIRFLOW_CONN_NEW")
        monkeypatch.setenv("AIRFLOW_CONN_NEWER", new.connection)
        task(store, vace_conn_id="newer").retried().result()
        assert statuses(new) == ["starting", "starting"]
    assert "could not be canceled and may run, and be billed, to its end" in capfd.readouterr().out


# --- saved, and expired ----------------------------------------------------------------------------


def test_a_saved_video_is_returned_after_the_server_has_deleted_the_files(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    run = waiting(save_to=f"{tmp_path}/")
    first = run.result()
    fast_emulator.world.retention = 0
    again = run.cleared().result()
    assert again["files"] == first["files"]
    assert again["data_removed"] is True
    fast_emulator.world.runs.clear()
    assert run.cleared().result()["files"] == first["files"]


def test_an_expired_unsaved_prediction_is_submitted_again(
    fast_emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    run = waiting()
    first = run.result()
    fast_emulator.world.retention = 0
    for found in fast_emulator.world.runs.values():
        found.timeline = replace(found.timeline, created=time.time() - 7200)
    fast_emulator.world.retention = 3600
    assert run.cleared().result()["id"] != first["id"]
    assert "have been deleted since, with nothing saved by this task" in capfd.readouterr().out
    assert billed(fast_emulator) == 2


def test_a_file_that_could_not_be_saved_is_saved_by_the_retry(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = waiting(save_to=f"{tmp_path}/")
    with monkeypatch.context() as patch:
        fail_writes(patch, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            run.result()
    assert run.retried().result()["files"][0]["size"] > 0
    assert billed(fast_emulator) == 1


def test_after_a_surprise_behind_the_create_a_retry_continues(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken(VaceHook):
        def wait_for_prediction(self, *_: object, **__: object) -> Prediction:
            raise KeyError("surprise")

    run = waiting()
    with hooked(run, Broken), pytest.raises(KeyError):
        run.result()
    assert "A retry goes on with prediction" in capfd.readouterr().out
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    assert run.retried().result()["status"] == "succeeded"
    assert billed(server) == 1


# --- the state store in trouble --------------------------------------------------------------------


def test_a_state_that_cannot_be_read_is_not_no_state(server: Emulator) -> None:
    store = Store()
    run = task(store)
    first = run.result()
    store.trouble.append(("get", RuntimeError("the API server is away")))
    with pytest.raises(LedgerError, match="Nothing was submitted"):
        run.retried().result()
    assert run.retried().result()["id"] == first["id"]
    assert billed(server) == 1


def test_an_intent_that_cannot_be_read_back_is_withdrawn(server: Emulator) -> None:
    class Blinks(Store):
        def get(self, key: str) -> Any:
            if len(self.written) == 1:
                self.written.append({})
                raise RuntimeError("away")
            return super().get(key)

    store = Blinks()
    with pytest.raises(LedgerError):
        task(store).result()
    assert methods_of(server) == []
    assert store.rows == {}


def test_an_intent_that_cannot_be_written_submits_nothing(server: Emulator) -> None:
    store = Store()
    store.trouble.append(("set", RuntimeError("the API server is away")))
    with pytest.raises(LedgerError):
        task(store).result()
    assert methods_of(server) == []


def test_after_a_failed_record_of_the_response_the_attempt_continues(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    class FailsOnce(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            if value["phase"] == "submitted" and not self.written[1:]:
                self.written.append({})
                raise RuntimeError("away")
            super().set(key, value, retention=retention)

    store = FailsOnce()
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    payload = waiting(store).result()
    assert f"only this attempt knows prediction {payload['id']}" in capfd.readouterr().out
    assert store.record["phase"] == "settled"
    assert store.record["prediction"]["id"] == payload["id"]


def test_an_end_that_cannot_be_recorded_is_the_end_all_the_same(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    class Tired(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            if value["phase"] == "settled":
                raise RuntimeError("away")
            super().set(key, value, retention=retention)

    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    assert waiting(Tired()).result()["status"] == "succeeded"
    assert "was not recorded" in capfd.readouterr().out


def test_a_record_that_a_person_deletes_stays_deleted(server: Emulator) -> None:
    store = Store()
    run = waiting(store, deferrable=True)
    server.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=DONE)
    assert run.result(between=lambda: store.delete("vace_prediction"))["status"] == "succeeded"
    assert store.rows == {}


def test_a_record_passes_three_phases_without_key_and_input(server: Emulator) -> None:
    store = Store()
    server.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=DONE)
    payload = waiting(store, deferrable=True).result()
    assert [row["phase"] for row in store.written] == ["intent", "submitted", "submitted", "settled"]
    assert [row["deferred"] for row in store.written] == [False, False, True, False]
    text = json.dumps(store.written)
    assert server.api_key not in text
    assert "a fox" not in text
    assert DONE["output"] not in text
    intent, submitted, _, settled = store.written
    (found,) = server.world.runs.values()
    assert intent["seed"] == submitted["seed"] == found.input["seed"] >= 0
    assert submitted["prediction"]["id"] == payload["id"]
    assert submitted["prediction"]["urls"]["get"] == payload["urls"]["get"]
    assert abs(submitted["deadline"] - time.time() - 3600) < 60
    assert settled["prediction"]["status"] == "succeeded"


def test_an_authors_seed_is_sent_unchanged(server: Emulator) -> None:
    task(input={"prompt": "a fox", "seed": "7"}).result()
    (found,) = server.world.runs.values()
    assert found.input["seed"] == 7


# --- a server in trouble ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 503}, {"reset": "before"}], ids=str)
def test_a_prediction_that_cannot_be_polled_is_polled_by_the_next_retry(
    server: Emulator, fault: dict[str, Any]
) -> None:
    run = task()
    first = run.result()
    server.faults.add(method="GET", path="*/predictions*", times=None, **fault)
    with pytest.raises(LedgerError, match=f"The state of prediction {first['id']} could not be determined"):
        run.retried().result()
    server.faults.clear()
    assert run.retried().result()["id"] == first["id"]
    assert billed(server) == 1


def test_a_server_in_short_trouble_is_polled_again(server: Emulator) -> None:
    run = task()
    first = run.result()
    server.faults.add(method="GET", path="*/predictions*", times=2, status=502)
    assert run.retried().result()["id"] == first["id"]
    assert billed(server) == 1


@pytest.mark.parametrize(("status", "kind"), [(401, VaceAuthError), (402, VaceBillingError)])
def test_a_refused_key_or_account_uses_no_retries(
    server: Emulator, status: int, kind: type[Exception]
) -> None:
    run = task()
    run.result()
    server.faults.add(method="GET", path="*/predictions*", times=None, status=status, body={"detail": "no"})
    with pytest.raises(AirflowFailException) as caught:
        run.retried().result()
    assert type(caught.value.__cause__) is kind
    assert billed(server) == 1


def test_a_running_prediction_unknown_to_the_server_needs_a_person(server: Emulator) -> None:
    run = task()
    run.result()
    server.world.runs.clear()
    with pytest.raises(AirflowFailException, match="refused with 404"):
        run.retried().result()
    assert methods_of(server).count("POST") == 1


# --- not durable -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "durable", "why"),
    [(None, True, "no task_state_store" if HAS_STORE else "below 3.3"), ("store", False, "durable=False")],
    ids=["no store", "not durable"],
)
@MODES
def test_without_state_one_warning_says_that_a_retry_may_pay_again(
    server: Emulator,
    capfd: pytest.CaptureFixture[str],
    store: str | None,
    why: str,
    *,
    durable: bool,
    deferrable: bool,
) -> None:
    kept = Store() if store else None
    arguments: dict[str, Any] = {"task_id": "t", "input": {"prompt": "a fox"}, "wait_for_completion": True}
    run = Run(partial(VacePredictionOperator, durable=durable, deferrable=deferrable, **arguments), kept)
    server.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=DONE)
    assert run.result()["status"] == "succeeded"
    out = capfd.readouterr().out
    assert out.count("a retry of this task, or a clear, may pay again") == 1
    assert why in out
    assert kept is None or kept.rows == {}
    run.retried().result()
    assert billed(server) == 2


@pytest.mark.parametrize("policy", ["retry", "", None, True])
def test_a_wrong_policy_for_orphans_fails_the_import_of_the_dag(policy: Any) -> None:
    with pytest.raises(ValueError, match="on_orphaned_intent"):
        task(on_orphaned_intent=policy).leg()


# --- deferral --------------------------------------------------------------------------------------


def test_a_cleared_deferred_task_continues_with_the_same_prediction(server: Emulator) -> None:
    run = waiting(deferrable=True)
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    server.faults.add(method="GET", path="*/predictions*", skip=2, times=None, patch=DONE)
    assert run.cleared().result()["status"] == "succeeded"
    assert statuses(server) == ["starting"]


def test_after_a_crash_of_the_trigger_the_record_continues_the_wait(server: Emulator) -> None:
    run = waiting(deferrable=True, timeout=2.0)
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    assert "vace_prediction" not in run.ti.xcoms, "what is in the state store need not be in XCom"
    with pytest.raises(AirflowFailException, match="its cancel was accepted"):
        run.leg().resume_execution("__fail__", {"error": "Trigger failure"}, run.context)
    assert statuses(server) == ["canceled"]


def test_an_unreadable_state_after_a_crash_is_left_to_a_retry(server: Emulator) -> None:
    store = Store()
    run = waiting(store, deferrable=True)
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    store.trouble.append(("get", RuntimeError("away")))
    with pytest.raises(LedgerError):
        run.leg().resume_execution("__fail__", {"error": "Trigger failure"}, run.context)
    assert billed(server) == 1


@pytest.mark.parametrize("backend", ["gateway"])
def test_a_crash_with_an_unrecorded_prediction_is_left_to_a_retry(server: Emulator) -> None:
    class Deaf(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            if value["phase"] != "intent":
                raise RuntimeError("away")
            super().set(key, value, retention=retention)

    run = waiting(Deaf(), deferrable=True)
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    with pytest.raises(LedgerError, match="there is no record of its prediction"):
        run.leg().resume_execution("__fail__", {"error": "Trigger failure"}, run.context)
    assert billed(server) == 1


@pytest.mark.parametrize("is_sensor", [False, True])
def test_a_wait_that_each_triggerer_gives_up_ends_on_the_worker(server: Emulator, *, is_sensor: bool) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox"}).payload()

    sensor = partial(VacePredictionSensor, task_id="t", prediction=created, deferrable=True)
    run = Run(sensor, Store()) if is_sensor else waiting(deferrable=True)
    looked = 4 if is_sensor else 5
    server.faults.add(method="GET", path="*/predictions*", skip=looked + 1, times=None, patch=DONE)
    assert _given_up_by_triggerers(run)["status"] == "succeeded"
    assert len(run.deferred) == 4


def _given_up_by_triggerers(run: Run) -> Any:
    """Run to the end with triggerers that return each prediction unfinished."""
    method = "execute"
    kwargs: dict[str, Any] = {}
    while True:
        try:
            if method == "execute":
                return run.leg().execute(run.context)
            return run.leg().resume_execution(method, kwargs, run.context)
        except TaskDeferred as deferred:
            run.deferred.append(deferred)
            known = read_known(deferred.trigger.serialize()[1]["prediction"])
            method, kwargs = deferred.method_name, {**(deferred.kwargs or {}), "event": known.payload()}
