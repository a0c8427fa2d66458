"""The money of random histories: never above the cap, and accounted for to the cent.

`benchmarks/budget.py` plays ten thousand.
"""

from __future__ import annotations

import pytest
from airflow.sdk.execution_time import context

from support.histories import fault_of, history

pytestmark = pytest.mark.skipif(
    not hasattr(context, "NEVER_EXPIRE"), reason="Airflow 3.3 brings the task state store"
)


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.long) for first in range(40, 160, 40))]
)
def test_no_history_passes_its_cap_and_each_receipt_is_right(first: int) -> None:
    histories = {seed: history(seed) for seed in range(first, first + 40)}
    faults = {seed: fault for seed, each in histories.items() if (fault := fault_of(each))}
    assert not faults
    assert sum(each.predictions for each in histories.values()) > 40
    assert any(each.regenerated for each in histories.values())
    assert any(each.refused for each in histories.values())
    assert any(not each.is_unknown and each.spent for each in histories.values())
