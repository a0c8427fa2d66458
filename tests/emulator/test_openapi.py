"""Responses of the emulator's Replicate face, validated against Replicate's own OpenAPI document.

The document stays at the vendor: VACE_OPENAPI names a copy of https://api.replicate.com/openapi.json.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from jsonschema import Draft7Validator, FormatChecker

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.models import FIRST_VERSION, Model
from airflow_vace.emulator.plays import VACE

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = os.environ.get("VACE_OPENAPI")
pytestmark = pytest.mark.skipif(not DOCUMENT, reason="VACE_OPENAPI names no OpenAPI document")

FOX = {"prompt": "a fox", "seed": 7, "frame_num": 5}
MODEL = "/models/{model_owner}/{model_name}"
VACE_MODEL = "/models/prunaai/vace-14b"
ENDS: dict[str, dict[str, Any]] = {
    "succeeded": {},
    "failed": {"status": "failed", "error": "E1001"},
    "canceled": {"status": "canceled"},
    "aborted": {"status": "aborted"},
}
FORMATS = FormatChecker()


@FORMATS.checks("uri")
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme and urlsplit(value).netloc)


class Row(NamedTuple):
    """One response, and the operation of the document that describes the response."""

    operation: str
    template: str
    answer: requests.Response


def as_json_schema(schema: Any) -> Any:
    """Return a schema of OpenAPI 3.0 as JSON Schema, which writes `nullable` as a type."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: as_json_schema(value) for name, value in schema.items()}
    if found.pop("nullable", False) is True:
        found["type"] = [found["type"], "null"]
    # The document's `version` is a text or "hidden", which is a text too: exactly one never holds.
    if isinstance(found.get("oneOf"), list):
        found["anyOf"] = found.pop("oneOf")
    return found


def violations(document: dict[str, Any], row: Row) -> list[str]:
    status = str(row.answer.status_code)
    content_type = row.answer.headers.get("Content-Type", "").partition(";")[0]
    described = document["paths"][row.template][row.operation.lower()]["responses"].get(status)
    if described is None or (status >= "400" and "content" not in described):
        return problem_violations(row.answer, content_type)
    contents = described.get("content", {})
    if not contents:
        return ["has a body"] if row.answer.content else []
    if content_type not in contents:
        return [f"is {content_type}, not {', '.join(contents)}"]
    if not content_type.endswith("json"):
        return []
    schema = as_json_schema({**contents[content_type]["schema"], "components": document["components"]})
    validator = Draft7Validator(schema, format_checker=FORMATS)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(row.answer.json())]


def problem_violations(answer: requests.Response, content_type: str) -> list[str]:
    """Return how an error differs from those that the document's text and recordings show."""
    if answer.status_code < 400:
        return ["is a status that the document does not have"]
    if content_type != "application/problem+json":
        return [f"is {content_type}"]
    body = answer.json()
    found = [name for name in ("detail", "status") if name not in body]
    if body["status"] != answer.status_code or ("title" in body) != (answer.status_code != 404):
        found.append(f"has the members {body}")
    return found


class Walk:
    """Requests of all kinds to one emulator, as rows."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.rows: list[Row] = []

    def ask(
        self, operation: str, template: str, path: str = "", headers: Any = None, **more: Any
    ) -> requests.Response:
        sent = {"Authorization": f"Bearer {self.emulator.api_key}", **(headers or {})}
        url = f"{self.emulator.url}/v1{path or template}"
        answer = requests.request(operation, url, headers=sent, timeout=30, **more)
        self.rows.append(Row(operation, template, answer))
        return answer

    def create(self, headers: Any = None, **body: Any) -> requests.Response:
        given = {"version": FIRST_VERSION, "input": FOX, **body}
        return self.ask("POST", "/predictions", json=given, headers=headers)

    def predictions(self) -> None:
        self.create(version=f"prunaai/vace-14b:{FIRST_VERSION}")
        self.create(headers={"Prefer": "wait=1"})
        self.create(headers={"Cancel-After": "10m"}, webhook_events_filter=["start"])
        self.create(headers={"Cancel-After": "1s"})
        self.create(headers={"Authorization": ""})
        self.create(version="nobody")
        self.create(input={})
        self.create(webhook="ftp://example.com")
        one = "/predictions/{prediction_id}"
        self.ask("GET", one, "/predictions/nobody")
        for end, outcome in ENDS.items():
            self.emulator.faults.add(method="POST", outcome=outcome)
            self.each_status(self.create().json()["id"], end)
        long = self.create().json()["id"]
        self.ask("POST", f"{one}/cancel", f"/predictions/{long}/cancel")
        self.ask("POST", f"{one}/cancel", "/predictions/nobody/cancel")
        for _ in range(101):
            self.emulator.world.create(FOX, model="prunaai/vace-14b", version=FIRST_VERSION, now=time.time())
        listed = self.ask("GET", "/predictions").json()
        self.ask("GET", "/predictions", listed["next"].partition("/v1")[2])
        for query in ("created_after=2026-01-01T00:00:00Z", "source=web", "source=api", "created_before=x"):
            self.ask("GET", "/predictions", f"/predictions?{query}")

    def each_status(self, identifier: str, end: str) -> None:
        """Ask for a prediction before, in and after its time, and once its data is gone."""
        timeline = self.emulator.world.runs[identifier].timeline
        seen = []
        for passed in (0, timeline.boot + timeline.load + 1, timeline.ended - timeline.created, 7200):
            timeline.created = time.time() - passed - 0.5
            answer = self.ask("GET", "/predictions/{prediction_id}", f"/predictions/{identifier}")
            seen.append(answer.json()["status"])
        assert seen == ["starting", "processing", end, end]
        assert answer.json()["data_removed"]

    def models(self) -> None:
        known = self.emulator.models.known
        known["me/official"] = Model(owner="me", name="official", is_official=True, play=VACE)
        self.ask("GET", "/models")
        for path in (VACE_MODEL, "/models/me/official", "/models/no/body"):
            self.ask("GET", MODEL, path)
            self.ask("GET", f"{MODEL}/versions", f"{path}/versions")
            version = f"{MODEL}/versions/{{version_id}}"
            self.ask("GET", version, f"{path}/versions/{FIRST_VERSION}")
            self.ask("POST", f"{MODEL}/predictions", f"{path}/predictions", json={"input": FOX})

    def files(self) -> None:
        one = "/files/{file_id}"
        self.emulator.max_upload_bytes = 3
        self.ask("POST", "/files", files={"content": b"film"})
        self.ask("POST", "/files")
        made = self.ask("POST", "/files", files={"content": b"PK", "metadata": (None, '{"a": 1}')}).json()
        path, expiry = f"/files/{made['id']}", str(int(time.time()) + 60)
        signature = self.emulator.uploads.sign(made["id"], "emulator", expiry)
        self.ask("GET", "/files")
        self.ask("GET", one, path)
        query = {"owner": "emulator", "expiry": expiry, "signature": signature}
        self.ask("GET", f"{one}/download", f"{path}/download", params=query)
        self.ask("GET", f"{one}/download", f"{path}/download", params={**query, "signature": "x"})
        self.ask("DELETE", one, path)
        self.ask("DELETE", one, path)
        self.ask("GET", one, path)

    def account(self) -> None:
        for template in ("/account", "/webhooks/default/secret"):
            self.ask("GET", template)
            self.ask("GET", template, headers={"Authorization": "Bearer wrong"})
        while self.emulator.limits.others.take():
            pass
        self.ask("GET", "/account")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(str(DOCUMENT)).read_text())
    return found


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    with Emulator(time_scale=1.0) as emulator:
        walk = Walk(emulator)
        for part in (walk.predictions, walk.models, walk.files, walk.account):
            part()
        yield walk.rows


def test_every_response_is_as_the_document_says(document: dict[str, Any], rows: list[Row]) -> None:
    found = {}
    for number, row in enumerate(rows):
        wrong = violations(document, row)
        name = f"{row.operation:6} {row.template} {row.answer.status_code}"
        print(f"{name:70} {'; '.join(wrong) or 'valid'}")
        if wrong:
            found[f"{number} {name}"] = wrong
    print(f"{len(rows)} rows, {sum(map(len, found.values()))} violations")
    assert found == {}


def test_a_wrong_response_is_a_violation(document: dict[str, Any]) -> None:
    with Emulator(time_scale=1.0) as emulator:
        walk = Walk(emulator)
        changes: list[dict[str, Any]] = [
            {"data_removed": "no"},
            {"status": "done"},
            {"created_at": "now"},
            {"urls": {}},
        ]
        for wrong in changes:
            emulator.faults.add(method="POST", patch=wrong)
            walk.create()
        emulator.faults.add(method="POST", status=201, body="a text")
        walk.create()
        assert all(violations(document, row) for row in walk.rows)


def test_the_rows_have_each_documented_status_of_the_emulators_routes(
    document: dict[str, Any], rows: list[Row]
) -> None:
    served = {(row.operation, row.template) for row in rows}
    documented = {
        (operation, template, status)
        for operation, template in served
        for status in document["paths"][template][operation.lower()]["responses"]
    }
    seen = {(row.operation, row.template, str(row.answer.status_code)) for row in rows}
    assert documented - seen == {("POST", f"{MODEL}/predictions", "202")}


def test_responses_name_the_remaining_requests(rows: list[Row]) -> None:
    assert all("ratelimit-remaining" in row.answer.headers for row in rows)
