"""Rehearsal: the steps of a submission up to the create, with neither a create nor a write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_vace.inputs import normalize_input
from airflow_vace.submission.create import Creator

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.prediction import Prediction
    from airflow_vace.submission.expense import Expense
    from airflow_vace.submission.ledger import Ledger
    from airflow_vace.submission.order import Order
    from airflow_vace.submission.record import Record
    from airflow_vace.submission.submitter import Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The next step of a submission.

    `record` is the record of an earlier attempt, which a submission continues; `saved` is the prediction of a
    saved video, which a submission returns. Without both, a submission sends a create, and `expense` is its
    greatest expected cost, None without a price. `order` has the version of the create.
    """

    ledger: Ledger
    order: Order
    record: Record | None = None
    saved: Prediction | None = None
    expense: Expense | None = None

    def reserve(self) -> None:
        """Count the cost in the sums of this dry run.

        :raises BudgetExceeded: if the create would pass a cap
        """
        if self.expense is not None:
            self.ledger.spending.is_rehearsal = True
            self.ledger.spending.reserve(self.ledger.name, self.expense)


def rehearse(submission: Submission, order_since: Callable[[Record | None], Order]) -> Plan:
    """Return the next step of a submission, after all checks of a create; only free requests are sent.

    :param order_since: see :meth:`~airflow_vace.submission.submitter.Submission.prediction_of`
    :raises LedgerError: if the record is unreadable
    :raises VaceError: for an order, a file or a price that would stop the create
    """
    hook, ledger = submission.hook, submission.ledger
    record = ledger.read()
    order = order_since(record)
    if record is not None:
        return Plan(ledger=ledger, order=order, record=record)
    order, saved = submission.reusable(order)
    if saved is not None:
        return Plan(ledger=ledger, order=order, saved=saved)
    for warning in normalize_input(order.values, model=order.model, paths=True)[1]:
        submission.log.warning("The model may refuse this: %s", warning)
    creator = Creator(hook, ledger, submission.policy, submission.attempt, submission.log)
    version = creator.latest_version(order, None)
    sent = submission.reachable(order.values)
    expense = creator.expense(order, sent, None, version)
    order = replace(order, version=order.version or version)
    return Plan(ledger=ledger, order=order, expense=expense)
