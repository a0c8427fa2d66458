"""The wait before a retry, in all forms that servers use."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.core.errors import read_error
from airflow_vace.core.requests import Api, Response

if TYPE_CHECKING:
    from airflow_vace.exceptions import VaceAPIError

API = Api.at("https://gateway.example", "r8_verysecretkey")


def error_of(status: int, body: Any = "", **headers: str) -> VaceAPIError:
    raw = body if isinstance(body, str) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_error(API, API.get("abc"), Response(status, named, raw.encode()))


NOW = formatdate(1_700_000_000, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry_After": "7"}, "", 7.0),
        ({"retry_after": "0.25"}, "", 0.25),
        ({"RETRY_AFTER": "-3"}, "", 0.0),
        ({"Retry_After": formatdate(1_700_000_030, usegmt=True), "Date": NOW}, "", 30.0),
        ({"Retry_After": formatdate(1_600_000_000, usegmt=True), "Date": NOW}, "", 0.0),
        ({"Retry_After": "Tue Nov 14 22:13:40 2023", "Date": NOW}, "", 20.0),
        ({"ratelimit_reset": "1700000025", "Date": NOW}, {"detail": "x"}, 25.0),
        ({"Retry_After": "soon"}, "", None),
        ({"Retry_After": "nan"}, "", None),
        ({"Retry_After": "1e999"}, "", None),
        ({}, {"detail": "x", "retry_after": 4}, 4.0),
        ({}, {"detail": "x", "retry_after": "4.5"}, 4.5),
        ({}, {"detail": "x", "retry_after": True}, None),
        ({}, {"error": {"message": "x", "retry_after": 6}}, 6.0),
        ({}, {"message": "x", "parameters": {"retry_after": 6}}, 6.0),
        ({}, {"detail": "Your rate limit resets in ~5s."}, 5.0),
        ({}, {"detail": "Please try again in 200ms"}, 0.2),
        ({}, {"detail": "try again in 2 minutes"}, 120.0),
        ({}, {"detail": "retry after 3"}, 3.0),
        ({}, {"detail": "Rate limit resets in ~1m30s."}, 90.0),
        ({}, {"detail": "try again in 1h"}, 3600.0),
        ({}, {"detail": "available in 5 seconds"}, 5.0),
        ({}, {"detail": "resets at 10:30"}, None),
        ({"ratelimit_reset": "9"}, {"detail": "x"}, 9.0),
        ({"Retry_After": "7", "ratelimit_reset": "9"}, {"detail": "resets in ~5s", "retry_after": 4}, 7.0),
        ({}, {"detail": "x"}, None),
    ],
)
def test_the_wait_is_read_from_headers_body_and_text(
    headers: dict[str, str], body: Any, seconds: float | None
) -> None:
    assert error_of(429, body, **headers).retry_after == seconds


def test_the_local_clock_replaces_a_missing_date_header() -> None:
    error = error_of(429, "", Retry_After=formatdate(time.time() + 30, usegmt=True))
    assert error.retry_after is not None
    assert 25 < error.retry_after <= 30


def test_the_reset_of_a_limit_does_not_delay_other_errors() -> None:
    assert error_of(500, "", ratelimit_reset="9").retry_after is None
