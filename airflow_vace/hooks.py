"""VaceHook: an Airflow connection as a client of the API; each call has a blocking and an awaitable form."""

from __future__ import annotations

import contextlib
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.providers.http.hooks.http import HttpHook
from requests.auth import AuthBase

from airflow_vace.client.client import AsyncVaceClient, Surroundings, VaceClient, open_session
from airflow_vace.client.failures import shown_cause
from airflow_vace.client.settings import Settings
from airflow_vace.core import calls
from airflow_vace.core.clock import Clock
from airflow_vace.core.requests import read_known
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import Wait
from airflow_vace.exceptions import VaceConnectionMissing, VaceTransportError
from airflow_vace.inputs import normalize_input
from airflow_vace.prediction import Prediction
from airflow_vace.redaction import secrets_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    import requests

    from airflow_vace.client.downloads import Download
    from airflow_vace.core.calls import Call
    from airflow_vace.core.requests import Api
    from airflow_vace.core.responses import Page
    from airflow_vace.core.wait import Final, PollAgain

T = TypeVar("T")


class VaceHook(HttpHook):
    """Talk to prunaai/vace-14b, or another model, behind any Replicate-compatible API.

    The first call reads the connection, and the hook keeps it. Awaitable calls share one session inside
    `async with VaceHook(...) as hook:`; outside of it each call opens and closes a session.

    `clock` compares this machine's clock with the server's. Inherited calls such as `run("/v1/account")` send
    the key too, to the connection's own origin only.

    :param vace_conn_id: connection of type `vace`
    """

    conn_name_attr = "vace_conn_id"
    default_conn_name = "vace_default"
    conn_type = "vace"
    hook_name = "VACE"
    timing: ClassVar[Timing] = Timing()
    # Seconds since the epoch by this machine's clock, in one place so that tests can set another clock.
    wall_clock = staticmethod(time.time)

    def __init__(self, vace_conn_id: str = default_conn_name) -> None:
        super().__init__(method="GET", http_conn_id=vace_conn_id)
        self.vace_conn_id = vace_conn_id
        self.clock = Clock(tolerance=self.timing.clock_tolerance_seconds)
        self._known_settings: Settings | None = None

    # --- one prediction ----------------------------------------------------------------------------

    def create_prediction(
        self,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        *,
        model: str | None = None,
        version: str | None = None,
        deadline: float | None = None,
        before_resend: Callable[[], None] | None = None,
    ) -> Prediction:
        """Submit a prediction, which is paid for, and return it; never twice.

        :param input: inputs of the model; text from a template is normalised
        :param model: `owner/name` (default: the connection's, else prunaai/vace-14b)
        :param version: id of a version (default: the connection's; "" for the server's choice)
        :param deadline: seconds since the epoch at which the server is asked to cancel by itself
        :param before_resend: called before a refused create is sent again; an exception ends the call
        :raises VaceInputError: before any request, for an input that cannot work
        :raises SubmissionUnknown: if the create may have been accepted, and billed, without an answer
        :raises VaceAPIError: (or a subclass) if the server refused
        :raises VaceTransportError: if the create was never sent
        """
        creation = calls.Creation(values=input, model=model, version=version, deadline=deadline)
        return self._run(
            calls.create(creation, timing=self.timing, now=self.wall_clock, before_resend=before_resend)
        )

    async def acreate_prediction(
        self,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        *,
        model: str | None = None,
        version: str | None = None,
        deadline: float | None = None,
    ) -> Prediction:
        """Await :meth:`create_prediction`."""
        creation = calls.Creation(values=input, model=model, version=version, deadline=deadline)
        return await self._arun(calls.create(creation, timing=self.timing, now=self.wall_clock))

    def get_prediction(self, prediction: object) -> Prediction:
        """Poll a prediction once, at the connection's own origin.

        :param prediction: payload, id, `urls.get` or :class:`~airflow_vace.prediction.Prediction`
        :raises VaceInputError: before any request, if the argument names no prediction
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        return self._run(calls.get(prediction))

    async def aget_prediction(self, prediction: object) -> Prediction:
        """Await :meth:`get_prediction`."""
        return await self._arun(calls.get(prediction))

    def cancel_prediction(self, prediction: object) -> Prediction:
        """Cancel a prediction and return its state; a terminal prediction stays as it is.

        :raises VaceInputError: if the argument names no prediction, or the back-end has no cancel
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        return self._run(calls.cancel(prediction))

    async def acancel_prediction(self, prediction: object) -> Prediction:
        """Await :meth:`cancel_prediction`."""
        return await self._arun(calls.cancel(prediction))

    def stop_prediction(self, prediction: Prediction) -> Prediction | None:
        """Cancel a prediction in several attempts, and log the consequence for the bill.

        :return: its state; None if no cancel was accepted
        """
        return self._run(calls.stop(prediction, timing=self.timing))

    async def astop_prediction(self, prediction: Prediction) -> Prediction | None:
        """Await :meth:`stop_prediction`."""
        return await self._arun(calls.stop(prediction, timing=self.timing))

    def poll(self, wait: Wait, now: Callable[[], float] | None = None) -> Final | PollAgain:
        """Poll once for a wait; a refusal is polled again, with pauses, until it is settled.

        :param now: returns seconds since the epoch by the clock of the wait's deadline (default: the server's
            clock, as far as `clock` confirms it)
        :raises VaceError: the reason for the end of the wait
        """
        return self.client.run(calls.poll(wait, now=now or self._confirmed_now))

    def wait_for_prediction(
        self,
        prediction: object,
        timeout: float | None = 3600.0,
        *,
        poll_interval: float | None = None,
    ) -> Prediction:
        """Block until a prediction is terminal, and return it, with success or without.

        :param timeout: seconds from this call; None waits without end
        :param poll_interval: bound in seconds on how late the end is noticed (default: 10 s, or 5 % of
            the time waited)
        :raises PredictionTimeout: if it is not terminal in time; the prediction is not canceled
        :raises VaceError: the reason for the end of the wait, see :meth:`airflow_vace.core.wait.Wait.failed`
        """
        deadline = None if timeout is None else self.wall_clock() + timeout
        known = prediction if isinstance(prediction, Prediction) else read_known(prediction)
        wait = Wait(prediction=known, deadline=deadline, poll_interval=poll_interval, timing=self.timing)
        return self.client.run(calls.wait_until_final(wait, now=self.wall_clock))

    def _confirmed_now(self) -> float:
        return self.clock.confirmed(self.wall_clock())

    # --- the account -------------------------------------------------------------------------------

    def list_predictions(self, created_after: str | None = None) -> Iterator[Prediction]:
        """Yield the account's predictions, newest first, page by page, where the back-end lists.

        :param created_after: ISO 8601 time; older predictions are left out
        :raises VaceInputError: if the back-end has no list
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        listing = calls.Listing(created_after, timing=self.timing, notes_unreadable=True)
        while not listing.is_over:
            yield from self._run(listing.next_page()).predictions

    async def alist_predictions(self, created_after: str | None = None) -> AsyncIterator[Prediction]:
        """Iterate asynchronously over :meth:`list_predictions`."""
        listing = calls.Listing(created_after, timing=self.timing, notes_unreadable=True)
        while not listing.is_over:
            for prediction in (await self._arun(listing.next_page())).predictions:
                yield prediction

    def list_pages(self, created_after: str | None = None) -> Iterator[Page]:
        """Yield the account's predictions, newest first, as pages that also hold the unreadable items.

        :param created_after: ISO 8601 time; older predictions are left out
        :raises VaceInputError: if the back-end has no list
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        listing = calls.Listing(created_after, timing=self.timing)
        while not listing.is_over:
            yield self._run(listing.next_page())

    @property
    def lists_predictions(self) -> bool:
        """True if the back-end of the connection lists its predictions."""
        return self.settings.api.backend.list is not None

    def resolved(
        self,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        *,
        model: str | None = None,
        version: str | None = None,
    ) -> tuple[dict[str, Any], str, str | None]:
        """Return the input, model and version that a create would send, without sending it.

        Files may be paths; :class:`~airflow_vace.storage.upload.InputFiles` makes URLs of them.

        :raises VaceInputError: for an input that cannot work
        """
        settings = self.settings
        model = model or settings.model
        values, _ = normalize_input(input, model=model, paths=True)
        return values, model, version or settings.version

    # --- files -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def open_file(self, url: str, *, start: int = 0, etag: str | None = None) -> Iterator[Download]:
        """Open a file; the key goes along only to the connection's own origin, redirects included.

        :param start: offset in bytes at which to resume; a server may send the whole file all the same
        :param etag: of the file to resume
        :raises VaceAPIError: (or a subclass) if the server refused
        :raises VaceTransportError: if the file did not come, or not whole
        :raises VaceProtocolError: if the address may not be fetched
        """
        with _airflows_own_errors(), self.client.open_file(url, start=start, etag=etag) as download:
            yield download

    def upload_file(
        self,
        open_it: Callable[[], contextlib.AbstractContextManager[BinaryIO]],
        *,
        name: str,
        content_type: str,
        size: int,
    ) -> str:
        """Upload a file to the back-end, which is free, and return its URL for use in an input.

        :param open_it: opens the file, again for each attempt
        :param size: in bytes; at most 100 MB: https://replicate.com/docs/topics/predictions/input-files
        :raises VaceInputError: if the back-end takes no uploads
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        file = calls.FileToUpload(open_it=open_it, name=name, content_type=content_type, size=size)
        return self._run(calls.upload(file, timing=self.timing))

    # --- the connection ----------------------------------------------------------------------------

    def test_connection(self) -> tuple[bool, str]:
        """Ask for a prediction that cannot exist, which is free; the answer checks address and key."""
        return self._run(calls.probe())

    @property
    def settings(self) -> Settings:
        """The connection's fields, read once.

        :raises AirflowNotFoundException: if Airflow knows no such connection
        :raises VaceInputError: for the first field that cannot work
        :raises VaceTransportError: if the connection could not be read
        """
        if self._known_settings is None:
            with _named_lookup_errors(self.vace_conn_id):
                connection = self.get_connection(self.vace_conn_id)
                extra = connection.extra_dejson
            self._known_settings = Settings.of(connection, extra, timing=self.timing)
        return self._known_settings

    async def asettings(self) -> Settings:
        """Await :attr:`settings`."""
        if self._known_settings is None:
            with _named_lookup_errors(self.vace_conn_id):
                connection = await get_async_connection(self.vace_conn_id, hook=self)
                extra = await get_async_extra_dejson(connection)
            self._known_settings = Settings.of(connection, extra, timing=self.timing)
        return self._known_settings

    def fresh(self, settings: Settings | None = None) -> Self:
        """Return a hook of the same connection with a session of its own, without another look-up.

        For signal handlers, which may have interrupted this hook during a request.

        :param settings: a later state of the connection (default: this hook's)
        """
        twin = type(self)(self.vace_conn_id)
        twin._known_settings = settings or self._known_settings  # noqa: SLF001 - its own class
        twin.clock = self.clock
        return twin

    def get_conn(
        self,
        headers: dict[Any, Any] | None = None,
        extra_options: dict[str, Any] | None = None,
    ) -> requests.Session:
        """Return a session with the connection's TLS and proxies; requests to its origin get the key.

        Inherited calls such as `run` use this session; it follows no redirects.

        :param headers: further headers
        :param extra_options: of `run`, such as `check_response`; the connection's extra says the rest
        """
        settings = self.settings
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
        return Surroundings(clock=self.clock, now=self.wall_clock, log=self.log, mask=mask_secrets_in)

    async def __aenter__(self) -> Self:
        await self._async_client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._async_client.__aexit__(*exc)

    def _run(self, call: Call[T]) -> T:
        with _airflows_own_errors():
            return self.client.run(call)

    async def _arun(self, call: Call[T]) -> T:
        with _airflows_own_errors():
            return await self._async_client.run(call)

    def _connect(self) -> Settings:
        """Return the settings; a missing connection is an error of ours, so a wait can survive it."""
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
        """Read the connection again, for pollers that live longer than a key.

        :raises VaceConnectionMissing: if Airflow knows no such connection
        """
        return await type(self)(self.vace_conn_id)._aconnect()  # noqa: SLF001 - its own class


class _KeyForOwnOrigin(AuthBase):
    """Add the key to requests to the connection's own origin, and to no others."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        header = self.api.backend.key_header
        key = self.api.file(request.url or "").headers.get(header)
        if key is not None:
            request.headers[header] = key
        return request


@contextlib.contextmanager
def _airflows_own_errors() -> Iterator[None]:
    """Raise Airflow's error for a missing connection, as all hooks do."""
    try:
        yield
    except VaceConnectionMissing as error:
        if isinstance(error.__cause__, AirflowNotFoundException):
            raise error.__cause__ from None
        raise


@contextlib.contextmanager
def _named_lookup_errors(conn_id: str) -> Iterator[None]:
    """Name the connection in a secrets back-end's error: nothing was sent, and another attempt may work."""
    try:
        yield
    except AirflowNotFoundException:
        raise
    except Exception as error:  # noqa: BLE001 - secrets back-ends are third-party code and raise anything
        raise VaceTransportError(
            f"The connection {conn_id!r} could not be read ({type(error).__name__}); nothing was sent",
            sent=False,
        ) from shown_cause(error)


def mask_secrets_in(texts: Iterable[str]) -> None:
    """Let Airflow mask the signatures and passwords of URLs in texts, in all logs.

    Airflow masks nothing that is shorter than `[logging] min_length_masked_secret` (5).
    """
    from airflow.providers.common.compat.sdk import conf
    from airflow.sdk.log import mask_secret

    shortest = conf.getint("logging", "min_length_masked_secret", fallback=5)
    for secret in sorted({secret for text in texts for secret in secrets_in(text)}):
        if len(secret) >= shortest:
            mask_secret(secret)
