"""Proxies: a worker and the triggerer use the same, or refuse alike before anything is sent."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import VaceInputError, VaceTransportError
from support.faces import FOX
from support.odd_servers import OddServer, response
from support.scripted import connection_to
from support.socks_proxy import SocksProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.faces import Call

needs_socks = pytest.mark.skipif(find_spec("socks") is None, reason="PySocks is not installed")
FAR = "http://gateway.invalid"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def proxy() -> Iterator[str]:
    """A proxy that answers each request itself; its host and port."""
    with OddServer(response()) as url:
        yield url.removeprefix("http://")


@pytest.mark.parametrize(
    "form", ["{}", "//{}", "http://{}", "HTTP://{}", "http://{}/", "http://me:pw@{}", " {} "]
)
def test_a_proxy_of_the_connection_is_used_in_any_spelling(
    call: Call, connect: Callable[[str], None], proxy: str, form: str
) -> None:
    connect(connection_to(FAR, proxies={"http": form.format(proxy)}, timeout=30))
    assert call("get", "abc").id == "abc"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("form", ["{}", "http://{}"])
def test_a_proxy_of_the_environment_is_used(  # noqa: PLR0917 - fixtures
    call: Call,
    connect: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
    name: str,
    form: str,
) -> None:
    connect(connection_to(FAR, timeout=30))
    monkeypatch.setenv(name, form.format(proxy))
    assert call("get", "abc").id == "abc"


@pytest.mark.parametrize(
    ("host", "exceptions", "is_used"),
    [
        (FAR, "far.example", True),
        (FAR, "gateway.invalid", False),
        (FAR, "invalid", False),
        (FAR, ".invalid", False),
        (FAR, "far.example, gateway.invalid", False),
        (FAR, "*", False),
        (FAR, "gateway.invalid:80", True),
        ("http://127.9.9.9:9", "127.0.0.0/8", False),
        ("http://127.9.9.9:9", "10.0.0.0/8", True),
        ("http://127.9.9.9:9", "127.9.9.9", False),
    ],
)
def test_exceptions_of_the_environment_count_alike(  # noqa: PLR0917 - fixtures
    call: Call,
    connect: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
    host: str,
    exceptions: str,
    is_used: bool,  # noqa: FBT001 - a column of the table
) -> None:
    connect(connection_to(host, timeout=30))
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", exceptions)
    if is_used:
        assert call("get", "abc").id == "abc"
        return
    with pytest.raises(VaceTransportError) as caught:
        call("get", "abc")
    assert not caught.value.sent


def test_an_empty_proxy_of_the_connection_turns_the_environment_off(
    call: Call, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "127.0.0.1:9")
    with OddServer(response()) as url:
        connect(connection_to(url, proxies={"http": ""}, timeout=30))
        assert call("get", "abc").id == "abc"


@pytest.mark.parametrize("scheme", ["socks4", "socks5", "socks5h", "SOCKS5"])
@pytest.mark.parametrize("place", ["connection", "environment"])
def test_socks_without_the_library_is_refused_before_a_create(
    call: Call, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, scheme: str, place: str
) -> None:
    # None in place of a module makes the module missing.
    monkeypatch.setitem(sys.modules, "socks", None)
    address = f"{scheme}://me:5ecret@127.0.0.1:9"
    if place == "environment":
        monkeypatch.setenv("ALL_PROXY", address)
    connect(connection_to(FAR, **({"proxies": address} if place == "connection" else {})))
    with pytest.raises(VaceInputError, match=r"requests\[socks\]") as caught:
        call("create", FOX)
    assert "Nothing was sent" in str(caught.value)
    assert "5ecret" not in str(caught.value)


@needs_socks
@pytest.mark.parametrize("place", ["connection", "environment"])
def test_a_socks_proxy_serves_worker_and_triggerer(
    call: Call, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with Emulator(time_scale=100.0) as server, SocksProxy(server.port) as proxy:
        address = f"socks5h://me:5ecret@127.0.0.1:{proxy.port}"
        extra = {"proxies": address} if place == "connection" else {}
        if place == "environment":
            monkeypatch.setenv("ALL_PROXY", address)
        connect(json.dumps(json.loads(server.connection_to(timeout=30, **extra)) | {"host": FAR}))
        created = call("create", FOX)
        assert call("get", created.id).id == created.id
    assert set(proxy.hosts) == {"gateway.invalid"}
    assert proxy.users[:2] == ["me", "5ecret"]


@needs_socks
def test_a_refusal_of_a_socks_proxy_is_certain(call: Call, connect: Callable[[str], None]) -> None:
    with SocksProxy(9, is_open=False) as proxy:
        connect(connection_to(FAR, proxies=f"socks5h://127.0.0.1:{proxy.port}", timeout=30))
        with pytest.raises(VaceTransportError) as caught:
            call("get", "abc")
    assert not caught.value.sent
