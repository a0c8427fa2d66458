"""The pages of `docs/`: all code blocks run, and all links have a target."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.throwaway import free_port
from support.films import MP4
from support.stores import files_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, kind, text) for page, whole in PAGES.items() for _, kind, text in BLOCK.findall(whole)]
DAGS = [(page, text) for page, kind, text in BLOCKS if kind == "python" and "with DAG(" in text]


def blocks(page: str, kind: str) -> list[str]:
    return [text for where, what, text in BLOCKS if (where, what) == (page, kind)]


def test_each_block_is_of_a_tested_kind() -> None:
    assert {kind for _, kind, _ in BLOCKS} == {"python", "bash"}
    run = {
        "first-video",
        "s3-to-s3",
        "many-videos",
        "a-thousand-videos",
        "review",
        "cost-and-retries",
        "testing",
        "from-httpoperator",
        "production",
    }
    assert {page for page, _, _ in BLOCKS} == run == set(PAGES) - {"README"}


@pytest.mark.parametrize(
    ("page", "number", "charged"),
    [
        ("s3-to-s3", 0, 2),
        ("many-videos", 0, 3),
        ("a-thousand-videos", 0, 3),
        ("cost-and-retries", 0, 1),
        ("from-httpoperator", 0, 1),
        ("from-httpoperator", 1, 1),
    ],
)
def test_the_dags_run(  # noqa: PLR0917 - pytest gives them by name
    fast_emulator: Emulator,
    airflow_db: str,
    memory: Any,
    connect: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    number: int,
    charged: int,
) -> None:
    for name in ("a.mp4", "b.mp4"):
        memory.pipe_file(f"/my-bucket/in/{name}", MP4)
    connect(fast_emulator.connection)
    host = fast_emulator.url.replace("http://", "http://:vace-emulator-key@")
    monkeypatch.setenv("AIRFLOW_CONN_VACE_HTTP", host)
    path = Path(airflow_db).parent / "dags" / f"{page}_{number}.py"
    run = runpy.run_path(str(path))["dag"].test()
    assert {str(ti.state) for ti in run.get_task_instances()} == {"success"}
    assert fast_emulator.bill["charged"] == charged
    if page == "s3-to-s3":
        assert len([name for name in files_in(memory) if name.endswith(".mp4") and "/out/" in name]) == 2


def test_no_dag_is_left_out() -> None:
    assert sorted(page for page, text in DAGS if "def test_" not in text) == [
        *("a-thousand-videos", "cost-and-retries", "cost-and-retries", "from-httpoperator"),
        *("from-httpoperator", "many-videos", "s3-to-s3"),
    ]


def test_the_tests_pass(tmp_path: Path) -> None:
    (tmp_path / "test_blocks.py").write_text("\n\n".join(blocks("testing", "python")))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        str(tmp_path),
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "4 passed" in found.stdout, found.stdout


def test_the_dag_that_runs_each_night_pays_once(
    fast_emulator: Emulator, airflow_db: str, connect: Callable[[str], None]
) -> None:
    connect(fast_emulator.connection)
    dag = runpy.run_path(str(Path(airflow_db).parent / "dags" / "cost-and-retries_1.py"))["dag"]
    for _ in range(2):
        assert {str(ti.state) for ti in dag.test().get_task_instances()} == {"success"}
    assert fast_emulator.bill["charged"] == 1


def test_the_page_on_reviews_shows_lines_of_the_tested_dag() -> None:
    dag = (ROOT / "dags" / "vace_review.py").read_text()
    shown = blocks("review", "python")
    assert len(shown) == 2
    for block in shown:
        for line in block.splitlines():
            assert line.strip() in dag


def bash(script: str, environment: dict[str, str]) -> str:
    # `airflow` and `vace-emulator` are those beside this Python.
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    found = subprocess.run(
        ["bash", "-euc", script],
        env=environment | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_commands_work(airflow_db: str) -> None:
    assert airflow_db
    for page, pool in (("many-videos", "vace"), ("production", "account-a")):
        (command,) = blocks(page, "bash")
        bash(command, dict(os.environ))
        assert pool in bash(f"airflow pools get {pool} -o plain", dict(os.environ))


def test_installed_packages_are_in_the_project_file() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    installed = [
        wanted
        for _, kind, text in BLOCKS
        if kind == "bash"
        for wanted in re.findall(r"'([a-z-]+)(?:\[\w+\])?(?:>=[\d.]+)?'", text)
    ]
    assert {"apache-airflow", "airflow-provider-vace", "apache-airflow-providers-amazon"} == set(installed)
    assert all(name in project for name in installed)


@pytest.mark.standalone
@pytest.mark.skipif("VACE_STANDALONE" not in os.environ, reason="VACE_STANDALONE is not set: takes a minute")
def test_the_commands_of_the_first_page_make_a_video(tmp_path: Path) -> None:
    install, server, migrate, dag, run, show = blocks("first-video", "bash")
    assert "pip install" in install
    assert "airflow standalone" in show
    port = str(free_port())
    clips = tmp_path / "clips"
    typed = f"{server}\nsleep 5\n{migrate}\n{dag}\n{run}\nkill %1"
    typed = typed.replace("8642", port).replace("/tmp/clips", str(clips))  # noqa: S108 - as on the page
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    out = bash(typed, plain | {"AIRFLOW_HOME": str(tmp_path / "airflow"), "NO_PROXY": "127.0.0.1"})
    assert "Connection success" in out
    (video,) = clips.rglob("*.mp4")
    assert str(video) in out


def test_links_between_the_pages_have_targets() -> None:
    known = {path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
    for path, text in known.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            name, _, anchor = target.partition("#")
            found = (path.parent / name).resolve() if name else path
            assert found.exists(), f"{path.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", known[found], re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles], target
