"""What each back-end must do for us, the emulator's three faces and real ones alike.

`uv run pytest tests/contract --live CONN_ID` holds a real one to it; it says what that costs, and asks.
"""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.exceptions import VaceAPIError, VaceAuthError, VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.prediction import PredictionStatus, parse_time
from airflow_vace.storage.media_types import type_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.prediction import Prediction

# What one run of the contract may pay for, as tests/conftest.py asks.
MOST_PREDICTIONS = 2
# The cheapest that the model makes: few steps, few frames, its fastest mode, its smallest size.
CHEAPEST = {
    "prompt": "a red fox runs through fresh snow",
    "size": "832*480",
    "frame_num": 17,
    "sample_steps": 10,
    "speed_mode": "extra",
    "seed": 7,
}


class Account:
    """Makes predictions over `vace_default`, as many as were agreed on and no more."""

    def __init__(self, *, is_live: bool) -> None:
        self.is_live = is_live
        self.made: list[str] = []

    def create(self) -> Prediction:
        assert len(self.made) < MOST_PREDICTIONS, "nobody agreed to pay for more"
        prediction = VaceHook().create_prediction(CHEAPEST)
        self.made.append(prediction.id)
        return prediction


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "account" in metafunc.fixturenames:
        faces = ["live"] if metafunc.config.getoption("--live") else ["gateway", "replicate", "pruna"]
        metafunc.parametrize("account", faces, indirect=True, scope="module")


@pytest.fixture(scope="module")
def account(request: pytest.FixtureRequest) -> Iterator[Account]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "live":
            patch.setenv("AIRFLOW_CONN_VACE_DEFAULT", os.environ["VACE_LIVE_CONNECTION"])
            yield Account(is_live=True)
            return
        from airflow_vace.emulator import Emulator

        with Emulator(time_scale=0.005) as emulator:
            patch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(backend=request.param))
            yield Account(is_live=False)
            assert emulator.bill["charged"] <= MOST_PREDICTIONS


@pytest.fixture
def wrong_key(account: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Take the key away, and put another in its place."""
    known: dict[str, Any] = json.loads(os.environ["AIRFLOW_CONN_VACE_DEFAULT"])
    other = {**known, "password": "not-the-key-of-anybody"}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(other))
    return account


@pytest.fixture(scope="module")
def made(account: Account) -> Prediction:
    """The answer to a create; what it makes is waited for, once, by whoever asks for its end."""
    return account.create()


@pytest.fixture(scope="module")
def ended(made: Prediction) -> Prediction:
    hook = VaceHook()
    return hook.wait_for_prediction(made, timeout=3600)


def test_the_connection_is_reached_for_free(account: Account) -> None:
    is_good, message = VaceHook().test_connection()
    assert is_good, message
    assert not account.made


@pytest.mark.usefixtures("wrong_key")
def test_another_key_is_refused() -> None:
    is_good, message = VaceHook().test_connection()
    assert not is_good
    assert message.startswith("Key refused")
    with pytest.raises(VaceAuthError):
        VaceHook().get_prediction("nobodysprediction0000000000")


@pytest.mark.usefixtures("account")
def test_a_prediction_that_is_not_there_is_refused_as_such() -> None:
    with pytest.raises(VaceAPIError) as caught:
        VaceHook().get_prediction("nobodysprediction0000000000")
    assert caught.value.status_code in (400, 404, 422)


def test_a_create_is_answered_with_an_id_and_a_status(made: Prediction) -> None:
    assert made.id
    assert made.status in ("starting", "processing", "succeeded")
    assert made.urls["get"].startswith("http")


def test_it_is_found_by_whatever_refers_to_it_in_both_faces(made: Prediction) -> None:
    async def looked() -> list[str]:
        async with VaceHook() as hook:
            return [(await hook.aget_prediction(known)).id for known in references]

    references = (made, made.payload(), made.id, made.urls["get"])
    assert {VaceHook().get_prediction(known).id for known in references} == {made.id}
    assert set(asyncio.run(looked())) == {made.id}


def test_it_ends_with_a_video(ended: Prediction) -> None:
    assert ended.status is PredictionStatus.SUCCEEDED, ended.error
    (url,) = ended.output_urls
    with VaceHook().open_file(url) as download:
        first = next(download.chunks)
    assert type_of(first) == "video/mp4"


def test_its_end_does_not_change(ended: Prediction) -> None:
    again = VaceHook().get_prediction(ended)
    assert (again.status, again.output_urls) == (ended.status, ended.output_urls)
    assert "logs" not in again.payload()


def test_it_is_in_the_list_where_there_is_one(ended: Prediction) -> None:
    hook = VaceHook()
    if not hook.lists_predictions:
        with pytest.raises(VaceInputError):
            next(iter(hook.list_predictions()))
        return
    created = parse_time(ended.created_at)
    assert created is not None
    since = (created - timedelta(minutes=1)).isoformat()
    assert ended.id in [prediction.id for prediction in hook.list_predictions(since)]


def test_a_running_one_is_canceled_where_that_can_be(account: Account, ended: Prediction) -> None:
    hook = VaceHook()
    if hook.settings.api.backend.cancel is None:
        with pytest.raises(VaceInputError):
            hook.cancel_prediction(ended)
        return
    running = account.create()
    canceled = hook.wait_for_prediction(hook.cancel_prediction(running), timeout=600)
    assert canceled.status in ("canceled", "aborted", "succeeded")
    if canceled.status is PredictionStatus.SUCCEEDED:
        assert account.is_live, "the emulator cancels at once"
