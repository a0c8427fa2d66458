"""Values of Python and NumPy as JSON."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import normalize_input
from support.values import Array, Clip, Size


def test_another_models_input_becomes_json() -> None:
    odd = {
        "prompt": 1984,
        "when": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "id": UUID(int=7),
        "pause": timedelta(minutes=1.5),
        "price": Decimal("0.40"),
        "count": Decimal(3),
        "size": Size.WIDE,
        "image": Path("/films/a.png"),
        "deep": [{"rows": (Array([[1, 2.5]]), {3})}],
        "clip": Clip("x"),
        "missing": None,
        "flag": True,
    }
    values, _ = normalize_input(odd, model="somebody/else", paths=True)
    assert json.loads(json.dumps(values)) == values
    assert values == {
        "prompt": "1984",
        "when": "2026-01-02T03:00:00+00:00",
        "day": "2026-01-02",
        "id": "00000000-0000-0000-0000-000000000007",
        "pause": 90.0,
        "price": 0.4,
        "count": 3,
        "size": "1280x720",
        "image": "file:///films/a.png",
        "deep": [{"rows": [[[1, 2.5]], [3]]}],
        "clip": {"prompt": "x", "seed": None},
        "flag": True,
    }


def holding_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


class Missing(date):
    """Stands for the missing date of pandas."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, _: object) -> bool:
        return False

    def __ne__(self, _: object) -> bool:
        return True


@pytest.mark.parametrize(
    "value",
    [
        *(b"x", bytearray(b"x"), object(), Clip, Path("a.png"), float("inf"), Decimal("-Infinity")),
        *(holding_itself(), [{"x": float("nan")}], Missing(2026, 1, 1), Fraction(10**400)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_form_in_json_is_refused_before_any_request(value: Any) -> None:
    with pytest.raises(VaceInputError, match="Nothing was sent, nothing is billed") as caught:
        normalize_input({"thing": value}, model="somebody/else")
    assert (caught.value.field or "").startswith("thing")


def test_values_of_numpy_become_json() -> None:
    numpy = pytest.importorskip("numpy")
    given = {"a": numpy.int64(1), "b": numpy.float32(0.5), "c": numpy.array(3), "d": numpy.bool_(1)}
    given |= {"e": numpy.arange(2), "f": numpy.str_("x"), "g": numpy.float64(2)}
    values, _ = normalize_input(given, model="somebody/else")
    assert json.dumps(values) == json.dumps(
        {"a": 1, "b": 0.5, "c": 3, "d": True, "e": [0, 1], "f": "x", "g": 2.0}
    )


def test_an_error_names_the_place_of_the_value() -> None:
    with pytest.raises(VaceInputError, match=r"'rows\[1\]\.image' has no form in JSON") as caught:
        normalize_input({"rows": [1, {"image": b"x"}]}, model="somebody/else")
    assert caught.value.field == "rows[1].image"


def test_a_user_string_is_text() -> None:
    from collections import UserDict, UserString

    values, _ = normalize_input(UserDict({"prompt": UserString("fox")}), model="somebody/else")
    assert values == {"prompt": "fox"}
