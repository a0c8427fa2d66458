"""Creates whose answer is lost, and those that were refused: what the next attempt does about them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
)

from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceRateLimited,
)
from airflow_vace.hooks import VaceHook
from conftest import scale_waits
from support.attempts import BACKENDS, DONE, MODES, billed, killed_at, methods_of, statuses, task, waiting
from support.tasks import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def backend() -> str:
    return "replicate"


LIMITED = Timing().max_create_attempts


# --- a create whose answer is lost -----------------------------------------------------------------

LOST = pytest.mark.parametrize(
    "fault",
    [{"accept": True, "status": 502}, {"reset": "after"}, {"hang": "after"}, {"truncate": 20}],
    ids=["502", "reset", "silence", "torn"],
)


@LOST
@MODES
def test_a_listed_lost_create_is_found_by_the_same_attempt(
    server: Emulator, fault: dict[str, Any], capfd: pytest.CaptureFixture[str], *, deferrable: bool
) -> None:
    server.faults.add(method="POST", **fault)
    server.faults.add(path="*/predictions/*", method="GET", times=None, patch=DONE)
    payload = waiting(deferrable=deferrable).result()
    (found,) = server.world.runs.values()
    assert payload["id"] == found.id
    out = capfd.readouterr().out
    assert "The request for a new prediction got no clear answer" in out
    assert f"The lost request was accepted: prediction {found.id}" in out


@pytest.mark.parametrize("backend", ["gateway"])
@LOST
def test_without_a_list_nothing_is_submitted_and_nothing_retried(
    server: Emulator, fault: dict[str, Any]
) -> None:
    server.faults.add(method="POST", **fault)
    run = task()
    for attempt in (run, run.cleared()):
        with pytest.raises(AirflowFailException, match="delete the key 'vace_prediction'") as caught:
            attempt.result()
        assert isinstance(caught.value.__cause__, SubmissionUnknown)
    assert methods_of(server) == ["POST"]


@BACKENDS
def test_a_worker_that_dies_before_its_create_is_sent(server: Emulator, backend: str) -> None:
    run = task()
    killed_at(run, "submit")
    if backend == "gateway":
        with pytest.raises(AirflowFailException, match="does not list"):
            run.result()
        assert billed(server) == 0
    else:
        run.result()
        assert billed(server) == 1


@BACKENDS
def test_a_worker_that_dies_before_the_record_of_the_response(server: Emulator, backend: str) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    if backend == "gateway":
        with pytest.raises(AirflowFailException, match="does not list"):
            run.result()
    else:
        (found,) = server.world.runs.values()
        assert run.result()["id"] == found.id
    assert billed(server) == 1


@pytest.mark.parametrize("backend", ["gateway"])
def test_an_author_may_choose_to_pay_twice(server: Emulator, capfd: pytest.CaptureFixture[str]) -> None:
    run = task(on_orphaned_intent="resubmit")
    server.faults.add("accepted_then_502")
    with pytest.raises(SubmissionUnknown):
        run.result()
    run.retried().result()
    assert billed(server) == 2
    assert "Submitting again because of on_orphaned_intent='resubmit'" in capfd.readouterr().out


def test_a_create_that_comes_through_late_is_waited_for(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, connect: Callable[[str], None]
) -> None:
    scale_waits(monkeypatch, 1.0, lost_create_lookup_seconds=30.0)
    connect(server.connection_to(backend="replicate", timeout=1))
    server.faults.add(method="POST", delay=2.0)
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
    assert methods_of(server).count("POST") == 3
    server.faults.clear()
    run.retried().result()
    assert billed(server) == 1


def test_a_seed_distinguishes_a_lost_create_from_siblings(server: Emulator) -> None:
    lost = task()
    killed_at(lost, "submit", after=True)
    (mine,) = server.world.runs
    siblings = {task().result()["id"] for _ in range(3)}
    assert lost.result()["id"] == mine
    assert mine not in siblings
    assert billed(server) == 4


def test_a_lost_create_is_searched_on_every_page(server: Emulator) -> None:
    lost = task()
    killed_at(lost, "submit", after=True)
    (mine,) = server.world.runs
    hook = VaceHook()
    for number in range(120):
        hook.create_prediction({"prompt": "a fox", "seed": number})
    assert lost.result()["id"] == mine


def test_a_lost_create_of_another_input_is_found_and_canceled(server: Emulator) -> None:
    store = Store()
    killed_at(task(store), "submit", after=True)
    task(store, input={"prompt": "an otter"}).cleared().result()
    assert statuses(server) == ["canceled", "starting"]


def test_a_late_second_create_of_the_same_intent_is_canceled(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, connect: Callable[[str], None]
) -> None:
    scale_waits(monkeypatch, 0.01, lost_create_lookup_seconds=0.0, intent_grace_seconds=0.0)
    connect(server.connection_to(backend="replicate", timeout=1))
    # All three creates outlast the attempt.
    for delay in (7.0, 6.0, 5.0):
        server.faults.add(method="POST", delay=delay)
    run = task()
    with pytest.raises(SubmissionUnknown):
        run.result()
    server.wait_for(lambda: billed(server) == 3)
    connect(server.connection_to(backend="replicate"))
    run.retried().result()
    assert sorted(statuses(server)) == ["canceled", "canceled", "starting"]


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"reset": "before"}], ids=str)
def test_a_list_that_cannot_be_read_is_not_an_empty_one(server: Emulator, fault: dict[str, Any]) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    server.faults.add(method="GET", path="/v1/predictions", times=None, **fault)
    with pytest.raises(SubmissionUnknown, match="could not be looked up") as caught:
        run.result()
    assert caught.value.may_be_retried
    assert billed(server) == 1
    server.faults.clear()
    run.retried().result()
    assert billed(server) == 1


def test_a_server_that_knows_no_list_is_one_that_does_not_list(server: Emulator) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    server.faults.add(method="GET", path="/v1/predictions", times=None, status=404, body={"detail": "no"})
    with pytest.raises(AirflowFailException, match="does not list"):
        run.result()
    assert billed(server) == 1


def test_only_a_second_404_proves_that_no_list_exists(server: Emulator) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    server.faults.add(method="GET", path="/v1/predictions", times=1, status=404, body={"detail": "no"})
    server.faults.add(path="*/predictions/*", method="GET", times=None, patch=DONE)
    (found,) = server.world.runs.values()
    assert run.result()["id"] == found.id
    assert billed(server) == 1


def test_a_key_that_the_list_refuses_uses_no_retries(server: Emulator) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    server.faults.add(method="GET", path="/v1/predictions", times=None, status=401, body={"detail": "no"})
    with pytest.raises(AirflowFailException) as caught:
        run.result()
    assert isinstance(caught.value.__cause__, VaceAuthError)
    assert billed(server) == 1


def test_a_deleted_input_could_be_of_any_prediction(server: Emulator) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    server.world.retention = 0
    for found in server.world.runs.values():
        found.canceled = time.time()
    with pytest.raises(AirflowFailException, match="can't be distinguished from it"):
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
    killed_at(task(store, vace_conn_id="old"), "submit", after=True)
    monkeypatch.delenv("AIRFLOW_CONN_OLD")
    with pytest.raises(AirflowFailException, match="delete the key"):
        task(store).result()
    assert billed(server) == 1


def test_a_lost_create_stays_known_when_the_next_one_meets_a_limit(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, connect: Callable[[str], None]
) -> None:
    scale_waits(monkeypatch, 0.01, lost_create_lookup_seconds=0.0, intent_grace_seconds=0.0)
    connect(server.connection_to(backend="replicate", timeout=1))
    server.faults.add(method="POST", delay=5.0)
    server.faults.add(method="POST", times=LIMITED, status=429, body={"detail": "slow down"})
    run = task()
    with pytest.raises(VaceRateLimited):
        run.result()
    server.wait_for(lambda: billed(server) == 1)
    (found,) = server.world.runs
    connect(server.connection_to(backend="replicate"))
    assert run.retried().result()["id"] == found


def test_the_next_attempt_repeats_a_failed_cancel_of_the_old_prediction(server: Emulator) -> None:
    store = Store()
    task(store).result()
    server.faults.add(path="*/cancel", times=3, status=500)
    server.faults.add(
        method="POST", path="*/predictions", times=LIMITED, status=429, body={"detail": "slow down"}
    )
    otter = {"prompt": "an otter"}
    with pytest.raises(VaceRateLimited):
        task(store, input=otter).cleared().result()
    task(store, input=otter).cleared().result()
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
def test_a_refusal_leaves_no_intent_and_uses_no_retries(
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
def test_a_limit_leaves_no_intent_and_is_left_to_airflows_retries(server: Emulator) -> None:
    server.faults.add(method="POST", times=LIMITED, status=429, body={"detail": "slow down"})
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
    assert "a retry will search for a prediction that was never accepted" in capfd.readouterr().out
