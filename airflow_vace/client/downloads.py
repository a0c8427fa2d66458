"""A file received over the blocking client, piece by piece."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from airflow_vace.client.decoding import can_decode, compressions_in, decoded
from airflow_vace.client.failures import check_time
from airflow_vace.core.origins import header_text
from airflow_vace.exceptions import VaceTransportError

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
    :param size: bytes of the complete file; None if unknown, as for compressed content
    :param etag: strong ETag, usable to resume the download; None without one, and for compressed content
    :param chunks: the decompressed content, at most 1 MiB each; reading raises VaceTransportError after a
        stall, and if compressed content is incomplete
    :param content_type: header `Content-Type`
    :param disposition: header `Content-Disposition`, which may name the file
    :param has_end: True if the server marks the end of the content, by its length or by a last chunk
    :param undecoded: compression of the chunks, for which this machine has no library; None for plain content
    """

    start: int | None
    size: int | None
    etag: str | None
    chunks: Iterator[bytes]
    content_type: str | None = None
    disposition: str | None = None
    has_end: bool = True
    undecoded: str | None = None

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
        has_end = size is not None or bool(response.raw.chunked)
        compressions = compressions_in(response.headers.get("content-encoding", ""))
        has_decoders = all(word in response.raw.CONTENT_DECODERS for word in compressions)
        if compressions and (has_decoders or can_decode(compressions)):
            if can_decode(compressions):
                chunks = _inflated(_measured(chunks, size, request), compressions, request)
            else:
                chunks = _chunks_of(response, exchange, request, decode=True)
            # Lengths and ranges count compressed bytes, so an interrupted download starts over.
            size, is_strong, has_end, compressions = None, False, True, ()
        return cls(
            start=start,
            size=size,
            etag=etag if is_strong else None,
            chunks=chunks,
            content_type=response.headers.get("content-type"),
            disposition=header_text(response.headers.get("content-disposition", "")) or None,
            has_end=has_end,
            undecoded=", ".join(compressions) or None,
        )


def _measured(chunks: Iterator[bytes], size: int | None, request: Request) -> Iterator[bytes]:
    count = 0
    for chunk in chunks:
        count += len(chunk)
        yield chunk
    if size not in (None, count):
        raise VaceTransportError(f"{request.shown}: {count} compressed bytes came of {size}", sent=True)


def _inflated(chunks: Iterator[bytes], compressions: tuple[str, ...], request: Request) -> Iterator[bytes]:
    try:
        yield from decoded(chunks, compressions, _MAX_PIECE_BYTES)
    except (EOFError, zlib.error) as error:
        raise VaceTransportError(
            f"{request.shown}: the file can't be decompressed ({error})", sent=True
        ) from error


def _chunks_of(
    response: requests.Response, exchange: Exchange, request: Request, *, decode: bool = False
) -> Iterator[bytes]:
    """Yield a body in pieces; the limit for time applies to each piece, not to the body.

    :param decode: let urllib3 decompress
    :raises VaceTransportError: if a piece did not come in time
    """
    exchange.expect_piece()
    # read1 returns the bytes at hand, so a slow transfer is visible, and a caller can stop between pieces.
    while chunk := bytes(response.raw.read1(_MAX_PIECE_BYTES, decode_content=decode)):
        exchange.expect_piece()
        yield chunk
        # The caller's own work between two pieces must not count.
        exchange.expect_piece()
    # A forced end resembles a regular end in a body without a length, or within trailers.
    check_time(exchange, request)
