"""Headers and bodies as both HTTP clients read them after a response was received."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from urllib3 import HTTPResponse
from urllib3.exceptions import DecodeError

from airflow_vace.client.failures import check_size
from airflow_vace.exceptions import VaceTransportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

    from airflow_vace.core.requests import Request

_READ_BYTES = 64 * 1024
# Control characters, with the blanks of a folded line.
_UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f]+[\t ]*")


def first_values(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the first value of each header, by the name in lower case."""
    values: dict[str, str] = {}
    for name, value in fields:
        values.setdefault(name.decode("latin-1").lower(), _text_of(value))
    return values


def check_final(status_code: int, request: Request) -> None:
    """Raise VaceTransportError for an interim response without a response after it.

    101 switched the protocol. Later data on this connection belongs to no request, so the check comes before
    the connection is used again.
    """
    if status_code < 200:
        message = f"{request.shown}: only an interim response ({status_code}) came"
        raise VaceTransportError(message, sent=True)


def printable(text: str) -> str:
    """Return a header's value in a single line, without control characters."""
    return _UNPRINTABLE.sub(" ", text).strip()


def decompressed(body: IO[bytes], encoding: str, request: Request) -> Iterator[bytes]:
    """Yield a compressed body in pieces, decompressed; an uncompressed body as received.

    Some gateways decompress a response and keep the header.

    :param body: the whole body, at the start
    :param encoding: value of Content-Encoding
    :raises urllib3.exceptions.HTTPError: for a body that becomes invalid after a valid start
    :raises VaceProtocolError: if the body is too large
    """
    response = HTTPResponse(body=body, headers={"content-encoding": encoding}, preload_content=False)
    size = 0
    while True:
        try:
            # read1 decompresses only a piece at a time, so a decompression bomb meets the size check early.
            piece = response.read1(_READ_BYTES, decode_content=True)
        except DecodeError:
            if size:
                raise
            body.seek(0)
            yield from iter(partial(body.read, _READ_BYTES), b"")
            return
        if not piece:
            return
        size += len(piece)
        check_size(size, request)
        yield piece


def _text_of(value: bytes) -> str:
    # RFC 9110 allows ASCII only; servers send UTF-8 as well as Latin-1.
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return printable(text)
