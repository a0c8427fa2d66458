"""A batch as its author sees it: one task, many predictions, each billed once, saved and listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import BatchFailed
from airflow_vace.operators import VaceBatchOperator
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("hurry")

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


@pytest.fixture(params=["replicate", "gateway"])
def vendor(request: pytest.FixtureRequest, fast_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    """A server whose predictions end at once."""
    connect(fast_emulator.connection_to(backend=request.param))
    return fast_emulator


def batch(folder: Path, store: Store | None = None, **kwargs: Any) -> Run:
    given = {"inputs": [{"prompt": f"fox {number}", "frame_num": 5} for number in range(20)], "save_to": f"{folder}/", **kwargs}
    return Run(lambda: VaceBatchOperator(task_id="t", **given), store)


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(result["manifest"]).read_text().splitlines()]


def billed(server: Emulator) -> int:
    return len(server.bill["predictions"])


@MODES
def test_each_item_is_billed_once_saved_and_listed(vendor: Emulator, tmp_path: Path, *, deferrable: bool) -> None:
    run = batch(tmp_path, Store(), deferrable=deferrable, max_in_flight=8)
    result = run.result()
    assert result["counts"] == {
        **dict.fromkeys(("reused", "failed", "canceled", "unknown", "skipped"), 0),
        "succeeded": 20,
    }
    assert billed(vendor) == 20
    rows = rows_of(result)
    assert [row["key"] for row in rows] == [f"{number:05d}" for number in range(20)]
    for row in rows:
        (file,) = row["files"]
        saved = tmp_path / f"{row['key']}.mp4"
        assert (file["uri"], file["size"]) == (saved.as_uri(), saved.stat().st_size)


# --- attempts --------------------------------------------------------------------------------------


@MODES
def test_a_retry_submits_only_what_failed_and_is_worth_it(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    run = batch(tmp_path, Store(), deferrable=deferrable)
    transient = {"status": "failed", "error": "Queue is full, please try again later"}
    vendor.faults.add(method="POST", outcome=transient, times=3)
    with pytest.raises(BatchFailed, match="17 of 20 items succeeded, and min_success needs 20"):
        run.result()
    assert billed(vendor) == 20
    result = run.retried().result()
    assert result["counts"]["succeeded"] == 20
    assert billed(vendor) == 23


@MODES
def test_a_retry_repeats_no_failure_that_no_run_can_improve(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    run = batch(tmp_path, Store(), deferrable=deferrable)
    vendor.faults.add(method="POST", outcome={"status": "failed", "error": "NSFW content"}, times=2)
    with pytest.raises(AirflowFailException, match="18 of 20 items succeeded") as caught:
        run.result()
    assert "No retry can improve these" in str(caught.value)
    with pytest.raises(AirflowFailException):
        run.retried().result()
    assert billed(vendor) == 20
    assert run.cleared().result()["counts"]["succeeded"] == 20
    assert billed(vendor) == 22
