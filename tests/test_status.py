"""Words of gateways for the six statuses."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_vace.core.outcome import read_end
from airflow_vace.exceptions import PredictionCanceled, PredictionFailed
from airflow_vace.prediction import Prediction, PredictionStatus

SUCCESS = (
    *("completed", "complete", "Completed", "success", "SUCCESS", "Successful", "succeed", "done", "DONE"),
    *("finished", "finish", "ready", "Ready", "ok", "TASK_STATUS_SUCCEED", "JOB_STATE_COMPLETED", " Done "),
)
FAILURE = (
    *("failure", "FAILURE", "fail", "error", "ERROR", "errored", "expired", "timeout", "timed_out"),
    *("Timed Out", "time-out", "rejected", "TASK_STATUS_FAILED", "Content Moderated"),
)
RUNNING = {
    "NOT_START": "starting",
    "SUBMITTED": "starting",
    "QUEUED": "starting",
    "IN_QUEUE": "starting",
    "pending": "starting",
    "created": "starting",
    "IN_PROGRESS": "processing",
    "in-progress": "processing",
    "Running": "processing",
    "generating": "processing",
    "JOB_STATE_RUNNING": "processing",
}
ENDED: tuple[dict[str, Any], ...] = (
    {"output": "https://a.example/b.mp4"},
    {"output": ["https://a.example/b.mp4"]},
    {"completed_at": "2026-01-01T00:01:00Z"},
)


def prediction_of(**members: Any) -> Prediction:
    return Prediction.from_json({"id": "abc", **members})


@pytest.mark.parametrize("word", SUCCESS)
@pytest.mark.parametrize("end", ENDED, ids=str)
def test_a_success_word_is_terminal_beside_a_result(word: str, end: dict[str, Any]) -> None:
    found = prediction_of(status=word, **end)
    assert found.status is PredictionStatus.SUCCEEDED
    assert found.status_word == word.strip()
    assert prediction_of(**found.payload()).payload() == found.payload()


@pytest.mark.parametrize("word", SUCCESS)
@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"output": None, "error": None, "completed_at": None},
        {"output": [], "error": {"code": "", "message": ""}, "completed_at": ""},
        {"output": "", "error": False, "completed_at": "0001-01-01T00:00:00Z"},
        {"output": {}, "error": {}, "completed_at": "1970-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_a_success_word_alone_is_not_terminal(word: str, rest: dict[str, Any]) -> None:
    found = prediction_of(status=word, **rest)
    assert not found.status.is_final
    assert found.status.is_unproven_success
    assert found.status_word is None


@pytest.mark.parametrize("word", SUCCESS)
def test_a_success_word_beside_an_error_is_a_failure(word: str) -> None:
    with pytest.raises(PredictionFailed, match="it broke"):
        read_end(prediction_of(status=word, error="it broke"))


@pytest.mark.parametrize("word", FAILURE)
def test_a_failure_word_is_a_failure_and_stays_visible(word: str) -> None:
    found = prediction_of(status=word, error="it broke")
    assert found.status is PredictionStatus.FAILED
    with pytest.raises(PredictionFailed, match="it broke") as caught:
        read_end(found)
    assert repr(word) in str(caught.value)


def test_a_failure_word_without_a_reason_advises_another_run() -> None:
    with pytest.raises(PredictionFailed, match="Another run with the same input may succeed"):
        read_end(prediction_of(status="timeout"))


@pytest.mark.parametrize("word", ["CANCELLED", "canceled", "Cancelled", "stopped", "terminated"])
def test_a_word_for_canceled_is_canceled(word: str) -> None:
    with pytest.raises(PredictionCanceled, match="was canceled"):
        read_end(prediction_of(status=word))


@pytest.mark.parametrize(("word", "status"), RUNNING.items())
def test_a_word_for_a_running_prediction_is_known_and_not_terminal(word: str, status: str) -> None:
    found = prediction_of(status=word, output="https://a.example/b.mp4")
    assert found.status == status
    assert found.status.is_known
    assert found.status_word == word


@pytest.mark.parametrize("word", ["succeeded", "SUCCEEDED", " Failed ", "processing"])
def test_the_apis_own_words_are_not_repeated(word: str) -> None:
    assert prediction_of(status=word).status_word is None
    assert "status_word" not in prediction_of(status=word).payload()


@pytest.mark.parametrize("word", ["warming-up", "task", "status", "runner", "not done", "unfinished"])
def test_other_words_stay_unknown_beside_any_result(word: str) -> None:
    found = prediction_of(status=word, output="https://a.example/b.mp4", error="x")
    assert not found.status.is_known
    assert not found.status.is_unproven_success
