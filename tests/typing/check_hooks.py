"""Types of the hook's calls, for the session `types`; no test runs this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import requests

from airflow_vace.hooks import VaceHook
from airflow_vace.prediction import Prediction, PredictionStatus


def blocking_calls_return_predictions(hook: VaceHook) -> None:
    made = hook.create_prediction({"prompt": "a fox"}, model="a/b", version="v", deadline=1.0)
    assert_type(made, Prediction)
    assert_type(hook.create_prediction("a fox"), Prediction)
    assert_type(hook.get_prediction(made), Prediction)
    assert_type(hook.cancel_prediction("abc"), Prediction)
    assert_type(hook.stop_prediction(made), Prediction | None)
    assert_type(hook.wait_for_prediction(made, timeout=None, poll_interval=2), Prediction)
    assert_type(hook.list_predictions("2026-01-01T00:00:00Z"), Iterator[Prediction])
    assert_type(hook.test_connection(), tuple[bool, str])
    assert_type(hook.get_conn(), requests.Session)
    hook.create_prediction({"prompt": "a fox"}, "a/b")  # type: ignore[call-arg]
    hook.create_prediction({"prompt": "a fox"}, modle="a/b")  # type: ignore[call-arg]


async def awaited_calls_return_the_same() -> None:
    async with VaceHook("vace_default") as hook:
        assert_type(hook, VaceHook)
        made = await hook.acreate_prediction({"prompt": "a fox"}, model="a/b", version="v", deadline=1.0)
        assert_type(made, Prediction)
        assert_type(await hook.aget_prediction(made), Prediction)
        assert_type(await hook.acancel_prediction("abc"), Prediction)
        assert_type(await hook.astop_prediction(made), Prediction | None)
        assert_type(hook.alist_predictions(), AsyncIterator[Prediction])


def predictions_have_typed_members(prediction: Prediction) -> None:
    assert_type(prediction.id, str)
    assert_type(prediction.status, PredictionStatus)
    assert_type(prediction.payload(), dict[str, Any])
    prediction.id = "another"  # type: ignore[misc]
