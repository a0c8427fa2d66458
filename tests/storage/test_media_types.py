"""Media type, completeness and dimensions of files by their bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.storage.media_types import check_whole, dimensions_of, reads, type_of
from support.films import GIF, MP4, WEBM, box, film

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.storage.media_types import Read


def reader(content: bytes) -> Read:
    return reads(io.BytesIO(content))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (MP4, "video/mp4"),
        (box(b"ftyp", b"heic"), "image/heic"),
        (box(b"ftyp", b"mif1\0\0\0\0mif1avif"), "image/avif"),
        (WEBM, "video/webm"),
        (GIF, "image/gif"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
        (b"RIFF\0\0\0\0AVI ", "video/x-msvideo"),
        (b"RIFF\0\0\0\0WAVE", "audio/wav"),
        (b"#!/bin/sh", "text/plain"),
        (b"", None),
    ],
)
def test_the_first_bytes_give_the_media_type(head: bytes, kind: str | None) -> None:
    assert type_of(head) == kind


@pytest.mark.parametrize("flags", ["", "faststart", "frag_keyframe+empty_moov"])
def test_a_film_has_dimensions_with_its_header_at_any_place(tmp_path: Path, flags: str) -> None:
    options = {"movflags": flags} if flags else None
    content = film(tmp_path / "film.mp4", 64, 48, options=options).read_bytes()
    assert dimensions_of(reader(content), len(content)) == (64, 48)


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_the_dimensions_of_an_image_are_known(kind: str) -> None:
    file = io.BytesIO()
    Image.new("L", (30, 20)).save(file, kind)
    assert dimensions_of(reads(file), len(file.getvalue())) == (30, 20)


def track(width: int, height: int, *, turned: bool = False) -> bytes:
    one = (1 << 16).to_bytes(4)
    none = bytes(4)
    rows = (none, one, none, one, none, none) if turned else (one, none, none, none, one, none)
    matrix = b"".join(rows) + none * 2 + (1 << 30).to_bytes(4)
    size = (width << 16).to_bytes(4) + (height << 16).to_bytes(4)
    return box(b"trak", box(b"tkhd", bytes(40) + matrix + size))


def test_a_film_rotated_by_a_phone_swaps_width_and_height() -> None:
    content = box(b"ftyp", b"isom") + box(b"moov", track(0, 0) + track(64, 48, turned=True))
    assert dimensions_of(reader(content), len(content)) == (48, 64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff",
        MP4,
        box(b"ftyp", b"isom") + box(b"moov", box(b"trak", box(b"tkhd", b"short"))),
        box(b"ftyp", b"isom") + box(b"moov", box(b"trak")[:-1] + b"x"),
        box(b"ftyp", b"isom") + (2**31).to_bytes(4) + b"moov",
    ],
)
def test_a_file_without_known_dimensions_has_none(content: bytes) -> None:
    assert dimensions_of(reader(content), len(content)) is None


def test_the_search_for_dimensions_takes_few_reads() -> None:
    content = box(b"ftyp", b"isom") + box(b"free") * 1000 + box(b"moov", track(64, 48))
    looks: list[int] = []

    def read(at: int, length: int) -> bytes:
        looks.append(at)
        return content[at : at + length]

    assert dimensions_of(read, len(content)) is None
    assert len(looks) < 50


@pytest.mark.parametrize("behind", [b"", b"\0\0", b"<!-- -->\n", b"\xff" * 40])
def test_a_film_with_appended_bytes_is_whole_and_a_truncated_one_not(
    behind: bytes,
) -> None:
    content = MP4 + behind
    check_whole(io.BytesIO(content), len(content), "video/mp4")
    torn = MP4[:-1]
    with pytest.raises(VaceProtocolError, match="ends within a box"):
        check_whole(io.BytesIO(torn), len(torn), "video/mp4")
