"""The steps of the API's calls, as values between a call and a driver.

A call yields steps and receives their results: a :class:`Target` for :class:`Connect`, a
:class:`~airflow_vace.core.requests.Response` for a :class:`~airflow_vace.core.requests.Request`, the result
of its call for :class:`Once`, and None for :class:`Pause` and :class:`Note`. If a step fails, the driver
throws the :class:`~airflow_vace.exceptions.VaceError` into the call.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_vace.core.requests import Request, Response

if TYPE_CHECKING:
    from airflow_vace.core.create_turn import Turn
    from airflow_vace.core.requests import Api

T = TypeVar("T")


class Turns(Protocol):
    """The shared budget of creates of an account."""

    def turn(self) -> Turn: ...


class Target(Protocol):
    """The server and the defaults of a connection."""

    @property
    def api(self) -> Api: ...

    @property
    def model(self) -> str: ...

    @property
    def version(self) -> str | None: ...

    @property
    def is_dry_run(self) -> bool: ...

    @property
    def creates(self) -> Turns: ...


@dataclass(frozen=True, slots=True)
class Connect:
    """Read the connection, perhaps by a look-up."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep for a number of seconds; no request of the call is open meanwhile."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Write a line to the log of the caller."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Once:
    """Run a call once in a process, and keep the result under a key; a failed call runs again."""

    key: Hashable
    call: Callable[[], Call[Any]]


Step = Connect | Request | Pause | Note | Once
Call = Generator[Step, Any, T]


def connected() -> Call[Target]:
    """Return the target of the connection."""
    target: Target = yield Connect()
    return target


def sent(request: Request) -> Call[Response]:
    """Return the response to a request, of any status."""
    response: Response = yield request
    return response
