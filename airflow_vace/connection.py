"""What a connection of type `vace` says, read and checked once for both clients."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from airflow_vace.api import Api
from airflow_vace.exceptions import VaceInputError, excerpt
from airflow_vace.inputs import DEFAULT_MODEL

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_vace.api import Request

DEFAULT_TIMEOUT = 30.0
_LONGEST_CONNECT = 10.0
# A back-end may take ten seconds to cancel.
LONGEST_CANCEL = 15.0
# It may store 100 MB before it answers.
_SHORTEST_UPLOAD = 120.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A connection's fields; shown without the key.

    `timeout` is in seconds, for one request; `input_roots` are the local directories that inputs may be
    read from.
    """

    api: Api
    model: str
    version: str | None
    timeout: float
    verify: bool | str
    proxies: dict[str, str] = field(repr=False)
    cert: str | tuple[str, str] | None
    input_roots: tuple[str, ...] = ()

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
        )

    def for_request(self, request: Request) -> Settings:
        """Return the same with another time-out for a cancel, which nobody can wait for, and an upload."""
        match request.verb:
            case "cancel":
                return replace(self, timeout=min(self.timeout, LONGEST_CANCEL))
            case "upload":
                return replace(self, timeout=max(self.timeout, _SHORTEST_UPLOAD))
        return self

    @property
    def connect_timeout(self) -> float:
        return min(self.timeout, _LONGEST_CONNECT)

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL: the connection's, else the environment's, as requests does."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if self.proxies:
            return self.proxies.get(parts.scheme) or self.proxies.get("all")
        if proxy_bypass(host):
            return None
        return getproxies().get(parts.scheme) or getproxies().get("all")

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Return what requests would trust and show, for aiohttp; it reads files, so call it in a thread."""
        if self.verify is False and not self.cert:
            return False
        where = self.verify or True
        if where is True:
            environment = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            where = environment or DEFAULT_CA_BUNDLE_PATH
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
        return {"http": value, "https": value}
    if isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
        return {str(scheme): proxy for scheme, proxy in value.items()}
    raise _bad_extra("proxies", "***", "an object such as {'https': 'http://proxy:3128'}")


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
