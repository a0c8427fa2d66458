"""Base URLs of connections, in the forms in which people paste them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import urlsplit

import idna

from airflow_vace.core.backends import BACKENDS, Backend, backend_of
from airflow_vace.core.credentials import INVISIBLE
from airflow_vace.core.origins import check_base_url
from airflow_vace.exceptions import VaceInputError
from airflow_vace.redaction import excerpt

_SCHEMES = ("http", "https")
# Also with a slash too few, since `https` would otherwise be the host.
_SCHEME = re.compile(r"(https?):(?:/+|(?=[a-z\[]))", re.IGNORECASE)
_AROUND = f"{INVISIBLE} \t\r\n'\"`<>\u2018\u2019\u201c\u201d,;"
# A call's address: https://replicate.com/docs/reference/http
_CALL = re.compile(r"(.*?/(?:v1|replicate))/(?:models(?:/([^/]+/[^/]+))?|predictions|files|account)(?:/.*)?")
# https://developers.cloudflare.com/ai-gateway/usage/providers/replicate/: this path replaces `/v1`.
_CLOUDFLARE = re.compile(r"(?:/.*)?/v1/[^/]+/[^/]+/replicate")
_CLOUDFLARE_HOST = "gateway.ai.cloudflare.com"
_CLOUDFLARE_GATEWAY = re.compile(r"(/v1/[^/]+/[^/]+)(?:/replicate(?:/v1)?)?")
_WEBSITES = {"replicate.com": "https://api.replicate.com", "www.replicate.com": "https://api.replicate.com"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of an API.

    :param base_url: scheme, host, optional port and optional path
    :param prefix: path between `base_url` and the back-end's paths
    """

    backend: Backend
    base_url: str
    prefix: str


def base_url_of(host: str | None, schema: str | None, port: int | None) -> str:
    """Return the base URL of a connection's fields; the scheme is https unless host or schema name another.

    The result may still be unusable, see :func:`place_of`.

    :param host: address with or without scheme, port and path; an IPv6 address with or without brackets
    :param schema: scheme, path, or both, as in a URI's `/http/path`; other words are ignored
    :param port: used if the host contains none
    """
    text = (host or "").strip(_AROUND)
    scheme, schema_path = _read_schema(schema)
    # The innermost scheme counts, since people paste an address behind a scheme that is there already.
    while match := _SCHEME.match(text):
        scheme, text = match[1].lower(), text[match.end() :].lstrip()
    text = text.strip("/")
    if not text or "://" in text:
        return text
    name, slash, path = text.partition("/")
    return f"{scheme}://{_read_host(name, port)}{slash}{path}{schema_path}"


def place_of(base_url: str, backend: str | None, prefix: str | None) -> Place:
    """Return the place of the API behind a base URL, without the API's own paths at its end.

    :param backend: name in `BACKENDS` (default: by host and path)
    :param prefix: path before all calls (default: the back-end's)
    :raises VaceInputError: for an unusable address
    """
    host = check_base_url(base_url)
    if host in _WEBSITES:
        raise VaceInputError(
            f"The connection's host is the website {host}; the API is at {_WEBSITES[host]}: put that into"
            " the host. Nothing was sent.",
            field="host",
            value=excerpt(base_url),
            remedy=f"give {_WEBSITES[host]}",
        )
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    if call := _CALL.fullmatch(path):
        path = call[1]
    if host == _CLOUDFLARE_HOST and (gateway := _CLOUDFLARE_GATEWAY.fullmatch(path)):
        # The dashboard shows the address without the provider.
        path = f"{gateway[1]}/replicate"
    is_cloudflare = _CLOUDFLARE.fullmatch(path) is not None
    chosen = _chosen_backend(backend, host, is_cloudflare=is_cloudflare)
    if prefix is None:
        prefix = "" if is_cloudflare and chosen.name == "replicate" else chosen.prefix
        path = _without_repeat(path, prefix)
    elif prefix.strip("/") and path.endswith(f"/{prefix.strip('/')}"):
        path = path.removesuffix(f"/{prefix.strip('/')}")
    prefix = prefix.strip("/")
    return Place(
        backend=chosen,
        base_url=f"{parts.scheme}://{parts.netloc}{path}",
        prefix=f"/{prefix}" if prefix else "",
    )


def model_in(base_url: str) -> str | None:
    """Return `owner/name` in the address of a model, None in another address."""
    call = _CALL.search(base_url)
    return call[2] if call else None


def _chosen_backend(name: str | None, host: str, *, is_cloudflare: bool) -> Backend:
    if name and name not in BACKENDS:
        raise VaceInputError(
            f"The connection's extra 'backend' is {excerpt(name)!r}; it must be {' or '.join(BACKENDS)}.",
            field="backend",
            value=name,
            remedy=f"one of {', '.join(BACKENDS)}, or leave it out",
        )
    return BACKENDS[name or ("replicate" if is_cloudflare else backend_of(host).name)]


def _without_repeat(path: str, prefix: str) -> str:
    """Return a path without the segments at its end that the prefix begins with."""
    # `/v1` alone is the base URL of most SDKs, and no gateway places `/replicate/v1` below.
    if path == "/v1":
        return ""
    given, wanted = path.split("/"), prefix.split("/")[1:]
    for count in range(len(wanted), 0, -1):
        if given[-count:] == wanted[:count]:
            return "/".join(given[:-count])
    return path


def _read_schema(schema: str | None) -> tuple[str, str]:
    """Return the scheme and the path in a connection's schema."""
    # A URI gives its path as `schema`; people also type other words there, so a path needs a slash.
    first, _, rest = (schema or "").strip().strip("/").partition("/")
    if first.lower() in _SCHEMES:
        return first.lower(), f"/{rest}" if rest else ""
    return "https", f"/{first}/{rest}" if rest else ""


def _read_host(name: str, port: int | None) -> str:
    """Return host and port in lower case and ASCII, an IPv6 address in brackets."""
    try:
        IPv6Address(name)
        name = f"[{name}]"
    except AddressValueError:
        name = name.rstrip(":.")
    if not name.isascii():
        bare, colon, tail = name.partition(":")
        try:
            # As browsers, requests and aiohttp do, so that the key goes to the host that a person sees.
            name = idna.encode(bare, uts46=True).decode() + colon + tail
        except idna.IDNAError:
            return name
    # A port in the host is the more specific choice.
    has_port = re.search(r":\d+$", name.rpartition("]")[2])
    return f"{name.lower()}:{port}" if port and not has_port else name.lower()
