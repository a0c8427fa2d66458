"""The server's clock beside this machine's, the scale of durations, and the choice of pages."""

from __future__ import annotations

import pytest

from airflow_vace.core.clock import Clock
from airflow_vace.core.listing import MIN_WAITS, Pages
from airflow_vace.core.timing import Timing


def test_two_clocks_agree_within_the_tolerance() -> None:
    assert not Clock().is_known
    clock = Clock()
    clock.note(None, 1000.0)
    clock.note(1010.0, 1000.0)
    assert clock.is_known
    assert clock.at_server(5.0) == 5.0


def test_a_server_that_is_ahead_moves_its_time() -> None:
    clock = Clock(tolerance=1.0)
    clock.note(1600.0, 1000.0)
    assert clock.at_server(0.0) == 600.0
    assert clock.confirmed(0.0) == 600.0


@pytest.mark.parametrize(("agreed", "confirmed"), [(0.0, 0.0), (300.0, 300.0), (900.0, 600.0)])
def test_the_later_deadline_holds_if_clocks_differ_from_the_submission(
    agreed: float, confirmed: float
) -> None:
    assert Clock(offset=600.0, agreed=agreed).confirmed(0.0) == confirmed


def test_a_scale_multiplies_durations_and_keeps_counts() -> None:
    scaled = Timing().scaled(0.5, max_retry_seconds=7.0)
    assert scaled.min_retry_seconds == Timing().min_retry_seconds / 2
    assert scaled.max_retry_seconds == 7.0
    assert scaled.max_create_attempts == Timing().max_create_attempts


def test_pages_are_for_many_waits_and_pause_after_useless_ones() -> None:
    pages = Pages()
    assert not pages.are_open(MIN_WAITS - 1, 0.0)
    assert pages.are_open(MIN_WAITS, 0.0)
    assert not pages.is_worth(2)
    assert pages.is_worth(3)
    assert pages.goes_on(5)
    pages.brought(4, 0.0)
    assert not pages.are_open(MIN_WAITS, 59.0)
    assert pages.are_open(MIN_WAITS, 60.0)
    pages.failed(60.0)
    assert not pages.are_open(MIN_WAITS, 179.0)
    pages.brought(5, 180.0)
    pages.failed(180.0)
    assert pages.are_open(MIN_WAITS, 240.0)
