"""Files in inputs: URLs that the back-end fetches, and paths that must be uploaded first."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Media types of the inputs that are files.
FILE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "src_video": ("video",),
    "src_mask": ("video", "image"),
    "src_ref_images": ("image",),
}

_PATH = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*://\S.*", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[^,\s]*,\S", re.IGNORECASE)


def is_fetchable(url: str) -> bool:
    """Return True for an http(s) URL or a non-empty data: URL."""
    if _DATA_URL.match(url):
        return True
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", url)
    except ValueError:
        return False


def is_path(text: str) -> bool:
    """Return True for the path of a file, local or in an object store, rather than a URL."""
    return _PATH.fullmatch(text) is not None


def path_text(value: object) -> str | None:
    """Return the text of a path, None for other objects.

    A path object becomes a URL, for an object store with the id of the Airflow connection.

    :param value: text, :class:`pathlib.PurePath` or Airflow's `ObjectStoragePath`
    """
    if isinstance(value, str):
        return value.strip() or None
    protocol, conn_id = getattr(value, "protocol", None), getattr(value, "conn_id", None)
    # Only ObjectStoragePath has `protocol`; an import of Airflow for `isinstance` is too expensive here.
    if not isinstance(protocol, str):
        if not isinstance(value, PurePath):
            return None
        return f"file://{value}" if value.is_absolute() else str(value)
    text = str(value)
    if protocol in ("", "file", "local"):
        return f"file:///{text.removeprefix(f'{protocol}://').lstrip('/')}"
    scheme, _, rest = text.partition("://")
    # Some versions of UPath write a third slash for some stores.
    rest = rest.lstrip("/")
    has_id = "@" in rest.partition("/")[0]
    return f"{scheme}://{conn_id}@{rest}" if conn_id and not has_id else f"{scheme}://{rest}"


def paths_in(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield field and path of each file to upload.

    :param values: normalised input
    """
    for name in FILE_FIELDS:
        value = values.get(name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and is_path(item):
                yield name, item
