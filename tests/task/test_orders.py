"""The order of an operator: normalised and digested once, and steady across retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from airflow_vace.submission.record import Record, Terms
from airflow_vace.task.orders import Orders, note_input
from airflow_vace.task.run import TaskRun

if TYPE_CHECKING:
    from airflow_vace.hooks import VaceHook
    from airflow_vace.submission.order import Order


class Connection:
    """A hook whose connection names a model, and counts the normalised inputs."""

    vace_conn_id = "vace_default"

    def __init__(self) -> None:
        self.model = "acme/first"
        self.normalised = 0

    def resolved(self, values: Any, *, model: str | None, version: str | None) -> Any:
        self.normalised += 1
        return dict(values), model or self.model, version


def orders_of(connection: Connection) -> Orders:
    hook = cast("VaceHook", connection)
    return Orders(hook, {"prompt": "a fox"}, model=None, version=None, arguments=None)


def record_of(order: Order) -> Record:
    return Record.of(order, Terms(now=0.0, deadline=0.0, max_tries=0), before=None)


def test_an_input_is_normalised_once() -> None:
    connection = Connection()
    orders = orders_of(connection)
    order = orders.since(None)
    assert orders.since(None) is order
    assert orders.latest is order
    assert connection.normalised == 1


def test_a_changed_connection_does_not_change_the_order_of_a_retry() -> None:
    connection = Connection()
    record = record_of(orders_of(connection).since(None))
    connection.model = "acme/second"
    assert orders_of(connection).since(record).fingerprint == record.fingerprint
    assert orders_of(connection).since(None).fingerprint != record.fingerprint


def test_the_input_of_another_order_stays_unknown() -> None:
    task: Any = type("Task", (), {"log": None})()
    claim: Any = None
    run = TaskRun(task, cast("Any", {}), claim)
    order = orders_of(Connection()).since(None)
    note_input(run, order, None)
    assert run.input == {"prompt": "a fox"}
    other = orders_of(Connection())
    other._values = {"prompt": "an otter"}
    note_input(run, order, record_of(other.since(None)))
    assert run.input == {}
