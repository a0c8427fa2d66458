"""The budget of requests: known limits, learned limits, outages."""

from __future__ import annotations

import random

import pytest

from airflow_vace.core.rate_limit import Pace
from airflow_vace.core.timing import Timing


def drive(pace: Pace, seconds: float, limit: float) -> tuple[int, int]:
    """Send all requests that the budget allows; return the numbers of answered and refused ones."""
    now, allowance, answered, refused = 0.0, limit, 0, 0
    while now < seconds:
        pause = pace.delay(now)
        if pause:
            now, allowance = now + pause, min(allowance + pause * limit, limit)
            continue
        pace.sent(now)
        now, allowance = now + 0.002, min(allowance + 0.002 * limit, limit)
        if allowance >= 1:
            allowance, answered = allowance - 1, answered + 1
            pace.answered(now)
        else:
            refused += 1
            pace.refused(now, 1.0)
    return answered, refused


@pytest.mark.parametrize("limit", [5.0, 50.0, 200.0])
def test_an_unknown_limit_is_learned_from_its_first_refusals(limit: float) -> None:
    random.seed(1)
    answered, refused = drive(Pace(), 120.0, limit)
    assert refused <= max(0.01 * answered, 4)
    assert answered >= 0.55 * limit * 120


def test_a_limit_used_up_by_others_is_not_underestimated() -> None:
    random.seed(4)
    pace = Pace()
    for number in range(7):
        pace.answered(number / 1000)
    pace.refused(0.01, 1.0)
    answered, refused = drive(pace, 120.0, 50.0)
    assert answered >= 0.7 * 50 * 120
    assert refused <= 0.01 * answered


def test_a_known_limit_is_respected_from_the_start() -> None:
    answered, refused = drive(Pace(50.0), 120.0, 50.0)
    assert refused == 0
    assert answered >= 0.85 * 50 * 120


def test_a_changed_limit_is_followed() -> None:
    random.seed(2)
    pace = Pace()
    drive(pace, 60.0, 10.0)
    assert pace.rate is not None
    assert pace.rate <= 10.0
    for second in range(60, 3600):
        pace.answered(float(second))
    assert pace.rate > 40.0


def test_refusals_right_after_a_pause_cost_little_of_the_rate() -> None:
    pace = Pace(10.0)
    for number in range(100):
        pace.answered(number / 9)
    pace.refused(11.0, 1.0)
    before = pace.rate
    assert before is not None
    for now in (12.2, 13.5, 14.9):  # by others that have used the account up; nothing has come through
        pace.refused(now, 1.0)
    after = pace.rate
    assert after is not None
    assert after >= 0.7 * before


def test_a_refusal_pauses_as_long_as_demanded_within_a_maximum() -> None:
    pace = Pace()
    pace.refused(100.0, 7.0)
    assert 7.0 <= pace.delay(100.0) <= 7.7
    assert pace.delay(108.0) == 0.0
    pace.refused(200.0, 1e9)
    assert pace.delay(200.0) <= 1.1 * Timing().max_retry_after_seconds


def test_an_outage_is_probed_by_one_request_at_a_time() -> None:
    random.seed(3)
    pace, now = Pace(), 0.0
    for number in range(6):
        pace.failed(now, f"p{number}")
    states, probes = [pace.is_down], []
    while now < 200.0:
        pause = pace.delay(now)
        if pause:
            now += pause
            continue
        pace.sent(now)
        assert pace.delay(now) > 0.0  # one at a time
        probes.append(now)
        now += 0.1
        pace.failed(now, "p1")
    assert 6 <= len(probes) <= 16
    pace.sent(now)
    pace.answered(now)
    states.append(pace.is_down)
    assert states == [True, False]
    assert pace.delay(now) == 0.0


def test_one_failing_prediction_does_not_stop_the_others() -> None:
    pace = Pace()
    for second in range(100):
        pace.failed(float(second), "p0")
    assert not pace.is_down
    assert pace.delay(100.0) == 0.0


def test_refusals_of_requests_in_flight_change_the_rate_only_once() -> None:
    pace = Pace(50.0)
    pace.refused(10.0, 2.0)
    rate = pace.rate
    pace.refused(10.1, 2.0)
    assert pace.rate == rate
    assert pace.delay(10.1) >= 2.0


# --- trouble of some predictions -------------------------------------------------------------------


def answered_pace() -> Pace:
    pace = Pace()
    for number in range(20):
        pace.sent(number / 10)
        pace.answered(number / 10, f"h{number}")
    return pace


def test_a_single_refusal_without_a_time_costs_nothing() -> None:
    pace = answered_pace()
    pace.refused(3.0, None, "p0")
    assert (pace.rate, pace.delay(3.0)) == (None, 0.0)


def test_a_single_refusal_with_a_time_holds_but_keeps_the_rate() -> None:
    pace = answered_pace()
    pace.refused(3.0, 2.0, "p0")
    assert pace.rate is None
    assert 2.0 <= pace.delay(3.0) <= 2.2


def test_a_prediction_refused_again_while_others_are_answered_holds_up_nobody() -> None:
    pace = answered_pace()
    pace.refused(3.0, 2.0, "p0")
    pace.answered(5.5, "h0")
    pace.refused(6.0, 60.0, "p0")
    assert pace.delay(6.0) == 0.0


def test_refusals_of_several_predictions_lower_the_rate() -> None:
    pace = answered_pace()
    pace.refused(2.0, None, "h1")
    pace.refused(2.1, None, "h2")
    assert pace.delay(2.1) >= 1.0
    assert pace.rate is not None
    assert pace.rate <= 9.0


def test_answers_to_the_refused_burst_raise_the_learned_rate() -> None:
    pace = Pace()
    pace.refused(0.0, 1.0, "a")
    pace.refused(0.0, 1.0, "b")
    for number in range(20):
        pace.answered(0.1, f"h{number}")
    # Nine tenths of 20 answers in a second and a jitter.
    assert pace.rate is not None
    assert 18 / 1.1 <= pace.rate <= 18


def test_refusals_of_new_predictions_lower_a_learned_rate_little_and_briefly() -> None:
    pace = Pace(100.0)
    pace.answered(0.0, "h")
    for name in "ab":
        pace.refused(1.0, None, name)
    assert pace.rate == pytest.approx(90 / 1.3)
    for name in "cd":
        pace.refused(3.0, None, name)
    assert pace.rate == pytest.approx(90 / 1.3)
    for second in range(4, 12):
        pace.answered(float(second), "h")
    assert pace.rate == 90.0


def test_a_probe_waits_no_longer_than_the_bound_of_a_wait() -> None:
    pace, now = Pace(), 0.0
    for number in range(40):
        pace.failed(now, f"p{number}", 2.0)
        assert pace.delay(now) <= 2.0
        now += 3.0
    pace.forget("p1")
    assert pace.healthy == set()
