"""Output of the programs: moving in a terminal, plain in a pipe, with the words whole in each width."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.terminals import COLOR, plain, terminal

if TYPE_CHECKING:
    from pathlib import Path

STEPS = """
import time
from airflow_vace.terminal import Steps, new_console
with Steps(new_console()) as steps:
    steps.begin("Preparing")
    time.sleep(0.3)
    steps.done("Prepared [all]")
    steps.begin("Prediction processing")
    for percent in (0, 4, 10, 42):
        steps.update(f"{percent} %, step {percent // 2} of 50, {60 - percent} s left", percent)
    time.sleep(0.3)
    steps.done("Succeeded")
"""
FAILING = """
from airflow_vace.terminal import Steps, new_console
with Steps(new_console()) as steps:
    steps.begin("Preparing")
    raise SystemExit(3)
"""
PROMPT = "An extraordinarily slow lighthouse keeper polishes the enormous lamp while gulls circle outside"
REPORT = """
import pathlib, sys
from airflow_vace.demo.report import print_report
from airflow_vace.terminal import new_console
path = pathlib.Path(sys.argv[1])
conf = {"prompt": sys.argv[2], "seed": 7, "speed": "lightly"}
print_report(new_console(), conf, path, seconds=41.2, is_emulated=True)
"""


def in_pipe(code: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    found = subprocess.run(command, capture_output=True, check=False, env=os.environ | environment)
    return found.stdout.decode()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from airflow_vace.emulator.video import draw

    path = tmp_path_factory.mktemp("a_rather_long_name_of_a_directory") / f"{'wait-' * 12}.mp4"
    draw(path, prompt="a fox", seed=7, size=(64, 64), frames=3)
    return path


def test_a_terminal_shows_a_moving_line_and_then_a_check_mark() -> None:
    with terminal("-c", STEPS) as running:
        written = running.read_to_end()
    assert COLOR.search(written)
    assert sum(frame in written for frame in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏") >= 2
    shown = plain(written)
    assert "✓ Prepared [all]\n" in shown
    assert "42 %, step 21 of 50, 18 s left" in shown
    assert "0:00" in shown
    assert shown.split()[-2:] == ["✓", "Succeeded"]
    # The cursor is back.
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_moving_line_fits_the_terminal(columns: int) -> None:
    with terminal("-c", STEPS, columns=columns) as running:
        lines = plain(running.read_to_end()).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= columns
    bars = [line for line in lines if "Prediction processing" in line and ("━" in line or "╸" in line)]
    assert bool(bars) == (columns >= 80)
    assert all("42 %, step 21 of 50, 18 s left" in line for line in bars[-1:])


def test_no_color_keeps_the_motion_and_drops_the_colours() -> None:
    with terminal("-c", STEPS, NO_COLOR="1") as running:
        written = running.read_to_end()
    assert not COLOR.search(written)
    assert "✓ Prepared [all]" in plain(written)


def test_a_pipe_gets_a_line_for_each_step_and_each_tenth() -> None:
    assert in_pipe(STEPS).splitlines() == [
        "Preparing …",
        "✓ Prepared [all]",
        "Prediction processing …",
        "  0 %, step 0 of 50, 60 s left",
        "  10 %, step 5 of 50, 50 s left",
        "  42 %, step 21 of 50, 18 s left",
        "✓ Succeeded",
    ]


def test_a_terminal_that_cannot_redraw_is_like_a_pipe() -> None:
    with terminal("-c", STEPS, TERM="dumb") as running:
        assert "Preparing …\n✓ Prepared [all]\n" in plain(running.read_to_end())


def test_an_output_without_unicode_gets_plain_marks() -> None:
    shown = in_pipe(STEPS, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "Preparing ...\n+ Prepared [all]\n" in shown
    code = "from airflow_vace.terminal import new_console; new_console().print('a \u72d0')"
    assert in_pipe(code, PYTHONIOENCODING="ascii", PYTHONUTF8="0") == "a ?\n"


def test_a_failed_step_is_marked() -> None:
    with terminal("-c", FAILING) as running:
        assert plain(running.read_to_end()).endswith("✗ Preparing\n")
        assert running.process.returncode == 3


@pytest.mark.parametrize("columns", [80, 120])
def test_the_report_breaks_no_word_and_links_the_path(video: Path, columns: int) -> None:
    with terminal("-c", REPORT, str(video), PROMPT, columns=columns) as running:
        written = running.read_to_end()
    assert f";{video.as_uri()}\x1b\\" in written
    shown = plain(written)
    # The terminal wraps the path, so that the path is one line for a copy.
    assert str(video) in shown.splitlines()
    for word in PROMPT.split():
        assert word in shown
    others = [line for line in shown.splitlines() if line != str(video)]
    assert max(map(len, others)) <= columns
    for said in (
        "64x64, 3 frames, 0.19 s at 16 fps, seed 7, speed lightly",
        "41 s",
        "$0 (emulator); the real model about $0.40",
        "vace-demo --ui",
        "vace-demo --conn-id CONN_ID",
    ):
        assert said in shown


def test_the_report_in_a_pipe_has_no_control_characters(video: Path) -> None:
    long = "a cat [in brackets] " + "sleeps " * 40 + "well"
    shown = in_pipe(REPORT, str(video), long)
    assert "\x1b" not in shown
    assert f"Prompt:  {long}" in shown.splitlines()
    assert not [line for line in shown.splitlines() if line != line.rstrip()]
    assert str(video) in shown.splitlines()


def test_the_next_commands_are_those_of_uv_where_uv_runs_the_demo(video: Path) -> None:
    shown = in_pipe(REPORT, str(video), "a fox", UV_RUN_RECURSION_DEPTH="1")
    assert "uv run vace-demo --ui" in shown
