"""Options and errors of `vace-reconcile`, with the emulator and a scripted Airflow."""

from __future__ import annotations

import json
import os
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.emulator import Emulator
from airflow_vace.hooks import VaceHook
from airflow_vace.reconcile.cli import main
from airflow_vace.submission.connections import account_of
from airflow_vace.submission.order import Order
from airflow_vace.submission.record import Record, Terms
from conftest import scale_waits
from support.fake_airflow import FakeAirflow
from support.pages import blocks, missing_line
from support.scripted import Scripted, head

if TYPE_CHECKING:
    from collections.abc import Iterator

SINCE = ["--since", "2026-01-01"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(time_scale=100.0) as running:
        connection = running.connection_to(lists=True, prices={"prunaai/vace-14b": {"per_run": 0.40}})
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
        monkeypatch.setenv("AIRFLOW_CLI_TOKEN", "a-token")
        scale_waits(monkeypatch, 0.01, max_airflow_seconds=30.0)
        yield running


@pytest.fixture
def airflow() -> Iterator[FakeAirflow]:
    with FakeAirflow() as running:
        yield running


def test_the_program_is_installed_under_its_name() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["vace-reconcile"].partition(":")
    assert getattr(import_module(module), name) is main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--since"),
        (["--since", "yesterday"], "is no time: give 2026-11-01"),
        (["--since", "2999-01-01"], "is in the future"),
    ],
)
def test_wrong_usage_names_the_option(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_connection_is_an_error(capsys: pytest.CaptureFixture[str], airflow_db: str) -> None:
    assert airflow_db
    assert main([*SINCE, "--conn-id", "no_such", "--airflow-url", "http://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert "Airflow knows no connection 'no_such' here" in error
    assert "AIRFLOW_CONN_NO_SUCH" in error


def test_a_connection_in_airflows_database_is_read(
    server: Emulator, airflow: FakeAirflow, airflow_db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    assert airflow_db
    with create_session() as session:
        session.add(Connection.from_json(server.connection_to(lists=True), conn_id="in_database"))
    VaceHook().create_prediction({"prompt": "a fox"})
    assert main([*SINCE, "--conn-id", "in_database", "--airflow-url", airflow.url]) == 0
    assert " foreign 1 prediction, 0 s, 1 without a known cost" in capsys.readouterr().out
    assert "_AIRFLOW_PROCESS_CONTEXT" not in os.environ


def test_a_user_without_password_is_an_error(
    server: Emulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.url
    monkeypatch.delenv("AIRFLOW_CLI_TOKEN")
    assert main([*SINCE, "--username", "me"]) == 2
    assert "AIRFLOW_CLI_PASSWORD is not set" in capsys.readouterr().err


def test_a_back_end_without_a_list_is_an_error(
    server: Emulator,
    airflow: FakeAirflow,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", server.connection)
    assert main([*SINCE, "--airflow-url", airflow.url]) == 2
    assert "documents no list of predictions: give a --conn-id of the vendor's own API" in (
        capsys.readouterr().err
    )


def test_a_running_orphan_comes_with_a_command_that_cancels_it(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = VaceHook()
    values = {"prompt": "a fox", "seed": 7}
    lost = hook.create_prediction(values)
    airflow.add("clip", state={"vace_prediction": intent_of(hook, values)}, ti_state="failed")
    assert main([*SINCE, "--airflow-url", airflow.url]) == 1
    text = capsys.readouterr().out
    assert f"Orphan {lost.id}: starting, created {lost.created_at}, $0.40" in text
    url = f"{server.url}/replicate/v1/predictions/{lost.id}/cancel"
    assert f'To cancel: curl -X POST -H "Authorization: Bearer $API_KEY" {url}' in text
    assert server.api_key not in text


def intent_of(hook: VaceHook, values: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a create whose answer was lost."""
    known, model, _ = hook.resolved(values)
    order = Order(values=known, model=model, version=None, conn_id="vace_default")
    now = hook.wall_clock()
    terms = Terms(now=now, deadline=now + 600, account=account_of(hook))
    return Record.of(order, terms, before=None).as_json()


def test_the_report_is_that_of_the_page(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = VaceHook()
    lost, known = {"prompt": "a fox", "seed": 7}, {"prompt": "a dog", "seed": 8}
    for values in (lost, {"prompt": "a cat"}):
        hook.create_prediction(values)
    record = Record.from_json(intent_of(hook, known)).submitted(hook.create_prediction(known))
    run: dict[str, Any] = {"dag_id": "campaign", "dag_run_id": "scheduled__2026-11-28"}
    airflow.add("clip", state={"vace_prediction": intent_of(hook, lost)}, ti_state="failed", **run)
    airflow.add("trailer", state={"vace_prediction": record.as_json()}, **run)
    assert main(["--since", "2026-11-01", "--airflow-url", airflow.url]) == 1
    report = capsys.readouterr().out
    assert server.url in report
    assert missing_line(report, blocks("reconcile", "text")[0]) is None


def test_a_second_bill_names_both_predictions(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = VaceHook()
    values = {"prompt": "a fox", "seed": 7}
    first, second = hook.create_prediction(values), hook.create_prediction(values)
    record = Record.from_json(intent_of(hook, values)).submitted(first)
    airflow.add("clip", state={"vace_prediction": record.as_json()})
    assert main([*SINCE, "--airflow-url", airflow.url]) == 1
    text = capsys.readouterr().out
    assert f"Probably of d.clip, run r, which has {first.id} for the same order: a second bill." in text
    assert f"Orphan {second.id}: " in text
    assert "A VacePredictionSensor on this id, with save_to, fetches the video" in text
    assert len(server.bill["predictions"]) == 2


def test_a_task_whose_connection_does_not_list_gets_other_advice(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = VaceHook()
    lost = hook.create_prediction({"prompt": "a fox", "seed": 7})
    record = intent_of(hook, {"prompt": "a fox", "seed": 7})
    # The task submits over a gateway, and this connection leads to the vendor itself.
    drawn = {"is_seed_drawn": True, "origin": "https://gateway.example/replicate/v1"}
    airflow.add("clip", state={"vace_prediction": record | drawn}, ti_state="failed")
    assert main([*SINCE, "--airflow-url", airflow.url, "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)["predictions"]
    assert (row["id"], row["owner"]) == (lost.id, "orphan")
    assert "A VacePredictionSensor on this id" in row["advice"]
    assert server.api_key not in str(row)


def test_an_intent_without_a_prediction_is_no_orphan(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.url
    record = intent_of(VaceHook(), {"prompt": "a fox"})
    airflow.add("clip", state={"vace_prediction": record}, ti_state="failed")
    assert main([*SINCE, "--airflow-url", airflow.url]) == 0
    assert f"no prediction for the request of {record['intended_at']} of d.clip, run r." in (
        capsys.readouterr().out
    )


def test_what_cannot_be_read_is_no_good_result(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.url
    airflow.add("clip", state={"vace_prediction": "text"})
    assert main([*SINCE, "--airflow-url", airflow.url]) == 2
    assert "Warning: The record vace_prediction of d.clip, run r is unreadable" in capsys.readouterr().out


def test_an_airflow_without_records_says_so(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = VaceHook().create_prediction({"prompt": "a fox"})
    assert server.url
    airflow.version = "3.1.8"
    assert main([*SINCE, "--airflow-url", airflow.url]) == 0
    text = capsys.readouterr().out
    assert "foreign 1 prediction, 0 s, $0.40" in text
    assert "This Airflow is older than 3.3" in text
    assert lost.id not in text


def test_a_list_in_trouble_is_read_again(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults.add(method="GET", path="*/predictions", status=503)
    assert main([*SINCE, "--airflow-url", airflow.url]) == 0
    server.faults.add(method="GET", path="*/predictions", times=None, status=503)
    assert main([*SINCE, "--airflow-url", airflow.url]) == 2
    assert "was refused with 503" in capsys.readouterr().err
    assert len(server.requests) == 2 + VaceHook.timing.max_airflow_attempts


def test_a_wrong_key_is_an_error_at_once(
    server: Emulator,
    airflow: FakeAirflow,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = json.loads(server.connection_to(lists=True)) | {"password": "another-key"}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(connection))
    assert main([*SINCE, "--airflow-url", airflow.url]) == 2
    error = capsys.readouterr().err
    assert "key" in error
    assert "another-key" not in error
    assert len(server.requests) == 1


def test_many_warnings_are_cut(
    server: Emulator, airflow: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.url
    for number in range(25):
        airflow.add("clip", map_index=number, state={"vace_prediction": "text"})
    assert main([*SINCE, "--airflow-url", airflow.url]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.endswith("is unreadable.")]) == 20
    assert lines[-1] == "Warning: 5 more; --json shows all"


def test_unreadable_predictions_of_the_account_are_counted(
    airflow: FakeAirflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"results": [{"id": "a", "status": "succeeded"}, {"id": "b"}], "next": null}'
    with Scripted([head("200 OK", Content_Length=len(body)) + body], extra={"lists": True}) as vendor:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", vendor.connection)
        monkeypatch.setenv("AIRFLOW_CLI_TOKEN", "a-token")
        assert main([*SINCE, "--airflow-url", airflow.url]) == 2
    assert "The account's list has 1 predictions that can't be read" in capsys.readouterr().out
