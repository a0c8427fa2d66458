"""Requests that Replicate refuses or answers in its own way, and that a kind server would let pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.limits import Bucket, VendorLimits
from airflow_vace.emulator.models import FIRST_VERSION
from airflow_vace.emulator.world import Timeline
from airflow_vace.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

FOX = {"prompt": "a fox", "seed": 7, "frame_num": 5}
CREATES = "/v1/predictions"
GATEWAY = "/replicate/v1/models/prunaai/vace-14b/predictions"


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.0002) as emulator:
        yield emulator


def ask(emulator: Emulator, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
    sent = {"Authorization": f"Bearer {emulator.api_key}", **headers}
    return requests.request(method, emulator.url + path, json=body, headers=sent, timeout=60)


def create(emulator: Emulator, body: Any = None, **headers: str) -> requests.Response:
    given = {"version": FIRST_VERSION, "input": FOX, **(body or {})}
    return ask(emulator, "POST", CREATES, given, **headers)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("30", 30), ("30s", 30), ("6m", 360), ("1h", 3600), ("2h30m", 9000), ("1h30m45s", 5445), ("5", 5)],
)
def test_cancel_after_takes_every_documented_duration(emulator: Emulator, given: str, seconds: float) -> None:
    answer = create(emulator, **{"Cancel-After": given})
    assert answer.status_code == 201
    (run,) = emulator.world.runs.values()
    assert run.cancel_after == seconds
    assert "deadline" in answer.json()


@pytest.mark.parametrize(
    "given", ["4", "4s", "0", "", "soon", "1h30", "-5s", "5 s", "30S", "1.5m", "1d", "5m1h"]
)
def test_a_wrong_cancel_after_is_refused(emulator: Emulator, given: str) -> None:
    answer = create(emulator, **{"Cancel-After": given})
    assert answer.status_code == 422
    assert "Cancel-After" in answer.json()["detail"]
    assert emulator.bill["charged"] == 0


def test_a_gateway_ignores_cancel_after(emulator: Emulator) -> None:
    answer = ask(emulator, "POST", GATEWAY, {"input": FOX}, **{"Cancel-After": "soon"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/predictions/unknown", 404),
        ("GET", "/v1/files/unknown", 404),
        ("PUT", "/v1/predictions", 405),
        ("GET", "/v1/predictions?cursor=x", 422),
    ],
)
def test_replicate_sends_each_error_as_a_problem(
    emulator: Emulator, method: str, path: str, status: int
) -> None:
    answer = ask(emulator, method, path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    body = answer.json()
    assert body["status"] == status
    assert body["detail"]
    assert ("title" in body) == (status != 404)


def test_an_unknown_path_of_a_gateway_is_json_too(emulator: Emulator) -> None:
    answer = ask(emulator, "GET", "/replicate/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]
    assert ask(emulator, "GET", "/nothing").json()["status"] == 404


def test_a_missing_and_a_wrong_key_are_named(emulator: Emulator) -> None:
    for key, detail in (("", "You did not pass an authentication token"), ("Bearer no", "Invalid token")):
        answer = ask(emulator, "GET", "/v1/account", Authorization=key)
        assert (answer.status_code, answer.json()["detail"]) == (401, detail)


def test_responses_count_down_the_rate_limits(emulator: Emulator) -> None:
    def limits(answer: requests.Response) -> tuple[str, str]:
        return answer.headers["ratelimit-remaining"], answer.headers["ratelimit-reset"]

    assert limits(create(emulator)) == ("599", "1")
    assert limits(ask(emulator, "GET", "/v1/account")) == ("2999", "1")
    assert limits(ask(emulator, "GET", "/v1/predictions/unknown"))[1] == "1"
    assert "ratelimit-remaining" not in ask(emulator, "POST", GATEWAY, {"input": FOX}).headers


def test_creates_above_the_limit_are_throttled() -> None:
    with Emulator(time_scale=1.0) as emulator:
        first = create(emulator)
        for _ in range(599):
            assert emulator.limits.creates.take()
        refused = create(emulator)
        assert (first.status_code, refused.status_code) == (201, 429)
        assert refused.headers["Retry-After"] == refused.headers["ratelimit-reset"]
        assert "resets in ~" in refused.json()["detail"]
        assert ask(emulator, "GET", "/v1/account").status_code == 200
        assert emulator.throttled == 1


def test_limits_follow_the_time_scale_but_never_fall_below_the_real_ones() -> None:
    assert VendorLimits(0.01).creates.rate == pytest.approx(1000)
    assert VendorLimits(100.0).creates.rate == pytest.approx(10)
    assert VendorLimits(0.0).creates.take()


@pytest.mark.parametrize("path", [CREATES, GATEWAY])
def test_a_stated_limit_of_creates_holds_on_each_back_end(path: str) -> None:
    with Emulator(time_scale=0.0002, create_limit=6, create_burst=1) as emulator:
        body = {"input": FOX, "version": FIRST_VERSION}
        first, second = (ask(emulator, "POST", path, body) for _ in range(2))
        assert (first.ok, second.status_code) == (True, 429)
        assert 1 <= int(second.headers["Retry-After"]) <= 10
        has_headers = "ratelimit-remaining" in first.headers
        assert has_headers == (path != GATEWAY)
        assert emulator.throttled == 1


def test_a_limit_of_creates_allows_a_minute_at_once_by_default() -> None:
    assert VendorLimits(0.01, 120).creates.remaining == 120
    assert VendorLimits(0.01, 120).creates.rate == 2.0


def test_a_pause_earns_no_larger_burst() -> None:
    bucket = Bucket(2, 1e9)
    assert bucket.take()
    assert bucket.take()
    assert bucket.remaining <= 2
    assert bucket.reset == 1


def test_each_redraw_of_a_bar_has_a_line_of_its_own() -> None:
    timeline = Timeline(created=0.0, boot=1.0, load=4.0, step=1.0, steps=50, decode=6.0)
    middle = timeline.logs_at(30.0)
    assert "\r" not in middle
    assert [line for line in middle.split("\n") if line.startswith(" 50%|")]
    lines, returns = (Progress.from_logs(logs, 50) for logs in (middle, middle.replace("\n", "\r")))
    assert lines == returns
    assert lines is not None
    assert lines.step == 25


def test_a_wait_that_is_too_short_is_answered_with_202() -> None:
    with Emulator(time_scale=1.0) as emulator:
        assert create(emulator, Prefer="wait=1").status_code == 202
        assert create(emulator).status_code == 201


def test_a_cancel_before_the_start_leaves_no_start() -> None:
    with Emulator(time_scale=0.001) as emulator:
        created = create(emulator).json()
        run = emulator.world.runs[created["id"]]
        run.timeline.created -= 1000
        run.canceled = run.timeline.created
        found = ask(emulator, "GET", f"/v1/predictions/{run.id}").json()
        assert found["status"] == "canceled"
        assert "started_at" not in found


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"webhook": "http://example.com/a"}, "webhook"),
        ({"webhook": "not a url"}, "webhook"),
        ({"webhook": "https://[broken"}, "webhook"),
        ({"webhook": 5}, "webhook"),
        ({"webhook_events_filter": ["end"]}, "webhook_events_filter"),
        ({"webhook_events_filter": "start"}, "webhook_events_filter"),
    ],
)
def test_a_wrong_webhook_is_refused(emulator: Emulator, body: dict[str, Any], field: str) -> None:
    answer = create(emulator, body)
    assert answer.status_code == 422
    assert [problem["field"] for problem in answer.json()["invalid_fields"]] == [field]
