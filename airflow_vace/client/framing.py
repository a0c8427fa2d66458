"""Heads and bodies of responses, read by the rules of http.client and written in a regular form.

`http.client` accepts much that a strict parser refuses: Content-Length beside chunked, a line without a
colon, odd line ends, odd trailers. :class:`ResponseReader` turns each response that `http.client` reads into
a form that every parser reads alike. No I/O happens here.
"""

from __future__ import annotations

import io
import re
from http.client import HTTPException, IncompleteRead, LineTooLong
from typing import Any, Protocol, cast

from urllib3 import HTTPHeaderDict, HTTPResponse

from airflow_vace.client.received import printable
from airflow_vace.client.sockets import FinalResponse

# The limits of http.client: header lines including the blank line, and bytes of a line.
_MAX_LINES = 100
_MAX_LINE_BYTES = 65536

# Most heads are regular: all parsers read them alike, and the check takes a tenth of the time of http.client.
_REGULAR_HEAD = re.compile(
    rb"HTTP/1\.1 (?!204|304)[2-5]\d\d [\t -~]{0,999}\r\n(?:[\w-]{1,99}:[\t -~]*\r\n){1,90}\r\n"
)
_MAX_REGULAR_BYTES = 8000
_FRAMING_FIELD = re.compile(
    rb"\n(?:content-length|transfer-encoding|upgrade):[\t ]*(.*?)[\t ]*\r", re.IGNORECASE
)
_LENGTH = re.compile(rb"\d{1,15}")

_END_OF_HEAD = re.compile(rb"\n\r?\n")
# 101 switches the protocol, so no other response follows.
_INTERIM = re.compile(rb"HTTP/\S*\s+1(?!01)\d\d\s")
_TOKEN = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
# The regular form says by itself how the body ends.
_FRAMING_NAMES = (
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
)
_LAST_CHUNK = b"0\r\n\r\n"


class Body(Protocol):
    """A body in the course of its reception."""

    is_over: bool

    def feed(self, data: bytes) -> bytes:
        """Return received bytes in a regular form, without surplus after the end of the body."""

    def end(self) -> bytes:
        """Return the bytes that complete the body after a regular end of the connection."""


class SizedBody:
    """A body with a length; later bytes are dropped."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_over = not length

    def feed(self, data: bytes) -> bytes:
        taken = data[: self._left] if len(data) > self._left else data
        self._left -= len(taken)
        self.is_over = not self._left
        return taken

    def end(self) -> bytes:
        return b""


class OpenBody:
    """A body until the end of the connection, written as chunks: a reset is no regular end."""

    is_over = False

    def feed(self, data: bytes) -> bytes:
        return _chunk(data) if data else b""

    def end(self) -> bytes:
        return _LAST_CHUNK


class ChunkedBody:
    """A body in chunks, with any line ends, extensions and trailers."""

    def __init__(self) -> None:
        self.is_over = False
        self._received = bytearray()
        # Bytes left of the chunk, and of the line end after the chunk.
        self._left = self._end_left = 0
        self._is_trailer = False

    def feed(self, data: bytes) -> bytes:
        """Return the same content in regular chunks.

        :raises http.client.HTTPException: for a size that `http.client` refuses
        """
        received = self._received
        received += data
        written = bytearray()
        while received and not self.is_over:
            if self._left:
                piece = bytes(received[: self._left])
                self._left -= len(piece)
                written += _chunk(piece)
                del received[: len(piece)]
            elif self._end_left:
                skipped = min(self._end_left, len(received))
                self._end_left -= skipped
                del received[:skipped]
            elif (line := self._next_line()) is None:
                break
            elif not self._is_trailer:
                self._start_chunk(line)
            elif line in (b"\r\n", b"\n"):
                self.is_over = True
                written += _LAST_CHUNK
        return bytes(written)

    def end(self) -> bytes:
        return _LAST_CHUNK if self._is_trailer else b""

    def _next_line(self) -> bytes | None:
        end = self._received.find(b"\n", 0, _MAX_LINE_BYTES) + 1
        if not end:
            if len(self._received) >= _MAX_LINE_BYTES:
                raise LineTooLong("chunk size")
            return None
        line = bytes(self._received[:end])
        del self._received[:end]
        return line

    def _start_chunk(self, line: bytes) -> None:
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            self._left = -1
        if self._left < 0:
            raise IncompleteRead(b"")
        self._end_left = 2
        self._is_trailer = not self._left
        if self._is_trailer:
            self._end_left = 0


class ResponseReader:
    """Reads a response, skips interim responses, and writes a regular form."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._searched = 0
        self._body: Body | None = None

    @property
    def is_over(self) -> bool:
        """Return True after the end of the body; further bytes belong to no request."""
        return self._body is not None and self._body.is_over

    def feed(self, data: bytes) -> bytes:
        """Return received bytes in a regular form; empty until the head is complete.

        :raises http.client.HTTPException: for a response that `http.client` refuses
        :raises urllib3.exceptions.InvalidHeader: for lengths that contradict each other
        """
        if self._body is not None:
            return self._body.feed(data)
        if not self._head and (regular := _regular_head_of(data)) is not None:
            end, self._body = regular
            return data[:end] + self._body.feed(data[end:])
        self._head += data
        head = self._head
        while True:
            del head[: len(head) - len(head.lstrip(b"\r\n"))]
            end_of_head = _END_OF_HEAD.search(head, self._searched)
            if end_of_head is None:
                self._check_size()
                self._searched = max(len(head) - 2, 0)
                return b""
            end, self._searched = end_of_head.end(), 0
            if not _INTERIM.match(head):
                written, self._body = _rewritten(bytes(head[:end]))
                return written + self._body.feed(bytes(head[end:]))
            del head[:end]

    def end(self) -> bytes:
        """Return the rest after a regular end of the connection, which may end a head too.

        :raises http.client.HTTPException: for a head that `http.client` refuses
        """
        if self._body is not None:
            return self._body.end()
        if not self._head or _INTERIM.match(self._head):
            return b""
        written, self._body = _rewritten(bytes(self._head))
        return written + self._body.end()

    def _check_size(self) -> None:
        if len(self._head) - self._head.rfind(b"\n") > _MAX_LINE_BYTES + 1:
            raise LineTooLong("header line")
        if self._head.count(b"\n") > _MAX_LINES + 1:
            raise HTTPException(f"got more than {_MAX_LINES} headers")


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def _regular_head_of(data: bytes) -> tuple[int, Body] | None:
    """Return the length of a regular head, and the body; None for other heads."""
    head = _REGULAR_HEAD.match(data)
    if head is None or head.end() > _MAX_REGULAR_BYTES:
        return None
    framing = _FRAMING_FIELD.findall(data, 0, head.end())
    if len(framing) != 1:
        return None
    if _LENGTH.fullmatch(framing[0]):
        return head.end(), SizedBody(int(framing[0]))
    return (head.end(), ChunkedBody()) if framing[0] == b"chunked" else None


class _Received:
    """Bytes in the place of a socket."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._content))


def _rewritten(head: bytes) -> tuple[bytes, Body]:
    """Return a head as `http.client` and urllib3 read it, in a regular form, and the body.

    :raises http.client.HTTPException: for a head that `http.client` refuses
    :raises urllib3.exceptions.InvalidHeader: for lengths that contradict each other
    """
    response = FinalResponse(cast("Any", _Received(head)), method="GET")
    response.begin()
    fields = response.headers.items()
    checked = HTTPResponse(headers=HTTPHeaderDict(fields), status=response.status, preload_content=False)
    lines = [f"HTTP/1.1 {response.status} {printable(response.reason)}"]
    lines += [
        f"{name}: {printable(value)}"
        for name, value in fields
        if _TOKEN.fullmatch(name) and name.lower() not in _FRAMING_NAMES
    ]
    length = checked.length_remaining if response.length is None else response.length
    body: Body
    if response.chunked or length is None:
        body = ChunkedBody() if response.chunked else OpenBody()
        lines.append("Transfer-Encoding: chunked")
    else:
        body = SizedBody(length)
        lines.append(f"Content-Length: {length}")
    if response.will_close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1"), body
