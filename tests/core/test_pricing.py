"""Prices: reading a table, estimates and charges, in decimals."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_vace.core.pricing import (
    Cost,
    Price,
    Pricing,
    amount_text,
    money_text,
    read_amount,
    run_seconds,
)
from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import normalize_input
from airflow_vace.prediction import Prediction

VACE = "prunaai/vace-14b"


def ended(status: str = "succeeded", **members: Any) -> Prediction:
    return Prediction.from_json({"id": "p1", "status": status, "model": VACE, **members})


def test_a_price_by_run_is_charged_for_all_ends_but_aborted() -> None:
    pricing = Pricing.read({VACE: {"per_run": 0.40}}, "here")
    for status in ("succeeded", "failed", "canceled"):
        assert pricing.charge(ended(status)).as_json() == {
            "amount": "0.40",
            "currency": "USD",
            "basis": "per_run",
        }
    assert pricing.charge(ended("aborted")).amount == 0


def test_a_price_by_second_counts_the_time_of_the_run() -> None:
    pricing = Pricing.read({VACE: {"per_second": "0.0014", "per_run": 0.1, "currency": "EUR"}}, "here")
    cost = pricing.charge(ended(metrics={"predict_time": 31.5}))
    assert cost == Cost(amount=Decimal("0.144100"), currency="EUR", basis="per_second")
    assert cost.as_json()["amount"] == "0.1441"


@pytest.mark.parametrize(
    ("members", "seconds"),
    [
        ({"metrics": {"predict_time": 12}}, 12.0),
        ({"started_at": "2026-11-28T10:00:00Z", "completed_at": "2026-11-28T10:00:30Z"}, 30.0),
        ({"started_at": "2026-11-28T10:00:30Z", "completed_at": "2026-11-28T10:00:00Z"}, 0.0),
        ({"status": "canceled", "completed_at": "2026-11-28T10:00:00Z"}, 0.0),
        ({"completed_at": "2026-11-28T10:00:00Z"}, None),
        ({"metrics": {"predict_time": "long"}}, None),
        ({"metrics": {"predict_time": -1}}, None),
        ({"metrics": {"predict_time": 1e25}}, None),
        ({"metrics": {"predict_time": 10**400}}, None),
        ({"status": "processing", "started_at": "2026-11-28T10:00:00Z"}, None),
    ],
)
def test_the_time_of_a_run_comes_from_metrics_or_times(
    members: dict[str, Any], seconds: float | None
) -> None:
    prediction = Prediction.from_json({"id": "p1", "status": "succeeded", **members})
    assert run_seconds(prediction) == seconds
    charge = Price(per_second=Decimal(1)).charge(prediction)
    assert charge.amount == (None if seconds is None else Decimal(str(seconds)))


def test_the_first_price_with_fitting_conditions_applies() -> None:
    table = {
        VACE: [
            {"size": "1280*720", "per_run": 0.8},
            {"speed_mode": "Extra Juiced 🚀 (even more speed)", "per_run": 0.2},
            {"per_run": 0.4},
        ],
        f"{VACE}:v2": {"per_run": 1},
    }
    pricing = Pricing.read(table, "here")
    found = [
        pricing.price_of(VACE, version, values)
        for version, values in (
            (None, {"size": "1280*720"}),
            ("v1", {"speed_mode": "Extra Juiced 🚀 (even more speed)"}),
            (None, {}),
            ("v2", {"size": "1280*720"}),
        )
    ]
    assert [price and price.per_run for price in found] == [
        Decimal("0.8"),
        Decimal("0.2"),
        Decimal("0.4"),
        Decimal(1),
    ]


@pytest.mark.parametrize(
    ("condition", "given"),
    [({"size": "1280x720"}, {"size": "1280x720"}), ({"speed_mode": "extra"}, {"speed_mode": "Extra Juiced"})],
)
def test_a_condition_may_have_the_short_words_of_an_input(
    condition: dict[str, str], given: dict[str, str]
) -> None:
    pricing = Pricing.read({VACE: [{**condition, "per_run": 0.80}, {"per_run": 0.40}]}, "here")
    values, _ = normalize_input({"prompt": "a fox", **given})
    price = pricing.price_of(VACE, None, values)
    assert price is not None
    assert price.per_run == Decimal("0.80")


def test_a_default_of_the_model_meets_a_condition() -> None:
    pricing = Pricing.read(
        {VACE: {"size": "832*480", "per_run": 0.4}, "a/b": {"size": "large", "per_run": 1}}, ""
    )
    assert pricing.price_of(None, None, {}) is not None
    assert pricing.price_of("A/B", None, {}) is None
    assert pricing.price_of("A/B", None, {"size": "large"}) is not None
    assert pricing.knows("A/B")


@pytest.mark.parametrize("table", [None, "", {}, "  "])
def test_without_a_table_all_costs_are_unknown(table: object) -> None:
    pricing = Pricing.read(table, "here")
    assert pricing.charge(ended()).as_json() == {"amount": None, "currency": None, "basis": "unknown"}
    assert not pricing.knows(VACE)


def test_text_is_read_as_json_without_binary_fractions() -> None:
    pricing = Pricing.read('{"prunaai/vace-14b": {"per_run": 0.1}}', "here")
    assert sum((pricing.charge(ended()).amount or 0) for _ in range(3)) == Decimal("0.3")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("{", "is no JSON"),
        (["a"], "is no object of prices by model"),
        ({1: {}}, "names a model that is no text"),
        ({"vace": {"per_run": 1}}, "names no model owner/name"),
        ({VACE: 0.4}, "is no price: 0.4"),
        ({VACE: {"per_runs": 0.4}}, "has the unknown member 'per_runs'"),
        ({VACE: {"per_run": -1}}, "has no amount as per_run: -1"),
        ({VACE: {"per_run": True}}, "has no amount as per_run: True"),
        ({VACE: {"per_run": "NaN"}}, "has no amount as per_run: 'NaN'"),
        ({VACE: {"per_run": "cheap"}}, "has no amount as per_run: 'cheap'"),
        ({VACE: {"per_second": 1e9}}, "has no amount as per_second"),
        ({VACE: {"currency": "USD"}}, "has neither per_run nor per_second"),
        ({VACE: {"per_run": 1, "currency": "$"}}, "has no currency such as USD: '$'"),
        ({VACE: [{"per_run": 1, "size": 3}]}, "has a size that is no text: 3"),
        ({f"{VACE}:v2": {"per_run": 1, "version": "v1"}}, "names two versions"),
    ],
)
def test_a_bad_table_names_place_problem_value_and_remedy(table: object, problem: str) -> None:
    with pytest.raises(VaceInputError) as caught:
        Pricing.read(table, "[vace] prices")
    assert "[vace] prices" in str(caught.value)
    assert problem in str(caught.value)
    assert 'such as {"prunaai/vace-14b": {"per_run": 0.40}}' in str(caught.value)
    assert caught.value.field == "prices"


def test_a_price_survives_its_json_form() -> None:
    price = Price(per_run=Decimal("0.40"), size="832*480", version="v1", currency="EUR")
    assert Price.from_json(price.as_json()) == price


def test_amounts_are_shown_with_at_least_two_digits() -> None:
    assert [amount_text(Decimal(text)) for text in ("0", "0.4", "12", "0.00014", "1E+2")] == [
        "0.00",
        "0.40",
        "12.00",
        "0.00014",
        "100.00",
    ]
    assert money_text(Decimal("0.4"), "USD") == "$0.40"
    assert money_text(Decimal("0.4"), "EUR") == "EUR 0.40"


def test_an_amount_is_a_number_of_at_least_zero() -> None:
    assert read_amount(" 12.50 ") == Decimal("12.5")
    assert read_amount(0) == 0
    bad: list[Any] = [None, [], "x", "-1", "Infinity", 1e6]
    assert [read_amount(value) for value in bad] == [None] * 6
