"""Answers in the forms of gateways, from the create to the result of a task."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.exceptions import (
    PredictionFailed,
    PredictionTimeout,
    SubmissionUnknown,
    VaceAPIError,
    VaceBillingError,
    VaceProtocolError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.sensors import VacePredictionSensor
from support.attempts import MODES, billed, killed_at, waiting
from support.films import DATA_URL
from support.polled import event_of
from support.scripted import Scripted, head
from support.tasks import Run, Store, TaskInstance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator
    from support.faces import Call

pytestmark = pytest.mark.usefixtures("hurry")

VIDEO = "https://example.com/a.mp4"
FOX = {"prompt": "a fox"}
JSON = {"Content-Type": "application/json"}
DONE: dict[str, Any] = {"status": "succeeded", "output": VIDEO}


@pytest.fixture
def backend() -> str:
    return "gateway"


def waited(mode: str, prediction: Any, timeout: float = 5.0) -> dict[str, Any]:
    """Wait on a worker or in a triggerer; return the payload of the end."""
    if mode == "worker":
        return VaceHook().wait_for_prediction(prediction, timeout, poll_interval=0.1).payload()
    reference = prediction if isinstance(prediction, str | dict) else prediction.payload()

    async def work() -> dict[str, Any]:
        return await asyncio.wait_for(event_of(reference, poll_interval=0.1), timeout)

    return asyncio.run(work())


WAITS = pytest.mark.parametrize("mode", ["worker", "triggerer"])


# --- words and envelopes ---------------------------------------------------------------------------


@WAITS
@pytest.mark.parametrize("word", ["completed", "SUCCESS", "Done", "TASK_STATUS_SUCCEED"])
def test_a_gateways_word_for_success_ends_a_wait(server: Emulator, mode: str, word: str) -> None:
    created = VaceHook().create_prediction(FOX)
    server.faults.add(method="GET", times=2, patch={"status": word, "output": None})
    server.faults.add(method="GET", times=None, patch={"status": word, "output": VIDEO})
    found = waited(mode, created)
    assert (found["status"], found["output"], found["status_word"]) == ("succeeded", VIDEO, word)
    assert len(server.requests) >= 4


@WAITS
@pytest.mark.parametrize("word", ["FAILURE", "error", "expired", "timed out"])
def test_a_gateways_word_for_failure_ends_a_wait(server: Emulator, mode: str, word: str) -> None:
    created = VaceHook().create_prediction(FOX)
    server.faults.add(method="GET", times=None, patch={"status": word, "error": "it broke"})
    assert waited(mode, created)["status"] == "failed"


def test_a_task_shows_the_gateways_word_of_a_failure(server: Emulator) -> None:
    server.faults.add(method="GET", times=None, patch={"status": "EXPIRED", "error": None})
    with pytest.raises(AirflowFailException, match="in the server's words 'EXPIRED'") as caught:
        waiting().result()
    assert isinstance(caught.value.__cause__, PredictionFailed)


WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "data": lambda inner: {"code": 200, "message": "success", "data": inner},
    "twice": lambda inner: {"code": "success", "data": {"task": inner}},
    "list": lambda inner: {"code": 0, "data": [inner]},
    "names": lambda inner: {
        "task_id": inner["id"],
        "task_status": inner["status"],
        "result_url": inner.get("output"),
    },
    "status only": lambda inner: {"data": inner} if "output" not in inner else {"data": {**inner, "id": ""}},
}


@MODES
@pytest.mark.parametrize("form", WRAPPED)
def test_a_wrapped_prediction_is_created_awaited_and_returned(
    server: Emulator, form: str, *, deferrable: bool
) -> None:
    wrap = WRAPPED[form]
    starting, done = wrap({"id": "task_1", "status": "starting"}), wrap({"id": "task_1", **DONE})
    server.faults.add(method="POST", status=200, headers=JSON, body=starting, accept=True)
    server.faults.add(method="GET", times=2, status=200, headers=JSON, body=starting)
    server.faults.add(method="GET", times=None, status=200, headers=JSON, body=done)
    found = waiting(deferrable=deferrable).result()
    assert (found["id"], found["status"], found["output"]) == ("task_1", "succeeded", VIDEO)
    assert billed(server) == 1


def test_a_byte_order_mark_and_a_name_of_html_hide_nothing(server: Emulator) -> None:
    body = "\N{BYTE ORDER MARK}" + json.dumps({"id": "task_1", "status": "starting"})
    headers = {"Content-Type": "text/html; charset=UTF-8"}
    server.faults.add(method="POST", status=201, headers=headers, body=body, accept=True)
    server.faults.add(
        method="GET",
        times=None,
        status=200,
        headers=headers,
        body={"id": "task_1", "status": "succeeded"} | DONE,
    )
    assert waiting().result()["id"] == "task_1"
    assert billed(server) == 1


def test_an_output_that_comes_with_the_create_is_saved(server: Emulator, tmp_path: Path) -> None:
    body = {"status": "succeeded", "output": [DATA_URL]}
    server.faults.add(method="POST", status=200, headers=JSON, body=body, accept=True)
    store = Store()
    found = waiting(store, save_to=f"{tmp_path}/").result()
    (file,) = found["files"]
    assert file["content_type"] == "video/mp4"
    assert billed(server) == 1
    again = Run(partial(waiting, store, save_to=f"{tmp_path}/")().make, store)
    again.ti.try_number = 2
    assert again.result()["files"] == [file]
    assert billed(server) == 1


# --- ids -------------------------------------------------------------------------------------------


@WAITS
def test_the_requested_id_counts_where_answers_name_the_vendors(server: Emulator, mode: str) -> None:
    created = VaceHook().create_prediction(FOX)
    server.faults.add(method="GET", times=2, patch={"id": "upstream1"})
    server.faults.add(method="GET", times=None, patch={"id": "upstream1", **DONE})
    found = waited(mode, created)
    assert (found["id"], found["upstream_id"], found["output"]) == (created.id, "upstream1", VIDEO)
    assert all("upstream1" not in seen.path for seen in server.requests)


@WAITS
def test_another_prediction_from_a_confused_cache_ends_nothing(server: Emulator, mode: str) -> None:
    hook = VaceHook()
    created, other = hook.create_prediction({**FOX, "seed": 1}), hook.create_prediction({**FOX, "seed": 2})
    cached = {
        **other.payload(),
        "input": {**FOX, "seed": 2},
        **DONE,
        "output": "https://example.com/wrong.mp4",
    }
    server.faults.add(method="GET", times=3, status=200, headers=JSON, body=cached)
    server.faults.add(method="GET", times=None, patch=DONE)
    assert waited(mode, created)["output"] == VIDEO


def test_a_failure_of_another_prediction_pays_nothing_again(server: Emulator) -> None:
    run = waiting()
    killed_at(run, "get_prediction")
    other = {"id": "other", "status": "failed", "error": "E1001", "created_at": "2020-01-01T00:00:00.5Z"}
    server.faults.add(method="GET", times=2, status=200, headers=JSON, body=other)
    for number in range(2):
        body = {"id": f"doubtful{number}", "status": "failed", "urls": {}}
        server.faults.add(method="GET", status=200, headers=JSON, body=body)
    server.faults.add(method="GET", times=None, patch=DONE)
    assert run.result()["output"] == VIDEO
    assert billed(server) == 1


def test_a_doubtful_failure_is_repeated_before_it_is_paid_for(server: Emulator) -> None:
    run = waiting()
    killed_at(run, "get_prediction")
    body = {"id": "upstream1", "status": "failed", "error": "E1001", "urls": {}}
    server.faults.add(method="GET", times=2, status=200, headers=JSON, body=body)
    server.faults.add(method="GET", times=None, patch=DONE)
    assert run.result()["output"] == VIDEO
    assert billed(server) == 2


@MODES
@pytest.mark.parametrize(
    "identifier", ["video_bGl0ZWxsbTp=", "replicate:gm3q/x+y", "2025.10.31", 'a"b<c>&d%2e']
)
def test_an_id_of_other_letters_goes_the_whole_way(
    server: Emulator, tmp_path: Path, identifier: str, *, deferrable: bool
) -> None:
    starting = {"id": identifier, "status": "starting"}
    server.faults.add(method="POST", status=200, headers=JSON, body=starting, accept=True)
    server.faults.add(method="GET", status=200, headers=JSON, body=starting)
    done = {"id": identifier, "status": "succeeded", "output": DATA_URL}
    server.faults.add(method="GET", times=None, status=200, headers=JSON, body=done)
    store = Store()
    run = waiting(store, save_to=f"{tmp_path}/", deferrable=deferrable)
    found = run.result()
    assert found["id"] == store.record["prediction"]["id"] == identifier
    asked = {unquote(urlsplit(seen.path).path.rpartition("/")[2]) for seen in server.requests[1:]}
    assert asked == {identifier}
    (file,) = found["files"]
    name = file["uri"].rpartition("/")[2]
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert run.retried().result()["files"] == [file]
    assert billed(server) == 1


def test_a_sensor_asks_the_gateway_for_the_gateways_id(server: Emulator) -> None:
    payload = {
        "id": "task_1",
        "status": "starting",
        "urls": {"get": "https://api.replicate.com/v1/predictions/up"},
    }
    body = {"id": "up", **DONE}
    server.faults.add(method="GET", times=None, status=200, headers=JSON, body=body)
    for reference in (payload, json.dumps(payload)):
        make = partial(VacePredictionSensor, task_id="t", prediction=reference, poke_interval=0.05)
        assert Run(make).result()["id"] == "task_1"
    assert {seen.path.rpartition("/")[2] for seen in server.requests} == {"task_1"}


# --- refusals --------------------------------------------------------------------------------------

NOT_THERE = (
    (400, {"code": "task_not_exist", "message": "task_not_exist", "data": None}),
    (404, {"detail": "Not found"}),
    (409, {"detail": "gone"}),
    (422, {"detail": "unknown id"}),
    (200, {"code": "task_not_exist", "message": "task_not_exist"}),
)


@pytest.mark.parametrize(("status", "body"), NOT_THERE)
@pytest.mark.parametrize("mode", [{}, {"mode": "reschedule"}, {"deferrable": True}], ids=str)
def test_a_lasting_refusal_of_the_api_ends_each_wait(
    server: Emulator, mode: dict[str, Any], status: int, body: Any
) -> None:
    created = VaceHook().create_prediction(FOX)
    server.faults.add(method="GET", times=None, status=status, headers=JSON, body=body)
    with pytest.raises(VaceAPIError):
        VaceHook().wait_for_prediction(created, 20.0, poll_interval=0.05)
    make = partial(
        VacePredictionSensor,
        task_id="t",
        prediction=created.payload(),
        poke_interval=0.05,
        timeout=20,
        **mode,
    )
    with pytest.raises(AirflowFailException) as caught:
        Run(make).result()
    assert isinstance(caught.value.__cause__, VaceAPIError)


PAGES = [
    ("text/html", "<!DOCTYPE html><title>Just a moment...</title>"),
    ("text/plain", "Forbidden"),
    ("application/json", "{}"),
    ("application/json", ""),
]


@WAITS
@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 410, 451])
@pytest.mark.parametrize(("media_type", "body"), PAGES)
def test_a_refusal_on_the_way_ends_no_wait(
    server: Emulator, mode: str, status: int, media_type: str, body: str
) -> None:
    created = VaceHook().create_prediction(FOX)
    headers = {"Content-Type": media_type}
    server.faults.add(method="GET", times=12, status=status, headers=headers, body=body)
    server.faults.add(method="GET", times=None, patch=DONE)
    assert waited(mode, created, timeout=20.0)["status"] == "succeeded"


@pytest.mark.parametrize("status", [400, 409])
def test_a_refusal_to_a_retry_pays_nothing_again(server: Emulator, status: int) -> None:
    run = waiting()
    killed_at(run, "get_prediction")
    server.faults.add(method="GET", times=None, status=status, headers=JSON, body={"code": "odd"})
    with pytest.raises(AirflowFailException, match="refused"):
        run.result()
    assert billed(server) == 1


def test_a_quota_error_inside_of_a_200_is_certain_and_free(server: Emulator) -> None:
    body = {"error": {"message": "no quota", "code": "insufficient_user_quota"}}
    server.faults.add(method="POST", status=200, headers=JSON, body=body)
    store = Store()
    with pytest.raises(AirflowFailException, match="Nothing is billed") as caught:
        waiting(store).result()
    assert isinstance(caught.value.__cause__, VaceBillingError)
    assert store.record is None
    assert billed(server) == 0


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "upstream", "code": "odd"}}, VaceProtocolError),
        ({"code": 502, "message": "upstream"}, SubmissionUnknown),
    ],
)
def test_another_error_inside_of_a_200_may_be_billed(
    server: Emulator, body: Any, kind: type[Exception]
) -> None:
    server.faults.add(method="POST", status=200, headers=JSON, body=body, accept=True)
    store = Store()
    with pytest.raises(AirflowFailException, match="upstream") as caught:
        waiting(store).result()
    assert isinstance(caught.value.__cause__, kind)
    assert store.record["phase"] == "intent"
    assert billed(server) == 1


def test_a_clear_refusal_inside_of_a_200_is_not_sent_again(call: Call, server: Emulator) -> None:
    body = {"code": 422, "message": "bad size"}
    server.faults.add(method="POST", status=200, headers=JSON, body=body)
    with pytest.raises(VaceAPIError, match="bad size") as caught:
        call("create", FOX)
    assert caught.value.status_code == 422
    assert len(server.requests) == 1


# --- caches ----------------------------------------------------------------------------------------


def test_polls_and_lists_ask_for_fresh_answers(call: Call, connect: Callable[[str], None]) -> None:
    body = json.dumps({"id": "abc", "status": "starting", "results": []}).encode()
    answer = head("200 OK", Content_Type="application/json", Content_Length=len(body)) + body
    with Scripted([answer], {"lists": True}) as scripted:
        connect(scripted.connection)
        call("get", "abc")
        assert call("list") == []
        assert all("cache-control: no-cache\r\n" in seen.lower() for seen in scripted.seen)
        scripted.seen.clear()
        call("create", FOX)
        assert "cache-control" not in scripted.seen[0].lower()


def test_a_wait_ends_in_time_if_ids_change_with_each_answer(server: Emulator) -> None:
    created = VaceHook().create_prediction(FOX)
    for number in range(100):
        body = {"id": f"other{number}", **DONE, "output": f"https://example.com/{number}.mp4"}
        server.faults.add(method="GET", status=200, headers=JSON, body=body)
    with pytest.raises(PredictionTimeout):
        VaceHook().wait_for_prediction(created.id, 0.5, poll_interval=0.05)


@WAITS
def test_the_same_end_under_ever_new_ids_is_believed(server: Emulator, mode: str) -> None:
    created = VaceHook().create_prediction(FOX)
    for number in range(100):
        output = f"https://example.com/fox.mp4?signature={number}"
        body = {"id": f"request{number}", **DONE, "output": output}
        server.faults.add(method="GET", status=200, headers=JSON, body=body)
    assert waited(mode, created)["output"].startswith("https://example.com/fox.mp4")


def test_a_rescheduled_sensor_confirms_an_end_in_one_poke(server: Emulator) -> None:
    created = VaceHook().create_prediction(FOX)
    body = {"id": "upstream1", **DONE, "urls": {}}
    server.faults.add(method="GET", times=None, status=200, headers=JSON, body=body)
    sensor = VacePredictionSensor(
        task_id="s", prediction=created.id, mode="reschedule", deferrable=False, poke_interval=0.1
    )
    context: Any = {"ti": TaskInstance()}
    poked: Any = sensor.poke(context)
    assert poked.xcom_value["output"] == VIDEO
