"""The operator: submitting, waiting, saving, deadlines, and kills."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowTaskTimeout,
    TaskDeferred,
    timeout,
)
from airflow.sdk import DAG

from airflow_vace.core.timing import Timing
from airflow_vace.emulator.faults import rate_limited
from airflow_vace.exceptions import (
    PredictionCanceled,
    PredictionExpired,
    PredictionFailed,
    PredictionTimeout,
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from conftest import scale_waits
from support.films import DATA_URL, MP4
from support.interrupts import interrupting, raising
from support.tasks import NOBODY, Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])


def operator(**kwargs: Any) -> VacePredictionOperator:
    return VacePredictionOperator(**{"task_id": "t", "input": {"prompt": "a fox"}, **kwargs})


def run(**kwargs: Any) -> Run:
    return Run(partial(operator, **kwargs))


def waiting(**kwargs: Any) -> Run:
    return run(**{"wait_for_completion": True, **kwargs})


def failure_of(task: Run, *, same_words: bool = True) -> tuple[Exception, BaseException]:
    """Return the failure that Airflow does not retry, and the error behind it."""
    with pytest.raises(AirflowFailException) as caught:
        task.result()
    assert caught.value.__cause__ is not None
    assert (str(caught.value) == str(caught.value.__cause__)) is same_words
    return caught.value, caught.value.__cause__


# --- submitting ------------------------------------------------------------------------------------


def test_it_submits_and_returns_the_payload_at_once(slow_emulator: Emulator) -> None:
    task = run(input={"prompt": "a fox", "size": "1280x720", "seed": "7"})
    payload = task.result()
    assert payload["status"] == "starting"
    assert json.loads(json.dumps(payload)) == payload
    assert [r.method for r in slow_emulator.requests] == ["POST"]
    (submitted,) = slow_emulator.world.runs.values()
    assert submitted.id == payload["id"]
    assert submitted.input == {"prompt": "a fox", "size": "1280*720", "seed": 7}
    assert task.deferred == []


def test_an_empty_model_and_version_from_a_template_mean_the_default(slow_emulator: Emulator) -> None:
    assert run(model="", version="").result()["model"] == "prunaai/vace-14b"
    assert slow_emulator.bill["charged"] == 1


def test_the_server_gets_a_deadline_of_its_own(
    slow_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    connect(slow_emulator.connection_to(backend="replicate"))
    run(timeout=600).result()
    run(timeout=600, cancel_on_timeout=False).result()
    first, second = slow_emulator.world.runs.values()
    assert first.cancel_after is not None
    assert 600 < first.cancel_after <= 660
    assert second.cancel_after is None


def test_bad_input_fails_for_good_before_any_request(slow_emulator: Emulator) -> None:
    for given in ({"promt": "x"}, {"prompt": ""}, "no object", None):
        _, error = failure_of(run(input=given))
        assert isinstance(error, VaceInputError)
    assert slow_emulator.requests == []


@pytest.mark.parametrize("save_to", ["relative/", "nowhere://bucket/", "/no/slash", 5])
def test_a_directory_that_is_none_fails_before_money_is_spent(slow_emulator: Emulator, save_to: Any) -> None:
    _, error = failure_of(waiting(save_to=save_to))
    assert isinstance(error, VaceInputError)
    assert error.field == "save_to"
    assert slow_emulator.requests == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 401, "body": {"detail": "no"}}, VaceAuthError),
        ({"status": 402, "body": {"detail": "no"}}, VaceBillingError),
        ({"status": 422, "body": {"detail": "no"}}, VaceAPIError),
        ({"status": 503, "body": {"error": {"message": "x", "code": "model_not_found"}}}, VaceAPIError),
        ({"status": 200, "body": {"data": []}}, VaceProtocolError),
        ({"accept": True, "status": 502}, SubmissionUnknown),
        ({"reset": "after"}, SubmissionUnknown),
        ({"hang": "after"}, SubmissionUnknown),
    ],
    ids=str,
)
def test_airflow_does_not_retry_a_useless_or_expensive_attempt(
    slow_emulator: Emulator, connect: Callable[[str], None], fault: dict[str, Any], kind: type[Exception]
) -> None:
    if "hang" in fault:
        connect(slow_emulator.connection_to(timeout=1))
    slow_emulator.faults.add(method="POST", **fault)
    _, error = failure_of(run())
    assert type(error) is kind
    assert len(slow_emulator.requests) == 1
    assert slow_emulator.bill["charged"] <= 1


def test_a_rate_limit_and_an_absent_server_are_retried_by_airflow(
    slow_emulator: Emulator, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_emulator.faults.add(rate_limited("seconds", 1000, method="POST"))
    with pytest.raises(VaceRateLimited):
        run().result()
    scale_waits(monkeypatch, 0.01, max_create_attempts=2)
    connect('{"conn_type": "vace", "host": "http://127.0.0.1:1", "password": "xxxxxxxx"}')
    with pytest.raises(VaceTransportError, match="nothing was sent"):
        run().result()
    assert slow_emulator.bill["charged"] == 0


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


# --- saving ----------------------------------------------------------------------------------------


@MODES
def test_the_video_is_saved_and_described(
    fast_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    payload = waiting(deferrable=deferrable, save_to=f"{tmp_path}/clips/").result()
    (file,) = payload["files"]
    path = tmp_path / "clips" / "d" / "r" / f"t-{payload['id']}.mp4"
    assert file == {
        "uri": path.as_uri(),
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "content_type": "video/mp4",
        "facts": {**file["facts"], "frames": 81, "width": 832, "height": 480, "problems": []},
        "poster": f"{path.as_uri()}.jpg",
    }
    manifest = json.loads(path.with_name(path.name + ".json").read_text())
    beside = [path.with_name(f"{path.name}.{suffix}") for suffix in ("jpg", "json")]
    assert sorted(path.parent.iterdir()) == [path, *beside]
    assert file.items() <= manifest.items()
    assert manifest["id"] == payload["id"]
    assert manifest["input"]["prompt"] == "a fox"
    assert manifest["seed"] == manifest["input"]["seed"] >= 0
    assert manifest["task"] == {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    assert fast_emulator.bill["charged"] == 1


@MODES
def test_a_data_url_is_saved_or_refused_but_never_pushed(
    slow_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    patch = {"status": "succeeded", "output": DATA_URL}
    slow_emulator.faults.add(method="GET", skip=1, times=None, patch=patch)
    payload = waiting(deferrable=deferrable, save_to=f"{tmp_path}/").result()
    assert Path(payload["files"][0]["uri"].removeprefix("file://")).read_bytes() == MP4
    assert DATA_URL[-40:] not in json.dumps(payload)
    _, error = failure_of(waiting(deferrable=deferrable))
    assert isinstance(error, VaceInputError)
    assert "Set save_to" in str(error)
    assert DATA_URL[-40:] not in str(error)


@MODES
def test_a_directory_without_write_access_is_reported_before_money_is_spent(
    slow_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    (tmp_path / "clips").write_text("not a directory")
    _, error = failure_of(waiting(save_to=f"{tmp_path}/clips/", deferrable=deferrable))
    assert isinstance(error, VaceInputError)
    assert "can't be written to" in str(error)
    assert slow_emulator.requests == []


@MODES
def test_a_failed_save_is_not_retried_if_a_retry_would_pay(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch, *, deferrable: bool
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    memory.mkdir("/b")
    monkeypatch.setattr(type(memory), "put_file", full)
    failure, error = failure_of(waiting(save_to="memory://b/", deferrable=deferrable), same_words=False)
    assert isinstance(error, OSError)
    (charged,) = fast_emulator.bill["predictions"]
    for said in (charged["id"], "No space left", "It is billed", "VacePredictionSensor on this id"):
        assert said in str(failure)


def test_an_output_without_a_file_is_returned_and_saved_as_text(
    slow_emulator: Emulator, tmp_path: Path
) -> None:
    slow_emulator.faults.add(method="GET", times=None, patch={"status": "succeeded", "output": "a poem"})
    assert waiting().result()["output"] == "a poem"
    (file,) = waiting(save_to=f"{tmp_path}/").result()["files"]
    assert file["uri"].endswith(".txt")
    assert Path(file["uri"].removeprefix("file://")).read_text() == "a poem"


# --- Airflow in trouble ----------------------------------------------------------------------------


def test_an_xcom_that_cannot_be_pushed_costs_nothing(fast_emulator: Emulator) -> None:
    task = waiting(deferrable=True)

    def broken(*_: object) -> None:
        raise RuntimeError("the API server is away")

    task.ti.xcom_push = broken  # type: ignore[method-assign,assignment]
    fast_emulator.faults.add(method="GET", patch={"status": "processing"})
    assert task.result()["status"] == "succeeded"
    assert len(task.deferred) == 1
    assert fast_emulator.bill["charged"] == 1


def test_whatever_goes_wrong_after_the_create_is_not_retried(slow_emulator: Emulator) -> None:
    with interrupting(raising(KeyError), lambda: len(slow_emulator.requests) > 1):
        failure, error = failure_of(waiting(), same_words=False)
    assert isinstance(error, KeyError)
    assert slow_emulator.bill["predictions"][0]["id"] in str(failure)
    assert "a new attempt would pay again" in str(failure)


@pytest.mark.parametrize("surprise", [AirflowTaskTimeout, KeyError])
def test_whatever_breaks_the_create_off_is_not_retried(
    slow_emulator: Emulator, surprise: type[BaseException]
) -> None:
    slow_emulator.faults.add(method="POST", hang="before")
    with interrupting(raising(surprise), lambda: slow_emulator.requests):
        _, error = failure_of(run())
    assert isinstance(error, SubmissionUnknown)
    assert surprise.__name__ in str(error)
    assert len(slow_emulator.requests) == 1


@pytest.mark.usefixtures("slow_emulator")
def test_a_connection_that_is_not_there_is_airflows_own_error() -> None:
    with pytest.raises(AirflowNotFoundException, match="no_such"):
        run(vace_conn_id="no_such").result()


def test_an_execution_timeout_in_the_wait_cancels_and_is_not_retried(slow_emulator: Emulator) -> None:
    task = waiting(timeout=60)
    with pytest.raises(AirflowFailException, match="execution_timeout ended the wait"), timeout(1):  # type: ignore[no-untyped-call]
        task.result()
    assert slow_emulator.bill["predictions"][0]["status"] == "canceled"


def test_a_server_in_trouble_at_the_deadline_still_gets_the_cancel(slow_emulator: Emulator) -> None:
    slow_emulator.faults.add("bad_gateway", method="GET", times=None)
    _, error = failure_of(waiting(timeout=0.3))
    assert isinstance(error, PredictionTimeout)
    assert slow_emulator.bill["predictions"][0]["status"] == "canceled"


# --- being killed ----------------------------------------------------------------------------------


def test_a_kill_cancels_and_says_so(slow_emulator: Emulator, capfd: pytest.CaptureFixture[str]) -> None:
    task = operator()
    task.execute(NOBODY)
    task.on_kill()
    assert slow_emulator.bill["predictions"][0]["status"] == "canceled"
    assert "is canceled. It is billed for the time that it ran" in capfd.readouterr().out


def test_a_kill_with_cancel_on_kill_false_warns_of_the_bill(
    slow_emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    operator().on_kill()
    assert slow_emulator.requests == []
    task = operator(cancel_on_kill=False)
    task.execute(NOBODY)
    task.on_kill()
    assert slow_emulator.bill["predictions"][0]["status"] == "starting"
    assert "is left running and is billed" in capfd.readouterr().out


def test_a_failed_cancel_after_a_kill_warns_of_the_bill(
    slow_emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    slow_emulator.faults.add(path="*/cancel", status=500)
    task = operator()
    task.execute(NOBODY)
    task.on_kill()
    assert "could not be canceled and may run, and be billed" in capfd.readouterr().out


def test_a_kill_during_a_create_warns_of_a_possible_bill(
    slow_emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    task = operator()

    def kill() -> None:
        task.on_kill()
        raise SystemExit

    slow_emulator.faults.add(method="POST", hang="before")
    with pytest.raises(SystemExit), interrupting(kill, lambda: slow_emulator.requests):
        task.execute(NOBODY)
    assert "may have been accepted" in capfd.readouterr().out
    assert len(slow_emulator.requests) == 1


# --- the author's side -----------------------------------------------------------------------------


def test_templated_parameters_are_checked_when_the_task_runs() -> None:
    task = operator(input="{{ no }}", model="{{ no }}", version=5, vace_conn_id="{{ no }}", deferrable=True)
    assert set(task.template_fields) == {
        "input",
        "model",
        "version",
        "vace_conn_id",
        "save_to",
        "video_label",
        "max_cost",
        "partition_key",
        "is_dry_run",
    }
    assert task.template_fields_renderers == {"input": "json"}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"timeout": 0},
        {"timeout": "an hour"},
        {"timeout": True},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"poll_interval": -1},
        {"poll_interval": "{{ params.pause }}"},
        {"save_to": "/data/"},
    ],
    ids=str,
)
def test_parameters_without_templates_are_checked_at_import(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        operator(**kwargs)


def test_input_renders_with_the_context(slow_emulator: Emulator) -> None:
    with DAG("d", schedule=None):
        task = operator(input={"prompt": "{{ what }}", "src_ref_images": ["{{ image }}"]})
    context: Any = {"what": "a fox", "image": "https://a/b.png"}
    task.render_template_fields(context)
    task.execute(NOBODY)
    (submitted,) = slow_emulator.world.runs.values()
    assert submitted.input["prompt"] == "a fox"
    assert submitted.input["src_ref_images"] == ["https://a/b.png"]


def test_the_links_lead_to_the_prediction_and_its_video(fast_emulator: Emulator) -> None:
    task = operator()
    page, video = task.operator_extra_links
    assert (page.get_link(task, ti_key=None), video.get_link(task, ti_key=None)) == ("", "")
    waited = waiting(deferrable=True)
    payload = waited.result()
    last = waited.legs[-1]
    assert page.get_link(last, ti_key=None) == payload["urls"]["web"]
    assert video.get_link(last, ti_key=None) == payload["output"]
    first = waited.legs[0]
    assert page.get_link(first, ti_key=None) == payload["urls"]["web"]
    assert fast_emulator.bill["charged"] == 1


def test_the_key_is_in_no_log_line(fast_emulator: Emulator, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("airflow.task").setLevel(logging.DEBUG)
    fast_emulator.faults.add(method="GET", status=401, body={"detail": f"bad key {fast_emulator.api_key}"})
    waiting(deferrable=True).result()
    out, err = capfd.readouterr()
    assert "succeeded" in out
    assert fast_emulator.api_key not in out + err
