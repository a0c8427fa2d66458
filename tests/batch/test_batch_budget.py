"""The cap and the receipt of a batch: no create passes the cap, and all amounts add up to the bill."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.exceptions import BatchFailed
from support.batches import MODES, batch, billed, rows_of
from support.polled import end_all
from support.tasks import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
BUSY = {"status": "failed", "error": "Queue is full, please try again later"}


@pytest.fixture
def vendor(fast_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    connect(fast_emulator.connection_to(backend="replicate", prices=PRICES))
    return fast_emulator


@MODES
def test_the_rest_of_a_batch_is_skipped_at_its_cap(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    run = batch(tmp_path, Store(), deferrable=deferrable, max_cost="3.00", min_success=0)
    result = run.result()
    assert billed(vendor) == 7
    assert {name: count for name, count in result["counts"].items() if count} == {
        "succeeded": 7,
        "skipped": 13,
    }
    assert result["cost"] == {"amount": "2.80", "currency": "USD", "basis": "per_run"}
    rows = rows_of(result)
    assert sum(Decimal(row["cost"]["amount"] or 0) for row in rows) == Decimal("2.80")
    skipped = [row["error"] for row in rows if row["status"] == "skipped"]
    assert len(skipped) == 13
    assert all("would pass max_cost=$3.00" in error for error in skipped)
    assert [row["cost"]["basis"] for row in rows if row["status"] == "skipped"] == ["unknown"] * 13


@MODES
def test_a_batch_that_lacks_items_for_its_cap_is_not_retried(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    run = batch(tmp_path, Store(), deferrable=deferrable, max_cost=2, save_in="worker")
    with pytest.raises(AirflowFailException, match="5 of 20 items succeeded") as caught:
        run.result()
    assert "No retry can improve these, but a clear after a correction can" in str(caught.value)
    assert billed(vendor) == 5


@MODES
def test_all_attempts_of_a_batch_share_one_cap(vendor: Emulator, tmp_path: Path, *, deferrable: bool) -> None:
    run = batch(tmp_path, Store(), deferrable=deferrable, max_cost=9)
    vendor.faults.add(method="POST", outcome=BUSY, times=5)
    with pytest.raises(BatchFailed, match="15 of 20 items succeeded"):
        run.result()
    assert billed(vendor) == 20
    # Eight dollars are spent, so two of the five failed items fit below nine.
    with pytest.raises(AirflowFailException, match="17 of 20 items succeeded"):
        run.retried().result()
    assert billed(vendor) == 22


@MODES
def test_a_retry_at_the_cap_lists_all_videos_that_are_saved(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    rows = [{"prompt": f"fox {number}", "frame_num": 1} for number in range(60)]
    run = batch(tmp_path, Store(), deferrable=deferrable, inputs=rows, max_cost=24)
    vendor.faults.add(method="POST", outcome=BUSY)
    with pytest.raises(BatchFailed, match="59 of 60 items succeeded"):
        run.result()
    # The cap is spent, so the failed item stays without a video, and no other item needs a create.
    with pytest.raises(AirflowFailException, match="59 of 60 items succeeded"):
        run.retried().result()
    assert billed(vendor) == 60


@MODES
def test_the_receipt_counts_failed_attempts_of_an_item(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    run = batch(tmp_path, Store(), deferrable=deferrable)
    vendor.faults.add(method="POST", outcome=BUSY, times=3)
    with pytest.raises(BatchFailed):
        run.result()
    result = run.retried().result()
    assert billed(vendor) == 23
    assert result["cost"]["amount"] == "9.20"
    costs = [row["cost"] for row in rows_of(result)]
    assert sorted(cost.get("task", cost["amount"]) for cost in costs) == ["0.40"] * 17 + ["0.80"] * 3


@MODES
def test_items_wait_for_the_cost_of_others_before_they_are_skipped(
    fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path, *, deferrable: bool
) -> None:
    # The timeout reserves $36 for the first item, and a real run costs a fraction of a cent.
    connect(
        fast_emulator.connection_to(backend="replicate", prices={"prunaai/vace-14b": {"per_second": 0.01}})
    )
    result = batch(tmp_path, Store(), deferrable=deferrable, max_cost=40).result()
    assert result["counts"]["succeeded"] == 20
    assert billed(fast_emulator) == 20


@MODES
def test_a_batch_without_a_store_frees_what_was_reserved(
    fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path, *, deferrable: bool
) -> None:
    connect(
        fast_emulator.connection_to(backend="replicate", prices={"prunaai/vace-14b": {"per_second": 0.01}})
    )
    result = batch(tmp_path, None, deferrable=deferrable, max_cost=40).result()
    assert result["counts"]["succeeded"] == 20
    assert Decimal(result["cost"]["amount"]) < 1
    assert "reserved" not in result["cost"]
    assert not any("reserved" in row["cost"] for row in rows_of(result))


def test_an_unknown_create_of_a_batch_without_a_store_counts_after_a_deferral(
    slow_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    def end() -> None:
        slow_emulator.world.time_scale = 0.0002
        end_all(slow_emulator)

    connect(slow_emulator.connection_to(backend="gateway", prices=PRICES))
    slow_emulator.faults.add("accepted_then_reset", times=3)
    run = batch(tmp_path, None, deferrable=True, max_in_flight=5, max_cost=4, min_success=0)
    result = run.result(between=end)
    assert run.deferred
    assert billed(slow_emulator) == 10
    assert (result["counts"]["unknown"], result["counts"]["succeeded"]) == (3, 7)
    assert (result["cost"]["amount"], result["cost"]["reserved"]) == ("4.00", "1.20")


@pytest.mark.parametrize("save_in", ["worker", "triggerer"])
def test_the_manifest_beside_each_video_has_its_cost(vendor: Emulator, tmp_path: Path, save_in: str) -> None:
    batch(tmp_path, Store(), deferrable=True, save_in=save_in).result()
    manifests = [json.loads(path.read_text()) for path in tmp_path.glob("*.mp4.json")]
    assert [manifest["cost"]["amount"] for manifest in manifests] == ["0.40"] * 20
    assert billed(vendor) == 20


def test_a_reused_item_costs_nothing(vendor: Emulator, tmp_path: Path) -> None:
    batch(tmp_path, Store()).result()
    rows = [{"prompt": f"fox {number}", "frame_num": 1} for number in range(19)]
    again = batch(tmp_path, Store(), inputs=[*rows, "a bear"], reuse="saved").result()
    assert billed(vendor) == 21
    assert again["cost"] == {"amount": "0.40", "currency": "USD", "basis": "per_run", "saved": "7.60"}


@MODES
def test_an_item_that_failed_before_it_was_reused_stays_in_the_sum(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    rows = [{"sku": name, "prompt": name, "frame_num": 1} for name in ("fox", "owl")]
    run = batch(tmp_path, Store(), inputs=rows, key="sku", reuse="saved", deferrable=deferrable, max_cost=1)
    vendor.faults.add(method="POST", input={"prompt": "fox"}, outcome=BUSY)
    with pytest.raises(BatchFailed, match="1 of 2 items succeeded"):
        run.result()
    batch(tmp_path, Store(), inputs=rows[:1], key="sku").result()
    result = run.retried().result()
    assert result["counts"]["reused"] == 1
    assert result["cost"] == {"amount": "0.80", "currency": "USD", "basis": "per_run", "saved": "0.40"}
    reused = next(row["cost"] for row in rows_of(result) if row["status"] == "reused")
    assert (reused["amount"], reused["task"], reused["saved"]) == ("0.00", "0.40", "0.40")
    # The next attempt reads the records, and another dollar is not there.
    (tmp_path / "fox.mp4").unlink()
    with pytest.raises(AirflowFailException, match=r"\$0.80 are spent"):
        run.cleared().result()
    assert billed(vendor) == 3


def test_the_sum_names_the_number_of_items_without_a_price(
    fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    prices = {"prunaai/vace-14b": [{"size": "1280*720", "per_run": 0.80}]}
    connect(fast_emulator.connection_to(backend="replicate", prices=prices))
    rows = [{"prompt": "a fox", "frame_num": 1, "size": size} for size in ("1280*720", "832*480")]
    result = batch(tmp_path, Store(), inputs=rows).result()
    assert billed(fast_emulator) == 2
    assert result["cost"] == {"amount": "0.80", "currency": "USD", "basis": "per_run", "unpriced": 1}


def test_a_cap_without_a_price_is_an_error_before_any_request(
    fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    connect(fast_emulator.connection_to(backend="replicate"))
    with pytest.raises(AirflowFailException, match="there is no price for prunaai/vace-14b"):
        batch(tmp_path, Store(), max_cost=5).result()
    assert not fast_emulator.requests


@pytest.mark.parametrize("cap", [-1, "much"])
def test_a_bad_cap_is_named_before_any_request(vendor: Emulator, tmp_path: Path, cap: Any) -> None:
    with pytest.raises((AirflowFailException, ValueError), match="is no amount of money"):
        batch(tmp_path, Store(), max_cost=cap).result()
    assert not vendor.requests
