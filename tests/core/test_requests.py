"""Requests to each back-end, and their addresses."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest

from airflow_vace.core.backends import BACKENDS
from airflow_vace.core.multipart import Form
from airflow_vace.core.requests import Api
from airflow_vace.exceptions import VaceInputError, VaceProtocolError
from airflow_vace.prediction import Prediction

KEY = "r8_verysecretkey"
GATEWAY = Api.at("https://gateway.example", KEY)
REPLICATE = Api.at("https://api.replicate.com", KEY)
PRUNA = Api.at("https://api.pruna.ai", KEY)
GET = GATEWAY.get("abc")
CREATE = GATEWAY.create({"prompt": "a fox"})


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


def test_cancel_after_is_sent_in_whole_seconds_five_at_least() -> None:
    assert REPLICATE.create({}, cancel_after=599.2).headers["Cancel-After"] == "600s"
    assert REPLICATE.create({}, cancel_after=-5).headers["Cancel-After"] == "5s"
    assert REPLICATE.create({}, cancel_after=4.1).headers["Cancel-After"] == "5s"
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


def test_only_replicate_lists_unless_the_connection_decides() -> None:
    assert REPLICATE.list().url == "https://api.replicate.com/v1/predictions"
    url = REPLICATE.list("2025-07-12T07:27:54Z").url
    assert url.endswith("/v1/predictions?created_after=2025-07-12T07%3A27%3A54Z")
    for api in (GATEWAY, PRUNA, Api.at("https://api.replicate.com", KEY, lists=False)):
        with pytest.raises(VaceInputError, match="documents no list"):
            api.list()
    assert Api.at("https://g.example", KEY, lists=True).list().url.endswith("/replicate/v1/predictions")


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
def test_an_invalid_address_is_refused_before_any_request(url: str) -> None:
    with pytest.raises(VaceInputError) as caught:
        Api.at(url, KEY)
    assert caught.value.field == "host"
    assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("key", [None, "", "two words", "line\nbreak", "schlüssel"])
def test_an_invalid_key_is_refused_and_not_shown(key: str | None) -> None:
    with pytest.raises(VaceInputError) as caught:
        Api.at("https://g.example", key)
    assert caught.value.field == "password"
    assert not key or key not in str(caught.value)


def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(VaceInputError, match="gateway or replicate or pruna") as caught:
        Api.at("https://g.example", KEY, backend="openai")
    assert caught.value.field == "backend"
    assert set(BACKENDS) == {"gateway", "replicate", "pruna"}


@pytest.mark.parametrize("model", ["", "vace-14b", "a/b/c", "a/../b", "../x", "a/b?c=d", "a b/c", "prunaai/"])
def test_a_model_that_would_change_the_path_is_refused(model: str) -> None:
    with pytest.raises(VaceInputError) as caught:
        GATEWAY.create({}, model=model)
    assert caught.value.field == "model"


def test_an_invalid_version_or_input_is_refused() -> None:
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
def test_any_reference_is_polled_at_the_connections_own_origin(reference: object) -> None:
    request = GATEWAY.get(reference)
    assert request.url == OWN
    assert request.prediction_id == "abc"


def test_a_url_at_the_own_origin_is_used_verbatim() -> None:
    assert GATEWAY.get("https://gateway.example/other/predictions/abc?x=1").url == (
        "https://gateway.example/other/predictions/abc?x=1"
    )
    explicit = {"id": "abc", "urls": {"get": "HTTPS://GATEWAY.example:443/poll/abc"}}
    assert GATEWAY.get(explicit).url == "https://gateway.example/poll/abc"


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
def test_a_url_that_resembles_the_own_origin_is_not_followed(url: str) -> None:
    assert GATEWAY.get({"id": "abc", "urls": {"get": url}}).url == OWN


def test_the_key_for_pages_and_files_stays_at_the_own_origin() -> None:
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


def test_a_resumed_download_sends_a_range_and_the_etag() -> None:
    url = "https://cdn.example/a.mp4"
    assert "Range" not in GATEWAY.file(url).headers
    marked = GATEWAY.file(url, start=5, etag='"one"').headers
    assert (marked["Range"], marked["If-Range"]) == ("bytes=5-", '"one"')
    assert "If-Range" not in GATEWAY.file(url, start=5).headers


def test_only_back_ends_with_uploads_accept_an_upload() -> None:
    form = Form(BytesIO(b"film"), name="a.mp4", content_type="video/mp4", size=4)
    request = Api.at("https://api.replicate.com", KEY).upload(form)
    assert (request.method, request.url) == ("POST", "https://api.replicate.com/v1/files")
    assert request.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    with pytest.raises(VaceInputError, match="documents no upload"):
        Api.at("https://gateway.example", KEY).upload(form)


@pytest.mark.parametrize("pasted", ["r8_key\n", "  r8_key  ", "r8_key\r\n"])
def test_a_pasted_key_works_without_its_blanks(pasted: str) -> None:
    assert Api.at("https://x.example", pasted).key == "r8_key"


@pytest.mark.parametrize(
    ("pasted", "named"),
    [
        *(
            (key, "quotes")
            for key in (
                "'r8_key'",
                '"r8_key"',
                "`r8_key`",
                "\u201cr8_key\u201d",
                "r8_key'",
                '"Bearer r8_key"',
            )
        ),
        *((f"{scheme}r8_key", f"'{scheme}'") for scheme in ("Bearer ", "Token ", "Bearer:", "key ")),
        ("Authorization: Bearer r8_key", "behind a name"),
        ("REPLICATE_API_TOKEN=r8_key", "behind a name"),
        ("export REPLICATE_API_TOKEN=r8_key", "behind a name"),
        ("x-api-key: r8_key", "behind a name"),
        *(
            (text, "placeholder")
            for text in ("$R8_KEY", "${R8_KEY}", "{{ var.value.key }}", "<your-key>", "***")
        ),
    ],
)
def test_a_key_in_quotes_or_with_its_scheme_names_the_remedy(pasted: str, named: str) -> None:
    with pytest.raises(VaceInputError, match=named) as caught:
        Api.at("https://x.example", pasted)
    assert "r8_key" not in str(caught.value)


@pytest.mark.parametrize(
    "following",
    [
        "http://gateway.example/replicate/v1/predictions?cursor=a",
        "https://gateway.example:8443/replicate/v1/predictions?cursor=a",
        "https://api.replicate.com/v1/predictions?cursor=a",
        "/replicate/v1/predictions?cursor=a",
    ],
)
def test_the_cursor_of_a_page_is_used_at_the_own_address(following: str) -> None:
    api = Api.at("https://gateway.example", KEY, lists=True)
    assert api.page(following).url == "https://gateway.example/replicate/v1/predictions?cursor=a"
