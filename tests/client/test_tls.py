"""TLS on one side only, or refused: nothing was sent, and the message names the correction."""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import SubmissionUnknown, VaceError, VaceTransportError
from airflow_vace.hooks import VaceHook
from conftest import scale_waits
from support.faces import FOX, Call
from support.scripted import answering, connection_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def one_create(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 1.0, max_create_attempts=1)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + signed.public_bytes(pem))
    return path


def test_an_untrusted_server_receives_nothing(
    call: Call, slow: Emulator, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with Emulator(time_scale=100.0, tls=context) as trusted:
        assert trusted.url.startswith("https://")
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", trusted.connection)
        with pytest.raises(VaceTransportError, match="nothing was sent") as caught:
            call("create", FOX)
        assert not caught.value.sent
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.utils.DEFAULT_CA_BUNDLE_PATH)
        for verify in (str(certificate), False):
            monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", trusted.connection_to(verify=verify))
            assert call("create", FOX).status == "starting"
        assert trusted.bill["charged"] == 2
    assert slow.requests == []


# --- a server without TLS --------------------------------------------------------------------------


def as_http(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def as_another_protocol(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    peer.recv(65536)


def by_closing(peer: socket.socket) -> None:
    peer.recv(65536)


def by_a_reset(peer: socket.socket) -> None:
    peer.recv(1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("answer", [as_http, as_another_protocol, by_closing, by_a_reset])
def test_a_failed_handshake_has_sent_nothing(
    call: Call, connect: Callable[[str], None], answer: Callable[[socket.socket], None]
) -> None:
    with answering(answer) as port:
        connect(connection_to(f"127.0.0.1:{port}", timeout=2))
        with pytest.raises(VaceTransportError, match=r"127\.0\.0\.1 does not speak TLS") as caught:
            call("create", FOX)
        assert not caught.value.sent
        assert "if it is plain HTTP, write http:// in the host" in str(caught.value)
        is_usable, message = VaceHook().test_connection()
        assert not is_usable
        assert "does not speak TLS" in message


@pytest.mark.parametrize("delay", [None, 0.1])
def test_an_endless_handshake_has_sent_nothing(
    call: Call, connect: Callable[[str], None], delay: float | None
) -> None:
    def answer(peer: socket.socket) -> None:
        peer.recv(65536)
        for byte in b"\x16\x03\x03\x40\x00" + bytes(600):
            if delay is not None:
                peer.sendall(bytes([byte]))
            time.sleep(delay or 0.1)

    with answering(answer) as port:
        connect(connection_to(f"https://127.0.0.1:{port}", timeout=2))
        began = time.monotonic()
        with pytest.raises(VaceTransportError) as caught:
            call("create", FOX)
        assert time.monotonic() - began < 10
    assert not caught.value.sent


def test_a_download_without_tls_blames_no_field_of_the_connection(slow: Emulator) -> None:
    hook = VaceHook()
    with (
        answering(as_http) as port,
        pytest.raises(VaceTransportError, match="does not speak TLS") as caught,
        hook.open_file(f"https://127.0.0.1:{port}/a.mp4"),
    ):
        raise AssertionError("a file came")
    assert not caught.value.sent
    assert slow.requests == []


# --- a server with TLS -----------------------------------------------------------------------------


def test_plain_http_to_a_tls_port_is_recognized(call: Call, connect: Callable[[str], None]) -> None:
    def answer(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(b"\x15\x03\x01\x00\x02\x02\x46")  # alert, fatal, protocol version
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):  # unread data at a close would reset the connection, and lose the alert
            pass

    with answering(answer) as port:
        connect(connection_to(f"http://127.0.0.1:{port}", timeout=2))
        with pytest.raises(VaceTransportError, match=r"speaks TLS: write https:// in the host") as caught:
            call("create", FOX)
        assert not caught.value.sent
        assert "write https:// in the host" in VaceHook().test_connection()[1]


def serving_tls(
    certificate: Path, version: ssl.TLSVersion, answer: Callable[[ssl.SSLSocket], None], *, asks: bool = False
) -> Callable[[socket.socket], None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.minimum_version = context.maximum_version = version
    if asks:
        context.load_verify_locations(certificate)
        context.verify_mode = ssl.CERT_REQUIRED

    def served(peer: socket.socket) -> None:
        with context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False) as wrapped:
            try:
                wrapped.do_handshake()
            except ssl.SSLError:
                while socket.socket.recv(wrapped, 65536):  # else a reset would hide the alert
                    pass
                return
            answer(wrapped)

    return served


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)


@VERSIONS
def test_a_missing_client_certificate_has_sent_nothing(
    call: Call, connect: Callable[[str], None], certificate: Path, version: ssl.TLSVersion
) -> None:
    served = serving_tls(certificate, version, lambda peer: peer.close(), asks=True)
    with answering(served) as port:
        connect(connection_to(f"https://127.0.0.1:{port}", timeout=2, verify=str(certificate)))
        with pytest.raises(VaceTransportError, match="refused the TLS handshake") as caught:
            call("create", FOX)
    assert not caught.value.sent


@VERSIONS
@pytest.mark.parametrize("then", ["close", "garbage"])
def test_a_tls_failure_after_the_handshake_may_have_sent_a_create(
    call: Call, connect: Callable[[str], None], certificate: Path, version: ssl.TLSVersion, then: str
) -> None:
    def answer(peer: ssl.SSLSocket) -> None:
        while b"fox" not in peer.recv(65536):
            pass
        if then == "garbage":
            with socket.socket(fileno=os.dup(peer.fileno())) as below:
                below.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with answering(serving_tls(certificate, version, answer)) as port:
        connect(connection_to(f"https://127.0.0.1:{port}", timeout=2, verify=str(certificate)))
        with pytest.raises(SubmissionUnknown):
            call("create", FOX)


# --- redirects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/a.mp4", "http://127.0.0.1/a.mp4", "/a.mp4"])
def test_a_redirect_never_leaves_tls(
    certificate: Path, connect: Callable[[str], None], location: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with Emulator(tls=context) as server, Emulator() as plain:
        connect(server.connection_to(verify=str(certificate), timeout=2))
        for each in (server, plain):
            each.faults.add(path="/a.mp4", status=200, body="film")
        target = location.format(port=plain.port)
        server.faults.add(path="/moved", status=302, headers={"Location": target})
        found = ""
        try:
            with VaceHook().open_file(f"{server.url}/moved") as download:
                found = b"".join(download.chunks).decode()
        except VaceError as error:
            found = str(error)
        assert plain.requests == []
    wanted = {
        "/a.mp4": "film",
        # Without a port, the request goes to port 443, where no server listens.
        "http://127.0.0.1/a.mp4": "GET https://127.0.0.1/a.mp4",
    }
    assert re.search(wanted.get(location, "redirected from https to http"), found)
