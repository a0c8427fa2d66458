"""Both faces of the hook meet the same server in the same tests: `call` runs one or the other."""

from __future__ import annotations

import asyncio
import json
import os
import socketserver
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.faults import rate_limited
from airflow_vace.exceptions import (
    PredictionTimeout,
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
from airflow_vace.polling import MOST_REFUSALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_vace.prediction import Prediction

FOX = {"prompt": "a fox"}


class Call(Protocol):
    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any: ...


def _sync(name: str, *args: Any, **kwargs: Any) -> Any:
    found = getattr(VaceHook(), f"{name}_prediction" + ("s" if name == "list" else ""))(*args, **kwargs)
    return list(found) if name == "list" else found


def _async(name: str, *args: Any, **kwargs: Any) -> Any:
    async def run() -> Any:
        async with VaceHook() as hook:
            if name == "list":
                return [p async for p in hook.alist_predictions(*args, **kwargs)]
            return await getattr(hook, f"a{name}_prediction")(*args, **kwargs)

    return asyncio.run(run())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    face: Call = request.param
    return face


@pytest.fixture(params=["gateway", "replicate", "pruna"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(time_scale=0.0002) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(timeout=1))
        yield emulator


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(time_scale=100.0) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(timeout=1))
        yield emulator


def final(call: Call, prediction: Prediction) -> Prediction:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found: Prediction = call("get", prediction)
        if found.status.is_final:
            return found
    raise AssertionError("never final")


# --- the whole way, on each back-end ---------------------------------------------------------------


def test_a_prediction_is_created_and_looked_at(
    call: Call, backend: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(backend=backend))
    created = call("create", {"prompt": "a fox", "size": "1280x720"})
    assert not created.status.is_final
    done = final(call, created)
    assert done.status == "succeeded"
    assert done.output_urls[0].startswith(emulator.url)
    assert emulator.bill["charged"] == 1
    (run,) = emulator.world.runs.values()
    assert run.input == {"prompt": "a fox", "size": "1280*720"}
    header = "apikey" if backend == "pruna" else "authorization"
    assert {request.auth for request in emulator.requests} == {(header,)}


@pytest.mark.parametrize("reference", ["payload", "id", "urls.get", "prediction"])
@pytest.mark.usefixtures("slow")
def test_a_prediction_is_found_by_whatever_refers_to_it(call: Call, reference: str) -> None:
    created = call("create", FOX)
    forms = {
        "payload": created.payload(),
        "id": created.id,
        "urls.get": created.urls["get"],
        "prediction": created,
    }
    assert "api.replicate.com" in created.urls["get"]
    assert call("get", forms[reference]).id == created.id


def test_a_running_prediction_is_canceled_and_one_that_has_ended_stays(call: Call, slow: Emulator) -> None:
    created = call("create", FOX)
    assert call("cancel", created).status == "canceled"
    assert call("cancel", created.payload()).status == "canceled"
    assert slow.bill["predictions"][0]["status"] == "canceled"


def test_a_cancel_that_is_answered_in_other_words_is_looked_up(call: Call, slow: Emulator) -> None:
    created = call("create", FOX)
    slow.faults.add(path="*/cancel", accept=True, status=202, body={"ok": True})
    assert call("cancel", created).status == "canceled"


def test_predictions_are_listed_over_all_pages(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(backend="replicate"))
    now = time.time()
    runs = [
        slow.world.create({"prompt": "x"}, model="prunaai/vace-14b", version=None, now=now + n)
        for n in range(250)
    ]
    found = call("list")
    assert [p.id for p in found] == [run.id for run in reversed(runs)]
    middle = found[100].created_at
    assert [p.id for p in call("list", created_after=middle)] == [p.id for p in found[:100]]


def test_a_server_that_ignores_created_after_is_filtered_here(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(backend="replicate"))
    told = [
        {"id": "new", "status": "starting", "created_at": "2025-01-02T00:00:00Z"},
        {"id": "old", "status": "starting", "created_at": "2025-01-01T00:00:00Z"},
    ]
    slow.faults.add(status=200, body={"results": told})
    assert [p.id for p in call("list", created_after="2025-01-01T12:00:00Z")] == ["new"]


def test_a_list_that_goes_on_for_ever_is_left_and_a_foreign_page_is_not_asked_for(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(backend="replicate"))
    endless = {"results": [], "next": f"{slow.url}/v1/predictions?cursor=0"}
    slow.faults.add(status=200, body=endless, times=None)
    assert call("list") == []
    assert len(slow.requests) == 100
    slow.faults.clear()
    slow.faults.add(status=200, body={"results": [], "next": "https://evil.example/v1/predictions"})
    with pytest.raises(VaceProtocolError, match="foreign origin"):
        call("list")


# --- before any request ----------------------------------------------------------------------------


def test_bad_input_costs_no_request(call: Call, emulator: Emulator) -> None:
    for given in ({"promt": "x"}, {"prompt": ""}, {"prompt": "x", "src_mask": "https://a/b"}):
        with pytest.raises(VaceInputError):
            call("create", given)
    with pytest.raises(VaceInputError):
        call("get", "../x")
    assert emulator.requests == []


def test_a_doubt_about_the_input_is_a_warning_in_the_log(
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


def test_the_connections_model_and_version_are_the_defaults(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(version="5129", model="prunaai/vace-14b")
    )
    assert call("create", FOX).version == "5129"
    assert call("create", FOX, version="other").version == "other"
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
        ({"status": 200, "body": {"created": 1, "data": [{"url": "https://..."}]}}, VaceProtocolError),
        ({"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<html>"}, VaceProtocolError),
    ],
)
def test_a_refused_create_is_raised_at_once_and_not_sent_again(
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
def test_a_create_that_may_have_been_accepted_is_never_sent_again(
    call: Call, emulator: Emulator, fault: dict[str, Any]
) -> None:
    emulator.faults.add(method="POST", **fault)
    with pytest.raises(SubmissionUnknown) as caught:
        call("create", FOX)
    assert len(emulator.requests) == 1
    assert emulator.bill["charged"] == 1
    assert "not sent again" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_reset_before_acceptance_cannot_be_told_from_one_after_it(call: Call, emulator: Emulator) -> None:
    emulator.faults.add(method="POST", reset="before")
    with pytest.raises(SubmissionUnknown):
        call("create", FOX)
    assert emulator.bill["charged"] == 0


@pytest.mark.parametrize("form", ["seconds", "decimal", "date", "body", "text", "none"])
def test_a_create_that_was_turned_away_waits_as_told_and_is_paid_once(
    call: Call, emulator: Emulator, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_vace.polling.SHORTEST_INTERVAL", 0.3)
    seconds = 1.0 if form in ("seconds", "date") else 0.3
    emulator.faults.add(rate_limited(form, seconds, method="POST"))
    call("create", FOX)
    first, second = emulator.requests
    wanted = 0.2 if form in ("none", "date") else seconds  # a date has whole seconds, and so less than one
    assert second.time - first.time >= wanted
    assert emulator.bill["charged"] == 1


def test_a_create_that_is_turned_away_again_and_again_says_so(call: Call, emulator: Emulator) -> None:
    emulator.faults.add(rate_limited("seconds", 1000.0, method="POST", times=None))
    with pytest.raises(VaceRateLimited) as caught:
        call("create", FOX)
    assert caught.value.retry_after == 1000.0
    assert len(emulator.requests) == 1


def test_a_server_that_is_not_there_is_an_error_that_says_that_nothing_was_sent(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_vace.polling.MOST_CREATES", 2)
    monkeypatch.setattr("airflow_vace.polling.SHORTEST_INTERVAL", 0.01)
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
        ({"patch": {"id": "another"}}, VaceProtocolError),
        ({"drop": ["id"]}, VaceProtocolError),
    ],
    ids=str,
)
def test_one_look_is_one_request_and_its_failure_has_a_name(
    call: Call, slow: Emulator, fault: dict[str, Any], kind: type[VaceError]
) -> None:
    created = call("create", FOX)
    slow.faults.add(method="GET", times=None, **fault)
    with pytest.raises(kind) as caught:
        call("get", created)
    assert type(caught.value) is kind
    # aiohttp itself repeats a GET, once, whose connection broke off.
    assert len(slow.requests) <= (3 if "reset" in fault else 2)
    slow.faults.clear()
    assert call("get", created).id == created.id


def test_an_answer_that_is_too_large_is_cut_off(
    call: Call, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_vace.hooks._LARGEST_ANSWER", 1024**2)
    emulator.faults.add(status=200, body="x" * (2 * 1024**2))
    with pytest.raises(VaceProtocolError, match="larger than 1 MiB"):
        call("get", "abc")


def test_an_answer_that_echoes_a_large_input_is_read(call: Call, slow: Emulator) -> None:
    film = "data:video/mp4;base64," + "A" * 20_000_000
    created = call("create", {"prompt": "a fox", "src_video": film})
    assert created.input["src_video"] == film
    assert slow.bill["charged"] == 1


def test_huge_logs_do_not_get_into_a_payload(call: Call, slow: Emulator) -> None:
    created = call("create", FOX)
    slow.faults.add("huge_logs")
    told = call("get", created)
    assert len(told.logs) > 5_000_000
    assert told.progress.percent == 50
    assert len(json.dumps(told.payload())) < 2000


# --- the key ---------------------------------------------------------------------------------------


def test_nothing_reaches_a_foreign_host_not_even_by_redirect(call: Call, slow: Emulator) -> None:
    with Emulator() as foreign:
        created = call("create", FOX)
        urls = {"get": f"{foreign.url}/v1/predictions/{created.id}"}
        slow.faults.add(method="GET", patch={"urls": urls}, times=2)
        told = call("get", created)
        assert told.urls == urls
        assert call("get", told.payload()).id == created.id
        assert call("get", urls["get"]).id == created.id
        location = {"Location": f"{foreign.url}/v1/predictions/{created.id}"}
        for status in (301, 302, 303, 307, 308):
            slow.faults.add(status=status, headers=location)
            with pytest.raises(VaceAPIError, match="not followed"):
                call("get", created)
            slow.faults.add(status=status, headers=location)
            with pytest.raises((VaceAPIError, SubmissionUnknown)):
                call("create", FOX)
        assert call("cancel", told).status == "canceled"
        assert foreign.requests == []


def test_unknown_extras_do_not_become_headers(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(slow.connection) | {"login": "me", "extra": {"apikey": "x", "Cookie": "y"}}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(connection))
    call("create", FOX)
    assert [request.auth for request in slow.requests] == [("authorization",)]


@pytest.mark.usefixtures("slow")
def test_a_netrc_does_not_take_the_keys_place(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert call("create", FOX).status == "starting"


@pytest.mark.parametrize("location", ["http://[bad", "/\xe9", "//", "https://evil.example/"])
def test_a_malformed_redirect_is_a_refusal_like_any_other(call: Call, slow: Emulator, location: str) -> None:
    created = call("create", FOX)
    slow.faults.add(status=302, headers={"Location": location})
    with pytest.raises(VaceAPIError):
        call("get", created)
    slow.faults.add(method="POST", status=303, headers={"Location": location})
    with pytest.raises(SubmissionUnknown):
        call("create", FOX)


class Proxy(socketserver.StreamRequestHandler):
    """Takes a request, and a body, and breaks the connection off without an answer."""

    def handle(self) -> None:
        server: Any = self.server
        line = self.rfile.readline()
        length = 0
        while header := self.rfile.readline().strip():
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if line.startswith(b"CONNECT"):
            if server.refuses:
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        self.rfile.read(length)
        server.posts += 1


@pytest.fixture
def proxy() -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
        server.posts, server.refuses = 0, True  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def through(proxy: Any, scheme: str) -> str:
    address = f"http://127.0.0.1:{proxy.server_address[1]}"
    extra = {"proxies": {"http": address, "https": address}}
    return json.dumps(
        {"conn_type": "vace", "host": f"{scheme}://far.example", "password": "k" * 8, "extra": extra}
    )


def test_a_create_that_a_proxy_carried_and_lost_is_not_sent_again(
    call: Call, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", through(proxy, "http"))
    with pytest.raises(SubmissionUnknown):
        call("create", FOX)
    assert proxy.posts == 1


def test_a_proxy_that_refuses_the_tunnel_has_sent_nothing(
    call: Call, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_vace.polling.MOST_CREATES", 1)
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", through(proxy, "https"))
    with pytest.raises(VaceTransportError, match="nothing was sent") as caught:
        call("create", FOX)
    assert not caught.value.sent


@pytest.mark.usefixtures("slow")
def test_what_the_connection_says_of_proxies_wins_over_the_environment(
    call: Call, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", through(proxy, "http"))
    with pytest.raises(SubmissionUnknown):
        call("create", FOX)
    assert proxy.posts == 1


@pytest.mark.parametrize("where", ["connection", "environment"])
def test_a_proxy_is_used_by_both_faces(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    connection = {"conn_type": "vace", "host": "http://far.example", "password": slow.api_key}
    if where == "connection":
        connection["extra"] = json.dumps({"proxies": {"http": slow.url}})
    else:
        monkeypatch.setenv("http_proxy", slow.url)
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(connection))
    assert call("create", FOX).status == "starting"
    assert [request.host for request in slow.requests] == ["far.example"]


@pytest.mark.usefixtures("slow")
def test_the_environments_exceptions_from_a_proxy_hold(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert call("create", FOX).status == "starting"


def test_the_deadline_is_told_to_the_server(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(backend="replicate"))
    created = call("create", FOX, deadline=time.time() + 0.5)
    (run,) = slow.world.runs.values()
    assert run.cancel_after == 1.0
    assert final(call, created).status == "aborted"
    assert slow.bill["charged"] == 0


# --- looking up the connection ---------------------------------------------------------------------


@pytest.mark.usefixtures("slow")
def test_the_connection_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = VaceHook()
    created = hook.create_prediction(FOX)
    monkeypatch.delenv("AIRFLOW_CONN_VACE_DEFAULT")
    assert hook.get_prediction(created).id == created.id
    assert hook.fresh().get_prediction(created).id == created.id


def test_trouble_with_the_secrets_back_end_is_told_as_such(
    call: Call, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("vault is sealed, token s.5ecret")

    monkeypatch.setattr(VaceHook, "get_connection", broken)
    monkeypatch.setattr(VaceHook, "aget_connection", broken)
    with pytest.raises(VaceTransportError, match="could not be read") as caught:
        call("get", "abc")
    assert not caught.value.sent
    assert "5ecret" not in str(caught.value)
    assert emulator.requests == []


# --- waiting, testing, files -----------------------------------------------------------------------


def test_waiting_returns_the_end_whatever_it_is(emulator: Emulator) -> None:
    hook = VaceHook()
    done = hook.wait_for_prediction(hook.create_prediction(FOX), poll_interval=0.05)
    assert done.status == "succeeded"
    emulator.faults.add(method="POST", outcome={"status": "failed", "error": "E1001"})
    done = hook.wait_for_prediction(hook.create_prediction(FOX).id, poll_interval=0.05)
    assert (done.status, done.error) == ("failed", "E1001")


def test_waiting_ends_at_its_time_out_without_a_cancel(slow: Emulator) -> None:
    hook = VaceHook()
    created = hook.create_prediction(FOX)
    with pytest.raises(PredictionTimeout):
        hook.wait_for_prediction(created, timeout=0.3, poll_interval=0.1)
    assert slow.bill["predictions"][0]["status"] == "starting"


def test_waiting_gives_up_on_a_key_that_stays_refused(slow: Emulator) -> None:
    hook = VaceHook()
    created = hook.create_prediction(FOX)
    slow.faults.add(method="GET", status=401, body={"detail": "no"}, times=None)
    with pytest.raises(VaceAuthError):
        hook.wait_for_prediction(created, timeout=None, poll_interval=0.05)
    assert len(slow.requests) == 1 + MOST_REFUSALS


def test_a_connection_is_tested_with_a_free_get(
    backend: str, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(backend=backend))
    good, message = VaceHook().test_connection()
    assert good
    assert slow.url in message
    assert {request.method for request in slow.requests} == {"GET"}
    assert slow.bill["charged"] == 0


def test_a_failed_test_of_a_connection_says_which_part_failed(
    slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.loads(slow.connection)
    for change, said in (
        ({"password": "wrong-key"}, "key was not accepted"),
        ({"host": f"{slow.url}/_emulator"}, "does not speak this API"),
        ({"host": "http://127.0.0.1:1"}, "was not reached"),
        ({"host": ""}, "base URL"),
    ):
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(good | change))
        status, message = VaceHook().test_connection()
        assert not status
        assert said in message
        assert "wrong-key" not in message


def test_a_session_is_httphooks_with_the_connections_habits_and_no_key(
    slow: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, two = str(tmp_path / "a.pem"), str(tmp_path / "b.pem")
    for path in (one, two):
        Path(path).touch()
    extra = {"verify": False, "proxies": {"https": "http://proxy:3128"}, "cert": [one, two]}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(**extra))
    hook = VaceHook()
    session = hook.get_conn({"X-Trace": "1"})
    assert session.verify is False
    assert session.proxies == {"https": "http://proxy:3128"}
    assert session.cert == (one, two)
    assert session.headers["X-Trace"] == "1"
    assert slow.api_key not in str(session.headers)
    assert hook.base_url == slow.url


@pytest.mark.usefixtures("slow")
def test_the_asynchronous_face_works_without_a_context_too() -> None:
    async def run() -> str:
        created = await VaceHook().acreate_prediction(FOX)
        return str((await VaceHook().aget_prediction(created)).status)

    assert asyncio.run(run()) == "starting"


def test_calls_at_once_share_one_session_which_is_closed(
    slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = aiohttp.ClientSession

    def counted(*args: Any, **kwargs: Any) -> aiohttp.ClientSession:
        opened.append(real(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(aiohttp, "ClientSession", counted)

    async def run() -> None:
        async with VaceHook() as hook:
            await asyncio.gather(*(hook.acreate_prediction(FOX) for _ in range(5)))

    asyncio.run(run())
    assert [session.closed for session in opened] == [True]
    assert slow.bill["charged"] == 5


def test_a_file_comes_with_the_key_only_from_the_own_origin(slow: Emulator) -> None:
    with Emulator() as foreign:
        for server in (slow, foreign):
            server.faults.add(path="/a.mp4", status=200, body="film")
        slow.faults.add(path="/moved", status=302, headers={"Location": f"{foreign.url}/a.mp4"})
        hook = VaceHook()
        assert b"".join(hook.iter_file(f"{slow.url}/a.mp4")) == b"film"
        assert b"".join(hook.iter_file(f"{slow.url}/moved")) == b"film"
        assert [request.auth for request in foreign.requests] == [()]
        slow.faults.add(path="/round", times=None, status=302, headers={"Location": "/round"})
        with pytest.raises(VaceTransportError, match="too often"):
            list(hook.iter_file(f"{slow.url}/round"))
        slow.faults.add(path="/nowhere", status=302, headers={"Location": "http://[bad"})
        with pytest.raises(VaceProtocolError, match="redirected to nowhere"):
            list(hook.iter_file(f"{slow.url}/nowhere"))


def test_a_connection_may_be_a_uri(slow: Emulator, connect: Callable[[str], None]) -> None:
    host = slow.url.removeprefix("http://")
    for uri in (
        f"vace://:{slow.api_key}@{host}/http",
        f"vace://http://:{slow.api_key}@{host}",
        f"vace://:{slow.api_key}@{host}/http?backend=replicate&timeout=5&verify=false",
        f"vace://:{slow.api_key}@{host}/http?backend=&timeout=&verify=&cert=&proxies=",
    ):
        connect(uri)
        assert VaceHook().create_prediction(FOX).status == "starting"
    assert os.environ["AIRFLOW_CONN_VACE_DEFAULT"].startswith("vace://")


# --- TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + signed.public_bytes(pem))
    return path


def test_a_server_that_is_not_trusted_is_not_told_anything(
    call: Call, slow: Emulator, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_vace.polling.MOST_CREATES", 1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with Emulator(time_scale=100.0, tls=context) as trusted:
        assert trusted.url.startswith("https://")
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", trusted.connection)
        with pytest.raises(VaceTransportError, match="nothing was sent") as caught:
            call("create", FOX)
        assert not caught.value.sent
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.utils.DEFAULT_CA_BUNDLE_PATH)
        for verify in (str(certificate), False):
            monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", trusted.connection_to(verify=verify))
            assert call("create", FOX).status == "starting"
        assert trusted.bill["charged"] == 2
    assert slow.requests == []
