"""CI on this machine, the workflow on GitHub and the nox sessions agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
if not (ROOT / ".github").exists():
    pytest.skip("the checkout is not here: the wheel is tested", allow_module_level=True)

WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
RELEASE: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]
SESSIONS = re.findall(r"^@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
# Benchmarks measure, and fuzzing never ends, so neither decides about a change here.
NOT_IN_CI = {"bench", "fuzz"}


def test_ci_runs_every_session() -> None:
    script = (ROOT / ".ci/run").read_text()
    (listed,) = re.findall(r"^sessions=\((.*)\)$", script, re.MULTILINE)
    names = {name.partition(":")[0] for name in listed.split()}
    # The README's command is the session `tests`, word for word; coverage follows all others.
    assert {*names, "tests", "coverage"} == set(SESSIONS) - NOT_IN_CI


def test_ci_and_nox_test_the_same_versions_of_airflow() -> None:
    (edges,) = re.findall(r"^EDGES = \((.*)\)$", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    listed = re.findall(r"\bmatrix:(\S+:[\d.]+)", (ROOT / ".ci/run").read_text().partition("sessions=(")[2])
    assert listed == re.findall(r'"([^"]+)"', edges)


def test_the_workflow_runs_every_session() -> None:
    rows = JOBS["sessions"]["strategy"]["matrix"]["include"]
    named = [name for row in rows for name in row["sessions"].split()]
    assert sorted([*named, "matrix", "bench"]) == sorted(SESSIONS)


def test_the_workflows_pin_actions_and_may_only_read() -> None:
    for workflow in (WORKFLOW, RELEASE):
        assert workflow["permissions"] == {"contents": "read"}
        steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
        used = [step["uses"] for step in steps if "uses" in step]
        assert used
        assert [name for name in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name)] == []


def test_the_gate_needs_all_jobs() -> None:
    assert JOBS["gate"]["if"] == "always()"
    assert set(JOBS["gate"]["needs"]) == set(JOBS) - {"gate"}


def test_only_the_job_without_a_build_may_publish() -> None:
    publish = RELEASE["jobs"]["publish"]
    assert publish["environment"] == "release"
    assert publish["permissions"] == {"id-token": "write"}
    assert [step for step in publish["steps"] if "run" in step] == []
    assert "packages" not in str([job["permissions"] for job in RELEASE["jobs"].values()])


def test_a_release_names_the_repository_in_readme_and_metadata(tmp_path: Path) -> None:
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    url = "https://example.com/owner/name"
    program = str(ROOT / ".github/absolute_links.py")
    subprocess.run([sys.executable, program, url, "v9"], cwd=tmp_path, check=True)
    readme = (tmp_path / "README.md").read_text()
    assert re.findall(r"\]\((?!https?:)[^)]+\)", readme) == []
    assert f"]({url}/blob/v9/docs/first-video.md)" in readme
    assert f"]({url}/raw/v9/docs/images/gallery.webp)" in readme
    assert f"$ git clone {url} &&" in readme
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Repository"] == url


def test_the_changelog_is_one_that_the_release_reads() -> None:
    titles = re.findall(r"^##+ (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles[0] == "[Unreleased]"
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for title in titles[1:]:
        assert title in known or re.fullmatch(r"\[\d+\.\d+\.\d+\] - 20\d\d-\d\d-\d\d", title), title
