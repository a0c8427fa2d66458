"""The vendor's Python client 1.x: python python1.py URL KEY."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from actions import FOX, MODEL, VERSION, refused, run_all, until

# The other programs beside this one import another version of the same package.
replicate: Any = import_module("replicate")
ReplicateError = replicate.exceptions.ReplicateError
url, key = sys.argv[1:]
client = replicate.Client(api_token=key, base_url=url)
client.poll_interval = 0.05
made: list[Any] = []


def create() -> None:
    prediction = client.predictions.create(version=VERSION, input=FOX, wait=False)
    assert prediction.status == "starting", prediction.status
    made.append(prediction)


def progress() -> None:
    def is_under_way() -> bool:
        made[0].reload()
        seen = made[0].progress
        if made[0].status == "succeeded":
            # A busy machine may miss the whole run.
            made[0] = client.predictions.create(version=VERSION, input=FOX, wait=False)
        return seen is not None and 0 < seen.percentage < 1

    until(is_under_way, seconds=60)


def wait() -> None:
    made[0].wait()
    assert made[0].status == "succeeded", made[0].status
    assert made[0].progress.percentage == 1.0
    assert made[0].output.startswith("https://")


def listing() -> None:
    assert made[0].id in [prediction.id for prediction in client.predictions.list()]


def cancel() -> None:
    prediction = client.predictions.create(version=f"{MODEL}:{VERSION}", input=FOX)
    prediction.cancel()
    prediction.reload()
    assert prediction.status == "canceled", prediction.status


def run() -> None:
    output = client.run(f"{MODEL}:{VERSION}", input=FOX)
    assert type(output).__name__ == "FileOutput", type(output)
    assert output.read()[4:8] == b"ftyp"


def async_run() -> None:
    output = asyncio.run(client.async_run(f"{MODEL}:{VERSION}", input=FOX))
    assert output.url.endswith(".mp4")


def run_without_waiting() -> None:
    assert client.run(f"{MODEL}:{VERSION}", input=FOX, wait=False).url.endswith(".mp4")


def stream() -> None:
    events = [event.event.value for event in client.stream(f"{MODEL}:{VERSION}", input=FOX)]
    assert events == ["output", "done"], events


def files() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.png")
        path.write_bytes(b"image")
        first, second = (client.files.create(path, metadata={"mine": 1}) for _ in range(2))
    assert first.id != second.id
    assert (first.size, first.content_type, first.metadata) == (5, "image/png", {"mine": 1})
    assert [file.id for file in client.files.list()][:2] == [second.id, first.id]
    assert client.files.get(first.id).checksums == first.checksums
    client.files.delete(first.id)
    assert refused(ReplicateError, lambda: client.files.get(first.id)).status == 404


def models() -> None:
    model = client.models.get(MODEL)
    assert model.latest_version.id == VERSION
    assert [version.id for version in model.versions.list()] == [VERSION]
    assert "Input" in model.versions.get(VERSION).openapi_schema["components"]["schemas"]
    assert MODEL in [f"{found.owner}/{found.name}" for found in client.models.list()]


def refusals() -> None:
    by_name = refused(ReplicateError, lambda: client.run(MODEL, input=FOX))
    unknown = refused(ReplicateError, lambda: client.run(f"{MODEL}:{'0' * 64}", input=FOX))
    assert (by_name.status, unknown.status) == (404, 422), (by_name, unknown)
    assert by_name.detail
    assert unknown.detail


def webhook_secret() -> None:
    assert client.webhooks.default.secret().key.startswith("whsec_")


run_all(
    {
        "create": create,
        "progress": progress,
        "wait": wait,
        "list": listing,
        "cancel": cancel,
        "run": run,
        "run, async": async_run,
        "run, polling": run_without_waiting,
        "stream": stream,
        "files": files,
        "models": models,
        "refusals": refusals,
        "webhook secret": webhook_secret,
    }
)
