"""Origins of URLs: the API key may travel to the connection's own origin only."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urljoin, urlsplit

from airflow_vace.exceptions import VaceInputError
from airflow_vace.redaction import excerpt

# Without blanks, controls and backslashes: two URL parsers may read different hosts from the same text, so
# the key could go to a foreign host.
_PLAIN = re.compile(r"[!-\[\]-~]+")
_NOT_PLAIN = re.compile(r"[^!-\[\]-~]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HTTP = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?")
# User and password of RFC 3986, section 3.2.1; a second `@` or a slash would be ambiguous.
_USER_INFO = re.compile(
    r"(https?://)([\w.~%!$&'()*+,;=:-]{1,1000})@(?=[\w\[][^@/?#]*(?:[/?#]|\Z))", re.IGNORECASE | re.ASCII
)


def is_http(url: str) -> bool:
    """Return True if a URL is an unambiguous http(s) address without user info."""
    return _origin_of(url) is not None


def own_url(base_url: str, url: str) -> str | None:
    """Return a URL, rebuilt from its parts, if its origin is the one of `base_url`; else None.

    An origin is scheme, host and port.
    """
    origin = _origin_of(url)
    if origin is None or origin != _origin_of(base_url):
        return None
    base, parts = urlsplit(base_url), urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{base.scheme}://{base.netloc}{parts.path or '/'}{query}"


def own_page(base_url: str, list_url: str, url: str) -> str | None:
    """Return the address of a further page at the origin of `base_url`; None without a cursor.

    Behind a proxy a server may name another scheme, port or host. Only the cursor of such an address counts,
    so the request with the key goes to the own list.

    :param list_url: address of the first page
    :param url: the server's address of the page, absolute or relative
    """
    try:
        absolute = urljoin(base_url, url)
        cursor = urlsplit(absolute).query
    except ValueError:
        return None
    return own_url(base_url, absolute) or (f"{list_url}?{cursor}" if cursor else None)


def address_of(base: str, reference: str) -> str:
    """Return the address of a file in ASCII, joined to `base` if relative.

    Blanks around the address are removed. Behind the host, blanks, controls and letters of other scripts are
    percent-encoded; a host in another script becomes Punycode. An ambiguous host stays as it is, and
    :func:`is_http` refuses the address.

    :param base: absolute address; a directory ends with a slash
    :param reference: absolute or relative address, as a server writes it
    """
    text = reference.strip()
    if not _HTTP.fullmatch(text):
        try:
            text = urljoin(base, text)
        except ValueError:
            return text
    match = _HTTP.fullmatch(text)
    if match is None:
        return text
    scheme, host, rest = match.groups()
    # Without this step `50%.mp4` beside `%20` would be encoded twice by the HTTP library.
    rest = _STRAY_PERCENT.sub("%25", rest)
    rest = _NOT_PLAIN.sub(lambda letter: quote(letter[0], safe="", errors="replace"), rest)
    return f"{scheme.lower()}://{_ascii_host(host)}{rest}"


def without_user(url: str) -> tuple[str, str | None]:
    """Return a URL without user info, and the user info, percent-decoded; None without one."""
    match = _USER_INFO.match(url)
    return (url, None) if match is None else (match[1] + url[match.end() :], unquote(match[2]))


def header_text(value: str) -> str:
    """Return the text of a header, whose bytes `http.client` decodes as Latin-1.

    Servers send UTF-8 in `Location`. Bytes of another encoding are percent-encoded as they are.
    """
    try:
        raw = value.encode("latin-1")
    except UnicodeError:
        return value
    try:
        return raw.decode()
    except UnicodeError:
        return "".join(letter if letter.isascii() else f"%{ord(letter):02X}" for letter in value)


def _ascii_host(host: str) -> str:
    if host.isascii():
        return host
    name, colon, port = host.partition(":")
    try:
        known = name.encode("idna").decode() + colon + port
    except UnicodeError:
        return host
    return known if _HOST.fullmatch(known) else host


def check_base_url(base_url: str) -> str:
    """Return the host of a connection's address.

    :raises VaceInputError: for an address other than http(s), host, optional port and optional path
    """
    origin = _origin_of(base_url)
    if origin is None or urlsplit(base_url).query or urlsplit(base_url).fragment:
        if not base_url:
            raise VaceInputError(
                "The connection has no host: put the server's base URL into the field Host, such as"
                " https://api.replicate.com or https://gateway.example. Nothing was sent.",
                field="host",
                value="",
                remedy="give the server's base URL",
            )
        raise VaceInputError(
            f"The connection's host is no usable address: {excerpt(base_url)!r}. Give the server's base URL"
            " without blanks, with http:// or https://, and a port of at most 65535, such as"
            " https://api.replicate.com or https://gateway.example:8443. Nothing was sent.",
            field="host",
            value=excerpt(base_url),
            remedy="give the server's base URL",
        )
    return origin[1]


def _origin_of(url: str) -> tuple[str, str, int] | None:
    if not _PLAIN.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)
