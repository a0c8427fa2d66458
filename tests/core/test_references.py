"""References to predictions in DAGs."""

from __future__ import annotations

from urllib.parse import quote
from uuid import UUID

import pytest

from airflow_vace.core.references import read_known, read_reference
from airflow_vace.exceptions import VaceInputError

FOREIGN = "https://api.replicate.com/v1/predictions/abc"


def test_facts_in_a_payload_are_kept_before_the_first_poll() -> None:
    payload = {
        "id": "abc",
        "model": "m",
        "created_at": "2025",
        "status": "succeeded",
        "output": "https://a/b",
    }
    known = read_known(payload)
    assert (known.id, known.model, known.created_at, known.status, known.output) == (
        "abc",
        "m",
        "2025",
        "unknown",
        None,
    )
    assert read_known(FOREIGN).urls == {"get": FOREIGN}
    assert read_known("abc").urls == {}


@pytest.mark.parametrize("reference", [20261128, {"id": 20261128}, "20261128", " 20261128\n"])
def test_an_id_of_digits_may_be_a_number(reference: object) -> None:
    assert read_reference(reference) == ("20261128", None)


def test_an_id_may_be_a_uuid() -> None:
    assert read_reference(UUID(int=7)) == (str(UUID(int=7)), None)


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "",
        "None",
        "null",
        "a b",
        "../../etc/passwd",
        "https://api.replicate.com/v1/models",
        "https://api.replicate.com/v1/predictions/a%20b",
        "https://[::1",
        {},
        [],
        *(1.5, True, -5),
        {"id": None},
        "..",
        ".",
        "a\\..\\b",
        {"id": "a/../b"},
        {"id": "https://gateway.example/a"},
        "x" * 201,
        {"id": 1.5, "urls": {"get": FOREIGN}},
        {"urls": {"get": 5}},
        "{'id': ",
        *("{}", "[]", '""', "<>", '["abc"]'),
    ],
)
def test_other_values_are_refused_with_a_remedy(reference: object) -> None:
    with pytest.raises(VaceInputError, match=r"submit\.output") as caught:
        read_reference(reference)
    assert caught.value.field == "prediction"


@pytest.mark.parametrize(
    "page",
    [
        "https://replicate.com/p/abc123",
        "https://replicate.com/p/abc123/",
        "https://replicate.com/prunaai/vace-14b?prediction=abc123",
        "https://api.replicate.com/v1/predictions/abc123/cancel",
        "HTTPS://replicate.com/p/abc123",
        "replicate.com/p/abc123",
        "www.replicate.com/p/abc123?output=json",
        "<https://replicate.com/p/abc123>",
        '"https://replicate.com/p/abc123"',
        '"abc123"',
        "'abc123'",
    ],
)
def test_a_page_of_a_prediction_names_the_prediction(page: str) -> None:
    assert read_reference(page) == ("abc123", None)


@pytest.mark.parametrize(
    "identifier",
    [
        "video_bGl0ZWxsbTpjdXN0b20=",
        "replicate:gm3qorzd",
        "2025.10.31-0001",
        "a~b",
        "a/b+c==",
        'odd"<id>',
        "%2e",
        "{3f2504e0-4f89-11d3-9a0c-0305e82c3301}",
    ],
)
def test_an_id_of_any_visible_letters_is_a_reference(identifier: str) -> None:
    url = f"https://gateway.example/replicate/v1/predictions/{quote(identifier, safe='')}"
    assert read_reference(identifier) == (identifier, None)
    assert read_reference({"id": identifier}) == (identifier, None)
    assert read_reference(url) == (identifier, url)
    assert read_known({"id": identifier, "upstream_id": "up"}).upstream_id == "up"


def test_the_address_of_a_result_names_the_prediction() -> None:
    url = "https://gateway.example/api/v3/predictions/abc/result"
    assert read_reference(url) == ("abc", url)
