"""The hook: wrong values, and answers that are refusals; `call` runs each test in both forms."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.faults import rate_limited
from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from conftest import scale_waits
from support.faces import FOX, Call, final

# --- before any request ----------------------------------------------------------------------------


def test_bad_input_costs_no_request(call: Call, emulator: Emulator) -> None:
    for given in ({"promt": "x"}, {"prompt": ""}, {"prompt": "x", "src_mask": "https://a/b"}):
        with pytest.raises(VaceInputError):
            call("create", given)
    with pytest.raises(VaceInputError):
        call("get", "../x")
    assert emulator.requests == []


def test_a_doubtful_input_is_a_warning_in_the_log(
    call: Call, emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    call("create", {"prompt": "a fox", "sample_steps": 100, "frame_num": 82})
    assert "frame_num=82 is not of the form 4n+1" in capfd.readouterr().out
    assert emulator.bill["charged"] == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"host": ""}, "host"),
        ({"password": None}, "password"),
        ({"extra": {"backend": "openai"}}, "backend"),
        ({"extra": {"backend": 5}}, "backend"),
        ({"extra": {"timeout": "soon"}}, "timeout"),
        ({"extra": {"timeout": 0}}, "timeout"),
        ({"extra": {"timeout": True}}, "timeout"),
        ({"extra": {"verify": 5}}, "verify"),
        ({"extra": {"proxies": [1]}}, "proxies"),
        ({"extra": {"cert": ["a"]}}, "cert"),
    ],
)
def test_a_connection_that_cannot_work_names_its_field(
    call: Call, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], field: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(json.loads(emulator.connection) | fields))
    with pytest.raises(VaceInputError) as caught:
        call("create", FOX)
    assert caught.value.field == field
    assert emulator.requests == []


@pytest.mark.parametrize(
    ("fields", "said", "field"),
    [
        ({"host": ""}, "'mine' is not usable. The connection has no host: put the server's base URL", "host"),
        ({"password": ""}, "'mine' is not usable. The connection has no API key: put the key", "password"),
        ({"extra": {"timeout": "soon"}}, "'mine' is not usable. The connection's extra 'timeout'", "timeout"),
        (
            {"conn_type": "postgres"},
            "'mine' is of the type 'postgres', not 'vace': correct vace_conn_id",
            "vace_conn_id",
        ),
    ],
)
def test_an_unusable_connection_is_named_with_the_remedy(
    slow: Emulator, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], said: str, field: str
) -> None:
    given = json.loads(slow.connection) | fields
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(given))
    with pytest.raises(VaceInputError) as caught:
        VaceHook("mine").create_prediction(FOX)
    assert said in str(caught.value)
    assert caught.value.field == field
    assert slow.requests == []
    # The Test button shows the message beside the form, where Airflow's random id says nothing.
    is_good, message = VaceHook("mine").test_connection()
    assert not is_good
    assert message.startswith("Not usable: The connection")
    assert ("'mine'" in message) == (field == "vace_conn_id")


@pytest.mark.parametrize("kind", ["http", "generic"])
def test_a_connection_of_a_general_type_is_used(
    slow: Emulator, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(json.loads(slow.connection) | {"conn_type": kind}))
    assert VaceHook("mine").create_prediction(FOX).id in slow.world.runs


@pytest.mark.parametrize("way", ["settings", "create"])
def test_a_missing_connection_is_named_with_the_command_that_adds_it(way: str) -> None:
    hook = VaceHook("no_such")
    with pytest.raises(AirflowNotFoundException, match="airflow connections add no_such --conn-type vace"):
        _ = hook.settings if way == "settings" else hook.create_prediction(FOX)


def test_the_connections_model_and_version_are_the_defaults(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = "5129" * 16, "ab" * 32
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(version=own, model="prunaai/vace-14b"))
    assert call("create", FOX).version == own
    assert call("create", FOX, version=other).version == other
    with pytest.raises(VaceAPIError, match="no channel"):
        call("create", FOX, model="somebody/else")


# --- answers that are refusals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 400, "body": {"detail": "no"}}, VaceAPIError),
        ({"status": 401, "body": {"detail": "no"}}, VaceAuthError),
        ({"status": 402, "body": {"detail": "no"}}, VaceBillingError),
        ({"status": 403, "body": {"error": {"code": "insufficient_user_quota"}}}, VaceBillingError),
        ({"status": 403, "body": "no"}, VaceAuthError),
        ({"status": 404, "body": ""}, VaceAPIError),
        ({"status": 413, "body": ""}, VaceAPIError),
        ({"status": 503, "body": {"error": {"message": "x", "code": "model_not_found"}}}, VaceAPIError),
        ({"status": 302, "headers": {"Location": "https://evil.example/"}}, VaceAPIError),
        ({"status": 200, "body": {"error": {"message": "x"}}}, VaceProtocolError),
        ({"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<html>"}, VaceProtocolError),
    ],
)
def test_a_refused_create_is_not_sent_again(
    call: Call, emulator: Emulator, fault: dict[str, Any], kind: type[VaceError]
) -> None:
    emulator.faults.add(times=None, **fault)
    with pytest.raises(kind) as caught:
        call("create", FOX)
    assert type(caught.value) is kind
    assert len(emulator.requests) == 1
    assert emulator.bill["charged"] == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"accept": True, "status": 502, "body": "Bad Gateway"},
        {"accept": True, "status": 504, "body": "<html></html>"},
        {"accept": True, "status": 500, "body": {"detail": "?"}},
        {"accept": True, "status": 524, "body": ""},
        {"accept": True, "status": 408, "body": ""},
        {"accept": True, "status": 503, "body": "<html>Service Unavailable</html>"},
        {"accept": True, "status": 200, "body": '{"id": "abc", "status": "sta'},
        {"accept": True, "status": 200, "body": ""},
        {"reset": "after"},
        {"hang": "after"},
        {"truncate": 20},
        {"drip": 0.05},
    ],
    ids=lambda fault: ",".join(f"{k}={v}" for k, v in fault.items()),
)
def test_a_create_that_may_be_accepted_is_never_sent_again(
    call: Call, emulator: Emulator, fault: dict[str, Any]
) -> None:
    emulator.faults.add(method="POST", **fault)
    with pytest.raises(SubmissionUnknown) as caught:
        call("create", FOX)
    assert len(emulator.requests) == 1
    assert emulator.bill["charged"] == 1
    assert "not sent again" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_reset_before_acceptance_looks_like_a_reset_after_it(call: Call, emulator: Emulator) -> None:
    emulator.faults.add(method="POST", reset="before")
    with pytest.raises(SubmissionUnknown):
        call("create", FOX)
    assert emulator.bill["charged"] == 0


@pytest.mark.parametrize("form", ["seconds", "decimal", "date", "body", "text", "none"])
def test_a_rate_limited_create_waits_as_asked_and_is_paid_once(
    call: Call, emulator: Emulator, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 1.0, min_retry_seconds=0.3)
    seconds = 1.0 if form in ("seconds", "date") else 0.3
    emulator.faults.add(rate_limited(form, seconds, method="POST"))
    call("create", FOX)
    first, second = emulator.requests
    wanted = 0.2 if form in ("none", "date") else seconds  # a date has whole seconds, and so less than one
    assert second.time - first.time >= wanted
    assert emulator.bill["charged"] == 1


def test_a_create_over_a_long_rate_limit_fails_at_once(call: Call, emulator: Emulator) -> None:
    emulator.faults.add(rate_limited("seconds", 1000.0, method="POST", times=None))
    with pytest.raises(VaceRateLimited) as caught:
        call("create", FOX)
    assert caught.value.retry_after == 1000.0
    assert len(emulator.requests) == 1


def test_an_unreachable_server_is_an_error_with_nothing_sent(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 1.0, max_create_attempts=2, min_retry_seconds=0.01)
    with Emulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection)
    with pytest.raises(VaceTransportError, match="nothing was sent") as caught:
        call("create", FOX)
    assert not caught.value.sent
    host = {"conn_type": "vace", "host": "http://no.such.host.invalid", "password": "k" * 8}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(host))
    with pytest.raises(VaceTransportError, match="nothing was sent"):
        call("get", "abc")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 401, "body": {"detail": "no"}}, VaceAuthError),
        ({"status": 404, "body": {"detail": "no"}}, VaceAPIError),
        ({"status": 500, "body": ""}, VaceAPIError),
        ({"reset": "before"}, VaceTransportError),
        ({"hang": "before"}, VaceTransportError),
        ({"truncate": 20}, VaceTransportError),
        ({"drip": 0.05}, VaceTransportError),
        ({"status": 200, "body": '{"id": '}, VaceProtocolError),
        ({"status": 200, "body": "<html>"}, VaceProtocolError),
        ({"patch": {"id": "another", "created_at": "2020-01-01T00:00:00.5Z"}}, VaceProtocolError),
    ],
    ids=str,
)
def test_one_poll_is_one_request_and_fails_with_a_named_error(
    call: Call, slow: Emulator, fault: dict[str, Any], kind: type[VaceError]
) -> None:
    created = call("create", FOX)
    slow.faults.add(method="GET", times=None, **fault)
    with pytest.raises(kind) as caught:
        call("get", created)
    assert type(caught.value) is kind
    assert len(slow.requests) == 2
    slow.faults.clear()
    assert call("get", created).id == created.id


def test_a_response_with_a_long_header_is_read(call: Call, slow: Emulator) -> None:
    created = call("create", FOX)
    headers = {"Content-Type": "application/json", "Content-Security-Policy": "x" * 12_000}
    slow.faults.add(method="GET", status=200, headers=headers, body=created.payload())
    assert call("get", created).id == created.id
    assert len(slow.requests) == 2


@pytest.fixture
def patient(slow: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The same server, and a connection that lets megabytes take their time."""
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(timeout=60))
    return slow


def test_an_answer_that_echoes_a_large_input_is_read(call: Call, patient: Emulator) -> None:
    film = "data:video/mp4;base64," + "A" * 20_000_000
    created = call("create", {"prompt": "a fox", "src_video": film})
    assert created.input["src_video"] == film
    assert patient.bill["charged"] == 1


def test_huge_logs_do_not_get_into_a_payload(call: Call, patient: Emulator) -> None:
    created = call("create", FOX)
    patient.faults.add("huge_logs")
    found = call("get", created)
    assert len(found.logs) > 5_000_000
    assert found.progress.percent == 50
    assert len(json.dumps(found.payload())) < 2000


def test_the_server_gets_the_deadline(call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(backend="replicate"))
    created = call("create", FOX, deadline=time.time() + 0.5)
    (run,) = slow.world.runs.values()
    assert run.cancel_after == 5.0
    # The server's deadline passes at once instead of in five seconds.
    run.timeline.created -= 5.0
    assert final(call, created).status == "aborted"
    assert slow.bill["charged"] == 0
