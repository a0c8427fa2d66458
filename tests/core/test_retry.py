"""The table of retries: each class of error, and its consequence for each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest

from airflow_vace.core.retry import (
    AGAIN,
    LATER,
    NEVER,
    NOW,
    UNCLEAR,
    CallName,
    Failure,
    Verdict,
    failure_of,
    is_denial,
    is_file_gone,
    is_lasting,
    is_not_found,
    read_failed_create,
    settling_limits,
    verdict_of,
)
from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import (
    LedgerError,
    PredictionFailed,
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceConnectionMissing,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence


def refused(status: int, **evidence: Any) -> VaceAPIError:
    kind = {401: VaceAuthError, 403: VaceAuthError, 402: VaceBillingError, 429: VaceRateLimited}
    return kind.get(status, VaceAPIError)("refused", status_code=status, **evidence)


FAILED = PredictionFailed("m", prediction=Prediction.from_json({"id": "abc", "status": "failed"}))

# What each call may do after an error: AGAIN (this call and the next attempt of the task), NOW (this call),
# LATER (the next attempt alone), NEVER, or UNCLEAR (never, and the create may be billed).
ROWS: list[tuple[Failure, Sequence[BaseException], tuple[Verdict, ...]]] = [
    # class, errors of the class,        create,  poll,  cancel, list, upload, download
    (Failure.INVALID, [VaceInputError("m", field="prompt")], (NEVER, NEVER, NEVER, NEVER, NEVER, NEVER)),
    (Failure.NO_CONNECTION, [VaceConnectionMissing("c")], (LATER, AGAIN, NEVER, AGAIN, LATER, LATER)),
    (Failure.UNSENT, [VaceTransportError("m", sent=False)], (AGAIN, AGAIN, NOW, AGAIN, AGAIN, AGAIN)),
    (Failure.NO_ANSWER, [VaceTransportError("m", sent=True)], (UNCLEAR, AGAIN, NOW, AGAIN, AGAIN, AGAIN)),
    (Failure.RATE_LIMITED, [refused(429)], (AGAIN, AGAIN, NOW, AGAIN, AGAIN, AGAIN)),
    (
        Failure.OVERLOADED,
        [refused(503, code=f"system_{part}_overloaded") for part in ("cpu", "memory", "disk")],
        (AGAIN, AGAIN, NOW, AGAIN, AGAIN, AGAIN),
    ),
    (
        Failure.NO_CHANNEL,
        [
            refused(503, code="model_not_found"),
            refused(503, code="one_api_error", detail="当前分组下对于模型 x 无可用渠道"),
        ],
        (NEVER, AGAIN, NOW, AGAIN, AGAIN, AGAIN),
    ),
    (
        Failure.SERVER_TROUBLE,
        [
            *(refused(status) for status in (408, 500, 502, 503, 504, 524)),
            *(refused(status, is_from_api=False) for status in (408, 424, 444, 460, 499, 500)),
            refused(503, detail="busy"),
        ],
        (UNCLEAR, AGAIN, NOW, AGAIN, AGAIN, AGAIN),
    ),
    (
        Failure.BROKEN_OFF,
        [refused(status) for status in (424, 444, 460, 499)],
        (UNCLEAR, NOW, NOW, AGAIN, AGAIN, AGAIN),
    ),
    (Failure.SEE_OTHER, [refused(303)], (UNCLEAR, NOW, NEVER, AGAIN, NEVER, NEVER)),
    (
        Failure.PROXY_REFUSAL,
        [refused(302), *(refused(status, is_from_api=False) for status in (400, 401, 403, 404, 410, 422))],
        (NEVER, AGAIN, NOW, AGAIN, NEVER, NEVER),
    ),
    (Failure.KEY_REFUSED, [refused(401), refused(403)], (NEVER, NOW, NEVER, NEVER, NEVER, NEVER)),
    (Failure.NO_MONEY, [refused(402)], (NEVER, NOW, NEVER, NEVER, NEVER, NEVER)),
    (Failure.NOT_FOUND, [refused(404), refused(410)], (NEVER, NOW, NEVER, AGAIN, NEVER, NEVER)),
    (
        Failure.REFUSED,
        [refused(status) for status in (400, 409, 413, 422)],
        (NEVER, NOW, NEVER, AGAIN, NEVER, NEVER),
    ),
    (Failure.UNREADABLE, [VaceProtocolError("m")], (UNCLEAR, NOW, NEVER, AGAIN, NEVER, NEVER)),
    (
        Failure.TRUNCATED,
        [VaceProtocolError("m", is_truncated=True)],
        (UNCLEAR, NOW, NEVER, AGAIN, NEVER, NEVER),
    ),
    (
        Failure.SUBMISSION_LOOKED_UP_LATER,
        [SubmissionUnknown("m", may_be_retried=True)],
        (LATER, NEVER, NEVER, NEVER, NEVER, NEVER),
    ),
    (Failure.SUBMISSION_UNKNOWN, [SubmissionUnknown("m")], (NEVER, NEVER, NEVER, NEVER, NEVER, NEVER)),
    (Failure.LEDGER, [LedgerError("m")], (LATER, LATER, NEVER, LATER, LATER, LATER)),
    (Failure.STORAGE, [OSError("m"), PermissionError()], (NEVER, LATER, NEVER, LATER, LATER, LATER)),
    (Failure.OTHER, [FAILED, KeyError("m")], (NEVER, NEVER, NEVER, NEVER, NEVER, NEVER)),
]
CASES = [
    pytest.param(error, failure, call, verdict, id=f"{failure.name}-{number}-{call}")
    for failure, errors, verdicts in ROWS
    for number, error in enumerate(errors)
    for call, verdict in zip(get_args(CallName), verdicts, strict=True)
]


@pytest.mark.parametrize(("error", "failure", "call", "verdict"), CASES)
def test_each_error_has_one_consequence_for_each_call(
    error: BaseException, failure: Failure, call: CallName, verdict: Verdict
) -> None:
    assert failure_of(error) is failure
    assert verdict_of(error, call) == verdict


def test_the_rows_name_every_class_of_error() -> None:
    assert [failure for failure, _, _ in ROWS] == list(Failure)


def test_a_create_is_never_repeated_if_it_may_be_billed() -> None:
    verdicts = [verdict_of(errors[0], "create") for _, errors, _ in ROWS]
    assert not any(verdict.may_be_billed and (verdict.now or verdict.later) for verdict in verdicts)


def test_only_creates_are_paid_for() -> None:
    others = [verdict for _, _, verdicts in ROWS for verdict in verdicts[1:]]
    assert not any(verdict.may_be_billed for verdict in others)


def test_a_clear_refusal_of_a_create_stays_itself() -> None:
    for status in (401, 402, 404, 422, 429):
        error = refused(status)
        assert read_failed_create(error) is error


def test_an_unclear_create_says_that_it_may_be_billed() -> None:
    unknown = read_failed_create(refused(502))
    assert isinstance(unknown, SubmissionUnknown)
    assert unknown.status_code == 502
    assert "be billed" in str(unknown)
    assert not unknown.may_be_retried


@pytest.mark.parametrize(("status", "is_from_api"), [(401, True), (402, True), (403, True)])
def test_key_and_money_are_for_a_person_to_fix(status: int, *, is_from_api: bool) -> None:
    assert is_lasting(refused(status, is_from_api=is_from_api))


def test_a_proxys_refusal_is_no_word_of_the_api() -> None:
    assert not is_lasting(refused(403, is_from_api=False))
    assert not is_not_found(refused(404, is_from_api=False))
    assert settling_limits(failure_of(refused(403, is_from_api=False)), Timing()) is None


def test_a_file_host_refuses_in_any_format() -> None:
    assert all(is_file_gone(refused(status, is_from_api=False)) for status in (403, 404, 410))
    assert not is_file_gone(refused(401))
    assert not is_file_gone(VaceTransportError("m", sent=True))


@pytest.mark.parametrize(
    "code",
    [
        *("task_not_exist", "task_not_found", "not_found", "TaskNotFound", "PREDICTION_NOT_FOUND"),
        *("task does not exist", "resource_not_found", "no_such_task", "NotFoundError", "job-not-exists"),
    ],
)
def test_a_code_for_an_unknown_prediction_counts_under_any_status(code: str) -> None:
    assert failure_of(refused(400, code=code)) is Failure.NOT_FOUND
    assert is_denial(refused(400, code=code))


@pytest.mark.parametrize("code", [None, "", "model_not_found", "channel_not_found", "not_allowed", "exist"])
def test_other_codes_are_refusals(code: str | None) -> None:
    assert failure_of(refused(400, code=code)) is Failure.REFUSED
    assert is_denial(refused(400, code=code))
    assert not is_denial(refused(400, code=code, is_from_api=False))


def test_refusals_settle_after_a_number_and_a_time() -> None:
    timing = Timing()
    assert settling_limits(Failure.KEY_REFUSED, timing) == (5, 0.0)
    assert settling_limits(Failure.NOT_FOUND, timing) == (8, 10.0)
    assert settling_limits(Failure.REFUSED, timing) == (8, 10.0)
    assert settling_limits(Failure.BROKEN_OFF, timing) == (8, 10.0)
    assert settling_limits(Failure.NO_CONNECTION, timing) == (5, 60.0)
    assert settling_limits(Failure.SERVER_TROUBLE, timing) is None
