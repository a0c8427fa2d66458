"""The connections of aiohttp, with the leniency of http.client.

All use of undocumented parts of aiohttp is in this module; `tests/client/test_same_outcome.py` fails if a new
release changes them.
"""

from __future__ import annotations

from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from urllib3.exceptions import InvalidHeader

from airflow_vace.client.framing import ResponseReader

if TYPE_CHECKING:
    import asyncio


class LenientProtocol(ResponseHandler):
    """A connection whose responses reach the parser of aiohttp in a regular form."""

    _reader: ResponseReader | None = None

    def set_response_params(self, **params: Any) -> None:
        """Prepare for the next response; aiohttp calls this method before each."""
        self._reader = ResponseReader()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Pass received bytes on in a regular form, without surplus after the end of a response."""
        reader = self._reader
        if reader is None or not data or self._parser is None:
            super().data_received(data)
            return
        is_surplus = reader.is_over
        try:
            regular = reader.feed(data)
        except (HTTPException, InvalidHeader) as error:
            self._refuse(error)
            return
        if regular:
            super().data_received(regular)
        if is_surplus and self.transport is not None:
            # The bytes would be read as the response to the next request.
            self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Complete a response that ends with the connection."""
        reader, self._reader = self._reader, None
        if exc is None and reader is not None and self._parser is not None:
            try:
                if regular := reader.end():
                    super().data_received(regular)
            except (HTTPException, InvalidHeader) as error:
                self._refuse(error)
        super().connection_lost(exc)

    def _refuse(self, error: Exception) -> None:
        self._reader = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(aiohttp.ClientPayloadError(error), error)


def use_lenient_protocol(connector: aiohttp.TCPConnector, loop: asyncio.AbstractEventLoop) -> None:
    """Let a connector open connections of :class:`LenientProtocol`."""
    # aiohttp has no public parameter for the class of its connections.
    cast("Any", connector)._factory = partial(LenientProtocol, loop=loop)  # noqa: SLF001
