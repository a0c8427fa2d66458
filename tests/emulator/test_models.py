"""Models of the emulator, and the creates that Replicate refuses without a version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests
from replicate.client import Client

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.models import FIRST_VERSION, Model

if TYPE_CHECKING:
    from collections.abc import Iterator

FOX = {"prompt": "a fox", "seed": 7}
MODEL = "/v1/models/prunaai/vace-14b"
NEWER = "f" * 64


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.0002) as emulator:
        yield emulator


def post(emulator: Emulator, path: str, **body: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    return requests.post(f"{emulator.url}{path}", json={"input": FOX, **body}, headers=headers, timeout=60)


def get(emulator: Emulator, path: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    return requests.get(f"{emulator.url}{path}", headers=headers, timeout=60)


def test_a_model_names_its_latest_version(emulator: Emulator) -> None:
    found = get(emulator, MODEL).json()
    assert (found["owner"], found["name"], found["is_official"]) == ("prunaai", "vace-14b", False)
    assert found["latest_version"]["id"] == FIRST_VERSION
    emulator.models.publish(NEWER)
    assert get(emulator, MODEL).json()["latest_version"]["id"] == NEWER


def test_replicate_refuses_a_community_model_by_name(emulator: Emulator) -> None:
    answer = post(emulator, f"{MODEL}/predictions")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json() == {"detail": "The requested resource could not be found.", "status": 404}
    assert post(emulator, f"{MODEL}/predictions", version=FIRST_VERSION).status_code == 404
    assert post(emulator, f"/replicate{MODEL}/predictions").status_code == 200
    assert emulator.bill["charged"] == 1


def test_replicate_accepts_an_official_model_by_name(emulator: Emulator) -> None:
    emulator.models.known["prunaai/vace-14b"].is_official = True
    assert post(emulator, f"{MODEL}/predictions").status_code == 201
    assert post(emulator, "/v1/predictions", version="prunaai/vace-14b").status_code == 201


@pytest.mark.parametrize(
    ("version", "status"),
    [
        (FIRST_VERSION, 201),
        (f"prunaai/vace-14b:{FIRST_VERSION}", 201),
        (f"prunaai/other:{FIRST_VERSION}", 422),
        ("prunaai/vace-14b", 422),
        (NEWER, 422),
        (FIRST_VERSION[:8], 422),
        (7, 422),
        ("", 422),
        (None, 422),
    ],
)
def test_replicate_refuses_unknown_versions(emulator: Emulator, version: object, status: int) -> None:
    answer = post(emulator, "/v1/predictions", version=version)
    assert answer.status_code == status
    assert emulator.bill["charged"] == (status == 201)
    if status == 201:
        assert (answer.json()["model"], answer.json()["version"]) == ("prunaai/vace-14b", FIRST_VERSION)


def test_unknown_models_are_not_found(emulator: Emulator) -> None:
    answer = get(emulator, "/v1/models/a/b")
    assert answer.status_code == 404
    assert answer.json()["status"] == 404
    assert requests.get(f"{emulator.url}{MODEL}", timeout=60).status_code == 401


def test_a_model_may_have_no_version(emulator: Emulator) -> None:
    emulator.models.known["a/b"] = Model(owner="a", name="b")
    assert get(emulator, "/v1/models/a/b").json()["latest_version"] is None


def test_the_official_client_reads_a_model(emulator: Emulator) -> None:
    model = Client(api_token=emulator.api_key, base_url=emulator.url).models.get("prunaai/vace-14b")
    assert model.latest_version is not None
    assert model.latest_version.id == FIRST_VERSION
    assert "prompt" in model.latest_version.openapi_schema["components"]["schemas"]["Input"]["properties"]
