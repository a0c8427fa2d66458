"""Settings of a connection: defaults, text from URIs, and errors that name the field."""

from __future__ import annotations

import ssl
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import Connection

from airflow_vace.client.settings import DEFAULT_TIMEOUT, Settings
from airflow_vace.core.multipart import Form
from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import VaceInputError
from airflow_vace.hooks import VaceHook

if TYPE_CHECKING:
    from collections.abc import Callable


def settings(extra: dict[str, Any] | None = None, **fields: Any) -> Settings:
    connection = Connection(
        conn_id="vace_default", conn_type="vace", **{"host": "gateway.example", "password": "k" * 8} | fields
    )
    return Settings.of(connection, extra or {})


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "https://gateway.example"),
        ({"schema": "http"}, "http://gateway.example"),
        ({"schema": "nonsense"}, "https://gateway.example"),
        ({"host": "http://gateway.example/"}, "http://gateway.example"),
        ({"port": 8443}, "https://gateway.example:8443"),
        ({"host": "https://gateway.example/base", "port": 8443}, "https://gateway.example:8443/base"),
        ({"host": "https://gateway.example:9000/base", "port": 8443}, "https://gateway.example:9000/base"),
        ({"host": "gateway.example/base"}, "https://gateway.example/base"),
        ({"port": 0}, "https://gateway.example"),
    ],
)
def test_the_base_url_is_https_unless_the_connection_names_http(fields: dict[str, Any], url: str) -> None:
    assert settings(**fields).api.base_url == url


def test_explicit_nulls_mean_the_defaults() -> None:
    names = ("backend", "api_prefix", "model", "version", "timeout", "verify", "proxies", "cert")
    found = settings(dict.fromkeys(names))
    assert (found.timeout, found.verify, found.proxies, found.cert) == (DEFAULT_TIMEOUT, True, {}, None)
    assert (found.model, found.version, found.api.backend.name) == ("prunaai/vace-14b", None, "gateway")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("true", True), ("False", False), ("0", False), (False, False), ("/", "/")],
)
def test_verify_may_be_a_boolean_or_text(given: object, meant: object) -> None:
    assert settings({"verify": given}).verify == meant


def test_proxies_may_be_an_object_json_text_or_an_address() -> None:
    both = {"http": "http://p:1", "https": "http://p:1"}
    assert settings({"proxies": both}).proxies == both
    assert settings({"proxies": '{"https": "http://p:1"}'}).proxies == {"https": "http://p:1"}
    found = settings({"proxies": "http://p:1"})
    assert found.proxies == both
    assert found.proxy_for("https://x.example") == "http://p:1"
    assert settings({"proxies": {"all": "http://p:2"}}).proxy_for("https://x.example") == "http://p:2"


@pytest.mark.parametrize(
    ("given", "size"), [(None, 256_000_000), ("", 256_000_000), (1000, 10**9), ("0.5", 500_000), (1e-9, 1)]
)
def test_the_size_limit_of_outputs_is_in_megabytes(given: object, size: int) -> None:
    assert settings({"max_output_mb": given}).max_output_bytes == size


@pytest.mark.parametrize("given", [0, -1, True, "much", "nan", "inf", [256], {"mb": 1}, 10**400])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("max_output_mb", "positive number of megabytes such as 256"),
        ("timeout", "less than a day, such as 30"),
    ],
)
def test_an_invalid_number_is_refused_by_name(name: str, wanted: str, given: object) -> None:
    with pytest.raises(VaceInputError, match=wanted) as caught:
        settings({name: given})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("proxy:3128", "http://proxy:3128"),
        (" me:5ecret@proxy:3128 ", "http://me:5ecret@proxy:3128"),
        ("//me:5ecret@proxy:3128", "http://me:5ecret@proxy:3128"),
        ("HTTPS://proxy", "HTTPS://proxy"),
        ("[::1]:3128", "http://[::1]:3128"),
        ("", None),
    ],
)
def test_a_proxy_without_a_scheme_gets_http(
    given: str, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings({"proxies": {"https": given}}).proxy_for("https://x.example") == meant
    monkeypatch.setenv("https_proxy", given)
    assert settings().proxy_for("https://x.example") == meant


MALFORMED = (
    "http://me:5ecret@proxy:port",
    "me:5ecret@proxy:99999",
    "http:me:5ecret@proxy:3128",
    "http://me:5ecret@",
    "http://me:5ecret@[proxy",
    "ftp://me:5ecret@proxy",
    "me:5ecret@pro xy",
)


@pytest.mark.parametrize("proxy", MALFORMED)
def test_an_invalid_proxy_is_refused_without_showing_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VaceInputError, match="The proxy of the connection is not a valid address") as caught:
        settings({"proxies": proxy})
    assert "5ecret" not in repr(vars(caught.value)) + str(caught.value)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(VaceInputError, match="The proxy of the environment is not a valid address") as caught:
        settings().proxy_for("https://x.example")
    assert "5ecret" not in repr(vars(caught.value)) + str(caught.value)


@pytest.mark.skipif(find_spec("socks") is not None, reason="the library is there")
def test_a_socks_proxy_without_pysocks_is_refused_before_any_request() -> None:
    with pytest.raises(VaceInputError, match=r"requests\[socks\]"):
        settings({"proxies": "socks5://me:5ecret@proxy:1080"})


def test_a_proxy_may_apply_to_a_single_host() -> None:
    found = settings({"proxies": {"https://x.example": "p:1", "https": "q:1"}})
    assert found.proxy_for("https://x.example/a") == "http://p:1"
    assert found.proxy_for("https://y.example/a") == "http://q:1"


def test_a_large_upload_may_take_longer_than_a_request() -> None:
    found = settings({"backend": "replicate", "timeout": 5})
    large = Form(BytesIO(), name="a.mp4", content_type="video/mp4", size=100_000_000)
    upload, create = found.api.upload(large), found.api.create({"prompt": "a fox"})
    assert found.for_request(upload).time_for(upload) > 1000
    assert found.for_request(create).time_for(create) == 5


def test_timing_bounds_connecting_canceling_and_uploading() -> None:
    timing = Timing(max_connect_seconds=1, max_cancel_seconds=2, min_upload_seconds=500)
    found = replace(settings({"backend": "replicate", "timeout": 100}), timing=timing)
    small = Form(BytesIO(), name="a.mp4", content_type="video/mp4", size=1)
    assert found.connect_timeout == 1
    assert found.for_request(found.api.cancel("abc")).timeout == 2
    assert found.for_request(found.api.upload(small)).timeout == 500
    assert found.for_request(found.api.get("abc")).timeout == 100


def test_a_client_certificate_is_one_file_or_two(tmp_path: Path) -> None:
    one, two = str(tmp_path / "a.pem"), str(tmp_path / "b.pem")
    for path in (one, two):
        Path(path).touch()
    assert settings({"cert": one}).cert == one
    assert settings({"cert": [one, two]}).cert == (one, two)


def test_an_extra_must_be_an_object() -> None:
    with pytest.raises(VaceInputError) as caught:
        settings([1])  # type: ignore[arg-type]
    assert caught.value.field == "extra"


@pytest.mark.parametrize("name", ["verify", "cert"])
def test_a_missing_file_is_refused_before_any_request(name: str, tmp_path: Path) -> None:
    with pytest.raises(VaceInputError) as caught:
        settings({name: str(tmp_path / "a.pem")})
    assert caught.value.field == name


def test_aiohttp_trusts_the_same_certificates_as_requests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = settings().ssl_context()
    assert isinstance(context, ssl.SSLContext)
    assert context.get_ca_certs()
    assert settings({"verify": False}).ssl_context() is False
    empty = settings({"verify": str(tmp_path)}).ssl_context()
    assert isinstance(empty, ssl.SSLContext)
    assert not empty.get_ca_certs()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    from_environment = settings().ssl_context()
    assert isinstance(from_environment, ssl.SSLContext)
    assert not from_environment.get_ca_certs()


def test_a_client_certificate_is_loaded_even_without_verification(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        settings({"verify": False, "cert": str(tmp_path / "a.pem")}).ssl_context()


def test_settings_hide_the_key_and_the_passwords_of_proxies() -> None:
    found = settings({"proxies": "http://me:5ecret@p:1"}, password="verysecret")
    assert "verysecret" not in repr(found)
    assert "5ecret" not in repr(found)


def test_a_key_with_a_line_end_is_masked_without_it(
    connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    masked: list[object] = []
    monkeypatch.setattr("airflow.sdk.log.mask_secret", masked.append)
    connect('{"conn_type": "vace", "host": "https://x.example", "password": "r8_pasted\\n"}')
    assert VaceHook().settings.api.key == "r8_pasted"
    assert "r8_pasted" in masked


@pytest.mark.parametrize("given", ["None", " null ", "", None])
def test_text_for_a_missing_value_is_unset_in_the_extra(given: object) -> None:
    found = settings({"model": given, "version": given, "backend": given, "api_prefix": given})
    assert (found.model, found.version, found.api.backend.name) == ("prunaai/vace-14b", None, "gateway")


def test_a_version_of_digits_may_be_a_number() -> None:
    assert settings({"version": 12345678}).version == "12345678"
