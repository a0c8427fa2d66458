"""The demo as a program: one video, its report, a whole Airflow, and ends of all kinds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import av
import pytest
from airflow.models.connection import Connection
from requests import get

from airflow_vace import demo, throwaway
from airflow_vace.client.settings import Settings
from airflow_vace.demo.ui import copy_dags, emulator_connection, make_library
from airflow_vace.demo.watch import Sight, logged
from airflow_vace.emulator import Emulator
from airflow_vace.emulator.video import draw
from support.terminals import plain, terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


STANDALONE = pytest.mark.skipif(
    "VACE_STANDALONE" not in os.environ, reason="VACE_STANDALONE is not set: takes minutes"
)


def copy_of(database: str) -> Callable[[dict[str, str], Path], None]:
    """Return a migration that copies a database: the real one takes longer than the rest of the demo."""

    def copy(environment: dict[str, str], log: Path) -> None:
        assert not log.exists()
        shutil.copy(database, environment["AIRFLOW_HOME"])

    return copy


@contextlib.contextmanager
def start(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo as a program, which ends with the block."""
    command = [sys.executable, "-m", "airflow_vace.demo", *arguments]
    # A shell's background job ignores SIGINT, and its child processes inherit that, but no handler. A
    # function between fork and exec could wait forever for a lock of another thread.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "200", **environment},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


def temporary_leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.standalone
@STANDALONE
def test_the_demo_makes_a_video_and_leaves_no_other_files(tmp_path: Path) -> None:
    videos, temporary = tmp_path / "videos", tmp_path / "tmp"
    temporary.mkdir()
    arguments = ("--save-to", str(videos), "--prompt", "a cat [in brackets]", "--size", "480*832")
    with start(*arguments, TMPDIR=str(temporary)) as process:
        out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    (path,) = videos.rglob("*.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (480, 832, 81)
        assert stream.average_rate == 16
    for said in (
        "a cat [in brackets]",
        f"\n{path}\n",
        "480x832, 81 frames, 5.06 s at 16 fps, seed 7, speed lightly",
        "$0 (emulator); the real model about $0.40",
        "  100 %, step 50 of 50, 0 s left",
        f"✓ Prediction {path.stem.partition('-')[2]} has succeeded",
    ):
        assert said in out
    assert "\x1b" not in out
    assert temporary_leftovers(temporary) == []


@pytest.mark.dags
def test_with_a_connection_it_asks_before_it_pays(tmp_path: Path) -> None:
    with Emulator() as emulator:
        arguments = ("--conn-id", "my_gateway", "--save-to", str(tmp_path))
        with start(*arguments, AIRFLOW_CONN_MY_GATEWAY=emulator.connection) as process:
            _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "nothing is billed" in err
        assert emulator.requests == []


@pytest.mark.standalone
@STANDALONE
def test_with_a_connection_and_a_yes_it_pays_once(
    airflow_db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = demo.Setup(migrate=copy_of(airflow_db))
    with Emulator(time_scale=0.01) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MY_GATEWAY", emulator.connection)
        assert demo.main(["--conn-id", "my_gateway", "--yes", "--save-to", str(tmp_path)], setup) == 0
        assert emulator.bill["charged"] == 1
    assert "about $0.40 for 1 prediction; the vendor's bill decides" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.dags
@pytest.mark.parametrize(
    ("options", "action"),
    [([], "makes one prediction, about $0.40,"), (["--ui"], "lets you start predictions, about $0.40 each,")],
)
def test_the_question_names_what_is_paid(
    options: list[str], action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(question: str) -> str:
        asked.append(question)
        return "n"

    monkeypatch.setattr("builtins.input", refuse)
    with Emulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MY_GATEWAY", emulator.connection)
        assert demo.main(["--conn-id", "my_gateway", "--save-to", str(tmp_path), *options]) == 1
        assert emulator.requests == []
    assert asked == [f"This {action} over 'my_gateway'. Go on? [y/N] "]


def test_the_report_names_the_seed_that_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "a.mp4"
    draw(video, prompt="a fox", seed=5, size=(64, 48), frames=5)
    found = {"state": "success", "prediction": {"seed": 5, "files": [{"uri": f"file://{video}"}]}}
    monkeypatch.setattr(demo, "watch", lambda *_: found)
    setup = demo.Setup(migrate=lambda *_: None)
    assert demo.main(["--seed", "-1", "--save-to", str(tmp_path)], setup) == 0
    assert "5 frames, 0.31 s at 16 fps, seed 5, speed lightly" in capsys.readouterr().out


@pytest.mark.dags
def test_a_missing_connection_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert demo.main(["--conn-id", "no_such", "--save-to", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "The conn_id `no_such` isn't defined. Add it with 'airflow connections add no_such" in said


@pytest.mark.standalone
@STANDALONE
def test_a_run_that_fails_shows_why_and_keeps_its_log(
    airflow_db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_credit() -> Emulator:
        emulator = Emulator(time_scale=0.12)
        emulator.faults.add(method="POST", status=402, body={"detail": "no credit"})
        return emulator

    setup = demo.Setup(migrate=copy_of(airflow_db), new_emulator=without_credit)
    assert demo.main(["--save-to", str(tmp_path)], setup) == 1
    assert "the DAG run is failed; its log is in" in capsys.readouterr().err
    assert "no credit" in (tmp_path / "vace-demo.log").read_text()


def test_the_error_for_a_missing_library_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert demo.main(["--save-to", str(tmp_path)]) == 1
    assert "pip install 'airflow-provider-vace[emulator]'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert demo.main(["--save-to", str(tmp_path / "file" / "videos")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--prompt", " "], ["--size", "640x480"], ["--port", "99999"]])
def test_wrong_options_are_refused_at_once(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator() as emulator:
        assert demo.main(["--ui", "--port", str(emulator.port)]) == 1
    assert f"port {emulator.port} is taken" in capsys.readouterr().err


def test_an_early_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    with start("--save-to", str(tmp_path / "videos"), TMPDIR=str(tmp_path)) as process:
        while not list(tmp_path.glob("vace-demo-*/demo.log")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "all that it started has ended" in err
    assert temporary_leftovers(tmp_path) == ["videos"]


def test_an_early_ctrl_c_in_a_terminal_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    arguments = ("-m", "airflow_vace.demo", "--save-to", str(tmp_path / "videos"))
    with terminal(*arguments, TMPDIR=str(tmp_path)) as running:
        running.read_until("Preparing a throw-away Airflow")
        running.press(b"\x03")
        written = running.read_to_end()
        assert running.process.returncode == 130
    assert plain(written).startswith("vace-demo: a video by an Airflow DAG and the emulator, at no cost\n")
    assert "✗ Preparing a throw-away Airflow (SQLite)" in plain(written)
    assert "all that it started has ended" in plain(written)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert temporary_leftovers(tmp_path) == ["videos"]


def test_a_ctrl_c_while_the_emulator_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from airflow_vace import demo
from airflow_vace.emulator import Emulator

class Interrupted(Emulator):
    async def start(self):
        await super().start()
        os.kill(os.getpid(), signal.SIGINT)

sys.exit(demo.main(["--save-to", sys.argv[1]], demo.Setup(new_emulator=Interrupted)))
"""
    with terminal("-c", code, str(tmp_path / "videos"), TMPDIR=str(tmp_path)) as running:
        written = plain(running.read_to_end())
        assert running.process.returncode == 130
    assert "all that it started has ended" in written
    assert "Traceback" not in written
    assert temporary_leftovers(tmp_path) == ["videos"]


def test_a_closed_terminal_ends_all_processes(tmp_path: Path) -> None:
    arguments = ("-m", "airflow_vace.demo", "--save-to", str(tmp_path / "videos"))
    with terminal(*arguments, TMPDIR=str(tmp_path)) as running:
        running.read_until("Preparing a throw-away Airflow")
        while not list(tmp_path.glob("vace-demo-*/demo.log")):
            assert running.process.poll() is None
        running.hang_up()
        running.process.wait(timeout=60)
    assert temporary_leftovers(tmp_path) == ["videos"]


def test_the_first_line_needs_neither_airflow_nor_an_http_client() -> None:
    code = "import sys, airflow_vace.demo, rich.live; print({name.split('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in ("'airflow'", "'aiohttp'", "'requests'") if name in found.stdout]


def test_progress_of_a_real_back_end_is_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    assert logged(log) is None
    log.write_text("Submitted prediction abc of prunaai/vace-14b (starting)\n")
    assert logged(log) == Sight("abc", "starting")
    with log.open("a") as file:
        file.write("Prediction abc: processing\n")
    assert logged(log) == Sight("abc", "processing")
    with log.open("a") as file:
        file.write("Prediction abc: processing, 12 %, step 6 of 50\n")
        file.write("Prediction abc: processing, 40 %, step 20 of 50, 1.57 s a step, 48 s left\n")
    sight = logged(log)
    assert sight is not None
    assert sight.words == "40 %, step 20 of 50, 48 s left"
    with log.open("a") as file:
        file.write("Prediction abc: succeeded\n")
    assert getattr(logged(log), "status", None) == "succeeded"


def test_the_connection_of_the_ui_has_host_and_port_apart(tmp_path: Path) -> None:
    with Emulator() as emulator:
        made = json.loads(emulator_connection(emulator, tmp_path))
        assert (made["host"], made["port"]) == ("http://127.0.0.1", emulator.port)
        connection = Connection(conn_id="mine", **(made | {"extra": json.dumps(made["extra"])}))
        assert Settings.of(connection, connection.extra_dejson).api.base_url == emulator.url


def test_the_ui_has_a_local_library_to_restyle(tmp_path: Path) -> None:
    make_library(tmp_path / "library")
    clips = sorted((tmp_path / "library").glob("*.mp4"))
    assert len(clips) == 3
    stamps = [clip.stat().st_mtime_ns for clip in clips]
    make_library(tmp_path / "library")
    assert [clip.stat().st_mtime_ns for clip in clips] == stamps
    dags = copy_dags(tmp_path / "dags", tmp_path / "library")
    assert f'"file://{tmp_path}/library/"' in (dags / "vace_restyle_library.py").read_text()
    names = {path.name for path in throwaway.dags_folder().iterdir()} - {"__pycache__"}
    assert {path.name for path in dags.iterdir()} == names


def test_an_airflow_that_is_not_on_the_path_is_named_at_once(tmp_path: Path) -> None:
    environment = throwaway.environment_for(tmp_path)
    throwaway.find_airflow(environment)
    with pytest.raises(throwaway.DemoError, match=r"`airflow` is neither in .* nor on the PATH"):
        throwaway.find_airflow(environment | {"PATH": str(tmp_path)})


def test_a_part_of_airflow_that_ends_ends_the_wait(tmp_path: Path) -> None:
    # As `airflow standalone` does, this program starts a part and never asks for its end.
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'print(\"no port\")']);"
        " time.sleep(60)"
    )
    log = tmp_path / "log"
    with (
        throwaway.started([sys.executable, "-c", code], dict(os.environ), log) as process,
        pytest.raises(throwaway.DemoError, match=r"a part of Airflow ended while it started:\nno port"),
    ):
        throwaway.wait_until_healthy("http://127.0.0.1:1", process, log)


def test_the_dags_are_found_in_the_checkout_and_in_a_wheel(tmp_path: Path) -> None:
    assert (throwaway.dags_folder() / "vace_text_to_video.py").is_file()
    (tmp_path / "example_dags").mkdir()
    assert throwaway.dags_folder(tmp_path) == tmp_path / "example_dags"


@pytest.mark.standalone
@STANDALONE
def test_an_airflow_that_ends_early_is_an_error_with_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "airflow.log"
    with (
        throwaway.started([sys.executable, "-c", "print('no database')"], dict(os.environ), log) as process,
        pytest.raises(throwaway.DemoError, match="no database"),
    ):
        throwaway.wait_until_healthy("http://127.0.0.1:1", process, log)
    with pytest.raises(throwaway.DemoError, match="airflow no such failed"):
        throwaway.run_airflow(["no", "such"], dict(os.environ), log)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    with throwaway.started([sys.executable, "-c", code], dict(os.environ), log) as process:
        while "ready" not in log.read_text():
            assert process.poll() is None
        throwaway.end_group(process, patience=0.3)
        assert process.returncode == -signal.SIGKILL


@pytest.mark.standalone
@STANDALONE
def test_the_ui_has_dags_and_a_connection_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    with start("--ui", TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        address = ""
        for line in process.stdout:
            if line.startswith("Airflow:"):
                address = line.split()[1]
            if "Press Ctrl-C" in line:
                break
        assert address, process.stderr and process.stderr.read()
        token = get(f"{address}/auth/token", timeout=30).json()["access_token"]
        ask: Callable[[str], Any] = lambda path: json.loads(  # noqa: E731 - short for the next lines
            get(f"{address}/api/v2{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30).text
        )
        files = (
            *("vace_campaign", "vace_campaign_taskflow", "vace_restyle_library", "vace_restyled_catalog"),
            *("vace_catalogue", "vace_long_shot", "vace_review", "vace_text_to_video"),
            *("vace_until_good", "vace_vertical"),
        )
        until = time.monotonic() + 60
        while ask("/dags")["total_entries"] < len(files) and time.monotonic() < until:
            time.sleep(1)
        dags = {dag["dag_id"]: dag["is_paused"] for dag in ask("/dags")["dags"]}
        assert dags == dict.fromkeys(files, False)
        assert ask("/connections/vace_default")["conn_type"] == "vace"
        assert ask("/importErrors")["total_entries"] == 0
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert temporary_leftovers(tmp_path) == []
