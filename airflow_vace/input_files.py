"""Files in inputs: URLs that the back-end fetches, and paths that must be uploaded first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_vace.exceptions import VaceInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Media types of the inputs that are files.
FILE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "src_video": ("video",),
    "src_mask": ("video", "image"),
    "src_ref_images": ("image",),
}

_PATH = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*://\S.*", re.IGNORECASE)
# The schemes of Airflow's and fsspec's stores that a vendor cannot open. An unknown scheme may be an address
# that another model understands, such as `hf://`, so it stays text.
_STORES = frozenset(
    {
        *(
            "s3",
            "s3a",
            "s3n",
            "gs",
            "gcs",
            "az",
            "abfs",
            "abfss",
            "adl",
            "wasb",
            "wasbs",
            "azure",
            "oss",
            "obs",
        ),
        *("cos", "cosn", "tos", "tosfs", "oci", "ocilake", "b2", "r2", "minio", "swift", "lakefs", "dbfs"),
        *("hdfs", "webhdfs", "arrow_hdfs", "sftp", "ssh", "scp", "smb", "webdav", "gdrive", "dropbox", "box"),
        *("memory", "file", "local", "asynclocal", "dir", "zip", "tar", "reference", "libarchive"),
        *("filecache", "blockcache", "simplecache", "cached"),
    }
)
_STORE = re.compile(r"(?:[a-z0-9]{1,20}::)*([a-z][a-z0-9+._-]{0,30})://\S.*|file:/.*", re.IGNORECASE)
_INNER_STORE = re.compile(
    r"(?<![\w+.-])([a-z][a-z0-9+._-]{0,30})://([^\s/@\"'<>]{1,200}@)?[^\s\"'<>/]+", re.IGNORECASE
)
_MEDIA_PATH = re.compile(
    r"/\S*[^\s/]\.(?:mp4|m4v|mov|webm|mkv|avi|gif|png|jpe?g|webp|avif|heic|bmp|tiff?|wav|mp3|flac|ogg|m4a)",
    re.IGNORECASE,
)
# PATH_MAX of Linux, and a longer text is a prompt.
_MAX_PATH_LENGTH = 4096
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


def plain_paths(value: Any, name: str = "input") -> Any:
    """Return a value with the text of each path object, in any nesting of lists, tuples and objects.

    :param name: name of the input, for errors
    :raises VaceInputError: for a path object of a local file that is not absolute
    """
    if isinstance(value, Mapping):
        return {key: plain_paths(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_paths(item, f"{name}[{index}]") for index, item in enumerate(value)]
    text = None if isinstance(value, str) else path_text(value)
    if text is None:
        return value
    if isinstance(value, PurePath) and not value.is_absolute():
        raise VaceInputError(
            f"Input {name!r} is the path {text[:200]!r}, which is not absolute; give an absolute path."
            " Nothing was sent, nothing is billed.",
            field=name,
            value=value,
            remedy="give an absolute path",
        )
    return text


def paths_in(
    values: Mapping[str, Any], *, anywhere: bool = False, is_file: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[str, str]]:
    """Yield field and path of each file to upload.

    The field of a nested path has the form `scene.images[0]`.

    :param values: normalised input
    :param anywhere: search all inputs of another model, by :func:`names_file`, instead of VACE's three fields
    :param is_file: returns True for the path of an existing local file
    """
    if anywhere:
        yield from ((name, text) for name, text in all_texts_in(values) if names_file(text, is_file))
        return
    for name in FILE_FIELDS:
        value = values.get(name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and is_path(item):
                yield name, item


def names_file(text: str, is_file: Callable[[str], bool] = lambda _: False) -> bool:
    """Return True if a text in an input of any model is the path of a file, rather than text.

    A path is the address of a store, a `file:` address, the absolute path of an existing file, or an absolute
    path without blanks and with the suffix of a video, an image or a sound.
    """
    text = text.strip()
    if len(text) > _MAX_PATH_LENGTH or "\n" in text:
        return False
    if match := _STORE.fullmatch(text):
        return match[1] is None or _is_store(match[1])
    return text.startswith("/") and (_MEDIA_PATH.fullmatch(text) is not None or is_file(text))


def store_address_in(text: str) -> str | None:
    """Return a store's address inside a longer text that must not leave, None without one.

    An address with the name of a connection must not leave, and a list of addresses as text is a mistake.
    """
    is_list = text.lstrip().startswith(("[", "{"))
    for match in _INNER_STORE.finditer(text):
        if _is_store(match[1]) and (is_list or match[2]):
            return match[0]
    return None


def all_texts_in(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield field and text of each text in an input, in any nesting."""
    for name, value in values.items():
        yield from _texts_in(value, str(name))


def _texts_in(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_in(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts_in(item, f"{name}[{index}]")


def _is_store(scheme: str) -> bool:
    return scheme.lower() in _STORES
