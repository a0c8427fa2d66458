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
from requests import get

from airflow_vace import demo, throwaway
from airflow_vace.emulator import Emulator

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
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores SIGINT, and its child processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
        env=os.environ | {"COLUMNS": "200", **environment},
    ) as process:
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
        "'a cat [in brackets]', 480*832, seed 7, lightly",
        path.stem,
        str(path),
        "480x832, 81 frames, 5.06 s at 16 fps",
        "1 prediction, by the emulator: nothing to pay",
    ):
        assert said in out
    assert temporary_leftovers(temporary) == []


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
    assert "1 prediction, some $0.40 at the vendor" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 1


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


def test_progress_of_a_real_back_end_is_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    assert demo._logged_progress(log) == ("Airflow starts", 0)
    log.write_text("Submitted prediction abc of prunaai/vace-14b (starting)\n")
    assert demo._logged_progress(log) == ("prediction under way", 0)
    with log.open("a") as file:
        file.write("Prediction abc: processing, 12 %, step 6 of 50\nPrediction abc: processing, 40 %\n")
    assert demo._logged_progress(log) == ("prediction under way", 40)


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
            if line.startswith("Airflow is ready at "):
                address = line.split()[4]
            if "Press Ctrl-C" in line:
                break
        assert address, process.stderr and process.stderr.read()
        token = get(f"{address}/auth/token", timeout=30).json()["access_token"]
        ask: Callable[[str], Any] = lambda path: json.loads(  # noqa: E731 - short for the next lines
            get(f"{address}/api/v2{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30).text
        )
        files = (
            *("vace_campaign", "vace_campaign_taskflow", "vace_restyle_library", "vace_restyled_catalog"),
            *("vace_catalogue", "vace_review", "vace_text_to_video"),
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
