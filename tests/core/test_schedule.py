"""When to look: the schedule that learns, the budget of requests, and pages in place of looks."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from airflow_vace.core.listing import Pages
from airflow_vace.core.rate_limit import Pace
from airflow_vace.core.schedule import LATENESS_SHARE, Experience, Schedule
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.emulator.world import Timeline, iso
from airflow_vace.prediction import Prediction

EPOCH = 1_700_000_000.0


class Vendor:
    """One prediction as a vendor would tell it, whose clock may differ from ours."""

    def __init__(self, boot: float = 2.0, *, step: float = 1.5, skew: float = 0.0, **told: Any) -> None:
        self.line = Timeline(created=EPOCH, boot=boot, load=4.0, step=step, steps=50, decode=6.0)
        self.skew, self.more = skew, told
        self.has_logs = told.pop("has_logs", True)
        self.fails_at: float | None = told.pop("fails_at", None)

    @property
    def ended(self) -> float:
        return self.line.ended if self.fails_at is None else EPOCH + self.fails_at

    def told_at(self, now: float) -> Prediction:
        line, over = self.line, now >= self.ended
        status = ("succeeded" if self.fails_at is None else "failed") if over else "processing"
        told: dict[str, Any] = {
            "id": "abc",
            "status": "starting" if now < min(line.started, self.ended) else status,
            "input": {"prompt": "a fox"},
            "created_at": iso(line.created + self.skew),
            "logs": line.logs_at(now) if self.has_logs else None,
        }
        if now >= line.started:
            told["started_at"] = iso(line.started + self.skew)
        if over:
            told["completed_at"] = iso(self.ended + self.skew)
        return Prediction.from_json(told | self.more)


def looks_at(vendor: Vendor, experience: Experience, poll_interval: float | None = None) -> list[float]:
    """Wait for a prediction to the end, and return when it was looked at, in seconds from its creation."""
    known = Prediction.from_json({"id": "abc", "status": "unknown"})
    wait = Wait(prediction=known, poll_interval=poll_interval, experience=experience)
    now, looks = EPOCH + 0.5, []
    while True:
        looks.append(now - EPOCH)
        decision = wait.answered(vendor.told_at(now), now)
        if not isinstance(decision, PollAgain):
            return looks
        now += decision.seconds


def late(vendor: Vendor, looks: list[float]) -> float:
    return looks[-1] - (vendor.ended - EPOCH)


# --- when to look ----------------------------------------------------------------------------------


@pytest.mark.parametrize("has_logs", [True, False])
def test_what_earlier_predictions_taught_makes_looks_fewer_and_notice_earlier(*, has_logs: bool) -> None:
    random.seed(3)
    experience = Experience()
    first = Vendor(has_logs=has_logs)
    unlearned = looks_at(first, experience)
    for boot in (1.0, 3.0, 2.0):
        looks_at(Vendor(boot, has_logs=has_logs), experience)
    learned = [looks_at(Vendor(boot, has_logs=has_logs), experience) for boot in (2.0, 1.5, 25.0, 3.0)]
    for boot, looks in zip((2.0, 1.5, 25.0, 3.0), learned, strict=True):
        vendor = Vendor(boot, has_logs=has_logs)
        assert late(vendor, looks) <= 2.0
        # One every ten seconds, and a few around the end.
        assert len(looks) <= (vendor.ended - EPOCH) / Timing().max_poll_delay_seconds * 1.2 + 6
    assert min(map(len, learned)) <= len(unlearned)


def test_the_end_is_expected_from_the_steps_before_anything_is_known() -> None:
    random.seed(4)
    for step in (0.6, 1.5, 3.7):
        vendor = Vendor(step=step)
        assert late(vendor, looks_at(vendor, Experience())) <= 5.0


@pytest.mark.parametrize("bound", [1.0, 3.0, 10.0, 45.0])
def test_no_gap_is_longer_than_the_authors_interval(bound: float) -> None:
    random.seed(5)
    experience = Experience()
    for boot in (2.0, 200.0, 4.0):
        looks = looks_at(Vendor(boot), experience, bound)
        assert max(b - a for a, b in pairwise(looks)) <= bound


def test_by_default_a_gap_is_ten_seconds_or_a_twentieth_of_the_time_waited() -> None:
    random.seed(6)
    looks = looks_at(Vendor(1800.0), Experience())
    for before, after in pairwise(looks):
        assert after - before <= max(Timing().max_poll_delay_seconds, LATENESS_SHARE * before) + 1e-3
    assert len(looks) < 140
    assert max(b - a for a, b in pairwise(looks)) > 60


def test_one_that_fails_at_any_moment_is_noticed_within_the_bound() -> None:
    random.seed(7)
    experience = Experience()
    looks_at(Vendor(), experience)
    for moment in (1.0, 9.0, 30.0, 60.0, 85.0):
        vendor = Vendor(fails_at=moment)
        assert late(vendor, looks_at(vendor, experience)) <= Timing().max_poll_delay_seconds


@pytest.mark.parametrize("skew", [-3600.0, -7.0, 3.0, 900.0])
def test_a_server_whose_clock_differs_is_understood_after_a_few_predictions(skew: float) -> None:
    random.seed(8)
    experience = Experience()
    for boot in (2.0, 30.0, 15.0, 40.0, 3.0):
        looks_at(Vendor(boot, skew=skew, has_logs=False), experience)
    vendor = Vendor(12.0, skew=skew, has_logs=False)
    looks = looks_at(vendor, experience)
    assert late(vendor, looks) <= 4.0
    assert len(looks) <= 25


def test_no_two_looks_crowd_however_late_an_end_is() -> None:
    random.seed(9)
    experience = Experience()
    for _ in range(4):
        looks_at(Vendor(has_logs=False), experience)
    slow = Vendor(step=6.0, has_logs=False)
    looks = looks_at(slow, experience)
    assert min(b - a for a, b in pairwise(looks)) >= Timing().min_poll_gap_seconds * 0.99
    assert len(looks) < 80


@pytest.mark.parametrize(
    "told",
    [
        {"started_at": None},
        {"started_at": "yesterday"},
        {"created_at": None, "input": None},
        {"logs": "99%|█| 4999/5000 [00:01<00:00, 0.01s/it]"},
        {"logs": "0%|█| 0/50 [00:00<?, ?it/s]"},
        {"logs": "50%|█| 25/50 [00:00<?, 0.0s/it]"},
        {"started_at": "1990-01-01T00:00:00Z"},
        {"started_at": "2190-01-01T00:00:00Z"},
    ],
)
def test_nonsense_in_an_answer_costs_no_flood_of_looks_and_no_lateness(told: dict[str, Any]) -> None:
    random.seed(10)
    experience = Experience()
    for _ in range(3):
        vendor = Vendor(**told)
        looks = looks_at(vendor, experience)
        assert late(vendor, looks) <= Timing().max_poll_delay_seconds
        assert len(looks) < 80


def test_kinds_are_told_apart_and_forgotten_at_last() -> None:
    random.seed(11)
    experience = Experience()
    for frames in range(1, 2000, 4):
        looks_at(Vendor(input={"frame_num": frames}), experience)
    assert len(experience._kinds) <= 256
    schedule = Schedule(experience=experience)
    schedule.learn(Vendor(input={"frame_num": 81}).told_at(EPOCH + 50), EPOCH + 50)
    schedule.learn(Vendor(input={"size": "1280*720"}).told_at(EPOCH + 50), EPOCH + 50)


# --- how many requests -----------------------------------------------------------------------------


def drive(pace: Pace, seconds: float, limit: float) -> tuple[int, int]:
    """Send whatever the budget allows to a server with a limit; return what it answered and refused."""
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
def test_a_limit_that_nobody_told_is_learned_from_its_first_refusals(limit: float) -> None:
    random.seed(1)
    answered, refused = drive(Pace(), 120.0, limit)
    assert refused <= max(0.01 * answered, 4)
    assert answered >= 0.55 * limit * 120


def test_a_limit_that_others_had_used_up_is_not_taken_for_a_small_one() -> None:
    random.seed(4)
    pace = Pace()
    for number in range(7):
        pace.answered(number / 1000)
    pace.refused(0.01, 1.0)
    answered, refused = drive(pace, 120.0, 50.0)
    assert answered >= 0.7 * 50 * 120
    assert refused <= 0.01 * answered


def test_a_limit_that_is_known_is_kept_from_the_start() -> None:
    answered, refused = drive(Pace(50.0), 120.0, 50.0)
    assert refused == 0
    assert answered >= 0.85 * 50 * 120


def test_a_limit_that_was_lowered_and_raised_again_is_followed() -> None:
    random.seed(2)
    pace = Pace()
    drive(pace, 60.0, 10.0)
    assert pace.rate is not None
    assert pace.rate <= 10.0
    for second in range(60, 3600):
        pace.answered(float(second))
    assert pace.rate > 40.0


def test_who_is_refused_again_right_after_a_pause_keeps_most_of_its_share() -> None:
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


def test_a_refusal_is_waited_out_as_long_as_it_says_and_no_longer_than_has_sense() -> None:
    pace = Pace()
    pace.refused(100.0, 7.0)
    assert 7.0 <= pace.delay(100.0) <= 7.7
    assert pace.delay(108.0) == 0.0
    pace.refused(200.0, 1e9)
    assert pace.delay(200.0) <= 1.1 * Timing().max_retry_after_seconds


def test_a_server_that_fails_everybody_gets_one_request_at_a_time_until_it_answers() -> None:
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


def test_one_prediction_that_fails_all_looks_stops_nobody_else() -> None:
    pace = Pace()
    for second in range(100):
        pace.failed(float(second), "p0")
    assert not pace.is_down
    assert pace.delay(100.0) == 0.0


# --- pages -----------------------------------------------------------------------------------------


def test_pages_are_for_many_waits_and_for_what_shows_ours() -> None:
    pages = Pages()
    assert not pages.are_open(5, 0.0)
    assert pages.are_open(400, 0.0)
    assert not pages.is_worth(1)
    assert pages.is_worth(50)
    pages.brought(60, 0.0)
    assert pages.are_open(400, 0.0)
    pages.brought(0, 1.0)
    assert not pages.are_open(400, 30.0)
    assert pages.are_open(400, 100.0)
    pages.failed(100.0)
    assert not pages.are_open(400, 200.0)
    assert pages.are_open(400, 300.0)
