"""Read and check the addresses of HTTP proxies."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from airflow_vace.client.extras import from_json, unusable
from airflow_vace.exceptions import VaceInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.client.extras import Extra

# SOCKS needs PySocks.
_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
# `http:user:password@host` parses as a path. A message about a missing host would show the password.
_SCHEME_WITHOUT_SLASHES = re.compile(r"(?:https?|socks\w*):(?!//).*@", re.IGNORECASE)
_VISIBLE_ASCII = re.compile(r"[!-~]+")


def read_proxies(extra: Extra, name: str) -> dict[str, str]:
    """Return checked proxies by scheme, or by scheme and host, as requests expects; empty if unset.

    The field holds an object, the JSON text of an object, or the address of a proxy for http and https.
    """
    value = extra.get(name)
    if value in (None, "", {}):
        return {}
    value = from_json(value)
    if isinstance(value, str):
        value = {"http": value, "https": value}
    if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return {str(scheme): _checked(proxy, "connection") for scheme, proxy in value.items()}
    # The value is hidden in the message, because a password may be in it.
    raise unusable(name, "***", "an object such as {'https': 'http://proxy:3128'}")


def proxy_for(url: str, proxies: Mapping[str, str]) -> str | None:
    """Return the proxy for a URL, with a scheme, or None.

    The connection's proxies take precedence over `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` of
    the environment; an empty text in the connection turns the environment's proxy off.

    :param proxies: of the connection, checked
    :raises VaceInputError: if the environment's proxy is unusable
    """
    chosen = select_proxy(url, dict(proxies))
    if chosen is None:
        from_environment = select_proxy(url, get_environ_proxies(url))
        chosen = _checked(from_environment, "environment") if from_environment else None
    return chosen or None


@lru_cache(maxsize=64)
def _checked(text: str, source: str) -> str:
    """Return the address of a proxy, with a scheme; empty for an empty text.

    :raises VaceInputError: if the address is unusable; the message hides the address with its password
    """
    proxy = text.strip()
    if not proxy:
        return ""
    if "://" not in proxy:
        proxy = f"http:{proxy}" if proxy.startswith("//") else f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        is_address = bool(parts.hostname) and parts.port != 0 and parts.scheme in _SCHEMES
    except ValueError:
        is_address = False
    if not is_address or _SCHEME_WITHOUT_SLASHES.match(text.strip()) or not _VISIBLE_ASCII.fullmatch(proxy):
        raise _unusable_proxy(
            f"The proxy of the {source} is not a valid address",
            "give it as http://host:3128, with user:password@ before the host if the proxy requires them",
        )
    if parts.scheme.startswith("socks") and find_spec("socks") is None:
        raise _unusable_proxy(
            f"The proxy of the {source} is a SOCKS proxy, and the library for SOCKS is not installed",
            "pip install 'requests[socks]', or use an http proxy",
        )
    return proxy


def _unusable_proxy(problem: str, remedy: str) -> VaceInputError:
    return VaceInputError(
        f"{problem}: {remedy}. Nothing was sent.", field="proxies", value="***", remedy=remedy
    )
