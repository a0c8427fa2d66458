"""A file received over the blocking client, piece by piece."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from airflow_vace.client.failures import check_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from airflow_vace.client.exchange import Exchange
    from airflow_vace.core.requests import Request

_MAX_PIECE_BYTES = 1024 * 1024
# A longer number is no real size, and int() raises ValueError above 4,300 digits.
_MAX_SIZE_DIGITS = 18
# RFC 9110, section 14.4: the bytes of a partial response, and the size of the complete file.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file whose content is still to come.

    :param start: position of the first chunk, in bytes; None for a part without a valid Content-Range
    :param size: bytes of the complete file; None if unknown
    :param etag: strong ETag, usable to resume the download; None without a strong ETag
    :param chunks: the content, at most 1 MiB each; reading raises VaceTransportError after a stall
    """

    start: int | None
    size: int | None
    etag: str | None
    chunks: Iterator[bytes]

    @classmethod
    def of(cls, response: requests.Response, exchange: Exchange, request: Request) -> Self:
        """Read the headers of a response with a file (200), or with the rest of a file (206)."""
        part = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        length = response.headers.get("content-length", "")
        size = int(length) if length.isdecimal() and len(length) <= _MAX_SIZE_DIGITS else None
        start: int | None = 0
        if response.status_code == 206:
            # Content-Length counts the part only, so the size of the file must come from Content-Range.
            start = int(part[1]) if part else None
            size = int(part[2]) if part and part[2].isdecimal() else None
        etag = response.headers.get("etag")
        is_strong = etag is not None and not etag.startswith("W/")
        chunks = _chunks_of(response, exchange, request)
        return cls(start=start, size=size, etag=etag if is_strong else None, chunks=chunks)


def _chunks_of(response: requests.Response, exchange: Exchange, request: Request) -> Iterator[bytes]:
    """Yield a body in pieces; the limit for time applies to each piece, not to the body.

    :raises VaceTransportError: if a piece did not come in time
    """
    exchange.expect_piece()
    # read1 returns the bytes at hand, so a slow transfer is visible, and a caller can stop between pieces.
    while chunk := bytes(response.raw.read1(_MAX_PIECE_BYTES)):
        exchange.expect_piece()
        yield chunk
        # The caller's own work between two pieces must not count.
        exchange.expect_piece()
    # A forced end resembles a regular end in a body without a length, or within trailers.
    check_time(exchange, request)
