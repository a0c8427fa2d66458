"""The budgets of creates, one for each account, shared by all threads and event loops of a process."""

from __future__ import annotations

import os
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_vace.core.create_budget import CreateBudget
from airflow_vace.core.credentials import account_key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.core.requests import Api
    from airflow_vace.core.response_times import Allowance
    from airflow_vace.core.timing import Timing


class Creates:
    """A budget of creates with a lock and a clock.

    :param clock: returns seconds that never go back
    """

    def __init__(self, budget: CreateBudget, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self.clock = clock
        # A signal handler may interrupt a thread here and end the turn, hence the re-entrant lock.
        self.lock = threading.RLock()

    def turn(self) -> CreateTurn:
        """Return a new turn, after all earlier ones."""
        return CreateTurn(self)


class CreateTurn:
    """The place of one create in a shared budget; see :class:`airflow_vace.core.create_turn.Turn`."""

    def __init__(self, creates: Creates) -> None:
        self._creates = creates
        with creates.lock:
            self._number = creates.budget.join()
            self._accepted_before = creates.budget.accepted_count

    @property
    def is_overtaken(self) -> bool:
        """True if another create was accepted since the last refusal of this one."""
        return self._creates.budget.accepted_count > self._accepted_before

    def take(self) -> float:
        """Return 0.0 if the create may be sent, else seconds until the next question."""
        with self._creates.lock:
            return self._creates.budget.take(self._number, self._creates.clock())

    def notice(self, delay: float) -> str | None:
        """Return a line for the log about a long wait, once in a while."""
        with self._creates.lock:
            return self._creates.budget.notice(delay, self._creates.clock())

    def accepted(self, allowance: Allowance | None) -> None:
        """Record the acceptance."""
        with self._creates.lock:
            self._creates.budget.accepted(self._number, self._creates.clock(), allowance)

    def refused(self, hold: float, retry_after: float | None) -> bool:
        """Record a 429; return True if the pause of all creates is news."""
        with self._creates.lock:
            self._accepted_before = self._creates.budget.accepted_count
            return self._creates.budget.refused(self._number, self._creates.clock(), hold, retry_after)

    def end(self, *, is_sent: bool) -> None:
        """Give the place up; `is_sent` is False if no create was sent."""
        with self._creates.lock:
            self._creates.budget.end(self._number, is_sent=is_sent)


_shared: dict[tuple[str, str, bytes], Creates] = {}
_lock = threading.Lock()


def creates_of(api: Api, timing: Timing) -> Creates:
    """Return the budget of the account that a connection's address and key lead to."""
    key = sha256(account_key_of(api.key, api.headers).encode()).digest()
    place = (api.backend.name, urlsplit(api.base_url).netloc.lower(), key)
    with _lock:
        if place not in _shared:
            _shared[place] = Creates(CreateBudget(api.backend.create_limit, timing))
        return _shared[place]


def forget_creates() -> None:
    """Start again without any budget, as a new process does."""
    global _lock  # noqa: PLW0603 - another thread may have held the lock during a fork
    _lock = threading.Lock()
    _shared.clear()


# A forked process has none of the threads whose turns the budgets hold.
os.register_at_fork(after_in_child=forget_creates)
