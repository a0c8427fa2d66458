"""Media type, completeness and dimensions of a file, by its bytes."""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from itertools import islice
from typing import TYPE_CHECKING

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.storage.suffixes import AMBIGUOUS_TYPES, is_media_type, is_text_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from airflow_vace.storage.suffixes import Announced

    # Returns bytes from an offset, `(offset, length)`; fewer at the end of the file.
    Read = Callable[[int, int], bytes]

# Long enough for the second packet of an MPEG transport stream, and for the mark of a TAR.
HEAD_BYTES = 512

_PREFIXES = (
    (b"GIF8", "image/gif"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"8BPS\0\x01", "image/vnd.adobe.photoshop"),
    (b"\x76\x2f\x31\x01", "image/x-exr"),
    (b"FLV\x01", "video/x-flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/x-ms-wmv"),
    (b"\0\0\x01\xba", "video/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"MThd", "audio/midi"),
    (b"glTF", "model/gltf-binary"),
    (b"Kaydara FBX Binary", "application/vnd.autodesk.fbx"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"%PDF-", "application/pdf"),
    (b"\x93NUMPY", "application/x-npy"),
    (b"PAR1", "application/vnd.apache.parquet"),
    (b"ply\n", "model/ply"),
    (b"ply\r\n", "model/ply"),
    (b"WEBVTT", "text/vtt"),
)
_RIFF_TYPES = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo", b"WAVE": "audio/wav"}
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_BRANDS = {
    **dict.fromkeys(_AVIF_BRANDS, "image/avif"),
    **dict.fromkeys(_HEIC_BRANDS, "image/heic"),
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
}
# A QuickTime file need not begin with `ftyp`: QuickTime File Format Specification, "Overview of the file".
_QUICKTIME_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_TS_PACKET_BYTES = 188
_TEXT_CONTROLS = b"\t\n\r\f\x1b"

# Headers of real videos are smaller, so a larger one is an attack on the worker's memory.
_MAX_MOOV_BYTES = 16 * 1024 * 1024
_MAX_BOXES = 100_000
# All in the form of ISO/IEC 14496-12.
_MOVIES = ("video/mp4", "video/quicktime", "audio/mp4")
_BOXED = (*_MOVIES, "image/avif", "image/heic")
# Other bytes may follow the mark, and the comment of a ZIP has up to 64 KiB.
_END_MARKS = {
    "image/png": rb"IEND",
    "image/jpeg": rb"\xff\xd9",
    "image/gif": rb";\s*\Z",
    "application/pdf": rb"%%EOF",
    "application/zip": rb"PK\x05\x06",
    "application/json": rb"[}\]]\s*\Z",
}
_MAX_TAIL_BYTES = 66_000
_MAX_ERROR_BYTES = 4096
_MIN_ERROR_STATUS = 400
# From here on a length of 32 bits means "unknown".
_UNKNOWN_LENGTH = 0xFFFFFF00
_BOX_NAME = re.compile(rb"[a-z0-9 ]{4}")
# Each read of a remote file is one request, so the search for dimensions stops early.
_MAX_BOX_READS = 32
# ISO/IEC 14496-12, 8.3.2: a tkhd box ends with a 36-byte matrix, width and height.
_MIN_TKHD_BYTES = 84


def type_of(head: bytes) -> str | None:
    """Return the media type for the first :data:`HEAD_BYTES` bytes of a file, None if unknown."""
    if head[4:8] == b"ftyp":
        kind = _BRANDS.get(head[8:12], "video/mp4")
        is_avif = kind == "image/heic" and any(brand in head[16:64] for brand in _AVIF_BRANDS)
        return "image/avif" if is_avif else kind
    for prefix, content_type in _PREFIXES:
        if head.startswith(prefix):
            return content_type
    # RF64 and BW64 are WAV files of more than 4 GB (EBU Tech 3306, ITU-R BS.2088).
    if head[:4] in (b"RIFF", b"RF64", b"BW64"):
        return _RIFF_TYPES.get(head[8:12])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "audio/aiff"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/x-matroska" if b"matroska" in head else "video/webm"
    if head.startswith(b"OggS"):
        return "video/ogg" if b"theora" in head else "audio/ogg"
    return _type_by_structure(head) or _text_type(head)


def _type_by_structure(head: bytes) -> str | None:
    """Return the media type of a file without a signature at its start."""
    if head[4:8] in _QUICKTIME_BOXES and not head[0] & 0xF0:
        return "video/quicktime"
    # Packets of an M2TS file have four more bytes in front.
    for start, length in ((0, _TS_PACKET_BYTES), (4, _TS_PACKET_BYTES + 4)):
        syncs = head[start::length]
        if set(syncs) == {0x47} and len(syncs) > 1:
            return "video/mp2t"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and b"\0" in head[2:4]:
        return "text/plain"  # UTF-16 with its byte order mark
    if head[257:262] == b"ustar":
        return "application/x-tar"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < _MAX_MOOV_BYTES * 16:
        return "application/x-safetensors"
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "audio/aac"
    is_mpeg_frame = len(head) > 3 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06
    # Bit rate and sampling rate have one invalid value each.
    if is_mpeg_frame and head[2] & 0xF0 not in (0, 0xF0) and head[2] & 0x0C != 0x0C:
        return "audio/mpeg"
    return None


def _text_type(head: bytes) -> str | None:
    """Return `text/plain`, or the type of JSON, XML and SVG, for the start of a text in UTF-8."""
    if not head or any(byte < 0x20 and byte not in _TEXT_CONTROLS for byte in head):
        return None
    try:
        # The head may end within a letter.
        text = getincrementaldecoder("utf-8-sig")().decode(head, len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return None
    text = text.lstrip().lower()
    if text.startswith(("<?xml", "<svg", "<!doctype svg", "<!--")) and not is_page(head):
        return "image/svg+xml" if "<svg" in text else "application/xml"
    return "application/json" if text.startswith(("{", "[")) else "text/plain"


def is_page(head: bytes) -> bool:
    """Return True if a file is a web page, such as a login form or the error page of a proxy."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    is_markup = start.startswith((b"<!--", b"<?xml", b"<!doctype"))
    page = re.search(rb"<!doctype html|<html[\s>]", start) if is_markup and b"<svg" not in start else None
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or page is not None


def reads(file: BinaryIO) -> Read:
    """Return a function that reads an open file at any offset."""

    def read(at: int, length: int) -> bytes:
        file.seek(at)
        return file.read(length)

    return read


def check_whole(file: BinaryIO, size: int, found: str | None, announced: Announced | None = None) -> None:
    """Check that a downloaded file is complete, and no message of a server in place of the file.

    :param size: length of the file in bytes
    :param found: media type by content, None if unknown
    :param announced: type by headers and name, None to accept any type
    :raises VaceProtocolError: if the file is empty, a web page, a server's error message, or incomplete
    """
    read = reads(file)
    # Login pages and error pages of proxies arrive with status 200, so only the content counts.
    head = read(0, HEAD_BYTES)
    if not size:
        raise VaceProtocolError("The output's URL brought an empty file")
    if is_page(head):
        raise VaceProtocolError("The output's URL brought an HTML page instead of a file")
    if found is not None and is_text_type(found) and announced is not None:
        _check_text(read, size, found, announced)
    boxes = [name for name, _, _ in _boxes(read, 0, size)] if found in _BOXED else []
    if found in _MOVIES:
        _check_boxes(boxes)
    if boxes and not boxes[-1]:
        kind = "an MP4" if found == "video/mp4" else f"a file of type {found}"
        raise VaceProtocolError(f"The output's URL brought {kind} that ends within a box")


def _check_text(read: Read, size: int, found: str, announced: Announced) -> None:
    """Refuse a text under the name of a video, and the error document of a delivery."""
    message = read(0, HEAD_BYTES)[:200]
    is_ambiguous = announced.expected in AMBIGUOUS_TYPES
    if announced.expected is not None and is_media_type(announced.expected) and not is_ambiguous:
        raise VaceProtocolError(f"The output's URL brought no {announced.expected}, but text: {message!r}")
    is_storage_error = found == "application/xml" and b"<Error>" in message
    is_json_error = found == "application/json" and size <= _MAX_ERROR_BYTES and _is_error(read(0, size))
    if (is_ambiguous or not announced.suffixes) and (is_storage_error or is_json_error):
        raise VaceProtocolError(f"The output's URL brought an error message: {message!r}")


def _is_error(content: bytes) -> bool:
    try:
        found = json.loads(content)
    except ValueError:
        return False
    if not isinstance(found, dict):
        return False
    code = found.get("code", found.get("status"))
    is_refusal = (
        isinstance(code, int) and code >= _MIN_ERROR_STATUS and ("message" in found or "msg" in found)
    )
    return is_refusal or any(found.get(name) for name in ("error", "errors", "detail"))


def check_size(file: BinaryIO, size: int, found: str | None) -> None:
    """Check a file without an announced length by the length that its own header states.

    :raises VaceProtocolError: if the file is shorter than its header states
    """
    head = reads(file)(0, 12)
    stated = 0
    if head[:4] == b"RIFF":
        stated = int.from_bytes(head[4:8], "little") + 8
    elif found == "model/gltf-binary":
        stated = int.from_bytes(head[8:12], "little")
    # Encoders that write to a pipe state the largest number, or none.
    if size < stated < _UNKNOWN_LENGTH:
        raise VaceProtocolError(f"The output's URL brought {size} bytes of a file of {stated}")


def has_end_mark(file: BinaryIO, size: int, found: str | None) -> bool:
    """Return False if a file lacks the mark at the end that files of its type have."""
    mark = _END_MARKS.get(found or "")
    return mark is None or re.search(mark, reads(file)(max(0, size - _MAX_TAIL_BYTES), size)) is not None


def _check_boxes(names: list[bytes]) -> None:
    if b"moov" not in names or (names[0] != b"ftyp" and b"mdat" not in names):
        found = ", ".join(repr(name)[1:] for name in names[:8] if name) or "none"
        raise VaceProtocolError(
            f"The output's URL brought no whole MP4: of its boxes there are {found}, and ftyp and moov"
            " must be among them"
        )


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
        case "video/mp4" | "video/quicktime":
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
