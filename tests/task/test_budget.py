"""Costs and caps of one task: what is refused, what is paid, and what the payload says."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.exceptions import PredictionFailed, VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.triggers import VacePredictionTrigger
from support.supervisor import events_of
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
PAID = {"amount": "0.40", "currency": "USD", "basis": "per_run"}
BUSY = {"status": "failed", "error": "Queue is full, please try again later"}
MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


@pytest.fixture
def priced(fast_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    """A server whose predictions end at once, at forty cents each."""
    connect(fast_emulator.connection_to(backend="replicate", prices=PRICES))
    return fast_emulator


def run(store: Store | None = None, **kwargs: Any) -> Run:
    given = {"input": {"prompt": "a fox", "frame_num": 1}, "wait_for_completion": True, **kwargs}
    return Run(lambda: VacePredictionOperator(task_id="t", **given), store or Store())


def billed(server: Emulator) -> int:
    return len(server.bill["predictions"])


# --- receipts --------------------------------------------------------------------------------------


@MODES
def test_payload_manifest_and_view_have_the_cost(
    priced: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    task = run(deferrable=deferrable, save_to=f"{tmp_path}/fox.mp4")
    assert task.result()["cost"] == PAID
    assert json.loads(Path(f"{tmp_path}/fox.mp4.json").read_text())["cost"] == PAID
    assert task.ti.xcoms["vace_view"]["prediction"]["cost"]["basis"] == "per_run"
    assert billed(priced) == 1


@pytest.mark.usefixtures("priced")
def test_a_sensor_knows_the_cost_too() -> None:
    submitted = run(wait_for_completion=False).result()
    assert submitted["cost"] == PAID | {"reserved": "0.40"}
    sensor = Run(lambda: VacePredictionSensor(task_id="t", prediction=submitted, poke_interval=0.1))
    assert sensor.result()["cost"] == PAID


def test_the_price_of_the_order_is_the_price_of_its_sensor(
    fast_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    # This back-end returns no input, so the sensor cannot know the size.
    prices = {"prunaai/vace-14b": [{"size": "1280*720", "per_run": 0.80}, {"per_run": 0.40}]}
    connect(fast_emulator.connection_to(backend="pruna", prices=prices))
    large = {"prompt": "a fox", "size": "1280*720"}
    submitted = run(input=large, wait_for_completion=False).result()
    assert submitted["cost"]["amount"] == "0.80"
    sensor = Run(lambda: VacePredictionSensor(task_id="t", prediction=submitted, poke_interval=0.1))
    assert sensor.result()["cost"] == {**PAID, "amount": "0.80"}
    event = events_of(VacePredictionTrigger(submitted), None)
    assert event.payload["cost"] == {**PAID, "amount": "0.80"}


@pytest.mark.usefixtures("priced")
def test_a_sensor_on_a_reused_video_has_its_cost(tmp_path: Path) -> None:
    file = f"{tmp_path}/fox.mp4"
    run(save_to=file).result()
    again = run(save_to=file, reuse="saved").result()
    sensor = Run(lambda: VacePredictionSensor(task_id="t", prediction=again, poke_interval=0.1))
    found = sensor.result()
    assert found["cost"] == again["cost"]


def test_without_a_price_the_cost_is_unknown(fast_emulator: Emulator, connect: Callable[[str], None]) -> None:
    connect(fast_emulator.connection_to(backend="replicate"))
    assert run().result()["cost"] == {"amount": None, "currency": None, "basis": "unknown"}


def test_a_price_by_second_is_charged_by_the_servers_metrics(
    fast_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    prices = {"prunaai/vace-14b": {"per_second": 0.01}}
    connect(fast_emulator.connection_to(backend="replicate", prices=prices))
    payload = run().result()
    expected = Decimal(str(payload["metrics"]["predict_time"])) * Decimal("0.01")
    assert abs(Decimal(payload["cost"]["amount"]) - expected) < Decimal("0.000001")


def test_a_failed_attempt_counts_in_the_receipt_of_the_task(priced: Emulator) -> None:
    priced.faults.add(method="POST", outcome=BUSY)
    task = run()
    with pytest.raises(PredictionFailed):
        task.result()
    assert task.retried().result()["cost"] == PAID | {"task": "0.80"}
    assert billed(priced) == 2


@pytest.mark.usefixtures("priced")
def test_a_reused_video_costs_nothing_and_names_what_is_saved(tmp_path: Path) -> None:
    file = f"{tmp_path}/fox.mp4"
    run(save_to=file).result()
    again = run(save_to=file, reuse="saved").result()
    assert again["cost"] == {"amount": "0.00", "currency": "USD", "basis": "per_run", "saved": "0.40"}


def test_a_failed_attempt_counts_in_the_receipt_of_a_reused_video(priced: Emulator, tmp_path: Path) -> None:
    file = f"{tmp_path}/fox.mp4"
    priced.faults.add(method="POST", outcome=BUSY)
    task = run(save_to=file, reuse="saved")
    with pytest.raises(PredictionFailed):
        task.result()
    run(save_to=file).result()
    cost = task.retried().result()["cost"]
    assert cost == {**PAID, "amount": "0.00", "saved": "0.40", "task": "0.40"}
    assert billed(priced) == 2


# --- caps ------------------------------------------------------------------------------------------


@MODES
def test_a_retry_that_would_pass_the_cap_is_not_sent(priced: Emulator, *, deferrable: bool) -> None:
    priced.faults.add(method="POST", outcome=BUSY, times=None)
    task = run(max_cost=1, deferrable=deferrable)
    for _ in range(2):
        with pytest.raises(PredictionFailed):
            task.result()
        task.retried()
    with pytest.raises(AirflowFailException) as caught:
        task.result()
    assert "may cost $0.40 and would pass max_cost=$1.00: $0.80 are spent" in str(caught.value)
    assert billed(priced) == 2
    # A clear does not open the purse again.
    with pytest.raises(AirflowFailException, match="would pass max_cost"):
        task.cleared().result()
    assert billed(priced) == 2


def test_a_cap_below_one_prediction_sends_no_create(priced: Emulator) -> None:
    with pytest.raises(AirflowFailException, match=r"max_cost=\$0\.39"):
        run(max_cost="0.39").result()
    assert billed(priced) == 0


def test_a_retry_fetches_its_video_although_the_cap_is_spent(priced: Emulator, tmp_path: Path) -> None:
    task = run(max_cost=0.40, save_to=f"{tmp_path}/")
    priced.faults.add(method="GET", path="*.mp4", times=None, status=503)
    with pytest.raises(Exception, match="503"):
        task.result()
    priced.faults.clear()
    assert task.retried().result()["cost"] == PAID
    assert billed(priced) == 1


def test_a_lost_create_that_never_arrived_costs_nothing(priced: Emulator) -> None:
    priced.faults.add(method="POST", reset="before")
    assert run(max_cost=0.40).result()["cost"] == PAID
    assert billed(priced) == 1


@pytest.mark.usefixtures("priced")
def test_a_cap_without_a_price_is_an_error_before_any_request(
    fast_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    connect(fast_emulator.connection_to(backend="replicate"))
    asked = len(fast_emulator.requests)
    with pytest.raises(AirflowFailException, match="there is no price for prunaai/vace-14b"):
        run(max_cost=5).result()
    assert len(fast_emulator.requests) == asked


@pytest.mark.parametrize("cap", [-1, float("nan"), True, []])
def test_a_cap_that_is_no_amount_fails_when_the_dag_is_read(cap: Any) -> None:
    with pytest.raises(VaceInputError, match=r"max_cost is .*, which is no amount of money"):
        VacePredictionOperator(task_id="t", input="a fox", max_cost=cap)


def test_a_cap_that_renders_to_no_amount_sends_no_create(priced: Emulator) -> None:
    with pytest.raises((AirflowFailException, VaceInputError), match="max_cost is 'much'"):
        run(max_cost="much").result()
    assert billed(priced) == 0


# --- prices ----------------------------------------------------------------------------------------


def test_a_bad_table_fails_the_test_of_the_connection_and_the_create(
    fast_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    connect(fast_emulator.connection_to(prices={"prunaai/vace-14b": {"per_run": "cheap"}}))
    is_good, message = VaceHook().test_connection()
    assert not is_good
    assert (
        "(the connection's extra 'prices', model prunaai/vace-14b) has no amount as per_run: 'cheap'"
        in message
    )
    with pytest.raises(AirflowFailException, match="has no amount as per_run"):
        run().result()
    assert billed(fast_emulator) == 0


def test_the_configuration_gives_prices_for_connections_without(
    fast_emulator: Emulator, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(fast_emulator.connection_to(backend="replicate"))
    monkeypatch.setenv("AIRFLOW__VACE__PRICES", json.dumps(PRICES))
    assert run().result()["cost"] == PAID
