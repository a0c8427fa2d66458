"""Redaction: remove secrets from text, and list the secrets in a URL.

A secret is a password in a URL, a value in a query or fragment (signatures), or a file in a `data:` URL.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_plus

from airflow_vace.input_files import path_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Truncated text may lack the start of a URL, so the pattern begins behind the scheme's name.
_PLACE = re.compile(r"://[^\s\"'<>]*")
_QUERY_OR_FRAGMENT = re.compile(r"[?#]")
_SIGNATURE = re.compile(r"((?:signature|credential|token|sig)=)[^\s&\"'<>]+", re.IGNORECASE)
# User and password also occur without a scheme, but `mailto:me@example.com` is an address and
# `10:30@night` is a time: both stay readable.
_USER_INFO = (
    r"(?<![\w.%+-])(?!(?:mailto|sips?|xmpp|acct):[^:@]*@|\d{1,2}:\d{1,2}@)\w[\w.%+-]{0,200}"
    r":(?!//|\d{1,5}/)[^\s\"'<>]{1,200}@"
)
_CREDENTIALS = re.compile(_USER_INFO + r"(?=[\w\[])", re.IGNORECASE)
_CREDENTIALS_OF_PATH = re.compile(_USER_INFO + r"(?=[\w.-]{1,253}(?::\d{1,5})?/)", re.IGNORECASE)
# The query of an address without a scheme. A question mark in prose has no `name=value` behind it, so prose
# stays. The last path segment ends at each slash and dot, so that a long text takes linear time.
_SIGNED_PATH = re.compile(r"([/.][^\s\"'<>?#/.]*)[?#][^\s\"'<>?=]{1,200}=[^\s\"'<>]*")
# A path with a query, as urllib3 writes it in its errors.
_PARAMETER = re.compile(r"[?&][\w.~%-]{1,100}=")
_DATA = re.compile(r"(data:[\w.+/-]{0,100})[;,][^\s\"'<>]*", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w=.+-]+)*,\S", re.IGNORECASE)
# The name of an Airflow connection stands before a bucket, credentials stand before a web host.
_CONNECTION = re.compile(r"((?!https?:)[a-z][a-z0-9+.-]*://)([\w.-]+@)", re.IGNORECASE)
# Databases refuse NUL and lone surrogates, and bidirectional controls falsify a log line.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Real schemes are shorter; an unbounded one would cost quadratic time in a text of a megabyte.
_SCHEME = r"[a-z][a-z0-9+.-]{0,30}://"
_URL = re.compile(rf"\s*{_SCHEME}", re.IGNORECASE)
_INNER_URL = re.compile(rf"(?<=/){_SCHEME}.*", re.IGNORECASE | re.DOTALL)
_URLS = re.compile(rf"{_SCHEME}[^\s\"'<>\\]+", re.IGNORECASE)
_PARAMETER_ENDS = re.compile(r"[&;?#]")
_MAX_NESTED_URLS = 4
_MAX_PARAMETERS = 500
# HTTP clients leave these characters unencoded when they repair a URL.
_SAFE_IN_CLIENTS = "!#$&'()*+,/:;=?@[]~"


def excerpt(text: str, limit: int = 500) -> str:
    """Return a short form of a text that is safe to show.

    URLs lose their queries and passwords, `data:` URLs their content; unprintable characters become U+FFFD.

    :param limit: maximum number of characters
    """
    text = " ".join(text[: 50 * limit].split())
    text = _CREDENTIALS.sub("…@", without_signatures(_DATA.sub(r"\1;…", text)))
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def without_signatures(text: str) -> str:
    """Return a text whose URLs keep their place and lose passwords, queries and fragments."""
    text = _SIGNED_PATH.sub(r"\1?…", _PLACE.sub(_shorten_place, text))
    return _SIGNATURE.sub(r"\1…", _CREDENTIALS_OF_PATH.sub("…@", text))


def is_showable(text: str) -> bool:
    """Return True if an excerpt would hide no password and no signature."""
    return without_signatures(text) == text and not (_CREDENTIALS.search(text) or _PARAMETER.search(text))


def is_data(url: str) -> bool:
    """Return True if a URL contains the file (`data:`)."""
    return url.lstrip()[:5].lower() == "data:"


def unsigned(text: str) -> str:
    """Return a URL without user info, query and fragment; `?…` marks the removal.

    A text other than a URL keeps its words, and URLs inside are shortened.
    """
    if not _URL.match(text):
        return without_signatures(text)
    head, *opening = _QUERY_OR_FRAGMENT.split(text, maxsplit=1)
    scheme, _, rest = head.partition("://")
    bare = without_signatures(f"{scheme}://{_without_user(rest)}")
    return f"{bare}?…" if opening or bare != head else text


def public_text(value: object, limit: int) -> str | None:
    """Return a text as a payload may show it; None for other values, for `data:` URLs and beyond the limit.

    :param limit: maximum number of characters
    """
    if not isinstance(value, str) or not 0 < len(value) <= limit or is_data(value):
        return None
    return unsigned(value)


def public_texts(values: Mapping[str, object], limit: int) -> dict[str, str | None]:
    """Return :func:`public_text` of each value, by name."""
    return {name: public_text(value, limit) for name, value in values.items()}


def is_shortened(text: str) -> bool:
    """Return True if :func:`unsigned` removed a part of this URL."""
    return text.endswith("?…")


def digested(text: str) -> str:
    """Return a `data:` URL with a SHA-256 digest in place of its content; other text unchanged."""
    if not _DATA_URL.match(text):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{text[:100].partition(',')[0].partition(';')[0]};sha256={digest}"


def without_data(value: Any) -> Any:
    """Return a JSON value with digests in place of the content of `data:` URLs, which may be 100 MB."""
    if isinstance(value, dict):
        return {key: without_data(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_data(item) for item in value]
    return digested(value) if isinstance(value, str) else value


def without_secrets(value: Any, redact: Callable[[str, str | None], Any], name: str | None = None) -> Any:
    """Return a copy of an input without signatures, files and secrets, for permanent storage.

    A `data:` URL becomes its media type and a SHA-256; connection names in store paths stay.

    :param value: JSON value, path object, or containers of both
    :param redact: masks known secrets in a text, and any text under a secret name: Airflow's `redact`
    :param name: key of the value in its parent
    """
    if isinstance(value, dict):
        return {str(key): without_secrets(item, redact, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item, redact, name) for item in value]
    if not isinstance(value, str):
        return value if isinstance(value, int | float | None) else path_text(value) or str(value)
    if (short := digested(value)) is not value:
        return short
    if store := _CONNECTION.match(value):
        path = unsigned(store[1] + value[store.end() :])
        return redact(store[0] + path.removeprefix(store[1]), name)
    shown = unsigned(value)
    # Without user info an input's URL is still complete, so remove the mark that `unsigned` adds.
    return redact(shown if "?" in value or "#" in value else shown.removesuffix("?…"), name)


def secrets_in(text: str, depth: int = 0) -> set[str]:
    """Return all secrets in the URLs of a text, for log masking.

    Each secret is present as written, percent-decoded, and encoded again in the ways of HTTP clients.

    :param depth: nesting of the URL that this text comes from
    """
    urls = set(_URLS.findall(text))
    if _URL.match(text):
        # A URL may contain a blank or a quote, at which the pattern above stops.
        urls.add(text.strip())
    return {form for url in urls for secret in _secrets_of(url, depth) for form in _spellings(secret)} - {""}


def _shorten_place(place: re.Match[str]) -> str:
    """Shorten `://user:password@host/path?query` to its place; the path may contain another URL."""
    path, *query = _QUERY_OR_FRAGMENT.split(place[0], maxsplit=1)
    parts = (part.partition("/") for part in path.split("://"))
    bare = "://".join(host.rpartition("@")[2] + slash + rest for host, slash, rest in parts)
    return f"{bare}?…" if query else bare


def _secrets_of(url: str, depth: int) -> list[str]:
    head, *opening = _QUERY_OR_FRAGMENT.split(url, maxsplit=1)
    scheme, _, rest = head.partition("://")
    user = rest[: len(rest) - len(_without_user(rest))].removesuffix("@")
    _, has_password, password = user.partition(":")
    found: list[str] = []
    if has_password:
        found = [user, password]
    elif scheme.lower() in ("http", "https"):
        # Only here: in the path of an object store the user is the id of an Airflow connection.
        found = [user]
    inner = _INNER_URL.search(rest) if depth < _MAX_NESTED_URLS else None
    if inner:
        found += secrets_in(inner[0], depth + 1)
    for part in _PARAMETER_ENDS.split(opening[0], maxsplit=_MAX_PARAMETERS) if opening else ():
        name, has_value, value = part.partition("=")
        secret = value if has_value else name
        found += [secret, *_pieces_of(secret)]
        if depth < _MAX_NESTED_URLS and _URL.match(decoded := unquote(secret)):
            found += secrets_in(decoded, depth + 1)
    return found


def _pieces_of(value: str) -> list[str]:
    """Return the values in a CDN's token, such as `exp=1~acl=/*~hmac=…`."""
    pieces = [*value.split("~"), *unquote(value).split("~")] if "~" in unquote(value) else []
    return [piece.partition("=")[2] or piece for piece in pieces]


def _spellings(secret: str) -> set[str]:
    plain = unquote(secret)
    return {
        secret,
        plain,
        unquote_plus(secret),
        quote(plain, safe=""),
        quote(plain, safe=_SAFE_IN_CLIENTS),
    }


def _without_user(rest: str) -> str:
    """Return the part behind the user info; a password may contain an unencoded slash."""
    host, slash, path = rest.partition("/")
    if "@" in host:
        return host.rpartition("@")[2] + slash + path
    _, has_port, port = host.rpartition(":")
    # `host:word/…@…` cannot be a port, so the word starts a password with a slash.
    is_user = has_port and not port.endswith("]") and not port.isdigit() and port
    return rest.rpartition("@")[2] if is_user and "@" in path else rest
