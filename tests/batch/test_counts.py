"""Log lines of a batch's progress."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from airflow_vace.batch import counts
from airflow_vace.batch.items import Item, State

if TYPE_CHECKING:
    import pytest


def test_skipped_items_do_not_raise_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    lines: list[str] = []
    monkeypatch.setattr(counts, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    items = [Item(position=number, key=str(number), row=None, columns={}) for number in range(20)]
    log = SimpleNamespace(info=lambda text, *values: lines.append(text % values))
    progress = counts.Progress(items, log)
    clock[0] = 60.0
    for item in items:
        item.state = State.SUCCEEDED if item.position < 5 else State.SKIPPED
    assert progress.note()
    assert lines == ["20 of 20 items have ended (5 succeeded, 15 skipped), 5 a minute"]
