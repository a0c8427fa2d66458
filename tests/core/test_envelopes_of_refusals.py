"""Envelopes of gateways: errors inside of a 200, predictions under an error status, and ends of all kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.core.bodies import json_of
from airflow_vace.core.requests import Response
from airflow_vace.core.responses import read_list, read_prediction
from airflow_vace.core.retry import read_failed_create
from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceError,
    VaceProtocolError,
)
from airflow_vace.prediction import Prediction
from support.envelopes import CREATE, GATEWAY, POLL, VIDEO, answered, created, polled

# --- errors inside of a 200 ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no", "code": "insufficient_user_quota", "type": "new_api_error"}},
        {"error": {"message": "no", "code": "1113", "type": "insufficient_quota"}},
        {"code": "InsufficientBalance", "message": "no"},
        {"code": "pre_consume_token_quota_failed", "message": "no", "data": None},
        {"code": "credit_balance_too_low", "message": "no"},
        {"id": "trace", "error": {"code": "insufficient_user_quota"}},
        {"code": 402, "message": "no"},
    ],
    ids=str,
)
def test_a_quota_error_inside_of_a_200_is_a_billing_error(body: Any) -> None:
    for read in (created, polled):
        with pytest.raises(VaceBillingError, match="top it up"):
            read(body)
    with pytest.raises(VaceBillingError, match="Nothing is billed"):
        created(body)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"code": 401, "message": "bad key"}, 401),
        ({"error": {"code": "403", "message": "no"}}, 403),
        ({"status": 404, "detail": "Not found"}, 404),
        ({"status_code": 429, "status_message": "slow down"}, 429),
        ({"code": 503, "msg": "busy"}, 503),
    ],
    ids=str,
)
def test_an_error_with_a_status_inside_of_a_200_has_this_status(body: Any, status: int) -> None:
    with pytest.raises(VaceAPIError, match="inside of a 200") as caught:
        polled(body)
    assert caught.value.status_code == status
    with pytest.raises(VaceAPIError):
        read_list(GATEWAY, GATEWAY.list(), answered(body))


def test_an_unknown_prediction_inside_of_a_200_is_not_found() -> None:
    body = {"code": "task_not_exist", "message": "no such task"}
    with pytest.raises(VaceAPIError) as caught:
        polled(body)
    assert caught.value.status_code == 404
    with pytest.raises(VaceProtocolError, match="no such task"):
        created(body)


# --- anything --------------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    [
        "id",
        "task_id",
        "status",
        "data",
        "result",
        "task",
        "output",
        "outputs",
        "urls",
        "error",
        "code",
        "next",
    ]
)
_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(VIDEO) | st.just("success")
)
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=5)
)


@given(st.dictionaries(_NAMES, _JSON, max_size=6))
def test_any_object_is_a_prediction_or_an_error_of_ours(body: dict[str, Any]) -> None:
    for read in (created, polled):
        try:
            found = read(json_of(json.dumps(body)))
        except VaceError:
            continue
        assert found.id
        assert Prediction.from_json(found.payload()).id == found.id


# --- creates under an error status -----------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 409, 429, 500, 502, 504])
def test_a_prediction_under_an_error_status_is_not_lost(code: int) -> None:
    body = {"id": "task_1", "status": "starting", "input": {"prompt": "a fox"}, "error": None}
    answer = Response(code, {"Content-Type": "application/json"}, json.dumps(body).encode())
    assert read_prediction(GATEWAY, CREATE, answer).id == "task_1"
    assert read_prediction(GATEWAY, POLL, answer).status == "starting"


@pytest.mark.parametrize("error", ["overloaded", {"code": "upstream_busy", "message": "overloaded"}])
def test_an_error_about_a_poll_ends_no_prediction(error: Any) -> None:
    with pytest.raises(VaceProtocolError, match="overloaded"):
        polled({"id": "task_1", "error": error})


def test_a_failure_under_an_error_status_ends_its_poll_only() -> None:
    body = {"id": "task_1", "status": "failed", "error": "no", "input": {}}
    answer = Response(422, {}, json.dumps(body).encode())
    assert read_prediction(GATEWAY, POLL, answer).status == "failed"
    with pytest.raises(VaceAPIError):
        read_prediction(GATEWAY, CREATE, answer)


@pytest.mark.parametrize(
    "body",
    [
        {"detail": "conflict", "id": "task_1"},
        {"id": "task_1", "status": "processing"},
        {"status": "processing", "input": {}},
        {"id": "other", "status": "error", "input": {}, "error": "no"},
        {"id": "other", "status": "frobnicating", "input": {}},
        {"title": "Conflict", "status": 409},
    ],
    ids=str,
)
def test_a_refusal_with_an_id_stays_a_refusal(body: Any) -> None:
    answer = Response(409, {}, json.dumps(body).encode())
    for request in (CREATE, POLL):
        with pytest.raises(VaceAPIError, match="409"):
            read_prediction(GATEWAY, request, answer)


# --- ends of all kinds -----------------------------------------------------------------------------

ENDED = "2026-01-01T00:01:00Z"


@pytest.mark.parametrize("status", [None, "", 3, 200, True, "frobnicated", {"phase": "end"}], ids=str)
def test_an_output_beside_the_time_of_the_end_is_a_success(status: object) -> None:
    body = {"id": "task_1", "status": status, "output": VIDEO, "completed_at": ENDED}
    assert polled(body).status == "succeeded"
    assert polled({**body, "output": None, "error": "no"}).status == "failed"
    for missing in ("output", "completed_at"):
        try:
            assert not polled({**body, missing: None}).status.is_final
        except VaceProtocolError:
            assert missing == "completed_at"


@pytest.mark.parametrize("word", ["starting", "processing", "uploading", "retrying"])
def test_a_word_for_a_run_stays_one_beside_an_end(word: str) -> None:
    body = {"id": "task_1", "status": word, "output": VIDEO, "completed_at": ENDED}
    assert not polled(body).status.is_final


@pytest.mark.parametrize(
    "moment",
    [1767225660, "1767225660", "1767225660123", "Thu, 01 Jan 2026 00:01:00 GMT", "2026-01-01 00:01:00"],
)
def test_the_time_of_the_end_is_read_in_any_form(moment: object) -> None:
    assert polled({"id": "task_1", "status": "completed", "completed_at": moment}).status == "succeeded"


@pytest.mark.parametrize("moment", ["soon", "0001-01-01T00:00:00Z", 0, ""])
def test_another_value_is_no_time_of_the_end(moment: object) -> None:
    assert not polled({"id": "task_1", "status": "completed", "completed_at": moment}).status.is_final


@pytest.mark.parametrize(
    "members",
    [
        {"content": {"video_url": VIDEO}},
        {"artifacts": [{"url": VIDEO}]},
        {"assets": {"video": VIDEO}},
        {"generations": [{"url": VIDEO}]},
        {"creations": [{"url": VIDEO}]},
        {"unsigned_urls": [VIDEO]},
        {"video_uri": VIDEO},
        {"mp4": VIDEO},
    ],
    ids=str,
)
def test_an_output_is_found_under_further_names(members: dict[str, Any]) -> None:
    assert polled({"id": "task_1", "status": "completed", **members}).output_urls == [VIDEO]


# --- refusals inside of a 200 ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"error": "Insufficient balance"},
        {"status": "error", "message": "Insufficient credits"},
        {"message": "You have insufficient credit to run this model"},
        {"code": 1113, "message": "余额不足或无可用资源包", "data": None},
    ],
    ids=str,
)
def test_a_text_about_missing_money_is_a_billing_error(body: Any) -> None:
    with pytest.raises(VaceBillingError, match="Nothing is billed"):
        created(body)


@pytest.mark.parametrize(
    ("code", "status"),
    [("Unauthorized", 401), ("invalid_api_key", 401), ("authentication_error", 401), ("AccessDenied", 403)],
)
def test_a_code_in_words_names_the_refused_key(code: str, status: int) -> None:
    for body in (
        {"code": code, "message": "no"},
        {"error": {"code": code, "message": "no"}},
        {"error": code},
    ):
        with pytest.raises(VaceAuthError) as caught:
            created(body)
        assert caught.value.status_code == status


def test_the_text_of_a_refused_input_is_not_about_money() -> None:
    body = {"detail": "prompt: 'a man with insufficient funds' is too long"}
    answer = Response(422, {}, json.dumps(body).encode())
    with pytest.raises(VaceAPIError) as caught:
        read_prediction(GATEWAY, CREATE, answer)
    assert not isinstance(caught.value, VaceBillingError)


@pytest.mark.parametrize("code", [424, 444, 460, 499])
@pytest.mark.parametrize("body", [b"", b'{"message": "upstream"}'])
def test_a_create_that_was_broken_off_is_not_called_free(code: int, body: bytes) -> None:
    with pytest.raises(VaceAPIError) as caught:
        read_prediction(GATEWAY, CREATE, Response(code, {}, body))
    assert "Nothing is billed" not in str(caught.value)
    assert isinstance(read_failed_create(caught.value), SubmissionUnknown)
