"""One run of the submitter: few reads of the store, few digests, and a record in wall-clock time."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.hooks import VaceHook
from airflow_vace.submission.decision import Policy
from airflow_vace.submission.ledger import Ledger
from airflow_vace.submission.submitter import Submission
from support.attempts import DONE, set_clock_ahead, task, waiting
from support.records import order
from support.tasks import Store

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator
    from airflow_vace.submission.order import Order
    from airflow_vace.submission.record import Record

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def backend() -> str:
    return "replicate"


class Counted(Store):
    """A store that counts its reads."""

    reads = 0

    def get(self, key: str) -> Any:
        self.reads += 1
        return super().get(key)


@pytest.mark.usefixtures("server")
def test_a_first_submission_reads_the_store_twice_and_orders_once() -> None:
    store, orders = Counted(), []

    def order_since(record: Record | None) -> Order:
        orders.append(record)
        return order()

    submission = Submission(VaceHook(), Ledger(store), Policy(timeout=600), log=logging.getLogger("t"))
    submission.prediction_of(order_since)
    # The second read verifies that the intent is stored.
    assert store.reads == 2
    assert orders == [None]


@pytest.mark.usefixtures("server")
def test_a_first_submission_digests_its_input_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[bytes] = []
    real = hashlib.sha256

    def counted(data: bytes = b"", **kwargs: Any) -> Any:
        digested.append(data)
        return real(data, **kwargs)

    monkeypatch.setattr(hashlib, "sha256", counted)
    submission = Submission(VaceHook(), Ledger(Store()), Policy(timeout=600), log=logging.getLogger("t"))
    submission.prediction_of(lambda _: order())
    texts = [json.loads(data) for data in digested if b"a fox" in data]
    # The fingerprint, without the drawn seed, and the mark, with the seed.
    assert [isinstance(text, list) for text in texts] == [True, False]


def test_a_task_that_waits_reads_the_store_once_more_at_its_end(server: Emulator) -> None:
    store = Counted()
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    waiting(store).result()
    # Another attempt may have taken over during the wait, so the end is recorded only after a read.
    assert store.reads == 3


@pytest.mark.usefixtures("server")
def test_an_intent_is_dated_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    set_clock_ahead(monkeypatch, 1200.0)
    task(store).result()
    intended = datetime.fromisoformat(store.written[0]["intended_at"]).timestamp()
    assert abs(intended - 1200.0 - time.time()) < 60
