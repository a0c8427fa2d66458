"""What is read from answers and refusals, whatever came."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.core.errors import read_error
from airflow_vace.core.requests import Api, Request, Response
from airflow_vace.core.responses import Page, read_list, read_prediction, read_probe
from airflow_vace.core.retry import read_failed_create, verdict_of
from airflow_vace.exceptions import (
    PredictionFailed,
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.prediction import Prediction

KEY = "r8_verysecretkey"
GATEWAY = Api.at("https://gateway.example", KEY)
REPLICATE = Api.at("https://api.replicate.com", KEY)
PRUNA = Api.at("https://api.pruna.ai", KEY)
GET = GATEWAY.get("abc")
CREATE = GATEWAY.create({"prompt": "a fox"})


def answer(status: int, body: Any = "", **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw)


def error_of(status: int, body: Any = "", request: Request = GET, /, **headers: str) -> VaceAPIError:
    return read_error(GATEWAY, request, answer(status, body, **headers))


# --- answers ---------------------------------------------------------------------------------------


def test_a_prediction_is_read_from_any_2xx() -> None:
    for status in (200, 201, 202):
        told = read_prediction(GATEWAY, GET, answer(status, {"id": "abc", "status": "starting"}))
        assert told.id == "abc"


def test_nan_and_its_kin_do_not_get_into_a_payload() -> None:
    body = b'{"id": "abc", "status": "starting", "metrics": {"predict_time": NaN}}'
    assert read_prediction(GATEWAY, GET, answer(200, body)).metrics == {"predict_time": None}


def test_the_answer_for_another_prediction_is_not_ours() -> None:
    with pytest.raises(VaceProtocolError, match="Asked for prediction abc, got xyz"):
        read_prediction(GATEWAY, GET, answer(200, {"id": "xyz", "status": "succeeded"}))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "an empty body"),
        ("not json", "not json"),
        (b"\xff\xfe\x00", "\N{REPLACEMENT CHARACTER}"),
        ("[]", "[]"),
        ("null", "null"),
        ('{"id": "abc", "sta', "sta"),
        ("[" * 100_000, "["),
        ({"error": {"message": "no channel", "code": "x"}}, "no channel"),
        ({"created": 1589478378, "data": [{"url": "https://..."}]}, "1589478378"),
        ({"id": "abc"}, "without a status"),
        ("<html><head><title>Sign in</title></head></html>", "an HTML page"),
    ],
)
def test_a_200_that_is_no_prediction_is_never_a_success(body: Any, said: str) -> None:
    with pytest.raises(VaceProtocolError) as caught:
        read_prediction(GATEWAY, GET, answer(200, body))
    assert said in str(caught.value)
    assert caught.value.status_code == 200


def test_prunas_answers_take_the_common_form() -> None:
    create = PRUNA.create({"prompt": "x"})
    url = "https://api.pruna.ai/v1/predictions/status/abc"
    told = read_prediction(PRUNA, create, answer(200, {"id": "abc", "model": "vace", "get_url": url}))
    assert (told.id, told.status, told.urls) == ("abc", "starting", {"get": url})
    look = PRUNA.get(told)
    done = {"status": "succeeded", "generation_url": "/v1/delivery/a.mp4", "message": "ok"}
    told = read_prediction(PRUNA, look, answer(200, done))
    assert (told.id, told.output_urls, told.error) == (
        "abc",
        ["https://api.pruna.ai/v1/delivery/a.mp4"],
        None,
    )
    told = read_prediction(PRUNA, look, answer(200, done | {"generation_url": "https://[torn/a.mp4"}))
    assert (told.status, told.output_urls) == ("succeeded", ["https://[torn/a.mp4"])
    told = read_prediction(PRUNA, look, answer(200, {"status": "failed", "message": "no memory"}))
    assert (told.status, told.error) == ("failed", "no memory")
    with pytest.raises(VaceProtocolError, match="unexpected response"):
        read_prediction(PRUNA, create, answer(200, {"message": "ok"}))


def test_a_list_is_read_page_by_page() -> None:
    page = {"results": [{"id": "abc", "status": "starting"}], "next": "/v1/predictions?cursor=2"}
    found = read_list(REPLICATE, REPLICATE.list(), answer(200, page))
    assert [p.id for p in found.predictions] == ["abc"]
    assert found.following == "/v1/predictions?cursor=2"
    assert read_list(REPLICATE, REPLICATE.list(), answer(200, {"results": []})) == Page()
    with pytest.raises(VaceProtocolError):
        read_list(REPLICATE, REPLICATE.list(), answer(200, {"detail": "?"}))


def test_an_unreadable_item_does_not_hide_the_rest_of_a_page() -> None:
    odd = {"id": "x y", "status": "starting"}
    results: list[Any] = [odd, None, "text", {"id": "def"}, {"id": "abc", "status": "starting"}, [], 5]
    page = read_list(REPLICATE, REPLICATE.list(), answer(200, {"results": results}))
    assert [p.id for p in page.predictions] == ["abc"]
    assert page.unreadable == (odd, {"id": "def"})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"detail": "Not found"}, None),
        (429, {"detail": "throttled"}, VaceRateLimited),
        (429, "", VaceRateLimited),
        (200, {"id": "abc", "status": "starting"}, None),
        (401, {"detail": "Unauthenticated"}, VaceAuthError),
        (403, {"detail": "Forbidden"}, VaceAuthError),
        (404, "<html><title>nginx</title></html>", VaceAPIError),
        (404, "not found", VaceProtocolError),
        (404, "[]", VaceProtocolError),
        (200, "<html>hello</html>", VaceProtocolError),
        (500, "", VaceAPIError),
    ],
)
def test_a_probe_tells_this_api_and_a_good_key_from_anything_else(
    status: int, body: Any, kind: type[VaceError] | None
) -> None:
    if kind is None:
        read_probe(GATEWAY, GET, answer(status, body))
        return
    with pytest.raises(kind):
        read_probe(GATEWAY, GET, answer(status, body))


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "detail", "code"),
    [
        ({"title": "T", "detail": "no", "status": 400}, "no", None),
        ({"title": "T", "status": 400}, "T", None),
        ({"error": {"message": "no", "type": "invalid", "code": "bad"}}, "no", "bad"),
        ({"error": {"message": "no", "type": "invalid"}}, "no", "invalid"),
        ({"error": "no", "code": "bad"}, "no", "bad"),
        ({"code": 4001, "message": "no", "data": None}, "no", "4001"),
        ({"status_code": 4, "status_message": "no"}, "no", "4"),
        ({"message": "no"}, "no", None),
        ({"message": {"deep": "no"}}, '{"deep": "no"}', None),
        ({"detail": [{"loc": ["body", "input", "size"], "msg": "no"}]}, "input.size: no", None),
        ("no", "no", None),
        ('"no"', '"no"', None),
        ("", "no reason given", None),
        ("{}", "no reason given", None),
        ("<!DOCTYPE html><title> Bad Gateway </title>", "an HTML page, 'Bad Gateway'", None),
        ("<html></html>", "an HTML page", None),
    ],
)
def test_every_error_envelope_is_told_apart(body: Any, detail: str, code: str | None) -> None:
    error = error_of(400, body)
    assert (error.detail, error.code, error.status_code) == (detail, code, 400)
    assert detail in str(error)
    assert "prediction abc" in str(error)


def test_invalid_fields_are_named() -> None:
    body = {
        "detail": "- input.size: bad",
        "invalid_fields": [
            {"field": "input.size", "description": "must be one of ..."},
            {"loc": ["body", "input", 0], "msg": "odd"},
            {},
            "x",
        ],
    }
    error = error_of(422, body)
    assert error.invalid_fields == {
        "input.size": "must be one of ...",
        "input.0": "odd",
        "input": "refused",
    }
    assert "input.size: must be one of" in str(error)
    assert (
        str(
            error_of(
                422, {"detail": "- input.size: bad", "invalid_fields": [{"field": "size", "msg": "bad"}]}
            )
        ).count("bad")
        == 1
    )
    assert error_of(422, {"invalid_fields": "x"}).invalid_fields == {}


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, {"detail": "x"}, VaceAPIError, "mend what is named"),
        (422, {"detail": "x"}, VaceAPIError, "mend what is named"),
        (401, {"detail": "x"}, VaceAuthError, "check the connection's password"),
        (402, {"detail": "x"}, VaceBillingError, "top it up"),
        (403, {"error": {"message": "x", "code": "insufficient_user_quota"}}, VaceBillingError, "top it up"),
        (400, {"error": {"message": "x", "code": "insufficient_balance"}}, VaceBillingError, "top it up"),
        (403, {"detail": "x"}, VaceAuthError, "permissions"),
        (404, {"detail": "x"}, VaceAPIError, "check model, version, id"),
        (413, "", VaceAPIError, "too large"),
        (429, {"detail": "x"}, VaceRateLimited, "use a pool"),
        (503, {"error": {"message": "x", "code": "model_not_found"}}, VaceAPIError, "no channel"),
        (503, {"error": {"message": "无可用渠道", "type": "one_api_error"}}, VaceAPIError, "no channel"),
        (503, {"message": "当前分组下无可用渠道"}, VaceAPIError, "in trouble"),
        (500, "", VaceAPIError, "in trouble"),
        (524, "<html></html>", VaceAPIError, "in trouble"),
        (302, "", VaceAPIError, "final address"),
    ],
)
def test_each_status_has_its_class_and_its_remedy(
    status: int, body: Any, kind: type[VaceAPIError], said: str
) -> None:
    error = error_of(status, body, location="https://elsewhere.example/login?next=5ecret")
    assert type(error) is kind
    assert said in str(error)
    assert "5ecret" not in str(error)


def test_a_message_names_no_key_even_if_the_server_echoes_it() -> None:
    error = error_of(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    assert KEY not in str(error)
    assert "***" in error.detail
    body = {"id": "abc", "status": "failed", "error": f"key {KEY}", "urls": {"web": f"https://x/?k={KEY}"}}
    told = read_prediction(GATEWAY, GET, answer(200, body))
    assert KEY not in json.dumps(told.payload())


def test_a_key_is_hidden_however_the_server_writes_it() -> None:
    key = "sk-ab/cd+12345"
    api = Api.at("https://g.example", key)
    for echo in (key, "sk-ab\\/cd+12345", "sk-ab%2Fcd%2B12345", "sk-ab/cd%2B12345"):
        for status in (200, 401):
            response = Response(status, {}, f'{{"message": "bad key {echo}"}}'.encode())
            with pytest.raises(VaceError) as caught:
                read_prediction(api, api.get("abc"), response)
            assert "12345" not in str(caught.value)
        moved = answer(302, "", location=f"https://other.example/login/{echo}")
        assert "12345" not in str(read_error(api, api.get("abc"), moved))


def test_a_create_that_names_its_id_is_accepted_even_without_a_status() -> None:
    for body in ({"id": "abc", "urls": {}}, {"id": "abc", "status": None}):
        assert read_prediction(GATEWAY, CREATE, answer(201, body)).status == "starting"


def test_a_very_short_key_is_not_searched_for() -> None:
    api = Api.at("https://g.example", "a")
    assert read_error(api, api.get("b"), answer(400, {"detail": "bad"})).detail == "bad"


NOW = formatdate(1_700_000_000, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry_After": "7"}, "", 7.0),
        ({"retry_after": "0.25"}, "", 0.25),
        ({"RETRY_AFTER": "-3"}, "", 0.0),
        ({"Retry_After": formatdate(1_700_000_030, usegmt=True), "Date": NOW}, "", 30.0),
        ({"Retry_After": formatdate(1_600_000_000, usegmt=True), "Date": NOW}, "", 0.0),
        ({"Retry_After": "Tue Nov 14 22:13:40 2023", "Date": NOW}, "", 20.0),
        ({"ratelimit_reset": "1700000025", "Date": NOW}, {"detail": "x"}, 25.0),
        ({"Retry_After": "soon"}, "", None),
        ({"Retry_After": "nan"}, "", None),
        ({"Retry_After": "1e999"}, "", None),
        ({}, {"detail": "x", "retry_after": 4}, 4.0),
        ({}, {"detail": "x", "retry_after": "4.5"}, 4.5),
        ({}, {"detail": "x", "retry_after": True}, None),
        ({}, {"error": {"message": "x", "retry_after": 6}}, 6.0),
        ({}, {"message": "x", "parameters": {"retry_after": 6}}, 6.0),
        ({}, {"detail": "Your rate limit resets in ~5s."}, 5.0),
        ({}, {"detail": "Please try again in 200ms"}, 0.2),
        ({}, {"detail": "try again in 2 minutes"}, 120.0),
        ({}, {"detail": "retry after 3"}, 3.0),
        ({}, {"detail": "Rate limit resets in ~1m30s."}, 90.0),
        ({}, {"detail": "try again in 1h"}, 3600.0),
        ({}, {"detail": "available in 5 seconds"}, 5.0),
        ({}, {"detail": "resets at 10:30"}, None),
        ({"ratelimit_reset": "9"}, {"detail": "x"}, 9.0),
        ({"Retry_After": "7", "ratelimit_reset": "9"}, {"detail": "resets in ~5s", "retry_after": 4}, 7.0),
        ({}, {"detail": "x"}, None),
    ],
)
def test_the_time_to_wait_is_read_in_all_its_forms(
    headers: dict[str, str], body: Any, seconds: float | None
) -> None:
    assert error_of(429, body, GET, **headers).retry_after == seconds


def test_a_date_is_measured_by_our_clock_where_the_server_does_not_tell_its_own() -> None:
    error = error_of(429, "", Retry_After=formatdate(time.time() + 30, usegmt=True))
    assert error.retry_after is not None
    assert 25 < error.retry_after <= 30


def test_the_reset_of_a_limit_does_not_delay_other_errors() -> None:
    assert error_of(500, "", ratelimit_reset="9").retry_after is None


# --- what may be sent again ------------------------------------------------------------------------


def torn(*, is_torn: bool) -> VaceProtocolError:
    return VaceProtocolError("m", status_code=200, is_torn=is_torn)


# What gateways also say after a vendor has accepted.
WORDS = ("busy", "queue is full", "at capacity", "too many retries", "overloaded", "system_cpu_overloaded")


def overloaded(code: str, status: int = 503) -> VaceAPIError:
    error = {"message": "system overloaded", "type": "new_api_error", "code": code}
    return error_of(status, {"error": error}, CREATE)


@pytest.mark.parametrize(
    ("error", "again", "unknown"),
    [
        (VaceTransportError("refused", sent=False), True, False),
        (VaceTransportError("reset", sent=True), False, True),
        (error_of(429, "", CREATE), True, False),
        (overloaded("system_cpu_overloaded"), True, False),
        (overloaded("system_memory_overloaded"), True, False),
        (overloaded("system_disk_overloaded"), True, False),
        (overloaded("system_cpu_overloaded", status=502), False, True),
        (overloaded("overloaded_error"), False, True),
        (overloaded("busy"), False, True),
        *(
            (error_of(status, {"detail": said}, CREATE), False, True)
            for status in (500, 503)
            for said in WORDS
        ),
        (error_of(503, {"message": "系统繁忙, 无可用渠道"}, CREATE), False, True),
        (
            error_of(503, {"error": {"message": "无可用渠道", "code": "get_channel_failed"}}, CREATE),
            False,
            True,
        ),
        (error_of(503, {"error": {"message": "busy", "type": "new_api_error"}}, CREATE), False, True),
        (error_of(503, {"error": {"message": "busy", "code": "model_not_found"}}, CREATE), False, False),
        (error_of(503, {"error": {"message": "无可用渠道", "type": "new_api_error"}}, CREATE), False, False),
        (error_of(503, {"error": {"message": "无可用渠道", "type": "one_api_error"}}, CREATE), False, False),
        (error_of(503, "", CREATE), False, True),
        (error_of(503, "<html></html>", CREATE), False, True),
        (error_of(500, "", CREATE), False, True),
        (error_of(502, "", CREATE), False, True),
        (error_of(504, "", CREATE), False, True),
        (error_of(524, "", CREATE), False, True),
        (error_of(408, "", CREATE), False, True),
        (error_of(303, "", CREATE), False, True),
        (error_of(302, "", CREATE), False, False),
        (error_of(400, "", CREATE), False, False),
        (error_of(401, "", CREATE), False, False),
        (error_of(402, "", CREATE), False, False),
        (error_of(404, "", CREATE), False, False),
        (error_of(413, "", CREATE), False, False),
        (error_of(422, "", CREATE), False, False),
        (torn(is_torn=True), False, True),
        (torn(is_torn=False), False, False),
        (VaceInputError("m", field="prompt"), False, False),
    ],
)
def test_a_create_is_repeated_only_if_it_was_certainly_not_accepted(
    error: VaceError, *, again: bool, unknown: bool
) -> None:
    assert verdict_of(error, "create").now is again
    told = read_failed_create(error)
    if unknown:
        assert isinstance(told, SubmissionUnknown)
        assert str(error) in str(told)
        assert told.status_code == getattr(error, "status_code", None)
    else:
        assert told is error


@pytest.mark.parametrize(
    ("body", "is_torn"),
    [
        ("", True),
        ('{"id": "abc", "sta', True),
        (b"\xff\xfe", True),
        ({"detail": "x" * 5000}, False),
        ("<html>", False),
        ("Internal message", False),
    ],
)
def test_the_remains_of_a_prediction_are_told_from_a_message(body: Any, *, is_torn: bool) -> None:
    with pytest.raises(VaceProtocolError) as caught:
        read_prediction(GATEWAY, CREATE, answer(200, body))
    assert caught.value.is_torn is is_torn
    assert "before paying again" in str(caught.value)


def test_the_end_of_a_prediction_is_no_failed_create() -> None:
    error = PredictionFailed("m", prediction=Prediction.from_json({"id": "a", "status": "failed"}))
    assert read_failed_create(error) is error


@given(
    st.integers(100, 599), st.binary(), st.dictionaries(st.sampled_from(["Retry-After", "Date"]), st.text())
)
def test_no_bytes_bring_anything_but_our_own_errors(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    for api in (GATEWAY, REPLICATE, PRUNA):
        with pytest.raises(VaceError):
            read_prediction(api, api.get("abc"), Response(status, headers, b"\x00" + body))


_json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
_members = ["id", "status", "error", "detail", "message", "code", "retry_after", "urls", "output", "logs"]


@given(st.integers(200, 599), st.dictionaries(st.sampled_from(_members), _json_values))
def test_no_json_brings_anything_but_our_own_errors(status: int, body: dict[str, Any]) -> None:
    for api in (GATEWAY, PRUNA):
        try:
            told = read_prediction(api, api.get("abc"), answer(status, body))
        except VaceError:
            continue
        assert told.id == "abc"
