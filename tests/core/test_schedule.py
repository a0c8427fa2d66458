"""Times of polls: the schedule that learns, and pages in place of polls."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from airflow_vace.core.listing import Pages
from airflow_vace.core.schedule import MAX_DELAY_SHARE, Experience, Schedule
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.emulator.world import Timeline, iso
from airflow_vace.prediction import Prediction

EPOCH = 1_700_000_000.0
TIMING = Timing()


class Vendor:
    """One prediction as a vendor reports it; the vendor's clock may differ."""

    def __init__(self, boot: float = 2.0, *, step: float = 1.5, skew: float = 0.0, **members: Any) -> None:
        self.line = Timeline(created=EPOCH, boot=boot, load=4.0, step=step, steps=50, decode=6.0)
        self.skew, self.more = skew, members
        self.has_logs = members.pop("has_logs", True)
        self.fails_at: float | None = members.pop("fails_at", None)

    @property
    def ended(self) -> float:
        return self.line.ended if self.fails_at is None else EPOCH + self.fails_at

    def state_at(self, now: float) -> Prediction:
        line, over = self.line, now >= self.ended
        status = ("succeeded" if self.fails_at is None else "failed") if over else "processing"
        members: dict[str, Any] = {
            "id": "abc",
            "status": "starting" if now < min(line.started, self.ended) else status,
            "input": {"prompt": "a fox"},
            "created_at": iso(line.created + self.skew),
            "logs": line.logs_at(now) if self.has_logs else None,
        }
        if now >= line.started:
            members["started_at"] = iso(line.started + self.skew)
        if over:
            members["completed_at"] = iso(self.ended + self.skew)
        return Prediction.from_json(members | self.more)


def polls_of(vendor: Vendor, experience: Experience, poll_interval: float | None = None) -> list[float]:
    """Wait for a prediction to the end, and return when it was polled, in seconds from its creation."""
    known = Prediction.from_json({"id": "abc", "status": "unknown"})
    wait = Wait(prediction=known, poll_interval=poll_interval, experience=experience)
    now, polls = EPOCH + 0.5, []
    while True:
        polls.append(now - EPOCH)
        decision = wait.answered(vendor.state_at(now), now)
        if not isinstance(decision, PollAgain):
            return polls
        now += decision.seconds


def late(vendor: Vendor, polls: list[float]) -> float:
    return polls[-1] - (vendor.ended - EPOCH)


# --- when to poll ----------------------------------------------------------------------------------


@pytest.mark.parametrize("has_logs", [True, False])
def test_experience_makes_polls_fewer_and_lateness_smaller(*, has_logs: bool) -> None:
    random.seed(3)
    experience = Experience()
    first = Vendor(has_logs=has_logs)
    unlearned = polls_of(first, experience)
    for boot in (1.0, 3.0, 2.0):
        polls_of(Vendor(boot, has_logs=has_logs), experience)
    learned = [polls_of(Vendor(boot, has_logs=has_logs), experience) for boot in (2.0, 1.5, 25.0, 3.0)]
    for boot, polls in zip((2.0, 1.5, 25.0, 3.0), learned, strict=True):
        vendor = Vendor(boot, has_logs=has_logs)
        assert late(vendor, polls) <= 2.0
        # One every ten seconds, and a few around the end.
        assert len(polls) <= (vendor.ended - EPOCH) / TIMING.max_poll_delay_seconds * 1.2 + 6
    assert min(map(len, learned)) <= len(unlearned)


def test_the_first_run_is_estimated_from_its_steps() -> None:
    random.seed(4)
    for step in (0.6, 1.5, 3.7):
        vendor = Vendor(step=step)
        assert late(vendor, polls_of(vendor, Experience())) <= 5.0


@pytest.mark.parametrize("bound", [1.0, 3.0, 10.0, 45.0])
def test_no_gap_is_longer_than_the_authors_interval(bound: float) -> None:
    random.seed(5)
    experience = Experience()
    for boot in (2.0, 200.0, 4.0):
        polls = polls_of(Vendor(boot), experience, bound)
        assert max(b - a for a, b in pairwise(polls)) <= bound


def test_the_default_bound_is_ten_seconds_or_five_percent() -> None:
    random.seed(6)
    polls = polls_of(Vendor(1800.0), Experience())
    for before, after in pairwise(polls):
        assert after - before <= max(TIMING.max_poll_delay_seconds, MAX_DELAY_SHARE * before) + 1e-3
    assert len(polls) < 140
    assert max(b - a for a, b in pairwise(polls)) > 60


def test_a_failure_at_any_moment_is_noticed_within_the_bound() -> None:
    random.seed(7)
    experience = Experience()
    polls_of(Vendor(), experience)
    for moment in (1.0, 9.0, 30.0, 60.0, 85.0):
        vendor = Vendor(fails_at=moment)
        assert late(vendor, polls_of(vendor, experience)) <= TIMING.max_poll_delay_seconds


@pytest.mark.parametrize("skew", [-3600.0, -7.0, 3.0, 900.0])
def test_the_offset_of_a_servers_clock_is_learned(skew: float) -> None:
    random.seed(8)
    experience = Experience()
    for boot in (2.0, 30.0, 15.0, 40.0, 3.0):
        polls_of(Vendor(boot, skew=skew, has_logs=False), experience)
    vendor = Vendor(12.0, skew=skew, has_logs=False)
    polls = polls_of(vendor, experience)
    assert late(vendor, polls) <= 4.0
    assert len(polls) <= 25


def test_polls_of_an_overdue_prediction_keep_their_distance() -> None:
    random.seed(9)
    experience = Experience()
    for _ in range(4):
        polls_of(Vendor(has_logs=False), experience)
    slow = Vendor(step=6.0, has_logs=False)
    polls = polls_of(slow, experience)
    assert min(b - a for a, b in pairwise(polls)) >= TIMING.min_poll_gap_seconds * 0.99
    assert len(polls) < 80


@pytest.mark.parametrize(
    "members",
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
def test_nonsense_in_a_response_causes_neither_polls_nor_lateness(members: dict[str, Any]) -> None:
    random.seed(10)
    experience = Experience()
    for _ in range(3):
        vendor = Vendor(**members)
        polls = polls_of(vendor, experience)
        assert late(vendor, polls) <= TIMING.max_poll_delay_seconds
        assert len(polls) < 80


def test_a_run_that_ended_before_the_first_poll_is_learned() -> None:
    random.seed(12)
    experience, vendor = Experience(), Vendor()
    Schedule(experience=experience).learn(vendor.state_at(vendor.ended + 1), vendor.ended + 1)
    schedule = Schedule(experience=experience)
    schedule.learn(vendor.state_at(vendor.line.started + 1), vendor.line.started + 1)
    assert schedule.expected is not None
    assert schedule.expected.moment == pytest.approx(vendor.ended, abs=1.0)


def test_kinds_are_separate_and_the_oldest_are_forgotten() -> None:
    random.seed(11)
    experience = Experience()
    for frames in range(1, 2000, 4):
        polls_of(Vendor(input={"frame_num": frames}), experience)
    assert len(experience._kinds) <= 256
    schedule = Schedule(experience=experience)
    schedule.learn(Vendor(input={"frame_num": 81}).state_at(EPOCH + 50), EPOCH + 50)
    schedule.learn(Vendor(input={"size": "1280*720"}).state_at(EPOCH + 50), EPOCH + 50)


# --- pages -----------------------------------------------------------------------------------------


def test_pages_serve_many_waits_while_they_show_our_predictions() -> None:
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
