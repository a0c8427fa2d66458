"""Predictions as read from JSON, and their payloads."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.prediction import (
    Prediction,
    PredictionStatus,
    first_count,
    latest_time,
    parse_time,
)
from airflow_vace.progress import Progress

WIRE: dict[str, Any] = {
    "id": "w44zs9cet5rmc0cqzp49gpkhf8",
    "model": "prunaai/vace-14b",
    "version": "hidden",
    "input": {"prompt": "a fox", "sample_steps": 50, "src_video": "data:video/mp4;base64,AAAA"},
    "logs": " 38%|███▊      | 19/50 [00:30<00:48,  1.57s/it]",
    "output": None,
    "data_removed": False,
    "error": None,
    "status": "processing",
    "created_at": "2025-07-12T07:27:54.577Z",
    "urls": {"get": "https://api.replicate.com/v1/predictions/w44zs9cet5rmc0cqzp49gpkhf8"},
}


def prediction_of(**members: Any) -> Prediction:
    return Prediction.from_json({"id": "abc", "status": "processing", **members})


# --- status ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status", "final"),
    [
        ("starting", PredictionStatus.STARTING, False),
        ("processing", PredictionStatus.PROCESSING, False),
        ("succeeded", PredictionStatus.SUCCEEDED, True),
        ("failed", PredictionStatus.FAILED, True),
        ("canceled", PredictionStatus.CANCELED, True),
        ("aborted", PredictionStatus.ABORTED, True),
        ("cancelled", PredictionStatus.CANCELED, True),
        ("Cancelled", PredictionStatus.CANCELED, True),
        (" SUCCEEDED ", PredictionStatus.SUCCEEDED, True),
    ],
)
def test_six_statuses_are_read_in_all_spellings(said: str, status: PredictionStatus, *, final: bool) -> None:
    found = prediction_of(status=said).status
    assert found is status
    assert found.is_known
    assert found.is_final is final


def test_an_unknown_status_is_kept_and_not_final() -> None:
    status = prediction_of(status="Warming-Up").status
    assert status == "warming-up"
    assert not status.is_known
    assert not status.is_final
    assert prediction_of(status="Warming-Up").payload()["status"] == "warming-up"


def test_a_status_other_than_text_is_refused() -> None:
    with pytest.raises(ValueError, match="5"):
        PredictionStatus(5)  # type: ignore[arg-type]


# --- reading ---------------------------------------------------------------------------------------


def test_a_payload_keeps_all_members_except_input_and_logs() -> None:
    prediction = Prediction.from_json(WIRE)
    payload = json.loads(json.dumps(prediction.payload()))
    assert "input" not in payload
    assert "logs" not in payload
    assert Prediction.from_json(payload).payload() == payload
    assert payload["urls"] == WIRE["urls"]
    assert set(payload) == {
        *("id", "status", "model", "version", "urls", "output", "error"),
        *("created_at", "started_at", "completed_at", "metrics", "data_removed"),
        *("seed", "map_index", "label"),
    }


def test_a_payload_lists_saved_files() -> None:
    files = [{"uri": "file:///a.mp4", "size": 1, "sha256": "0", "content_type": "video/mp4"}]
    assert prediction_of(files=files).payload()["files"] == files


def test_only_id_and_status_are_required_and_must_be_valid() -> None:
    prediction = prediction_of(
        urls=None, metrics=[1], logs=5, model=3, created_at=1589478378, files="x", input=[]
    )
    assert prediction.payload() | {"id": "", "status": ""} == {
        **dict.fromkeys(("model", "version", "output", "error", "created_at", "started_at")),
        **dict.fromkeys(("seed", "map_index", "label")),
        "id": "",
        "status": "",
        "urls": {},
        "completed_at": None,
        "metrics": {},
        "data_removed": False,
    }


def test_an_integer_id_becomes_text() -> None:
    assert prediction_of(id=729667095).id == "729667095"


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "text",
        {},
        {"status": "starting"},
        {"id": "", "status": "starting"},
        {"id": "../etc", "status": "starting"},
        {"id": "a\n", "status": "starting"},
        {"id": True, "status": "starting"},
        {"id": "abc"},
        {"id": "abc", "status": None},
        {"id": "abc", "status": " "},
        {"created": 1589478378, "data": [{"url": "https://..."}, {"url": "https://..."}]},
    ],
)
def test_other_json_is_refused_and_shown(data: object) -> None:
    with pytest.raises(VaceProtocolError) as caught:
        Prediction.from_json(data)
    assert caught.value.body in str(caught.value)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, None),
        ("", None),
        ("out of memory", "out of memory"),
        ({"message": "no", "code": "E1001"}, "E1001: no"),
        ({"detail": "E1001: no", "code": "E1001"}, "E1001: no"),
        ({"what": 1}, '{"what": 1}'),
        (["a"], '["a"]'),
        ("see https://x.y/z?sig=5ecret", "see https://x.y/z?…"),
    ],
)
def test_an_error_is_text_or_none(error: object, text: str | None) -> None:
    assert prediction_of(error=error).error == text


@pytest.mark.parametrize(
    "address",
    [
        "https://a/b?hdnts=SECRET",
        "/files/a.mp4?hdnts=exp=1~hmac=SECRET",
        "//cdn.example/a.mp4?hdnts=SECRET",
        "https:/cdn/a?hdnts=SECRET",
        "user:SECRET12345@cdn.example/a.mp4",
    ],
)
@pytest.mark.parametrize(
    "name",
    ["output", "error", "model", "version", "created_at", "started_at", "completed_at", "metrics", "x"],
)
def test_no_member_of_a_payload_keeps_a_secret_of_an_address(name: str, address: str) -> None:
    members = {"metrics": {"took": address, address: 1}} if name == "metrics" else {name: address}
    payload = prediction_of(urls={"x": address}, **members).payload()
    assert "SECRET" not in repr(payload)
    assert name == "x" or "a" in repr(payload[name])


@pytest.mark.parametrize("digits", ["", ".5", ".577", ".577123", ".57712345", ".577123456"])
def test_times_have_any_number_of_fractional_digits(digits: str) -> None:
    moment = parse_time(f"2025-07-12T07:27:54{digits}Z")
    assert moment is not None
    assert moment.replace(microsecond=0) == datetime(2025, 7, 12, 7, 27, 54, tzinfo=UTC)


def test_a_time_without_zone_is_utc_and_nonsense_is_none() -> None:
    assert parse_time("2025-07-12T07:27:54") == datetime(2025, 7, 12, 7, 27, 54, tzinfo=UTC)
    assert parse_time("yesterday") is None
    assert parse_time(None) is None


def test_a_time_without_zone_may_be_twelve_hours_later() -> None:
    noon = datetime(2025, 7, 12, 12, tzinfo=UTC)
    assert latest_time("2025-07-12T12:00:00Z") == noon
    assert latest_time("2025-07-12T12:00:00") == noon + timedelta(hours=12)
    assert latest_time(None) is None


def test_a_local_time_of_eight_hours_ago_is_no_expiry() -> None:
    ended = (datetime.now(UTC) - timedelta(hours=8)).replace(tzinfo=None).isoformat()
    assert not prediction_of(status="succeeded", completed_at=ended).has_expired
    ended = (datetime.now(UTC) - timedelta(hours=14)).replace(tzinfo=None).isoformat()
    assert prediction_of(status="succeeded", completed_at=ended).has_expired


# --- ends ------------------------------------------------------------------------------------------


def test_a_success_without_output_expires_by_report_or_after_an_hour() -> None:
    old = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    assert prediction_of(status="succeeded", data_removed=True).has_expired
    assert prediction_of(status="succeeded", completed_at=old).has_expired
    assert not prediction_of(status="succeeded", completed_at=datetime.now(UTC).isoformat()).has_expired
    assert not prediction_of(status="succeeded", output="https://a/b", data_removed=True).has_expired
    assert not prediction_of(status="failed", data_removed=True).has_expired


@pytest.mark.parametrize(
    ("error", "again"),
    [
        ("E6716: timeout starting", True),
        ("Unknown error (E1000)", True),
        ("Queue is full", True),
        ("queue full", True),
        ("Prediction interrupted; please retry", True),
        ("E1001 out of memory; interrupted", False),
        ("NSFW content", False),
        (None, False),
    ],
)
def test_some_failures_are_worth_another_run(error: str | None, *, again: bool) -> None:
    assert prediction_of(status="failed", error=error).worth_another_run is again
    assert not prediction_of(status="succeeded", error=error).worth_another_run


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("succeeded", "It is billed"),
        ("aborted", "not billed"),
        ("canceled", "billed for the time"),
        ("failed", "may be billed"),
        ("processing", "may still be running"),
    ],
)
def test_each_status_has_a_sentence_about_the_bill(status: str, said: str) -> None:
    assert said in prediction_of(status=status).bill


def test_an_update_keeps_members_that_only_the_older_response_had() -> None:
    older = Prediction.from_json(WIRE)
    newer = older.updated(prediction_of(id=older.id, status="succeeded"))
    assert newer.status is PredictionStatus.SUCCEEDED
    assert (newer.model, newer.created_at, newer.urls) == (older.model, older.created_at, older.urls)


def test_a_stale_response_does_not_reopen_a_finished_prediction() -> None:
    final = prediction_of(status="succeeded", output="https://a/b")
    assert final.updated(prediction_of(status="processing")) is final


def test_the_bar_of_the_requested_steps_is_preferred_over_later_bars() -> None:
    logs = "100%|██| 50/50 [01:18<00:00,  1.57s/it]\nDecoding:  33%|███ | 1/3 [00:02<00:04,  2.00s/it]"
    progress = Progress.from_logs(logs, steps=50)
    assert progress is not None
    assert progress.step == 50
    other = Progress.from_logs(logs, steps=30)
    assert other is not None
    assert other.steps == 3
    assert prediction_of(logs=logs).progress == progress
    assert prediction_of(logs=logs, input={"sample_steps": 30}).progress == other
    assert prediction_of(logs=logs, input={"sample_steps": "?"}).progress == other


@pytest.mark.parametrize(
    ("seed", "wanted"),
    [(7, 7), ("7", 7), (0, 0), (-1, None), ("-1", None), (True, None), (None, None)],
    ids=repr,
)
def test_a_seed_is_an_integer_of_at_least_zero_or_unknown(seed: object, wanted: int | None) -> None:
    assert first_count(seed) == wanted


def test_a_payload_marks_a_reused_video_only() -> None:
    fresh = Prediction.from_json({"id": "abc", "status": "succeeded"})
    assert "reused" not in fresh.payload()
    reused = replace(fresh, reused=True)
    assert reused.payload()["reused"] is True
    assert Prediction.from_json(reused.payload()) == reused
    assert not Prediction.from_json({**fresh.payload(), "reused": "yes"}).reused
