"""The clients without Airflow, and the key in HttpHook's inherited calls."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException
from requests.auth import HTTPBasicAuth
from tenacity import retry_if_exception_type, stop_after_attempt

from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import Final, PollAgain, Wait
from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import VaceAuthError, VaceConnectionMissing
from airflow_vace.hooks import VaceHook
from conftest import scale_waits
from support.faces import FOX

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.prediction import Prediction

# --- without Airflow -------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from types import SimpleNamespace
sys.modules["airflow"] = None  # an import of Airflow fails

from airflow_vace.client import poller
from airflow_vace.client.client import AsyncVaceClient, VaceClient
from airflow_vace.client.settings import Settings
from airflow_vace.core import calls
from airflow_vace.core.timing import Timing

connection = SimpleNamespace(host=sys.argv[1], schema=None, port=None, password=sys.argv[2])
settings = Settings.of(connection, {})
client = VaceClient(lambda: settings)
creation = calls.Creation(values={"prompt": "a fox"})
timing = Timing().scaled(0.01)
created = client.run(calls.create(creation, timing=timing, now=lambda: 0.0))

async def connect():
    return settings

async def wait():
    async with AsyncVaceClient(connect) as waiting:
        print((await waiting.run(calls.get(created.id))).id == created.id)
    mine = poller.join("any", connect, timing=timing)
    options = poller.WaitOptions(write=lambda *_: None, poll_interval=0.05)
    try:
        return (await mine.wait_until_final(created.id, options)).status
    finally:
        await poller.leave(mine)

print(asyncio.run(wait()))
"""


def test_clients_and_poller_work_without_airflow() -> None:
    with Emulator(time_scale=0.0002) as server:
        command = [sys.executable, "-c", PROGRAM, server.url, server.api_key]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["True", "succeeded"], done.stderr


# --- inherited calls -------------------------------------------------------------------------------


def test_an_inherited_run_sends_the_key(slow: Emulator, connect: Callable[[str], None], backend: str) -> None:
    connect(slow.connection_to(backend=backend))
    hook = VaceHook()
    created = hook.create_prediction(FOX)
    path = hook.settings.api.get(created.id).url.removeprefix(slow.url)
    assert hook.run(path).json()["id" if backend != "pruna" else "status"]
    assert slow.requests[-1].auth == (hook.settings.api.backend.key_header.lower(),)


def test_an_inherited_run_with_retries_sends_the_key(slow: Emulator) -> None:
    hook = VaceHook()
    created = hook.create_prediction(FOX)
    path = f"/replicate/v1/predictions/{created.id}"
    slow.faults.add(method="GET", status=503)
    retries: dict[str, Any] = {
        "stop": stop_after_attempt(2),
        "retry": retry_if_exception_type(AirflowException),
    }
    assert hook.run_with_advanced_retry(retries, path).json()["id"] == created.id


@pytest.mark.usefixtures("slow")
def test_an_inherited_run_posts_with_the_key() -> None:
    hook = VaceHook()
    hook.method = "POST"
    created = hook.create_prediction(FOX)
    response = hook.run(f"/replicate/v1/predictions/{created.id}/cancel")
    assert response.json()["status"] == "canceled"


def test_a_session_keeps_the_key_from_other_origins(slow: Emulator) -> None:
    hook = VaceHook()
    with Emulator() as other, hook.get_conn() as session:
        session.get(f"{other.url}/replicate/v1/predictions/abc", timeout=60)
        assert [request.auth for request in other.requests] == [()]
        moved = {"Location": f"{other.url}/replicate/v1/predictions/abc"}
        slow.faults.add(method="GET", status=302, headers=moved)
        assert hook.run("/replicate/v1/predictions/abc").status_code == 302
        assert len(other.requests) == 1


def test_a_caller_can_replace_the_key_of_a_session(slow: Emulator) -> None:
    with VaceHook().get_conn() as session:
        session.auth = HTTPBasicAuth("somebody", "else")
        assert session.get(f"{slow.url}/replicate/v1/predictions/abc", timeout=60).status_code == 401


# --- one poll of a wait ----------------------------------------------------------------------------


def a_wait(prediction: Prediction, **kwargs: Any) -> Wait:
    return Wait(prediction=prediction, timing=Timing().scaled(0.01), **kwargs)


def test_a_poll_of_a_running_prediction_asks_for_another(slow: Emulator) -> None:
    hook = VaceHook()
    wait = a_wait(hook.create_prediction(FOX))
    assert isinstance(hook.poll(wait), PollAgain)
    slow.faults.add(method="GET", patch={"status": "failed"})
    assert isinstance(hook.poll(wait), Final)


def test_a_poll_ends_with_a_key_that_stays_refused(slow: Emulator) -> None:
    hook = VaceHook()
    wait = a_wait(hook.create_prediction(FOX))
    slow.faults.add(method="GET", status=401, body={"detail": "no"}, times=None)
    with pytest.raises(VaceAuthError):
        hook.poll(wait)
    assert len(slow.requests) == 1 + Timing().max_auth_refusals


def test_a_proxys_refusal_ends_no_wait(slow: Emulator) -> None:
    hook = VaceHook()
    wait = a_wait(hook.create_prediction(FOX))
    slow.faults.add(method="GET", status=403, body="<html>blocked</html>", times=20)
    assert all(isinstance(hook.poll(wait), PollAgain) for _ in range(20))


@pytest.mark.usefixtures("hurry")
def test_a_missing_connection_ends_a_wait_only_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 1.0, missing_connection_grace_seconds=0.1)
    with pytest.raises(VaceConnectionMissing, match="no_such"):
        VaceHook("no_such").wait_for_prediction("abc")
    with pytest.raises(AirflowNotFoundException):
        VaceHook("no_such").get_prediction("abc")
