"""Decompression in pieces, at any boundary."""

from __future__ import annotations

import gzip
import zlib

import pytest

from airflow_vace.client.decoding import can_decode, compressions_in, decoded

CONTENT = b"a fox in the snow" * 5000


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 1_000_000])
@pytest.mark.parametrize("word", ["gzip", "deflate"])
def test_pieces_of_any_size_are_decompressed(size: int, word: str) -> None:
    one, two = CONTENT[:1000], CONTENT[1000:]
    sent = gzip.compress(one) + gzip.compress(two) if word == "gzip" else zlib.compress(CONTENT)
    pieces = (sent[at : at + size] for at in range(0, len(sent), size))
    found = list(decoded(pieces, (word,), 4096))
    assert b"".join(found) == CONTENT
    assert max(map(len, found)) <= 4096


@pytest.mark.parametrize("sent", [b"", b"x"])
def test_a_short_body_that_is_not_compressed_stays(sent: bytes) -> None:
    assert b"".join(decoded(iter([sent]), ("gzip",), 10)) == sent


def test_a_body_that_breaks_off_or_is_damaged_is_an_error() -> None:
    sent = gzip.compress(CONTENT)
    with pytest.raises(EOFError):
        list(decoded(iter([sent[:-20]]), ("gzip",), 10_000))
    with pytest.raises(zlib.error):
        list(decoded(iter([sent[:-8] + b"damaged!"]), ("gzip",), 10_000))


def test_only_words_for_compressions_count() -> None:
    assert compressions_in("aws-chunked, GZIP ,utf-8,br") == ("gzip", "br")
    assert can_decode(("gzip", "x-gzip", "deflate"))
    assert not can_decode(("gzip", "br"))
