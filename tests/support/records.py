"""Orders, predictions and records for tests of the submission."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from airflow_vace.exceptions import VaceAPIError
from airflow_vace.inputs import normalize_input
from airflow_vace.prediction import Prediction
from airflow_vace.submission.decision import Gone
from airflow_vace.submission.order import Order
from airflow_vace.submission.record import Record, Terms

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
FILE = {"uri": "file:///a.mp4", "size": 1, "sha256": "0", "content_type": "video/mp4"}


def order(model: str = "prunaai/vace-14b", conn_id: str = "vace_default", **values: Any) -> Order:
    known, _ = normalize_input({"prompt": "a fox", **values}, model=model)
    return Order(values=known, model=model, version=None, conn_id=conn_id)


def prediction(status: str, **more: Any) -> Prediction:
    return Prediction.from_json({"id": "abc", "status": status, **more})


def intended(of: Order, before: Record | None = None) -> Record:
    return Record.of(of, Terms(now=NOW, deadline=NOW + 600, max_tries=2), before=before)


def intent(of: Order | None = None, **more: Any) -> Record:
    record = intended(of or order())
    return replace(record, intended_at="2026-01-01T11:59:00+00:00", **more)


def submitted(of: Order | None = None) -> Record:
    return intent(of).submitted(prediction("starting"))


def settled(status: str, **more: Any) -> Record:
    return submitted().settled(prediction(status, **more))


SUCCEEDED = prediction("succeeded", output="https://a/b.mp4")
EXPIRED = prediction("succeeded", data_removed=True)
RUNNING = prediction("processing")
GONE = Gone(error=VaceAPIError("no such prediction", status_code=404))
# A record as it was before it held the address and the arguments.
EARLIER = {
    "phase": "submitted",
    "fingerprint": "b0eeb4ca469013c9794b1d0aee87e4bfbbc6e440b33a358706984a46560ab5c1",
    "mark": "8f825a919ebdc197def7a78a79ddaf8c7195783a6a7bb51531a563f5705c7e4c",
    "marked": ["prompt", "seed", "size"],
    "is_exact": True,
    "conn_id": "vace_default",
    "model": "prunaai/vace-14b",
    "version": None,
    "seed": 5,
    "is_seed_drawn": True,
    "nonce": "00ff00ff00ff00ff",
    "intended_at": "2026-01-01T11:59:00+00:00",
    "lost_since": None,
    "deadline": NOW + 600,
    "max_tries": 2,
    "prediction": {"id": "abc", "status": "starting"},
    "earlier": [],
}
