"""The key stays at one origin, and private addresses stay unread, despite redirects and proxies."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.client.addresses import is_public
from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from conftest import scale_waits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


from support.faces import FOX, Call, final
from support.scripted import connection_to

# --- the key ---------------------------------------------------------------------------------------


def test_no_request_reaches_a_foreign_host_even_after_a_redirect(call: Call, slow: Emulator) -> None:
    with Emulator() as foreign:
        created = call("create", FOX)
        urls = {"get": f"{foreign.url}/v1/predictions/{created.id}"}
        slow.faults.add(method="GET", patch={"urls": urls}, times=2)
        found = call("get", created)
        assert found.urls == urls
        assert call("get", found.payload()).id == created.id
        assert call("get", urls["get"]).id == created.id
        location = {"Location": f"{foreign.url}/v1/predictions/{created.id}"}
        for status in (301, 302, 303, 307, 308):
            slow.faults.add(status=status, headers=location)
            with pytest.raises(VaceAPIError, match="not followed"):
                call("get", created)
            slow.faults.add(status=status, headers=location)
            with pytest.raises((VaceAPIError, SubmissionUnknown)):
                call("create", FOX)
        assert call("cancel", found).status == "canceled"
        assert foreign.requests == []


def test_unknown_extras_do_not_become_headers(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(slow.connection) | {"login": "me", "extra": {"apikey": "x", "Cookie": "y"}}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(connection))
    call("create", FOX)
    assert [request.auth for request in slow.requests] == [("authorization",)]


@pytest.mark.usefixtures("slow")
def test_a_netrc_does_not_replace_the_key(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert call("create", FOX).status == "starting"


@pytest.mark.parametrize("location", ["http://[bad", "/\xe9", "//", "https://evil.example/"])
def test_a_malformed_redirect_is_refused_like_any_other(call: Call, slow: Emulator, location: str) -> None:
    created = call("create", FOX)
    slow.faults.add(status=302, headers={"Location": location})
    with pytest.raises(VaceAPIError):
        call("get", created)
    slow.faults.add(method="POST", status=303, headers={"Location": location})
    with pytest.raises(SubmissionUnknown):
        call("create", FOX)


class Proxy(socketserver.StreamRequestHandler):
    """Reads a request with its body, and closes the connection without a response."""

    def handle(self) -> None:
        server: Any = self.server
        line = self.rfile.readline()
        length = 0
        while header := self.rfile.readline().strip():
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if line.startswith(b"CONNECT"):
            if server.refuses:
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        self.rfile.read(length)
        server.posts += 1


@pytest.fixture
def proxy() -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
        server.posts, server.refuses = 0, True  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def through(proxy: Any, scheme: str) -> str:
    address = f"http://127.0.0.1:{proxy.server_address[1]}"
    return connection_to(f"{scheme}://far.example", proxies={"http": address, "https": address})


def test_a_create_lost_behind_a_proxy_is_not_sent_again(
    call: Call, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", through(proxy, "http"))
    with pytest.raises(SubmissionUnknown):
        call("create", FOX)
    assert proxy.posts == 1


def test_a_refused_tunnel_has_sent_nothing(call: Call, proxy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 1.0, max_create_attempts=1)
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", through(proxy, "https"))
    with pytest.raises(VaceTransportError, match="nothing was sent") as caught:
        call("create", FOX)
    assert not caught.value.sent


@pytest.mark.usefixtures("slow")
def test_proxies_of_the_connection_override_the_environment(
    call: Call, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", through(proxy, "http"))
    with pytest.raises(SubmissionUnknown):
        call("create", FOX)
    assert proxy.posts == 1


@pytest.mark.parametrize("where", ["connection", "environment"])
def test_a_proxy_is_used_by_sync_and_async_calls(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    connection = {"conn_type": "vace", "host": "http://far.example", "password": slow.api_key}
    if where == "connection":
        connection["extra"] = json.dumps({"proxies": {"http": slow.url}})
    else:
        monkeypatch.setenv("http_proxy", slow.url)
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(connection))
    assert call("create", FOX).status == "starting"
    assert [request.host for request in slow.requests] == ["far.example"]


@pytest.mark.usefixtures("slow")
def test_no_proxy_in_the_environment_is_respected(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert call("create", FOX).status == "starting"


def fetched(hook: VaceHook, url: str) -> bytes:
    with hook.open_file(url) as download:
        return b"".join(download.chunks)


PRIVATE = (
    *(
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.5/a.mp4",
        "http://192.168.1.1/",
        "http://[::1]/",
    ),
    *("http://[::ffff:169.254.169.254]/", "http://[fe80::1]/", "http://0.0.0.0/", "http://localhost/a.mp4"),
    *("http://[64:ff9b::a00:1]/", "http://[64:ff9b:1::a00:1]/", "http://[2002:a00:1::]/"),
    *("http://[::7f00:1]/", "http://[fec0::1]/"),
    *("http://2130706433/", "http://0x7f.1/", "http://127.1/", "https://100.64.0.1/", "http://224.0.0.1/"),
)


@pytest.mark.parametrize("url", PRIVATE)
def test_a_response_cannot_make_a_worker_read_private_addresses(slow: Emulator, url: str) -> None:
    hook = VaceHook()
    with pytest.raises(VaceProtocolError, match="not public"):
        fetched(hook, url)
    slow.faults.add(path="/moved", status=302, headers={"Location": url})
    with pytest.raises(VaceProtocolError, match="not public"):
        fetched(hook, f"{slow.url}/moved")
    assert [request.path for request in slow.requests] == ["/moved"]


@pytest.mark.parametrize(
    "address", ["64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8", "2606:4700::1111", "8.8.8.8"]
)
def test_a_public_address_may_be_embedded_in_another(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.2\\x.example.com/", "http://a b/", "http://a\tb/", "ftp://a/b"]
)
def test_an_ambiguous_url_is_refused(slow: Emulator, url: str) -> None:
    with pytest.raises(VaceProtocolError, match=r"no http\(s\) address"):
        fetched(VaceHook(), url)
    assert slow.requests == []


def test_a_host_name_behind_a_proxy_is_not_resolved_here(
    slow: Emulator, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{proxy.server_address[1]}"
    extra = {"proxies": {"http": address}}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow.connection_to(**extra))
    with pytest.raises(VaceError) as caught:
        fetched(VaceHook(), "http://films.invalid/a.mp4")
    assert "not public" not in str(caught.value)
    with pytest.raises(VaceProtocolError, match="not public"):
        fetched(VaceHook(), "http://10.0.0.5/a.mp4")


class Resolver:
    """Replaces name lookups, whose results change, and the route to a public address.

    :param port: of the server on loopback that stands for the public address
    """

    PUBLIC = "93.184.216.34"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, port: int, *answers: str) -> None:
        self.answers, self.reached = list(answers), []  # type: ignore[var-annotated]
        resolve, connect = socket.getaddrinfo, socket.socket.connect

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host == "films.example":
                host = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return resolve(host, *args, **kwargs)

        def redirect(connection: socket.socket, address: Any) -> None:
            self.reached.append(address[0])
            connect(connection, ("127.0.0.1", port) if address[0] == self.PUBLIC else address)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(socket.socket, "connect", redirect)


def test_a_file_is_read_from_the_checked_address(slow: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator() as public, Emulator() as private:
        for server, content in ((public, "film"), (private, "secret")):
            server.faults.add(path="/a.mp4", status=200, body=content)
        resolver = Resolver(monkeypatch, public.port, Resolver.PUBLIC, "127.0.0.1")
        assert fetched(VaceHook(), f"http://films.example:{private.port}/a.mp4") == b"film"
        assert resolver.reached == [Resolver.PUBLIC]
        assert [request.host for request in public.requests] == [f"films.example:{private.port}"]
        assert private.requests == slow.requests == []


def test_a_private_address_among_public_ones_is_refused(
    slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    resolver = Resolver(monkeypatch, slow.port, Resolver.PUBLIC)
    public = socket.getaddrinfo

    def both(host: Any, *args: Any, **kwargs: Any) -> Any:
        more = real("127.0.0.1", *args, **kwargs) if host == "films.example" else []
        return [*public(host, *args, **kwargs), *more]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(VaceProtocolError, match=r"127\.0\.0\.1 is not public"):
        fetched(VaceHook(), f"http://films.example:{slow.port}/a.mp4")
    assert resolver.reached == []


def test_an_open_connection_to_a_private_address_is_not_reused(
    slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator() as public, Emulator() as private:
        public.faults.add(path="/a.mp4", status=200, body="film")
        private.faults.add(path="/a.mp4", status=200, body="secret")
        resolver = Resolver(monkeypatch, public.port, "127.0.0.1", Resolver.PUBLIC)
        url, hook = f"http://films.example:{private.port}/a.mp4", VaceHook()
        assert hook.client._session.get(url).text == "secret"  # kept open for the next request
        private.faults.add(path="/a.mp4", status=200, body="secret")
        assert fetched(hook, url) == b"film"
        assert resolver.reached == ["127.0.0.1", Resolver.PUBLIC]
        assert slow.requests == []


def test_a_second_address_is_tried_if_the_first_fails(
    call: Call, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def both(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "gateway.example":
            return resolve(host, port, *args, **kwargs)
        return [
            found for name in ("127.0.0.9", "127.0.0.1") for found in resolve(name, port, *args, **kwargs)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    fields = json.loads(slow.connection) | {"host": f"http://gateway.example:{slow.port}"}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(fields))
    assert call("create", FOX).status == "starting"
    assert [request.host for request in slow.requests] == [f"gateway.example:{slow.port}"]


def test_an_unknown_host_means_that_nothing_was_sent(slow: Emulator) -> None:
    with pytest.raises(VaceTransportError, match="nothing was sent"):
        fetched(VaceHook(), "https://films.invalid/a.mp4")
    assert slow.requests == []


def test_a_download_sends_the_key_only_to_the_own_origin(slow: Emulator) -> None:
    with Emulator() as foreign:
        for server in (slow, foreign):
            server.faults.add(path="/a.mp4", status=200, body="film")
        slow.faults.add(path="/moved", status=302, headers={"Location": f"{foreign.url}/a.mp4"})
        hook = VaceHook()
        assert fetched(hook, f"{slow.url}/a.mp4") == b"film"
        assert fetched(hook, f"{slow.url}/moved") == b"film"
        assert [request.auth for request in foreign.requests] == [()]
        slow.faults.add(path="/round", times=None, status=302, headers={"Location": "/round"})
        with pytest.raises(VaceTransportError, match="too often"):
            fetched(hook, f"{slow.url}/round")
        slow.faults.add(path="/nowhere", status=302, headers={"Location": "http://[bad"})
        with pytest.raises(VaceProtocolError, match="redirected to nowhere"):
            fetched(hook, f"{slow.url}/nowhere")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("written", ["::1", "[::1]", "uri"])
def test_a_host_may_be_an_ipv6_address(call: Call, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    try:
        server = Emulator(host="::1", time_scale=0.0002).__enter__()
    except OSError:
        pytest.skip("no IPv6 here")
    fields = {"conn_type": "vace", "host": written, "schema": "http", "port": server.port}
    connection = json.dumps({**fields, "password": server.api_key})
    if written == "uri":
        connection = f"vace://:{server.api_key}@[::1]:{server.port}/http"
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
    try:
        created = call("create", FOX)
        done = final(call, created)
        with VaceHook().open_file(done.output_urls[0]) as download:
            assert b"ftyp" in b"".join(download.chunks)[:12]
        assert {request.auth for request in server.requests} == {("authorization",)}
    finally:
        server.__exit__()
