"""Types of the errors' evidence, for the session `types`; no test runs this."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from airflow_vace.exceptions import (
    LedgerError,
    PredictionCanceled,
    PredictionError,
    PredictionExpired,
    PredictionFailed,
    PredictionTimeout,
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceConnectionMissing,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable


def evidence_stands_in_typed_attributes(call: Callable[[], object]) -> None:
    try:
        call()
    except VaceInputError as error:
        assert_type(error.field, str)
        assert_type(error.value, object)
        assert_type(error.remedy, str)
    except VaceConnectionMissing as error:
        assert_type(error.conn_id, str)
    except VaceTransportError as error:
        assert_type(error.sent, bool)
    except VaceAPIError as error:
        assert_type(error.status_code, int)
        assert_type(error.detail, str)
        assert_type(error.code, str | None)
        assert_type(error.retry_after, float | None)
    except PredictionFailed as error:
        assert_type(error.prediction, Prediction)
        assert_type(error.worth_another_run, bool)
    except PredictionError as error:
        assert_type(error.prediction, Prediction)


def all_errors_are_of_one_tree() -> None:
    api: list[type[VaceAPIError]] = [VaceAuthError, VaceBillingError, VaceRateLimited]
    ended: list[type[PredictionError]] = [
        PredictionFailed,
        PredictionCanceled,
        PredictionExpired,
        PredictionTimeout,
    ]
    others: list[type[VaceError]] = [LedgerError, SubmissionUnknown, VaceProtocolError]
    everything: list[type[VaceError]] = [*api, *ended, *others]
    assert everything
