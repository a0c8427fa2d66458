"""Dry runs of a batch: each item is checked, the costs are summed, and nothing is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from support.batches import batch, billed
from support.dry_runs import plan, posts, priced
from support.films import MP4
from support.tasks import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def vendor(fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path) -> Emulator:
    connect(priced(fast_emulator, tmp_path))
    return fast_emulator


def test_all_items_are_counted_and_priced(
    vendor: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store()
    text = plan(batch(tmp_path, store, dry_run=True))
    assert text == "Dry run, nothing was submitted: 20 would be submitted; cost: $8.00"
    logged = capfd.readouterr().out
    assert "Dry run, item 00000: the task would submit prunaai/vace-14b" in logged
    assert f"save the video as file://{tmp_path}/00000.mp4" in logged
    assert (posts(vendor), store.rows, list(tmp_path.rglob("*.*"))) == ([], {}, [])


def test_the_cap_says_how_many_items_have_room(vendor: Emulator, tmp_path: Path) -> None:
    text = plan(batch(tmp_path, dry_run=True, max_cost=3, min_success=5))
    assert "7 would be submitted, 13 have no room below the cap; cost: $2.80" in text
    with pytest.raises(AirflowFailException, match="min_success needs 20 of 20 items"):
        batch(tmp_path, dry_run=True, max_cost=3).result()
    assert posts(vendor) == []


def test_the_cap_has_room_for_the_first_items(
    vendor: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = plan(batch(tmp_path, dry_run=True, max_cost=3, min_success=5))
    logged = capfd.readouterr().out
    assert outcome in logged
    (line,) = [line for line in logged.splitlines() if "no room below the cap from item" in line]
    assert "from item 00007 on: Another prediction may cost $0.40 and would pass max_cost=$3.00" in line
    assert "$2.80 are reserved for the predictions before it" in line
    assert posts(vendor) == []


@pytest.mark.parametrize("wrong", [{"max_cost": 3}, {"inputs": [{"prompt": " "}], "dry_run": False}])
def test_the_tab_shows_why_a_batch_has_failed_before_its_first_item(
    vendor: Emulator, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    run = batch(tmp_path, **{"dry_run": True, **wrong})
    with pytest.raises(AirflowFailException) as caught:
        run.result()
    assert run.ti.xcoms["vace_view"]["error"] == str(caught.value)
    assert posts(vendor) == []


def test_items_with_a_missing_file_in_a_store_are_named(
    vendor: Emulator, tmp_path: Path, memory: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    memory.pipe_file("/b/a.mp4", MP4)
    rows = [{"prompt": "a fox", "src_video": f"memory://b/{name}.mp4"} for name in "ab"]
    text = plan(batch(tmp_path, inputs=rows, dry_run=True, min_success=1))
    assert "1 would be submitted, 1 would fail; cost: $0.40" in text
    expected = "item 00001 would fail: Input 'src_video' is memory://b/b.mp4, which does not exist"
    assert expected in capfd.readouterr().out
    assert posts(vendor) == []


def test_items_of_earlier_attempts_and_saved_videos_cost_nothing(vendor: Emulator, tmp_path: Path) -> None:
    rows: Any = [{"prompt": f"fox {number}", "frame_num": 1, "seed": 7} for number in range(4)]
    run = batch(tmp_path, Store(), inputs=rows[:3])
    run.result()
    text = plan(batch(tmp_path, inputs=rows, dry_run=True, reuse="saved"))
    assert "1 would be submitted, 3 would take a saved video, at no cost; cost: $0.40" in text
    run.make = batch(tmp_path, inputs=rows, dry_run=True).make
    expected = "1 would be submitted, 3 would continue with the prediction of an earlier attempt; cost: $0.40"
    assert expected in plan(run.cleared())
    assert billed(vendor) == 3


def test_an_item_with_an_unknown_create_is_counted(
    vendor: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    connect(vendor.connection_to(backend="gateway"))
    vendor.faults.add("accepted_then_reset")
    run = batch(tmp_path, Store(), inputs=["a fox"])
    with pytest.raises(AirflowFailException, match="1 unknown"):
        run.result()
    run.make = batch(tmp_path, inputs=["a fox"], dry_run=True).make
    assert "1 would continue with the prediction of an earlier attempt" in plan(run.retried())
    assert billed(vendor) == 1


def test_the_connection_asks_for_a_dry_run(
    vendor: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    connect(vendor.connection_to(backend="gateway", dry_run=True))
    assert "20 would be submitted; cost: unknown" in plan(batch(tmp_path))
    assert posts(vendor) == []
