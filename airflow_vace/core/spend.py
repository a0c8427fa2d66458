"""Sums over predictions: number, seconds and cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from math import fsum
from typing import TYPE_CHECKING, Any, Self

from airflow_vace.core.pricing import amount_text, run_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_vace.core.pricing import Cost
    from airflow_vace.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class Spend:
    """The sum of some predictions.

    :param count: number of predictions
    :param predict_seconds: sum of the known run times, see :func:`airflow_vace.core.pricing.run_seconds`
    :param amounts: sum of the known costs, by currency
    :param unpriced: number of predictions with an unknown cost
    """

    count: int = 0
    predict_seconds: float = 0.0
    amounts: Mapping[str, Decimal] = field(default_factory=dict)
    unpriced: int = 0

    @classmethod
    def of(cls, predictions: Iterable[Prediction], charge: Callable[[Prediction], Cost]) -> Self:
        """Return the sum of predictions.

        :param charge: returns the cost of a prediction
        """
        count, unpriced, amounts = 0, 0, dict[str, Decimal]()
        seconds = []
        for prediction in predictions:
            count += 1
            seconds.append(run_seconds(prediction) or 0.0)
            cost = charge(prediction)
            if cost.amount is None:
                unpriced += 1
            else:
                name = cost.currency or ""
                amounts[name] = amounts.get(name, Decimal()) + cost.amount
        return cls(count=count, predict_seconds=fsum(seconds), amounts=amounts, unpriced=unpriced)

    def as_json(self) -> dict[str, Any]:
        """Return `{"count": 2, "predict_seconds": 90.5, "amounts": {"USD": "0.80"}, "unpriced": 0}`."""
        return {
            "count": self.count,
            "predict_seconds": round(self.predict_seconds, 3),
            "amounts": {currency: amount_text(amount) for currency, amount in self.amounts.items()},
            "unpriced": self.unpriced,
        }
