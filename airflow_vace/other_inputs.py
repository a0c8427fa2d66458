"""Files in the inputs of models other than prunaai/vace-14b, whose fields are not known here.

A path may stand anywhere in the input, in any nesting, so its form decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceInputError
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The schemes of Airflow's and fsspec's stores that a vendor cannot open. An unknown scheme may be an address
# that another model understands, such as `hf://`, so it stays text.
_STORES = re.compile(
    r"s3[an]?|gs|gcs|az|abfss?|adl|wasbs?|azure|oss|obs|cosn?|tos|tosfs|oci|ocilake|b2|r2|minio|swift|lakefs|dbfs"
    r"|hdfs|webhdfs|arrow_hdfs|sftp|ssh|scp|smb|webdav|gdrive|dropbox|box|memory|file|(async)?local|dir|zip|tar"
    r"|reference|libarchive|(file|block|simple)cache|cached",
    re.IGNORECASE,
)
_STORE = re.compile(r"(?:[a-z0-9]{1,20}::)*([a-z][a-z0-9+._-]{0,30})://\S.*|file:/.*", re.IGNORECASE)
# `str(Path("s3://conn@bucket"))` has one slash.
_INNER_STORE = re.compile(
    r"(?<![\w+.-])([a-z][a-z0-9+._-]{0,30}):/{1,3}([^\s/@\"'<>]{1,200}@)?[^\s\"'<>/]+", re.IGNORECASE
)
_MEDIA_PATH = re.compile(
    r"(?:/|(?:~|\.{1,2}|/[^\s/]+)/.*)\S*[^\s/]\.(?:mp4|m4v|mov|webm|mkv|avi|gif|png|jpe?g|webp|avif|heic|bmp|tiff?|wav|mp3|flac|ogg|m4a)",
    re.IGNORECASE,
)
# PATH_MAX of Linux, and a longer text is a prompt.
_MAX_PATH_LENGTH = 4096


def paths_anywhere(
    values: Mapping[str, Any], is_file: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[str, str]]:
    """Yield field and path of each file to upload; the field of a nested path is like `scene.images[0]`.

    :param values: input, with text for path objects
    :param is_file: returns True for the path of an existing local file
    """
    yield from ((name, text) for name, text in _texts_in_all(values) if names_file(text, is_file))


def check_without_paths(values: Mapping[str, Any]) -> None:
    """Refuse paths, which only VacePredictionOperator brings to the back-end.

    :raises VaceInputError: with field, value and remedy
    """
    check_without_inner_paths(values)
    for name, text in paths_anywhere(values):
        raise _error(
            name,
            text,
            "is a path, which VacePredictionOperator brings to the back-end and a bare hook does not",
            "give an http(s) URL that the back-end can reach, or a data: URL for a small file",
        )


def check_without_inner_paths(values: Mapping[str, Any]) -> None:
    """Refuse the addresses of stores inside longer texts and in names, which nobody brings to the back-end.

    :raises VaceInputError: with field, value and remedy
    """
    for name in _names_in(values):
        _refuse_inner_path("input", name, store_address_in(name))
    for name, text in _texts_in_all(values):
        _refuse_inner_path(name, text, None if names_file(text) else store_address_in(text))


def check_texts(texts: Mapping[str, str]) -> None:
    """Refuse the address of a store with the id of a connection in a text such as a prompt.

    :param texts: text by the name of its field
    :raises VaceInputError: with field, value and remedy
    """
    for name, text in texts.items():
        _refuse_inner_path(name, text, store_address_in(text))


def _refuse_inner_path(name: str, text: str, address: str | None) -> None:
    if address is not None:
        where = "inside a longer text" if address != text.strip() else "in place of text"
        raise _error(
            name,
            address,
            f"has the address of a store {where}, which the back-end cannot open",
            "give the address alone, or a list of addresses instead of the text of a list",
        )


def names_file(text: str, is_file: Callable[[str], bool] = lambda _: False) -> bool:
    """Return True if a text in an input of any model is the path of a file, rather than text.

    A path is the address of a store, a `file:` address, the absolute path of an existing file, or a path with
    the suffix of a video, an image or a sound that begins with a directory without blanks, such as `/data/`,
    `~/` or `./`.
    """
    text = text.strip()
    if len(text) > _MAX_PATH_LENGTH or "\n" in text:
        return False
    if match := _STORE.fullmatch(text):
        return match[1] is None or _is_store(match[1])
    return _MEDIA_PATH.fullmatch(text) is not None or (text.startswith("/") and is_file(text))


def store_address_in(text: str) -> str | None:
    """Return a store's address inside a longer text that must not leave, None without one.

    An address with the name of a connection must not leave, and a list of addresses as text is a mistake.
    """
    is_list = text.lstrip().startswith(("[", "{"))
    for match in _INNER_STORE.finditer(text):
        if _is_store(match[1]) and (match[2] or (is_list and "://" in match[0])):
            return match[0]
    return None


def _names_in(value: Any) -> Iterator[str]:
    """Yield the names in all objects of an input."""
    if isinstance(value, Mapping):
        yield from map(str, value)
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        yield from _names_in(item)


def _texts_in_all(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
    return _STORES.fullmatch(scheme) is not None


def _error(name: str, text: str, problem: str, remedy: str) -> VaceInputError:
    return VaceInputError(
        f"Input {name!r} {problem}: got {excerpt(text, 200)!r}; {remedy}. Nothing was sent, nothing is"
        " billed.",
        field=name,
        value=text,
        remedy=remedy,
    )
