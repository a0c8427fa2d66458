"""VaceHook: an Airflow connection as a client of the API; every call has a sync and an async face."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

from airflow.providers.common.compat.connection import (
    get_async_connection,
    get_async_extra_dejson,
)
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.providers.http.hooks.http import HttpHook

from airflow_vace.client.settings import Settings
from airflow_vace.client.transport import (
    AsyncClient,
    Download,
    Session,
    read_whole,
    refuse_private,
    send,
    shown_cause,
    streamed,
)
from airflow_vace.core.clock import Clock
from airflow_vace.core.errors import may_create_again, read_error, read_failed_create, served_at
from airflow_vace.core.requests import Form, Request, read_known
from airflow_vace.core.responses import Page, read_list, read_prediction, read_probe, read_upload
from airflow_vace.core.retry import Backoff, next_create
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import Final, GiveUp, LookAgain, Wait, is_passing
from airflow_vace.exceptions import (
    VaceAPIError,
    VaceAuthError,
    VaceConnectionMissing,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
    excerpt,
)
from airflow_vace.inputs import normalize_input
from airflow_vace.prediction import Prediction, parse_time
from airflow_vace.redaction import secrets_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    import requests

    from airflow_vace.core.requests import Response

_MOST_PAGES = 200
_MOST_REDIRECTS = 6
# What servers say to a cancel of what has ended already, or if they know no cancel.
_UNCANCELABLE = (400, 404, 405, 409, 410, 422)
_MOST_CANCELS = 3
_MOST_UPLOADS = 3
# The connection itself may be there no more.
_CANNOT_CANCEL = (VaceError, AirflowNotFoundException)
_PROBE_ID = "airflow-connection-test"


class VaceHook(HttpHook):
    """Talk to prunaai/vace-14b, or another model, behind any Replicate-compatible API.

    The connection is looked up with the first call and kept. The asynchronous calls share one session
    inside `async with VaceHook(...) as hook:`; outside of it each opens and closes its own.

    `clock` compares this machine's clock with the server's. While `is_create_open` is True, a create that is
    broken off may have been accepted; between two tries of it none was.

    :param vace_conn_id: connection of type `vace`
    """

    conn_name_attr = "vace_conn_id"
    default_conn_name = "vace_default"
    conn_type = "vace"
    hook_name = "VACE"
    timing = Timing()

    def __init__(self, vace_conn_id: str = default_conn_name) -> None:
        super().__init__(method="GET", http_conn_id=vace_conn_id)
        self.vace_conn_id = vace_conn_id
        self.is_create_open = False
        self.clock = Clock()
        self._known_settings: Settings | None = None
        self._shares_session = False
        self._async_client: AsyncClient | None = None

    # --- one prediction, two faces -----------------------------------------------------------------

    def create_prediction(
        self,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        *,
        model: str | None = None,
        version: str | None = None,
        deadline: float | None = None,
        before_resend: Callable[[], None] | None = None,
    ) -> Prediction:
        """Submit a prediction, which costs money, and return it; never twice.

        :param input: inputs of the model; text from a template is normalised
        :param model: `owner/name` (default: the connection's, else prunaai/vace-14b)
        :param version: id of a version (default: the connection's; "" for the server's choice)
        :param deadline: seconds since the epoch at which the server is asked to cancel by itself
        :param before_resend: called before a create that was refused is sent again; raise there to end it
        :raises VaceInputError: before any request, for what cannot work
        :raises SubmissionUnknown: if it may have been accepted, and be billed, all the same
        :raises VaceAPIError: (or what is below it) if it was refused
        :raises VaceTransportError: if it was never sent
        """
        api = self.settings.api
        request = self._described_create(self.settings, input, model, version, deadline)
        started, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            self.is_create_open = True
            try:
                return read_prediction(api, request, self._send(request))
            except VaceError as error:
                self.is_create_open = False
                delay = self._create_again_in(error, attempt, time.monotonic() - started)
            time.sleep(delay)
            if before_resend is not None:
                before_resend()

    async def acreate_prediction(
        self,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        *,
        model: str | None = None,
        version: str | None = None,
        deadline: float | None = None,
    ) -> Prediction:
        """Await :meth:`create_prediction`."""
        settings = await self.asettings()
        request = self._described_create(settings, input, model, version, deadline)
        started, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            try:
                return read_prediction(settings.api, request, await self._asend(request))
            except VaceError as error:
                delay = self._create_again_in(error, attempt, time.monotonic() - started)
            await asyncio.sleep(delay)

    def get_prediction(self, prediction: object) -> Prediction:
        """Look at a prediction once, at the connection's own origin.

        :param prediction: payload, id, `urls.get` or :class:`~airflow_vace.prediction.Prediction`
        :raises VaceInputError: before any request, if there is no prediction in it
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        api = self.settings.api
        request = api.get(prediction)
        return read_prediction(api, request, self._send(request))

    async def aget_prediction(self, prediction: object) -> Prediction:
        """Await :meth:`get_prediction`."""
        api = (await self.asettings()).api
        request = api.get(prediction)
        return read_prediction(api, request, await self._asend(request))

    def cancel_prediction(self, prediction: object) -> Prediction:
        """Cancel a prediction and return what the server says of it; one that has ended stays as it is.

        :raises VaceInputError: if there is no prediction in it, or the back-end has no such call
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        api = self.settings.api
        request = api.cancel(prediction)
        try:
            return read_prediction(api, request, self._send(request))
        except VaceProtocolError:  # accepted, in a server's own words
            return self.get_prediction(prediction)
        except VaceAPIError as refusal:
            if refusal.status_code not in _UNCANCELABLE:
                raise
            return _ended_or(refusal, self.get_prediction(prediction))

    async def acancel_prediction(self, prediction: object) -> Prediction:
        """Await :meth:`cancel_prediction`."""
        api = (await self.asettings()).api
        request = api.cancel(prediction)
        try:
            return read_prediction(api, request, await self._asend(request))
        except VaceProtocolError:  # accepted, in a server's own words
            return await self.aget_prediction(prediction)
        except VaceAPIError as refusal:
            if refusal.status_code not in _UNCANCELABLE:
                raise
            return _ended_or(refusal, await self.aget_prediction(prediction))

    def stop_prediction(self, prediction: Prediction) -> Prediction | None:
        """Cancel a prediction, again if that fails, and log what it means for the bill.

        :return: what the server says of it, None if it could not be told to stop
        """
        backoff = Backoff()
        for attempt in range(1, _MOST_CANCELS + 1):
            try:
                return self._told_stopped(prediction.updated(self.cancel_prediction(prediction)))
            except _CANNOT_CANCEL as error:
                if not self._tell_unstopped(prediction, error, attempt):
                    break
            time.sleep(backoff.next_delay())
        return None

    async def astop_prediction(self, prediction: Prediction) -> Prediction | None:
        """Await :meth:`stop_prediction`."""
        backoff = Backoff()
        for attempt in range(1, _MOST_CANCELS + 1):
            try:
                return self._told_stopped(prediction.updated(await self.acancel_prediction(prediction)))
            except _CANNOT_CANCEL as error:
                if not self._tell_unstopped(prediction, error, attempt):
                    break
            await asyncio.sleep(backoff.next_delay())
        return None

    def list_predictions(self, created_after: str | None = None) -> Iterator[Prediction]:
        """Yield the account's predictions, newest first, page by page, where the back-end lists.

        :param created_after: ISO 8601 time; what is older is left out
        :raises VaceInputError: if the back-end has no such call
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        for page in self.list_pages(created_after):
            self._warn_of_unreadable(page)
            yield from page.predictions

    async def alist_predictions(self, created_after: str | None = None) -> AsyncIterator[Prediction]:
        """Iterate asynchronously over :meth:`list_predictions`."""
        api = (await self.asettings()).api
        request: Request | None = api.list(created_after)
        for _ in range(_MOST_PAGES):
            if request is None:
                return
            page = _newer(read_list(api, request, await self._asend(request)), created_after)
            self._warn_of_unreadable(page)
            for prediction in page.predictions:
                yield prediction
            request = api.page(page.following) if page.following else None
        if request is not None:
            raise _endless_list()

    def list_pages(self, created_after: str | None = None) -> Iterator[Page]:
        """Yield the account's predictions, newest first, as pages that also name what could not be read.

        :param created_after: ISO 8601 time; what is older is left out
        :raises VaceInputError: if the back-end has no such call
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        api = self.settings.api
        request: Request | None = api.list(created_after)
        for _ in range(_MOST_PAGES):
            if request is None:
                return
            page = _newer(read_list(api, request, self._send(request)), created_after)
            yield page
            request = api.page(page.following) if page.following else None
        if request is not None:
            raise _endless_list()

    @property
    def lists_predictions(self) -> bool:
        """Whether the back-end of the connection lists its predictions."""
        return self.settings.api.backend.list is not None

    def resolved(
        self,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        *,
        model: str | None = None,
        version: str | None = None,
    ) -> tuple[dict[str, Any], str, str | None]:
        """Return the input, model and version that a create would send, without sending it.

        Files may be paths, which :class:`~airflow_vace.storage.upload.Sources` makes URLs of.

        :raises VaceInputError: for what cannot work
        """
        settings = self.settings
        model = model or settings.model
        values, _ = normalize_input(input, model=model, paths=True)
        return values, model, version or settings.version

    def wait_for_prediction(
        self,
        prediction: object,
        timeout: float | None = 3600.0,
        *,
        poll_interval: float | None = None,
    ) -> Prediction:
        """Block until a prediction is final, and return it, whatever its end.

        :param timeout: seconds from this call; None waits without end
        :param poll_interval: how late, in seconds, the end may be noticed (default: 10 s, or 5 % of
            the time waited)
        :raises PredictionTimeout: if it is not final in time; it is not canceled by that
        :raises VaceError: what ends a wait, see :meth:`airflow_vace.core.wait.Wait.failed`
        """
        deadline = None if timeout is None else time.time() + timeout
        known = prediction if isinstance(prediction, Prediction) else read_known(prediction)
        wait = Wait(prediction=known, deadline=deadline, poll_interval=poll_interval)
        while True:
            try:
                decision = wait.answered(self.get_prediction(wait.prediction), time.time())
            except VaceError as error:
                decision = wait.failed(error, time.time())
            except AirflowNotFoundException:  # some secrets back-ends answer so while they are in trouble
                decision = wait.failed(VaceConnectionMissing(self.vace_conn_id), time.time())
            self.tell(wait)
            match decision:
                case Final(final):
                    return final
                case GiveUp(reason):
                    raise reason
                case LookAgain(seconds):
                    time.sleep(seconds)

    def tell(self, wait: Wait) -> None:
        """Log what the last answer or error brought, if it is worth a line."""
        if wait.news:
            self.log.log(logging.WARNING if wait.is_troubled else logging.INFO, "%s", wait.news)

    @contextlib.contextmanager
    def open_file(self, url: str, *, start: int = 0, etag: str | None = None) -> Iterator[Download]:
        """Open a file; the key goes along only to the connection's own origin, redirects included.

        :param start: where to go on after a break, in bytes; a server may begin anew all the same
        :param etag: of the file whose rest is wanted
        :raises VaceAPIError: (or what is below it) if the server refused
        :raises VaceTransportError: if the file did not come, or not whole
        :raises VaceProtocolError: if it is at no address that may be fetched
        """
        settings = self.settings
        for _ in range(_MOST_REDIRECTS):
            mask_secrets_in([url])  # urllib3 writes paths and queries into the log
            request = settings.api.file(url, start=start, etag=etag)
            public = refuse_private(request, settings)
            with streamed(self._session, settings, request, is_public_only=public) as (answer, exchange):
                if answer.is_redirect:
                    url = _joined(url, answer.headers["location"])
                    continue
                if answer.status_code not in (200, 206):
                    raise read_error(settings.api, request, read_whole(answer, exchange, request))
                yield Download.of(answer, exchange, request)
                return
        raise VaceTransportError(f"GET {excerpt(url)}: redirected too often", sent=True)

    def status_of(self, url: str) -> int | None:
        """Return the status code for whoever asks for a URL's first byte without a key; None: no answer."""
        settings = self.settings
        mask_secrets_in([url])
        request = Request(verb="file", method="GET", url=url, headers={"Range": "bytes=0-0"})
        try:
            with streamed(self._session, settings, request) as (answer, _):
                return answer.status_code
        except VaceTransportError:
            return None

    def upload_file(
        self,
        open_it: Callable[[], contextlib.AbstractContextManager[BinaryIO]],
        *,
        name: str,
        content_type: str,
        size: int,
    ) -> str:
        """Upload a file to the back-end, which is free, and return the URL that an input may then name.

        :param open_it: opens the file, anew for each try
        :param size: in bytes; at most 100 MB: https://replicate.com/docs/topics/predictions/input-files
        :raises VaceInputError: if the back-end has no such call
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        api, backoff, attempt = self.settings.api, Backoff(), 0
        while True:
            attempt += 1
            try:
                with open_it() as file:
                    request = api.upload(Form(file, name=name, content_type=content_type, size=size))
                    return read_upload(api, request, self._send(request))
            except VaceError as error:
                if attempt >= _MOST_UPLOADS or not is_passing(error):
                    raise
                delay = backoff.next_delay(error.retry_after if isinstance(error, VaceAPIError) else None)
                self.log.warning("Uploading %s again in %.1f s: %s", name, delay, error)
            time.sleep(delay)

    def test_connection(self) -> tuple[bool, str]:
        """Look for a prediction that cannot exist: free, and the answer tells address and key apart."""
        try:
            api = self.settings.api
            request = api.get(_PROBE_ID)
            answer = self._send(request)
            read_probe(api, request, answer)
            if self._without_key(request) == answer.status_code:
                return False, (
                    f"Not this API, or it asks for no key: {request.shown} is answered alike with the key and"
                    " without. Check host, API prefix and back-end."
                )
        except VaceError as error:
            return False, f"{_verdict(error)}: {error}"
        return True, f"Reached {api.base_url}{api.prefix} ({api.backend.name}); the key was accepted"

    def _without_key(self, request: Request) -> int:
        """Return the status code for the same question without the key; a stranger's server answers alike."""
        header = self.settings.api.backend.key_header
        keyless = replace(request, headers={k: v for k, v in request.headers.items() if k != header})
        return self._send(keyless).status_code

    def fresh(self) -> Self:
        """Return a hook of the same connection with a session of its own, and without another look-up.

        For signal handlers, which may have interrupted this one in the midst of a request.
        """
        twin = type(self)(self.vace_conn_id)
        twin._known_settings = self._known_settings  # noqa: SLF001 - its own class
        twin.clock = self.clock
        return twin

    # --- what both faces decide alike --------------------------------------------------------------

    def _described_create(
        self,
        settings: Settings,
        input: Mapping[str, Any] | str,  # noqa: A002 - the API's own word
        model: str | None,
        version: str | None,
        deadline: float | None,
    ) -> Request:
        model = model or settings.model
        values, warnings = normalize_input(input, model=model)
        for warning in warnings:
            self.log.warning("The model may refuse this: %s", warning)
        return settings.api.create(
            values,
            model=model,
            version=settings.version if version is None else version or None,
            cancel_after=None if deadline is None else deadline - time.time(),
        )

    def _create_again_in(self, error: VaceError, attempt: int, waited: float) -> float:
        """Return the seconds after which a create is sent again; raise where that would be wrong."""
        delay = next_create(error, attempt, waited) if may_create_again(error) else None
        if delay is None:
            told = read_failed_create(error)
            raise told from (None if told is error else error)
        self.log.warning("Nothing was accepted; submitting again in %.1f s: %s", delay, error)
        return delay

    def _warn_of_unreadable(self, page: Page) -> None:
        if page.unreadable:
            self.log.warning(
                "The list of predictions has %d items that can't be read; they are left out",
                len(page.unreadable),
            )

    def _told_stopped(self, prediction: Prediction) -> Prediction:
        self.log.info("Prediction %s is %s. %s", prediction.id, prediction.status, prediction.bill)
        return prediction

    def _tell_unstopped(self, prediction: Prediction, error: Exception, attempt: int) -> bool:
        """Log that a cancel failed, and return whether it is worth another try."""
        self.log.warning(
            "Prediction %s could not be canceled and may run, and be billed, to its end: %s",
            prediction.id,
            error,
        )
        return is_passing(error) and attempt < _MOST_CANCELS

    # --- carrying a request ------------------------------------------------------------------------

    def _send(self, request: Request) -> Response:
        response = send(self._session, self.settings.for_request(request), request)
        self.clock.note(served_at(response), time.time())
        return response

    async def _asend(self, request: Request) -> Response:
        async with self._aclient() as client:
            response = await client.send(request)
        self.clock.note(served_at(response), time.time())
        return response

    # --- the connection ----------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What the connection says, looked up once.

        :raises VaceInputError: for the first field that cannot work
        :raises VaceTransportError: if the connection could not be read
        """
        if self._known_settings is None:
            with _named_lookup_errors(self.vace_conn_id):
                connection = self.get_connection(self.vace_conn_id)
                extra = connection.extra_dejson
            self._known_settings = Settings.of(connection, extra)
        return self._known_settings

    async def asettings(self) -> Settings:
        """Await :attr:`settings`."""
        if self._known_settings is None:
            with _named_lookup_errors(self.vace_conn_id):
                connection = await get_async_connection(self.vace_conn_id, hook=self)
                extra = await get_async_extra_dejson(connection)
            self._known_settings = Settings.of(connection, extra)
        return self._known_settings

    def get_conn(
        self,
        headers: dict[Any, Any] | None = None,
        extra_options: dict[str, Any] | None = None,
    ) -> requests.Session:
        """Return a session set up as the connection says; it holds no key, each request brings its own.

        :param headers: further headers
        :param extra_options: not used; the connection's extra says it all
        """
        settings = self.settings
        self.base_url = settings.api.base_url
        self._base_url_initialized = True
        self.merged_extra = extra_options or {}
        session = Session()
        session.verify = settings.verify
        session.cert = settings.cert
        session.proxies = dict(settings.proxies)
        session.headers.update(headers or {})
        return session

    @cached_property
    def _session(self) -> requests.Session:
        return self.get_conn()

    async def __aenter__(self) -> Self:
        self._shares_session = True
        self._opening = asyncio.Lock()
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._async_client = self._async_client, None
        self._shares_session = False
        if client is not None:
            await client.close()

    @contextlib.asynccontextmanager
    async def _aclient(self) -> AsyncIterator[AsyncClient]:
        if not self._shares_session:
            client = await AsyncClient.open(await self.asettings())
            try:
                yield client
            finally:
                await client.close()
            return
        async with self._opening:
            if self._async_client is None:
                self._async_client = await AsyncClient.open(await self.asettings())
        yield self._async_client


@contextlib.contextmanager
def _named_lookup_errors(conn_id: str) -> Iterator[None]:
    """Tell a secrets back-end's trouble from ours: nothing was sent, and another try may well work."""
    try:
        yield
    except AirflowNotFoundException:
        raise
    except Exception as error:  # noqa: BLE001 - secrets back-ends are strangers, and may throw anything
        raise VaceTransportError(
            f"The connection {conn_id!r} could not be read ({type(error).__name__}); nothing was sent",
            sent=False,
        ) from shown_cause(error)


def mask_secrets_in(texts: Iterable[str]) -> None:
    """Let Airflow mask what opens the URLs in texts, wherever it might be written.

    Airflow masks nothing that is shorter than `[logging] min_length_masked_secret` (5).
    """
    from airflow.providers.common.compat.sdk import conf
    from airflow.sdk.log import mask_secret

    shortest = conf.getint("logging", "min_length_masked_secret", fallback=5)
    for secret in sorted({secret for text in texts for secret in secrets_in(text)}):
        if len(secret) >= shortest:
            mask_secret(secret)


def _joined(url: str, location: str) -> str:
    """Return the address that a redirect names; what was asked for over TLS is not fetched without it."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        port = parts.port
    except ValueError:
        raise VaceProtocolError(f"GET {excerpt(url)}: redirected to nowhere, {excerpt(location)}") from None
    if parts.scheme != "http" or urlsplit(url).scheme != "https":
        return target
    if port is not None:
        raise VaceProtocolError(
            f"GET {excerpt(url)}: redirected from https to http, {excerpt(target)}, which is not followed:"
            " anybody on the way could change the file"
        )
    return parts._replace(scheme="https").geturl()


def _ended_or(refusal: VaceAPIError, prediction: Prediction) -> Prediction:
    """Return a prediction that needs no cancel any more."""
    if prediction.status.is_final:
        return prediction
    raise refusal


def _endless_list() -> VaceProtocolError:
    return VaceProtocolError(f"The list of predictions has more than {_MOST_PAGES} pages: name a later time")


def _newer(page: Page, created_after: str | None) -> Page:
    """Leave out what is older, for servers that list but don't filter."""
    start = parse_time(created_after)
    if start is None:
        return page

    def is_newer(created_at: object) -> bool:
        created = parse_time(created_at if isinstance(created_at, str) else None)
        return created is None or created > start

    return replace(
        page,
        predictions=tuple(found for found in page.predictions if is_newer(found.created_at)),
        unreadable=tuple(found for found in page.unreadable if is_newer(found.get("created_at"))),
    )


def _verdict(error: VaceError) -> str:
    """Say in three words what a failed test of a connection has found."""
    match error:
        case VaceInputError():
            return "Not usable"
        case VaceTransportError(sent=False):
            return "Not reached"
        case VaceTransportError():
            return "No answer"
        case VaceAuthError():
            return "Key refused"
        case VaceProtocolError():
            return "Not this API"
    is_page = isinstance(error, VaceAPIError) and error.status_code in (404, 405)
    return "Not this API" if is_page else "Reached, but refused"
