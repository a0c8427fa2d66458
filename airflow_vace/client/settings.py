"""The settings of a connection of type `vace`, read and checked once for both clients."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from airflow_vace.client.creates import creates_of
from airflow_vace.client.extras import (
    read_cert,
    read_directories,
    read_flag,
    read_headers,
    read_positive,
    read_text,
    read_verify,
    unusable,
    unusable_extra,
)
from airflow_vace.client.proxies import proxy_for, read_proxies
from airflow_vace.core.base_urls import base_url_of, model_in
from airflow_vace.core.multipart import Form
from airflow_vace.core.names import split_reference
from airflow_vace.core.requests import Api
from airflow_vace.core.timing import Timing
from airflow_vace.inputs import DEFAULT_MODEL

if TYPE_CHECKING:
    from airflow_vace.client.creates import Creates
    from airflow_vace.core.requests import Request

DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_OUTPUT_MB = 256.0
_SECONDS_PER_DAY = 86400.0
_BYTES_PER_MB = 1e6
# An upload with a lower average rate is given up.
_MIN_UPLOAD_BYTES_PER_SECOND = 100_000.0


class Connection(Protocol):
    """The fields read from Airflow's connection, so that this room needs no Airflow."""

    @property
    def host(self) -> str | None: ...
    @property
    def schema(self) -> str | None: ...
    @property
    def port(self) -> int | None: ...
    @property
    def password(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The checked fields of a connection; `repr` hides the keys and the proxies' passwords.

    :param api: addresses, keys and back-end
    :param model: `owner/name`
    :param version: id of a version; None for the server's choice
    :param timeout: seconds for a request and its response
    :param verify: True, False, or the path of a CA bundle
    :param proxies: by scheme, or scheme and host
    :param cert: path of a client certificate, or paths of certificate and key
    :param input_roots: absolute local directories with files for inputs
    :param max_output_bytes: size limit for a saved output
    :param prices: the table of prices as a person wrote it, None without one
    :param is_dry_run: True if no create may be sent
    :param timing: limits in seconds; set by the hook
    """

    api: Api
    model: str
    version: str | None
    timeout: float
    verify: bool | str
    proxies: dict[str, str] = field(repr=False)
    cert: str | tuple[str, str] | None
    input_roots: tuple[str, ...] = ()
    max_output_bytes: int = int(DEFAULT_MAX_OUTPUT_MB * _BYTES_PER_MB)
    is_dry_run: bool = False
    timing: Timing = field(default=Timing(), repr=False)
    # Read by the hook, so that a bad table ends no wait for a prediction that is paid already.
    prices: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, connection: Connection, extra: Mapping[str, Any], *, timing: Timing = Timing()) -> Settings:
        """Read a connection.

        :param extra: the connection's extra as an object
        :param timing: limits in seconds
        :raises VaceInputError: for the first unusable field; `field` is its name
        """
        # The extra is parsed JSON from a person, so it may be a list; hide the value, which may hold a key.
        if not isinstance(extra, Mapping):
            raise unusable_extra()
        backend = read_text(extra, "backend")
        base_url = base_url_of(connection.host, connection.schema, connection.port)
        model, version = _read_model(extra, base_url)
        return cls(
            api=Api.at(
                base_url,
                connection.password,
                backend=backend.lower() if backend else None,
                prefix=read_text(extra, "api_prefix"),
                lists=read_flag(extra, "lists"),
                headers=read_headers(extra, "headers"),
            ),
            model=model,
            version=version,
            timeout=read_positive(
                extra,
                "timeout",
                default=DEFAULT_TIMEOUT,
                below=_SECONDS_PER_DAY,
                wanted="a positive number of seconds, less than a day, such as 30",
            ),
            verify=read_verify(extra, "verify"),
            proxies=read_proxies(extra, "proxies"),
            cert=read_cert(extra, "cert"),
            input_roots=read_directories(extra, "input_roots"),
            max_output_bytes=_to_bytes(
                read_positive(
                    extra,
                    "max_output_mb",
                    default=DEFAULT_MAX_OUTPUT_MB,
                    wanted="a positive number of megabytes such as 256",
                )
            ),
            is_dry_run=bool(read_flag(extra, "dry_run")),
            timing=timing,
            prices=extra.get("prices"),
        )

    def for_request(self, request: Request) -> Settings:
        """Return the settings with the timeout for a request's verb."""
        match request.verb:
            case "cancel":
                # A killed task has only seconds left, and a back-end may take ten seconds to cancel.
                return replace(self, timeout=min(self.timeout, self.timing.max_cancel_seconds))
            case "upload":
                # A back-end may store 100 MB before it responds.
                return replace(self, timeout=max(self.timeout, self.timing.min_upload_seconds))
            case "create" | "get" | "list" | "file" | "model":
                return self
            case _:
                assert_never(request.verb)

    def time_for(self, request: Request) -> float:
        """Return the limit in seconds for a request and its response; an upload gets time for its size."""
        body = request.body
        return self.timeout + (len(body) / _MIN_UPLOAD_BYTES_PER_SECOND if isinstance(body, Form) else 0.0)

    @property
    def creates(self) -> Creates:
        """The budget of creates that all users of this account share in the process."""
        return creates_of(self.api, self.timing)

    @property
    def connect_timeout(self) -> float:
        """Seconds to connect to an address."""
        return min(self.timeout, self.timing.max_connect_seconds)

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL, with a scheme: the connection's, else the environment's, else None.

        :raises VaceInputError: if the environment's proxy is unusable
        """
        return proxy_for(url, self.proxies)

    @property
    def trusted(self) -> bool | str:
        """The CA bundle to trust, chosen as requests does: True for the default, False for no check."""
        if self.verify is not True:
            return self.verify
        return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Return the same trust and client certificate for aiohttp; call in a thread, since it reads files.

        :raises OSError: if a file cannot be read, including `ssl.SSLError` for an invalid certificate
        """
        if self.verify is False and not self.cert:
            return False
        # requests uses certifi, and Python the system's certificates: without this default, a server could be
        # trusted by workers and refused by the triggerer.
        bundle = self.trusted if isinstance(self.trusted, str) else DEFAULT_CA_BUNDLE_PATH
        client = (self.cert,) if isinstance(self.cert, str) else self.cert or ()
        changed_at = tuple(Path(path).stat().st_mtime_ns for path in (bundle, *client))
        return _ssl_context(bundle, client, is_checked=self.verify is not False, changed_at=changed_at)


@lru_cache(maxsize=16)
def _ssl_context(
    bundle: str, client: tuple[str, ...], *, is_checked: bool, changed_at: tuple[int, ...]
) -> ssl.SSLContext:
    """Load a CA bundle, a file or directory, and a client certificate.

    Loading takes tens of milliseconds, so contexts are cached until a file changes (`changed_at`).
    """
    del changed_at
    is_directory = Path(bundle).is_dir()
    context = ssl.create_default_context(
        cafile=None if is_directory else bundle, capath=bundle if is_directory else None
    )
    if not is_checked:
        # A client certificate needs a context even without verification.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client:
        context.load_cert_chain(*client)
    return context


def _to_bytes(megabytes: float) -> int:
    # A tiny positive number must not become 0, which would refuse every output.
    return max(int(megabytes * _BYTES_PER_MB), 1)


def _read_model(extra: Mapping[str, Any], base_url: str) -> tuple[str, str | None]:
    """Return the connection's model and version; a pasted address of a model names the model too."""
    model, version = split_reference(read_text(extra, "model"), read_text(extra, "version"))
    pasted = model_in(base_url)
    if model and pasted and model.lower() != pasted.lower():
        raise unusable("model", model, f"{pasted!r}, which the host names, or be left out")
    return model or pasted or DEFAULT_MODEL, version
