"""Base URLs of connections, in the forms in which people paste them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_vace.client.settings import Settings
from airflow_vace.exceptions import VaceInputError

G = "https://gateway.example"
R = "https://api.replicate.com"
CLOUDFLARE = "https://gateway.ai.cloudflare.com/v1/acct/gw/replicate"


def settings(host: str | None, schema: str | None = None, port: int | None = None, **extra: Any) -> Settings:
    return Settings.of(SimpleNamespace(host=host, schema=schema, port=port, password="k" * 8), extra)


def root_of(*fields: Any, **extra: Any) -> tuple[str, str]:
    """Return the name of the back-end, and the address before its paths."""
    api = settings(*fields, **extra).api
    return api.backend.name, f"{api.base_url}{api.prefix}"


@pytest.mark.parametrize(
    ("host", "root"),
    [
        *((f"{G}{path}", f"{G}/replicate/v1") for path in ("", "/", "/v1", "/v1/", "/replicate", "//")),
        *((f"{G}{path}", f"{G}/replicate/v1") for path in ("/replicate/v1", "/replicate/v1//")),
        (f"{G}/replicate/v1/predictions", f"{G}/replicate/v1"),
        (f"{G}/v1/predictions", f"{G}/replicate/v1"),
        (f"{G}/replicate/v1/models/prunaai/vace-14b", f"{G}/replicate/v1"),
        (f"{G}/replicate/v1/models/prunaai/vace-14b/predictions", f"{G}/replicate/v1"),
        (f"{G}/replicate/v1/predictions/abc/cancel", f"{G}/replicate/v1"),
        (f"{G}/base", f"{G}/base/replicate/v1"),
        (f"{G}/base/replicate/v1", f"{G}/base/replicate/v1"),
        (f"{G}/models", f"{G}/models/replicate/v1"),
        ("gateway.example/replicate/v1", f"{G}/replicate/v1"),
        ("HTTPS://Gateway.EXAMPLE/replicate/v1", f"{G}/replicate/v1"),
        (f"https://{G}", f"{G}/replicate/v1"),
        (f"http://{G}", f"{G}/replicate/v1"),
        (f"{G}\n", f"{G}/replicate/v1"),
        ("\ufeff gateway.example\u200b\r\n", f"{G}/replicate/v1"),
        ("https:// gateway.example", f"{G}/replicate/v1"),
        *(
            (text, f"{G}/replicate/v1")
            for text in (f'"{G}"', f"'{G}/'", f"<{G}>", f"`{G}`", f"{G},", f"{G}.")
        ),
        *(
            (f"{text}gateway.example", f"{G}/replicate/v1")
            for text in ("//", "https:/", "https:", "HTTPS:///")
        ),
        ("bücher.example", "https://xn--bcher-kva.example/replicate/v1"),
        ("https://straße.example:81", "https://xn--strae-oqa.example:81/replicate/v1"),
        ("xn--bcher-kva.example", "https://xn--bcher-kva.example/replicate/v1"),
        ("::1", "https://[::1]/replicate/v1"),
        ("[::1]", "https://[::1]/replicate/v1"),
        ("[::1]:8642", "https://[::1]:8642/replicate/v1"),
        ("http://[2001:DB8::1]:8642/base", "http://[2001:db8::1]:8642/base/replicate/v1"),
        ("http://2001:db8::1", "http://[2001:db8::1]/replicate/v1"),
    ],
)
def test_a_pasted_address_leads_to_the_gateways_api(host: str, root: str) -> None:
    assert root_of(host) == ("gateway", root)


@pytest.mark.parametrize(
    "path", ["", "/", "/v1", "/v1/", "/v1/predictions", "/v1/models/prunaai/vace-14b", "/v1/predictions/abc"]
)
def test_a_pasted_address_leads_to_replicates_api(path: str) -> None:
    assert root_of(f"{R}{path}") == ("replicate", f"{R}/v1")
    assert root_of(f"{G}{path}", backend="replicate") == ("replicate", f"{G}/v1")
    assert root_of(f"https://api.pruna.ai{path}")[1] == "https://api.pruna.ai/v1"


@pytest.mark.parametrize("path", ["", "/", "/predictions", "/models/prunaai/vace-14b"])
def test_a_cloudflare_gateway_has_its_path_in_place_of_v1(path: str) -> None:
    assert root_of(f"{CLOUDFLARE}{path}") == ("replicate", CLOUDFLARE)
    local = CLOUDFLARE.replace("https://gateway.ai.cloudflare.com", "http://127.0.0.1:8642")
    assert root_of(f"{local}{path}", backend="replicate") == ("replicate", local)
    assert root_of(f"{CLOUDFLARE}{path}", api_prefix="/v2") == ("replicate", f"{CLOUDFLARE}/v2")


@pytest.mark.parametrize(
    ("host", "prefix", "root"),
    [
        (G, "/", G),
        (f"{G}/x", "/x", f"{G}/x"),
        (f"{G}/x", "y", f"{G}/x/y"),
        (f"{G}/x/v1", "/v1", f"{G}/x/v1"),
        (f"{G}/replicate", "/replicate/v1", f"{G}/replicate/replicate/v1"),
    ],
)
def test_a_prefix_of_the_connection_is_not_repeated(host: str, prefix: str, root: str) -> None:
    assert root_of(host, api_prefix=prefix)[1] == root


@pytest.mark.parametrize(
    ("fields", "root"),
    [
        (("gateway.example:", None, 81), "https://gateway.example:81/replicate/v1"),
        (("::1", "http", 8642), "http://[::1]:8642/replicate/v1"),
        (("[::1]", None, 8642), "https://[::1]:8642/replicate/v1"),
        (("[::1]:9", None, 8642), "https://[::1]:9/replicate/v1"),
        (("gateway.example", " HTTP ", None), "http://gateway.example/replicate/v1"),
        (("gateway.example", "https/base", 81), "https://gateway.example:81/base/replicate/v1"),
        (("gateway.example", "replicate/v1", None), f"{G}/replicate/v1"),
        (("gateway.example", "v1/acct/gw/replicate", None), f"{G}/v1/acct/gw/replicate"),
    ],
)
def test_schema_and_port_complete_the_host(fields: tuple[Any, ...], root: str) -> None:
    assert root_of(*fields)[1] == root


@pytest.mark.parametrize(
    ("uri", "root", "key"),
    [
        ("vace://:K%25Y%2F%2B@gateway.example", f"{G}/replicate/v1", "K%Y/+"),
        ("vace://:KEY%0A@gateway.example", f"{G}/replicate/v1", "KEY"),
        ("vace://:KEY@gateway.example%2Freplicate%2Fv1/http", "http://gateway.example/replicate/v1", "KEY"),
        ("vace://:KEY@https%3A%2F%2Fgateway.example%2FBase", f"{G}/Base/replicate/v1", "KEY"),
        ("vace://:KEY@[::1]:8642/http", "http://[::1]:8642/replicate/v1", "KEY"),
        ("vace://:KEY@gateway.ai.cloudflare.com/https/v1/acct/gw/replicate", CLOUDFLARE, "KEY"),
        ("vace://https://:KEY@gateway.ai.cloudflare.com/v1/acct/gw/replicate", CLOUDFLARE, "KEY"),
    ],
)
def test_uris_of_connections_are_read(uri: str, root: str, key: str) -> None:
    connection = Connection.from_uri(uri, conn_id="vace_default")
    api = Settings.of(connection, connection.extra_dejson).api
    assert (f"{api.base_url}{api.prefix}", api.key) == (root, key)


@pytest.mark.parametrize(
    "host",
    [
        *(
            None,
            "",
            "https://",
            "ftp://gateway.example",
            "gate way.example",
            "gateway.example\n.evil.example",
        ),
        *("user@gateway.example", "gateway.example:port", "[::1", "gateway.example?x=1", "gateway.example#x"),
        *("\u2028\u2029", "büch er.example", "a..ü"),
    ],
)
def test_an_unusable_address_is_refused(host: str | None) -> None:
    with pytest.raises(VaceInputError, match=r"has no host|is no usable address") as caught:
        settings(host)
    assert caught.value.field == "host"


@pytest.mark.parametrize("host", ["replicate.com", "https://www.replicate.com/prunaai/vace-14b"])
def test_a_page_of_the_vendor_is_refused_with_the_apis_address(host: str) -> None:
    with pytest.raises(VaceInputError, match=R):
        settings(host)


def test_the_address_of_a_model_names_the_model() -> None:
    host = f"{R}/v1/models/a/b/predictions"
    assert settings(host).model == "a/b"
    assert settings(host, model="A/b").model == "A/b"
    assert settings(f"{R}/v1/predictions").model == "prunaai/vace-14b"
    with pytest.raises(VaceInputError, match="'a/b', which the host names") as caught:
        settings(host, model="prunaai/vace-14b")
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    "path", ["", "/", "/replicate", "/replicate/", "/replicate/v1", "/replicate/predictions"]
)
def test_a_gateway_of_cloudflare_is_known_with_and_without_the_provider(path: str) -> None:
    assert root_of(f"{CLOUDFLARE.removesuffix('/replicate')}{path}") == ("replicate", CLOUDFLARE)
