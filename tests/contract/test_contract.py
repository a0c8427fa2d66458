"""The contract that each back-end fulfils: the three faces of the emulator, and real servers.

`uv run pytest tests/contract --live CONN_ID` runs against a real server, after a question about the cost.
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

    from airflow_vace.emulator import Emulator
    from airflow_vace.prediction import Prediction

# The question in tests/conftest.py names this number, so no test may pay for more.
MAX_PREDICTIONS = 2
# The cheapest video of the model: few steps, few frames, fastest mode, smallest size.
CHEAPEST = {
    "prompt": "a red fox runs through fresh snow",
    "size": "832*480",
    "frame_num": 17,
    "sample_steps": 10,
    "speed_mode": "extra",
    "seed": 7,
}


class Account:
    """Creates predictions over `vace_default`, up to the agreed number."""

    def __init__(self, emulator: Emulator | None = None) -> None:
        self.emulator = emulator
        self.made: list[str] = []

    @property
    def is_live(self) -> bool:
        """True for an account at a real server, where predictions cost money."""
        return self.emulator is None

    def create_long(self) -> Prediction:
        """Create a prediction that the emulator renders in real time: it still runs seconds later."""
        if self.emulator is not None:
            self.emulator.world.time_scale = 1.0
        return self.create()

    def create(self) -> Prediction:
        assert len(self.made) < MAX_PREDICTIONS, "nobody agreed to pay for more"
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
            yield Account()
            return
        from airflow_vace.emulator import Emulator

        with Emulator(time_scale=0.005) as emulator:
            patch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(backend=request.param))
            yield Account(emulator)
            assert emulator.bill["charged"] <= MAX_PREDICTIONS


@pytest.fixture
def wrong_key(account: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Replace the key of the connection."""
    known: dict[str, Any] = json.loads(os.environ["AIRFLOW_CONN_VACE_DEFAULT"])
    other = {**known, "password": "not-the-key-of-anybody"}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(other))
    return account


@pytest.fixture(scope="module")
def made(account: Account) -> Prediction:
    """The response to a create, shared by all tests of this module."""
    return account.create()


@pytest.fixture(scope="module")
def ended(made: Prediction) -> Prediction:
    hook = VaceHook()
    return hook.wait_for_prediction(made, timeout=3600)


def test_a_connection_test_is_free(account: Account) -> None:
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
def test_an_unknown_id_is_refused_as_such() -> None:
    with pytest.raises(VaceAPIError) as caught:
        VaceHook().get_prediction("nobodysprediction0000000000")
    assert caught.value.status_code in (400, 404, 422)


def test_a_create_returns_an_id_and_a_status(made: Prediction) -> None:
    assert made.id
    assert made.status in ("starting", "processing", "succeeded")
    assert made.urls["get"].startswith("http")


def test_any_reference_finds_the_prediction_blocking_and_async(made: Prediction) -> None:
    async def polled() -> list[str]:
        async with VaceHook() as hook:
            return [(await hook.aget_prediction(known)).id for known in references]

    references = (made, made.payload(), made.id, made.urls["get"])
    assert {VaceHook().get_prediction(known).id for known in references} == {made.id}
    assert set(asyncio.run(polled())) == {made.id}


def test_a_prediction_ends_with_a_video(ended: Prediction) -> None:
    assert ended.status is PredictionStatus.SUCCEEDED, ended.error
    (url,) = ended.output_urls
    with VaceHook().open_file(url) as download:
        first = next(download.chunks)
    assert type_of(first) == "video/mp4"


def test_a_finished_prediction_does_not_change(ended: Prediction) -> None:
    again = VaceHook().get_prediction(ended)
    assert (again.status, again.output_urls) == (ended.status, ended.output_urls)
    assert "logs" not in again.payload()


def test_a_list_contains_the_prediction(ended: Prediction) -> None:
    hook = VaceHook()
    if not hook.lists_predictions:
        with pytest.raises(VaceInputError):
            next(iter(hook.list_predictions()))
        return
    created = parse_time(ended.created_at)
    assert created is not None
    since = (created - timedelta(minutes=1)).isoformat()
    assert ended.id in [prediction.id for prediction in hook.list_predictions(since)]


def test_a_running_prediction_is_canceled(account: Account, ended: Prediction) -> None:
    hook = VaceHook()
    if hook.settings.api.backend.cancel is None:
        with pytest.raises(VaceInputError):
            hook.cancel_prediction(ended)
        return
    running = account.create_long()
    canceled = hook.wait_for_prediction(hook.cancel_prediction(running), timeout=600)
    assert canceled.status in ("canceled", "aborted", "succeeded")
    if canceled.status is PredictionStatus.SUCCEEDED:
        assert account.is_live, "the emulator cancels at once"
