"""Refusals of Airflow's REST API, and what a person can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.core.timing import Timing
from airflow_vace.reconcile.airflow_api import AirflowApi, Login, NotCheckedError
from support.fake_airflow import FakeAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMING = Timing().scaled(0.01, max_airflow_seconds=30.0)
INSTANCES = "/dags/~/dagRuns/~/taskInstances"


@pytest.fixture
def airflow() -> Iterator[FakeAirflow]:
    with FakeAirflow() as running:
        yield running


def ask(airflow: FakeAirflow, **login: Any) -> list[dict[str, Any]]:
    with AirflowApi(Login(url=airflow.url, **(login or {"token": "a-token"})), TIMING) as api:
        api.open()
        return api.task_instances("2026-11-01T00:00:00+00:00", ["VacePredictionOperator"])


@pytest.mark.parametrize(
    "url", ["", "airflow.example.com", "ftp://a/", "https://user:pw@a/", "https://a/?b=c"]
)
def test_an_address_that_cannot_work_is_an_error_at_once(url: str) -> None:
    with pytest.raises(NotCheckedError, match="give --airflow-url") as caught:
        AirflowApi(Login(url=url, token="a-token"), TIMING)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("version", [None, "", "three", "2"])
def test_another_server_is_no_airflow(airflow: FakeAirflow, version: Any) -> None:
    airflow.version = version
    with pytest.raises(NotCheckedError, match="is no Airflow of version 3"):
        ask(airflow)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"{}", "set AIRFLOW_CLI_TOKEN, or --username and AIRFLOW_CLI_PASSWORD"),
        (403, b"{}", "the user needs to read task instances and XComs"),
        (404, b"{}", "correct --airflow-url"),
        (200, b"<html>Sign in</html>", "no JSON of Airflow: <html>Sign in"),
        (302, b"", "answered with 302"),
        (500, b"{}", "answered with 500"),
    ],
)
def test_a_refusal_names_the_remedy(airflow: FakeAirflow, status: int, body: bytes, message: str) -> None:
    airflow.refusals[INSTANCES] = [(status, body)]
    with pytest.raises(NotCheckedError, match=message):
        ask(airflow)


def test_a_server_in_trouble_is_asked_again(airflow: FakeAirflow) -> None:
    airflow.add("clip")
    airflow.refusals[INSTANCES] = [(503, b""), (200, json.dumps({"task_instances": []}).encode())]
    assert ask(airflow) == []
    assert airflow.seen.count(INSTANCES) == 2


def test_a_server_that_is_down_is_named() -> None:
    with FakeAirflow() as other:
        login = Login(url=other.url, token="a-token")
    with AirflowApi(login, TIMING) as api, pytest.raises(NotCheckedError, match="can't be reached"):
        api.open()


def test_a_password_gets_a_token(airflow: FakeAirflow) -> None:
    airflow.refusals["/auth/token"] = [(201, b'{"access_token": "made-for-a-user"}')]
    ask(airflow, username="a-user", password="a-password")
    (log_in,) = [head for head in airflow.heads if "/auth/token" in head]
    assert log_in.startswith("POST")
    assert "Bearer made-for-a-user" in airflow.heads[-1]


def test_an_airflow_without_users_gives_a_token(airflow: FakeAirflow) -> None:
    airflow.refusals["/auth/token"] = [(201, b'{"access_token": "for-everybody"}')]
    ask(airflow, token=None)
    assert "Bearer for-everybody" in airflow.heads[-1]


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, b"{}"), (302, b""), (200, b"[]"), (200, b"page"), (200, b'{"access_token": 7}')],
)
def test_a_refused_log_in_names_the_remedy_and_no_password(
    airflow: FakeAirflow, status: int, body: bytes
) -> None:
    airflow.refusals["/auth/token"] = [(status, body)]
    with pytest.raises(NotCheckedError, match="gave no token") as caught:
        ask(airflow, username="a-user", password="a-password")
    assert "a-password" not in str(caught.value)
    assert "a-password" not in repr(Login(url="https://a", password="a-password"))


def test_names_with_odd_characters_stay_one_step_of_a_path(airflow: FakeAirflow) -> None:
    with AirflowApi(Login(url=airflow.url, token="a-token"), TIMING) as api:
        row = {"dag_id": "a/b", "dag_run_id": "manual__2026-11-01T00:00:00+00:00", "task_id": "c d"}
        assert api.xcom(row, "vace_view") is None
    assert airflow.seen[-1].startswith("/dags/a%2Fb/dagRuns/manual__2026-11-01T00%3A00%3A00%2B00%3A00/")
