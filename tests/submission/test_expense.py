"""Expenses: reserved before a create, charged after the end, and never more than the cap."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from airflow_vace.core.pricing import Price
from airflow_vace.exceptions import BudgetExceeded, VaceInputError
from airflow_vace.prediction import Prediction
from airflow_vace.submission.expense import Expense, Spending, read_expense, total_cost

RUN = Price(per_run=Decimal("0.40"))
SECOND = Price(per_second=Decimal("0.01"))


def ended(status: str = "succeeded", **members: Any) -> Prediction:
    return Prediction.from_json({"id": "p1", "status": status, **members})


def test_an_expense_is_reserved_then_charged_then_earlier() -> None:
    first = Expense.following(None, RUN, 3600)
    assert (first.committed, first.held, first.spent) == (Decimal("0.40"), Decimal("0.40"), Decimal(0))
    failed = first.settled(ended("failed"))
    assert (failed.committed, failed.held) == (Decimal("0.40"), Decimal(0))
    second = Expense.following(failed, RUN, 3600).settled(ended("aborted"))
    assert second.committed == Decimal("0.40")
    assert second.cost() == {"amount": "0.00", "currency": "USD", "basis": "per_run", "task": "0.40"}


def test_a_running_prediction_keeps_its_reservation() -> None:
    running = Expense.following(None, SECOND, 60).settled(ended("processing"))
    assert running.cost() == {
        "amount": "0.60",
        "currency": "USD",
        "basis": "per_second",
        "reserved": "0.60",
    }
    assert running.settled(ended(metrics={"predict_time": 20})).committed == Decimal("0.20")


def test_a_lost_create_counts_as_reserved_until_it_is_denied() -> None:
    lost = Expense.following(None, RUN, 60)
    assert Expense.following(lost, RUN, 60).committed == Decimal("0.80")
    assert Expense.following(lost, RUN, 60).cost()["has_unknown"] is True
    again = Expense.following(lost.denied(), RUN, 60)
    assert (again.committed, again.has_unknown) == (Decimal("0.40"), False)


def test_an_expense_survives_its_json_form() -> None:
    expense = Expense.following(Expense.following(None, SECOND, 9), SECOND, 5).settled(
        ended(metrics={"predict_time": 7.5})
    )
    assert read_expense(json.loads(json.dumps(expense.as_json()))) == expense


@pytest.mark.parametrize("data", [None, 3, {}, {"price": {}}, {"price": {"per_run": 1}, "reserved": "x"}])
def test_an_unreadable_expense_is_none(data: object) -> None:
    assert read_expense(data) is None


def test_no_reservation_passes_the_cap() -> None:
    spending = Spending(Decimal("1.00"))
    expense = Expense.following(None, RUN, 60)
    spending.reserve("a", expense)
    spending.reserve("b", expense)
    with pytest.raises(BudgetExceeded) as caught:
        spending.reserve("c", expense)
    error = caught.value
    assert (error.spent, error.reserved, error.wanted, error.cap) == (
        Decimal(0),
        Decimal("0.80"),
        Decimal("0.40"),
        Decimal("1.00"),
    )
    assert "may cost $0.40 and would pass max_cost=$1.00: $0.00 are spent, and $0.80 are reserved" in str(
        error
    )
    assert error.may_fit_later
    assert spending.committed == Decimal("0.80")
    spending.note("a", expense.settled(ended("aborted")))
    spending.reserve("c", expense)
    for name in "bc":
        spending.note(name, expense.settled(ended()))
    with pytest.raises(BudgetExceeded) as caught:
        spending.reserve("d", expense)
    assert not caught.value.may_fit_later


def test_the_costs_of_other_tasks_count_for_the_cap_of_the_run() -> None:
    asked: list[Decimal] = []

    def spent_elsewhere(own: Decimal, is_rehearsal: bool) -> Decimal:  # noqa: FBT001 - a callback
        assert not is_rehearsal
        asked.append(own)
        return Decimal("0.50")

    spending = Spending(run_cap=Decimal("1.00"), spent_elsewhere=spent_elsewhere)
    spending.reserve("", Expense.following(None, RUN, 60))
    with pytest.raises(BudgetExceeded, match=r"would pass \[vace\] max_cost_per_dag_run=\$1\.00"):
        spending.reserve("b", Expense.following(None, RUN, 60))
    assert asked == [Decimal("0.40"), Decimal("0.80")]
    assert spending.committed == Decimal("0.40")


def test_a_cap_needs_prices_in_one_currency() -> None:
    spending = Spending(Decimal(5))
    spending.reserve("a", Expense.following(None, RUN, 60))
    euro = Expense.following(None, Price(per_run=Decimal(1), currency="EUR"), 60)
    with pytest.raises(VaceInputError, match="in EUR and USD, and a cap needs one currency"):
        spending.reserve("b", euro)


def test_the_longest_run_of_all_items_is_remembered() -> None:
    spending = Spending()
    assert spending.longest is None
    for name, seconds in {"a": 30, "b": 20}.items():
        expense = Expense.following(None, SECOND, 99).settled(ended(metrics={"predict_time": seconds}))
        spending.note(name, expense)
    assert spending.longest == 30


def test_a_total_names_what_is_reserved_and_unknown() -> None:
    expenses = [
        Expense.following(None, RUN, 60).settled(ended()),
        Expense.following(Expense.following(None, RUN, 60), RUN, 60),
    ]
    assert total_cost(expenses) == {
        "amount": "1.20",
        "currency": "USD",
        "basis": "per_run",
        "reserved": "0.40",
        "has_unknown": True,
    }
    assert total_cost([]) == {"amount": None, "currency": None, "basis": "unknown"}
