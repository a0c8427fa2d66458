"""What a file is, told by its bytes: kind, wholeness, width and height."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from airflow_vace.exceptions import VaceProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    # Reads so many bytes from a place in the file; fewer at its end.
    Read = Callable[[int, int], bytes]

SUFFIXES = {
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "image/gif": ".gif",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
}
HEAD = 64

# A header with more is no video that a camera or a model has made.
_LARGEST_MOOV = 16 * 1024 * 1024
_MOST_BOXES = 100_000
_BOX = re.compile(rb"[a-z0-9 ]{4}")
# Each is a request of its own where the file is far away.
_MOST_LOOKS = 32


def type_of(head: bytes) -> str | None:
    """Return the media type that a file's first :data:`HEAD` bytes tell, None if it is none that we know."""
    for magic, content_type in _MAGIC:
        if head.startswith(magic):
            return content_type
    if head[4:8] == b"ftyp":
        return "image/avif" if head[8:12] in (b"avif", b"heic", b"mif1") else "video/mp4"
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}.get(head[8:12])
    return None


_MAGIC = (
    (b"\x1a\x45\xdf\xa3", "video/webm"),  # Matroska, too
    (b"GIF8", "image/gif"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


def reads(file: BinaryIO) -> Read:
    """Return the reader of an open file."""

    def read(at: int, length: int) -> bytes:
        file.seek(at)
        return file.read(length)

    return read


def check_whole(file: BinaryIO, size: int, content_type: str) -> None:
    """Look whether a downloaded file is what it was announced as.

    :raises VaceProtocolError: if it is empty, a page for people, or no whole file of its kind
    """
    read = reads(file)
    head = read(0, HEAD)
    if not size:
        raise VaceProtocolError("The output's URL brought an empty file")
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise VaceProtocolError("The output's URL brought an HTML page instead of a file")
    if content_type == "video/mp4":
        boxes = [name for name, _, _ in _boxes(read, 0, size)]
        if boxes[:1] != [b"ftyp"] or b"moov" not in boxes:
            found = ", ".join(repr(box)[1:] for box in boxes[:8] if box) or "none"
            raise VaceProtocolError(
                f"The output's URL brought no whole MP4: of its boxes there are {found}, and ftyp and moov"
                " must be among them"
            )
        if not boxes[-1]:
            raise VaceProtocolError("The output's URL brought an MP4 that ends within a box")
    elif type_of(head) != content_type:
        kind = SUFFIXES[content_type][1:].upper()
        raise VaceProtocolError(f"The output's URL brought no {kind}, but {head[:16]!r}")


def dimensions_of(read: Read, size: int) -> tuple[int, int] | None:
    """Return width and height in pixels where a few bytes tell them (MP4, GIF, PNG), else None."""
    head = read(0, HEAD)
    match type_of(head):
        case "image/gif":
            return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
        case "image/png":
            return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
        case "video/mp4":
            return _dimensions_of_mp4(read, size)
    return None


def _dimensions_of_mp4(read: Read, size: int) -> tuple[int, int] | None:
    """Return what the first track that shows something says (ISO/IEC 14496-12, 8.3.2)."""
    for name, start, end in islice(_boxes(read, 0, size), _MOST_LOOKS):
        if name != b"moov" or end - start > _LARGEST_MOOV:
            continue
        moov = read(start, end - start)

        def inside(at: int, length: int, moov: bytes = moov) -> bytes:
            return moov[at : at + length]

        for trak, first, last in _boxes(inside, 0, len(moov)):
            if trak != b"trak":
                continue
            for tkhd, begin, after in _boxes(inside, first, last):
                width, height = (int.from_bytes(moov[at : at + 2]) for at in (after - 8, after - 4))
                if tkhd == b"tkhd" and after - begin >= 84 and width and height:
                    is_turned = any(moov[after - 44 + 4 : after - 44 + 8])  # by 90 degrees, as phones do
                    return (height, width) if is_turned else (width, height)
    return None


def _boxes(read: Read, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each box (ISO/IEC 14496-12, 4.2), "" for a torn one."""
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        head = read(at, 16)
        length, begin = int.from_bytes(head[:4]), 8
        if length == 1:
            length, begin = int.from_bytes(head[8:16]), 16
        elif length == 0:  # to the end of the file
            length = end - at
        if length < begin or at + length > end:
            if _BOX.fullmatch(head[4:8]):  # else it is only something behind the last box
                yield b"", at, end
            return
        yield head[4:8], at + begin, at + length
        at += length
