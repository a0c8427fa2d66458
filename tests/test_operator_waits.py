"""The operator: waits, deadlines, and ends of triggers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import (
    PredictionCanceled,
    PredictionExpired,
    PredictionFailed,
    PredictionTimeout,
    VaceAuthError,
    VaceProtocolError,
)
from airflow_vace.hooks import VaceHook
from support.operators import MODES, failure_of, waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


# --- waiting ---------------------------------------------------------------------------------------


@MODES
def test_it_waits_for_the_final_payload(fast_emulator: Emulator, *, deferrable: bool) -> None:
    task = waiting(deferrable=deferrable)
    payload = task.result()
    assert payload["status"] == "succeeded"
    assert payload["output"].startswith(fast_emulator.url)
    assert fast_emulator.bill["charged"] == 1
    if deferrable:
        assert task.ti.xcoms["vace_prediction"]["prediction"]["id"] == payload["id"]


def test_a_prediction_final_after_the_first_poll_is_not_deferred(slow_emulator: Emulator) -> None:
    output = "https://example.com/a.mp4"
    slow_emulator.faults.add(method="GET", patch={"status": "succeeded", "output": output})
    task = waiting(deferrable=True)
    assert task.result()["output"] == output
    assert task.deferred == []
    assert [r.method for r in slow_emulator.requests] == ["POST", "GET"]


def test_a_final_response_to_the_create_needs_no_poll(slow_emulator: Emulator) -> None:
    output = "https://example.com/a.mp4"
    slow_emulator.faults.add(method="POST", patch={"status": "succeeded", "output": output})
    task = waiting(deferrable=True)
    assert task.result()["output"] == output
    assert [r.method for r in slow_emulator.requests] == ["POST"]


def test_a_failed_poll_before_the_deferral_does_not_matter(fast_emulator: Emulator) -> None:
    fast_emulator.faults.add(method="GET", status=500)
    task = waiting(deferrable=True)
    assert task.result()["status"] == "succeeded"
    assert len(task.deferred) == 1


def test_the_row_of_the_trigger_holds_no_key_and_an_absolute_deadline(
    fast_emulator: Emulator,
) -> None:
    fast_emulator.faults.add(method="GET", patch={"status": "processing"})
    task = waiting(deferrable=True, timeout=100, poll_interval=0.05)
    before = time.time()
    task.result()
    (row,) = task.rows
    assert fast_emulator.api_key not in json.dumps(row)
    assert before + 99 < row["deadline"] < before + 110
    assert row["poll_interval"] == 0.05
    assert row["cancel_on_kill"] is True
    (deferred,) = task.deferred
    assert deferred.timeout is not None
    assert deferred.timeout.total_seconds() > 100


ENDS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"status": "failed", "error": "E1001 memory"}, PredictionFailed, "E1001 memory"),
    ({"status": "canceled"}, PredictionCanceled, "was canceled"),
    ({"status": "aborted"}, PredictionCanceled, "not billed"),
    (
        {"status": "succeeded", "output": None, "data_removed": True},
        PredictionExpired,
        "have been deleted",
    ),
    ({"status": "succeeded", "output": None}, VaceProtocolError, "brought no output"),
]


@MODES
@pytest.mark.parametrize(("end", "kind", "said"), ENDS)
def test_an_end_without_a_video_is_not_retried(
    slow_emulator: Emulator,
    end: dict[str, Any],
    kind: type[Exception],
    said: str,
    *,
    deferrable: bool,
) -> None:
    slow_emulator.faults.add(method="GET", skip=2, times=None, patch=end)
    _, error = failure_of(waiting(deferrable=deferrable))
    assert type(error) is kind
    assert said in str(error)
    (charged,) = slow_emulator.bill["predictions"]
    assert charged["id"] in str(error)


@MODES
def test_a_failure_worth_another_run_is_retried_by_airflow(
    slow_emulator: Emulator, *, deferrable: bool
) -> None:
    slow_emulator.faults.add(method="GET", skip=2, times=None, patch={"status": "failed", "error": "E6716"})
    with pytest.raises(PredictionFailed) as caught:
        waiting(deferrable=deferrable).result()
    assert caught.value.worth_another_run


@MODES
def test_a_late_output_is_waited_for(fast_emulator: Emulator, *, deferrable: bool) -> None:
    fast_emulator.faults.add(method="GET", patch={"status": "succeeded", "output": None})
    assert waiting(deferrable=deferrable).result()["output"].startswith(fast_emulator.url)


def test_a_server_in_trouble_is_polled_again_for_the_output(fast_emulator: Emulator) -> None:
    fast_emulator.faults.add(method="GET", patch={"status": "succeeded", "output": None})
    fast_emulator.faults.add("bad_gateway", method="GET", times=2)
    assert waiting().result()["output"].startswith(fast_emulator.url)


@MODES
def test_a_refused_key_ends_the_wait_with_its_own_name(slow_emulator: Emulator, *, deferrable: bool) -> None:
    slow_emulator.faults.add(method="GET", skip=1, times=None, status=401, body={"detail": "no"})
    _, error = failure_of(waiting(deferrable=deferrable))
    assert isinstance(error, VaceAuthError)
    assert slow_emulator.api_key not in str(error)


def test_a_wait_given_up_by_the_triggerer_goes_on_while_the_prediction_runs(
    fast_emulator: Emulator,
) -> None:
    fast_emulator.faults.add(method="GET", patch={"status": "processing", "output": None})
    fast_emulator.faults.add(
        method="GET", times=Timing().max_auth_refusals, status=401, body={"detail": "no"}
    )
    fast_emulator.faults.add(method="GET", patch={"status": "processing", "output": None})
    task = waiting(deferrable=True, timeout=60)
    assert task.result()["status"] == "succeeded"
    assert len(task.deferred) == 2
    assert task.rows[0]["deadline"] == task.rows[1]["deadline"]


# --- the deadline ----------------------------------------------------------------------------------


@MODES
def test_the_deadline_cancels_and_the_error_names_the_bill(
    slow_emulator: Emulator, *, deferrable: bool
) -> None:
    _, error = failure_of(waiting(deferrable=deferrable, timeout=0.3))
    assert isinstance(error, PredictionTimeout)
    assert error.prediction.status == "canceled"
    assert "0.3 s after its submission" in str(error)
    assert "billed for the time that it ran" in str(error)
    assert slow_emulator.bill["predictions"][0]["status"] == "canceled"


@MODES
def test_without_cancel_on_timeout_the_prediction_runs_on(
    slow_emulator: Emulator, *, deferrable: bool
) -> None:
    _, error = failure_of(waiting(deferrable=deferrable, timeout=0.3, cancel_on_timeout=False))
    assert isinstance(error, PredictionTimeout)
    assert slow_emulator.bill["predictions"][0]["status"] == "starting"


@MODES
def test_a_success_in_the_last_moment_is_a_success(slow_emulator: Emulator, *, deferrable: bool) -> None:
    output = "https://example.com/a.mp4"
    slow_emulator.faults.add(path="*/cancel", patch={"status": "succeeded", "output": output})
    assert waiting(deferrable=deferrable, timeout=0.3).result()["output"] == output


@pytest.mark.parametrize("status", [404, 405, 409, 422, 500])
def test_a_success_that_refuses_the_cancel_is_a_success(slow_emulator: Emulator, status: int) -> None:
    done = {"status": "succeeded", "output": "https://example.com/a.mp4"}
    task = waiting(deferrable=True, timeout=1.0)
    slow_emulator.faults.add(path="*/cancel", times=None, status=status, body={"detail": "it has ended"})

    def end() -> None:
        time.sleep(1.0)  # the wall clock is what a deadline goes by
        slow_emulator.faults.add(method="GET", patch={"status": "processing"})
        slow_emulator.faults.add(method="GET", patch={"status": "processing"})
        slow_emulator.faults.add(method="GET", times=None, patch=done)

    assert task.result(between=end)["output"] == done["output"]


@pytest.mark.parametrize("status", [404, 405, 409, 422])
def test_a_refused_cancel_of_a_running_prediction_warns_of_the_bill(
    slow_emulator: Emulator, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    slow_emulator.faults.add(path="*/cancel", times=None, status=status, body={"detail": "no such call"})
    _, error = failure_of(waiting(timeout=0.3))
    assert isinstance(error, PredictionTimeout)
    assert "may still be running" in str(error)
    assert f"was refused with {status}: no such call" in capfd.readouterr().out
    assert [r.path for r in slow_emulator.requests if r.path.endswith("/cancel")] == [
        f"/replicate/v1/predictions/{error.prediction.id}/cancel"
    ]


@MODES
def test_a_back_end_without_cancel_has_its_own_message(
    slow_emulator: Emulator,
    connect: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
    *,
    deferrable: bool,
) -> None:
    connect(slow_emulator.connection_to(backend="pruna"))
    _, error = failure_of(waiting(deferrable=deferrable, timeout=0.3))
    assert isinstance(error, PredictionTimeout)
    assert "may still be running" in str(error)
    assert "documents no cancel" in capfd.readouterr().out


def test_a_wait_that_no_triggerer_ended_is_ended_by_the_worker(fast_emulator: Emulator) -> None:
    fast_emulator.faults.add(method="GET", patch={"status": "processing"})
    task = waiting(deferrable=True)
    with pytest.raises(TaskDeferred):
        task.leg().execute(task.context)
    VaceHook().wait_for_prediction(task.ti.xcoms["vace_prediction"]["prediction"])
    failed = {"error": "Trigger timeout", "traceback": None}
    payload = task.leg().resume_execution("__fail__", failed, task.context)
    assert payload["status"] == "succeeded"


def test_a_trigger_that_crashed_does_not_make_airflow_pay_again(fast_emulator: Emulator) -> None:
    fast_emulator.faults.add(method="GET", patch={"status": "processing"})
    task = waiting(deferrable=True)
    with pytest.raises(TaskDeferred):
        task.leg().execute(task.context)
    crashed = {"error": "Trigger failure", "traceback": ["ModuleNotFoundError: airflow_vace\n"]}
    payload = task.leg().resume_execution("__fail__", crashed, task.context)
    assert payload["status"] == "succeeded"
    assert fast_emulator.bill["charged"] == 1


def test_a_trigger_that_crashed_leaves_the_deadline_as_it_is(slow_emulator: Emulator) -> None:
    task = waiting(deferrable=True, timeout=0.5)
    with pytest.raises(TaskDeferred):
        task.leg().execute(task.context)
    with pytest.raises(AirflowFailException, match="its cancel was accepted") as caught:
        task.leg().resume_execution("__fail__", {"error": "Trigger failure"}, task.context)
    assert isinstance(caught.value.__cause__, PredictionTimeout)
    assert slow_emulator.bill["predictions"][0]["status"] == "canceled"


def test_a_failure_without_any_note_of_the_prediction_is_not_retried(slow_emulator: Emulator) -> None:
    task = waiting(deferrable=True)
    with pytest.raises(AirflowFailException, match="Expected a prediction"):
        task.leg().resume_execution("__fail__", {"error": "Trigger failure"}, task.context)
    assert slow_emulator.requests == []


def test_an_event_that_is_no_prediction_is_no_success(slow_emulator: Emulator) -> None:
    task = waiting(deferrable=True)
    for event in (None, {}, {"status": "succeeded"}):
        with pytest.raises(AirflowFailException, match="Expected a prediction"):
            task.leg().resume_execution("execute_complete", {"event": event}, task.context)
    assert slow_emulator.requests == []
