"""Mistakes in the connection."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.client.extras import EXTRAS
from airflow_vace.provider_info import get_provider_info
from support.mistakes import SECRET, Mistake, Scene, row
from support.tasks import HAS_STORE

if TYPE_CHECKING:
    from collections.abc import Callable


def _submit(**fields: Any) -> Callable[[Scene], object]:
    """Return a mistake in fields of the connection, seen by a task."""

    def make(scene: Scene) -> object:
        scene.connect(**fields)
        return scene.submit()

    return make


def _extra(**extra: Any) -> Callable[[Scene], object]:
    """Return a mistake in the connection's extra, seen by a task."""

    def make(scene: Scene) -> object:
        scene.connect(extra)
        return scene.submit()

    return make


def _test(extra: dict[str, Any] | None = None, **fields: Any) -> Callable[[Scene], object]:
    """Return a mistake that the button *Test* finds."""

    def make(scene: Scene) -> object:
        scene.connect(extra, **fields)
        return scene.test_connection()

    return make


def _whole_extra(text: str) -> Callable[[Scene], object]:
    def make(scene: Scene) -> object:
        scene.connect_as(json.dumps({**json.loads(scene.server.connection), "extra": text}))
        return scene.submit()

    return make


def _at_the_server(old: str, new: str) -> Callable[[Scene], object]:
    """Return a mistake in the address of the emulator."""

    def make(scene: Scene) -> object:
        scene.connect(host=scene.server.url.replace(old, new))
        return scene.submit()

    return make


def _login_page(scene: Scene) -> object:
    scene.server.faults.add("login_page", times=None)
    return scene.test_connection()


NAMED = "The connection 'vace_default' is not usable"
WEBSITE = ("replicate.com", "https://api.replicate.com", "put that into the host")
ADDRESS = ("host", "no usable address", "such as https://api.replicate.com")
KEY = "password field"
# Airflow 3.1 reports such a connection in the environment as missing.
EXTRAS_WITHOUT_OBJECT = (
    row(
        "an extra without JSON", _whole_extra("backend=replicate"), NAMED, "Extra", '{"backend": "replicate"}'
    ),
    row("a list as extra", _whole_extra("[1]"), NAMED, "Extra", '{"backend": "replicate"}'),
)
MISTAKES = (
    row(
        "no connection of this id",
        lambda scene: scene.submit(vace_conn_id="vace_defualt"),
        *("'vace_defualt'", "correct vace_conn_id", "airflow connections add vace_defualt --conn-type vace"),
        outcome="retries",
    ),
    row("a connection of another type", _submit(conn_type="postgres"), "'postgres'", "correct vace_conn_id"),
    row("no host", _submit(host=None), NAMED, "has no host", "field Host", "https://api.replicate.com"),
    row("no host, button *Test*", _test(host=""), "has no host", "field Host", outcome="answers"),
    row(
        "a blank in the host",
        _submit(host="api replicate com"),
        NAMED,
        "'https://api replicate com'",
        *ADDRESS,
    ),
    row("an FTP host", _submit(host="ftp://api.replicate.com"), NAMED, "'ftp://api.", *ADDRESS),
    row("port 99999", _submit(host="http://127.0.0.1:99999"), NAMED, ":99999'", "at most 65535", *ADDRESS),
    row(
        "the scheme twice, and a path",
        _test(host="https://http://127.0.0.1:1/v1/v1"),
        *("http://127.0.0.1:1/v1/v1/", "Not reached", "check the connection's host and port"),
        outcome="answers",
    ),
    row(
        "a wrong port",
        _submit(host="http://127.0.0.1", port=9),
        *("127.0.0.1:9/", "check the connection's host and port", "nothing was sent"),
        outcome="retries",
    ),
    row(
        "https:// on a port without TLS",
        _at_the_server("http:", "https:"),
        *("does not speak TLS", "write http:// in the host", "nothing was sent"),
        outcome="retries",
    ),
    row(
        "no scheme on a port without TLS",
        _at_the_server("http://", ""),
        *("does not speak TLS", "write http:// in the host"),
        outcome="retries",
    ),
    row(
        "an unknown host name",
        _submit(host="https://api.replicate.invalid"),
        *("api.replicate.invalid", "not known", "check the spelling of the connection's host"),
        outcome="retries",
    ),
    row("the vendor's website as host", _submit(host="https://replicate.com"), NAMED, *WEBSITE),
    row("the model's page as host", _submit(host="https://replicate.com/prunaai/vace-14b"), NAMED, *WEBSITE),
    row("no key", _submit(password=None), NAMED, "no API key", KEY),
    row("a connection of type http without a key", _submit(conn_type="http", password=None), NAMED, KEY),
    row("a line break in the key", _submit(password=f"{SECRET}\n{SECRET}"), NAMED, "line break", "copy", KEY),
    row("a blank in the key", _submit(password=f"{SECRET} {SECRET}"), NAMED, "a blank", "copy", KEY),
    row("the key in quotes", _submit(password=f'"{SECRET}"'), NAMED, "remove the quotes", KEY),
    row("`Bearer` before the key", _submit(password=f"Bearer {SECRET}"), NAMED, "without 'Bearer '", KEY),
    row("a name before the key", _submit(password=f"API_TOKEN={SECRET}"), NAMED, "without a name", KEY),
    row("a placeholder as key", _submit(password="$REPLICATE_API_TOKEN"), NAMED, "placeholder", KEY),
    row(
        "another key, button *Test*",
        _test(password=SECRET),
        "401",
        "connection's password",
        outcome="answers",
    ),
    *(EXTRAS_WITHOUT_OBJECT if HAS_STORE else ()),
    row(
        "a misspelt name in the extra",
        _extra(time_out=5),
        *("'vace_default'", "extra 'time_out' has no effect", "did you mean 'timeout'?"),
        outcome="warns",
        posts=1,
        billed=1,
    ),
    row(
        "a misspelt name in the extra, button *Test*",
        _test({"backnd": "replicate"}),
        *("extra 'backnd' has no effect", "did you mean 'backend'?"),
        outcome="answers",
    ),
    row(
        "an unknown back-end",
        _extra(backend="replicat"),
        NAMED,
        "'backend'",
        "'replicat'",
        "gateway or replicate",
    ),
    row("`timeout` in words", _extra(timeout="ten"), NAMED, "'timeout' is 'ten'", "seconds", "such as 30"),
    row("a negative `timeout`", _extra(timeout=-1), NAMED, "'timeout' is -1", "positive", "such as 30"),
    row("`lists` as number", _extra(lists=3), NAMED, "'lists' is 3", "true or false"),
    row(
        "`verify` without a file",
        _extra(verify="/no/ca.pem"),
        NAMED,
        "'verify' is '/no/ca.pem'",
        "existing CA",
    ),
    row(
        "`cert` without a file", _extra(cert="/no/c.pem"), NAMED, "'cert' is '/no/c.pem'", "an existing file"
    ),
    row("`proxies` as number", _extra(proxies=8080), NAMED, "'proxies'", "{'https': 'http://proxy:3128'}"),
    row("a relative `input_roots`", _extra(input_roots="in"), NAMED, "'input_roots'", "'in'", "absolute"),
    row(
        "`max_output_mb` in words",
        _extra(max_output_mb="much"),
        NAMED,
        "'max_output_mb' is 'much'",
        "such as 256",
    ),
    row(
        "`headers` as text", _extra(headers=SECRET), NAMED, "'headers' is no object", "give an object such as"
    ),
    row("`model` as list", _extra(model=["prunaai/vace-14b"]), NAMED, "'model' is ['prunaai", "must be text"),
    row(
        "`model` without owner",
        _extra(model="vace-14b"),
        "'vace-14b'",
        "'owner/name'",
        "the connection's extra",
    ),
    row(
        "`version` v1",
        _extra(version="v1"),
        "422",
        "'v1' is not the id of a version",
        "64 hex digits",
        posts=1,
    ),
    row("`prices` as number", _extra(prices=0.4), "extra 'prices'", "0.4", "give prices such as"),
    row(
        "a wrong `api_prefix`",
        _extra(api_prefix="/v2/replicate"),
        *("404", "/v2/replicate/", "the connection's api_prefix", "Nothing is billed"),
        posts=1,
    ),
    row(
        "a log-in page in place of the API, button *Test*",
        _login_page,
        *("an HTML page", "Please sign in", "check the connection's host, port and api_prefix"),
        outcome="answers",
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_mistake_in_the_connection_is_explained(mistake: Mistake, explain: Any) -> None:
    explain(mistake)


def test_all_extras_of_the_form_are_known_names() -> None:
    (kind,) = get_provider_info()["connection-types"]
    assert sorted(EXTRAS) == sorted(kind["conn-fields"])
