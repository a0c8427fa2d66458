"""Media type, completeness and dimensions of a file, by its bytes."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from airflow_vace.exceptions import VaceProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    # Returns bytes from an offset, `(offset, length)`; fewer at the end of the file.
    Read = Callable[[int, int], bytes]

SUFFIXES = {
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "image/gif": ".gif",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
}
HEAD_BYTES = 64

_PREFIXES = (
    (b"\x1a\x45\xdf\xa3", "video/webm"),  # Matroska has the same prefix
    (b"GIF8", "image/gif"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
_RIFF_TYPES = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}
_IMAGE_BRANDS = (b"avif", b"heic", b"mif1")
_HTML_STARTS = (b"<!doctype", b"<html")

# Headers of real videos are smaller, so a larger one is an attack on the worker's memory.
_MAX_MOOV_BYTES = 16 * 1024 * 1024
_MAX_BOXES = 100_000
_BOX_NAME = re.compile(rb"[a-z0-9 ]{4}")
# Each read of a remote file is one request, so the search for dimensions stops early.
_MAX_BOX_READS = 32
# ISO/IEC 14496-12, 8.3.2: a tkhd box ends with a 36-byte matrix, width and height.
_MIN_TKHD_BYTES = 84


def type_of(head: bytes) -> str | None:
    """Return the media type for the first :data:`HEAD_BYTES` bytes of a file, None if unknown."""
    for prefix, content_type in _PREFIXES:
        if head.startswith(prefix):
            return content_type
    if head[4:8] == b"ftyp":
        return "image/avif" if head[8:12] in _IMAGE_BRANDS else "video/mp4"
    return _RIFF_TYPES.get(head[8:12]) if head[:4] == b"RIFF" else None


def reads(file: BinaryIO) -> Read:
    """Return a function that reads an open file at any offset."""

    def read(at: int, length: int) -> bytes:
        file.seek(at)
        return file.read(length)

    return read


def check_whole(file: BinaryIO, size: int, content_type: str) -> None:
    """Check that a downloaded file is complete and of its announced media type.

    :param size: length of the file in bytes
    :param content_type: a key of :data:`SUFFIXES`
    :raises VaceProtocolError: if the file is empty, an HTML page, of another type, or incomplete
    """
    read = reads(file)
    # Login pages and error pages of proxies arrive with status 200, so only the content counts.
    head = read(0, HEAD_BYTES)
    if not size:
        raise VaceProtocolError("The output's URL brought an empty file")
    if head.lstrip()[:9].lower().startswith(_HTML_STARTS):
        raise VaceProtocolError("The output's URL brought an HTML page instead of a file")
    if content_type == "video/mp4":
        _check_boxes([name for name, _, _ in _boxes(read, 0, size)])
    elif type_of(head) != content_type:
        kind = SUFFIXES[content_type][1:].upper()
        raise VaceProtocolError(f"The output's URL brought no {kind}, but {head[:16]!r}")


def _check_boxes(names: list[bytes]) -> None:
    if names[:1] != [b"ftyp"] or b"moov" not in names:
        found = ", ".join(repr(name)[1:] for name in names[:8] if name) or "none"
        raise VaceProtocolError(
            f"The output's URL brought no whole MP4: of its boxes there are {found}, and ftyp and moov"
            " must be among them"
        )
    if not names[-1]:
        raise VaceProtocolError("The output's URL brought an MP4 that ends within a box")


def dimensions_of(read: Read, size: int) -> tuple[int, int] | None:
    """Return width and height in pixels of an MP4, GIF or PNG; None if unknown.

    Only a few bytes are read, since the file may be remote.

    :param size: length of the file in bytes
    """
    head = read(0, HEAD_BYTES)
    match type_of(head):
        case "image/gif":
            return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
        case "image/png":
            return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
        case "video/mp4":
            return _dimensions_of_mp4(read, size)
        case _:
            return None


def _dimensions_of_mp4(read: Read, size: int) -> tuple[int, int] | None:
    for name, start, end in islice(_boxes(read, 0, size), _MAX_BOX_READS):
        if name != b"moov" or end - start > _MAX_MOOV_BYTES:
            continue
        if found := _dimensions_in_moov(read(start, end - start)):
            return found
    return None


def _dimensions_in_moov(moov: bytes) -> tuple[int, int] | None:
    """Return the dimensions of the first visible track."""

    def read(at: int, length: int) -> bytes:
        return moov[at : at + length]

    for track, track_start, track_end in _boxes(read, 0, len(moov)):
        if track != b"trak":
            continue
        for name, start, end in _boxes(read, track_start, track_end):
            width, height = (int.from_bytes(moov[at : at + 2]) for at in (end - 8, end - 4))
            if name == b"tkhd" and end - start >= _MIN_TKHD_BYTES and width and height:
                # Phones store a rotation by 90 degrees in the matrix, so players swap the sides.
                is_rotated = any(moov[end - 40 : end - 36])
                return (height, width) if is_rotated else (width, height)
    return None


def _boxes(read: Read, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each box's content (ISO/IEC 14496-12, 4.2).

    A truncated box has the name "".
    """
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        head = read(at, 16)
        length, begin = int.from_bytes(head[:4]), 8
        if length == 1:
            length, begin = int.from_bytes(head[8:16]), 16
        elif length == 0:  # the box extends to the end of the file
            length = end - at
        if length < begin or at + length > end:
            # Some tools append bytes to a film; without a valid name they are no truncated box.
            if _BOX_NAME.fullmatch(head[4:8]):
                yield b"", at, end
            return
        yield head[4:8], at + begin, at + length
        at += length
