"""Responses and refusals as predictions and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.core.errors import read_error
from airflow_vace.core.requests import Api, Request, Response
from airflow_vace.core.responses import Page, read_list, read_prediction, read_probe, read_upload
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
DONE = '{"id": "abc", "status": "succeeded", "error": "überhitzt", "output": "https://a/b.mp4"}'
CREATE = GATEWAY.create({"prompt": "a fox"})


def answered(status: int, body: Any = "", **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw)


def error_of(status: int, body: Any = "", request: Request = GET, /, **headers: str) -> VaceAPIError:
    return read_error(GATEWAY, request, answered(status, body, **headers))


# --- answers ---------------------------------------------------------------------------------------


def test_a_prediction_is_read_from_any_2xx() -> None:
    for status in (200, 201, 202):
        found = read_prediction(GATEWAY, GET, answered(status, {"id": "abc", "status": "starting"}))
        assert found.id == "abc"


def test_nan_in_a_response_becomes_null() -> None:
    body = b'{"id": "abc", "status": "starting", "metrics": {"predict_time": NaN}}'
    assert read_prediction(GATEWAY, GET, answered(200, body)).metrics == {"predict_time": None}


def test_an_answer_about_another_prediction_is_refused() -> None:
    known = Prediction.from_json({"id": "abc", "status": "processing", "seed": 5})
    body = {"id": "xyz", "status": "succeeded", "input": {"seed": 6}}
    with pytest.raises(VaceProtocolError, match="Asked for prediction abc, got xyz with another seed"):
        read_prediction(GATEWAY, GET, answered(200, body), known)


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (b"\xef\xbb\xbf" + DONE.encode(), "application/json"),
        (b"\n\r\n  " + DONE.encode(), "text/html; charset=UTF-8"),
        (DONE.encode(), "text/html"),
        (DONE.encode("utf-16"), "application/json; charset=utf-16"),
        (DONE.encode("utf-16-le"), "application/json"),
        (DONE.encode("latin-1"), "application/json; charset=ISO-8859-1"),
        (DONE.encode("latin-1"), "application/json"),
        (DONE.encode("latin-1"), "text/html; charset=no-such-charset"),
        (DONE.encode("cp1252"), 'application/json; charset="windows-1252"'),
    ],
)
def test_json_is_read_in_any_encoding_and_under_any_name(raw: bytes, content_type: str) -> None:
    found = read_prediction(GATEWAY, GET, answered(200, raw, content_type=content_type))
    assert (found.status, found.error, found.output_urls) == ("succeeded", "überhitzt", ["https://a/b.mp4"])


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        ("<html></html>", "application/json", "an HTML page"),
        ("  <!DOCTYPE html>", "application/json", "an HTML page"),
        ("<head></head>", "text/html", "an HTML page"),
        ("Sign in", "text/html", "an HTML page"),
        ('{"detail": "no"}', "text/html", "an unexpected response"),
    ],
)
def test_a_page_is_known_by_its_body_first(body: str, content_type: str, kind: str) -> None:
    with pytest.raises(VaceProtocolError, match=kind):
        read_prediction(GATEWAY, GET, answered(200, body, content_type=content_type))


def test_truncated_json_called_html_may_be_a_prediction() -> None:
    with pytest.raises(VaceProtocolError) as caught:
        read_prediction(GATEWAY, CREATE, answered(200, '{"id": "ab', content_type="text/html"))
    assert caught.value.is_truncated


@pytest.mark.parametrize("body", ["", "{}", "no", "<html></html>", "[]"])
def test_only_an_object_with_content_is_the_apis_own_word(body: str) -> None:
    for status in (400, 402, 403, 404, 422):
        assert not error_of(status, body).is_from_api
        assert verdict_of(error_of(status, body), "poll").later


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
def test_a_200_without_a_prediction_is_an_error(body: Any, said: str) -> None:
    with pytest.raises(VaceProtocolError) as caught:
        read_prediction(GATEWAY, GET, answered(200, body))
    assert said in str(caught.value)
    assert caught.value.status_code == 200


def test_prunas_responses_take_the_common_form() -> None:
    create = PRUNA.create({"prompt": "x"})
    url = "https://api.pruna.ai/v1/predictions/status/abc"
    found = read_prediction(PRUNA, create, answered(200, {"id": "abc", "model": "vace", "get_url": url}))
    assert (found.id, found.status, found.urls) == ("abc", "starting", {"get": url})
    poll = PRUNA.get(found)
    done = {"status": "succeeded", "generation_url": "/v1/delivery/a.mp4", "message": "ok"}
    found = read_prediction(PRUNA, poll, answered(200, done))
    assert (found.id, found.output_urls, found.error) == (
        "abc",
        ["https://api.pruna.ai/v1/delivery/a.mp4"],
        None,
    )
    found = read_prediction(PRUNA, poll, answered(200, done | {"generation_url": "https://[broken/a.mp4"}))
    assert (found.status, found.output_urls) == ("succeeded", ["https://[broken/a.mp4"])
    found = read_prediction(PRUNA, poll, answered(200, {"status": "failed", "message": "no memory"}))
    assert (found.status, found.error) == ("failed", "no memory")
    with pytest.raises(VaceProtocolError, match="unexpected response"):
        read_prediction(PRUNA, create, answered(200, {"message": "ok"}))


def test_a_list_is_read_page_by_page() -> None:
    page = {"results": [{"id": "abc", "status": "starting"}], "next": "/v1/predictions?cursor=2"}
    found = read_list(REPLICATE, REPLICATE.list(), answered(200, page))
    assert [p.id for p in found.predictions] == ["abc"]
    assert found.following == "/v1/predictions?cursor=2"
    assert read_list(REPLICATE, REPLICATE.list(), answered(200, {"results": []})) == Page()
    with pytest.raises(VaceProtocolError):
        read_list(REPLICATE, REPLICATE.list(), answered(200, {"detail": "?"}))


def test_an_unreadable_item_does_not_hide_the_rest_of_a_page() -> None:
    odd = {"id": "x y", "status": "starting"}
    results: list[Any] = [odd, None, "text", {"id": "def"}, {"id": "abc", "status": "starting"}, [], 5]
    page = read_list(REPLICATE, REPLICATE.list(), answered(200, {"results": results}))
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
def test_a_probe_accepts_only_this_api_with_a_valid_key(
    status: int, body: Any, kind: type[VaceError] | None
) -> None:
    if kind is None:
        read_probe(GATEWAY, GET, answered(status, body))
        return
    with pytest.raises(kind):
        read_probe(GATEWAY, GET, answered(status, body))


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
def test_every_error_format_is_read(body: Any, detail: str, code: str | None) -> None:
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
        (400, {"detail": "x"}, VaceAPIError, "check the id"),
        (422, {"detail": "x"}, VaceAPIError, "check the id"),
        (401, {"detail": "x"}, VaceAuthError, "check the connection's password"),
        (402, {"detail": "x"}, VaceBillingError, "top it up"),
        (403, {"error": {"message": "x", "code": "insufficient_user_quota"}}, VaceBillingError, "top it up"),
        (400, {"error": {"message": "x", "code": "insufficient_balance"}}, VaceBillingError, "top it up"),
        (403, {"detail": "x"}, VaceAuthError, "permissions"),
        (404, {"detail": "x"}, VaceAPIError, "check the id"),
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


def test_a_refused_create_asks_for_another_input() -> None:
    for status in (400, 422):
        assert "correct the values that it names" in str(error_of(status, {"detail": "x"}, CREATE))


def test_an_unknown_model_is_refused_with_its_own_remedy() -> None:
    assert "does not know the model or the version" in str(error_of(404, {"detail": "x"}, CREATE))


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("当前分组 default 下对于模型 a/b 无可用渠道", "no channel is available"),
        ("用户额度不足, 余额不足", "the user's quota is exhausted; the balance is too low"),
        ("无效的令牌", "the key is invalid"),
    ],
)
def test_a_gateways_chinese_has_a_translation(said: str, meaning: str) -> None:
    error = error_of(403, {"error": {"message": said, "code": "x"}}, CREATE)
    assert f"{said} (in English: {meaning})." in str(error)
    # The server's own words stay evidence.
    assert error.detail == said
    assert "in English" not in str(error_of(403, {"error": {"message": "分组"}}, CREATE))


def test_an_echoed_key_does_not_reach_a_message() -> None:
    error = error_of(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    assert KEY not in str(error)
    assert "***" in error.detail
    body = {"id": "abc", "status": "failed", "error": f"key {KEY}", "urls": {"web": f"https://x/?k={KEY}"}}
    found = read_prediction(GATEWAY, GET, answered(200, body))
    assert KEY not in json.dumps(found.payload())


def test_a_key_is_hidden_in_all_spellings() -> None:
    key = "sk-ab/cd+12345"
    api = Api.at("https://g.example", key)
    for echo in (key, "sk-ab\\/cd+12345", "sk-ab%2Fcd%2B12345", "sk-ab/cd%2B12345"):
        for status in (200, 401):
            response = Response(status, {}, f'{{"message": "bad key {echo}"}}'.encode())
            with pytest.raises(VaceError) as caught:
                read_prediction(api, api.get("abc"), response)
            assert "12345" not in str(caught.value)
        moved = answered(302, "", location=f"https://other.example/login/{echo}")
        assert "12345" not in str(read_error(api, api.get("abc"), moved))


def test_a_created_id_without_a_status_is_accepted() -> None:
    for body in ({"id": "abc", "urls": {}}, {"id": "abc", "status": None}):
        assert read_prediction(GATEWAY, CREATE, answered(201, body)).status == "starting"


def test_a_very_short_key_does_not_garble_messages() -> None:
    api = Api.at("https://g.example", "a")
    assert read_error(api, api.get("b"), answered(400, {"detail": "bad"})).detail == "bad"


# --- what may be sent again ------------------------------------------------------------------------


def protocol_error(*, is_truncated: bool) -> VaceProtocolError:
    return VaceProtocolError("m", status_code=200, is_truncated=is_truncated)


# Gateways also use these words after a vendor has accepted.
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
        (protocol_error(is_truncated=True), False, True),
        (protocol_error(is_truncated=False), False, False),
        (VaceInputError("m", field="prompt"), False, False),
    ],
)
def test_a_create_is_repeated_only_if_it_was_certainly_not_accepted(
    error: VaceError, *, again: bool, unknown: bool
) -> None:
    assert verdict_of(error, "create").now is again
    found = read_failed_create(error)
    if unknown:
        assert isinstance(found, SubmissionUnknown)
        assert str(error) in str(found)
        assert found.status_code == getattr(error, "status_code", None)
    else:
        assert found is error


@pytest.mark.parametrize(
    ("body", "is_truncated"),
    [
        ("", True),
        ('{"id": "abc", "sta', True),
        (b"\xff\xfe", True),
        ({"detail": "x" * 5000}, False),
        ("<html>", False),
        ("Internal message", False),
    ],
)
def test_a_truncated_prediction_is_distinguished_from_a_message(body: Any, *, is_truncated: bool) -> None:
    with pytest.raises(VaceProtocolError) as caught:
        read_prediction(GATEWAY, CREATE, answered(200, body))
    assert caught.value.is_truncated is is_truncated
    assert "before paying again" in str(caught.value)


def test_a_failed_prediction_is_not_a_failed_create() -> None:
    error = PredictionFailed("m", prediction=Prediction.from_json({"id": "a", "status": "failed"}))
    assert read_failed_create(error) is error


@given(
    st.integers(100, 599), st.binary(), st.dictionaries(st.sampled_from(["Retry-After", "Date"]), st.text())
)
def test_any_bytes_cause_only_errors_of_this_package(
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
def test_any_json_causes_only_errors_of_this_package(status: int, body: dict[str, Any]) -> None:
    for api in (GATEWAY, PRUNA):
        try:
            found = read_prediction(api, api.get("abc"), answered(status, body))
        except VaceError:
            continue
        assert found.id == "abc"


def test_an_upload_returns_the_address_of_the_file() -> None:
    url = "https://api.replicate.com/v1/files/abc"
    assert read_upload(REPLICATE, GET, answered(201, {"urls": {"get": url}})) == url
    bodies: list[dict[str, Any]] = [{}, {"urls": []}, {"urls": {"get": "file:///etc/passwd"}}]
    for body in bodies:
        with pytest.raises(VaceProtocolError, match="without the address of the file"):
            read_upload(REPLICATE, GET, answered(201, body))
