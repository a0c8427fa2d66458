"""`checks="regenerate"` in a batch: each item gets its own further predictions, within one cap."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.batch import read_manifest
from airflow_vace.exceptions import LedgerError
from support.batches import batch, billed
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
MODES: dict[str, dict[str, Any]] = {
    "worker": {"deferrable": False},
    "deferred": {"deferrable": True},
    "triggerer": {"deferrable": True, "save_in": "triggerer"},
}
EACH_MODE = pytest.mark.parametrize("mode", MODES)
ROWS = [{"sku": f"TR-{number}", "prompt": f"fox {number}", "frame_num": 1} for number in range(4)]


@pytest.fixture
def vendor(fast_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    """A server with a list of predictions, and a price."""
    connect(fast_emulator.connection_to(backend="replicate", prices=PRICES))
    return fast_emulator


def clips(folder: Path, store: Store | None = None, **kwargs: Any) -> Run:
    given: dict[str, Any] = {"inputs": ROWS, "key": "sku", "checks": "regenerate", **kwargs}
    return batch(folder, store, **given)


def rows_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in read_manifest(result["manifest"])}


def path_of(uri: str) -> Path:
    return Path(urlsplit(uri).path)


def paid(server: Emulator) -> Counter[str]:
    return Counter(run.input["prompt"] for run in server.world.runs.values())


def failure_of(task: Run) -> str:
    with pytest.raises(AirflowFailException) as caught:
        task.result()
    return str(caught.value)


@EACH_MODE
def test_good_clips_take_the_places_of_black_ones(vendor: Emulator, tmp_path: Path, mode: str) -> None:
    vendor.faults.add("black_video", times=2)
    task = clips(tmp_path, Store(), **MODES[mode])
    result = task.result()
    assert result["counts"]["succeeded"] == 4
    assert result["cost"]["amount"] == "2.40"
    rows = rows_of(result)
    bad = [row for row in rows.values() if row["rejected"]]
    assert len(bad) == 2
    assert billed(vendor) == 6
    for row in bad:
        (rejected,) = row["rejected"]
        assert path_of(row["files"][0]["uri"]) == tmp_path / f"{row['key']}.mp4"
        assert row["files"][0]["facts"]["problems"] == []
        assert path_of(rejected["uri"]) == tmp_path / f"{row['key']}-{rejected['id']}.mp4"
        assert json.loads(Path(f"{path_of(rejected['uri'])}.json").read_text())["id"] == rejected["id"]
        assert rejected["problems"] == ["100% of the frames are black (limit: 20%)."]
        assert rejected["seed"] != row["seed"]
        assert row["cost"]["task"] == "0.80"
        assert rejected["cost"]["amount"] == "0.40"
    creates = [paid(vendor)[str(row["prompt"])] for row in ROWS]
    assert [len(row["rejected"]) for row in rows.values()] == [count - 1 for count in creates]
    again = rows_of(task.cleared().result())
    assert {key: (row["files"], row["rejected"]) for key, row in again.items()} == {
        key: (row["files"], row["rejected"]) for key, row in rows.items()
    }
    assert billed(vendor) == 6


@EACH_MODE
def test_an_item_without_a_good_clip_fails_alone(vendor: Emulator, tmp_path: Path, mode: str) -> None:
    vendor.faults.add("black_video", times=None)
    given: dict[str, Any] = {"inputs": ROWS[:2], "max_regenerations": 2, **MODES[mode]}
    task = clips(tmp_path, Store(), **given)
    failure = failure_of(task)
    assert "0 of 2 items succeeded" in failure
    assert "No retry can improve these" in failure
    assert "3 clips have problems" in failure
    assert set(paid(vendor).values()) == {3}
    assert len(list(tmp_path.glob("TR-*.mp4"))) == 6
    failure_of(task.retried())
    assert billed(vendor) == 6
    vendor.faults.clear()
    task.make = clips(tmp_path, **{**given, "max_regenerations": 3}).make
    rows = rows_of(task.cleared().result())
    assert [len(row["rejected"]) for row in rows.values()] == [3, 3]
    assert billed(vendor) == 8


@EACH_MODE
def test_regenerations_stay_below_the_cap_of_the_batch(vendor: Emulator, tmp_path: Path, mode: str) -> None:
    vendor.faults.add("black_video", times=4)
    task = clips(tmp_path, Store(), max_cost="2.00", min_success=0, **MODES[mode])
    result = task.result()
    assert billed(vendor) == 5
    assert result["cost"]["amount"] == "2.00"
    assert (result["counts"]["succeeded"], result["counts"]["failed"]) == (1, 3)
    failed = [row for row in rows_of(result).values() if row["status"] == "failed"]
    assert all("black" in row["error"] for row in failed)
    assert all("would pass max_cost=$2.00" in row["error"] for row in failed)
    assert all(path_of(row["files"][0]["uri"]).exists() for row in failed)
    task.make = clips(tmp_path, max_cost="3.20", **MODES[mode]).make
    assert task.cleared().result()["counts"]["succeeded"] == 4
    assert billed(vendor) == 8


def test_new_items_and_regenerations_share_the_room_in_flight(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add("black_video", times=3)
    result = clips(tmp_path, Store(), deferrable=True, max_in_flight=1, max_regenerations=3).result()
    assert result["counts"]["succeeded"] == 4
    assert billed(vendor) == 7


def test_without_a_state_store_one_attempt_regenerates_too(vendor: Emulator, tmp_path: Path) -> None:
    for number, mode in enumerate(MODES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        vendor.faults.add("black_video", times=2)
        result = clips(folder, durable=False, **mode).result()
        assert sum(len(row["rejected"]) for row in rows_of(result).values()) == 2
    assert billed(vendor) == 18


def test_a_column_named_rejected_stays_beside_the_member(vendor: Emulator, tmp_path: Path) -> None:
    rows = [{**row, "rejected": "last year"} for row in ROWS]
    found = rows_of(clips(tmp_path, Store(), inputs=rows).result())
    assert {row["columns.rejected"] for row in found.values()} == {"last year"}
    assert [row["rejected"] for row in found.values()] == [[]] * 4
    assert billed(vendor) == 4


class Mortal(Store):
    """A store that is out of reach from one of its writes on, before or after the write takes effect."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.writes = 0
        self.is_dead = False

    def get(self, key: str) -> Any:
        self._check()
        return super().get(key)

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self._check()
        self.writes += 1
        self.is_dead = self.writes == abs(self.at)
        if not (self.is_dead and self.at > 0):
            super().set(key, value, retention=retention)
        self._check()

    def _check(self) -> None:
        if self.is_dead:
            raise RuntimeError("the process is dead")


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_batch_that_ends_at_any_write_pays_for_each_clip_once(
    vendor: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    for number in (2, -2, 3, -3, 4, -4, 5, -5, 6, -6):
        folder = tmp_path / str(number)
        folder.mkdir()
        vendor.faults.clear()
        vendor.faults.add("black_video", times=1)
        before = billed(vendor)
        values = [{**ROWS[0], "prompt": f"fox {number}"}]
        store = Mortal(number)
        task = clips(folder, store, inputs=values, deferrable=deferrable)
        try:
            result = task.result()
        except LedgerError:
            assert store.is_dead
            store.is_dead = False
            result = task.retried().result()
        (row,) = rows_of(result).values()
        assert (row["status"], len(row["rejected"])) == ("succeeded", 1), number
        assert billed(vendor) - before == 2, number
