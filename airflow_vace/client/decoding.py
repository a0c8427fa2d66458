"""Decompression of files that a server compresses although asked not to."""

from __future__ import annotations

import zlib
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# RFC 9110, section 8.4.1. Other words, such as `utf-8` and `aws-chunked`, mark no compression.
_GZIP = ("gzip", "x-gzip")
_ZLIB = ("deflate",)
_OTHERS = ("br", "zstd", "compress", "x-compress", "dcb", "dcz")
_GZIP_START = b"\x1f\x8b"
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


def compressions_in(header: str) -> tuple[str, ...]:
    """Return the compressions in a `Content-Encoding`, in the order of their application."""
    words = (word.strip().lower() for word in header.split(","))
    return tuple(word for word in words if word in (*_GZIP, *_ZLIB, *_OTHERS))


def can_decode(compressions: tuple[str, ...]) -> bool:
    """Return True if :func:`decoded` knows all compressions."""
    return all(word in (*_GZIP, *_ZLIB) for word in compressions)


def decoded(pieces: Iterator[bytes], compressions: tuple[str, ...], limit: int) -> Iterator[bytes]:
    """Yield the decompressed content in pieces, so that a small file can't fill the memory.

    A file that is not compressed in spite of its header is yielded as it is.

    :param limit: maximum size of a piece in bytes
    :raises EOFError: if the content ends within its compressed data
    :raises zlib.error: if the compressed data is damaged
    """
    for word in reversed(compressions):
        pieces = _inflated(pieces, limit, is_gzip=word in _GZIP)
    return pieces


def _inflated(pieces: Iterator[bytes], limit: int, *, is_gzip: bool) -> Iterator[bytes]:
    first = b""
    for piece in pieces:
        first += piece
        if len(first) >= len(_GZIP_START):
            break
    bits = _window_of(first, is_gzip=is_gzip)
    if bits is None:
        yield first
        yield from pieces
        return
    decoder = zlib.decompressobj(bits)
    for piece in chain((first,), pieces):
        rest = piece
        while rest:
            if decoder.eof:
                # A gzip file may have several members; other bytes behind the end are padding.
                if not (is_gzip and _GZIP_START.startswith(rest[: len(_GZIP_START)])):
                    break
                decoder = zlib.decompressobj(bits)
            yield from _contents(decoder, rest, limit)
            rest = decoder.unused_data
    if not decoder.eof:
        raise EOFError("the content ends within its compressed data")


def _contents(decoder: zlib._Decompress, piece: bytes, limit: int) -> Iterator[bytes]:
    while True:
        content = decoder.decompress(piece, limit)
        if content:
            yield content
        piece = decoder.unconsumed_tail
        # A full piece may leave more content behind without further input.
        if decoder.eof or (not piece and len(content) < limit):
            return


def _window_of(first: bytes, *, is_gzip: bool) -> int | None:
    """Return zlib's name of a format by its first bytes; None for content that is not compressed."""
    if is_gzip:
        return _GZIP_BITS if first.startswith(_GZIP_START) else None
    # Browsers accept `deflate` with and without zlib's header, so servers send both.
    for bits in (_ZLIB_BITS, _RAW_BITS):
        try:
            zlib.decompressobj(bits).decompress(first, 1)
        except zlib.error:
            continue
        return bits
    return None
