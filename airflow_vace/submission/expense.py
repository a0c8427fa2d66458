"""Expenses: the money that a task has spent, and reserved, over all attempts. Pure, no I/O, no clock."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow_vace.core.pricing import HOW_TO_PRICE, Cost, Price, amount_text, money_text, run_seconds
from airflow_vace.exceptions import BudgetExceeded, VaceInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_vace.prediction import Prediction

_NOTHING = Decimal()


@dataclass(frozen=True, kw_only=True)
class Expense:
    """The expenses of one task, or of one item of a batch.

    `earlier` is the cost of previous predictions, as far as known, else the amount reserved for each.
    `reserved` is the greatest expected cost of the present prediction, `charged` the cost after the end.
    `longest` is the longest run so far, in seconds. `has_unknown` is True if a previous prediction may or may
    not exist, or has an unknown cost; `earlier` then counts what was reserved.
    """

    price: Price
    reserved: Decimal = _NOTHING
    charged: Decimal | None = None
    earlier: Decimal = _NOTHING
    longest: float | None = None
    has_unknown: bool = False

    @classmethod
    def following(cls, before: Expense | None, price: Price, seconds: float) -> Expense:
        """Return the expense of a new prediction after the expenses of earlier ones.

        :param seconds: the greatest expected duration, for a price by the second
        """
        reserved = price.of_seconds(seconds).amount or _NOTHING
        if before is None:
            return cls(price=price, reserved=reserved)
        return cls(
            price=price,
            reserved=reserved,
            earlier=before.committed,
            longest=before.longest,
            has_unknown=before.has_unknown or (before.charged is None and before.reserved > 0),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Expense:
        """Read the form of :meth:`as_json`.

        :raises ValueError: (or another error of a wrong type) if `data` is no expense
        """
        charged, longest = data.get("charged"), data.get("longest")
        return cls(
            price=Price.from_json(data["price"]),
            reserved=Decimal(data["reserved"]),
            charged=None if charged is None else Decimal(charged),
            earlier=Decimal(data["earlier"]),
            longest=None if longest is None else float(longest),
            has_unknown=data.get("has_unknown") is True,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the form for a record, amounts as text."""
        members: dict[str, Any] = {
            "price": self.price.as_json(),
            "reserved": amount_text(self.reserved),
            "charged": None if self.charged is None else amount_text(self.charged),
            "earlier": amount_text(self.earlier),
            "longest": self.longest,
            "has_unknown": self.has_unknown or None,
        }
        return {name: value for name, value in members.items() if value is not None}

    @property
    def spent(self) -> Decimal:
        """What ended predictions have cost."""
        return self.earlier + (self.charged or _NOTHING)

    @property
    def held(self) -> Decimal:
        """What is reserved for a prediction without a known cost."""
        return self.reserved if self.charged is None else _NOTHING

    @property
    def committed(self) -> Decimal:
        """What is spent or reserved."""
        return self.spent + self.held

    def settled(self, prediction: Prediction) -> Expense:
        """Return the expense after a prediction's end; unchanged as long as the cost is unknown."""
        if not prediction.status.is_final:
            return self
        seconds = run_seconds(prediction)
        longest = max((each for each in (self.longest, seconds) if each is not None), default=None)
        charged = self.price.charge(prediction).amount
        return replace(self, longest=longest, charged=self.charged if charged is None else charged)

    def denied(self) -> Expense:
        """Return the expense of a create that was proven not to be accepted."""
        return replace(self, charged=_NOTHING)

    def and_also(self, amount: Decimal) -> Expense:
        """Return the expense with a further cost."""
        return replace(self, earlier=self.earlier + amount)

    def cost(self) -> dict[str, Any]:
        """Return the JSON form of the present prediction's cost, for payloads and manifests.

        The member `task` is the cost of all predictions of the task or item, if these were several, and
        `reserved` the part of `task`, or of `amount`, that may still change.
        """
        amount = self.held if self.charged is None else self.charged
        known = Cost(amount=amount, currency=self.price.currency, basis=self.price.basis).as_json()
        if self.earlier:
            known["task"] = amount_text(self.committed)
        if self.held:
            known["reserved"] = amount_text(self.held)
        if self.has_unknown:
            known["has_unknown"] = True
        return known

    def beside(self, cost: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON form of the cost of a reused video, with the sum of this expense as `task`."""
        if not self.committed or cost["currency"] != self.price.currency:
            return cost
        known = {**cost, "task": amount_text(self.committed)}
        return {**known, "reserved": amount_text(self.held)} if self.held else known


class Spending:
    """The expenses of a task, by item; threads may reserve at the same time.

    `is_rehearsal` is True in a dry run, whose sum stops no task that pays.

    :param cap: the greatest sum of all expenses; None without a limit
    :param spent_elsewhere: returns the expenses of the other tasks of the DAG run, given the sum of this
        task and `is_rehearsal`; None without a limit for the run
    :param run_cap: the greatest sum of all expenses of the DAG run
    :param announce: shows the sum of this task to the others of the DAG run; None without a limit for it
    """

    def __init__(
        self,
        cap: Decimal | None = None,
        *,
        run_cap: Decimal | None = None,
        spent_elsewhere: Callable[[Decimal, bool], Decimal] | None = None,
        announce: Callable[[Decimal], None] | None = None,
    ) -> None:
        self.cap = cap
        self.run_cap = run_cap
        self.is_rehearsal = False
        self._spent_elsewhere = spent_elsewhere
        self._announce = announce
        # The sum that the other tasks see; None if that is uncertain.
        self._announced: Decimal | None = _NOTHING
        self._expenses: dict[str, Expense] = {}
        self._spent = self._held = _NOTHING
        self._currencies: Counter[str] = Counter()
        self._longest: float | None = None
        self._lock = Lock()

    @property
    def is_limited(self) -> bool:
        """Return True if a create needs a price."""
        return self.cap is not None or self.run_cap is not None

    @property
    def longest(self) -> float | None:
        """The longest run of all items so far, in seconds; None before the first end."""
        return self._longest

    @property
    def committed(self) -> Decimal:
        """What is spent or reserved by all items."""
        return self._spent + self._held

    def expense(self, name: str) -> Expense | None:
        """Return the expense of an item, None without a price or a create."""
        with self._lock:
            return self._expenses.get(name)

    @property
    def expenses(self) -> list[Expense]:
        """The expenses of all items."""
        with self._lock:
            return list(self._expenses.values())

    def note(self, name: str, expense: Expense | None) -> None:
        """Replace the expense of an item."""
        with self._lock:
            self._replace(name, expense)

    def reserve(self, name: str, expense: Expense) -> None:
        """Replace the expense of an item, before the create.

        :raises BudgetExceeded: if the sum would pass a cap; nothing has changed then
        """
        with self._lock:
            before = self._expenses.get(name)
            self._replace(name, expense)
            try:
                self._check(expense)
            except BaseException:  # an unread sum of the run leaves nothing reserved either
                self._replace(name, before)
                # The other tasks have read the refused amount as if it were reserved.
                self._publish()
                raise

    def publish(self) -> None:
        """Show the sum of this task to the others of the DAG run, if it has changed since the last time.

        No error is raised, since the prediction at hand is paid for.
        """
        with self._lock:
            self._publish()

    def _publish(self) -> None:
        if self._announce is None or self._announced == self.committed:
            return
        with suppress(Exception):  # Airflow's API server and XCom backends raise any type
            self._announce(self.committed)
            self._announced = self.committed

    def _replace(self, name: str, expense: Expense | None) -> None:
        before = self._expenses.pop(name, None)
        if before is not None:
            self._spent, self._held = self._spent - before.spent, self._held - before.held
            self._currencies[before.price.currency] -= 1
        if expense is not None:
            self._expenses[name] = expense
            self._spent, self._held = self._spent + expense.spent, self._held + expense.held
            self._currencies[expense.price.currency] += 1
            if expense.longest is not None:
                self._longest = max(self._longest or 0.0, expense.longest)

    def _check(self, expense: Expense) -> None:
        if not self.is_limited:
            return
        currencies = [currency for currency, count in self._currencies.items() if count]
        if len(currencies) > 1:
            raise VaceInputError(
                f"The prices of this task's predictions are in {' and '.join(sorted(currencies))}, and a cap"
                " needs one currency. Nothing was submitted; give all prices in one currency.",
                field="prices",
                remedy="give all prices in one currency",
            )
        if self.cap is not None and self.committed > self.cap:
            raise self._exceeded("max_cost", self.cap, self._spent, expense)
        if self.run_cap is None or self._spent_elsewhere is None:
            return
        self._announced = None
        elsewhere = self._spent_elsewhere(self.committed, self.is_rehearsal)
        self._announced = self.committed
        if elsewhere + self.committed > self.run_cap:
            where = "[vace] max_cost_per_dag_run"
            raise self._exceeded(where, self.run_cap, elsewhere + self._spent, expense)

    def _exceeded(self, name: str, cap: Decimal, spent: Decimal, expense: Expense) -> BudgetExceeded:
        """Return the error for a create that would pass a cap."""
        held = self._held - expense.held
        shown = [money_text(amount, expense.price.currency) for amount in (expense.held, cap, spent, held)]
        by_time = " (reserved by the longest run so far, or the timeout)"
        basis = "" if expense.price.per_second is None else by_time
        holders = "the predictions before it" if self.is_rehearsal else "predictions that run"
        return BudgetExceeded(
            f"Another prediction may cost {shown[0]}{basis} and would pass {name}={shown[1]}: {shown[2]} are"
            f" spent, and {shown[3]} are reserved for {holders}. Nothing was sent for it; raise {name} to go"
            " on.",
            spent=spent,
            reserved=held,
            wanted=expense.held,
            cap=cap,
        )


def check_price(price: Price | None, model: str) -> Price:
    """Return a price.

    :raises VaceInputError: without a price
    """
    if price is None:
        raise VaceInputError(
            f"A cap is set (max_cost, or [vace] max_cost_per_dag_run), and there is no price for {model}, so"
            f" the cost of a prediction is unknown. Nothing was submitted; {HOW_TO_PRICE}.",
            field="prices",
            value=model,
            remedy=HOW_TO_PRICE,
        )
    return price


def total_cost(expenses: list[Expense]) -> dict[str, Any]:
    """Return the JSON form of the sum of expenses; the amount is None without a price."""
    currencies = {expense.price.currency for expense in expenses}
    if len(currencies) != 1:
        return Cost().as_json()
    amount = sum((expense.committed for expense in expenses), _NOTHING)
    (basis, *more) = {expense.price.basis for expense in expenses}
    found = Cost(amount=amount, currency=currencies.pop(), basis="per_second" if more else basis).as_json()
    if held := sum((expense.held for expense in expenses), _NOTHING):
        found["reserved"] = amount_text(held)
    if any(expense.has_unknown for expense in expenses):
        found["has_unknown"] = True
    return found


def read_expense(data: object) -> Expense | None:
    """Return the expense in a record, None in a record of an older version."""
    with suppress(KeyError, TypeError, ValueError, ArithmeticError):
        return Expense.from_json(data) if isinstance(data, dict) else None
    return None
