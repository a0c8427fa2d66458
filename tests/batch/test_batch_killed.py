"""A batch whose process is killed again and again: no item is paid twice, and none is lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.batch import read_manifest
from airflow_vace.emulator import Emulator
from support.batch_program import ITEMS
from support.supervisor import needs_airflow_3_3

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent.parent
# A process starts again after each kill, in some seconds, so a longer run sets another number.
KILLS = int(os.environ.get("VACE_KILLS", "2"))

# Earlier versions have no state store.
pytestmark = [pytest.mark.long, needs_airflow_3_3]


@pytest.fixture
def server() -> Iterator[Emulator]:
    """A server whose predictions take about a second."""
    with Emulator(time_scale=0.02) as running:
        yield running


def started(
    server: Emulator, folder: Path, attempt: int, backend: str, *, deferrable: bool, regenerates: bool = False
) -> Any:
    environment = {
        "AIRFLOW_CONN_VACE_DEFAULT": server.connection_to(backend=backend),
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "VACE_DEFERRABLE": str(int(deferrable)),
        "VACE_REGENERATES": str(int(regenerates)),
    }
    with (folder / f"{attempt}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "support.batch_program", str(folder), str(attempt)],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def kill_after(server: Emulator, process: Any, count: int) -> None:
    """Kill a process after a number of requests, unless the process ends before."""
    while len(server.requests) < count:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            return
    process.kill()
    process.wait()


@pytest.mark.parametrize(("backend", "deferrable"), [("replicate", True), ("gateway", False)])
def test_a_batch_that_is_killed_pays_for_each_item_once(
    server: Emulator, tmp_path: Path, backend: str, *, deferrable: bool
) -> None:
    chance = random.Random(f"{backend}{KILLS}")  # noqa: S311 - no secret
    (tmp_path / "videos").mkdir()
    for attempt in range(1, KILLS + 1):
        process = started(server, tmp_path, attempt, backend, deferrable=deferrable)
        # The moment of a kill is a number of requests: of creates, polls and downloads.
        kill_after(server, process, len(server.requests) + chance.randrange(1, 4 * ITEMS // KILLS + 8))
    process = started(server, tmp_path, KILLS + 1, backend, deferrable=deferrable)
    assert process.wait(180) == 0, (tmp_path / f"{KILLS + 1}.log").read_text()[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    paid = Counter(run.input["prompt"] for run in server.world.runs.values())
    assert max(paid.values()) == 1
    saved = {path.stem for path in (tmp_path / "videos").glob("*.mp4")}
    if backend == "replicate":
        assert result["counts"]["succeeded"] == len(paid) == len(saved) == ITEMS
        return
    # A gateway does not list its predictions, so a create that a kill has cut off stays unknown.
    unknown = ITEMS - len(saved)
    assert len(saved) <= len(paid) <= ITEMS
    assert unknown == 0 or f"{unknown} unknown" in result["error"]


def test_a_batch_that_is_killed_pays_for_each_rejected_clip_once(server: Emulator, tmp_path: Path) -> None:
    chance = random.Random(KILLS)  # noqa: S311 - no secret
    (tmp_path / "videos").mkdir()
    server.faults.add("black_video", times=6)
    given: dict[str, Any] = {"backend": "replicate", "deferrable": False, "regenerates": True}
    for attempt in range(1, KILLS + 1):
        process = started(server, tmp_path, attempt, **given)
        kill_after(server, process, len(server.requests) + chance.randrange(ITEMS // 2, 4 * ITEMS))
    process = started(server, tmp_path, KILLS + 1, **given)
    assert process.wait(180) == 0, (tmp_path / f"{KILLS + 1}.log").read_text()[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["counts"]["succeeded"] == ITEMS
    assert len(server.world.runs) == ITEMS + 6
    rows = list(read_manifest(result["manifest"]))
    rejected = [clip["id"] for row in rows for clip in row["rejected"]]
    assert len(set(rejected)) == len(rejected) == 6
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == ITEMS + 6
