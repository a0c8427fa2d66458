"""Answers of polls under another id: a gateway's own prediction, or a confused cache."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_vace.core.identity import contradiction, is_confirmed
from airflow_vace.core.wait import Final, GiveUp, PollAgain, Wait
from airflow_vace.exceptions import PredictionTimeout
from airflow_vace.prediction import Prediction

CREATED = "2026-01-01T00:00:00.123Z"


def prediction_of(upstream_id: str | None = None, **members: Any) -> Prediction:
    found = Prediction.from_json({"id": "task_1", "status": "processing", **members})
    assert found.upstream_id is None
    return Prediction.from_json({**found.payload(), **members, "upstream_id": upstream_id})


@pytest.mark.parametrize(
    ("known", "latest"),
    [
        ({}, {}),
        ({"upstream_id": "up"}, {"upstream_id": "up"}),
        ({"urls": {"get": "https://api.replicate.com/v1/predictions/up"}}, {"upstream_id": "up"}),
        ({"urls": {"web": "https://replicate.com/p/up"}}, {"upstream_id": "up"}),
        ({"created_at": CREATED}, {"upstream_id": "up", "created_at": "2026-01-01T00:00:00.123000+00:00"}),
    ],
)
def test_the_same_id_an_id_from_the_create_or_an_equal_time_confirm(
    known: dict[str, Any], latest: dict[str, Any]
) -> None:
    assert is_confirmed(prediction_of(**known), prediction_of(**latest))
    # What is confirmed is not compared further: gateways report other names of models.
    assert contradiction(prediction_of(**known, model="a/b"), prediction_of(**latest, model="c/d")) is None


@pytest.mark.parametrize(
    ("known", "latest"),
    [
        ({}, {}),
        ({"upstream_id": "earlier"}, {}),
        ({"created_at": "2026-01-01T00:00:00Z"}, {"created_at": "2026-01-01T00:00:00Z"}),
        ({"created_at": "2026-01-01T00:00:00.123"}, {"created_at": "2026-01-01T00:00:00.123"}),
        ({"created_at": CREATED}, {"created_at": "2026-01-01T00:40:00Z"}),
        ({"created_at": CREATED}, {"created_at": "2025-12-31T23:59:30Z"}),
        ({"created_at": CREATED}, {"created_at": "2025-12-31T16:00:00"}),
        ({"created_at": CREATED}, {"created_at": "soon"}),
        ({"model": "prunaai/vace-14b"}, {"model": "PrunaAI/vace-14b"}),
        ({"model": "prunaai/vace-14b"}, {"model": "hidden"}),
        ({"seed": 5}, {"input": {"prompt": "a fox"}}),
    ],
)
def test_other_evidence_neither_confirms_nor_contradicts(
    known: dict[str, Any], latest: dict[str, Any]
) -> None:
    before, after = prediction_of(**known), prediction_of(**{"upstream_id": "up", **latest})
    assert not is_confirmed(before, after)
    assert contradiction(before, after) is None


@pytest.mark.parametrize(
    ("known", "latest", "member"),
    [
        ({"model": "prunaai/vace-14b"}, {"model": "prunaai/wan"}, "model"),
        ({"seed": 5}, {"input": {"seed": 6}}, "seed"),
        ({"input": {"prompt": "a fox"}}, {"input": {"prompt": "a cat"}}, "prompt"),
        ({"created_at": CREATED}, {"created_at": "2025-12-31T23:00:00.5Z"}, "created_at"),
    ],
)
def test_a_member_that_differs_shows_another_prediction(
    known: dict[str, Any], latest: dict[str, Any], member: str
) -> None:
    after = prediction_of(**{"upstream_id": "up", **latest})
    assert contradiction(prediction_of(**known), after) == member
    assert contradiction(prediction_of(**known), prediction_of(**latest)) is None


# --- in a wait -------------------------------------------------------------------------------------


def end_of(upstream_id: str | None, **members: Any) -> Prediction:
    output = "https://a.example/b.mp4"
    return prediction_of(upstream_id, **{"status": "succeeded", "output": output, **members})


def test_an_end_under_a_doubtful_id_is_believed_after_two_answers() -> None:
    wait = Wait(prediction=prediction_of(), deadline=1000.0)
    assert isinstance(wait.answered(end_of("up"), 1.0), PollAgain)
    assert wait.news is not None
    assert "polling again" in wait.news
    decision = wait.answered(end_of("up"), 2.0)
    assert isinstance(decision, Final)
    assert (decision.prediction.id, decision.prediction.upstream_id) == ("task_1", "up")


def test_different_ends_under_changing_ids_are_never_believed() -> None:
    wait = Wait(prediction=prediction_of(), deadline=1000.0)
    for number in range(50):
        end = end_of(f"other{number}", output=f"https://a.example/{number}.mp4")
        assert isinstance(wait.answered(end, float(number)), PollAgain)
    decision = wait.answered(end_of("another"), 1000.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, PredictionTimeout)


@pytest.mark.parametrize(
    ("members", "is_believed"),
    [
        ({}, True),
        ({"status": "failed", "output": None, "error": "E1", "completed_at": CREATED}, True),
        ({"status": "failed", "output": None, "error": "E1"}, False),
    ],
)
def test_the_same_end_under_two_new_ids_is_believed(members: dict[str, Any], is_believed: bool) -> None:  # noqa: FBT001
    wait = Wait(prediction=prediction_of(), deadline=1000.0)
    wait.answered(end_of("request1", **members), 1.0)
    assert wait.is_unsettled
    assert isinstance(wait.answered(end_of("request2", **members), 2.0), Final) is is_believed
    assert not wait.is_unsettled


def test_another_end_between_two_answers_confirms_neither() -> None:
    wait = Wait(prediction=prediction_of(), deadline=1000.0)
    for number, error in enumerate(["E1", "E2", "E1"]):
        end = end_of(f"request{number}", status="failed", output=None, error=error, completed_at=CREATED)
        assert isinstance(wait.answered(end, float(number)), PollAgain)


def test_an_id_that_is_known_from_running_answers_ends_at_once() -> None:
    wait = Wait(prediction=prediction_of(), deadline=1000.0)
    wait.answered(prediction_of("up"), 1.0)
    assert isinstance(wait.answered(end_of("up"), 2.0), Final)


def test_another_id_is_logged_once() -> None:
    wait = Wait(prediction=prediction_of(status="starting"), deadline=1000.0)
    news = []
    for moment in range(5):
        wait.answered(prediction_of("up"), float(moment))
        news.append(wait.news or "")
    assert [line.count("up") for line in news] == [1, 0, 0, 0, 0]
