"""Further headers of a connection: a gateway's second key goes to the own origin, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.sdk import DAG

from airflow_vace.client.settings import Settings
from airflow_vace.core.credentials import check_headers, secrets_of
from airflow_vace.core.requests import Api
from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import VaceAuthError, VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from support import runs
from support.attempts import DONE, MODES, billed, killed_at, task, waiting
from support.faces import FOX
from support.polled import event_of, looked_at, run, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.faces import Call

PATH = "/v1/acct/gw/replicate"
NAME = "cf-aig-authorization"
# Random, since the database keeps the source of a DAG, which is this file.
KEY, SECOND = f"r8_{uuid4().hex}", f"cf_{uuid4().hex}"
BOTH = ("authorization", NAME)


def gateway(time_scale: float = 0.0002) -> Emulator:
    headers = {NAME: f"Bearer {SECOND}"}
    return Emulator(time_scale=time_scale, api_key=KEY, headers=headers, path=PATH)


@pytest.fixture
def cloudflare(connect: Callable[[str], None]) -> Iterator[Emulator]:
    with gateway() as server:
        connect(server.connection_to(timeout=60))
        yield server


@pytest.fixture
def slow_cloudflare(connect: Callable[[str], None]) -> Iterator[Emulator]:
    with gateway(100.0) as server:
        connect(server.connection_to(timeout=60))
        yield server


def settings(headers: object, password: str | None = KEY, host: str = "https://gateway.example") -> Settings:
    fields = SimpleNamespace(host=host, schema=None, port=None, password=password)
    return Settings.of(fields, {"headers": headers})


# --- what is sent ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurry")
def test_each_call_brings_both_keys_to_the_gateway(slow_cloudflare: Emulator, call: Call) -> None:
    assert VaceHook().test_connection() == (
        True,
        f"Reached {slow_cloudflare.url}{PATH} (replicate); the key was accepted",
    )
    slow_cloudflare.world.runs.clear()
    before = len(slow_cloudflare.requests)
    created = call("create", FOX)
    assert call("get", created).id == created.id
    assert [found.id for found in call("list")] == [created.id]
    assert call("cancel", created).status == "canceled"
    assert VaceHook().run("/predictions").status_code == 200
    seen = slow_cloudflare.requests[before:]
    assert {request.auth for request in seen} == {BOTH}
    assert all(request.path.startswith(PATH) for request in seen)


@pytest.mark.usefixtures("hurry")
def test_an_upload_brings_both_keys(cloudflare: Emulator, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"film")
    url = VaceHook().upload_file(lambda: path.open("rb"), name="a.bin", content_type="x/y", size=4)
    assert url.startswith(cloudflare.url)
    assert cloudflare.requests[-1].auth == BOTH


@pytest.mark.usefixtures("hurry")
@MODES
def test_a_task_saves_a_file_from_the_own_origin(
    cloudflare: Emulator, tmp_path: Path, deferrable: Any
) -> None:
    payload = waiting(save_to=f"{tmp_path}/", deferrable=deferrable).result()
    assert payload["files"]
    assert {request.auth for request in cloudflare.requests} == {BOTH}
    assert any("/_delivery/" in request.path for request in cloudflare.requests)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("way", ["direct", "redirected"])
def test_a_file_elsewhere_sees_neither_key(cloudflare: Emulator, tmp_path: Path, way: str) -> None:
    with gateway() as foreign:
        run_there = foreign.world.create(FOX, model="prunaai/vace-14b", version=None, now=0.0)
        url = f"{foreign.url}/_delivery/{run_there.id}/output.mp4"
        foreign.world.retention = float("inf")
        own = f"{cloudflare.url}/moved.mp4"
        cloudflare.faults.add(path="/moved.mp4", times=None, status=302, headers={"Location": url})
        done = {"status": "succeeded", "output": own if way == "redirected" else url}
        cloudflare.faults.add(path="*/predictions/*", times=None, patch=done)
        assert waiting(save_to=f"{tmp_path}/").result()["files"]
        assert {request.auth for request in foreign.requests} == {()}


def test_a_session_keeps_both_keys_from_other_origins(cloudflare: Emulator) -> None:
    with gateway() as foreign, VaceHook().get_conn() as session:
        session.get(f"{foreign.url}/v1/account", timeout=60)
        session.get(f"{cloudflare.url}{PATH}/predictions", timeout=60)
        assert foreign.requests[-1].auth == ()
        assert cloudflare.requests[-1].auth == BOTH


def test_a_wrong_second_key_is_a_refused_key(
    cloudflare: Emulator, connect: Callable[[str], None], call: Call
) -> None:
    connect(cloudflare.connection_to(headers={NAME: "Bearer a-wrong-second-key"}))
    with pytest.raises(VaceAuthError) as caught:
        call("create", FOX)
    assert "a-wrong-second-key" not in str(caught.value)
    assert "Unauthorized" in str(caught.value)
    assert VaceHook().test_connection()[1].startswith("Key refused")
    assert billed(cloudflare) == 0


def test_headers_may_replace_the_password(cloudflare: Emulator, connect: Callable[[str], None]) -> None:
    headers = {NAME: f"Bearer {SECOND}", "authorization": f"Token {KEY}"}
    fields = json.loads(cloudflare.connection_to(headers=headers)) | {"password": ""}
    connect(json.dumps(fields))
    assert VaceHook().create_prediction(FOX).status == "starting"
    assert VaceHook().test_connection()[0]


# --- the extra -------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"X-A": " b c "}, '{"X-A": "b c"}', {" X-A ": "b c\n"}], ids=str)
def test_headers_are_an_object_or_json_text(given: object) -> None:
    assert settings(given).api.get("abc").headers["X-A"] == "b c"


@pytest.mark.parametrize("given", [None, "", "  ", {}, "{}", "null"])
def test_unset_headers_add_nothing(given: object) -> None:
    assert set(settings(given).api.get("abc").headers) == {"Authorization", "Accept", "Cache-Control"}


BAD = "the-second-key"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([BAD], "is no object"),
        (BAD, "is no object"),
        (5, "is no object"),
        ({"X-A": f"{BAD}\r\nX-B: 1"}, "'X-A'"),
        ({"X-A": f"{BAD}\nX-B"}, "'X-A'"),
        ({"X-A": f"{BAD}ü"}, "'X-A'"),
        ({"X-A": f"{BAD}\0"}, "'X-A'"),
        ({"X-A": ""}, "'X-A'"),
        ({"X-A": True}, "'X-A'"),
        ({"X-A": [BAD]}, "'X-A'"),
        ({"X A": BAD}, "'X A'"),
        ({"X-A\nX-B": BAD}, "has the name"),
        ({"X:A": BAD}, "'X:A'"),
        ({"": BAD}, "has the name"),
        ({"Host": BAD}, "'Host'"),
        ({"content-length": BAD}, "'content-length'"),
        ({"Transfer-Encoding": BAD}, "'Transfer-Encoding'"),
        ({"Authorization": f"Bearer {BAD}"}, "'Authorization', or the password"),
        ({"authorization": f"Bearer {BAD}"}, "'Authorization', or the password"),
        ({"X-A": BAD, "x-a": "other"}, "twice"),
    ],
)
def test_unusable_headers_are_refused_without_their_value(given: object, named: str) -> None:
    with pytest.raises(VaceInputError, match=named) as caught:
        settings(given)
    assert caught.value.field == "headers"
    assert BAD not in repr(vars(caught.value)) + str(caught.value)


def test_a_missing_password_without_headers_is_refused() -> None:
    with pytest.raises(VaceInputError, match="no API key"):
        settings(None, password=None)


def test_settings_and_requests_show_no_header() -> None:
    found = settings({"X-A": BAD})
    for thing in (found, found.api, found.api.get("abc")):
        assert BAD not in repr(thing)
    assert found != settings({"X-A": "another"})
    assert found.api != settings({"X-A": "another"}).api


@pytest.mark.parametrize(
    ("headers", "secrets"),
    [
        ({NAME: f"Bearer {SECOND}"}, [f"Bearer {SECOND}", SECOND]),
        ({"X-Connection-Api-Key": "second"}, ["second"]),
        ({"x-second": "a-value-with-1"}, ["a-value-with-1"]),
        ({"x-portkey-provider": "replicate", "New-Api-User": "123456"}, []),
        ({"Helicone-Target-Url": "https://api.replicate.com"}, []),
    ],
)
def test_secret_values_are_masked_whole_and_without_their_scheme(
    headers: dict[str, str], secrets: list[str]
) -> None:
    assert list(secrets_of(KEY, check_headers(headers))) == [KEY, *secrets]


def test_an_echoed_second_key_is_removed_from_a_response(cloudflare: Emulator) -> None:
    created = VaceHook().create_prediction(FOX)
    cloudflare.faults.add(path="*/predictions/*", patch={"error": f"bad key {SECOND}"})
    assert VaceHook().get_prediction(created).error == "bad key ***"


def test_a_routing_word_in_a_header_leaves_responses_unchanged() -> None:
    headers = check_headers({"x-portkey-provider": "replicate", "x-api-key": "replicate"})
    api = Api.at("https://gateway.example", KEY, headers=headers)
    assert "replicate" not in api.key_forms


# --- a second key that changes ---------------------------------------------------------------------

ANOTHER = {NAME: "Bearer another-second-key"}


@pytest.mark.usefixtures("hurry")
def test_a_changed_second_key_is_used_once_the_old_one_is_refused(
    slow_cloudflare: Emulator, connect: Callable[[str], None]
) -> None:
    created = VaceHook().create_prediction(FOX)

    async def change_it() -> dict[str, Any]:
        wait = asyncio.create_task(event_of(created, poll_interval=0.1))
        await settled(slow_cloudflare, lambda: looked_at(slow_cloudflare, created) >= 2)
        connect(slow_cloudflare.connection_to(timeout=30, headers=ANOTHER))
        slow_cloudflare.dialect = replace(slow_cloudflare.dialect, headers=ANOTHER)
        slow_cloudflare.faults.add(path="*/predictions/*", patch=DONE, times=None)
        return await wait

    assert run(change_it())["status"] == "succeeded"


@pytest.mark.usefixtures("hurry")
def test_a_changed_second_key_makes_no_other_account(
    slow_cloudflare: Emulator, connect: Callable[[str], None]
) -> None:
    lost = task()
    killed_at(lost, "submit")
    slow_cloudflare.dialect = replace(slow_cloudflare.dialect, headers=ANOTHER)
    connect(slow_cloudflare.connection_to(timeout=60))
    lost.result()
    assert billed(slow_cloudflare) == 1


# --- leaks -----------------------------------------------------------------------------------------


def test_neither_key_is_in_the_database_a_log_or_a_manifest(
    cloudflare: Emulator, tmp_path: Path, airflow_db: str, capfd: pytest.CaptureFixture[str]
) -> None:
    echo = {"error": f"bad keys {KEY} {SECOND}", "urls": {"web": f"https://example.com/?key={SECOND}"}}
    cloudflare.faults.add(path="*/predictions/*", status=401, body={"detail": f"Invalid: Bearer {SECOND}"})
    cloudflare.faults.add(path="*/predictions/*", patch={"status": "processing", **echo})
    with DAG("two_keys", schedule=None) as dag:
        common: dict[str, Any] = {"input": {"prompt": "a fox"}, "wait_for_completion": True}
        VacePredictionOperator(task_id="deferred", deferrable=True, save_to=f"{tmp_path}/", **common)
        VacePredictionOperator(task_id="waits", deferrable=False, save_to=f"{tmp_path}/", **common)
        submit = VacePredictionOperator(task_id="submit", input={"prompt": "a dog"})
        VacePredictionSensor(task_id="sensor", prediction=submit.output, deferrable=True)
    good = runs.run(dag)
    cloudflare.faults.add(path="*/predictions/*", times=None, patch={"status": "failed", **echo})
    bad = runs.run(dag)
    assert (str(good.state), str(bad.state)) == ("success", "failed")
    out, err = capfd.readouterr()
    found = [runs.xcom(good, name) for name in ("deferred", "waits", "submit", "sensor")]
    manifests = [path.read_text() for path in tmp_path.rglob("*.json")]
    with sqlite3.connect(airflow_db) as database:
        dump = "\n".join(database.iterdump())
    assert "Prediction" in out
    assert "two_keys" in dump
    assert len(manifests) == 2
    for secret in (KEY, SECOND):
        assert secret not in out + err
        assert secret not in json.dumps(found)
        assert secret not in "".join(manifests)
        assert secret not in dump
        for path in Path(airflow_db).parent.rglob("*"):
            if path.is_file():
                assert secret.encode() not in runs.content_of(path), path
