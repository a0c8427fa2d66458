"""Responses in a regular form, whatever the pieces in which these arrive."""

from __future__ import annotations

import io
import random
from http.client import HTTPException
from typing import Any

import pytest
from urllib3.exceptions import InvalidHeader

from airflow_vace.client.framing import ResponseReader
from airflow_vace.client.sockets import FinalResponse
from support.odd_servers import ODD_SERVERS

WHOLE = {name: answer for name, answer in ODD_SERVERS.items() if isinstance(answer, bytes)}


class _Received:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._content))


def read(content: bytes) -> tuple[int, bytes] | None:
    """Return status and body as http.client reads the bytes of a connection; None for a refusal."""
    connection: Any = _Received(content)
    response = FinalResponse(connection, method="GET")
    try:
        response.begin()
        return response.status, response.read()
    except (HTTPException, ValueError):
        return None


def rewritten(pieces: list[bytes]) -> bytes | None:
    reader = ResponseReader()
    try:
        written = b"".join([*map(reader.feed, pieces), reader.end()])
    except (HTTPException, InvalidHeader):
        return None
    return written


@pytest.mark.parametrize("name", WHOLE)
def test_the_regular_form_reads_as_the_original_in_any_pieces(name: str) -> None:
    content = WHOLE[name]
    expected = read(content)
    whole = rewritten([content])
    # urllib3 compares lengths only after http.client has read the head.
    if "different lengths" in name:
        assert whole is None
        return
    assert (None if whole is None else read(whole)) == expected
    for seed in range(3):
        random.seed(seed)
        cuts = sorted(random.sample(range(len(content) + 1), min(9, len(content))))
        pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        other = rewritten(pieces)
        assert (None if other is None else read(other)) == expected


def test_bytes_after_a_response_are_dropped() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200").endswith(b"\r\n\r\n{}")
    assert reader.is_over
    assert reader.feed(b" OK") == b""
