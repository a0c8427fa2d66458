"""The operator: Airflow in trouble, and kills."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowTaskTimeout,
    timeout,
)

from airflow_vace.exceptions import PredictionTimeout, SubmissionUnknown
from support.interrupts import interrupting, raising
from support.operators import failure_of, operator, run, waiting
from support.tasks import NOBODY

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


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
