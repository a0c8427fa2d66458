from __future__ import annotations

import copy
import pickle
import time

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


def test_errors_of_a_prediction_know_its_id_and_whether_to_run_again() -> None:
    error = e.PredictionFailed("m", prediction=PREDICTION)
    assert error.prediction_id == "abc"
    assert error.worth_another_run


def test_the_drawing_shows_every_class() -> None:
    classes = {n for n, c in vars(e).items() if isinstance(c, type) and issubclass(c, e.VaceError)}
    assert all(f" {name} " in (e.__doc__ or "").replace("\n", " ") for name in classes - {"VaceError"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b\nc", "a b c"),
        ("see https://x.y/a?X-Sig=1#f.", "see https://x.y/a?…"),
        ("https://user:pass@x.y/a", "https://x.y/a"),
        ("https://a.b/https://user:pass@x.y/a", "https://a.b/https://x.y/a"),
        ("ttps://user:pass@x.y/a?sig=1 torn", "ttps://x.y/a?… torn"),
        ("x.y/a?X-Amz-Signature=ab&b=1 torn", "x.y/a?… torn"),
        ("data:video/mp4;base64,AAAA", "data:video/mp4;…"),
        ("x" * 600, "x" * 499 + "…"),
    ],
)
def test_an_excerpt_shows_no_signature_no_file_and_not_too_much(text: str, shown: str) -> None:
    assert e.excerpt(text) == shown


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("/files/a.mp4?hdnts=exp=1~hmac=secret", "/files/a.mp4?…"),
        ("//cdn.example/a.mp4?hdnts=secret", "//cdn.example/a.mp4?…"),
        ("//cdn.example?e=1&hdnts=secret", "//cdn.example?…"),
        ("https:/cdn/a?hdnts=secret", "https:/cdn/a?…"),
        ("a.mp4?v&hdnts=secret#t=1", "a.mp4?…"),
        ("/files/a.mp4#hdnts=secret", "/files/a.mp4?…"),
        ("user:secret12345@cdn.example/a.mp4", "…@cdn.example/a.mp4"),
        ("//user:secret12345@cdn.example:8080/a.mp4", "//…@cdn.example:8080/a.mp4"),
    ],
)
def test_an_address_without_a_scheme_loses_what_opens_it(address: str, kept: str) -> None:
    for text, left in ((address, kept), (f'see "{address}" there', f'see "{kept}" there')):
        assert e.without_signatures(text) == left
        assert e.excerpt(text) == left
        assert not e.is_showable(text)


@pytest.mark.parametrize(
    "text",
    ["really? yes", "a/b?c", "Is it 1/2? x=1", "text, a=b? #c", "16:9@24fps/s", "/clips/a@2x.mp4", "e.g.?"],
)
def test_text_with_a_question_mark_stays_as_it_is(text: str) -> None:
    assert e.without_signatures(text) == text
    assert e.excerpt(text) == text


@pytest.mark.parametrize("piece", ["/", ".", "/a?", "a:", "a:b", "x?y", "://", "a:b@"])
def test_a_megabyte_of_odd_text_is_shortened_in_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    began = time.process_time()
    e.without_signatures(text)
    assert time.process_time() - began < 5
