"""Other models on the emulator: an echo, a fixed output, files, an OpenAPI schema."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HASH = "9" * 64
SCHEMA = {
    "openapi": "3.0.2",
    "components": {
        "schemas": {
            "Input": {
                "type": "object",
                "required": ["text"],
                "properties": {
                    "text": {"type": "string"},
                    "scale": {"type": "number", "maximum": 4},
                    "size": {"allOf": [{"$ref": "#/components/schemas/size"}]},
                },
            },
            "size": {"enum": ["small", "large"], "type": "string"},
            "Output": {
                "type": "object",
                "properties": {
                    "video": {"type": "string", "format": "uri"},
                    "frames": {"type": "array", "items": {"type": "integer"}},
                    "size": {"$ref": "#/components/schemas/size"},
                    "label": {"type": "string"},
                    "again": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                    "rest": {},
                },
            },
        }
    },
}


def ask(emulator: Emulator, method: str, path: str, body: Any = None) -> requests.Response:
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    return requests.request(method, emulator.url + path, json=body, headers=headers, timeout=60)


def create(emulator: Emulator, version: str, values: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {emulator.api_key}", "Prefer": "wait"}
    body = {"version": version, "input": values}
    return requests.post(f"{emulator.url}/v1/predictions", json=body, headers=headers, timeout=60)


def latest(emulator: Emulator, model: str) -> str:
    found: str = ask(emulator, "GET", f"/v1/models/{model}").json()["latest_version"]["id"]
    return found


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"other")
    models = {
        "me/echo": None,
        f"me/pinned:{HASH}": "a text",
        "me/sounds": {"files": [tmp_path / "a.wav", folder / "a.wav"], "seconds": 3},
        "me/schema": SCHEMA,
    }
    with Emulator(time_scale=0.0002, models=models) as emulator:
        yield emulator


def test_an_echo_returns_any_input(emulator: Emulator) -> None:
    values = {"size": "1024x1024", "frame_num": "many", "seed": "x", "nested": [1, {"a": None}]}
    done = create(emulator, latest(emulator, "me/echo"), values).json()
    assert (done["status"], done["output"], done["model"]) == ("succeeded", values, "me/echo")
    assert create(emulator, latest(emulator, "me/echo"), "text").status_code == 422


def test_a_full_reference_to_an_undeclared_model_is_an_echo(emulator: Emulator) -> None:
    version = "7" * 64
    done = create(emulator, f"stability-ai/sdxl:{version}", {"prompt": 5}).json()
    assert (done["output"], done["model"], done["version"]) == ({"prompt": 5}, "stability-ai/sdxl", version)
    # The version is known from here on, and belongs to this model.
    assert create(emulator, version, {}).status_code == 201
    assert create(emulator, f"stability-ai/sdxl:{'8' * 64}", {}).status_code == 422
    assert create(emulator, f"other/model:{version}", {}).status_code == 422
    assert create(emulator, "6" * 64, {}).status_code == 422


def test_any_model_and_version_may_be_an_echo() -> None:
    with Emulator(time_scale=0.0002, models={"*": None}) as emulator:
        assert create(emulator, HASH, {"a": 1}).json()["output"] == {"a": 1}
        assert create(emulator, latest(emulator, "any/body"), {"a": 1}).json()["model"] == "any/body"
        assert create(emulator, f"any/body:{'8' * 64}", {}).status_code == 201
        assert create(emulator, "short", {}).status_code == 422
        path = "/replicate/v1/models/some/one/predictions"
        assert ask(emulator, "POST", path, {"input": {"a": 1}}).json()["model"] == "some/one"
        # VACE keeps its checks.
        assert create(emulator, latest(emulator, "prunaai/vace-14b"), {"promt": 1}).status_code == 422


def test_an_output_may_be_fixed(emulator: Emulator) -> None:
    assert create(emulator, HASH, {}).json()["output"] == "a text"
    assert latest(emulator, "me/pinned") == HASH


def test_outputs_may_be_files_of_this_machine(emulator: Emulator) -> None:
    output = create(emulator, latest(emulator, "me/sounds"), {}).json()["output"]
    assert output["seconds"] == 3
    answers = [requests.get(url, timeout=60) for url in output["files"]]
    assert [answer.content for answer in answers] == [b"RIFF", b"other"]
    assert all("wav" in answer.headers["Content-Type"] for answer in answers)
    missing = output["files"][0].replace("a.wav", "b.wav")
    assert requests.get(missing, timeout=60).status_code == 404


def test_a_schema_checks_the_input_and_shapes_the_output(emulator: Emulator) -> None:
    version = latest(emulator, "me/schema")
    output = create(emulator, version, {"text": "a", "size": "large"}).json()["output"]
    video = output.pop("video")
    assert requests.get(video, timeout=30).content[4:8] == b"ftyp"
    assert output == {"frames": [1], "size": "small", "label": "text", "again": True, "rest": None}
    refused = create(emulator, version, {"scale": 9, "size": "huge"})
    assert refused.status_code == 422
    fields = {problem["field"] for problem in refused.json()["invalid_fields"]}
    assert fields == {"input", "input.scale", "input.size"}
    path = f"/v1/models/me/schema/versions/{version}"
    assert ask(emulator, "GET", path).json()["openapi_schema"] == SCHEMA


def test_a_fault_may_set_another_output(emulator: Emulator) -> None:
    emulator.faults.add(method="POST", outcome={"output": ["https://a/b.zip"]})
    assert create(emulator, HASH, {}).json()["output"] == ["https://a/b.zip"]


def test_a_stream_sends_the_items_of_an_output(emulator: Emulator) -> None:
    emulator.faults.add(method="POST", outcome={"output": ["one", {"a": 2}, "two\nlines"]})
    url = create(emulator, HASH, {}).json()["urls"]["stream"]
    text = requests.get(url, timeout=60).text
    assert [line for line in text.splitlines() if line.startswith("data")] == [
        "data: one",
        'data: {"a": 2}',
        "data: two",
        "data: lines",
        "data: {}",
    ]
    assert requests.get(f"{emulator.url}/_stream/nobody", timeout=60).status_code == 404


@pytest.mark.parametrize(
    ("outcome", "events"),
    [
        ({"status": "failed", "error": "E1001"}, ["event: error", "event: done"]),
        ({"status": "canceled"}, ["event: done"]),
    ],
)
def test_a_stream_reports_how_a_prediction_ended(
    emulator: Emulator, outcome: dict[str, str], events: list[str]
) -> None:
    emulator.faults.add(method="POST", outcome=outcome)
    url = create(emulator, HASH, {}).json()["urls"]["stream"]
    text = requests.get(url, timeout=60).text
    assert [line for line in text.splitlines() if line.startswith("event")] == events


@pytest.mark.parametrize("name", ["me", "me/echo/more", "", "me/e cho"])
def test_a_wrong_name_of_a_model_is_an_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a model is owner/name"):
        Emulator(models={name: None})
    assert main(["--model", name]) == 2
    assert "a model is owner/name" in capsys.readouterr().err


def test_the_program_plays_models_from_files(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "a.glb").write_bytes(b"glTF")
    options = [f"me/schema={tmp_path}/schema.json", f"me/mesh:{HASH}={tmp_path}/a.glb", "me/echo"]
    arguments = [part for option in options for part in ("--model", option)]
    command = [sys.executable, "-m", "airflow_vace.emulator.cli", "--port", "0", *arguments]
    with subprocess.Popen([*command, "--time-scale", "0.0002"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].partition(";")[0]
        headers = {"Authorization": "Bearer vace-emulator-key", "Prefer": "wait"}
        body = {"version": HASH, "input": {}}
        done = requests.post(f"{url}/v1/predictions", json=body, headers=headers, timeout=60).json()
        assert requests.get(done["output"], timeout=60).content == b"glTF"
        names = [
            model["name"]
            for model in requests.get(f"{url}/v1/models", headers=headers, timeout=60).json()["results"]
        ]
        assert names == ["vace-14b", "schema", "mesh", "echo"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


@pytest.mark.parametrize("content", [None, "{"])
def test_the_error_for_an_unreadable_model_names_the_file(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_text(content)
    assert main(["--model", f"me/schema={path}"]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_missing_file_of_a_model_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "me/sound=/nowhere/a.wav"]) == 2
    assert "/nowhere/a.wav" in capsys.readouterr().err


def test_a_model_lists_its_versions(emulator: Emulator) -> None:
    emulator.models.publish("1" * 64, "me/pinned")
    rows = ask(emulator, "GET", "/v1/models/me/pinned/versions").json()["results"]
    assert [row["id"] for row in rows] == ["1" * 64, HASH]
    assert ask(emulator, "GET", f"/v1/models/me/pinned/versions/{'2' * 64}").status_code == 404
    assert ask(emulator, "GET", "/v1/models/no/body/versions").status_code == 404
    assert ask(emulator, "GET", f"/v1/models/no/body/versions/{HASH}").status_code == 404
