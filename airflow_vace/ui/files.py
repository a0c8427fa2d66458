"""Saved files that the API server may send: videos below the deployment's roots, in byte ranges."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import unquote

from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.paths import place_of
from airflow_vace.storage.playable import type_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.storage.place import Place

_PIECE_BYTES = 2 * 1024 * 1024
# Python refuses to parse very long integers, and no file has more bytes than this many digits.
_MAX_DIGITS = 18
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CODED = re.compile(r"%(?:2e|2f|5c|25|00)", re.IGNORECASE)


def roots_of(text: str) -> list[str]:
    """Return the roots in a setting, which separates them by commas."""
    return [root.strip() for root in text.split(",") if root.strip()]


def place_below(roots: list[str], uri: object) -> Place | None:
    """Return the place of a saved file, None outside of all roots.

    The comparison resolves symbolic links of local files. Names in a store are plain text.

    :param roots: directories (`/data/clips/`, `file:///data/clips/`) and places in stores
        (`s3://aws_default@my-bucket/clips/`, read over the named connection)
    :param uri: the file's address from XCom, so any value is possible
    """
    if not _is_plain(uri):
        return None
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return _local_below(roots, rest)
    found = _store_below(roots, scheme, rest)
    return _opened(found[0]).below(*found[1]) if found else None


def is_below(roots: list[str], uri: object) -> bool:
    """Return True if a saved file is below one of the roots; no store is opened."""
    if not _is_plain(uri):
        return False
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return _local_below(roots, rest) is not None
    return _store_below(roots, scheme, rest) is not None


def _is_plain(uri: object) -> TypeGuard[str]:
    return isinstance(uri, str) and uri.isprintable() and "\\" not in uri and type_of(uri) is not None


def _store_below(roots: list[str], scheme: str, rest: str) -> tuple[str, list[str]] | None:
    """Return the matching root, and the path segments below this root."""
    # A store may decode an escape after the comparison, so escaped dots and slashes are refused.
    names = rest.split("/")
    if len(names) < 2 or not scheme or _CODED.search(rest) or not {"", ".", ".."}.isdisjoint(names):
        return None
    for root in roots:
        root_scheme, _, root_rest = root.partition("://")
        bucket, _, folder = root_rest.partition("/")
        # The address from XCom carries no connection id, so the root's one is ignored here.
        shown = [bucket.rpartition("@")[2], *filter(None, folder.split("/"))]
        below = names[len(shown) :]
        if scheme == root_scheme and names[: len(shown)] == shown and below:
            return root, below
    return None


def _opened(root: str) -> Place:
    return place_of(root if root.endswith("/") else f"{root}/", "[vace] video_roots")


def _local_below(roots: list[str], rest: str) -> Place | None:
    # Addresses are plain; earlier releases percent-encoded them once.
    paths = dict.fromkeys((rest, unquote(rest)))
    return next((found for path in paths if (found := _file_below(roots, path)) is not None), None)


def _file_below(roots: list[str], path: str) -> Place | None:
    if not path.startswith("/") or not path.isprintable() or "\\" in path or ".." in path.split("/"):
        return None
    try:
        # Resolve links first: a link below a root could otherwise lead to any file.
        true = Path(path).resolve(strict=True)
    except (OSError, RuntimeError):  # a missing file, or a circle of links
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
    """Return the requested range as `(start, end)`, with `end` excluded; None means the whole file.

    As RFC 9110 says, several ranges, unknown units and malformed ranges get the whole file.

    :param header: the request's header `Range`
    :param size: size of the file in bytes
    :raises ValueError: if the file has no byte of the range
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found[0] == "bytes=-" or max(map(len, found.groups())) > _MAX_DIGITS:
        return None
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise ValueError("The file has no byte of this range")
    return start, end


def pieces(place: Place, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a range in pieces of 2 MiB; a file that has become shorter ends early."""
    at = start
    while at < end:
        piece = place.read(at, min(_PIECE_BYTES, end - at))
        if not piece:
            return
        at += len(piece)
        yield piece
