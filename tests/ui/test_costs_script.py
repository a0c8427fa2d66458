"""Sums of costs in the script of the Videos tab, run by Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from airflow_vace import ui

SCRIPT = Path(ui.__file__).with_name("costs.js")
BY_SECOND = {"currency": "USD", "basis": "per_second"}
BY_RUN = {"currency": "USD", "basis": "per_run"}


@pytest.mark.parametrize(
    ("costs", "total"),
    [
        ([{**BY_RUN, "amount": "0.40"}, {**BY_RUN, "amount": "0.80"}], "$1.20"),
        ([{**BY_SECOND, "amount": None}], None),
        ([{**BY_SECOND, "amount": None}, {**BY_SECOND, "amount": None, "task": "0.42"}], "$0.42"),
        ([{**BY_RUN, "amount": "0.00", "saved": "0.40"}], "$0.00; 1 reused, saved $0.40"),
        (
            [{**BY_RUN, "amount": "0.80", "unpriced": 2}, {**BY_RUN, "amount": "0.40"}],
            "$1.20; 2 without a price",
        ),
    ],
)
def test_a_total_shows_no_unknown_cost_as_nothing(
    tmp_path: Path, costs: list[dict[str, Any]], total: str | None
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    # By this suffix each version of Node.js reads the file as a module.
    shutil.copy(SCRIPT, tmp_path / "costs.mjs")
    program = tmp_path / "program.mjs"
    entries = json.dumps([{"cost": cost} for cost in costs])
    program.write_text(
        f'import {{ totalsOf }} from "./costs.mjs";\nconsole.log(JSON.stringify(totalsOf({entries})));\n'
    )
    done = subprocess.run([node, program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == total
