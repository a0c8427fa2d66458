"""Versions of models: references, and the look-up of the latest version at Replicate."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_vace.core.names import split_reference
from airflow_vace.decorators import vace_task
from airflow_vace.emulator.models import FIRST_VERSION, Model
from airflow_vace.exceptions import VaceAuthError, VaceInputError, VaceRateLimited, VaceTransportError
from airflow_vace.hooks import VaceHook
from support.attempts import DONE, billed, killed_at, task, waiting
from support.faces import FOX
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator
    from support.faces import Call

pytestmark = pytest.mark.usefixtures("hurry")

NEWER = "f" * 64
MODEL = "/v1/models/prunaai/vace-14b"


@pytest.fixture
def replicate(fast_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    connect(fast_emulator.connection_to(backend="replicate", timeout=30))
    return fast_emulator


def look_ups(server: Emulator) -> int:
    return sum(request.path == MODEL for request in server.requests)


def posts(server: Emulator) -> list[str]:
    return [request.path for request in server.requests if request.method == "POST"]


# --- references ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "version", "meant"),
    [
        ("a/b", "v", ("a/b", "v")),
        ("a/b:v", None, ("a/b", "v")),
        (None, " a/b:v ", ("a/b", "v")),
        ("A/b", "a/b:v", ("A/b", "v")),
        ("a/b:v", "a/b:v", ("a/b", "v")),
        ("a/b:v", "v", ("a/b", "v")),
        (None, "v", (None, "v")),
        ("https://replicate.com/a/b", "v", ("a/b", "v")),
        ("replicate.com/a/b/versions/v", None, ("a/b", "v")),
        (None, "https://www.replicate.com/a/b/versions/v/", ("a/b", "v")),
        ("a/b@v", None, ("a/b", "v")),
        ("r8.im/a/b@sha256:v", None, ("a/b", "v")),
        (None, "", (None, "")),
        (None, None, (None, None)),
    ],
)
def test_a_reference_names_model_and_version(
    model: str | None, version: str | None, meant: tuple[str | None, str | None]
) -> None:
    assert split_reference(model, version) == meant


@pytest.mark.parametrize(
    ("model", "version", "field"),
    [("a/b", "c/d:v", "model"), ("a/b:v", "w", "version"), ("a/b:v", "a/b:w", "version")],
)
def test_two_models_or_two_versions_are_refused(model: str, version: str, field: str) -> None:
    with pytest.raises(VaceInputError, match="Name one") as caught:
        split_reference(model, version)
    assert caught.value.field == field


REFERENCE = f"prunaai/vace-14b:{FIRST_VERSION}"


@pytest.mark.parametrize(
    "named", [{"model": REFERENCE}, {"version": REFERENCE}, {"version": FIRST_VERSION}], ids=str
)
def test_a_reference_works_for_each_parameter(
    replicate: Emulator, call: Call, connect: Callable[[str], None], named: dict[str, str]
) -> None:
    assert call("create", FOX, **named).version == FIRST_VERSION
    assert task(None, **named).result()["version"] == FIRST_VERSION
    connect(replicate.connection_to(backend="replicate", timeout=30, **named))
    assert call("create", FOX).version == FIRST_VERSION
    assert look_ups(replicate) == 0
    assert set(posts(replicate)) == {"/v1/predictions"}


def test_a_function_may_name_model_and_version_in_one(replicate: Emulator) -> None:
    @vace_task(task_id="t", model=REFERENCE)
    def clip() -> str:
        return "a fox"

    with DAG("d", schedule=None):
        made: Any = clip()
    assert Run(lambda: made.operator, Store()).result()["version"] == FIRST_VERSION
    assert look_ups(replicate) == 0


def test_a_contradiction_is_refused_before_any_request(replicate: Emulator, call: Call) -> None:
    with pytest.raises(VaceInputError, match="Two values of 'version'"):
        call("create", FOX, model=REFERENCE, version=NEWER)
    with pytest.raises(AirflowFailException, match="Two values of 'version'"):
        task(model=REFERENCE, version=NEWER).result()
    assert replicate.requests == []


def test_the_connections_version_belongs_to_the_connections_model(
    replicate: Emulator, call: Call, connect: Callable[[str], None]
) -> None:
    replicate.models.publish(NEWER, "a/b")
    connect(replicate.connection_to(backend="replicate", model="a/b", version=NEWER))
    assert call("create", FOX, model="prunaai/vace-14b").version == FIRST_VERSION


# --- the look-up -----------------------------------------------------------------------------------


def test_the_latest_version_is_looked_up_once(
    replicate: Emulator, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        assert call("create", FOX).version == FIRST_VERSION
    assert look_ups(replicate) == 1
    assert posts(replicate) == ["/v1/predictions"] * 3
    assert f"Version {FIRST_VERSION} of prunaai/vace-14b is used" in capfd.readouterr().out


def test_concurrent_creates_share_one_look_up(replicate: Emulator) -> None:
    async def create() -> None:
        async with VaceHook() as hook:
            await asyncio.gather(*(hook.acreate_prediction(FOX) for _ in range(5)))

    asyncio.run(create())
    assert (look_ups(replicate), billed(replicate)) == (1, 5)


def test_an_official_model_goes_without_a_version(replicate: Emulator, call: Call) -> None:
    replicate.models.known["prunaai/vace-14b"].is_official = True
    assert call("create", FOX).status == "starting"
    assert task().result()["status"] == "starting"
    assert set(posts(replicate)) == {f"{MODEL}/predictions"}
    assert look_ups(replicate) == 1


def test_other_back_ends_look_nothing_up(fast_emulator: Emulator, connect: Callable[[str], None]) -> None:
    for backend in ("gateway", "pruna"):
        connect(fast_emulator.connection_to(backend=backend))
        VaceHook().create_prediction(FOX)
    assert {request.method for request in fast_emulator.requests} == {"POST"}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 405, "body": {"detail": "no"}}, VaceInputError),
        ({"patch": {"latest_version": None}}, VaceInputError),
        ({"patch": {"latest_version": {"id": "a b"}}}, VaceInputError),
        ({"status": 200, "body": []}, VaceTransportError),
        ({"status": 200, "body": "<html>Sign in</html>"}, VaceTransportError),
        ({"status": 404, "body": "not found"}, VaceTransportError),
        ({"status": 403, "body": "<html>blocked</html>"}, VaceTransportError),
        ({"status": 500}, VaceTransportError),
        ({"status": 503, "body": {"detail": "busy"}}, VaceTransportError),
        ({"status": 401, "body": {"detail": "no"}}, VaceAuthError),
        ({"status": 429, "body": {"detail": "no", "retry_after": 0.1}}, VaceRateLimited),
    ],
    ids=str,
)
def test_a_failed_look_up_names_the_remedy(
    replicate: Emulator, call: Call, fault: dict[str, Any], error: type[Exception]
) -> None:
    replicate.faults.add(path=MODEL, times=None, **fault)
    with pytest.raises(error) as caught:
        call("create", FOX)
    for part in ("`version=`", "extra `version`", "https://replicate.com/prunaai/vace-14b/versions"):
        assert part in str(caught.value)
    assert "nothing is billed" in str(caught.value)
    is_lasting = error in (VaceInputError, VaceAuthError)
    run = task()
    with pytest.raises(AirflowFailException if is_lasting else error, match="needs a version"):
        run.result()
    assert (billed(replicate), posts(replicate)) == (0, [])
    assert look_ups(replicate) == (2 if is_lasting else 6)
    replicate.faults.clear()
    assert run.retried().result()["version"] == FIRST_VERSION


@pytest.mark.parametrize("fault", [{"reset": "before"}, {"truncate": 40}], ids=str)
def test_a_look_up_without_an_answer_is_followed_by_a_create_by_name(
    replicate: Emulator, call: Call, fault: dict[str, Any]
) -> None:
    replicate.faults.add(path=MODEL, times=None, **fault)
    # Another attempt may find the server well again, so the error is no refusal of the input.
    with pytest.raises(VaceTransportError, match="needs a version") as caught:
        call("create", FOX)
    assert not caught.value.sent
    assert billed(replicate) == 0
    replicate.models.known["prunaai/vace-14b"].is_official = True
    assert call("create", FOX).status == "starting"


def test_a_create_by_name_names_the_remedy_where_the_server_refuses_it(
    replicate: Emulator, call: Call
) -> None:
    replicate.faults.add(path=MODEL, times=None, status=404, body={"detail": "not found", "status": 404})
    with pytest.raises(VaceInputError, match="needs a version") as caught:
        call("create", FOX)
    assert "extra `version`" in str(caught.value)
    store = Store()
    with pytest.raises(AirflowFailException, match="nothing is billed"):
        task(store).result()
    assert (billed(replicate), store.rows) == (0, {})
    assert posts(replicate) == [f"{MODEL}/predictions"] * 2


def test_a_server_without_the_look_up_gets_the_model_by_name(replicate: Emulator, call: Call) -> None:
    replicate.faults.add(path=MODEL, times=None, status=404, body={"detail": "not found", "status": 404})
    replicate.models.known["prunaai/vace-14b"].is_official = True
    assert call("create", FOX).status == "starting"
    assert task().result()["status"] == "starting"
    assert posts(replicate) == [f"{MODEL}/predictions"] * 2


def test_a_look_up_is_repeated_after_trouble(replicate: Emulator, call: Call) -> None:
    replicate.faults.add(path=MODEL, times=2, status=502)
    assert call("create", FOX).version == FIRST_VERSION
    assert look_ups(replicate) == 3


def test_a_model_without_versions_is_refused(replicate: Emulator, call: Call) -> None:
    replicate.models.known["a/b"] = Model(owner="a", name="b")
    with pytest.raises(VaceInputError, match="names no latest version"):
        call("create", FOX, model="a/b")


# --- attempts --------------------------------------------------------------------------------------


def publish_and_reconnect(server: Emulator, connect: Callable[[str], None]) -> None:
    """Publish a version, and change the connection, so that this process looks the version up again."""
    server.models.publish(NEWER)
    connect(server.connection_to(backend="replicate", timeout=30, lists=False))


def test_a_retry_stays_with_the_version_of_the_first_attempt(
    replicate: Emulator, connect: Callable[[str], None]
) -> None:
    store = Store()
    replicate.faults.add(path="*/predictions/*", patch={"status": "failed", "error": "E6716"})
    run = waiting(store)
    with pytest.raises(Exception, match="E6716"):
        run.result()
    assert (store.record["version"], store.record["latest_version"]) == (None, FIRST_VERSION)
    publish_and_reconnect(replicate, connect)
    replicate.faults.add(path="*/predictions/*", times=None, patch=DONE)
    assert run.retried().result()["version"] == FIRST_VERSION
    assert look_ups(replicate) == 1
    assert billed(replicate) == 2


@pytest.mark.parametrize("again", ["retried", "cleared"])
def test_a_version_published_since_submits_nothing(
    replicate: Emulator, connect: Callable[[str], None], again: str, tmp_path: Path
) -> None:
    run = waiting(save_to=f"{tmp_path}/")
    killed_at(run, "wait_for_prediction")
    publish_and_reconnect(replicate, connect)
    payload = getattr(run, again)().result()
    assert payload["version"] == FIRST_VERSION
    assert billed(replicate) == 1
    (manifest,) = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    assert (manifest["version"], manifest["input"]["prompt"]) == (FIRST_VERSION, "a fox")


def test_a_new_prediction_after_a_clear_uses_the_latest_version(
    replicate: Emulator, connect: Callable[[str], None]
) -> None:
    run = waiting(reuse=False)
    run.result()
    publish_and_reconnect(replicate, connect)
    assert run.cleared().result()["version"] == NEWER


def test_a_lost_create_is_found_after_a_new_version(replicate: Emulator) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    replicate.models.publish(NEWER)
    assert run.retried().result()["version"] == FIRST_VERSION
    assert billed(replicate) == 1


def test_another_model_in_a_retry_leaves_the_old_version_behind(replicate: Emulator) -> None:
    store = Store()
    task(store, model=f"prunaai/vace-14b:{FIRST_VERSION}").result()
    replicate.models.publish(NEWER, "a/b")
    retry = task(store, model="a/b")
    retry.ti.try_number = 2
    found = retry.result()
    assert (found["model"], found["version"]) == ("a/b", NEWER)
    assert store.record["model"] == "a/b"


def test_the_connection_of_the_readme_brings_a_video(
    replicate: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    connect(f"vace://:{replicate.api_key}@127.0.0.1:{replicate.port}/http?backend=replicate")
    assert waiting(save_to=f"{tmp_path}/").result()["files"]
