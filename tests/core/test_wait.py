"""The decisions of a wait: pauses, ends, log lines, and the errors of each end."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_vace.core.outcome import read_end
from airflow_vace.core.retry import Backoff, CreateRetries
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import Final, GiveUp, PollAgain, Wait
from airflow_vace.exceptions import (
    PredictionCanceled,
    PredictionExpired,
    PredictionFailed,
    PredictionTimeout,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.prediction import Prediction

TIMING = Timing()


def prediction_of(status: str = "processing", **members: Any) -> Prediction:
    return Prediction.from_json({"id": "abc", "status": status, **members})


def waiting(status: str = "unknown", **kwargs: Any) -> Wait:
    return Wait(prediction=prediction_of(status), **kwargs)


def refused(status: int, **more: Any) -> VaceAPIError:
    kind = {401: VaceAuthError, 403: VaceAuthError, 402: VaceBillingError, 429: VaceRateLimited}
    return kind.get(status, VaceAPIError)("refused", status_code=status, **more)


# --- when ------------------------------------------------------------------------------------------


def test_pauses_grow_to_fifteen_seconds_and_jitter_shortens_them() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay() for _ in range(12)]
    assert TIMING.min_retry_seconds * 0.8 <= delays[0] <= TIMING.min_retry_seconds
    assert all(TIMING.max_retry_seconds * 0.8 <= delay <= TIMING.max_retry_seconds for delay in delays[6:])
    assert len(set(delays)) == len(delays)


@pytest.mark.parametrize("interval", [0.1, 5.0, 60.0])
def test_the_authors_interval_bounds_the_pauses(interval: float) -> None:
    backoff = Backoff(interval)
    delays = [backoff.next_delay() for _ in range(20)]
    assert max(delays) <= interval
    assert min(delays[15:]) >= interval * 0.8


def test_an_interval_of_zero_still_pauses() -> None:
    backoff = Backoff(0.0)
    assert all(backoff.next_delay() >= TIMING.min_poll_interval_seconds * 0.8 for _ in range(5))


def test_the_server_may_ask_for_more_time() -> None:
    assert Backoff().next_delay(40.0) == 40.0
    assert Backoff().next_delay(0.0) > 1.0


# --- what an answer means --------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled", "aborted", "Cancelled"])
def test_a_final_answer_ends_the_wait(status: str) -> None:
    assert waiting(deadline=0.0).answered(prediction_of(status), now=10.0) == Final(prediction_of(status))


@pytest.mark.parametrize("status", ["starting", "processing", "warming-up"])
def test_any_other_answer_is_polled_again_until_the_deadline(status: str) -> None:
    wait = waiting(deadline=100.0)
    assert isinstance(wait.answered(prediction_of(status), now=10.0), PollAgain)
    assert wait.answered(prediction_of(status), now=99.5) == PollAgain(0.5)
    decision = wait.answered(prediction_of(status), now=100.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, PredictionTimeout)
    assert decision.error.prediction.status == status
    assert "abc" in str(decision.error)
    assert "billed" in str(decision.error)


def test_a_deadline_ends_a_wait_without_a_poll_too() -> None:
    wait = waiting(deadline=100.0)
    assert wait.overdue(99.0) is None
    decision = wait.overdue(100.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, PredictionTimeout)
    assert wait.news is None


def test_without_a_deadline_there_is_no_end() -> None:
    assert isinstance(waiting().answered(prediction_of(), now=1e12), PollAgain)


def test_a_status_may_go_back_but_an_end_stays() -> None:
    wait = waiting()
    assert isinstance(wait.answered(prediction_of("processing"), 1.0), PollAgain)
    assert isinstance(wait.answered(prediction_of("starting"), 2.0), PollAgain)
    assert isinstance(wait.answered(prediction_of("succeeded"), 3.0), Final)
    assert wait.answered(prediction_of("processing"), 4.0) == Final(prediction_of("succeeded"))


# --- what an error means ---------------------------------------------------------------------------

PASSING: list[VaceError] = [
    VaceTransportError("reset", sent=True),
    VaceTransportError("no such host", sent=False),
    VaceProtocolError("HTML", status_code=200),
    *(refused(status) for status in (302, 408, 429, 500, 502, 503, 504, 524)),
    *(refused(status, is_from_api=False) for status in (400, 401, 402, 403, 404, 405, 410, 422)),
]


@pytest.mark.parametrize(
    "error", PASSING, ids=lambda e: f"{type(e).__name__} {getattr(e, 'status_code', '')}"
)
def test_a_transient_error_ends_no_wait_before_the_deadline(error: VaceError) -> None:
    wait = waiting(deadline=1000.0)
    assert all(isinstance(wait.failed(error, now=1.0), PollAgain) for _ in range(100))
    decision = wait.failed(error, now=1000.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, PredictionTimeout)
    assert str(error) in str(decision.error)


def test_a_timeout_names_the_last_error() -> None:
    decision = waiting(deadline=5.0).failed(refused(500), now=5.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, PredictionTimeout)
    assert "The last poll failed: refused" in str(decision.error)


@pytest.mark.parametrize(
    ("status", "most"),
    [
        (401, TIMING.max_auth_refusals),
        (403, TIMING.max_auth_refusals),
        *((status, TIMING.max_not_found) for status in (400, 402, 404, 405, 409, 410, 418, 422, 451)),
    ],
)
def test_refusals_end_the_wait_only_in_a_row(status: int, most: int) -> None:
    error = refused(status)
    wait = waiting(timing=Timing(not_found_grace_seconds=0.0))
    for _ in range(3):
        assert all(isinstance(wait.failed(error, 1.0), PollAgain) for _ in range(most - 1))
        wait.answered(prediction_of(), 1.0)
    for _ in range(most - 1):
        wait.failed(error, 1.0)
    assert wait.failed(error, 1.0) == GiveUp(error)


@pytest.mark.parametrize("status", [400, 402, 404, 422])
def test_a_refusal_of_the_api_ends_the_wait_only_after_some_time(status: int) -> None:
    wait = waiting()
    for _ in range(100):
        assert isinstance(wait.failed(refused(status), 1.0), PollAgain)
    assert isinstance(wait.failed(refused(status), 1.0 + TIMING.not_found_grace_seconds), GiveUp)


def test_a_success_word_without_a_result_is_logged_with_the_reason_to_wait() -> None:
    wait = waiting()
    assert isinstance(wait.answered(prediction_of(status="completed"), 1.0), PollAgain)
    assert wait.news == "Prediction abc: completed (without output, error or time of the end; waiting on)"
    wait.answered(prediction_of(status="IN_PROGRESS"), 2.0)
    assert wait.news == "Prediction abc: processing ('IN_PROGRESS')"


def test_refusals_that_change_do_not_end_the_wait() -> None:
    wait = waiting()
    for number in range(100):
        error = refused((400, 422, 409)[number % 3], code="odd" if number % 2 else "other")
        assert isinstance(wait.failed(error, float(number)), PollAgain)


def test_another_error_in_between_starts_the_count_again() -> None:
    wait = waiting()
    for _ in range(50):
        assert isinstance(wait.failed(refused(401), 1.0), PollAgain)
        assert isinstance(wait.failed(refused(500), 1.0), PollAgain)


def test_a_reference_to_no_prediction_ends_the_wait_at_once() -> None:
    error = VaceInputError("no prediction", field="prediction")
    assert waiting().failed(error, 1.0) == GiveUp(error)


def test_a_retry_after_holds_up_to_the_deadline() -> None:
    wait = waiting(deadline=100.0)
    assert wait.failed(refused(429, retry_after=50.0), now=10.0) == PollAgain(50.0)
    assert wait.failed(refused(429, retry_after=500.0), now=10.0) == PollAgain(90.0)
    # An hour from its end a file is gone: nobody waits as long as a broken header says.
    assert waiting().failed(refused(429, retry_after=1e9), now=10.0) == PollAgain(
        TIMING.max_retry_after_seconds
    )


# --- what is worth a line --------------------------------------------------------------------------


def bar(step: int) -> str:
    return f"{2 * step}%|█| {step}/50 [00:01<00:09, 1.50s/it]"


def test_a_status_is_news_once_and_progress_in_tenths() -> None:
    wait = waiting()
    said = []
    for number, prediction in enumerate(
        (
            prediction_of("starting"),
            prediction_of("starting"),
            prediction_of("processing"),
            prediction_of("processing", logs="Loading: 60%|█| 3/5 [00:01<00:01, 1.00s/it]"),
            prediction_of("processing", logs=bar(2)),
            prediction_of("processing", logs=bar(4)),
            prediction_of("processing", logs=bar(6)),
            prediction_of("processing", logs=bar(9)),
            prediction_of("succeeded"),
        )
    ):
        wait.answered(prediction, float(number))
        said.append(wait.news)
    assert said == [
        "Prediction abc: starting",
        None,
        "Prediction abc: processing",
        None,
        "Prediction abc: processing, 4 %, step 2 of 50, 1.50 s a step, 76 s left",
        None,
        "Prediction abc: processing, 12 %, step 6 of 50, 1.50 s a step, 70 s left",
        None,
        "Prediction abc: succeeded",
    ]


def test_a_bar_without_a_rate_shows_its_steps() -> None:
    wait = waiting("processing")
    wait.answered(prediction_of(logs="10%|█| 5/50 [00:01<?, ?it/s]"), 1.0)
    assert wait.news == "Prediction abc: processing, 10 %, step 5 of 50"
    wait.answered(prediction_of(logs="20%|█| 10/50 [00:01<00:40, ?it/s]"), 2.0)
    assert wait.news == "Prediction abc: processing, 20 %, step 10 of 50, 40 s left"


def test_a_logged_status_is_no_news_but_an_end_is() -> None:
    wait = waiting()
    wait.mark_logged("starting")
    wait.answered(prediction_of("starting"), 1.0)
    assert wait.news is None
    wait.mark_logged("succeeded")
    wait.mark_logged(None)
    wait.answered(prediction_of("succeeded"), 2.0)
    assert wait.news == "Prediction abc: succeeded"


def test_a_long_start_is_logged_at_growing_intervals() -> None:
    wait = waiting("starting")
    said = []
    for now in range(0, 400, 10):
        wait.answered(prediction_of("starting"), float(now))
        if wait.news:
            said.append((now, wait.news))
    assert [now for now, _ in said] == [30, 60, 120, 240]
    assert said[0][1] == "Prediction abc: starting for 30 s, a cold boot or a queue"


def test_a_running_prediction_is_kept_without_input_and_logs() -> None:
    wait = waiting()
    wait.answered(prediction_of("processing", logs=bar(2), input={"src_video": "data:" + "x" * 9999}), 1.0)
    assert (wait.prediction.logs, wait.prediction.input) == (None, {})
    decision = wait.answered(prediction_of("succeeded", logs="all", input={"seed": 7}), 2.0)
    assert isinstance(decision, Final)
    assert decision.prediction.input == {"seed": 7}


def test_an_unknown_status_warns_once() -> None:
    wait = waiting()
    wait.answered(prediction_of("warming-up"), 1.0)
    assert wait.is_troubled
    assert "not known" in (wait.news or "")
    wait.answered(prediction_of("warming-up"), 1.0)
    assert wait.news is None


def test_trouble_and_its_end_are_logged_once() -> None:
    wait = waiting("processing")
    wait.failed(refused(500), 1.0)
    assert wait.is_troubled
    assert "refused" in (wait.news or "")
    wait.failed(refused(500), 1.0)
    said = [(wait.news, wait.is_troubled)]
    for _ in range(2):
        wait.answered(prediction_of(), 1.0)
        said.append((wait.news, wait.is_troubled))
    again = "Prediction abc: processing, answers come again"
    assert said == [(None, True), (again, False), (None, False)]


# --- sending a create again ------------------------------------------------------------------------


def delays(error: VaceError, waited: float = 0.0) -> list[float | None]:
    """Return the pauses after one error that comes again and again."""
    retries = CreateRetries(TIMING)
    return [retries.next_delay(error, waited) for _ in range(TIMING.max_create_attempts)]


def test_a_refused_create_is_sent_again_a_few_times_and_not_for_long() -> None:
    limited = refused(429, retry_after=5.0)
    *before, last = delays(limited)
    assert before[0] == 5.0
    assert None not in before
    assert last is None
    assert delays(limited, TIMING.max_create_seconds)[0] is None
    assert delays(refused(429, retry_after=1000.0))[0] is None
    first, *_, later, _ = delays(VaceTransportError("refused", sent=False))
    assert first is not None
    assert later is not None
    assert first < later


def test_a_rate_limit_without_a_time_is_waited_for_too() -> None:
    delay = delays(refused(429))[0]
    assert delay is not None
    assert delay >= TIMING.min_retry_seconds


# --- ends ------------------------------------------------------------------------------------------


def test_a_success_with_output_or_files_is_returned() -> None:
    outputs: list[dict[str, Any]] = [{"output": "https://a/b"}, {"output": "text"}, {"output": {"a": 0}}]
    for members in (*outputs, {"files": [{}]}):
        prediction = prediction_of("succeeded", **members)
        assert read_end(prediction) is prediction


@pytest.mark.parametrize(
    ("prediction", "kind", "said"),
    [
        (
            prediction_of("failed", error="E1001 memory"),
            PredictionFailed,
            "failed: E1001 memory. It may be billed",
        ),
        (prediction_of("failed"), PredictionFailed, "failed, without a reason"),
        (prediction_of("failed"), PredictionFailed, "Another run with the same input may succeed"),
        (
            prediction_of("failed", error="E1000"),
            PredictionFailed,
            "Another run with the same input may succeed",
        ),
        (
            prediction_of("failed", error="E6716"),
            PredictionFailed,
            "Another run with the same input may succeed",
        ),
        (prediction_of("failed", error="E1001"), PredictionFailed, "choose a smaller size or fewer frames"),
        (prediction_of("failed", error="CUDA out of memory"), PredictionFailed, "fewer frames (frame_num)"),
        (prediction_of("failed", error="unsafe"), PredictionFailed, "Change the input before another run"),
        (prediction_of("canceled"), PredictionCanceled, "was canceled by somebody"),
        (prediction_of("aborted"), PredictionCanceled, "not billed"),
        (prediction_of("succeeded", data_removed=True), PredictionExpired, "have been deleted"),
        (prediction_of("succeeded"), VaceProtocolError, "brought no output"),
        (prediction_of("succeeded", output=["", None, {}]), VaceProtocolError, "brought no output"),
    ],
)
def test_any_other_end_is_an_error_with_id_bill_and_remedy(
    prediction: Prediction, kind: type[VaceError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        read_end(prediction)
    assert said in str(caught.value)
    assert "Prediction abc" in str(caught.value)
    assert "billed" in str(caught.value)
