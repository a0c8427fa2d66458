"""Batches of small videos for tests, with what their authors see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from airflow_vace.operators import VaceBatchOperator
from support.tasks import Run

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator
    from support.tasks import Store

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def batch(folder: Path, store: Store | None = None, **kwargs: Any) -> Run:
    """Return a task with 20 items, which saves to a folder."""
    rows = [{"prompt": f"fox {number}", "frame_num": 1} for number in range(20)]
    given: dict[str, Any] = {"inputs": rows, "save_to": f"{folder}/", **kwargs}
    return Run(lambda: VaceBatchOperator(task_id="t", **given), store)


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a batch's manifest."""
    text = Path(urlsplit(result["manifest"]).path).read_text()
    return [json.loads(line) for line in text.splitlines()]


def billed(server: Emulator) -> int:
    return len(server.bill["predictions"])
