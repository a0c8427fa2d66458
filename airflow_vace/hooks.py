"""VaceHook: an Airflow connection as a client of the API; each call has a blocking and an awaitable form."""

from __future__ import annotations

__all__ = ("VaceHook",)

import contextlib
from datetime import UTC
from typing import TYPE_CHECKING, Any

from airflow_vace.connection import ConnectionHook
from airflow_vace.core import calls
from airflow_vace.core.references import read_known
from airflow_vace.core.wait import Wait
from airflow_vace.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from datetime import datetime
    from typing import BinaryIO

    from airflow_vace.client.downloads import Download
    from airflow_vace.core.responses import Page
    from airflow_vace.core.spend import Spend
    from airflow_vace.core.wait import Final, PollAgain


class VaceHook(ConnectionHook):
    """Talk to prunaai/vace-14b, or another model, behind any Replicate-compatible API.

    The first call reads and keeps the connection. Awaitable calls share a session inside
    `async with VaceHook(...) as hook:`; otherwise each call opens and closes a session.

    `clock` compares this machine's clock with the server's. Inherited calls such as `run("/v1/account")` send
    the key too, to the connection's own origin only.

    :param vace_conn_id: connection of type `vace`
    """

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
        """Submit a prediction, at a price and never twice, and return the server's answer.

        :param input: inputs of the model; text from a template is normalised
        :param model: `owner/name`, or `owner/name:version` (default: the connection's, else prunaai/vace-14b)
        :param version: id of a version (default: the connection's, for the connection's model; "" for the
            server's choice). Replicate needs a version, so the latest is looked up there.
        :param deadline: seconds since the epoch at which the server is asked to cancel by itself
        :param before_resend: called before a create is sent that was refused, or that waited for its turn for
            some seconds; an exception ends the call
        :raises VaceInputError: before any request, for an input that cannot work
        :raises SubmissionUnknown: if the create may have been accepted, and billed, without an answer
        :raises VaceAPIError: (or a subclass) if the server refused
        :raises VaceTransportError: if the create was never sent
        """
        creation = calls.Creation(values=input, model=model, version=version, deadline=deadline)
        return self.submit(creation, before_resend)

    def submit(
        self,
        creation: calls.Creation,
        before_resend: Callable[[], None] | None = None,
        while_waiting: Callable[[], None] | None = None,
    ) -> Prediction:
        """Submit a described create; for other arguments and errors see :meth:`create_prediction`.

        :param while_waiting: called about each second while the create waits; an exception ends the call, and
            nothing was submitted
        """
        call = calls.create(
            creation,
            timing=self.timing,
            now=self.wall_clock,
            before_resend=before_resend,
            while_waiting=while_waiting,
        )
        return self._run(call)

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

    def latest_version(self, model: str) -> str | None:
        """Return the latest version of a model where a create needs a version, else None; free of charge.

        The server is asked once per process and connection.

        :param model: `owner/name`
        :raises VaceInputError: if the server names no version
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        return self._run(calls.latest_version(model, timing=self.timing))

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
        """Cancel a prediction and return the new state; a terminal prediction stays terminal.

        :raises VaceInputError: if the argument names no prediction, or the back-end has no cancel
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        return self._run(calls.cancel(prediction))

    async def acancel_prediction(self, prediction: object) -> Prediction:
        """Await :meth:`cancel_prediction`."""
        return await self._arun(calls.cancel(prediction))

    def stop_prediction(self, prediction: Prediction) -> Prediction | None:
        """Cancel a prediction in several attempts, and log the consequence for the bill.

        :return: the new state; None if no cancel was accepted
        """
        return self._run(calls.stop(prediction, timing=self.timing))

    async def astop_prediction(self, prediction: Prediction) -> Prediction | None:
        """Await :meth:`stop_prediction`."""
        return await self._arun(calls.stop(prediction, timing=self.timing))

    def poll(self, wait: Wait, now: Callable[[], float] | None = None) -> Final | PollAgain:
        """Poll once for a wait; repeat after a refusal, with pauses, until the refusal is settled.

        :param now: returns seconds since the epoch by the clock of the wait's deadline (default: the server's
            clock, as far as `clock` confirms it)
        :raises VaceError: the reason for the end of the wait
        """
        # A missing connection is polled again too, so its error must not become Airflow's here.
        return self.client.run(calls.poll(wait, now=now or self._confirmed_now))

    def wait_for_prediction(
        self,
        prediction: object,
        timeout: float | None = 3600.0,
        *,
        poll_interval: float | None = None,
    ) -> Prediction:
        """Block until a prediction is terminal, and return the final state, success or failure.

        :param timeout: seconds from this call; None waits without end
        :param poll_interval: bound in seconds on how late the end is noticed (default: 10 s, or 5 % of
            the time waited)
        :raises PredictionTimeout: if it is not terminal in time; the prediction is not canceled
        :raises VaceError: the reason for the end of the wait, see :meth:`airflow_vace.core.wait.Wait.failed`
        """
        # The deadline begins and ends by this machine's clock, so a wrong server clock cannot move it.
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
        """Yield the account's predictions, newest first, as pages with the unreadable items.

        :param created_after: ISO 8601 time; older predictions are left out
        :raises VaceInputError: if the back-end has no list
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        listing = calls.Listing(created_after, timing=self.timing)
        while not listing.is_over:
            yield self._run(listing.next_page())

    def account_spend(self, since: datetime) -> Spend:
        """Return count, predict seconds and cost of the account's predictions, where the back-end lists.

        The sum contains predictions of other users of the account too; costs are by the prices of
        :attr:`pricing`.

        :param since: start, with a time zone; UTC without one
        :raises VaceInputError: if the back-end has no list, or for an unusable table of prices
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        from airflow_vace.core.spend import Spend

        charge = self.pricing.charge
        start = since if since.tzinfo else since.replace(tzinfo=UTC)
        return Spend.of(self.list_predictions(start.isoformat()), charge)

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
        with self._airflows_own_errors(), self.client.open_file(url, start=start, etag=etag) as download:
            yield download

    def upload_file(
        self,
        open_it: Callable[[], contextlib.AbstractContextManager[BinaryIO]],
        *,
        name: str,
        content_type: str,
        size: int,
    ) -> str:
        """Upload a file to the back-end, free of charge, and return a URL for use in an input.

        :param open_it: opens the file, again for each attempt
        :param size: in bytes; at most 100 MB: https://replicate.com/docs/topics/predictions/input-files
        :raises VaceInputError: if the back-end takes no uploads
        :raises VaceError: one of the tree in :mod:`airflow_vace.exceptions`
        """
        file = calls.FileToUpload(open_it=open_it, name=name, content_type=content_type, size=size)
        return self._run(calls.upload(file, timing=self.timing))
