"""The decisions about the prediction of a killed task, without Airflow."""

from __future__ import annotations

import pytest

from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.task.kill import AfterState, OnKill, decide_by_state, decide_on_kill

RUNNING = Prediction(id="abc", status=PredictionStatus.PROCESSING)
ENDED = Prediction(id="abc", status=PredictionStatus.SUCCEEDED)


@pytest.mark.parametrize(
    ("prediction", "changes", "expected"),
    [
        (None, {}, OnKill.NOTHING_RUNS),
        (ENDED, {}, OnKill.NOTHING_RUNS),
        (RUNNING, {"may_cancel": False, "cancel_on_kill": False}, OnKill.KEEP_FOREIGN),
        (RUNNING, {"cancel_on_kill": False}, OnKill.KEEP_AS_CONFIGURED),
        (RUNNING, {}, OnKill.CANCEL_IF_ENDED),
        (RUNNING, {"is_timeout": True}, OnKill.CANCEL),
        (RUNNING, {"is_known_to_retry": False}, OnKill.CANCEL),
    ],
    ids=str,
)
def test_a_kill_cancels_at_once_only_without_a_successor(
    prediction: Prediction | None, changes: dict[str, bool], expected: OnKill
) -> None:
    usual = {"may_cancel": True, "cancel_on_kill": True, "is_known_to_retry": True, "is_timeout": False}
    assert decide_on_kill(prediction, **{**usual, **changes}) is expected


@pytest.mark.parametrize("owns_prediction", [True, False])
@pytest.mark.parametrize("is_last_attempt", [True, False])
@pytest.mark.parametrize("state", ["failed", "success", "skipped", "upstream_failed", "removed", None])
def test_an_end_by_a_person_cancels(
    state: str | None, *, is_last_attempt: bool, owns_prediction: bool
) -> None:
    decision = decide_by_state(state, is_last_attempt=is_last_attempt, owns_prediction=owns_prediction)
    assert decision is AfterState.CANCEL


@pytest.mark.parametrize(
    ("state", "is_last_attempt", "owns_prediction", "expected"),
    [
        ("running", False, True, AfterState.KEEP_FOR_NEXT_ATTEMPT),
        ("running", True, True, AfterState.CANCEL),
        ("running", True, False, AfterState.KEEP_AFTER_LAST_ATTEMPT),
        ("deferred", True, True, AfterState.KEEP_FOR_NEXT_ATTEMPT),
        ("up_for_retry", False, True, AfterState.KEEP_FOR_NEXT_ATTEMPT),
        ("unknown", True, True, AfterState.KEEP_FOR_NEXT_ATTEMPT),
    ],
)
def test_a_stopped_worker_keeps_the_prediction_for_the_next_attempt(
    state: str, expected: AfterState, *, is_last_attempt: bool, owns_prediction: bool
) -> None:
    decision = decide_by_state(state, is_last_attempt=is_last_attempt, owns_prediction=owns_prediction)
    assert decision is expected
