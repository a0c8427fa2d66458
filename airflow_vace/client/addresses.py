"""Check that a worker connects to public addresses, or to the connection's own host.

A response of the API names the URLs of outputs. Without this check, a manipulated response could make a
worker read from the network behind the firewall (server-side request forgery).
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from airflow_vace.client.settings import Settings
    from airflow_vace.core.requests import Request

# Prefixes whose last 32 bits are an IPv4 address: RFC 6052 (NAT64) and RFC 4291. A gateway connects to the
# IPv4 address, so the check must see that one.
_EMBEDDING_PREFIXES = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
# NAT64 inside a network, RFC 8215. Each network places the IPv4 address elsewhere, so refuse the prefix.
_LOCAL_NAT64_PREFIX = IPv6Network("64:ff9b:1::/48")


class NotPublicError(Exception):
    """Raised instead of connecting to a private address; `args[0]` is the address."""


def is_public(address: str) -> bool:
    """Return True if an IP address is a global unicast address.

    For an IPv6 address with an embedded IPv4 address, the embedded address decides.

    :param address: IPv4 or IPv6, with or without a zone (`%eth0`)
    :raises ValueError: for any other text
    """
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.is_site_local or found in _LOCAL_NAT64_PREFIX:
            return False
        found = _embedded_in(found) or found
    return found.is_global and not found.is_multicast


def _embedded_in(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address behind a translated, mapped or tunneled address, else None."""
    if any(address in prefix for prefix in _EMBEDDING_PREFIXES):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def addresses_of(host: str, port: int) -> tuple[str, ...]:
    """Return the IP addresses of a host, without duplicates, in the resolver's order.

    :raises OSError: if the name does not resolve
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        # The IDNA codec rejects some names with a ValueError; callers expect a failed lookup.
        raise socket.gaierror(str(error)) from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def private_address_of(url: str, *, resolve: bool = True) -> str | None:
    """Return the first private address of a URL's host, or None.

    :param resolve: look up a host name; with False, only a literal IP address counts
    :raises OSError: if the name does not resolve
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    found: tuple[str, ...]
    try:
        found = (str(ip_address(host)),)
    except ValueError:
        found = addresses_of(host, parts.port or 443) if resolve else ()
    return next((address for address in found if not is_public(address)), None)


def refuse_private(request: Request, settings: Settings) -> bool:
    """Refuse a URL with a private IP address, except at the connection's own host.

    The person who wrote the connection chose its host, so this host may be private.

    :return: True if the lookup of the host's name must yield public addresses only, see
        :func:`airflow_vace.client.blocking.streamed`; False behind a proxy, which does the lookup itself
    :raises VaceProtocolError: if the host is a private IP address
    """
    if settings.api.is_own_host(request.url):
        return False
    address = private_address_of(request.url, resolve=False)
    if address is not None:
        raise not_public(request.url, address)
    return settings.proxy_for(request.url) is None


def not_public(url: str, address: str) -> VaceProtocolError:
    """Return the error for an output at a private address."""
    return VaceProtocolError(
        f"The output at {excerpt(url)} is not fetched: its address {address} is not public."
        " Only the connection's own host may be in a private network."
    )
