"""Faults of the emulator: whom they hit, and their effects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace.emulator import Emulator, Fault
from airflow_vace.emulator.faults import PRESETS
from airflow_vace.video.problems import check
from support.emulated import GATEWAY, ended, get, post

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.0002) as emulator:
        yield emulator


def test_faults_hit_matching_requests_in_order_and_number(emulator: Emulator) -> None:
    emulator.faults.add(method="GET", path="*/predictions/*", status=500, times=2, skip=1)
    emulator.faults.add(method="GET", status=404)
    created = post(emulator).json()
    path = f"/v1/predictions/{created['id']}"
    assert [get(emulator, path).status_code for _ in range(5)] == [404, 500, 500, 200, 200]
    assert emulator.faults.waiting() == []


def test_a_fault_for_no_request_hits_none(emulator: Emulator) -> None:
    emulator.faults.add(status=500, times=0)
    assert [post(emulator).status_code for _ in range(2)] == [200, 200]
    assert emulator.faults.waiting() == []


def test_a_fault_may_be_aimed_at_the_input_of_a_prediction(emulator: Emulator) -> None:
    emulator.faults.add("aborted", input={"prompt": "*fox*"})
    emulator.faults.add(
        method="GET", path="*/predictions/*", input={"prompt": "*fox*", "seed": 7}, status=500
    )
    others = [post(emulator, body={"input": {"prompt": text}}).json() for text in ("a dog", "a cat")]
    fox = post(emulator, body={"input": {"prompt": "a red fox", "seed": 7}}).json()
    assert ended(emulator, others[0]["id"])["status"] == "succeeded"
    assert get(emulator, f"/v1/predictions/{fox['id']}").status_code == 500
    assert ended(emulator, fox["id"])["status"] == "aborted"
    assert ended(emulator, others[1]["id"])["status"] == "succeeded"
    assert emulator.faults.waiting() == []


@pytest.mark.parametrize("wanted", [{"prompt": "a [fox]"}, {"size": "832*480"}, {"seed": 7}])
def test_a_value_of_an_input_matches_itself(emulator: Emulator, wanted: dict[str, Any]) -> None:
    emulator.faults.add(status=500, input=wanted)
    values = {"prompt": "a [fox]", "size": "832*480", "seed": 7}
    assert post(emulator, body={"input": {**values, **dict.fromkeys(wanted, None)}}).status_code == 422
    assert post(emulator, body={"input": values}).status_code == 500


def test_a_fault_for_an_input_leaves_requests_without_one_alone(emulator: Emulator) -> None:
    emulator.faults.add(status=500, input={"prompt": "*"}, times=None)
    bearer = {"Authorization": f"Bearer {emulator.api_key}"}
    assert get(emulator, "/v1/account").status_code == 200
    assert get(emulator, "/v1/predictions").status_code == 200
    assert (
        requests.post(emulator.url + GATEWAY, data=b"no json", headers=bearer, timeout=60).status_code == 400
    )
    assert post(emulator, body=[]).status_code == 400
    assert post(emulator).status_code == 500


def test_a_gateways_own_id_finds_the_input_too() -> None:
    with Emulator(time_scale=0.0002, dialect="new-api") as emulator:
        made = post(emulator).json()
        emulator.faults.add(method="GET", status=500, input={"prompt": "a fox"})
        assert get(emulator, f"/replicate/v1/predictions/{made['id']}").status_code == 500
        assert get(emulator, f"/replicate/v1/predictions/{made['id']}").status_code == 200


def test_faults_are_scripted_over_http_too(emulator: Emulator) -> None:
    url = f"{emulator.url}/_emulator/faults"
    script = [{"preset": "login_page", "method": "POST"}, {"status": 418, "times": None}]
    assert len(requests.post(url, json=script, timeout=60).json()) == 2
    assert "Sign in" in post(emulator).text
    assert post(emulator).status_code == 418
    assert requests.delete(url, timeout=60).json() == []
    assert post(emulator).status_code == 200
    assert requests.post(url, json={"status": 500}, timeout=60).json()[0]["status"] == 500
    slow_down = {"preset": "rate_limited", "form": "date", "seconds": 2}
    assert "GMT" in requests.post(url, json=slow_down, timeout=60).json()[-1]["headers"]["Retry-After"]
    wrong: tuple[dict[str, Any], ...] = (
        {"times": "2"},
        {"reset": "during"},
        {"status": "x"},
        {"delay": -1},
        {"patch": []},
        {"skip": True},
        {"outcome": {"video": "blurred"}},
        {"input": "a fox"},
        {"status": 429, "headers": {"Retry-After": 5}},
    )
    for bad in ({"stauts": 500}, {"preset": "nothing"}, {**slow_down, "form": "soon"}, 5, *wrong):
        assert requests.post(url, json=bad, timeout=60).status_code == 400


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_a_round_trip_as_json(name: str) -> None:
    as_json = json.loads(json.dumps(PRESETS[name].as_json()))
    assert Fault.from_json(as_json) == PRESETS[name]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_reset_comes_before_or_after_the_bill(emulator: Emulator, moment: Any) -> None:
    emulator.faults.add(reset=moment)
    with pytest.raises(requests.ConnectionError):
        post(emulator)
    assert emulator.bill["charged"] == (moment == "after")


def test_an_outcome_sets_how_the_prediction_ends(emulator: Emulator) -> None:
    emulator.faults.add(method="POST", outcome={"status": "failed", "error": "E1001"})
    emulator.faults.add(method="POST", outcome={"output": ["https://a/b"]})
    failed, odd = (ended(emulator, post(emulator).json()["id"]) for _ in range(2))
    assert (failed["status"], failed["error"], failed["output"]) == ("failed", "E1001", None)
    assert odd["output"] == ["https://a/b"]


@pytest.mark.parametrize(
    ("preset", "problem"), [("black_video", "frames are black"), ("frozen_video", "frozen")]
)
def test_a_preset_makes_a_video_defective_and_the_next_is_good(
    emulator: Emulator, tmp_path: Path, preset: str, problem: str
) -> None:
    emulator.faults.add(preset)
    found = []
    for number in range(2):
        url = ended(emulator, post(emulator).json()["id"])["output"]
        film = tmp_path / f"{number}.mp4"
        film.write_bytes(requests.get(url, timeout=60).content)
        found.append(" ".join(check(film)[1]))
    assert problem in found[0]
    assert not found[1]


def test_a_patch_does_not_change_a_video(emulator: Emulator) -> None:
    emulator.faults.add(path="/_delivery/*", patch={"a": 1})
    emulator.faults.add(method="GET", path="*/predictions/*", drop=("status",), delay=0.01)
    created = post(emulator).json()
    assert "status" not in get(emulator, f"/v1/predictions/{created['id']}").json()
    output = ended(emulator, created["id"])["output"]
    assert get(emulator, output).status_code == 200
