"""Which saved files the API server hands out, and how: below roots that the deployment lists, in ranges."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from airflow_vace.media.places import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a browser plays and cannot run.
TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
_PIECE = 2 * 1024 * 1024
_MOST_DIGITS = 18
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CODED = re.compile(r"%(?:2e|2f|5c|25|00)", re.IGNORECASE)


def roots_of(text: str) -> list[str]:
    """Return the roots that a setting lists, with commas between them."""
    return [root.strip() for root in text.split(",") if root.strip()]


def type_of(uri: str) -> str | None:
    """Return the content type by the file's name, None for what a browser should not be given."""
    return next((kind for suffix, kind in TYPES.items() if uri.lower().endswith(suffix)), None)


def place_below(roots: list[str], uri: object) -> Place | None:
    """Return the place of a saved file, None if it is not below any of the roots.

    Local files and roots are compared with symbolic links resolved; in a store names are just text.

    :param roots: directories (`/data/clips/`, `file:///data/clips/`) and places in stores
        (`s3://aws_default@my-bucket/clips/`, read over the connection that is named there)
    """
    if not isinstance(uri, str) or not uri.isprintable() or "\\" in uri or type_of(uri) is None:
        return None
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return _local_below(roots, rest)
    names = rest.split("/")
    if len(names) < 2 or not scheme or _CODED.search(rest) or not {"", ".", ".."}.isdisjoint(names):
        return None
    for root in roots:
        root_scheme, _, root_rest = root.partition("://")
        bucket, _, folder = root_rest.partition("/")
        shown = [bucket.rpartition("@")[2], *filter(None, folder.split("/"))]
        below = names[len(shown) :]
        if scheme == root_scheme and names[: len(shown)] == shown and below:
            return _opened(root).below(*below)
    return None


def _opened(root: str) -> Place:
    return Place.of(root if root.endswith("/") else f"{root}/", "[vace] video_roots")


def _local_below(roots: list[str], rest: str) -> Place | None:
    path = unquote(rest)
    if not rest.startswith("/") or not path.isprintable() or "\\" in path:
        return None
    # Encoded once, as we have written it: what would be decoded to something else again is nobody's.
    if unquote(path) != path or ".." in path.split("/") or urlsplit(f"file://{rest}").path != rest:
        return None
    try:
        true = Path(path).resolve(strict=True)
    except (OSError, RuntimeError):  # not there, or links in a circle
        return None
    if type_of(true.name) is None or not true.is_file():
        return None
    for root in roots:
        scheme, has_scheme, tail = root.partition("://")
        if has_scheme and scheme != "file":
            continue
        folder = Path(unquote(tail) if has_scheme else root)
        if folder.is_absolute() and true.is_relative_to(folder.resolve()):
            found = true.stat()
            return Place(uri=true.as_uri(), local=true, inode=(found.st_dev, found.st_ino))
    return None


def range_of(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last that a request asks for; all of them without a header.

    Several ranges, and units that nobody knows, get the whole file, as RFC 9110 has it.

    :return: None if no byte of the range is there
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found[0] == "bytes=-" or max(map(len, found.groups())) > _MOST_DIGITS:
        return 0, size
    first, last = found.groups()
    if not first:
        return (max(size - int(last), 0), size) if int(last) and size else None
    if last and int(last) < int(first):
        return 0, size
    start, end = int(first), min(int(last) + 1 if last else size, size)
    return (start, end) if start < size else None


def pieces(place: Place, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a range, in bounded memory; a file that has become shorter ends early."""
    at = start
    while at < end:
        piece = place.read(at, min(_PIECE, end - at))
        if not piece:
            return
        at += len(piece)
        yield piece
