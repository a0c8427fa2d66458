"""The emulator over HTTPS, with an authority of its own."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import sys

import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.cli import main
from airflow_vace.hooks import VaceHook


def test_a_client_that_trusts_the_authority_checks_the_name() -> None:
    with Emulator(time_scale=0.0002, tls=True) as emulator:
        assert emulator.ca_file is not None
        strict = ssl.create_default_context(cafile=str(emulator.ca_file))
        assert strict.verify_mode == ssl.CERT_REQUIRED
        for host in ("127.0.0.1", "localhost"):
            url = f"https://{host}:{emulator.port}/_emulator/bill"
            assert requests.get(url, verify=str(emulator.ca_file), timeout=60).json()["charged"] == 0
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{emulator.url}/_emulator/bill", timeout=60)
    assert not emulator.ca_file.exists()


def test_the_connection_trusts_the_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(time_scale=0.0002, tls=True) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection)
        hook = VaceHook()
        done = hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox"}), poll_interval=0.05)
        assert done.output_urls[0].startswith("https://")


def test_the_program_prints_the_file_to_trust() -> None:
    command = [sys.executable, "-m", "airflow_vace.emulator.cli", "--port", "0", "--tls"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address, connection, *trusts = (process.stdout.readline() for _ in range(5))
        names = [re.fullmatch(r"export (\w+)='(.+)'\n", line) for line in trusts]
        assert [name and name[1] for name in names] == [
            "REQUESTS_CA_BUNDLE",
            "SSL_CERT_FILE",
            "NODE_EXTRA_CA_CERTS",
        ]
        known = json.loads(connection.partition("=")[2].strip().strip("'"))
        assert known["host"] in address
        assert {name and name[2] for name in names} == {known["extra"]["verify"]}
        found = requests.get(f"{known['host']}/_emulator/bill", verify=known["extra"]["verify"], timeout=60)
        assert found.status_code == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_the_program_refuses_an_unknown_dialect() -> None:
    with pytest.raises(SystemExit):
        main(["--dialect", "nobody"])
