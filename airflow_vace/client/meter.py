"""Meter: receiver of the numbers of requests and waits."""

from __future__ import annotations


class Meter:
    """Receives numbers of a client and keeps none; a subclass passes the numbers on.

    Each method must return at once and raise nothing: the poller calls both from its event loop.
    """

    def sent(self, backend: str, verb: str) -> None:
        """Take note of a request.

        :param backend: name of the back-end, such as `replicate`
        :param verb: `create`, `get`, `cancel`, `list` or another verb of the API
        """

    def answered(self, backend: str, verb: str, status: int) -> None:
        """Take note of a response with a status code."""

    def waits(self, count: int) -> None:
        """Take note of the number of open waits of a poller."""


NO_METER = Meter()
