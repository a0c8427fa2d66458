"""The emulator under random faults, after a kill, and behind other host names."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.chaos import chaos
from airflow_vace.emulator.cli import main
from airflow_vace.emulator.faults import Fault, Faults
from airflow_vace.emulator.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

CREATE = ("POST", "/replicate/v1/models/prunaai/vace-14b/predictions")
POLL = ("GET", "/replicate/v1/predictions/abc")
DOWNLOAD = ("GET", "/_delivery/abc/output.mp4")
CANCEL = ("POST", "/replicate/v1/predictions/abc/cancel")
FOX = {"input": {"prompt": "a fox", "frame_num": 5}}


def ask(address: str, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
    bearer = {"Authorization": "Bearer vace-emulator-key"}
    return requests.request(method, address + path, json=body, headers=bearer | headers, timeout=60)


def test_a_share_hits_the_same_requests_with_the_same_seed() -> None:
    def hits(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add(share=0.3, times=None, status=500)
        return [faults.next_for(*POLL) is not None for _ in range(1000)]

    assert 250 < sum(hits(1)) < 350
    assert hits(1) == hits(1) != hits(2)


@pytest.mark.long
@pytest.mark.parametrize("request_", [CREATE, POLL, DOWNLOAD, CANCEL])
def test_each_kind_of_request_meets_every_kind_of_fault(request_: tuple[str, str]) -> None:
    faults = Faults(7)
    faults.add(*chaos(0.05))
    known = [fault for fault in chaos(0.05) if fault.matches(*request_)]
    met = Counter(str(faults.next_for(*request_)) for _ in range(40_000))
    assert 0.045 < 1 - met["None"] / 40_000 < 0.055
    # Faults that look alike are counted as one.
    assert set(met) - {"None"} == {str(fault) for fault in faults.waiting() if fault in known}
    alike = Counter(str(fault) for fault in known)
    often = [met[way] / alike[way] for way in alike]
    assert max(often) < 3 * min(often)


def test_a_share_of_zero_is_no_fault() -> None:
    assert chaos(0.0) == []


@pytest.mark.parametrize("share", [-0.1, 1.1, "half", True])
def test_a_share_outside_of_zero_to_one_is_refused(share: Any) -> None:
    with pytest.raises(ValueError, match="share can't be"):
        Fault.from_json({"share": share})


def test_urls_have_the_host_that_the_client_used() -> None:
    with Emulator(time_scale=1e-6) as emulator:
        created = ask(emulator.url, *CREATE, FOX, Host="vendor.example:8642").json()
        assert created["urls"]["get"].startswith("https://api.replicate.com/")
        own = ask(emulator.url, "GET", f"/v1/predictions/{created['id']}", Host="vendor.example:8642").json()
        assert own["urls"]["get"] == f"http://vendor.example:8642/v1/predictions/{created['id']}"
        assert own["output"].startswith("http://vendor.example:8642/_delivery/")


def test_accepted_predictions_continue_on_schedule_after_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    with Emulator(time_scale=100, state=state) as emulator:
        first, second = (ask(emulator.url, *CREATE, FOX).json()["id"] for _ in range(2))
        ask(emulator.url, "POST", f"/replicate/v1/predictions/{first}/cancel")
        before = emulator.bill
        ends = emulator.world.runs[second].ended
    with Emulator(time_scale=100, state=state) as emulator:
        assert emulator.bill == before
        assert emulator.world.runs[second].ended == ends
        third = ask(emulator.url, *CREATE, FOX).json()["id"]
        assert third not in (first, second)
        statuses = {
            body["id"]: body["status"]
            for body in ask(emulator.url, "GET", "/v1/predictions").json()["results"]
        }
    assert list(statuses.items()) == [(third, "starting"), (second, "starting"), (first, "canceled")]


def test_a_killed_program_restarts_with_its_predictions(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "airflow_vace.emulator.cli",
        "--port",
        "0",
        "--state",
        str(tmp_path / "state"),
    ]
    found = []
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            connection = process.stdout.readline().partition("=")[2].strip().strip("'")
            url = json.loads(connection)["host"]
            found += [
                run["id"] for run in requests.get(f"{url}/_emulator/bill", timeout=60).json()["predictions"]
            ]
            if not found:
                found.append(ask(url, *CREATE, FOX).json()["id"])
            process.send_signal(signal.SIGKILL)
    first, second = found
    assert first == second


def test_a_partial_last_line_of_the_journal_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    with Emulator(state=journal.path) as emulator:
        kept = ask(emulator.url, *CREATE, FOX).json()["id"]
    assert journal.path is not None
    with journal.path.open("a") as file:
        file.write('{"id": "partial')
    assert list(journal.runs()) == [kept]
    with Emulator(state=journal.path) as emulator:
        another = ask(emulator.url, *CREATE, FOX).json()["id"]
    assert list(journal.runs()) == [kept, another]


@pytest.mark.parametrize("content", ["5\n", "{}\n", "nonsense\n", '{"id": "a", "timeline": {}}\n'])
def test_the_error_for_another_file_names_file_and_line(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    assert main(["--state", str(path)]) == 2
    assert f"{path}, line 1 is not a run" in capsys.readouterr().err
    assert path.read_text() == content


@pytest.mark.parametrize("share", ["-0.1", "2", "all"])
def test_the_program_refuses_a_wrong_share(share: str) -> None:
    with pytest.raises(SystemExit):
        main(["--chaos", share])


def test_the_program_scripts_the_faults_of_chaos(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "airflow_vace.emulator.cli", "--port", "0", "--chaos", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].partition(";")[0]
        scripted = requests.get(f"{url}/_emulator/faults", timeout=60).json()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert len(scripted) == len(chaos(0.5))
