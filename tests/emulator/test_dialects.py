"""Dialects of gateways on the wire: ids, words, envelopes, second keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.gateways import PRESETS, SECOND_KEY, Dialect
from airflow_vace.emulator.models import FIRST_VERSION

FOX = {"prompt": "a fox", "seed": 7, "frame_num": 5}
CREATES = "/models/prunaai/vace-14b/predictions"


def ask(
    emulator: Emulator, path: str, body: Any = None, method: str = "", **headers: str
) -> requests.Response:
    sent = {"Authorization": f"Bearer {emulator.api_key}", **emulator.headers, **headers}
    verb = method or ("GET" if body is None else "POST")
    prefix = emulator.dialect.base_path or "/replicate/v1"
    return requests.request(verb, f"{emulator.url}{prefix}{path}", json=body, headers=sent, timeout=60)


def ended(emulator: Emulator, path: str) -> dict[str, Any]:
    for run in emulator.world.runs.values():
        run.timeline.created -= 1000
    found: dict[str, Any] = ask(emulator, path).json()
    return found


def test_new_api_has_own_ids_and_polls_bring_the_upstreams() -> None:
    with Emulator(time_scale=1.0, dialect="new-api") as emulator:
        created = ask(emulator, CREATES, {"input": FOX}).json()
        (upstream,) = emulator.world.runs
        assert created["id"].startswith("task_")
        assert upstream not in created["id"]
        assert created["urls"]["get"] == f"https://api.replicate.com/v1/predictions/{upstream}"
        found = ended(emulator, f"/predictions/{created['id']}")
        assert (found["id"], found["status"]) == (upstream, "succeeded")
        for unknown in (upstream, "task_nobody"):
            answer = ask(emulator, f"/predictions/{unknown}")
            assert (answer.status_code, answer.json()["code"]) == (400, "task_not_exist")
        (row,) = ask(emulator, "/predictions").json()["results"]
        assert row["id"] == created["id"]


def test_new_api_reports_a_canceled_prediction_as_failed() -> None:
    with Emulator(time_scale=1.0, dialect="new-api") as emulator:
        created = ask(emulator, CREATES, {"input": FOX}).json()
        canceled = ask(emulator, f"/predictions/{created['id']}/cancel", method="POST").json()
        assert canceled["status"] == "failed"
        assert emulator.bill["predictions"][0]["status"] == "canceled"


def test_task_routes_wrap_a_prediction_in_their_own_words() -> None:
    with Emulator(time_scale=1.0, dialect="new-api-tasks") as emulator:
        created = ask(emulator, CREATES, {"input": FOX}).json()
        assert (created["code"], created["message"]) == ("success", "")
        task = created["data"]
        assert (task["status"], task["progress"], task["finish_time"]) == ("NOT_START", "0%", 0)
        assert task["task_id"].startswith("task_")
        done = ended(emulator, f"/predictions/{task['task_id']}")["data"]
        assert (done["status"], done["progress"], done["fail_reason"]) == ("SUCCESS", "100%", "")
        assert done["result_url"] == done["data"]["output"]
        assert done["finish_time"] > done["start_time"] >= done["submit_time"] > 0
        assert ask(emulator, "/predictions/task_nobody").status_code == 400
        wrong = ask(emulator, CREATES, {"input": {}})
        assert (wrong.status_code, wrong.json()["data"]) == (422, None)


def test_a_failed_task_has_the_reason() -> None:
    with Emulator(time_scale=1.0, dialect="new-api-tasks") as emulator:
        emulator.faults.add(method="POST", outcome={"status": "failed", "error": "E1001"})
        task = ask(emulator, CREATES, {"input": FOX}).json()["data"]
        done = ended(emulator, f"/predictions/{task['task_id']}")["data"]
        assert (done["status"], done["fail_reason"]) == ("FAILURE", "E1001")


def test_an_envelope_holds_the_prediction_unchanged() -> None:
    with Emulator(time_scale=1.0, dialect="envelope") as emulator:
        created = ask(emulator, CREATES, {"input": FOX}).json()
        assert created["data"]["status"] == "starting"
        assert ask(emulator, f"/predictions/{created['data']['id']}").json()["data"]["id"] in (
            emulator.world.runs
        )
        assert ask(emulator, "/predictions/nobody").status_code == 404


def test_cloudflare_needs_its_path_and_both_keys() -> None:
    with Emulator(time_scale=1.0, dialect="cloudflare") as emulator:
        body = {"version": FIRST_VERSION, "input": FOX}
        created = ask(emulator, "/predictions", body)
        assert created.status_code == 201
        assert created.json()["urls"]["get"].startswith("https://api.replicate.com/")
        assert ask(emulator, f"/predictions/{created.json()['id']}").status_code == 200
        assert ask(emulator, "/models/prunaai/vace-14b").json()["latest_version"]["id"] == FIRST_VERSION
        assert ask(emulator, CREATES, {"input": FOX}).status_code == 404
        for header in ("Authorization", "cf-aig-authorization"):
            refused = ask(emulator, "/predictions", body, **{header: "Bearer wrong"})
            assert refused.status_code == 401
        assert emulator.requests[0].auth == ("authorization", "cf-aig-authorization")
        assert SECOND_KEY not in str(emulator.requests)
        assert emulator.bill["charged"] == 1


def test_the_connection_carries_path_and_second_key() -> None:
    with Emulator(dialect="cloudflare") as emulator:
        known = json.loads(emulator.connection)
        assert known["host"] == f"{emulator.url}/v1/my-account/my-gateway/replicate"
        assert known["extra"]["backend"] == "replicate"
        assert known["extra"]["headers"] == {"cf-aig-authorization": f"Bearer {SECOND_KEY}"}
    with Emulator(dialect="lovable") as emulator:
        known = json.loads(emulator.connection_to(timeout=1))
        assert known["host"] == emulator.url
        assert known["extra"] == {"headers": {"X-Connection-Api-Key": SECOND_KEY}, "timeout": 1}


def test_a_gateway_may_be_described_in_a_test() -> None:
    own = Dialect(words={"starting": "QUEUED"}, headers={"New-Api-User": "7"})
    with Emulator(time_scale=1.0, dialect=own) as emulator:
        assert ask(emulator, CREATES, {"input": FOX}).json()["status"] == "QUEUED"
        assert ask(emulator, CREATES, {"input": FOX}, **{"New-Api-User": ""}).status_code == 401


@pytest.mark.parametrize("name", PRESETS)
def test_the_other_faces_are_as_ever(name: str) -> None:
    with Emulator(time_scale=1.0, dialect=name) as emulator:
        headers = {"Authorization": f"Bearer {emulator.api_key}", **emulator.dialect.headers}
        body = {"version": FIRST_VERSION, "input": FOX}
        answer = requests.post(f"{emulator.url}/v1/predictions", json=body, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["status"]) == (201, "starting")


def test_headers_and_path_of_a_gateway_may_stand_alone() -> None:
    with Emulator(headers={"X-Second": "s"}, path="/v1/mine/replicate") as emulator:
        known = json.loads(emulator.connection)
        assert known["host"] == f"{emulator.url}/v1/mine/replicate"
        assert known["extra"] == {"backend": "replicate", "headers": {"X-Second": "s"}}
        assert ask(emulator, "/predictions").status_code == 200
        assert ask(emulator, "/predictions", **{"X-Second": "t"}).status_code == 401
        assert emulator.requests[0].auth == ("authorization", "x-second")


def test_an_unknown_dialect_is_an_error() -> None:
    with pytest.raises(ValueError, match="'nobody' is none of new-api, "):
        Emulator(dialect="nobody")
