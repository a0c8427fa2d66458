"""Answers of gateways, read as the answers to a create and to a poll."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_vace.core.requests import Api, Response
from airflow_vace.core.responses import read_prediction

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction

GATEWAY = Api.at("https://gateway.example", "r8_verysecretkey", lists=True)
CREATE = GATEWAY.create({"prompt": "a fox"})
POLL = GATEWAY.get("task_1")
VIDEO = "https://cdn.example/a.mp4"
UPSTREAM = "https://api.replicate.com/v1/predictions/up"


def answered(body: Any) -> Response:
    return Response(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


def created(body: Any) -> Prediction:
    return read_prediction(GATEWAY, CREATE, answered(body))


def polled(body: Any) -> Prediction:
    return read_prediction(GATEWAY, POLL, answered(body))
