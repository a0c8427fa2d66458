"""What opens a URL: found, so that it can be masked, and left out, so that the rest can be kept."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from airflow_vace.exceptions import without_signatures

# No scheme is longer; an open end would cost quadratic time in a text of a megabyte.
_SCHEME = r"[a-z][a-z0-9+.-]{0,30}://"
_URL = re.compile(rf"\s*{_SCHEME}", re.IGNORECASE)
_INNER = re.compile(rf"(?<=/){_SCHEME}.*", re.IGNORECASE | re.DOTALL)
_URLS = re.compile(rf"{_SCHEME}[^\s\"'<>\\]+", re.IGNORECASE)
_OPENING = re.compile(r"[?#]")
_PARTS = re.compile(r"[&;?#]")
# URLs within URLs.
_DEEPEST = 4
_DATA = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w=.+-]+)*,\S", re.IGNORECASE)
# As HTTP clients write a URL again that was not written as it should be.
_KEPT_BY_CLIENTS = "!#$&'()*+,/:;=?@[]~"


def unsigned(text: str) -> str:
    """Return a URL without user info, query and fragment, and `?…` at its end if it had one of them.

    Text that is no URL keeps its words; URLs in it are shortened.
    """
    if not _URL.match(text):
        return without_signatures(text)
    head, *opening = _OPENING.split(text, maxsplit=1)
    scheme, _, rest = head.partition("://")
    bare = without_signatures(f"{scheme}://{_without_user(rest)}")
    return f"{bare}?…" if opening or bare != head else text


def is_shortened(text: str) -> bool:
    """Return True if :func:`unsigned` has left something out of this URL."""
    return text.endswith("?…")


def digested(text: str) -> str:
    """Return a `data:` URL with a SHA-256 digest in place of its content; other text as it is."""
    if not _DATA.match(text):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{text[:100].partition(',')[0].partition(';')[0]};sha256={digest}"


def without_data(value: Any) -> Any:
    """Return a JSON value with digests in place of its `data:` URLs, which may be a hundred megabytes."""
    if isinstance(value, dict):
        return {key: without_data(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_data(item) for item in value]
    return digested(value) if isinstance(value, str) else value


def secrets_in(text: str, depth: int = 0) -> set[str]:
    """Return what opens the URLs in a text: passwords, and values of queries and fragments.

    Each is returned as it is written, percent-decoded, and encoded again as clients do.
    """
    urls = set(_URLS.findall(text))
    if _URL.match(text):
        urls.add(text.strip())  # a URL with a space or a quote in it is one all the same
    return {form for url in urls for secret in _secrets_of(url, depth) for form in _forms_of(secret)} - {""}


def _secrets_of(url: str, depth: int) -> list[str]:
    head, *opening = _OPENING.split(url, maxsplit=1)
    scheme, _, rest = head.partition("://")
    user = rest[: len(rest) - len(_without_user(rest))].removesuffix("@")
    _, has_password, password = user.partition(":")
    found: list[str] = []
    if has_password:
        found = [user, password]
    elif scheme.lower() in ("http", "https"):  # in a store's path this is the name of a connection
        found = [user]
    inner = _INNER.search(rest) if depth < _DEEPEST else None
    if inner:  # a URL in the path of another
        found += secrets_in(inner[0], depth + 1)
    for part in _PARTS.split(opening[0], maxsplit=500) if opening else ():
        name, has_value, value = part.partition("=")
        secret = value if has_value else name
        found += [secret, *_pieces_of(secret)]
        if depth < _DEEPEST and _URL.match(asked := unquote(secret)):
            found += secrets_in(asked, depth + 1)
    return found


def _pieces_of(value: str) -> list[str]:
    """Return the values in a CDN's token, such as `exp=1~acl=/*~hmac=…`."""
    pieces = [*value.split("~"), *unquote(value).split("~")] if "~" in unquote(value) else []
    return [piece.partition("=")[2] or piece for piece in pieces]


def _forms_of(secret: str) -> set[str]:
    plain = unquote(secret)
    return {
        secret,
        plain,
        unquote_plus(secret),
        quote(plain, safe=""),
        quote(plain, safe=_KEPT_BY_CLIENTS),
    }


def _without_user(rest: str) -> str:
    """Return what stands behind the user info; a password may hold a slash that nobody has encoded."""
    host, slash, path = rest.partition("/")
    if "@" in host:
        return host.rpartition("@")[2] + slash + path
    _, has_port, port = host.rpartition(":")
    is_user = has_port and not port.endswith("]") and not port.isdigit() and port
    return rest.rpartition("@")[2] if is_user and "@" in path else rest
