"""Costs of a batch: of each item, and in all."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_vace.batch.items import State
from airflow_vace.core.pricing import UNKNOWN, Cost, amount_text, read_amount
from airflow_vace.submission.expense import check_price, total_cost

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_vace.batch.items import Item
    from airflow_vace.core.pricing import Pricing
    from airflow_vace.submission.expense import Spending


class Costs:
    """The costs of a batch's items.

    :param spending: the expenses of all attempts, by the keys of the items
    """

    def __init__(self, spending: Spending) -> None:
        self._spending = spending

    def of(self, item: Item) -> dict[str, Any]:
        """Return the JSON form of the cost of an item; unknown without a price or a create."""
        expense = self._spending.expense(item.key)
        if expense is not None and item.state is not State.REUSED:
            return expense.cost()
        return (item.payload or {}).get("cost") or Cost().as_json()

    def total(self, items: Iterable[Item]) -> dict[str, Any]:
        """Return the JSON form of the cost of all predictions of the task.

        The member `saved` is the avoided cost of the reused videos, and `unpriced` the number of items whose
        prediction has no price, so the amount leaves them out.
        """
        total = total_cost(self._spending.expenses)
        costs = [self.of(item) for item in items if item.payload is not None]
        unpriced = sum(cost["basis"] == UNKNOWN for cost in costs)
        if unpriced and total["amount"] is not None:
            total["unpriced"] = unpriced
        reused = [cost for cost in costs if cost.get("saved")]
        if not reused:
            return total
        saved = sum((read_amount(cost["saved"]) or Decimal() for cost in reused), Decimal())
        if total["currency"] is None:
            # Nothing was submitted, so the prices of the reused videos give currency and basis.
            total = {name: reused[0][name] for name in ("amount", "currency", "basis")}
        return {**total, "saved": amount_text(saved)}


def check_prices(
    pricing: Pricing, spending: Spending, items: Iterable[Item], model: str, version: str | None
) -> None:
    """Check that each item has a price if there is a cap, before the first create.

    :param model: `owner/name`
    :param version: None for the latest version, which is looked up later and may have a price of its own
    :raises VaceInputError: without a price
    """
    if not spending.is_limited or (version is None and pricing.knows(model)):
        return
    for item in items:
        if item.row is not None:
            check_price(pricing.price_of(model, version, item.row.input), model)
