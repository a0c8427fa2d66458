"""Envelopes of gateways: creates, polls and lists."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_vace.core.responses import read_list
from airflow_vace.exceptions import VaceProtocolError
from support.envelopes import GATEWAY, UPSTREAM, VIDEO, answered, created, polled

# --- creates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"id": "task_1"}, "starting"),
        ({"task_id": "task_1"}, "starting"),
        ({"id": 2310, "task_id": "task_1"}, "starting"),
        ({"taskId": "task_1", "status": "SUBMITTED"}, "starting"),
        ({"prediction_id": "task_1", "status": "running"}, "processing"),
        ({"request_id": "task_1", "status": "IN_QUEUE"}, "starting"),
        *(({name: "task_1"}, "starting") for name in ("job_id", "jobId", "generation_id", "run_id", "uuid")),
        ({"id": " task_1\n", "status": "starting"}, "starting"),
        *(
            ({name: inner, "message": "ok"}, "starting")
            for name in ("job", "payload", "body", "results", "anything")
            for inner in ({"id": "task_1", "status": "queued"}, [{"id": "task_1", "status": "queued"}])
        ),
        (json.dumps({"id": "task_1", "status": "queued"}), "starting"),
        ({"id": "", "task_id": "task_1"}, "starting"),
        ({"code": 200, "message": "success", "data": {"id": "task_1", "status": "processing"}}, "processing"),
        (
            {"code": 0, "request_id": "trace", "data": {"task_id": "task_1", "task_status": "submitted"}},
            "starting",
        ),
        ({"code": 200, "data": {"task": {"id": "task_1", "status": "queued"}}}, "starting"),
        ({"code": 200, "data": [{"id": "task_1", "status": "queued"}]}, "starting"),
        ([{"id": "task_1", "status": "queued"}], "starting"),
        (
            {"id": "trace", "status": "success", "data": {"id": "task_1", "status": "processing"}},
            "processing",
        ),
        ({"id": "trace", "code": 200, "data": {"task_id": "task_1"}}, "starting"),
        ({"status": "success", "data": {"task_id": "task_1"}}, "starting"),
        ({"task_id": "task_1", "data": {"status": "processing"}}, "processing"),
        ({"code": "success", "message": "", "data": "task_1"}, "starting"),
        ({"code": 1, "description": "queued", "result": "task_1"}, "starting"),
        ({"success": True, "data": "task_1"}, "starting"),
        ({"request_id": "trace", "output": {"task_id": "task_1", "task_status": "PENDING"}}, "starting"),
        ({"urls": {"get": "https://gateway.example/replicate/v1/predictions/task_1"}}, "starting"),
        ({"urls": {"get": "/replicate/v1/predictions/task_1"}, "status": "processing"}, "processing"),
        ({"id": "https://gateway.example/v1/predictions/task_1", "status": "starting"}, "starting"),
        ({"data": {"status_url": "https://gateway.example/predictions/task_1/result"}}, "starting"),
        (
            {
                "task_id": "task_1",
                "status": "IN_PROGRESS",
                "progress": "5%",
                "data": {"id": "up", "status": "starting"},
            },
            "processing",
        ),
    ],
    ids=str,
)
def test_a_created_prediction_is_found_in_any_envelope(body: Any, status: str) -> None:
    found = created(body)
    assert (found.id, found.status) == ("task_1", status)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": 200, "data": None},
        {"code": 200, "data": "OK"},
        {"code": 5, "message": "no", "data": "task_1"},
        {"code": 1, "message": "no", "data": "task_1"},
        {"success": False, "code": 0, "data": "task_1"},
        {"code": 200, "data": "see https://gateway.example"},
        {"request_id": "trace", "message": "welcome"},
        {"request_id": "trace", "status": "error", "message": "no"},
        {"message": "welcome", "docs": "https://gateway.example/docs"},
        {"id": 0},
        {"id": True},
        {"id": "a b", "status": "starting"},
        {"urls": {"get": "https://[broken"}},
        {"id": "trace", "error": {"message": "upstream failed"}},
        {"data": [{"id": "task_1"}, {"id": "task_2"}]},
        {"status": "processing", "output": VIDEO},
        {"status": "failed", "output": [VIDEO]},
        {"status": "succeeded", "output": "text", "error": None},
        {"created": 1, "data": [{"url": "x"}, "y"]},
        {"created": 1589478378, "data": [{"url": VIDEO}]},
        {"code": 200, "data": {"video_url": VIDEO}},
    ],
    ids=str,
)
def test_another_answer_to_a_create_may_be_billed(body: Any) -> None:
    with pytest.raises(VaceProtocolError, match="check the vendor's list"):
        created(body)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "succeeded", "output": [VIDEO]},
        {"code": 200, "data": {"status": "success", "video_url": VIDEO}},
        {"output": {"video": VIDEO}, "error": None},
    ],
    ids=str,
)
def test_an_output_without_an_id_is_not_lost(body: Any) -> None:
    found = created(body)
    assert (found.status, found.output_urls) == ("succeeded", [VIDEO])
    assert found.id.startswith("output-")
    assert created(body).id == found.id


# --- polls -----------------------------------------------------------------------------------------

DONE: tuple[dict[str, Any], ...] = (
    {"id": "task_1", "status": "completed", "outputs": [VIDEO]},
    {"code": 200, "message": "success", "data": {"id": "task_1", "status": "completed", "outputs": [VIDEO]}},
    {
        "code": 0,
        "message": "ok",
        "request_id": "trace",
        "data": {
            "task_id": "task_1",
            "task_status": "succeed",
            "task_result": {"videos": [{"id": "v", "url": VIDEO}]},
        },
    },
    {
        "code": "success",
        "message": "",
        "data": {
            "task_id": "task_1",
            "status": "SUCCESS",
            "fail_reason": VIDEO,
            "finish_time": 1767225600,
            "progress": "100%",
        },
    },
    {
        "code": "success",
        "data": {
            "task_id": "task_1",
            "status": "SUCCESS",
            "progress": "100%",
            "data": {"id": "up", "status": "succeeded", "output": VIDEO},
        },
    },
    {"task": {"task_id": "task_1", "status": "TASK_STATUS_SUCCEED"}, "videos": [{"video_url": VIDEO}]},
    {"code": 200, "data": {"status": "succeeded", "output": VIDEO}},
    {"data": [{"data": {"id": "task_1", "state": "finished", "video": {"url": VIDEO}}}]},
    {"id": "task_1", "status": "succeeded", "output": None, "result": {"url": VIDEO}},
    {"status": "success", "data": {"status": "done", "output": [VIDEO]}},
    {"id": "up", "status": "succeeded", "output": VIDEO},
    {"id": "task_1", "status": "completed", "url": VIDEO},
    {"id": "task_1", "status": "completed", "output_url": VIDEO},
    {"id": "task_1", "status": "done", "resultUrls": [VIDEO]},
    {"id": "task_1", "status": "done", "files": [{"id": "f1", "url": VIDEO}]},
    {"id": "task_1", "status": "completed", "data": [{"url": VIDEO}]},
    {"id": "task_1", "status": "completed", "object": "video", "metadata": {"url": VIDEO}},
    {"request_id": "trace", "output": {"task_id": "task_1", "task_status": "SUCCEEDED", "video_url": VIDEO}},
    {"id": 1234567, "status": "succeeded", "output": VIDEO},
)


@pytest.mark.parametrize("body", DONE, ids=str)
def test_a_finished_prediction_is_found_in_any_envelope(body: Any) -> None:
    found = polled(body)
    assert (found.id, found.status, found.output_urls) == ("task_1", "succeeded", [VIDEO])


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            {
                "code": "success",
                "data": {"task_id": "task_1", "status": "FAILURE", "fail_reason": "no memory"},
            },
            "no memory",
        ),
        (
            {
                "data": {"task_id": "task_1", "task_status": "failed", "task_status_msg": "no memory"},
                "message": "SUCCEED",
            },
            "no memory",
        ),
        (
            {
                "id": "task_1",
                "status": "failed",
                "error": {"code": "", "message": ""},
                "message": "no memory",
            },
            "no memory",
        ),
        ({"message": "no memory", "data": {"id": "task_1", "status": "failed"}}, "no memory"),
        ({"message": "success", "data": {"id": "task_1", "status": "failed"}}, None),
        ({"data": {"id": "task_1", "status": "failed", "fail_reason": VIDEO}}, VIDEO),
        (
            {
                "task_id": "task_1",
                "status": "FAILURE",
                "data": {"id": "up", "status": "failed", "error": "no memory"},
            },
            "no memory",
        ),
    ],
    ids=str,
)
def test_the_reason_of_a_failure_is_found_under_any_name(body: Any, error: str | None) -> None:
    found = polled(body)
    assert (found.status, found.error, found.output) == ("failed", error, None)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "error", "message": "internal"},
        {"status": "failed", "message": "internal", "request_id": "trace"},
        {"id": "trace", "status": "error", "message": "internal"},
        {"status": "success"},
        {"status": "ok", "version_info": 5},
        {"code": 200, "data": None, "message": "success"},
        {"output": VIDEO},
        {"id": "task_1"},
        {"id": "task_1", "output": VIDEO},
        {"status": 200},
        {"status": " ", "output": VIDEO},
        [],
        [{"id": "a", "status": "succeeded"}, {"id": "b", "status": "succeeded"}],
    ],
    ids=str,
)
def test_an_answer_about_the_request_is_not_the_end_of_a_prediction(body: Any) -> None:
    with pytest.raises(VaceProtocolError):
        polled(body)


@pytest.mark.parametrize(
    "body",
    [
        {"id": "task_1", "status": "success", "url": "https://gateway.example/tasks/task_1"},
        {"id": "task_1", "status": "success", "url": "https://gateway.example/predictions/up"},
        {"id": "task_1", "status": "success", "url": "soon"},
        {"id": "task_1", "status": "success", "result": {"status": "running", "url": VIDEO}},
        {"output": {"task_id": "task_1", "task_status": "SUCCESS"}},
    ],
    ids=str,
)
def test_an_address_of_the_task_is_no_output(body: Any) -> None:
    assert not polled(body).status.is_final


def test_another_id_of_a_poll_is_noted() -> None:
    assert polled({"id": "up", "status": "succeeded", "output": VIDEO}).upstream_id == "up"
    assert polled({"id": "task_1", "status": "succeeded"}).upstream_id is None
    assert polled({"status": "succeeded", "output": VIDEO}).upstream_id is None
    body = {"id": "task_1", "status": "processing", "upstream_id": "x", "status_word": "y"}
    assert polled(body).payload().keys().isdisjoint({"upstream_id", "status_word"})


def test_members_of_the_vendors_object_complete_the_gateways() -> None:
    inner = {
        "id": "up",
        "status": "succeeded",
        "output": VIDEO,
        "model": "a/b",
        "input": {"seed": 5},
        "logs": "50%",
        "metrics": {"predict_time": 5.0},
        "completed_at": "2026-01-01T00:01:00Z",
    }
    found = polled({"task_id": "task_1", "status": "SUCCESS", "submit_time": 1767225600123, "data": inner})
    assert (found.model, found.seed, found.logs, found.metrics) == ("a/b", 5, "50%", {"predict_time": 5.0})
    assert found.completed_at == "2026-01-01T00:01:00Z"
    assert found.created_at == "2026-01-01T00:00:00.123000+00:00"


@pytest.mark.parametrize("moment", [0, -5, True, 1e300, ["x"]], ids=str)
def test_a_number_that_is_no_time_is_no_end(moment: Any) -> None:
    assert not polled({"id": "task_1", "status": "done", "completed_at": moment}).status.is_final


@pytest.mark.parametrize("name", ["get_url", "status_url"])
def test_the_address_of_a_status_is_kept(name: str) -> None:
    url = "https://gateway.example/predictions/task_1/result"
    found = created({"id": "task_1", name: url})
    assert GATEWAY.get(found).url == url
    assert created({"id": "task_1", name: url, "urls": {"get": UPSTREAM}}).urls["get"] == UPSTREAM


def test_an_address_with_another_id_gives_way_to_the_gateways_own_id() -> None:
    own = "https://gateway.example/replicate/v1/predictions"
    for url in (UPSTREAM, f"{own}/up"):
        assert GATEWAY.get({"id": "task_1", "urls": {"get": url}}).url == f"{own}/task_1"
    other = "https://gateway.example/status?of=1"
    assert GATEWAY.get({"id": "task_1", "urls": {"get": other}}).url == other


def test_an_id_is_encoded_in_paths() -> None:
    own = "https://gateway.example/replicate/v1/predictions"
    assert GATEWAY.get("video_bGl0=").url == f"{own}/video_bGl0%3D"
    assert GATEWAY.cancel({"id": "a/b?c#d%"}).url == f"{own}/a%2Fb%3Fc%23d%25/cancel"


# --- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"results": [{"id": "task_1", "status": "completed", "output": VIDEO}], "next": "/n"},
        {"code": 200, "data": [{"task_id": "task_1", "status": "SUCCESS", "outputs": [VIDEO]}], "next": "/n"},
        {
            "code": 200,
            "data": {"items": [{"data": {"id": "task_1", "status": "done", "output": VIDEO}}], "next": "/n"},
        },
    ],
    ids=str,
)
def test_a_list_is_read_in_any_envelope(body: Any) -> None:
    page = read_list(GATEWAY, GATEWAY.list(), answered(body))
    (found,) = page.predictions
    assert (found.id, found.status, found.output_urls, page.following) == (
        "task_1",
        "succeeded",
        [VIDEO],
        "/n",
    )


def test_a_list_may_be_the_whole_body() -> None:
    page = read_list(GATEWAY, GATEWAY.list(), answered([{"id": "task_1", "status": "queued"}]))
    assert [found.id for found in page.predictions] == ["task_1"]


@pytest.mark.parametrize(
    "body",
    [
        *("text", 5, [], {"data": None}, {"results": None}, {"data": []}, {"data": {"items": []}}),
        {"error": "down", "results": []},
        {"error": {"message": "down"}, "data": []},
        {"code": 5, "message": "down", "data": []},
        {"code": 1, "message": "down", "data": []},
        {"code": "db_down", "results": []},
        {"success": False, "data": []},
        {"status": "error", "data": []},
    ],
    ids=str,
)
def test_an_answer_that_may_be_an_error_is_no_empty_list(body: Any) -> None:
    with pytest.raises(VaceProtocolError):
        read_list(GATEWAY, GATEWAY.list(), answered(body))


@pytest.mark.parametrize(
    "body",
    [
        {"results": []},
        {"code": 0, "data": []},
        {"code": "200", "data": {"items": []}},
        {"success": True, "data": []},
        {"status": "success", "data": {"predictions": []}},
    ],
    ids=str,
)
def test_an_empty_list_is_one_that_says_success(body: Any) -> None:
    assert read_list(GATEWAY, GATEWAY.list(), answered(body)).predictions == ()
