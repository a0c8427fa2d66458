"""Outputs of predictions: arbitrary JSON, usually one URL or a list of URLs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow_vace.inputs import literal
from airflow_vace.redaction import digested, is_data, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Real outputs are two levels deep; a hostile one must not exhaust the stack.
_MAX_DEPTH = 8
# Signed URLs have up to some kilobytes, and a list of them some more. Events and XCom live in database rows,
# so a larger output stays out of the payload.
MAX_TEXT_LENGTH = 8192
_MAX_PAYLOAD_OUTPUT_LENGTH = 65536
# Signatures are much longer than their addresses; a larger output is too large without them, too.
_MAX_SIGNED_OUTPUT_LENGTH = 32 * _MAX_PAYLOAD_OUTPUT_LENGTH
# A list of addresses in a text is shorter; the reader of Python's notation needs much memory for long texts.
_MAX_LIST_LENGTH = 1024 * 1024

# A sentence that begins with "Data:" is no address.
_DATA_URL = re.compile(r"data:(?:[\w.+-]+/[\w.+-]+)?\s{0,20}(?:;[^,;]{0,200}){0,20},", re.IGNORECASE)
_HTTP_URL = re.compile(r"https?://\S[^\r\n]*", re.IGNORECASE)
# Some gateways join several addresses by commas or line ends.
_BETWEEN_URLS = re.compile(r"[\s,]+(?=https?://)", re.IGNORECASE)
# `/files/a.mp4`, `//host/a.mp4` and `./a.mp4`, but neither `/imagine a fox` nor `/help`.
_ROOTED = re.compile(r"(?=.{1,2000}$)(?://[^\s/]+/|\.{0,2}/)(?:[^\s/.]*[/.]\S+|\.?[^\s/.]\S*\.\w{2,5}$)")
_FILE_NAME = re.compile(
    r"(?=.{1,1000}$)[^\s:?#][^\r\n\t?#]*\.(?:mp4|m4v|mov|webm|mkv|avi|gif|png|jpe?g|webp|avif|heic|wav|mp3|flac"
    r"|ogg|m4a|zip|glb|gltf|obj|ply|pdf|srt|vtt|npz|safetensors|tar\.gz)(?:[?#]\S*)?",
    re.IGNORECASE,
)

# A language model, or a gateway of chats, writes an address as a Markdown link, in quotes or in brackets.
_WRAPPED = re.compile(
    r"(?:!?\[[^\[\]]{0,200}\]\(|[<\"'`(]{1,3})(https?://[^\s<>\"'`]{1,8000}?)[>\"'`)]{0,3}[.,]?",
    re.IGNORECASE,
)
_OPENINGS = ("[", "{", "(", "<", "!", '"', "'", "`")
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
# `files/a b.mp4`, but no sentence that ends with a file's name.
_FOLDER = re.compile(r"[\w.-]+/\S")

_Form = Literal["absolute", "rooted", "name"]


@dataclass(frozen=True, slots=True)
class _Address:
    """One address in an output; `is_item` is True in a list that holds nothing but addresses."""

    text: str
    form: _Form
    is_item: bool


def urls_in(output: object) -> list[str]:
    """Return the addresses of files in an output, in order: http, https, data, or relative to the server.

    An address may stand in a list or an object, also as JSON text. A relative address counts as an item of a
    list of addresses, and in an output without absolute addresses: an object often names its file once more.
    """
    found = list(_addresses_in(output))
    forms = {address.form for address in found}
    best = next((form for form in ("absolute", "rooted", "name") if form in forms), None)
    return [address.text for address in found if address.form == best or address.is_item]


def _addresses_in(output: object, depth: int = 0, *, is_item: bool = False) -> Iterator[_Address]:
    if isinstance(output, str):
        found = _addresses_of(output)
        inner = _container_in(output) if not found and depth < _MAX_DEPTH else None
        yield from (_Address(text, form, is_item) for text, form in found)
        if isinstance(inner, str):
            yield from _addresses_in(inner, depth + 1)
        output = inner
    if depth >= _MAX_DEPTH or not isinstance(output, list | dict):
        return
    texts = [item for item in _items_of(output) if isinstance(item, str) and item.strip()]
    is_list = isinstance(output, list) and all(map(_addresses_of, texts))
    for item in _items_of(output):
        # A model of language returns a list of words, among which a file's name is no address.
        if isinstance(output, dict) or is_list or not _is_relative(item):
            yield from _addresses_in(item, depth + 1, is_item=is_list)


def _addresses_of(text: str) -> list[tuple[str, _Form]]:
    """Return the addresses that a text consists of, each with its form; [] for other text."""
    text = _bare(text)
    if _DATA_URL.match(text):
        return [(text, "absolute")]
    if text[:8].lower().startswith(("http://", "https://")):
        urls = _BETWEEN_URLS.split(text)
        return [(url, "absolute") for url in urls] if all(map(_HTTP_URL.fullmatch, urls)) else []
    if text.startswith(("/", "./", "../")):
        # Text such as "// see a.mp4" is a comment.
        is_file = _ROOTED.fullmatch(text) or (text[2:3].strip() and _FILE_NAME.fullmatch(text))
        return [(text, "rooted")] if is_file else []
    # A list as text may end like a name: `["https://a/b.mp4?signature"]`.
    if text.startswith(_OPENINGS):
        return []
    is_name = (" " not in text or _FOLDER.match(text)) and _FILE_NAME.fullmatch(text)
    return [(text, "name")] if is_name else []


def _bare(text: str) -> str:
    """Return a text without blanks and invisible characters around, and an address without its wrapping."""
    text = text.strip().strip(_INVISIBLE).strip()
    wrapped = _WRAPPED.fullmatch(text) if text.startswith(_OPENINGS) else None
    return wrapped[1] if wrapped else text


def _is_relative(item: object) -> bool:
    return isinstance(item, str) and any(form != "absolute" for _, form in _addresses_of(item))


def _container_in(text: str) -> object:
    """Return the list or object that a text holds as JSON, or as Python writes it; None for other text.

    A text in quotes is JSON in JSON, and yields its own list, object or `data:` URL.
    """
    text = _bare(text)
    if len(text) > _MAX_LIST_LENGTH or not text.startswith(("[", "{", "(", '"')):
        return None
    found = literal(text)
    if isinstance(found, tuple):
        return list(found)
    is_text = isinstance(found, str) and not found.lstrip().startswith(("[", "{", '"', "data:"))
    return None if is_text or found == text else found


def has_content(output: object, depth: int = 0) -> bool:
    """Return True if any part of an output is a non-empty value.

    :param depth: nesting of this part of the output
    """
    if isinstance(output, list | dict) and depth < _MAX_DEPTH:
        return any(has_content(item, depth + 1) for item in _items_of(output))
    return output is not None and output not in ("", [], {})


def rest_of(output: Any, depth: int = 0) -> Any:
    """Return an output whose addresses have lost signatures and content."""
    if isinstance(output, str) and _addresses_of(output):
        return unsigned(digested(_bare(output)))
    if depth >= _MAX_DEPTH or not isinstance(output, list | dict):
        return output
    if isinstance(output, list):
        return [rest_of(item, depth + 1) for item in output]
    return {name: rest_of(item, depth + 1) for name, item in output.items()}


def length_beside_urls(output: Any, depth: int = 0) -> int:
    """Return the number of characters in an output that belong to no address."""
    if depth < _MAX_DEPTH and isinstance(output, list | dict):
        return sum(length_beside_urls(item, depth + 1) for item in _items_of(output))
    is_address = isinstance(output, str) and bool(_addresses_of(output))
    return 0 if is_address else len(json.dumps(output))


def public_output(output: Any) -> Any:
    """Return an output for events and XCom, its URLs without secrets.

    None stands for an output with a `data:` URL, with deep nesting, with more than 64 KiB, or with keys that
    are equal without their signatures: a partial output would look complete.
    """
    # The redaction of a million addresses would hold up a triggerer for seconds.
    if not isinstance(output, str) and _is_longer_than(_MAX_SIGNED_OUTPUT_LENGTH, output):
        return None
    try:
        public = _without_secrets(output)
    except _LossyError:
        return None
    is_short_text = isinstance(public, str) and len(public) <= MAX_TEXT_LENGTH
    return public if is_short_text or len(json.dumps(public)) <= _MAX_PAYLOAD_OUTPUT_LENGTH else None


def _is_longer_than(limit: int, output: object) -> bool:
    """Return True if the texts and items of an output together have more characters than a limit."""
    length, rest = 0, [output]
    while rest and length <= limit:
        item = rest.pop()
        length += len(item) if isinstance(item, str) else 1
        if isinstance(item, dict):
            rest += item.keys()
        rest += _items_of(item)
    return length > limit


class _LossyError(Exception):
    """Raised inside this module if redaction would lose a part of the output."""


def _without_secrets(output: Any, depth: int = 0) -> Any:
    if isinstance(output, str):
        if is_data(output) or any(map(is_data, urls_in(output))):
            raise _LossyError
        return unsigned(output)
    if not isinstance(output, list | dict):
        return output
    if depth >= _MAX_DEPTH:
        raise _LossyError
    if isinstance(output, list):
        return [_without_secrets(item, depth + 1) for item in output]
    public = {_without_secrets(str(key)): _without_secrets(item, depth + 1) for key, item in output.items()}
    if len(public) < len(output):
        raise _LossyError
    return public


def _items_of(output: object) -> Iterable[object]:
    if isinstance(output, dict):
        return output.values()
    return output if isinstance(output, list) else ()
