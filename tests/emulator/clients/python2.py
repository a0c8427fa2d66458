"""The vendor's Python client 2.x: python python2.py URL KEY."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib import import_module
from typing import Any

from actions import FOX, MODEL, VERSION, refused, run_all, until

# The other programs beside this one import another version of the same package.
replicate: Any = import_module("replicate")
url, key = sys.argv[1:]
os.environ |= {"REPLICATE_API_TOKEN": key, "REPLICATE_BASE_URL": f"{url}/v1"}
client = replicate.Replicate(bearer_token=key, base_url=f"{url}/v1")
client.poll_interval = 0.05
OWNER, NAME = MODEL.split("/")
made: list[Any] = []


def create() -> None:
    prediction = client.predictions.create(version=VERSION, input=FOX)
    assert prediction.status == "starting", prediction.status
    made.append(prediction)


def progress() -> None:
    # This client has no progress of its own, so its users read the logs.
    until(lambda: "/50 [" in (client.predictions.get(prediction_id=made[0].id).logs or ""))


def wait() -> None:
    done = client.predictions.wait(made[0].id)
    assert done.status == "succeeded", done.status
    assert done.output.startswith("https://")


def listing() -> None:
    assert made[0].id in [prediction.id for prediction in client.predictions.list()]
    after = client.predictions.list(created_after=made[0].created_at)
    assert made[0].id in [prediction.id for prediction in after]


def cancel() -> None:
    prediction = client.predictions.create(version=f"{MODEL}:{VERSION}", input=FOX, cancel_after="1m30s")
    assert prediction.deadline is not None
    assert client.predictions.cancel(prediction_id=prediction.id).status == "canceled"


def run() -> None:
    output = client.run(f"{MODEL}:{VERSION}", input=FOX)
    assert hasattr(output, "read"), type(output)
    assert output.read()[4:8] == b"ftyp"


def async_run() -> None:
    async def go() -> Any:
        async with replicate.AsyncReplicate(bearer_token=key, base_url=f"{url}/v1") as waiting:
            return await waiting.run(f"{MODEL}:{VERSION}", input=FOX)

    assert asyncio.run(go()).url.endswith(".mp4")


def run_without_waiting() -> None:
    assert client.run(f"{MODEL}:{VERSION}", input=FOX, wait=False).url.endswith(".mp4")


def use() -> None:
    # The module's client takes key and address from the environment.
    path = replicate.use(f"{MODEL}:{VERSION}")(**FOX)
    assert open(path, "rb").read(8)[4:] == b"ftyp"  # noqa: PTH123, SIM115 - the client's own path object


def files() -> None:
    first, second = (client.files.create(content=b"image") for _ in range(2))
    assert first.id != second.id
    assert first.size == 5
    assert [file.id for file in client.files.list()][:2] == [second.id, first.id]
    assert client.files.get(file_id=first.id).checksums.sha256 == first.checksums.sha256
    client.files.delete(file_id=first.id)
    error = refused(replicate.NotFoundError, lambda: client.files.get(file_id=first.id))
    assert error.body["detail"] == "File not found", error.body


def models() -> None:
    model = client.models.get(model_owner=OWNER, model_name=NAME)
    assert model.latest_version.id == VERSION
    owned = {"model_owner": OWNER, "model_name": NAME}
    assert [version.id for version in client.models.versions.list(**owned)] == [VERSION]
    version = client.models.versions.get(**owned, version_id=VERSION)
    assert "Input" in version.openapi_schema["components"]["schemas"]
    assert NAME in [found.name for found in client.models.list()]


def refusals() -> None:
    unknown = f"{MODEL}:{'0' * 64}"
    refused(replicate.NotFoundError, lambda: client.run(MODEL, input=FOX))
    refused(replicate.UnprocessableEntityError, lambda: client.run(unknown, input=FOX))


def webhook_secret() -> None:
    assert client.webhooks.default.secret.get().key.startswith("whsec_")


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
        "use": use,
        "files": files,
        "models": models,
        "refusals": refusals,
        "webhook secret": webhook_secret,
    }
)
