"""Outputs of any form, and their public form in payloads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_vace.prediction import Prediction


def succeeded(output: Any) -> Prediction:
    return Prediction.from_json({"id": "abc", "status": "succeeded", "output": output})


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (None, []),
        ("https://a/b.mp4", ["https://a/b.mp4"]),
        ("HTTPS://a/b.mp4", ["HTTPS://a/b.mp4"]),
        (["https://a/1", None, "https://a/2"], ["https://a/1", "https://a/2"]),
        ({"video": "https://a/1", "more": {"mask": ["https://a/2"]}}, ["https://a/1", "https://a/2"]),
        ("data:video/mp4;base64,AAAA", ["data:video/mp4;base64,AAAA"]),
        ("done", []),
        (5, []),
    ],
)
def test_urls_are_found_in_an_output_of_any_form(output: object, urls: list[str]) -> None:
    assert succeeded(output).output_urls == urls


def test_deep_nesting_of_an_output_is_bounded() -> None:
    output: Any = "https://a/b"
    for _ in range(50):
        output = [output]
    prediction = succeeded(output)
    assert prediction.output_urls == []
    assert len(json.dumps(prediction.payload())) < 1000


def test_a_payload_never_contains_a_data_url() -> None:
    data = "data:video/mp4;base64,AAAA"
    assert succeeded(data).payload()["output"] is None
    assert succeeded(f"\n {data}").payload()["output"] is None
    assert succeeded(f" {data}").output_urls == [data]


NESTED: Any = "https://a/b"


for _ in range(9):
    NESTED = {"x": NESTED}


@pytest.mark.parametrize(
    "output",
    [
        [" data:video/mp4;base64,AAAA", "https://a/b"],
        {"a": "data:video/mp4;base64,AAAA", "b": 5},
        {"data:video/mp4;base64,AAAA": 5},
        NESTED,
        {"https://a/b?sig=SECRET1": 1, "https://a/b?sig=SECRET2": 2},
    ],
    ids=["list", "object", "key", "nested", "equal keys"],
)
def test_a_payload_contains_the_complete_output_or_none(output: Any) -> None:
    prediction = succeeded(output)
    assert prediction.payload()["output"] is None
    assert prediction.has_output
    assert not prediction.fits_payload


def test_an_output_is_shortened_if_a_url_lost_its_signature() -> None:
    assert not succeeded(["https://a/b?sig=1"]).is_shortened
    assert Prediction.from_json(succeeded(["https://a/b?sig=1", "https://a/c"]).payload()).is_shortened
