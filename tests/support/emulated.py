"""Requests to an emulator, without a client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import requests

from airflow_vace.prediction import Prediction

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

FOX = {"prompt": "a fox", "seed": 7}
GATEWAY = "/replicate/v1/models/prunaai/vace-14b/predictions"


def post(emulator: Emulator, path: str = GATEWAY, body: Any = None, **headers: str) -> requests.Response:
    bearer = {"Authorization": f"Bearer {emulator.api_key}"}
    given = {"input": FOX} if body is None else body
    return requests.post(emulator.url + path, json=given, headers=bearer | headers, timeout=60)


def get(emulator: Emulator, path: str, **headers: str) -> requests.Response:
    bearer = {"Authorization": f"Bearer {emulator.api_key}"}
    url = path if path.startswith("http") else emulator.url + path
    return requests.get(url, headers=bearer | headers, timeout=60)


def ended(emulator: Emulator, identifier: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        body: dict[str, Any] = get(emulator, f"/v1/predictions/{identifier}").json()
        if Prediction.from_json(body).status.is_final:
            return body
    raise AssertionError("never final")
