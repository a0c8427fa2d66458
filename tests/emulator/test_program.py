"""The program `vace-emulator`: options, output, and the end by Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.cli import main
from support.emulated import GATEWAY
from support.terminals import COLOR, plain, terminal

if TYPE_CHECKING:
    from pathlib import Path


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "airflow_vace.emulator.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_program_prints_a_connection_to_paste_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('[{"status": 418}]')
    with start("--port", "0", "--faults", str(faults), "--api-key", "my-own-key") as process:
        assert process.stdout is not None
        address = process.stdout.readline()
        line = process.stdout.readline()
        name, _, value = line.removeprefix("export ").partition("=")
        connection = json.loads(value.strip().strip("'"))
        assert name == "AIRFLOW_CONN_VACE_DEFAULT"
        assert connection["host"] in address
        assert connection["password"] == "my-own-key"
        assert requests.get(f"{connection['host']}/v1/account", timeout=60).status_code == 418
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_the_error_for_a_port_in_use_names_the_remedy(
    emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--port", str(emulator.port)]) == 1
    assert "choose another --port" in capsys.readouterr().err
    with pytest.raises(OSError, match="address already in use"), Emulator(port=emulator.port):
        pass


@pytest.mark.parametrize("columns", [80, 120])
def test_the_program_shows_each_change_in_a_terminal(columns: int) -> None:
    arguments = ("-m", "airflow_vace.emulator.cli", "--port", "0", "--time-scale", "0.0002")
    with terminal(*arguments, columns=columns) as running:
        running.read_until("'\r\n")
        assert COLOR.search(running.written)
        lines = plain(running.written).splitlines()
        address = lines[0].partition(" at ")[2]
        (export,) = [line for line in lines if line.startswith("export ")]
        connection = json.loads(export.partition("=")[2].strip("'"))
        assert connection["host"] == address
        assert f"{address}/ has all predictions and the bill" in lines
        headers = {"Authorization": f"Bearer {connection['password']}"}
        body = {"input": {"prompt": "a fox [in\nbrackets] " + "and snow " * 30}}
        made = requests.post(address + GATEWAY, json=body, headers=headers, timeout=60).json()
        running.read_until("succeeded")
        running.press(b"\x03")
        shown = plain(running.read_to_end())
        assert running.process.returncode == 0
    assert f"{made['id']} succeeded  after" in shown
    assert shown.endswith(
        "\nStopped: 1 prediction, 1 charged.\nCost of each: $0 (emulator); the real model about $0.40\n"
    )
    changes = [line for line in shown.splitlines() if made["id"] in line]
    assert max(map(len, changes)) <= columns


@pytest.mark.parametrize("content", [None, "{", "5", '{"stauts": 1}', '[{"stauts": 1}]'])
def test_the_error_for_unreadable_faults_names_the_file(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.json"
    if content is not None:
        path.write_text(content)
    assert main(["--faults", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_the_error_for_a_missing_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert main([]) == 3
    assert "airflow-provider-vace[emulator]" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["0", "-1", "inf", "fast"])
def test_a_wrong_time_scale_is_refused(scale: str) -> None:
    with pytest.raises(SystemExit):
        main(["--time-scale", scale])


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_wrong_port_is_refused(port: str) -> None:
    with pytest.raises(SystemExit):
        main(["--port", port])
