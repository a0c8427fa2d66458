"""Which saved files the API server hands out, and how: below roots that the deployment lists, in ranges."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import unquote, urlsplit

from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.paths import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.storage.place import Place

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
    if not _is_plain(uri):
        return None
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return _local_below(roots, rest)
    found = _store_below(roots, scheme, rest)
    return _opened(found[0]).below(*found[1]) if found else None


def is_below(roots: list[str], uri: object) -> bool:
    """Whether a saved file is below any of the roots; the store that it is in is not opened for that."""
    if not _is_plain(uri):
        return False
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return _local_below(roots, rest) is not None
    return _store_below(roots, scheme, rest) is not None


def _is_plain(uri: object) -> TypeGuard[str]:
    return isinstance(uri, str) and uri.isprintable() and "\\" not in uri and type_of(uri) is not None


def _store_below(roots: list[str], scheme: str, rest: str) -> tuple[str, list[str]] | None:
    """Return the root that a file in a store is below, and its names from there on."""
    names = rest.split("/")
    if len(names) < 2 or not scheme or _CODED.search(rest) or not {"", ".", ".."}.isdisjoint(names):
        return None
    for root in roots:
        root_scheme, _, root_rest = root.partition("://")
        bucket, _, folder = root_rest.partition("/")
        shown = [bucket.rpartition("@")[2], *filter(None, folder.split("/"))]
        below = names[len(shown) :]
        if scheme == root_scheme and names[: len(shown)] == shown and below:
            return root, below
    return None


def _opened(root: str) -> Place:
    return place_of(root if root.endswith("/") else f"{root}/", "[vace] video_roots")


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
    found = true.stat()
    for root in roots:
        scheme, has_scheme, tail = root.partition("://")
        if has_scheme and scheme != "file":
            continue
        folder = Path(unquote(tail) if has_scheme else root)
        if folder.is_absolute() and true.is_relative_to(folder.resolve()):
            return LocalFile(true, (found.st_dev, found.st_ino))
    return None


def range_of(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte of the range that a request asks for, and the one after the last.

    :return: None if no header asks for one: several ranges, units that nobody knows, and what is no range
        get the whole file, as RFC 9110 has it
    :raises ValueError: if no byte of the range is there
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found[0] == "bytes=-" or max(map(len, found.groups())) > _MOST_DIGITS:
        return None
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise ValueError("no byte of this range is there")
    return start, end


def pieces(place: Place, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a range, in bounded memory; a file that has become shorter ends early."""
    at = start
    while at < end:
        piece = place.read(at, min(_PIECE, end - at))
        if not piece:
            return
        at += len(piece)
        yield piece
