"""The budget of creates against vendors with limits, in virtual time."""

from __future__ import annotations

import pytest

from airflow_vace.core.create_budget import CreateBudget
from airflow_vace.core.response_times import Allowance
from airflow_vace.core.timing import Timing
from support.virtual_vendor import Vendor, World

TIMING = Timing()


# --- a thousand creates ----------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [True, False], ids=["headers", "no headers"])
def test_a_known_limit_is_never_exceeded(*, counts: bool) -> None:
    # Without headers nothing shows a burst, so the limit's time is that of its rate.
    vendor = Vendor(600 if counts else 10, 10.0, counts=counts)
    world = World(vendor, 10.0).create(1000)
    assert (len(vendor.created), vendor.refused, world.failures) == (1000, 0, [])
    assert world.ended_at <= 1.15 * (40.0 if counts else 100.0)


@pytest.mark.parametrize(
    "vendor", [Vendor(10, 10.0), Vendor(600, 10.0)], ids=["small burst", "a minute's burst"]
)
def test_an_unknown_limit_is_learned_from_few_refusals(vendor: Vendor) -> None:
    world = World(vendor).create(1000)
    assert (len(vendor.created), world.failures) == (1000, [])
    assert vendor.refused <= 11
    assert world.ended_at <= 1.15 * (1000 - vendor.size) / vendor.rate + 1.0


@pytest.mark.parametrize("limit", [None, 10.0], ids=["unknown", "Replicate"])
def test_six_a_minute_without_a_burst_work_without_a_storm(limit: float | None) -> None:
    vendor = Vendor(1, 0.1)
    world = World(vendor, limit).create(200)
    assert (len(vendor.created), world.failures) == (200, [])
    assert vendor.refused <= 10
    assert world.ended_at <= 1.25 * 2000


def test_headers_show_six_a_minute_before_any_refusal() -> None:
    vendor = Vendor(1, 0.1, counts=True)
    world = World(vendor, 10.0).create(30)
    assert (len(vendor.created), vendor.refused) == (30, 0)
    assert world.ended_at <= 1.15 * 300
    assert world.notes
    assert len(world.notes) <= 1 + world.ended_at / TIMING.create_notice_interval_seconds


def test_a_server_without_a_limit_delays_nothing() -> None:
    world = World(Vendor(1e9, 1e9)).create(1000)
    assert world.ended_at < 30.0
    assert world.notes == []


@pytest.mark.parametrize("limit", [None, 10.0], ids=["unknown", "known"])
def test_two_processes_share_an_account(limit: float | None) -> None:
    vendor = Vendor(600 if limit else 10, 10.0, counts=limit is not None)
    world = World(vendor, limit, processes=2).create(500)
    assert (len(vendor.created), world.failures) == (1000, [])
    assert vendor.refused <= (0 if limit else 40)
    assert world.ended_at <= (50.0 if limit else 300.0)


def test_a_silent_limit_ends_the_refusals_too() -> None:
    vendor = Vendor(20, 0.1, states=False)
    world = World(vendor).create(60)
    assert (len(vendor.created), world.failures) == (60, [])
    assert vendor.refused <= 30


def test_a_series_of_refusals_measures_the_limit_over_its_length() -> None:
    budget = opened(rate=10.0)
    now = 100.0
    for turn in range(2, 40):
        while delay := budget.take(turn, now):
            now += delay
        budget.accepted(turn, now)
    rates = []
    for _ in range(5):
        while delay := budget.take(40, now):
            now += delay
        budget.refused(40, now, hold=10.0)
        rates.append(budget.rate or 0.0)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1.0


def test_a_pause_of_all_threads_is_one_line_in_the_log() -> None:
    vendor = Vendor(4, 0.1)
    world = World(vendor).create(8, threads=8)
    assert vendor.refused > 1
    lines = [note for note in world.notes if "submitting again" in note]
    assert len(lines) < vendor.refused


# --- single decisions ------------------------------------------------------------------------------


def opened(limit: float | None = None, *, rate: float | None = None) -> CreateBudget:
    """Return a budget after a first accepted create at 0.0, perhaps with a learned rate."""
    budget = CreateBudget(limit, TIMING)
    assert budget.take(budget.join(), 0.0) == 0.0
    budget.rate = rate or budget.rate
    budget.accepted(1, 0.0)
    if rate is not None:
        assert budget.take(0, 0.0) == 0.0
        budget.accepted(0, 0.0)
    return budget


def test_a_first_create_goes_alone_but_not_for_long() -> None:
    budget = CreateBudget(None, TIMING)
    first, second = budget.join(), budget.join()
    assert budget.take(first, 0.0) == 0.0
    assert 0.0 < budget.take(second, 0.1) <= TIMING.create_probe_poll_seconds
    assert budget.take(second, TIMING.max_create_probe_seconds) == 0.0


def test_turns_go_in_their_order() -> None:
    budget = opened(rate=1.0)
    early, late = budget.join(), budget.join()
    wait_of_late = budget.take(late, 0.0)
    wait_of_early = budget.take(early, 0.0)
    assert wait_of_early < budget.take(late, 0.0)
    assert budget.take(early, wait_of_early) == 0.0
    assert budget.take(late, wait_of_early) > 0.0
    assert budget.take(late, wait_of_early + wait_of_late + 1.0) == 0.0


def test_a_turn_that_is_given_up_lets_the_next_one_go() -> None:
    budget = opened(rate=0.01)
    first, second, third = 2, 3, 4
    assert budget.take(first, 0.0) < budget.take(second, 0.0)
    budget.end(first, is_sent=False)
    assert budget.take(second, 100.0) == 0.0
    assert budget.take(third, 100.0) > 0.0
    budget.end(second, is_sent=False)
    assert budget.take(third, 100.0) == 0.0
    budget.end(third, is_sent=True)
    assert budget.take(5, 100.0) > 0.0


def test_a_refusal_stops_all_creates_for_the_stated_time() -> None:
    budget = opened()
    assert budget.take(2, 1.0) == 0.0
    assert budget.refused(2, 1.0, hold=20.0, retry_after=20.0)
    for turn in (2, 3, 4):
        assert budget.take(turn, 1.0) >= 20.0
    assert budget.take(2, 23.1) == 0.0
    assert budget.take(3, 23.1) > 0.0


def test_refusals_of_creates_in_flight_are_one_refusal() -> None:
    budget = opened()
    for turn in (2, 3, 4):
        assert budget.take(turn, 1.0) == 0.0
    assert budget.refused(2, 1.1, hold=2.0, retry_after=2.0)
    rate = budget.rate
    assert not budget.refused(3, 1.2, hold=2.0, retry_after=2.0)
    assert budget.rate == rate
    # A longer pause is news.
    assert budget.refused(4, 1.3, hold=50.0, retry_after=50.0)
    assert budget.rate == rate
    assert budget.take(2, 10.0) > 30.0


def test_an_acceptance_from_before_a_refusal_does_not_end_the_probe() -> None:
    budget = opened()
    for turn in (2, 3):
        assert budget.take(turn, 1.0) == 0.0
    budget.refused(2, 1.1, hold=1.0, retry_after=1.0)
    budget.accepted(3, 1.2)
    assert budget.take(2, 5.0) == 0.0
    assert 0.0 < budget.take(4, 5.0) <= TIMING.create_probe_poll_seconds


def test_a_shorter_pause_does_not_cut_a_longer_one() -> None:
    budget = opened()
    for turn in (2, 3):
        assert budget.take(turn, 1.0) == 0.0
    budget.refused(2, 1.1, hold=50.0)
    budget.refused(3, 1.2, hold=1.0)
    assert budget.take(2, 10.0) > 30.0


def test_a_pause_has_a_longest_time() -> None:
    budget = opened()
    budget.take(2, 1.0)
    budget.refused(2, 1.0, hold=1e6, retry_after=1e6)
    assert budget.take(2, 1.0) <= 1.1 * TIMING.max_retry_after_seconds


def test_headers_that_contradict_refusals_are_not_followed() -> None:
    budget = CreateBudget(10.0, TIMING)
    plenty = Allowance(500.0, 10.0)
    assert budget.take(1, 0.0) == 0.0
    budget.accepted(1, 0.0, plenty)
    assert budget.take(2, 0.0) == 0.0
    budget.refused(2, 0.1, hold=1.0, retry_after=1.0)
    rate = budget.rate
    assert rate is not None
    assert rate < 10.0
    assert budget.take(2, 3.0) == 0.0
    budget.accepted(2, 3.0, plenty)
    assert budget.rate == rate


def test_headers_of_a_higher_limit_raise_the_pace() -> None:
    budget = CreateBudget(10.0, TIMING)
    budget.take(1, 0.0)
    budget.accepted(1, 0.0, Allowance(3000.0, 60.0))
    assert budget.rate == 50.0


def test_an_old_allowance_is_not_used_up_after_a_break() -> None:
    budget = CreateBudget(10.0, TIMING)
    budget.take(1, 0.0)
    budget.accepted(1, 0.0, Allowance(599.0, 1.0))
    assert [budget.take(turn, 1.0) for turn in range(2, 12)] == [0.0] * 10
    assert [turn for turn in range(20, 30) if budget.take(turn, 60.0) == 0.0] == [20, 21]


def test_a_known_limit_bounds_a_learned_rate() -> None:
    budget = opened(10.0)
    budget.take(2, 1.0)
    budget.refused(2, 1.0, hold=1.0, retry_after=1.0)
    now = 3.0
    for turn in range(2, 900):
        while delay := budget.take(turn, now):
            now += delay
        budget.accepted(turn, now)
    assert budget.rate == 10.0 * 0.97


def test_long_waits_are_noted_once_in_a_while() -> None:
    budget = opened(rate=0.1)
    assert budget.notice(1.0, 0.0) is None
    assert "rate limit" in (budget.notice(30.0, 0.0) or "")
    assert budget.notice(30.0, 1.0) is None
    assert budget.notice(30.0, 100.0)
    budget.take(2, 100.0)
    budget.refused(2, 200.0, hold=60.0)
    # The refusal has a line in the log already.
    assert budget.notice(30.0, 201.0) is None
