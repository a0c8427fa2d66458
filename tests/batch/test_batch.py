"""A batch as its author sees it: one task, many predictions, each billed once, saved and listed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

import support.tasks
from airflow_vace.exceptions import BatchFailed
from support.attempts import forget
from support.batches import MODES, batch, billed, rows_of
from support.films import MP4
from support.tasks import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture(params=["replicate", "gateway"])
def vendor(
    request: pytest.FixtureRequest, fast_emulator: Emulator, connect: Callable[[str], None]
) -> Emulator:
    """A server whose predictions end at once."""
    connect(fast_emulator.connection_to(backend=request.param))
    return fast_emulator


@MODES
def test_each_item_is_billed_once_saved_and_listed(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
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


@MODES
def test_a_row_that_is_inserted_shifts_no_other(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    rows = [{"sku": f"TR-{number}", "prompt": f"fox {number}", "frame_num": 1} for number in range(5)]
    run = batch(tmp_path, Store(), deferrable=deferrable, inputs=rows, key="sku")
    run.result()
    rows.insert(0, {"sku": "TR-new", "prompt": "an owl", "frame_num": 1})
    result = run.cleared().result()
    assert billed(vendor) == 6
    assert [row["key"] for row in rows_of(result)] == ["TR-new", *(f"TR-{number}" for number in range(5))]
    assert sorted(path.stem for path in tmp_path.glob("*.mp4")) == sorted(str(row["sku"]) for row in rows)


def test_a_clear_submits_a_key_with_another_input_only(vendor: Emulator, tmp_path: Path) -> None:
    rows = [{"sku": f"TR-{number}", "prompt": f"fox {number}", "frame_num": 1} for number in range(5)]
    run = batch(tmp_path, Store(), inputs=rows, key="sku")
    first = {row["key"]: row["id"] for row in rows_of(run.result())}
    rows[2]["prompt"] = "an owl"
    second = {row["key"]: row["id"] for row in rows_of(run.cleared().result())}
    assert billed(vendor) == 6
    assert [key for key in first if first[key] != second[key]] == ["TR-2"]


def test_a_clear_with_reuse_false_submits_all_items(vendor: Emulator, tmp_path: Path) -> None:
    run = batch(tmp_path, Store(), reuse=False)
    run.result()
    run.cleared().result()
    assert billed(vendor) == 40


# --- what an author sees ---------------------------------------------------------------------------


def test_a_share_of_successes_is_enough_where_the_author_says_so(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add(method="POST", outcome={"status": "failed", "error": "NSFW content"}, times=2)
    result = batch(tmp_path, Store(), min_success=0.9).result()
    assert (result["counts"]["succeeded"], result["counts"]["failed"]) == (18, 2)
    failed = [row for row in rows_of(result) if row["status"] == "failed"]
    assert all("NSFW content" in row["error"] and row["id"] and not row["files"] for row in failed)


def test_bad_rows_are_named_before_anything_is_paid(vendor: Emulator, tmp_path: Path) -> None:
    rows = [{"prompt": "a fox", "frame_num": 1}, {"prompt": "a fox", "frame_num": "many"}, {"prompt": ""}]
    with pytest.raises(AirflowFailException) as caught:
        batch(tmp_path, Store(), inputs=rows).result()
    assert "frame_num" in str(caught.value)
    assert "prompt" in str(caught.value)
    assert billed(vendor) == 0


def test_a_missing_source_file_is_named_before_anything_is_paid(
    fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "there.mp4").write_bytes(MP4)
    connect(fast_emulator.connection_to(input_roots=str(tmp_path)))
    rows = [
        {"prompt": "a fox", "src_video": f"{tmp_path}/{name}.mp4"} for name in ("there", "missing", "gone")
    ]
    with pytest.raises(AirflowFailException) as caught:
        batch(tmp_path, Store(), inputs=rows).result()
    assert "2 of 3 rows" in str(caught.value)
    assert "missing.mp4" in str(caught.value)
    assert "gone.mp4" in str(caught.value)
    assert billed(fast_emulator) == 0


def test_bad_rows_are_skipped_where_the_author_says_so(vendor: Emulator, tmp_path: Path) -> None:
    rows = [{"prompt": "a fox", "frame_num": 1}, {"prompt": "a fox", "frame_num": "many"}]
    result = batch(tmp_path, Store(), inputs=rows, on_bad_input="skip").result()
    assert (result["counts"]["succeeded"], result["counts"]["skipped"]) == (1, 1)
    assert [row["status"] for row in rows_of(result)] == ["succeeded", "skipped"]
    assert billed(vendor) == 1


@pytest.mark.parametrize("save_to", ["clip.mp4", "{folder}/clip.mp4", "relative/"])
def test_a_place_that_is_no_directory_is_refused_before_anything_is_paid(
    vendor: Emulator, tmp_path: Path, save_to: str
) -> None:
    with pytest.raises(AirflowFailException, match="save_to"):
        batch(tmp_path, Store(), save_to=save_to.format(folder=tmp_path)).result()
    assert billed(vendor) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        *({"max_in_flight": 0}, {"max_in_flight": "many"}, {"min_success": 1.5}, {"min_success": -1}),
        *({"on_bad_input": "ignore"}, {"timeout": 0}, {"on_orphaned_intent": "guess"}, {"save_to": None}),
        *({"save_in": "triggerer", "deferrable": False}, {"save_in": "moon"}),
    ],
    ids=str,
)
def test_parameters_that_cannot_work_fail_in_the_dag_file(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        batch(tmp_path, **wrong).leg()


def test_the_view_shows_each_item_in_pages(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add(method="POST", outcome={"status": "failed", "error": "NSFW content"}, times=1)
    rows = [{"prompt": f"fox {number}", "frame_num": 1} for number in range(61)]
    run = batch(tmp_path, Store(), inputs=rows, min_success=0.5)
    result = run.result()
    head = run.ti.xcoms["vace_view"]["batch"]
    assert (head["items"], head["pages"], head["counts"]["failed"]) == (61, 2, 1)
    assert (head["states"].count("s"), head["states"].count("f")) == (60, 1)
    assert head["manifest"] == result["manifest"]
    pages = [run.ti.xcoms[f"vace_view_page_{number:04d}"]["items"] for number in range(2)]
    assert [len(page) for page in pages] == [60, 1]
    (failed,) = [item for item in pages[0] if item["state"] == "f"]
    assert "NSFW content" in failed["error"]
    assert pages[1][0]["prediction"]["files"]


# --- waiting ---------------------------------------------------------------------------------------


def test_a_worker_wakes_for_a_quarter_of_the_room(slow_emulator: Emulator, tmp_path: Path) -> None:
    run = batch(tmp_path, Store(), deferrable=True, max_in_flight=8)
    seen: list[int] = []

    def between() -> None:
        seen.append(billed(slow_emulator))
        runs = list(slow_emulator.world.runs.values())
        for each in runs[: 2 * len(seen)] if len(runs) < 20 else runs:
            timeline = each.timeline
            timeline.boot = timeline.step = timeline.load = timeline.decode = 0.0

    assert run.result(between=between)["counts"]["succeeded"] == 20
    assert seen == [8, 10, 12, 14, 16, 18, 20]
    assert [row["wake_after"] for row in run.rows] == [2, 2, 2, 2, 2, 2, None]


def test_a_triggerer_saves_each_video_at_once(vendor: Emulator, tmp_path: Path) -> None:
    run = batch(tmp_path, Store(), deferrable=True, save_in="triggerer")
    assert run.result()["counts"]["succeeded"] == 20
    fetched = [seen for seen in vendor.requests if "_delivery" in seen.path]
    assert len(fetched) == 20


@pytest.mark.parametrize("save_in", ["worker", "triggerer"])
def test_each_instance_of_a_mapped_batch_saves_under_names_of_its_own(
    vendor: Emulator, tmp_path: Path, save_in: str
) -> None:
    for index in range(2):
        run = batch(tmp_path, Store(), inputs=["a fox", "an owl"], deferrable=True, save_in=save_in)
        run.ti.map_index = index
        assert run.result()["counts"]["succeeded"] == 2
    names = ["00000-0.mp4", "00000-1.mp4", "00001-0.mp4", "00001-1.mp4"]
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == names
    assert len([seen for seen in vendor.requests if "_delivery" in seen.path]) == 4


@pytest.mark.parametrize("save_in", ["worker", "triggerer"])
def test_the_manifest_beside_each_video_has_the_key_as_label(
    vendor: Emulator, tmp_path: Path, save_in: str
) -> None:
    rows = [{"sku": "TR-1", "prompt": "a fox"}]
    batch(tmp_path, Store(), inputs=rows, key="sku", deferrable=True, save_in=save_in).result()
    assert json.loads((tmp_path / "TR-1.mp4.json").read_text())["label"] == "TR-1"
    assert billed(vendor) == 1


def test_a_late_worker_finds_the_files_of_a_mapped_batch(
    vendor: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = support.tasks.event_of

    def late(*arguments: Any) -> Any:
        event = real(*arguments)
        forget(vendor)
        return event

    monkeypatch.setattr(support.tasks, "event_of", late)
    run = batch(tmp_path, Store(), inputs=["a fox"], deferrable=True, save_in="triggerer")
    run.ti.map_index = 0
    assert run.result()["counts"]["succeeded"] == 1
    assert billed(vendor) == 1


# --- saved videos of other runs --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("save_in", "deferrable"), [("worker", False), ("worker", True), ("triggerer", True)]
)
def test_a_second_run_pays_for_changed_inputs_only(
    vendor: Emulator, tmp_path: Path, save_in: str, *, deferrable: bool
) -> None:
    rows = [{"sku": f"TR-{number}", "prompt": f"fox {number}", "frame_num": 1} for number in range(20)]
    given: dict[str, Any] = {"inputs": rows, "key": "sku", "deferrable": deferrable, "save_in": save_in}
    batch(tmp_path, Store(), reuse="saved", **given).result()
    for number in (3, 7, 11):
        rows[number]["prompt"] = "an owl"
    run = batch(tmp_path, Store(), reuse="saved", **given)
    result = run.result()
    assert (result["counts"]["reused"], result["counts"]["succeeded"]) == (17, 3)
    assert billed(vendor) == 23
    assert [len(row["files"]) for row in rows_of(result)] == [1] * 20


@MODES
def test_a_clear_with_other_inputs_submits_all_of_them(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    rows = [{"sku": f"TR-{number}", "prompt": f"fox {number}", "frame_num": 1} for number in range(12)]
    run = batch(tmp_path, Store(), inputs=rows, key="sku", deferrable=deferrable, max_in_flight=4)
    first = {row["id"] for row in rows_of(run.result())}
    for row in rows:
        row["prompt"] = "an owl"
    second = {row["id"] for row in rows_of(run.cleared().result())}
    assert billed(vendor) == 24
    assert first.isdisjoint(second)


@MODES
def test_runs_that_share_a_directory_keep_their_own_results(
    fast_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    results = []
    for day in ("2026-11-01", "2026-11-02"):
        rows = [{"prompt": f"a fox on {day}", "frame_num": 1, "sku": f"fox-{day}"}]
        run = batch(tmp_path, Store(), inputs=rows, key="sku", deferrable=deferrable)
        run.ti.run_id = day
        results.append(run.result())
    assert [[row["key"] for row in rows_of(result)] for result in results] == [
        ["fox-2026-11-01"],
        ["fox-2026-11-02"],
    ]
    assert results[0]["manifest"] == f"file://{tmp_path}/d/2026-11-01/t.manifest.jsonl"
    assert billed(fast_emulator) == 2
