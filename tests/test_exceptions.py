"""Errors: their tree, their evidence, and pickling."""

from __future__ import annotations

import copy
import pickle

import pytest

from airflow_vace import exceptions as e
from airflow_vace.prediction import Prediction

PREDICTION = Prediction.from_json({"id": "abc", "status": "failed", "error": "queue full"})
ALL = [
    e.VaceInputError("m", field="size", value=5, remedy="r"),
    e.VaceTransportError("m", sent=True),
    e.VaceAPIError("m", status_code=500),
    e.VaceAuthError("m", status_code=401, detail="d", code="c"),
    e.VaceBillingError("m", status_code=402),
    e.VaceRateLimited("m", status_code=429, retry_after=5.0),
    e.VaceProtocolError("m", status_code=200, body="<html>"),
    e.SubmissionUnknown("m", status_code=502),
    e.PredictionFailed("m", prediction=PREDICTION),
    e.PredictionCanceled("m", prediction=PREDICTION),
    e.PredictionExpired("m", prediction=PREDICTION),
    e.PredictionTimeout("m", prediction=PREDICTION),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_every_error_is_a_vace_error_and_survives_pickling_with_its_evidence(error: e.VaceError) -> None:
    assert isinstance(error, e.VaceError)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(twin) is type(error)
        assert str(twin) == "m"
        assert twin.__dict__ == error.__dict__


def test_errors_of_a_prediction_have_its_id_and_whether_to_retry() -> None:
    error = e.PredictionFailed("m", prediction=PREDICTION)
    assert error.prediction_id == "abc"
    assert error.worth_another_run


def test_the_tree_in_the_docstring_shows_every_class() -> None:
    classes = {n for n, c in vars(e).items() if isinstance(c, type) and issubclass(c, e.VaceError)}
    assert all(f" {name} " in (e.__doc__ or "").replace("\n", " ") for name in classes - {"VaceError"})
