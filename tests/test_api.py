from __future__ import annotations

import json
import time
from email.utils import formatdate
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.api import (
    BACKENDS,
    Api,
    Form,
    Request,
    Response,
    may_create_again,
    read_error,
    read_failed_create,
    read_known,
    read_list,
    read_prediction,
    read_probe,
    read_reference,
)
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


# --- back-ends and requests ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "backend"),
    [
        ("https://gateway.example", "gateway"),
        ("https://api.replicate.com", "replicate"),
        ("https://API.REPLICATE.COM", "replicate"),
        ("https://api.pruna.ai", "pruna"),
        ("https://api.replicate.com.evil.example", "gateway"),
    ],
)
def test_the_back_end_is_chosen_by_host(url: str, backend: str) -> None:
    assert Api.at(url, KEY).backend.name == backend
    assert Api.at(url, KEY, backend="pruna").backend.name == "pruna"


@pytest.mark.parametrize(
    ("api", "version", "url", "body", "headers"),
    [
        (
            GATEWAY,
            None,
            "https://gateway.example/replicate/v1/models/prunaai/vace-14b/predictions",
            {"input": {"prompt": "a fox"}},
            {"Authorization": f"Bearer {KEY}"},
        ),
        (
            GATEWAY,
            "5129",
            "https://gateway.example/replicate/v1/models/prunaai/vace-14b/predictions",
            {"version": "5129", "input": {"prompt": "a fox"}},
            {"Authorization": f"Bearer {KEY}"},
        ),
        (
            REPLICATE,
            None,
            "https://api.replicate.com/v1/models/prunaai/vace-14b/predictions",
            {"input": {"prompt": "a fox"}},
            {"Authorization": f"Bearer {KEY}"},
        ),
        (
            REPLICATE,
            "5129",
            "https://api.replicate.com/v1/predictions",
            {"version": "5129", "input": {"prompt": "a fox"}},
            {"Authorization": f"Bearer {KEY}"},
        ),
        (
            PRUNA,
            "5129",
            "https://api.pruna.ai/v1/predictions",
            {"input": {"prompt": "a fox"}},
            {"apikey": KEY, "Model": "vace"},
        ),
    ],
)
def test_a_create_is_what_each_back_end_documents(
    api: Api, version: str | None, url: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    request = api.create({"prompt": "a fox"}, version=version)
    assert (request.method, request.url) == ("POST", url)
    assert isinstance(request.body, bytes)
    assert json.loads(request.body) == body
    common = {"Accept": "application/json", "Content-Type": "application/json"}
    assert request.headers == headers | common


def test_other_models_go_into_the_path_or_into_prunas_header() -> None:
    assert "/models/black-forest-labs/flux/" in GATEWAY.create({}, model="black-forest-labs/flux").url
    assert PRUNA.create({}, model="prunaai/wan").headers["Model"] == "wan"


def test_cancel_after_asks_the_server_to_stop_by_itself() -> None:
    assert REPLICATE.create({}, cancel_after=599.2).headers["Cancel-After"] == "600s"
    assert REPLICATE.create({}, cancel_after=-5).headers["Cancel-After"] == "1s"
    assert "Cancel-After" not in REPLICATE.create({}).headers


@pytest.mark.parametrize(
    ("api", "get", "cancel"),
    [
        (GATEWAY, "/replicate/v1/predictions/abc", "/replicate/v1/predictions/abc/cancel"),
        (REPLICATE, "/v1/predictions/abc", "/v1/predictions/abc/cancel"),
        (PRUNA, "/v1/predictions/status/abc", None),
    ],
)
def test_get_and_cancel_are_what_each_back_end_documents(api: Api, get: str, cancel: str | None) -> None:
    assert api.get("abc").url == api.base_url + get
    if cancel:
        assert (api.cancel("abc").method, api.cancel("abc").url) == ("POST", api.base_url + cancel)
    else:
        with pytest.raises(VaceInputError, match="documents no cancel"):
            api.cancel("abc")


def test_only_replicate_lists() -> None:
    assert REPLICATE.list().url == "https://api.replicate.com/v1/predictions"
    url = REPLICATE.list("2025-07-12T07:27:54Z").url
    assert url.endswith("/v1/predictions?created_after=2025-07-12T07%3A27%3A54Z")
    for api in (GATEWAY, PRUNA):
        with pytest.raises(VaceInputError, match="documents no list"):
            api.list()


@pytest.mark.parametrize(
    ("prefix", "path"), [("/v2/", "/v2/predictions/abc"), ("", "/predictions/abc"), ("/", "/predictions/abc")]
)
def test_a_prefix_replaces_the_back_ends_own(prefix: str, path: str) -> None:
    assert Api.at("https://g.example/base/", KEY, prefix=prefix).get("abc").url == (
        f"https://g.example/base{path}"
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gateway.example",
        "ftp://gateway.example",
        "https://",
        "https://g.example:99999",
        "https://g.example?a=1",
        "https://g.example#x",
        "https://user:pass@g.example",
        "https://g example",
        "https://g.example\\@evil.example",
        "https://[::1",
    ],
)
def test_an_address_that_cannot_work_is_refused_before_any_request(url: str) -> None:
    with pytest.raises(VaceInputError) as caught:
        Api.at(url, KEY)
    assert caught.value.field == "host"
    assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("key", [None, "", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_work_is_refused_without_being_shown(key: str | None) -> None:
    with pytest.raises(VaceInputError) as caught:
        Api.at("https://g.example", key)
    assert caught.value.field == "password"
    assert not key or key not in str(caught.value)


def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(VaceInputError, match="gateway, replicate, pruna") as caught:
        Api.at("https://g.example", KEY, backend="openai")
    assert caught.value.field == "backend"
    assert set(BACKENDS) == {"gateway", "replicate", "pruna"}


@pytest.mark.parametrize("model", ["", "vace-14b", "a/b/c", "a/../b", "../x", "a/b?c=d", "a b/c", "prunaai/"])
def test_a_model_that_cannot_stand_in_a_path_is_refused(model: str) -> None:
    with pytest.raises(VaceInputError) as caught:
        GATEWAY.create({}, model=model)
    assert caught.value.field == "model"


def test_a_version_or_input_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(VaceInputError) as caught:
        GATEWAY.create({}, version="a b")
    assert caught.value.field == "version"
    for bad in (object(), float("nan")):
        with pytest.raises(VaceInputError) as caught:
            GATEWAY.create({"x": bad})
        assert caught.value.field == "input"


def test_neither_request_nor_api_shows_the_key() -> None:
    for thing in (GATEWAY, CREATE, GET, PRUNA, PRUNA.get("abc")):
        assert KEY not in repr(thing)
        assert KEY not in str(thing)


# --- references ------------------------------------------------------------------------------------

OWN = "https://gateway.example/replicate/v1/predictions/abc"
FOREIGN = "https://api.replicate.com/v1/predictions/abc"


@pytest.mark.parametrize(
    "reference",
    [
        "abc",
        " abc ",
        OWN,
        FOREIGN,
        f"{FOREIGN}/",
        f"{FOREIGN}/cancel",
        "https://api.pruna.ai/v1/predictions/status/abc",
        {"id": "abc"},
        {"id": "abc", "urls": {"get": FOREIGN}},
        {"id": "abc", "urls": None},
        {"urls": {"get": FOREIGN}},
        '{"id": "abc"}',
        "{'id': 'abc', 'urls': {'get': 'https://api.replicate.com/v1/predictions/abc'}}",
        Prediction.from_json({"id": "abc", "status": "starting", "urls": {"get": FOREIGN}}),
    ],
)
def test_a_payload_an_id_and_a_url_are_asked_for_at_the_connections_origin(reference: object) -> None:
    request = GATEWAY.get(reference)
    assert request.url == OWN
    assert request.prediction_id == "abc"


def test_what_is_known_before_the_first_look_is_kept() -> None:
    payload = {
        "id": "abc",
        "model": "m",
        "created_at": "2025",
        "status": "succeeded",
        "output": "https://a/b",
    }
    known = read_known(payload)
    assert (known.id, known.model, known.created_at, known.status, known.output) == (
        "abc",
        "m",
        "2025",
        "unknown",
        None,
    )
    assert read_known(FOREIGN).urls == {"get": FOREIGN}
    assert read_known("abc").urls == {}


def test_a_url_at_the_own_origin_is_used_as_it_stands() -> None:
    assert GATEWAY.get("https://gateway.example/other/predictions/abc?x=1").url == (
        "https://gateway.example/other/predictions/abc?x=1"
    )
    explicit = {"id": "abc", "urls": {"get": "HTTPS://GATEWAY.example:443/look/abc"}}
    assert GATEWAY.get(explicit).url == "https://gateway.example/look/abc"


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.example/v1/predictions/abc",
        "https://gateway.example:444/v1/predictions/abc",
        "https://gateway.example.evil.example/v1/predictions/abc",
        "https://gateway.example@evil.example/v1/predictions/abc",
        "https://user@gateway.example/v1/predictions/abc",
        "https://evil.example\\@gateway.example/v1/predictions/abc",
        "https://gateway.example\t.evil.example/v1/predictions/abc",
        "//gateway.example/v1/predictions/abc",
        "https://[::1/v1/predictions/abc",
        "https://gateway.example:port/v1/predictions/abc",
    ],
)
def test_a_url_that_only_looks_like_the_own_origin_is_not_followed(url: str) -> None:
    assert GATEWAY.get({"id": "abc", "urls": {"get": url}}).url == OWN


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "",
        "None",
        "null",
        "a b",
        "../../etc/passwd",
        "https://api.replicate.com/v1/models",
        "https://api.replicate.com/v1/predictions/a%20b",
        "https://[::1",
        {},
        [],
        5,
        {"id": None},
        {"id": "a/b"},
        {"id": 5, "urls": {"get": FOREIGN}},
        {"urls": {"get": 5}},
        "{'id': ",
    ],
)
def test_what_is_no_prediction_is_refused_with_a_remedy(reference: object) -> None:
    with pytest.raises(VaceInputError, match=r"submit\.output") as caught:
        read_reference(reference)
    assert caught.value.field == "prediction"


def test_a_page_and_a_file_take_the_key_only_to_the_own_origin() -> None:
    assert REPLICATE.page("/v1/predictions?cursor=2").url == (
        "https://api.replicate.com/v1/predictions?cursor=2"
    )
    for foreign in ("https://evil.example/v1/predictions", "https://[evil/v1/predictions"):
        with pytest.raises(VaceProtocolError, match="foreign origin"):
            REPLICATE.page(foreign)
    assert "apikey" in PRUNA.file("https://api.pruna.ai/v1/delivery/a.mp4").headers
    assert PRUNA.file("https://cdn.example/a.mp4?sig=1").headers == {
        "Accept": "*/*",
        "Accept-Encoding": "identity",
    }
    with pytest.raises(VaceProtocolError, match="at no http"):
        PRUNA.file("ftp://cdn.example/a.mp4")


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
    found, following = read_list(REPLICATE, REPLICATE.list(), answer(200, page))
    assert ([p.id for p in found], following) == (["abc"], "/v1/predictions?cursor=2")
    assert read_list(REPLICATE, REPLICATE.list(), answer(200, {"results": []})) == ([], None)
    with pytest.raises(VaceProtocolError):
        read_list(REPLICATE, REPLICATE.list(), answer(200, {"detail": "?"}))


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
        (503, {"message": "当前分组下无可用渠道"}, VaceAPIError, "no channel"),
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


@pytest.mark.parametrize(
    ("error", "again", "unknown"),
    [
        (VaceTransportError("refused", sent=False), True, False),
        (VaceTransportError("reset", sent=True), False, True),
        (error_of(429, "", CREATE), True, False),
        (error_of(503, {"detail": "The model is busy"}, CREATE), True, False),
        (error_of(503, {"detail": "queue is full"}, CREATE), True, False),
        (error_of(503, {"message": "系统繁忙"}, CREATE), True, False),
        (error_of(503, {"error": {"message": "busy", "code": "model_not_found"}}, CREATE), False, False),
        (error_of(503, {"message": "无可用渠道, busy"}, CREATE), False, False),
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
    assert may_create_again(error) is again
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


def test_the_rest_of_a_file_is_asked_for_by_range_and_only_if_it_is_still_the_same() -> None:
    url = "https://cdn.example/a.mp4"
    assert "Range" not in GATEWAY.file(url).headers
    marked = GATEWAY.file(url, start=5, etag='"one"').headers
    assert (marked["Range"], marked["If-Range"]) == ("bytes=5-", '"one"')
    assert "If-Range" not in GATEWAY.file(url, start=5).headers


@pytest.mark.parametrize("size", [3, 5])
def test_a_form_sends_what_it_announced_although_its_file_grows_or_shrinks(size: int) -> None:
    form = Form(BytesIO(b"film!"), name='a "b".mp4', content_type="video/mp4", size=size)
    sent = b"".join(form)
    assert len(sent) == len(form)
    assert b'filename="a__b_.mp4"' in sent
    assert b"\r\n\r\n" + b"film!"[:size] + b"\r\n--" in sent
    short = Form(BytesIO(b"fi"), name="a", content_type="video/mp4", size=3)
    with pytest.raises(OSError, match="shorter by"):
        b"".join(short)


def test_an_upload_goes_only_where_uploads_are_taken() -> None:
    form = Form(BytesIO(b"film"), name="a.mp4", content_type="video/mp4", size=4)
    request = Api.at("https://api.replicate.com", KEY).upload(form)
    assert (request.method, request.url) == ("POST", "https://api.replicate.com/v1/files")
    assert request.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    with pytest.raises(VaceInputError, match="documents no upload"):
        Api.at("https://gateway.example", KEY).upload(form)
