"""An outage of a server, as opposed to trouble of some predictions."""

from __future__ import annotations

from airflow_vace.core.health import Health
from airflow_vace.core.timing import Timing


def health_with(*healthy: str) -> Health:
    health = Health(Timing())
    for name in healthy:
        health.answered(0.0, name)
    return health


def fail(health: Health, now: float, *names: str) -> bool:
    for name in names:
        health.failed(now, name)
    return health.is_down


def test_a_server_that_answers_nobody_is_down() -> None:
    health = Health(Timing())
    assert not fail(health, 0.0, *"aabbb")
    assert fail(health, 1.0, "a")


def test_a_single_prediction_shows_no_outage() -> None:
    assert not fail(Health(Timing()), 0.0, *"aaaaaaaaaa")


def test_an_outage_needs_failures_of_healthy_predictions() -> None:
    health = health_with(*"abcd")
    assert not fail(health, 1.0, *"nopqrstuvw")
    assert not fail(health, 2.0, *"ab")
    assert fail(health, 3.0, "c")
    health.answered(4.0, None)
    assert not health.is_down


def test_predictions_in_trouble_of_their_own_show_no_outage_after_the_others_ended() -> None:
    health = health_with("a")
    fail(health, 1.0, *"nopqrst")
    health.answered(2.0, "a")
    health.forget("a")
    assert not fail(health, 3.0, *"nopqrst")
    assert health.is_own_trouble(3.0, "n")


def test_a_server_without_any_answer_for_a_minute_is_down() -> None:
    health = health_with("a")
    fail(health, -1.0, *"nopqrst")
    health.forget("a")
    assert not fail(health, 59.0, *"nopqrst")
    assert fail(health, 61.0, *"nopqrst")


def test_a_forgotten_prediction_is_new_again() -> None:
    health = health_with("a")
    health.refused(1.0, "b")
    assert not health.is_new("a")
    assert not health.is_new("b")
    for name in "ab":
        health.forget(name)
        assert health.is_new(name)
