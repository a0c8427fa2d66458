"""Sums over predictions."""

from __future__ import annotations

from decimal import Decimal

from airflow_vace.core.pricing import Pricing
from airflow_vace.core.spend import Spend
from airflow_vace.prediction import Prediction

PRICES = {
    "prunaai/vace-14b": {"per_run": 0.40},
    "a/second": {"per_second": "0.001", "currency": "EUR"},
}


def prediction(model: str, status: str = "succeeded", **metrics: float) -> Prediction:
    return Prediction.from_json({"id": "abc", "model": model, "status": status, "metrics": metrics})


def test_a_sum_keeps_currencies_apart_and_counts_unknown_costs() -> None:
    found = [
        prediction("prunaai/vace-14b", predict_time=10.5),
        prediction("prunaai/vace-14b", "aborted"),
        prediction("a/second", predict_time=20),
        prediction("no/price", predict_time=1),
    ]
    spend = Spend.of(found, Pricing.read(PRICES, "a test").charge)
    assert (spend.count, spend.predict_seconds, spend.unpriced) == (4, 31.5, 1)
    assert spend.amounts == {"USD": Decimal("0.40"), "EUR": Decimal("0.02")}
    assert spend.as_json() == {
        "count": 4,
        "predict_seconds": 31.5,
        "amounts": {"USD": "0.40", "EUR": "0.02"},
        "unpriced": 1,
    }


def test_a_sum_of_nothing_is_zero() -> None:
    empty = Spend.of([], Pricing.read({}, "a test").charge)
    assert empty == Spend()
    assert empty.as_json()["amounts"] == {}
