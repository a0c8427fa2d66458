"""What becomes of the money when a task runs again: the operator with what Airflow keeps across attempts."""

from __future__ import annotations

import json
import time
from dataclasses import replace
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
from tasks import Run, Store

from airflow_vace import polling, submission
from airflow_vace.api import read_known
from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import (
    LedgerError,
    PredictionFailed,
    PredictionTimeout,
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.ledger import Ledger, Phase, Record
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.triggers import VacePredictionTrigger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
BACKENDS = pytest.mark.parametrize("backend", ["gateway", "replicate"])
DONE = {"status": "succeeded", "output": "https://example.com/a.mp4"}


@pytest.fixture(autouse=True)
def _hurried(hurry: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - on top of that one
    monkeypatch.setattr(submission, "LOOK_UP_SECONDS", 0.3)
    monkeypatch.setattr(submission, "INTENT_GRACE_SECONDS", 0.3)
    monkeypatch.setattr(submission, "MOST_TROUBLE_SECONDS", 0.5)


@pytest.fixture
def backend() -> str:
    return "replicate"


@pytest.fixture
def server(slow_emulator: Emulator, connect: Callable[[str], None], backend: str) -> Emulator:
    """A back-end whose predictions run on and on."""
    connect(slow_emulator.connection_to(backend=backend, timeout=1))
    return slow_emulator


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


def task(store: Store | None = None, **kwargs: Any) -> Run:
    arguments = {"task_id": "t", "input": {"prompt": "a fox"}, **kwargs}
    return Run(lambda: VacePredictionOperator(**arguments), store or Store())


def waiting(store: Store | None = None, **kwargs: Any) -> Run:
    return task(store, **{"wait_for_completion": True, **kwargs})


def killed_at(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, *, after: bool = False) -> None:
    """Run a task until the hook's call, or `after` it, and let nothing of it go on."""
    real = getattr(VaceHook, name)

    def die(self: VaceHook, *args: Any, **kwargs: Any) -> Any:
        if after:
            real(self, *args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(VaceHook, name, die)
        with pytest.raises(Killed):
            run.result()
    run.retried()


def billed(server: Emulator) -> int:
    return len(server.bill["predictions"])


def statuses(server: Emulator) -> list[str]:
    return [found["status"] for found in server.bill["predictions"]]


def looks(server: Emulator) -> list[str]:
    return [seen.method for seen in server.requests]


# --- a retry goes on -------------------------------------------------------------------------------


@BACKENDS
@MODES
def test_a_retry_goes_on_with_what_runs(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, deferrable: bool
) -> None:
    run = waiting(deferrable=deferrable)
    killed_at(run, monkeypatch, "get_prediction")
    server.faults.add(method="GET", skip=2, times=None, patch=DONE)
    payload = run.result()
    assert payload["status"] == "succeeded"
    assert billed(server) == 1
    out = capfd.readouterr().out
    assert f"An earlier attempt of this task submitted prediction {payload['id']} at" in out
    assert f"Prediction {payload['id']} is starting: going on with it. Nothing new is submitted" in out


@BACKENDS
def test_a_retry_of_a_task_that_only_submits_returns_the_same_payload(server: Emulator) -> None:
    run = task()
    first = run.result()
    second = run.retried().result()
    assert first["id"] == second["id"]
    assert second["status"] == "starting"
    assert billed(server) == 1


@MODES
def test_a_retry_keeps_the_deadline_of_the_submission(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, *, deferrable: bool
) -> None:
    run = waiting(deferrable=deferrable, timeout=0.6)
    killed_at(run, monkeypatch, "get_prediction")
    time.sleep(0.6)  # the wall clock is what a deadline goes by
    with pytest.raises(AirflowFailException, match="was told to stop") as caught:
        run.result()
    assert isinstance(caught.value.__cause__, PredictionTimeout)
    assert statuses(server) == ["canceled"]


def test_a_timeout_that_was_raised_since_gives_what_runs_more_time(server: Emulator) -> None:
    store = Store()
    run = waiting(store, timeout=0.3, cancel_on_timeout=False)
    with pytest.raises(AirflowFailException):
        run.result()
    longer = waiting(store, timeout=60).cleared()
    server.faults.add(method="GET", skip=2, times=None, patch=DONE)
    assert longer.result()["status"] == "succeeded"
    assert billed(server) == 1


@BACKENDS
def test_what_has_succeeded_is_returned_and_not_paid_again(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    server.faults.add(method="GET", times=None, patch=DONE)
    run = waiting()
    first = run.result()
    for again in (run.retried, run.cleared):
        assert again().result() == first
    assert billed(server) == 1
    out = capfd.readouterr().out
    assert "its result is returned, nothing is paid again" in out
    assert "delete the key 'vace_prediction' in this task's state store" in out


def test_a_person_generates_anew_by_deleting_the_key(server: Emulator) -> None:
    server.faults.add(method="GET", times=None, patch=DONE)
    store = Store()
    run = waiting(store)
    first = run.result()
    store.delete("vace_prediction")
    assert run.cleared().result()["id"] != first["id"]
    assert billed(server) == 2


def test_without_reuse_a_clear_generates_anew_and_a_retry_does_not(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = waiting(reuse=False)
    killed_at(run, monkeypatch, "get_prediction")
    server.faults.add(method="GET", times=None, patch=DONE)
    first = run.result()
    assert run.retried().result()["id"] == first["id"]
    assert billed(server) == 1
    second = run.cleared().result()
    assert second["id"] != first["id"]
    assert run.retried().result()["id"] == second["id"]
    seeds = {found.input["seed"] for found in server.world.runs.values()}
    assert len(seeds) == 2, "a new video wants a new seed"


def test_without_reuse_a_retry_after_a_clear_that_found_it_running_pays_nothing(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = waiting(reuse=False)
    killed_at(run, monkeypatch, "get_prediction")
    real = VaceHook.wait_for_prediction
    killed_at(run.cleared(), monkeypatch, "wait_for_prediction")
    assert real is VaceHook.wait_for_prediction
    server.faults.add(method="GET", times=None, patch=DONE)
    run.result()
    assert billed(server) == 1


def test_a_file_that_is_gone_is_not_waited_for_again(server: Emulator, tmp_path: Path) -> None:
    server.faults.add(
        method="GET",
        path="*/predictions/*",
        times=None,
        patch={**DONE, "output": f"{server.url}/_delivery/x/y"},
    )
    run = waiting(save_to=f"{tmp_path}/")
    with pytest.raises(AirflowFailException, match="its file is gone"):
        run.result()
    with pytest.raises(AirflowFailException, match="its file is gone"):
        run.cleared().result()
    assert billed(server) == 2, "a person has asked for it anew"


@pytest.mark.parametrize("end", ["failed", "canceled", "aborted"])
def test_what_ended_without_a_video_is_submitted_anew_once(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], end: str
) -> None:
    run = waiting()
    killed_at(run, monkeypatch, "get_prediction")
    server.faults.add(method="GET", patch={"status": end, "error": "E9999 why"})
    server.faults.add(method="GET", times=None, patch=DONE)
    assert run.result()["status"] == "succeeded"
    assert billed(server) == 2
    out = capfd.readouterr().out
    assert "E9999 why" in out
    assert "Submitting a new one, which is billed too" in out


def test_a_run_that_is_worth_another_is_tried_again_by_airflows_retries(server: Emulator) -> None:
    server.faults.add(method="GET", patch={"status": "failed", "error": "E6716"})
    run = waiting()
    with pytest.raises(PredictionFailed):
        run.result()
    server.faults.add(method="GET", times=None, patch=DONE)
    before = len(server.requests)
    assert run.retried().result()["status"] == "succeeded"
    assert billed(server) == 2
    assert looks(server)[before:] == ["POST", "GET"], "how it ended is recorded, and not asked again"


def test_a_changed_input_cancels_the_old_one(server: Emulator, capfd: pytest.CaptureFixture[str]) -> None:
    store = Store()
    task(store).result()
    task(store, input={"prompt": "an otter"}).retried().result()
    assert statuses(server) == ["canceled", "starting"]
    assert "was made from another input, model, version or connection" in capfd.readouterr().out


def test_another_connection_is_another_order_and_the_old_one_is_canceled_where_it_runs(
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


def test_what_was_saved_is_returned_long_after_the_server_has_deleted_it(
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


def test_what_has_expired_unsaved_is_submitted_anew(
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
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run = waiting(save_to=f"{tmp_path}/")
    with monkeypatch.context() as patch:
        patch.setattr("airflow_vace.media.places.Place.take", full)
        with pytest.raises(OSError, match="No space left"):
            run.result()
    assert run.retried().result()["files"][0]["size"] > 0
    assert billed(fast_emulator) == 1


def test_a_surprise_after_the_create_is_left_to_a_retry_that_goes_on(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    run = waiting()
    with monkeypatch.context() as patch:
        patch.setattr(VaceHook, "wait_for_prediction", broken)
        with pytest.raises(KeyError):
            run.result()
    assert "A retry goes on with prediction" in capfd.readouterr().out
    server.faults.add(method="GET", times=None, patch=DONE)
    assert run.retried().result()["status"] == "succeeded"
    assert billed(server) == 1


# --- a create whose answer is lost -----------------------------------------------------------------

LOST = pytest.mark.parametrize(
    "fault",
    [{"accept": True, "status": 502}, {"reset": "after"}, {"hang": "after"}, {"truncate": 20}],
    ids=["502", "reset", "silence", "torn"],
)


@LOST
@MODES
def test_where_the_back_end_lists_a_lost_create_is_found_by_the_same_attempt(
    server: Emulator, fault: dict[str, Any], capfd: pytest.CaptureFixture[str], *, deferrable: bool
) -> None:
    server.faults.add(method="POST", **fault)
    server.faults.add(path="*/predictions/*", method="GET", times=None, patch=DONE)
    payload = waiting(deferrable=deferrable).result()
    (found,) = server.world.runs.values()
    assert payload["id"] == found.id
    out = capfd.readouterr().out
    assert "The create got no clear answer" in out
    assert f"It was accepted: prediction {found.id}" in out


@pytest.mark.parametrize("backend", ["gateway"])
@LOST
def test_where_it_does_not_list_nothing_is_submitted_and_nothing_retried(
    server: Emulator, fault: dict[str, Any]
) -> None:
    server.faults.add(method="POST", **fault)
    run = task()
    for attempt in (run, run.cleared()):
        with pytest.raises(AirflowFailException, match="delete the key 'vace_prediction'") as caught:
            attempt.result()
        assert isinstance(caught.value.__cause__, SubmissionUnknown)
    assert looks(server) == ["POST"]


@BACKENDS
def test_a_worker_that_dies_before_its_create_is_sent(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    run = task()
    killed_at(run, monkeypatch, "create_prediction")
    if backend == "gateway":
        with pytest.raises(AirflowFailException, match="does not list"):
            run.result()
        assert billed(server) == 0
    else:
        run.result()
        assert billed(server) == 1


@BACKENDS
def test_a_worker_that_dies_before_it_could_record_the_answer(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    run = task()
    killed_at(run, monkeypatch, "create_prediction", after=True)
    if backend == "gateway":
        with pytest.raises(AirflowFailException, match="does not list"):
            run.result()
    else:
        (found,) = server.world.runs.values()
        assert run.result()["id"] == found.id
    assert billed(server) == 1


@pytest.mark.parametrize("backend", ["gateway"])
def test_an_author_may_rather_pay_twice_than_look(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    run = task(on_orphaned_intent="resubmit")
    server.faults.add("accepted_then_502")
    with pytest.raises(SubmissionUnknown):
        run.result()
    run.retried().result()
    assert billed(server) == 2
    assert "Submitting again, as on_orphaned_intent says" in capfd.readouterr().out


def test_a_create_that_comes_through_late_is_waited_for(
    server: Emulator, connect: Callable[[str], None]
) -> None:
    connect(server.connection_to(backend="replicate", timeout=0.1))
    server.faults.add(method="POST", delay=0.3)
    payload = task().result()
    (found,) = server.world.runs.values()
    assert payload["id"] == found.id


def test_a_create_that_never_arrived_is_sent_again(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    server.faults.add(method="POST", status=502)
    payload = task().result()
    (found,) = server.world.runs.values()
    assert payload["id"] == found.id
    assert "the back-end lists no such prediction, so nothing was paid for it" in capfd.readouterr().out


def test_a_server_that_loses_each_create_is_left_in_peace(server: Emulator) -> None:
    server.faults.add(method="POST", status=502, times=None)
    run = task()
    with pytest.raises(SubmissionUnknown):
        run.result()
    assert looks(server).count("POST") == 3
    server.faults.clear()
    run.retried().result()
    assert billed(server) == 1


def test_a_lost_one_is_told_from_its_siblings_by_its_seed(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = task()
    killed_at(lost, monkeypatch, "create_prediction", after=True)
    (mine,) = server.world.runs
    siblings = {task().result()["id"] for _ in range(3)}
    assert lost.result()["id"] == mine
    assert mine not in siblings
    assert billed(server) == 4


def test_it_is_looked_for_on_every_page(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = task()
    killed_at(lost, monkeypatch, "create_prediction", after=True)
    (mine,) = server.world.runs
    hook = VaceHook()
    for number in range(120):
        hook.create_prediction({"prompt": "a fox", "seed": number})
    assert lost.result()["id"] == mine


def test_a_lost_one_of_another_input_is_found_and_canceled(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    killed_at(task(store), monkeypatch, "create_prediction", after=True)
    task(store, input={"prompt": "an otter"}).retried().result()
    assert statuses(server) == ["canceled", "starting"]


def test_a_second_create_of_the_same_intent_that_turns_up_late_is_canceled(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, connect: Callable[[str], None]
) -> None:
    monkeypatch.setattr(submission, "LOOK_UP_SECONDS", 0.0)
    monkeypatch.setattr(submission, "INTENT_GRACE_SECONDS", 0.0)
    connect(server.connection_to(backend="replicate", timeout=0.1))
    server.faults.add(method="POST", delay=0.6)
    server.faults.add(method="POST", delay=0.5)
    server.faults.add(method="POST", delay=0.4)
    run = task()
    with pytest.raises(SubmissionUnknown):
        run.result()
    server.wait_for(lambda: billed(server) == 3)
    run.retried().result()
    assert sorted(statuses(server)) == ["canceled", "canceled", "starting"]


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"reset": "before"}], ids=str)
def test_a_list_that_cannot_be_read_is_not_an_empty_one(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    run = task()
    killed_at(run, monkeypatch, "create_prediction", after=True)
    server.faults.add(method="GET", path="/v1/predictions", times=None, **fault)
    with pytest.raises(SubmissionUnknown, match="could not be looked up") as caught:
        run.result()
    assert caught.value.may_be_retried
    assert billed(server) == 1
    server.faults.clear()
    run.retried().result()
    assert billed(server) == 1


def test_a_server_that_knows_no_list_is_one_that_does_not_list(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = task()
    killed_at(run, monkeypatch, "create_prediction", after=True)
    server.faults.add(method="GET", path="/v1/predictions", times=None, status=404, body={"detail": "no"})
    with pytest.raises(AirflowFailException, match="does not list"):
        run.result()
    assert billed(server) == 1


def test_a_key_that_is_refused_by_the_list_burns_no_retries(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = task()
    killed_at(run, monkeypatch, "create_prediction", after=True)
    server.faults.add(method="GET", path="/v1/predictions", times=None, status=401, body={"detail": "no"})
    with pytest.raises(AirflowFailException) as caught:
        run.result()
    assert isinstance(caught.value.__cause__, VaceAuthError)
    assert billed(server) == 1


def test_an_input_that_the_server_has_deleted_can_be_told_from_none(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = task()
    killed_at(run, monkeypatch, "create_prediction", after=True)
    server.world.retention = 0
    for found in server.world.runs.values():
        found.canceled = time.time()
    with pytest.raises(AirflowFailException, match="can't be told from it"):
        run.result()
    assert billed(server) == 1


@BACKENDS
def test_an_answer_without_a_prediction_is_not_taken_for_a_refusal(server: Emulator, backend: str) -> None:
    store = Store()
    server.faults.add(method="POST", accept=True, status=200, body={"data": []})
    if backend == "replicate":
        assert task(store).result()["id"] in server.world.runs
    else:
        for attempt in (task(store), task(store).cleared()):
            with pytest.raises(AirflowFailException):
                attempt.result()
        assert store.record["phase"] == "intent"
    assert billed(server) == 1


def test_a_lost_connection_leaves_a_lone_intent_to_a_person(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    monkeypatch.setenv("AIRFLOW_CONN_OLD", server.connection_to(backend="replicate"))
    killed_at(task(store, vace_conn_id="old"), monkeypatch, "create_prediction", after=True)
    monkeypatch.delenv("AIRFLOW_CONN_OLD")
    with pytest.raises(AirflowFailException, match="delete the key"):
        task(store).result()
    assert billed(server) == 1


def test_a_lost_create_stays_known_when_the_next_one_meets_a_limit(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, connect: Callable[[str], None]
) -> None:
    monkeypatch.setattr(polling, "MOST_CREATES", 1)
    monkeypatch.setattr(submission, "LOOK_UP_SECONDS", 0.0)
    monkeypatch.setattr(submission, "INTENT_GRACE_SECONDS", 0.0)
    connect(server.connection_to(backend="replicate", timeout=0.1))
    server.faults.add(method="POST", delay=0.5)
    server.faults.add(method="POST", status=429, body={"detail": "slow down"})
    run = task()
    with pytest.raises(VaceRateLimited):
        run.result()
    server.wait_for(lambda: billed(server) == 1)
    (found,) = server.world.runs
    assert run.retried().result()["id"] == found


def test_an_old_one_that_could_not_be_canceled_is_canceled_by_the_next_attempt(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "MOST_CREATES", 1)
    store = Store()
    task(store).result()
    server.faults.add(path="*/cancel", times=3, status=500)
    server.faults.add(method="POST", path="*/predictions", status=429, body={"detail": "slow down"})
    otter = {"prompt": "an otter"}
    with pytest.raises(VaceRateLimited):
        task(store, input=otter).result()
    task(store, input=otter).retried().result()
    assert statuses(server) == ["canceled", "starting"]


# --- refused for certain ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 401, "body": {"detail": "no"}}, VaceAuthError),
        ({"status": 402, "body": {"detail": "no"}}, VaceBillingError),
        ({"status": 422, "body": {"detail": "no"}}, VaceAPIError),
        ({"status": 503, "body": {"error": {"message": "x", "code": "model_not_found"}}}, VaceAPIError),
    ],
    ids=str,
)
@BACKENDS
def test_a_refusal_leaves_no_intent_and_burns_no_retries(
    server: Emulator, fault: dict[str, Any], kind: type[Exception]
) -> None:
    store = Store()
    server.faults.add(method="POST", **fault)
    run = task(store)
    with pytest.raises(AirflowFailException) as caught:
        run.result()
    assert type(caught.value.__cause__) is kind
    assert store.rows == {}
    run.cleared().result()
    assert billed(server) == 1


@BACKENDS
def test_a_limit_leaves_no_intent_and_is_left_to_airflows_retries(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "MOST_CREATES", 1)
    server.faults.add(method="POST", status=429, body={"detail": "slow down"})
    store = Store()
    run = task(store)
    with pytest.raises(VaceRateLimited):
        run.result()
    assert store.rows == {}
    run.retried().result()
    assert billed(server) == 1


@pytest.mark.parametrize("backend", ["gateway"])
def test_an_intent_that_cannot_be_withdrawn_is_said(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store()
    store.trouble.append(("delete", RuntimeError("away")))
    server.faults.add(method="POST", status=422, body={"detail": "no"})
    with pytest.raises(AirflowFailException):
        task(store).result()
    assert "a retry will look for a prediction that was never accepted" in capfd.readouterr().out


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
    assert server.requests == []
    assert store.rows == {}


def test_an_intent_that_cannot_be_written_submits_nothing(server: Emulator) -> None:
    store = Store()
    store.trouble.append(("set", RuntimeError("the API server is away")))
    with pytest.raises(LedgerError):
        task(store).result()
    assert server.requests == []


def test_an_answer_that_cannot_be_recorded_is_gone_on_with(
    server: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    class FailsOnce(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            if value["phase"] == "submitted" and not self.written[1:]:
                self.written.append({})
                raise RuntimeError("away")
            super().set(key, value, retention=retention)

    store = FailsOnce()
    server.faults.add(method="GET", times=None, patch=DONE)
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

    server.faults.add(method="GET", times=None, patch=DONE)
    assert waiting(Tired()).result()["status"] == "succeeded"
    assert "was not recorded" in capfd.readouterr().out


def test_a_record_that_a_person_deletes_while_it_waits_is_not_made_anew(server: Emulator) -> None:
    store = Store()
    run = waiting(store, deferrable=True)
    server.faults.add(method="GET", skip=1, times=None, patch=DONE)
    assert run.result(between=lambda: store.delete("vace_prediction"))["status"] == "succeeded"
    assert store.rows == {}


def test_the_phases_of_a_record_and_that_it_holds_no_key_and_no_input(server: Emulator) -> None:
    store = Store()
    server.faults.add(method="GET", skip=1, times=None, patch=DONE)
    payload = waiting(store, deferrable=True).result()
    assert [row["phase"] for row in store.written] == ["intent", "submitted", "settled"]
    text = json.dumps(store.written)
    assert server.api_key not in text
    assert "a fox" not in text
    assert DONE["output"] not in text
    intent, submitted, settled = store.written
    (found,) = server.world.runs.values()
    assert intent["seed"] == submitted["seed"] == found.input["seed"] >= 0
    assert submitted["prediction"]["id"] == payload["id"]
    assert submitted["prediction"]["urls"]["get"] == payload["urls"]["get"]
    assert abs(submitted["deadline"] - time.time() - 3600) < 60
    assert settled["prediction"]["status"] == "succeeded"


def test_a_seed_that_the_author_gives_is_sent_as_it_is(server: Emulator) -> None:
    task(input={"prompt": "a fox", "seed": "7"}).result()
    (found,) = server.world.runs.values()
    assert found.input["seed"] == 7


# --- a server in trouble ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 503}, {"reset": "before"}], ids=str)
def test_a_prediction_that_cannot_be_looked_at_is_looked_at_by_the_next_retry(
    server: Emulator, fault: dict[str, Any]
) -> None:
    run = task()
    first = run.result()
    server.faults.add(method="GET", times=None, **fault)
    with pytest.raises(LedgerError, match=f"What became of prediction {first['id']} could not be told"):
        run.retried().result()
    server.faults.clear()
    assert run.retried().result()["id"] == first["id"]
    assert billed(server) == 1


def test_a_server_that_stumbles_while_it_is_asked_is_asked_again(server: Emulator) -> None:
    run = task()
    first = run.result()
    server.faults.add(method="GET", times=2, status=502)
    assert run.retried().result()["id"] == first["id"]
    assert billed(server) == 1


@pytest.mark.parametrize(("status", "kind"), [(401, VaceAuthError), (402, VaceBillingError)])
def test_a_key_or_account_that_is_refused_burns_no_retries(
    server: Emulator, status: int, kind: type[Exception]
) -> None:
    run = task()
    run.result()
    server.faults.add(method="GET", times=None, status=status, body={"detail": "no"})
    with pytest.raises(AirflowFailException) as caught:
        run.retried().result()
    assert type(caught.value.__cause__) is kind
    assert billed(server) == 1


def test_a_prediction_that_nobody_knows_while_it_should_run_is_a_persons_matter(server: Emulator) -> None:
    run = task()
    run.result()
    server.world.runs.clear()
    with pytest.raises(AirflowFailException, match="refused with 404"):
        run.retried().result()
    assert looks(server).count("POST") == 1


# --- not durable -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "durable", "why"),
    [(None, True, "Airflow below 3.3"), ("store", False, "durable=False")],
    ids=["below 3.3", "not durable"],
)
@MODES
def test_without_state_it_says_once_that_a_retry_may_pay_again(
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
    server.faults.add(method="GET", skip=1, times=None, patch=DONE)
    assert run.result()["status"] == "succeeded"
    out = capfd.readouterr().out
    assert out.count("a retry of this task, or a clear, may pay again") == 1
    assert why in out
    assert kept is None or kept.rows == {}
    run.retried().result()
    assert billed(server) == 2


@pytest.mark.parametrize("policy", ["retry", "", None, True])
def test_what_to_do_about_an_orphan_is_checked_when_the_dag_is_imported(policy: Any) -> None:
    with pytest.raises(ValueError, match="on_orphaned_intent"):
        task(on_orphaned_intent=policy).leg()


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
    def late(*_: object) -> None:
        raise AirflowTaskTimeout

    run = waiting(save_to=f"{tmp_path}/")
    with monkeypatch.context() as patch:
        patch.setattr("airflow_vace.media.places.Place.take", late)
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
        patch.setattr("airflow_vace.hooks.time.sleep", late)
        with pytest.raises(AirflowTaskTimeout):
            task(store).result()
    assert store.rows == {}


# --- deferral --------------------------------------------------------------------------------------


def test_a_deferred_task_that_is_cleared_goes_on_with_its_prediction(server: Emulator) -> None:
    run = waiting(deferrable=True)
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    server.faults.add(method="GET", skip=2, times=None, patch=DONE)
    assert run.cleared().result()["status"] == "succeeded"
    assert statuses(server) == ["starting"]


def test_a_trigger_that_crashed_is_gone_on_with_from_the_record(server: Emulator) -> None:
    run = waiting(deferrable=True, timeout=0.5)
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    assert run.ti.xcoms == {}, "what is in the state store need not be in XCom"
    with pytest.raises(AirflowFailException, match="was told to stop"):
        run.leg().resume_execution("__fail__", {"error": "Trigger failure"}, run.context)
    assert statuses(server) == ["canceled"]


def test_a_state_that_cannot_be_read_after_a_crash_is_left_to_a_retry(server: Emulator) -> None:
    store = Store()
    run = waiting(store, deferrable=True)
    with pytest.raises(TaskDeferred):
        run.leg().execute(run.context)
    store.trouble.append(("get", RuntimeError("away")))
    with pytest.raises(LedgerError):
        run.leg().resume_execution("__fail__", {"error": "Trigger failure"}, run.context)
    assert billed(server) == 1


@pytest.mark.parametrize("backend", ["gateway"])
def test_a_crash_whose_prediction_could_not_be_recorded_is_left_to_a_retry(server: Emulator) -> None:
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
def test_a_wait_that_each_triggerer_gives_up_ends_on_the_worker(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, *, is_sensor: bool
) -> None:
    created = VaceHook().create_prediction({"prompt": "a fox"}).payload()

    async def hopeless(self: VacePredictionTrigger) -> dict[str, Any]:
        return read_known(self.prediction).payload()

    monkeypatch.setattr(VacePredictionTrigger, "_wait", hopeless)
    sensor = partial(VacePredictionSensor, task_id="t", prediction=created, deferrable=True)
    run = Run(sensor, Store()) if is_sensor else waiting(deferrable=True)
    looked = 4 if is_sensor else 5
    server.faults.add(method="GET", skip=looked + 1, times=None, patch=DONE)
    assert run.result()["status"] == "succeeded"
    assert len(run.deferred) == 4


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
