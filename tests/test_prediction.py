from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.prediction import Prediction, PredictionStatus, Progress, first_count, parse_time

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


def told(**members: Any) -> Prediction:
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
def test_six_statuses_and_their_kin_in_spelling(said: str, status: PredictionStatus, *, final: bool) -> None:
    found = told(status=said).status
    assert found is status
    assert found.is_known
    assert found.is_final is final


def test_an_unknown_status_is_kept_and_not_final() -> None:
    status = told(status="Warming-Up").status
    assert status == "warming-up"
    assert not status.is_known
    assert not status.is_final
    assert told(status="Warming-Up").payload()["status"] == "warming-up"


def test_a_status_that_is_no_text_is_no_status() -> None:
    with pytest.raises(ValueError, match="5"):
        PredictionStatus(5)  # type: ignore[arg-type]


# --- reading ---------------------------------------------------------------------------------------


def test_what_the_wire_tells_comes_back_from_a_payload_without_input_and_logs() -> None:
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


def test_saved_files_stand_in_the_payload() -> None:
    files = [{"uri": "file:///a.mp4", "size": 1, "sha256": "0", "content_type": "video/mp4"}]
    assert told(files=files).payload()["files"] == files


def test_everything_but_id_and_status_may_lack_or_be_odd() -> None:
    prediction = told(urls=None, metrics=[1], logs=5, model=3, created_at=1589478378, files="x", input=[])
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


def test_a_number_as_id_is_an_id() -> None:
    assert told(id=729667095).id == "729667095"


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
def test_what_is_no_prediction_is_refused_and_shown(data: object) -> None:
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
    assert told(error=error).error == text


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (None, []),
        ("https://a/b.mp4", ["https://a/b.mp4"]),
        ("HTTPS://a/b.mp4", ["HTTPS://a/b.mp4"]),
        (["https://a/1", None, "https://a/2"], ["https://a/1", "https://a/2"]),
        ({"video": "https://a/1", "more": {"mask": ["https://a/2"]}}, ["https://a/1", "https://a/2"]),
        ("data:video/mp4;base64,AAAA", ["data:video/mp4;base64,AAAA"]),
        ("done", []),
        (5, []),
    ],
)
def test_output_is_a_list_of_urls_in_whatever_form_it_came(output: object, urls: list[str]) -> None:
    assert told(status="succeeded", output=output).output_urls == urls


def test_output_that_is_nested_without_end_is_bounded() -> None:
    output: Any = "https://a/b"
    for _ in range(50):
        output = [output]
    prediction = told(output=output)
    assert prediction.output_urls == []
    assert len(json.dumps(prediction.payload())) < 1000


def test_a_payload_never_carries_a_data_url() -> None:
    data = "data:video/mp4;base64,AAAA"
    assert told(output=data).payload()["output"] is None
    assert told(output=f"\n {data}").payload()["output"] is None
    assert told(output=f" {data}").output_urls == [data]


NESTED: Any = "https://a/b"
for _ in range(9):
    NESTED = {"x": NESTED}


@pytest.mark.parametrize(
    "output",
    [
        [" data:video/mp4;base64,AAAA", "https://a/b"],
        {"a": "data:video/mp4;base64,AAAA", "b": 5},
        {"data:video/mp4;base64,AAAA": 5},
        NESTED,
        {"https://a/b?sig=SECRET1": 1, "https://a/b?sig=SECRET2": 2},
    ],
    ids=["list", "object", "key", "nested", "equal keys"],
)
def test_a_payload_holds_all_of_an_output_or_nothing(output: Any) -> None:
    prediction = told(status="succeeded", output=output)
    assert prediction.payload()["output"] is None
    assert prediction.has_output
    assert not prediction.fits_payload


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
def test_no_member_of_a_payload_keeps_what_opens_an_address(name: str, address: str) -> None:
    members = {"metrics": {"took": address, address: 1}} if name == "metrics" else {name: address}
    payload = told(urls={"x": address}, **members).payload()
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


# --- ends ------------------------------------------------------------------------------------------


def test_expired_is_succeeded_without_output_and_said_so_or_an_hour_old() -> None:
    old = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    assert told(status="succeeded", data_removed=True).has_expired
    assert told(status="succeeded", completed_at=old).has_expired
    assert not told(status="succeeded", completed_at=datetime.now(UTC).isoformat()).has_expired
    assert not told(status="succeeded", output="https://a/b", data_removed=True).has_expired
    assert not told(status="failed", data_removed=True).has_expired


@pytest.mark.parametrize(
    ("error", "again"),
    [
        ("E6716: timeout starting", True),
        ("Queue is full", True),
        ("queue full", True),
        ("Prediction interrupted; please retry", True),
        ("E1001 out of memory; interrupted", False),
        ("NSFW content", False),
        (None, False),
    ],
)
def test_some_failures_are_worth_another_run(error: str | None, *, again: bool) -> None:
    assert told(status="failed", error=error).worth_another_run is again
    assert not told(status="succeeded", error=error).worth_another_run


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
def test_each_status_says_what_it_means_for_the_bill(status: str, said: str) -> None:
    assert said in told(status=status).bill


def test_a_newer_answer_keeps_what_only_the_older_one_knew() -> None:
    older = Prediction.from_json(WIRE)
    newer = older.updated(told(id=older.id, status="succeeded"))
    assert newer.status is PredictionStatus.SUCCEEDED
    assert (newer.model, newer.created_at, newer.urls) == (older.model, older.created_at, older.urls)


def test_the_first_final_answer_wins_over_a_stale_one() -> None:
    final = told(status="succeeded", output="https://a/b")
    assert final.updated(told(status="processing")) is final


# --- progress --------------------------------------------------------------------------------------


def test_progress_is_read_from_a_tqdm_line() -> None:
    assert Progress.from_logs(WIRE["logs"]) == Progress(38, 19, 50, 48.0, 1.57)


def test_the_last_of_several_redrawn_bars_counts() -> None:
    logs = (
        "Loading: 100%|██████████| 5/5 [00:04<00:00,  1.25it/s]\n"
        "  0%|          | 0/50 [00:00<?, ?it/s]\r 40%|████      | 20/50 [00:31<00:47,  1.57s/it]"
    )
    assert Progress.from_logs(logs) == Progress(40, 20, 50, 47.0, 1.57)


def test_the_bar_of_the_asked_number_of_steps_counts_even_if_another_follows() -> None:
    logs = "100%|██| 50/50 [01:18<00:00,  1.57s/it]\nDecoding:  33%|███ | 1/3 [00:02<00:04,  2.00s/it]"
    progress = Progress.from_logs(logs, steps=50)
    assert progress is not None
    assert progress.step == 50
    other = Progress.from_logs(logs, steps=30)
    assert other is not None
    assert other.steps == 3
    assert told(logs=logs).progress == progress
    assert told(logs=logs, input={"sample_steps": 30}).progress == other
    assert told(logs=logs, input={"sample_steps": "?"}).progress == other


@pytest.mark.parametrize(
    ("bar", "eta", "rate"),
    [
        (" 10%|█| 5/50 [00:01<1:02:03, 2.00it/s]", 3723.0, 0.5),
        (" 10%|█| 5/50 [00:01<?, ?it/s]", None, None),
        (" 10%|█| 5/50 [00:01<00:09]", 9.0, None),
        (" 10%|█| 5/50 [00:01<00:09, 0.00s/it]", 9.0, None),
        (" 10%|█| 5/50 [00:01<00:09, 1.2.3s/it]", 9.0, None),
    ],
)
def test_eta_and_rate_come_in_all_forms(bar: str, eta: float | None, rate: float | None) -> None:
    progress = Progress.from_logs(bar)
    assert progress is not None
    assert (progress.eta, progress.seconds_per_step) == (eta, rate)


@pytest.mark.parametrize("logs", [None, "", "no bar", "50%", "45%|██| 1.2G/2.8G [00:10<00:12, 120MB/s]"])
def test_without_a_bar_there_is_no_progress(logs: str | None) -> None:
    assert Progress.from_logs(logs) is None


def test_percent_never_exceeds_a_hundred() -> None:
    progress = Progress.from_logs("104%|█| 52/50 [00:01<00:09, 1.00s/it]")
    assert progress is not None
    assert progress.percent == 100


@given(st.text() | st.from_regex(r"[0-9 %|/\[\]<:,\rits.]{0,200}"))
def test_no_logs_break_the_reading(logs: str) -> None:
    Progress.from_logs(logs)


def test_only_the_newest_few_hundred_bars_are_read() -> None:
    step, decode = "20%|█| 10/50 [00:10<00:40, 1.00s/it]\n", "50%|█| 5/10 [00:05<00:05, 1.00s/it]\r"
    near = Progress.from_logs(step + decode * 100, 50)
    far = Progress.from_logs(step + decode * 1000, 50)
    assert near is not None
    assert (near.step, near.is_of_steps) == (10, True)
    assert far is not None
    assert (far.step, far.is_of_steps) == (5, False)


@pytest.mark.parametrize(
    ("seed", "wanted"),
    [(7, 7), ("7", 7), (0, 0), (-1, None), ("-1", None), (True, None), (None, None)],
    ids=repr,
)
def test_a_seed_is_a_number_of_zero_or_more_or_not_known(seed: object, wanted: int | None) -> None:
    assert first_count(seed) == wanted
