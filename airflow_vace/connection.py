"""The connection of type `vace`: settings, clients, and the session of inherited HTTP calls."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.providers.http.hooks.http import HttpHook
from requests.auth import AuthBase

from airflow_vace.client.client import AsyncVaceClient, Surroundings, VaceClient, open_session
from airflow_vace.client.extras import from_json, misspelt_names, unusable_extra
from airflow_vace.client.failures import shown_cause
from airflow_vace.client.settings import Settings
from airflow_vace.core import calls
from airflow_vace.core.clock import Clock
from airflow_vace.core.credentials import secrets_of
from airflow_vace.core.pricing import Pricing
from airflow_vace.core.timing import Timing
from airflow_vace.core.versions import chosen
from airflow_vace.exceptions import VaceConnectionMissing, VaceInputError, VaceTransportError
from airflow_vace.inputs import normalize_input
from airflow_vace.observability.metrics import RequestMeter
from airflow_vace.redaction import secrets_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import requests

    from airflow_vace.core.requests import Api
    from airflow_vace.core.steps import Call

T = TypeVar("T")

# The types of connections with a host and a password, as people use them for HTTP APIs.
_USABLE_TYPES = ("vace", "http", "https", "generic")

_warned: set[str] = set()
_channel = threading.RLock()
_takes_turns = False


def let_threads_take_turns(is_needed: bool) -> None:  # noqa: FBT001 - the only parameter
    """Let the threads of this process send their requests to Airflow one after another, see below."""
    global _takes_turns  # noqa: PLW0603 - a process has one channel
    _takes_turns = is_needed


def _warn_once(log: Any, sentence: str) -> None:
    """Log a warning once in a process, since pollers read a connection again and again."""
    if sentence not in _warned:
        _warned.add(sentence)
        log.warning("%s", sentence)


def airflow_turn() -> contextlib.AbstractContextManager[Any]:
    """Return the context of a request to Airflow by one of several threads.

    `dag.test()` removes the channel during each request, so two requests at a time would lose the channel.
    Elsewhere Airflow itself lets requests follow one another.
    """
    return _channel if _takes_turns else contextlib.nullcontext()


class ConnectionHook(HttpHook):
    """Read a connection of type `vace` and run calls; base of :class:`airflow_vace.hooks.VaceHook`.

    The first call reads and keeps the connection. Awaitable calls share a session inside `async with`;
    otherwise each call opens and closes a session.
    """

    conn_name_attr = "vace_conn_id"
    default_conn_name = "vace_default"
    conn_type = "vace"
    hook_name = "VACE"
    # Clients, poller, tasks and storage take all durations from here, so a test scales them in one place.
    timing: ClassVar[Timing] = Timing()
    # Seconds since the epoch by this machine's clock, in one place so that tests can set another clock.
    wall_clock = staticmethod(time.time)

    def __init__(self, vace_conn_id: str = default_conn_name) -> None:
        super().__init__(method="GET", http_conn_id=vace_conn_id)
        self.vace_conn_id = vace_conn_id
        self.clock = Clock(tolerance=self.timing.clock_tolerance_seconds)
        self._known_settings: Settings | None = None
        self._known_pricing: Pricing | None = None
        self._misspelt: list[str] = []
        self._given_log: Any = None

    @property
    def log(self) -> Any:
        """The log of this hook, or the log that :meth:`fresh` was given."""
        return self._given_log or super().log

    def test_connection(self) -> tuple[bool, str]:
        """Check address and key by a request for an impossible prediction, at no cost, and the prices."""
        is_good, message = self._run(calls.probe())
        # The form has the connection in sight, and Airflow gives it a random id here.
        message = message.replace(_unusable(self.vace_conn_id), "")
        if is_good:
            try:
                _ = self.pricing
            except VaceInputError as error:
                return False, f"Not usable: {error}"
        return is_good, ". ".join([message, *self._misspelt])

    @property
    def settings(self) -> Settings:
        """The connection's fields, read once.

        :raises AirflowNotFoundException: if Airflow knows no such connection
        :raises VaceInputError: for the first field that cannot work
        :raises VaceTransportError: if the connection could not be read
        """
        if self._known_settings is None:
            with _named_lookup_errors(self.vace_conn_id):
                with airflow_turn():
                    connection = self.get_connection(self.vace_conn_id)
                extra = connection.extra_dejson
            self._known_settings = self._read_settings(connection, extra)
            self._misspelt = misspelt_names(extra)
            for sentence in self._misspelt:
                _warn_once(self.log, f"{self.vace_conn_id!r}: {sentence}")
        return self._known_settings

    async def asettings(self) -> Settings:
        """Await :attr:`settings`."""
        if self._known_settings is None:
            with _named_lookup_errors(self.vace_conn_id):
                connection = await get_async_connection(self.vace_conn_id, hook=self)
                extra = await get_async_extra_dejson(connection)
            self._known_settings = self._read_settings(connection, extra)
        return self._known_settings

    def _read_settings(self, connection: Any, extra: Any) -> Settings:
        settings = _settings_of(connection, extra, self.timing, self.vace_conn_id)
        # Airflow masks the password as stored, so the key without a line end would stay readable; and no
        # value of an extra whose name looks harmless.
        secrets = [
            secret
            for secret in secrets_of(settings.api.key, settings.api.headers)
            if secret != connection.password
        ]
        if secrets:
            from airflow.sdk.log import mask_secret

            for secret in secrets:
                with airflow_turn():
                    mask_secret(secret)
        return settings

    @property
    def pricing(self) -> Pricing:
        """The prices in the connection's extra `prices`, else in `[vace] prices`.

        :raises VaceInputError: for a table that is no table of prices
        """
        if self._known_pricing is None:
            table, place = self.settings.prices, "the connection's extra 'prices'"
            if not table:
                from airflow.providers.common.compat.sdk import conf

                table, place = conf.get("vace", "prices", fallback=""), "[vace] prices"
            self._known_pricing = Pricing.read(table, place)
        return self._known_pricing

    @property
    def lists_predictions(self) -> bool:
        """True if the back-end of the connection lists predictions."""
        return self.settings.api.backend.list is not None

    def resolved(
        self,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        *,
        model: str | None = None,
        version: str | None = None,
    ) -> tuple[dict[str, Any], str, str | None]:
        """Return input, model and version of a create, without sending.

        Files may be paths; :class:`~airflow_vace.storage.upload.InputFiles` makes URLs of paths.

        :raises VaceInputError: for an input that cannot work
        """
        model, version = chosen(model, version or None, self.settings)
        values, _ = normalize_input(input, model=model, paths=True)
        return values, model, version

    def fresh(self, settings: Settings | None = None, log: Any = None) -> Self:
        """Return a hook of the same connection with a new session, without another look-up.

        For signal handlers: the signal may have interrupted this hook during a request.

        :param settings: a later state of the connection (default: this hook's)
        :param log: receives the lines of the new hook (default: the hook's own log)
        """
        twin = type(self)(self.vace_conn_id)
        twin._given_log = log  # noqa: SLF001 - its own class
        twin._known_settings = settings or self._known_settings  # noqa: SLF001 - its own class
        twin.clock = self.clock
        return twin

    def get_conn(
        self,
        headers: dict[Any, Any] | None = None,
        extra_options: dict[str, Any] | None = None,
    ) -> requests.Session:
        """Return a session with the connection's TLS and proxies; requests to the own origin get the key.

        Inherited calls like `run` use this session, without redirects.

        :param headers: further headers
        :param extra_options: of `run`, such as `check_response`; the connection's extra says the rest
        """
        settings = self.settings
        # HttpHook would read these from the connection's fields, whose host may hold no scheme.
        self.base_url = settings.api.base_url
        self._base_url_initialized = True
        self.merged_extra = {"timeout": settings.timeout, **(extra_options or {})}
        session = open_session(settings)
        session.auth = _KeyForOwnOrigin(settings.api)
        session.headers.update(headers or {})
        return session

    @cached_property
    def client(self) -> VaceClient:
        """The blocking client."""
        return VaceClient(self._connect, self._around)

    @cached_property
    def _async_client(self) -> AsyncVaceClient:
        return AsyncVaceClient(self._aconnect, self._around)

    @property
    def _around(self) -> Surroundings:
        return Surroundings(
            clock=self.clock,
            now=self.wall_clock,
            log=self.log,
            mask=mask_secrets_in,
            meter=RequestMeter(),
        )

    async def __aenter__(self) -> Self:
        await self._async_client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._async_client.__aexit__(*exc)

    @staticmethod
    @contextlib.contextmanager
    def _airflows_own_errors() -> Iterator[None]:
        """Raise Airflow's error for a missing connection, as all hooks do."""
        try:
            yield
        except VaceConnectionMissing as error:
            if isinstance(error.__cause__, AirflowNotFoundException):
                raise error.__cause__ from None
            raise

    def _run(self, call: Call[T]) -> T:
        with self._airflows_own_errors():
            return self.client.run(call)

    async def _arun(self, call: Call[T]) -> T:
        with self._airflows_own_errors():
            return await self._async_client.run(call)

    def _connect(self) -> Settings:
        """Return the settings; a missing connection becomes a VaceError, for a wait to survive."""
        try:
            return self.settings
        except AirflowNotFoundException as error:
            raise VaceConnectionMissing(self.vace_conn_id) from error

    async def _aconnect(self) -> Settings:
        try:
            return await self.asettings()
        except AirflowNotFoundException as error:
            raise VaceConnectionMissing(self.vace_conn_id) from error

    async def connect_again(self) -> Settings:
        """Read the connection again, because pollers live longer than keys.

        :raises VaceConnectionMissing: if Airflow knows no such connection
        """
        return await type(self)(self.vace_conn_id)._aconnect()  # noqa: SLF001 - its own class

    def read_again(self) -> Settings:
        """Read the connection again, in a thread that may block; errors as in :meth:`connect_again`."""
        return type(self)(self.vace_conn_id)._connect()  # noqa: SLF001 - its own class


class _KeyForOwnOrigin(AuthBase):
    """Add the keys to requests to the connection's own origin only."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # A described download has the key only for the own origin, so one rule decides for all requests.
        described = self.api.file(request.url or "").headers
        request.headers.update({name: described[name] for name in self.api.credentials if name in described})
        return request


def _settings_of(connection: Any, extra: Any, timing: Timing, conn_id: str) -> Settings:
    """Return the settings of a connection, or raise an error that names the connection.

    :raises VaceInputError: for a connection of another type, and for the first unusable field
    """
    kind = (connection.conn_type or "vace").lower()
    if kind not in _USABLE_TYPES:
        raise VaceInputError(
            f"The connection {conn_id!r} is of the type {kind!r}, not 'vace': correct vace_conn_id, or add a"
            " connection of the type 'vace'. Nothing was sent.",
            field="vace_conn_id",
            value=conn_id,
            remedy="name a connection of the type 'vace'",
        )
    try:
        # Airflow returns an empty object for a text that is no JSON.
        if not extra and isinstance(
            from_json((getattr(connection, "extra", None) or "").strip() or "{}"), str
        ):
            raise unusable_extra()
        return Settings.of(connection, extra, timing=timing)
    except VaceInputError as error:
        raise VaceInputError(
            f"{_unusable(conn_id)}{error}", field=error.field, value=error.value, remedy=error.remedy
        ) from None


def _unusable(conn_id: str) -> str:
    return f"The connection {conn_id!r} is not usable. "


@contextlib.contextmanager
def _named_lookup_errors(conn_id: str) -> Iterator[None]:
    """Name the connection in a secrets back-end's error: nothing was sent, and another attempt may work."""
    try:
        yield
    except AirflowNotFoundException:
        # Airflow's own text names no remedy.
        raise AirflowNotFoundException(str(VaceConnectionMissing(conn_id))) from None
    except Exception as error:  # noqa: BLE001 - secrets back-ends are third-party code and raise anything
        raise VaceTransportError(
            f"The connection {conn_id!r} could not be read ({type(error).__name__}); nothing was sent",
            sent=False,
        ) from shown_cause(error)


def mask_secrets_in(texts: Iterable[str]) -> None:
    """Let Airflow mask the signatures and passwords of URLs in texts, in all logs.

    Airflow masks nothing shorter than `[logging] min_length_masked_secret` (5).
    """
    from airflow.providers.common.compat.sdk import conf
    from airflow.sdk.log import mask_secret

    shortest = conf.getint("logging", "min_length_masked_secret", fallback=5)
    for secret in sorted({secret for text in texts for secret in secrets_in(text)}):
        if len(secret) >= shortest:
            with airflow_turn():
                mask_secret(secret)
