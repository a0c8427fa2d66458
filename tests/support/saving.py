"""Destinations and finished predictions for tests of storage."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from airflow_vace.prediction import Prediction
from airflow_vace.storage.destination import Destination
from support.films import DATA_URL

TASK = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)


def to(save_to: object, ti: Any = TASK, values: dict[str, Any] | None = None) -> Destination:
    """Return the destination for a `save_to` that is not empty."""
    destination = Destination.of(save_to, ti, values)
    assert destination is not None
    return destination


def succeeded(identifier: str = "abc", output: Any = DATA_URL, **more: Any) -> Prediction:
    """Return a success, by default with a small MP4 as `data:` URL."""
    return Prediction.from_json({"id": identifier, "status": "succeeded", "output": output, **more})
