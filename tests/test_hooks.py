"""The hook against a server; the fixture `call` runs each test with blocking and with awaitable calls."""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import (
    PredictionTimeout,
    VaceAuthError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from support.faces import FOX, Call, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator


# --- the whole way, on each back-end ---------------------------------------------------------------


def test_a_prediction_is_created_and_polled(
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
def test_a_prediction_is_found_by_any_reference(call: Call, reference: str) -> None:
    created = call("create", FOX)
    forms = {
        "payload": created.payload(),
        "id": created.id,
        "urls.get": created.urls["get"],
        "prediction": created,
    }
    assert "api.replicate.com" in created.urls["get"]
    assert call("get", forms[reference]).id == created.id


def test_a_running_prediction_is_canceled_and_a_terminal_one_stays(call: Call, slow: Emulator) -> None:
    created = call("create", FOX)
    assert call("cancel", created).status == "canceled"
    assert call("cancel", created.payload()).status == "canceled"
    assert slow.bill["predictions"][0]["status"] == "canceled"


def test_a_cancel_with_another_answer_is_checked_by_a_poll(call: Call, slow: Emulator) -> None:
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


def test_an_accounts_spend_is_counted_over_all_pages(slow: Emulator, connect: Callable[[str], None]) -> None:
    connect(slow.connection_to(lists=True, prices={"prunaai/vace-14b": {"per_run": 0.40}}))
    now = time.time()
    models = ["a/b", *["prunaai/vace-14b"] * 101, "no/price"]
    for number, model in enumerate(models):
        created = now if number else now - 3600
        slow.world.create({"prompt": f"fox {number}"}, model=model, version=None, now=created)
    start = datetime.fromtimestamp(now - 60, UTC)
    spend = VaceHook().account_spend(start)
    assert (spend.count, spend.unpriced) == (102, 1)
    assert spend.amounts == {"USD": Decimal("40.40")}
    assert VaceHook().account_spend(start.replace(tzinfo=None)) == spend


def test_a_back_end_without_a_list_has_no_spend(slow: Emulator, connect: Callable[[str], None]) -> None:
    connect(slow.connection)
    with pytest.raises(VaceInputError, match="documents no list"):
        VaceHook().account_spend(datetime.now(UTC))


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


def test_an_endless_list_and_a_foreign_page_are_errors(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(backend="replicate"))
    endless = {"results": [], "next": f"{slow.url}/v1/predictions?cursor=0"}
    slow.faults.add(status=200, body=endless, times=None)
    with pytest.raises(VaceProtocolError, match="more than 200 pages"):
        call("list")
    assert len(slow.requests) == 200
    slow.faults.clear()
    slow.faults.add(status=200, body={"results": [], "next": "https://evil.example/v1/predictions"})
    with pytest.raises(VaceProtocolError, match="foreign origin"):
        call("list")


# --- looking up the connection ---------------------------------------------------------------------


@pytest.mark.usefixtures("slow")
def test_the_connection_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = VaceHook()
    created = hook.create_prediction(FOX)
    monkeypatch.delenv("AIRFLOW_CONN_VACE_DEFAULT")
    assert hook.get_prediction(created).id == created.id
    assert hook.fresh().get_prediction(created).id == created.id


def test_a_failed_secrets_back_end_is_a_transport_error(
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


def test_waiting_returns_success_and_failure_alike(emulator: Emulator) -> None:
    hook = VaceHook()
    done = hook.wait_for_prediction(hook.create_prediction(FOX), poll_interval=0.05)
    assert done.status == "succeeded"
    emulator.faults.add(method="POST", outcome={"status": "failed", "error": "E1001"})
    done = hook.wait_for_prediction(hook.create_prediction(FOX).id, poll_interval=0.05)
    assert (done.status, done.error) == ("failed", "E1001")


def test_a_wait_ends_at_its_timeout_without_a_cancel(slow: Emulator) -> None:
    hook = VaceHook()
    created = hook.create_prediction(FOX)
    with pytest.raises(PredictionTimeout):
        hook.wait_for_prediction(created, timeout=0.3, poll_interval=0.1)
    assert slow.bill["predictions"][0]["status"] == "starting"


def test_a_wait_ends_with_a_key_that_stays_refused(slow: Emulator) -> None:
    hook = VaceHook()
    created = hook.create_prediction(FOX)
    slow.faults.add(method="GET", status=401, body={"detail": "no"}, times=None)
    with pytest.raises(VaceAuthError):
        hook.wait_for_prediction(created, timeout=None, poll_interval=0.05)
    assert len(slow.requests) == 1 + Timing().max_auth_refusals


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
    for change, verdict, said in (
        ({"password": "wrong-key"}, "Key refused", "key was not accepted"),
        ({"password": None}, "Not usable", "password field"),
        ({"host": f"{slow.url}/_emulator"}, "Not this API", "does not speak this API"),
        ({"host": "http://127.0.0.1:1"}, "Not reached", "Connection refused"),
        ({"host": "https://no-such-host.invalid"}, "Not reached", "its host is not known"),
        ({"host": ""}, "Not usable", "base URL"),
        ({"extra": {"backend": "runway"}}, "Not usable", "must be gateway"),
    ):
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(good | change))
        status, message = VaceHook().test_connection()
        assert not status
        assert message.startswith(f"{verdict}: ")
        assert said in message
        assert "wrong-key" not in message


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ({"status": 404, "body": {"detail": "Not Found"}}, "Not this API, or it asks for no key: "),
        ({"status": 404, "body": "<html>nothing here</html>"}, "Not this API: "),
        ({"status": 200, "body": "<html>welcome</html>"}, "Not this API: "),
        ({"status": 302, "headers": {"Location": "https://login.example/"}}, "Reached, but refused: "),
        ({"status": 429}, "Reached, but refused: "),
        ({"status": 503}, "Reached, but refused: "),
        ({"reset": "before"}, "No answer: "),
    ],
    ids=str,
)
def test_a_connection_test_distinguishes_other_servers_from_failing_ones(
    slow: Emulator, fault: dict[str, Any], verdict: str
) -> None:
    slow.faults.add(method="GET", times=None, **fault)
    status, message = VaceHook().test_connection()
    assert not status
    assert message.startswith(verdict)
    assert slow.bill["charged"] == 0


def test_a_session_has_the_settings_of_the_connection(
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
def test_awaitable_calls_work_without_a_context_too() -> None:
    async def run() -> str:
        created = await VaceHook().acreate_prediction(FOX)
        return str((await VaceHook().aget_prediction(created)).status)

    assert asyncio.run(run()) == "starting"


def test_concurrent_calls_share_one_session_and_close_it(
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
