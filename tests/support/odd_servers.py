"""Servers with odd HTTP, each as the bytes or the behaviour that answers any request."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import time
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING

from airflow_vace.client.settings import Settings
from airflow_vace.core.timing import Timing
from support.scripted import answering

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.scripted import Answer

BODY = json.dumps({"id": "abc", "status": "processing", "created_at": "2026-11-23T10:00:00Z"}).encode()
LENGTH = f"Content-Length: {len(BODY)}\r\n"
CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n" + f"{len(BODY) - 5:x}\r\n".encode() + BODY[5:] + b"\r\n0\r\n\r\n"


def response(
    *fields: str | bytes, body: bytes = BODY, status: str = "HTTP/1.1 200 OK", length: bool = True
) -> bytes:
    """Return a response; with `length`, its Content-Length comes last."""
    lines = [field if isinstance(field, bytes) else field.encode() for field in fields]
    if length:
        lines.append(f"Content-Length: {len(body)}".encode())
    return b"\r\n".join([status.encode(), *lines, b"", body])


def chunked(*fields: str, chunks: bytes = CHUNKS) -> bytes:
    """Return a chunked response."""
    return response(*fields, "Transfer-Encoding: chunked", body=chunks, length=False)


def refusal(status: str, *fields: str, body: bytes = b'{"detail": "no"}') -> bytes:
    """Return a response of the API with another status than 200."""
    return response(*fields, status=f"HTTP/1.1 {status}", body=body)


def reset(peer: socket.socket) -> None:
    """Reset a connection."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def resets_after(content: bytes) -> Callable[[socket.socket], None]:
    """Send bytes, then reset the connection once these have arrived."""

    def answer(peer: socket.socket) -> None:
        peer.sendall(content)
        time.sleep(0.1)
        reset(peer)

    return answer


def stays_open(content: bytes) -> Callable[[socket.socket], None]:
    """Send bytes, and keep the connection open."""

    def answer(peer: socket.socket) -> None:
        peer.sendall(content)
        while peer.recv(65536):
            pass

    return answer


def dripped(content: bytes, pause: float = 0.002) -> Callable[[socket.socket], None]:
    """Send one byte after another."""

    def answer(peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in content:
            peer.sendall(bytes([byte]))
            time.sleep(pause)

    return answer


def deflated(body: bytes, *, raw: bool) -> bytes:
    compressor = zlib.compressobj(wbits=-15 if raw else 15)
    return compressor.compress(body) + compressor.flush()


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\n"
ODD_SERVERS: dict[str, Answer] = {
    # --- size of heads
    "a header of 12 kB": response("X-Policy: " + "x" * 12_000),
    "a header of 65,000 bytes": response("X-Policy: " + "x" * 65_000),
    "a header of 66,000 bytes": response("X-Policy: " + "x" * 66_000),
    "headers of 60 kB in total": response(*(f"X-{n}: {'x' * 2000}" for n in range(30))),
    "headers of 600 kB in total": response(*(f"X-{n}: {'x' * 20_000}" for n in range(30))),
    "95 headers": response(*(f"X-{n}: x" for n in range(95))),
    "98 headers": response(*(f"X-{n}: x" for n in range(97))),
    "99 headers": response(*(f"X-{n}: x" for n in range(98))),
    "100 headers": response(*(f"X-{n}: x" for n in range(99))),
    "150 headers": response(*(f"X-{n}: x" for n in range(149))),
    "a reason of 10 kB": response(status="HTTP/1.1 200 " + "O" * 10_000),
    "a reason of 70 kB": response(status="HTTP/1.1 200 " + "O" * 70_000),
    # --- the end of the body
    "a length beside chunked": chunked("Content-Length: 5"),
    "a length after chunked": response(
        "Transfer-Encoding: chunked", "Content-Length: 5", body=CHUNKS, length=False
    ),
    "a length of 0 beside chunked": chunked("Content-Length: 0"),
    "a length that is too short": response("Content-Length: 9", length=False),
    "a length that is too short, kept open": stays_open(response("Content-Length: 9", length=False)),
    "a length that is too long": response("Content-Length: 999", length=False),
    "a length of zero": response("Content-Length: 0", length=False),
    "a length in words": response("Content-Length: many", length=False),
    "a negative length": response("Content-Length: -5", length=False),
    "a length with a plus": response(f"Content-Length: +{len(BODY)}", length=False),
    "a length with blanks": response(f"Content-Length:    {len(BODY)}   ", length=False),
    "an empty length": response("Content-Length:", length=False),
    "two equal lengths": response(LENGTH.strip()),
    "two equal lengths in a line": response(f"Content-Length: {len(BODY)}, {len(BODY)}", length=False),
    "two equal lengths in a line, kept open": stays_open(
        response(f"Content-Length: {len(BODY)}, {len(BODY)}", length=False)
    ),
    "two different lengths": response("Content-Length: 9"),
    "two different lengths in a line": response(f"Content-Length: {len(BODY)}, 9", length=False),
    "no length": response(length=False),
    "no length, Connection: close": response("Connection: close", length=False),
    "no length, HTTP/1.0": response(status="HTTP/1.0 200 OK", length=False),
    "no length, kept alive": response("Connection: keep-alive", length=False),
    "no length, reset at the end": resets_after(response(length=False)),
    "a length and a reset at the end": resets_after(response()),
    "chunked": chunked(),
    "Chunked with a capital": response("Transfer-Encoding: Chunked", body=CHUNKS, length=False),
    "chunked over HTTP/1.0": response(
        "Transfer-Encoding: chunked", body=CHUNKS, length=False, status="HTTP/1.0 200 OK"
    ),
    "chunked twice": response(*["Transfer-Encoding: chunked"] * 2, body=CHUNKS, length=False),
    "transfer encoding identity": response("Transfer-Encoding: identity"),
    "transfer encoding identity without length": response("Transfer-Encoding: identity", length=False),
    "transfer encoding gzip, chunked": response(
        "Transfer-Encoding: gzip, chunked", body=CHUNKS, length=False
    ),
    "chunk extensions": chunked(chunks=b"5;a=b;c\r\n" + CHUNKS[3:]),
    "a quoted chunk extension": chunked(chunks=b'5;a="b;c"\r\n' + CHUNKS[3:]),
    "trailers": chunked(chunks=CHUNKS[:-2] + b"X-Sum: 1\r\nX-Other: 2\r\n\r\n"),
    "odd trailers": chunked(chunks=CHUNKS[:-2] + b"no colon\r\nX\xc3\xa9: \xc3\xa9\r\n\r\n"),
    "a large trailer": chunked(chunks=CHUNKS[:-2] + b"X-Sum: " + b"1" * 10_000 + b"\r\n\r\n"),
    "chunk sizes with zeros and capitals": chunked(
        chunks=f"00000{len(BODY):X}\r\n".encode() + BODY + b"\r\n000\r\n\r\n"
    ),
    "chunk sizes with blanks": chunked(chunks=f"{len(BODY):x}  \r\n".encode() + BODY + b"\r\n0\r\n\r\n"),
    "chunk lines with bare line feeds": chunked(chunks=f"{len(BODY):x}\n".encode() + BODY + b"\r\n0\n\n"),
    "no end of chunks": chunked(chunks=CHUNKS[:-5]),
    "no blank line after the last chunk": chunked(chunks=CHUNKS[:-2]),
    "a cut chunk": chunked(chunks=CHUNKS[:20]),
    "a cut chunk size": chunked(chunks=CHUNKS[:11]),
    "a reset within a chunk": resets_after(chunked(chunks=CHUNKS[:20])),
    "a chunk size in words": chunked(chunks=b"many\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a negative chunk size": chunked(chunks=b"-5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "an endless chunk size": chunked(chunks=b"0" * 70_000 + b"5\r\n" + BODY),
    "an empty chunk size": chunked(chunks=b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk longer than its size": chunked(chunks=b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunked in name only": chunked(chunks=BODY),
    # --- statuses
    "no reason": response(status="HTTP/1.1 200"),
    "no reason, with a blank": response(status="HTTP/1.1 200 "),
    "a reason in UTF-8": response(status="HTTP/1.1 200 Très bien ✓"),
    "HTTP/1.0": response(status="HTTP/1.0 200 OK"),
    "HTTP/1.0 with keep-alive": response("Connection: keep-alive", status="HTTP/1.0 200 OK"),
    "HTTP/1.2": response(status="HTTP/1.2 200 OK"),
    "HTTP/0.9": response(status="HTTP/0.9 200 OK"),
    "HTTP/2": response(status="HTTP/2 200 OK"),
    "ICY": response(status="ICY 200 OK"),
    "lower-case http": response(status="http/1.1 200 OK"),
    "blanks in the status line": response(status="HTTP/1.1   200   OK"),
    "no version": BODY,
    "a status of two digits": response(status="HTTP/1.1 99 OK"),
    "a status of four digits": response(status="HTTP/1.1 2000 OK"),
    "a status in words": response(status="HTTP/1.1 OK 200"),
    "status 299": response(status="HTTP/1.1 299 Fine"),
    "status 600": refusal("600 Odd"),
    "status 999": refusal("999 Request denied"),
    "100 first": b"HTTP/1.1 100 Continue\r\n\r\n" + response(),
    "100 with headers first": b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + response(),
    "103 first": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + response(),
    "102, 103 and 100 first": b"".join(f"HTTP/1.1 {n} X\r\n\r\n".encode() for n in (102, 103, 100))
    + response(),
    "103 with odd headers first": b"HTTP/1.1 103 Early Hints\r\nno colon\r\n\r\n" + response(),
    "103 cut off": b"HTTP/1.1 103 Early Hints\r\nLink: </x",
    "100 alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "101": response(
        "Upgrade: websocket", "Connection: upgrade", status="HTTP/1.1 101 Switching", body=b"", length=False
    ),
    "101 without upgrade": response(status="HTTP/1.1 101 Switching", body=b""),
    "an offer to upgrade": response("Upgrade: h2,h2c", "Connection: Upgrade, Keep-Alive"),
    "204": response(status="HTTP/1.1 204 No Content", body=b"", length=False),
    "204 with a body": response(status="HTTP/1.1 204 No Content"),
    "205": response(status="HTTP/1.1 205 Reset Content", body=b""),
    "205 with a body": response(status="HTTP/1.1 205 Reset Content"),
    "206": response("Content-Range: bytes 0-9/99", status="HTTP/1.1 206 Partial Content"),
    "304": response(status="HTTP/1.1 304 Not Modified", body=b"", length=False),
    "304 with a length": response(
        f"Content-Length: {len(BODY)}", status="HTTP/1.1 304 Not Modified", body=b"", length=False
    ),
    "400": refusal("400 Bad Request"),
    "401 with a challenge": refusal("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"'),
    "401 with an odd challenge": refusal(
        "401 Unauthorized", "WWW-Authenticate: ,,=", "WWW-Authenticate: NTLM"
    ),
    "407": refusal("407 Proxy Authentication Required", "Proxy-Authenticate: Basic", body=b"<html>"),
    "413": refusal("413 Too Large"),
    "421": refusal("421 Misdirected Request", body=b""),
    "429 with two times": refusal("429 Slow", "Retry-After: 0", "Retry-After: 0"),
    "429 with two different times": refusal("429 Slow", "Retry-After: 0", "Retry-After: 7"),
    "431": refusal("431 Request Header Fields Too Large", body=b""),
    "511": refusal("511 Network Authentication Required", body=b"<html>"),
    "503 with a date": refusal("503 Busy", "Retry-After: Mon, 23 Nov 2026 10:00:00 GMT"),
    # --- redirects
    **{
        f"{status} to {name}": refusal(f"{status} Moved", f"Location: {target}")
        for status in (301, 302, 303, 307, 308)
        for name, target in (("the same host", "/elsewhere"), ("another host", "http://far.example/x"))
    },
    "302 without Location": refusal("302 Found"),
    "302 to UTF-8": refusal("302 Found", "Location: /vidéo/动画 1.mp4"),
    "302 to Latin-1": refusal("302 Found").replace(b"Found\r\n", b"Found\r\nLocation: /vid\xe9o\r\n"),
    "302 to an odd place": refusal("302 Found", "Location: http://[::1"),
    "302 to another protocol": refusal("302 Found", "Location: javascript:alert(1)"),
    "300 with choices": refusal("300 Choices", "Location: /a", "Location: /b"),
    # --- headers
    "headers in lower case": response("content-type: application/json", "x-odd: y"),
    "headers in capitals": response("CONTENT-TYPE: APPLICATION/JSON"),
    "two content types": response("Content-Type: application/json", "Content-Type: text/html"),
    "an empty value": response("X-Empty:", "Content-Type: "),
    "no blank after the colon": response("X-Odd:y", "Content-Type:application/json"),
    "a blank before the colon": response("X-Odd : y"),
    "a length with a blank before the colon": response(f"Content-Length : {len(BODY)}", length=False),
    "a folded header": response("X-Folded: a\r\n b\r\n\tc"),
    "a folded first header": response(" folded: a"),
    "a Latin-1 value": response(b"X-Name: caf\xe9"),
    "a UTF-8 value": response("X-Name: café 动画 🎬"),
    "a Latin-1 name": response(b"X-Caf\xe9: y"),
    "a name with blanks": response("X Odd Name: y"),
    "an empty name": response(": y"),
    "a line without a colon": response(LENGTH.strip(), "no colon", length=False),
    "a line without a colon before the length": response("no colon"),
    "a NUL in a value": response(b"X-Odd: a\0b"),
    "a NUL in a name": response(b"X-O\0dd: b"),
    "control characters in a value": response(b"X-Odd: a\x01\x1f\x7fb"),
    "a carriage return in a value": response(b"X-Odd: a\rb"),
    "bare line feeds": response("X-Odd: y").replace(b"\r\n", b"\n"),
    "bare line feeds in some lines": response("X-Odd: y\nX-Other: z"),
    "bare carriage returns": response("X-Odd: y").replace(b"\r\n", b"\r"),
    "blank lines first": b"\r\n\r\n" + response(),
    "a blank line before 103": b"\r\nHTTP/1.1 103 Early Hints\r\n\r\n\r\n" + response(),
    "blanks first": b"  " + response(),
    "a byte order mark first": b"\xef\xbb\xbf" + response(),
    "odd cookies": response(
        "Set-Cookie: a=b; expires=Thu, 99 Foo 2026; path",
        "Set-Cookie: =;",
        "Set-Cookie: \x00=1",
        "Set-Cookie:",
    ),
    "an odd date": response("Date: yesterday", "Age: old", "Retry-After: soon"),
    "no blank line after the headers": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
    "a head that ends in a name": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a head that ends in a status": b"HTTP/1.1 20",
    "a 404 that ends in a header": NOT_FOUND + b"Content-Le",
    "a 404 that is reset in a header": resets_after(NOT_FOUND + b"Content-Le"),
    "no answer": b"",
    "a reset": reset,
    # --- content
    "gzip": response("Content-Encoding: gzip", body=gzip.compress(BODY)),
    "gzip in capitals": response("Content-Encoding: GZIP", body=gzip.compress(BODY)),
    "x-gzip": response("Content-Encoding: x-gzip", body=gzip.compress(BODY)),
    "gzip, chunked": chunked(
        "Content-Encoding: gzip",
        chunks=b"%x\r\n%b\r\n0\r\n\r\n" % (len(gzip.compress(BODY)), gzip.compress(BODY)),
    ),
    "gzip without a length": response("Content-Encoding: gzip", body=gzip.compress(BODY), length=False),
    "gzip twice": response("Content-Encoding: gzip, gzip", body=gzip.compress(gzip.compress(BODY))),
    "gzip in two members": response(
        "Content-Encoding: gzip", body=gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])
    ),
    "gzip with trash": response("Content-Encoding: gzip", body=gzip.compress(BODY) + b"trash"),
    "gzip, not compressed": response("Content-Encoding: gzip"),
    "gzip, damaged later": response(
        "Content-Encoding: gzip", body=gzip.compress(bytes(10**8))[:90_000] + bytes(9)
    ),
    "gzip, cut": response("Content-Encoding: gzip", body=gzip.compress(BODY)[:30]),
    "gzip, empty": response("Content-Encoding: gzip", body=b""),
    "gzip of a refusal": refusal(
        "402 No money", "Content-Encoding: gzip", body=gzip.compress(b'{"detail": "no"}')
    ),
    "gzip of a refusal, not compressed": refusal("402 No money", "Content-Encoding: gzip"),
    "deflate": response("Content-Encoding: deflate", body=deflated(BODY, raw=False)),
    "raw deflate": response("Content-Encoding: deflate", body=deflated(BODY, raw=True)),
    "br, not compressed": response("Content-Encoding: br"),
    "zstd, not compressed": response("Content-Encoding: zstd"),
    "identity": response("Content-Encoding: identity"),
    "an empty encoding": response("Content-Encoding:"),
    "an unknown encoding": response("Content-Encoding: aws-chunked"),
    "an unknown encoding and deflate": response(
        "Content-Encoding: aws-chunked,gzip", body=deflated(BODY, raw=False)
    ),
    "an unknown charset": response("Content-Type: application/json; charset=klingon"),
    "UTF-16": response("Content-Type: application/json; charset=utf-16", body=BODY.decode().encode("utf-16")),
    "a byte order mark": response(body=b"\xef\xbb\xbf" + BODY),
    "an odd content type": response("Content-Type: ;;//"),
    "a page": response("Content-Type: text/html", body=b"<html><title>Hello</title>"),
    "a list": response(body=b"[]"),
    # --- pace
    "a byte at a time": dripped(response("X-Odd: y")),
    "chunks a byte at a time": dripped(chunked()),
    "an odd head a byte at a time": dripped(b"\r\n" + chunked("Content-Length: 5")),
    "silence": stays_open(b""),
    "silence after the head": stays_open(response(body=b"", length=False) + BODY),
    "silence within a chunk": stays_open(chunked(chunks=CHUNKS[:20])),
    "silence within the body": stays_open(response("Content-Length: 999", length=False)),
    # --- TLS
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x16",
}


def settings_of(url: str, **extra: object) -> Settings:
    """Return settings with short pauses, and with limits that a busy machine keeps."""
    connection = SimpleNamespace(host=url, schema=None, port=None, password="k" * 8)
    timing = Timing().scaled(
        0.01,
        max_connect_seconds=30.0,
        max_create_seconds=60.0,
        max_idle_connection_seconds=60.0,
        max_retry_after_seconds=0.05,
    )
    return Settings.of(connection, {"timeout": 30.0, "backend": "gateway", **extra}, timing=timing)


def timeout_for(name: str) -> float:
    """Return a time-out in seconds; only a server that sends nothing more lets it pass."""
    return 2.0 if name.startswith("silence") else 30.0


class OddServer:
    """A server that answers each request in the same way; yields the base URL.

    `requests` counts the requests.

    :param is_whole: receive a request to the end before the answer
    """

    def __init__(self, answer: Answer, *, is_whole: bool = True) -> None:
        self._answer = answer
        self._is_whole = is_whole
        self.requests = 0

    def __enter__(self) -> str:
        self._server = answering(self._handle)
        return f"http://127.0.0.1:{self._server.__enter__()}"

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    def _handle(self, peer: socket.socket) -> None:
        if self._is_whole and not receive(peer):
            return
        self.requests += 1
        if not isinstance(self._answer, bytes):
            self._answer(peer)
            return
        peer.sendall(self._answer)
        finish(peer)


class BrokenKeepAlive(OddServer):
    """A server that closes a connection kept alive, before or at the second request.

    :param way: "before" or "at"
    """

    def __init__(self, way: str) -> None:
        super().__init__(b"")
        self._way = way

    def _handle(self, peer: socket.socket) -> None:
        if receive(peer):
            peer.sendall(response("Connection: keep-alive"))
            if self._way == "at":
                receive(peer)

    @staticmethod
    def settle() -> None:
        """Wait until the end of a connection has reached the client."""
        time.sleep(0.1)


def early(*, is_read: bool) -> Callable[[socket.socket], None]:
    """Answer after the first bytes of a request; then receive the rest, or reset the connection."""

    def answer(peer: socket.socket) -> None:
        peer.recv(1000)
        peer.sendall(refusal("413 Too Large", "Connection: close"))
        if is_read:
            finish(peer)

    return answer


def finish(peer: socket.socket) -> None:
    """End a connection; a close with unread data would reset the connection."""
    peer.shutdown(socket.SHUT_WR)
    while peer.recv(65536):
        pass


def receive(peer: socket.socket) -> bytes:
    """Return a whole request with a body; empty at the end of the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = peer.recv(65536)
        if not piece:
            return b""
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    ]
    while lengths and len(body) < lengths[0]:
        piece = peer.recv(65536)
        if not piece:
            return b""
        body += piece
    return head + b"\r\n\r\n" + body
