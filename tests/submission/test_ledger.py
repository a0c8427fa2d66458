"""Ledgers: a stored intent is verified, and trouble with the store is an error of its own type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.exceptions import LedgerError
from airflow_vace.submission.ledger import AttemptLedger, Ledger
from support.records import intent, submitted
from support.tasks import Store

if TYPE_CHECKING:
    from collections.abc import Callable


def test_an_intent_is_written_and_read_back() -> None:
    store, lone = Store(), intent()
    ledger = Ledger(store)
    assert ledger.read() is None
    ledger.intend(lone, None)
    assert ledger.read() == lone
    ledger.withdraw(None)
    assert ledger.read() is None


def test_an_intent_that_another_attempt_has_overwritten_is_none() -> None:
    store = Store()

    class Racing(Store):
        def get(self, key: str) -> Any:
            return {**intent().as_json(), "nonce": "another"} if key else None

    with pytest.raises(LedgerError, match="another attempt of this task runs"):
        Ledger(Racing()).intend(intent(), None)

    class Forgetful(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            """Lose it."""

    with pytest.raises(LedgerError, match="loses writes"):
        Ledger(Forgetful()).intend(intent(), None)
    assert store.rows == {}


@pytest.mark.parametrize("call", ["get", "set", "delete"])
def test_trouble_with_a_store_is_named_in_the_error(call: str) -> None:
    store = Store()
    store.trouble.append((call, RuntimeError("the API server is away")))
    ledger = Ledger(store)
    acts: dict[str, Callable[[], object]] = {
        "get": ledger.read,
        "set": lambda: ledger.write(intent()),
        "delete": lambda: ledger.withdraw(None),
    }
    act = acts[call]
    with pytest.raises(LedgerError, match=r"RuntimeError: the API server is away"):
        act()


def test_the_ledger_of_one_attempt_is_not_durable() -> None:
    ledger = AttemptLedger(None)
    assert not ledger.is_durable
    ledger.intend(intent(), None)
    record = submitted()
    ledger.write(record)
    ledger.withdraw(None)
    assert ledger.read() == record
    assert AttemptLedger(None).read() is None
