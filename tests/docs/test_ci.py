"""CI on this machine, the workflow on GitHub and the nox sessions agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
if not (ROOT / ".github").exists():
    pytest.skip("the checkout is not here: the wheel is tested", allow_module_level=True)

WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]
SESSIONS = re.findall(r"^@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
# Benchmarks measure, and fuzzing never ends, so neither decides about a change here.
NOT_IN_CI = {"bench", "fuzz"}


def test_ci_runs_every_session() -> None:
    script = (ROOT / ".ci/run").read_text()
    (listed,) = re.findall(r"^sessions=\((.*)\)$", script, re.MULTILINE)
    # The README's command is the session `tests`, word for word; coverage follows all others.
    assert {*listed.split(), "tests", "coverage"} == set(SESSIONS) - NOT_IN_CI


def test_the_workflow_runs_every_session() -> None:
    rows = JOBS["sessions"]["strategy"]["matrix"]["include"]
    named = [name for row in rows for name in row["sessions"].split()]
    assert sorted([*named, "matrix", "bench"]) == sorted(SESSIONS)


def test_the_workflow_pins_actions_and_may_only_read() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    used = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name)] == []


def test_the_gate_needs_all_jobs() -> None:
    assert JOBS["gate"]["if"] == "always()"
    assert set(JOBS["gate"]["needs"]) == set(JOBS) - {"gate"}
