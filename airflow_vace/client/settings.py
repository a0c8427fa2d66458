"""What a connection of type `vace` says, read and checked once for both clients."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from airflow_vace.core.requests import Api, Form
from airflow_vace.exceptions import VaceInputError, excerpt
from airflow_vace.inputs import DEFAULT_MODEL

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_vace.core.requests import Request

DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_OUTPUT_MB = 256.0
_LONGEST_CONNECT = 10.0
# A back-end may take ten seconds to cancel.
LONGEST_CANCEL = 15.0
# It may store 100 MB before it answers.
_SHORTEST_UPLOAD = 120.0
# Bytes a second: an upload that is slower than this over all is given up.
_SLOWEST_UPLOAD = 100_000.0
# As a proxy's address may be in both clients; a SOCKS proxy needs PySocks, and requests.
_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_PROXY_WITHOUT_SLASHES = re.compile(r"(?:https?|socks\w*):(?!//).*@", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A connection's fields; shown without the key.

    `timeout` is in seconds, for one request; `input_roots` are the local directories that inputs may be
    read from; `max_output_bytes` is the largest output that is saved.
    """

    api: Api
    model: str
    version: str | None
    timeout: float
    verify: bool | str
    proxies: dict[str, str] = field(repr=False)
    cert: str | tuple[str, str] | None
    input_roots: tuple[str, ...] = ()
    max_output_bytes: int = int(DEFAULT_MAX_OUTPUT_MB * 1e6)

    @classmethod
    def of(cls, connection: Connection, extra: Mapping[str, Any]) -> Settings:
        """Read a connection; its unset extras come as explicit nulls, those from a URI as text.

        :raises VaceInputError: for the first field that cannot work
        """
        if not isinstance(extra, Mapping):
            raise _bad_extra("extra", "***", "an object such as {}")
        backend = _text(extra, "backend")
        return cls(
            api=Api.at(
                _base_url(connection),
                connection.password,
                backend=backend.lower() if backend else None,
                prefix=_text(extra, "api_prefix"),
                lists=_flag(extra, "lists"),
            ),
            model=_text(extra, "model") or DEFAULT_MODEL,
            version=_text(extra, "version"),
            timeout=_timeout(extra.get("timeout")),
            verify=_verify(extra.get("verify")),
            proxies=_proxies(extra.get("proxies")),
            cert=_cert(extra.get("cert")),
            input_roots=_roots(extra.get("input_roots")),
            max_output_bytes=_max_output_bytes(extra.get("max_output_mb")),
        )

    def for_request(self, request: Request) -> Settings:
        """Return the same with another time-out for a cancel, which nobody can wait for, and an upload."""
        match request.verb:
            case "cancel":
                return replace(self, timeout=min(self.timeout, LONGEST_CANCEL))
            case "upload":
                return replace(self, timeout=max(self.timeout, _SHORTEST_UPLOAD))
        return self

    def time_for(self, request: Request) -> float:
        """Return the seconds that a whole request may take; a large file may take longer than `timeout`."""
        body = request.body
        return self.timeout + (len(body) / _SLOWEST_UPLOAD if isinstance(body, Form) else 0.0)

    @property
    def connect_timeout(self) -> float:
        return min(self.timeout, _LONGEST_CONNECT)

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL, with its scheme: the connection's, else the environment's.

        :raises VaceInputError: if the environment's is no address
        """
        said = select_proxy(url, self.proxies)
        if said is None:
            from_environment = select_proxy(url, get_environ_proxies(url))
            said = _checked_proxy(from_environment, "environment") if from_environment else None
        return said or None

    @property
    def trusted(self) -> bool | str:
        """The certificates to trust, as requests chooses them; False trusts every server."""
        if self.verify is not True:
            return self.verify
        return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Return what requests would trust and show, for aiohttp; it reads files, so call it in a thread."""
        if self.verify is False and not self.cert:
            return False
        where = self.trusted if isinstance(self.trusted, str) else DEFAULT_CA_BUNDLE_PATH
        shown = (self.cert,) if isinstance(self.cert, str) else self.cert or ()
        read_at = tuple(Path(path).stat().st_mtime_ns for path in (where, *shown))
        return _ssl_context(where, shown, is_checked=self.verify is not False, read_at=read_at)


@lru_cache(maxsize=16)
def _ssl_context(
    where: str, shown: tuple[str, ...], *, is_checked: bool, read_at: tuple[int, ...]
) -> ssl.SSLContext:
    """Read certificates, which takes tens of milliseconds: again only when their files have changed."""
    del read_at
    is_folder = Path(where).is_dir()
    context = ssl.create_default_context(
        cafile=None if is_folder else where, capath=where if is_folder else None
    )
    if not is_checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if shown:
        context.load_cert_chain(*shown)
    return context


def _base_url(connection: Connection) -> str:
    """Return the base URL; the scheme is https unless host or schema say otherwise."""
    host = (connection.host or "").strip().rstrip("/")
    if host and "://" not in host:
        scheme = (connection.schema or "https").strip().lower()
        host = f"{scheme if scheme in ('http', 'https') else 'https'}://{host}"
    if not connection.port:
        return host
    scheme, _, rest = host.partition("://")
    name, slash, path = rest.partition("/")
    with contextlib.suppress(ValueError):
        if urlsplit(host).port:
            return host
    return f"{scheme}://{name}:{connection.port}{slash}{path}"


def _text(extra: Mapping[str, Any], name: str) -> str | None:
    value = extra.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise _bad_extra(name, value, "text")
    return value.strip()


def _flag(extra: Mapping[str, Any], name: str) -> bool | None:
    value = extra.get(name)
    if value in (None, ""):
        return None
    word = str(value).strip().lower()
    if word not in ("true", "false"):
        raise _bad_extra(name, value, "true or false")
    return word == "true"


def _timeout(value: object) -> float:
    if value in (None, ""):
        return DEFAULT_TIMEOUT
    try:
        seconds = float(value) if isinstance(value, str | int | float) else -1.0
    except ValueError:
        seconds = -1.0
    if isinstance(value, bool) or not 0 < seconds < 86400:
        raise _bad_extra("timeout", value, "a number of seconds such as 30")
    return seconds


def _max_output_bytes(value: object) -> int:
    if value in (None, ""):
        value = DEFAULT_MAX_OUTPUT_MB
    try:
        megabytes = float(value) if isinstance(value, str | int | float) else -1.0
    except (ValueError, OverflowError):
        megabytes = -1.0
    if isinstance(value, bool) or not 0 < megabytes < math.inf:
        raise _bad_extra("max_output_mb", value, "a number of megabytes such as 256")
    return max(int(megabytes * 1e6), 1)


def _verify(value: object) -> bool | str:
    if value in (None, ""):
        return True
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        said = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
        if isinstance(said, bool) or Path(said).exists():
            return said
    raise _bad_extra("verify", value, "true, false or the path of a CA bundle that is there")


def _proxies(value: object) -> dict[str, str]:
    if value in (None, "", {}):
        return {}
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, str):
        value = {"http": value, "https": value}
    if isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
        return {str(scheme): _checked_proxy(proxy, "connection") for scheme, proxy in value.items()}
    raise _bad_extra("proxies", "***", "an object such as {'https': 'http://proxy:3128'}")


@lru_cache(maxsize=64)
def _checked_proxy(text: str, where: str) -> str:
    """Return the address of a proxy, with its scheme; an empty text means none.

    :raises VaceInputError: if it is no address, which is not shown: a password may be in it
    """
    proxy = text.strip()
    if not proxy:
        return ""
    if "://" not in proxy:
        proxy = f"http:{proxy}" if proxy.startswith("//") else f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        is_address = bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, is_address = urlsplit(""), False
    if (
        not is_address
        or parts.scheme not in _PROXY_SCHEMES
        or _PROXY_WITHOUT_SLASHES.match(text.strip())
        or not re.fullmatch(r"[!-~]+", proxy)
    ):
        remedy = "give it as http://host:3128, with user:password@ before the host if it asks for them"
        raise VaceInputError(
            f"The proxy that the {where} names is no address: {remedy}. Nothing was sent.",
            field="proxies",
            value="***",
            remedy=remedy,
        )
    if parts.scheme.startswith("socks") and find_spec("socks") is None:
        remedy = "pip install 'requests[socks]', or use an http proxy"
        raise VaceInputError(
            f"The proxy that the {where} names speaks SOCKS, for which a library is missing: {remedy}."
            " Nothing was sent.",
            field="proxies",
            value="***",
            remedy=remedy,
        )
    return proxy


def _cert(value: object) -> str | tuple[str, str] | None:
    if value in (None, "", []):
        return None
    paths = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if (
        isinstance(paths, list | tuple)
        and len(paths) in (1, 2)
        and all(isinstance(path, str) and Path(path).is_file() for path in paths)
    ):
        return paths[0] if len(paths) == 1 else (paths[0], paths[1])
    raise _bad_extra("cert", value, "the path of a file, or two with a comma between: certificate and key")


def _roots(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    roots = value or []
    if isinstance(roots, list) and all(isinstance(r, str) and Path(r).is_absolute() for r in roots):
        return tuple(roots)
    raise _bad_extra("input_roots", value, "a list of absolute directories, or text with commas between them")


def _bad_extra(name: str, value: object, wanted: str) -> VaceInputError:
    return VaceInputError(
        f"The connection's extra {name!r} is {excerpt(repr(value), 100)}; it must be {wanted}.",
        field=name,
        value=value,
        remedy=wanted,
    )
