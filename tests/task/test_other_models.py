"""Tasks with other models: outputs of any kind are saved, files of any store are brought."""

from __future__ import annotations

import io
import json
import os
import sys
import wave
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import ObjectStoragePath

from airflow_vace.exceptions import VaceAPIError, VaceTransportError
from airflow_vace.operators import VacePredictionOperator
from support.films import MP4
from support.model_host import ModelHost
from support.s3 import S3
from support.scripted import connection_to
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("hurry")


def sound() -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    return content.getvalue()


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("frame-1.png", b"x" * 100)
    return content.getvalue()


SCENE = b"glTF\x02\0\0\0\x14\0\0\0" + b"\0" * 8
FILES = {"/out/speech.wav": sound(), "/out/scene.glb": SCENE, "/out/all.zip": archive(), "/out/a b.mp4": MP4}
OUTPUTS: dict[str, Any] = {
    "owner/speech": "{host}/out/speech.wav",
    "owner/scene": {"mesh": "/out/scene.glb"},
    "owner/frames": ["{host}/out/all.zip"],
    "owner/language": "The fox ran.",
    "owner/detector": {"boxes": [[0, 0, 10, 10]], "labels": ["fox"]},
    "owner/restyle": "{host}/out/a b.mp4",
    "owner/many": ["{host}/out/a b.mp4", "{host}/out/late.wav", "{host}/out/all.zip"],
}


@pytest.fixture
def host(connect: Callable[[str], None]) -> Iterator[ModelHost]:
    with ModelHost(dict(OUTPUTS), dict(FILES)) as running:
        connect(running.connection)
        yield running


def show(line: str) -> None:
    """Write bill and files, visible with `pytest -s`."""
    sys.stdout.write(f"{line}\n")


def task(model: str, store: Store | None = None, **kwargs: Any) -> Run:
    given = {
        "task_id": "t",
        "input": {"prompt": "a fox"},
        "wait_for_completion": True,
        "deferrable": False,
        "model": model,
        **kwargs,
    }
    return Run(partial(VacePredictionOperator, **given), store)


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
@pytest.mark.parametrize(
    ("model", "suffix", "kind", "content"),
    [
        ("owner/speech", ".wav", "audio/wav", FILES["/out/speech.wav"]),
        ("owner/scene", ".glb", "model/gltf-binary", SCENE),
        ("owner/frames", ".zip", "application/zip", FILES["/out/all.zip"]),
        ("owner/language", ".txt", "text/plain", b"The fox ran."),
        ("owner/detector", ".json", "application/json", OUTPUTS["owner/detector"]),
    ],
)
def test_an_output_of_another_model_is_saved(  # noqa: PLR0917 - one row of a table
    host: ModelHost, tmp_path: Path, model: str, suffix: str, kind: str, content: Any, *, deferrable: bool
) -> None:
    how: dict[str, Any] = {"deferrable": True, "save_in": "triggerer"} if deferrable else {}
    attempt = task(model, save_to=f"{tmp_path}/", **how)
    payload = attempt.result()
    assert bool(attempt.deferred) == deferrable
    (file,) = payload["files"]
    found = Path(file["uri"][7:]).read_bytes()
    show(f"{model}: {host.bill}; {Path(file['uri']).name}, {file['size']} bytes, {file['content_type']}")
    assert (Path(file["uri"]).suffix, file["content_type"]) == (suffix, kind)
    assert (found if isinstance(content, bytes) else json.loads(found)) == content
    assert json.loads(Path(f"{file['uri'][7:]}.json").read_text())["sha256"] == file["sha256"]
    assert len(host.inputs) == 1


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as running:
        yield running


@pytest.mark.stores
@pytest.mark.skipif("VACE_STORES" not in os.environ, reason="VACE_STORES is not set: takes a minute")
def test_a_file_in_s3_is_brought_to_another_model(
    host: ModelHost, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Airflow keeps an opened store by the id of its connection, so an id of another module's server fails.
    monkeypatch.setenv("AIRFLOW_CONN_CLIPS", s3.connection)
    files = s3.put("in/my clip.mp4", MP4), s3.put("in/notes.bin", b"\x01\x02\x03")
    video, notes = (file.replace("store@", "clips@") for file in files)
    values = {
        "video": video,
        "scene": {"refs": [ObjectStoragePath(notes)], "prompt": "/imagine a fox"},
    }
    payload = task("owner/restyle", input=values, save_to=f"{tmp_path}/").result()
    (sent,) = host.inputs.values()
    show(f"owner/restyle: {host.bill}; brought {len(host.read)} files; saved {payload['files'][0]['uri']}")
    assert host.read[sent["video"]] == MP4
    assert host.read[sent["scene"]["refs"][0]] == b"\x01\x02\x03"
    assert sent["scene"]["prompt"] == "/imagine a fox"
    assert "clips@" not in json.dumps(sent)
    assert Path(payload["files"][0]["uri"][7:]).read_bytes() == MP4


@pytest.mark.parametrize("where", ["field", "list"])
def test_a_local_file_is_brought_to_another_model(
    host: ModelHost, tmp_path: Path, connect: Callable[[str], None], where: str
) -> None:
    connect(connection_to(host.url, timeout=30, input_roots=[str(tmp_path)]))
    clip = tmp_path / "50%20 off.wav"
    clip.write_bytes(FILES["/out/speech.wav"])
    values: dict[str, Any] = {"audio": str(clip)} if where == "field" else {"audios": [{"file": clip}]}
    task("owner/language", input=values).result()
    (sent,) = host.inputs.values()
    url = sent["audio"] if where == "field" else sent["audios"][0]["file"]
    assert url.startswith("data:audio/wav;base64,")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("s3://nobody@bucket/a.wav", "nobody"),
        ("memory://b/none.wav", "does not exist"),
        ("/etc/hostname", "'input_roots'"),
        ("/data/none.wav", "'input_roots'"),
        ("see s3://nobody@bucket/a.wav", "inside a longer text"),
        ('["s3://bucket/a.wav"]', "inside a longer text"),
    ],
)
@pytest.mark.usefixtures("memory")
def test_a_path_that_cannot_be_brought_costs_nothing(host: ModelHost, value: str, said: str) -> None:
    with pytest.raises(AirflowFailException, match=said):
        task("owner/language", input={"more": {"audio": value}}).result()
    assert host.inputs == {}


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_retry_fetches_the_missing_output_only(host: ModelHost, tmp_path: Path, position: int) -> None:
    names = ["a b.mp4", "all.zip"]
    names.insert(position, "late.wav")
    suffixes = [Path(name).suffix for name in names]
    host.outputs["owner/many"] = [f"{{host}}/out/{name}" for name in names]
    attempt = task("owner/many", Store(), save_to=f"{tmp_path}/")
    with pytest.raises(VaceAPIError, match="1 of the 3 outputs"):
        attempt.result()
    assert sorted(path.suffix for path in tmp_path.rglob("t-*")) == [".json", ".json", ".mp4", ".zip"]
    view = attempt.ti.xcoms["vace_view"]["prediction"]
    assert [Path(file["uri"]).suffix for file in view["files"]] == [".mp4", ".zip"]
    host.files["/out/late.wav"] = FILES["/out/speech.wav"]
    host.fetched.clear()
    payload = attempt.retried().result()
    assert [Path(file["uri"]).suffix for file in payload["files"]] == suffixes
    assert host.fetched == ["/out/late.wav"]
    assert host.bill == "1 predictions, $0.40"


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
@pytest.mark.parametrize("ended", [None, "2026-01-01T00:00:00Z"], ids=["no time", "an odd clock"])
@pytest.mark.parametrize("status", [403, 404, 410])
@pytest.mark.parametrize("again", ["retried", "cleared"])
def test_a_file_refused_for_a_while_is_not_paid_again(
    host: ModelHost, tmp_path: Path, status: int, ended: str | None, again: str, *, deferrable: bool
) -> None:
    host.missing_status, host.ended = status, ended
    how: dict[str, Any] = {"deferrable": True, "save_in": "triggerer"} if deferrable else {}
    attempt = task("owner/many", Store(), save_to=f"{tmp_path}/", **how)
    with pytest.raises(VaceTransportError, match=r"less than an hour ago\. It is billed\. .* at no cost"):
        attempt.result()
    view = attempt.ti.xcoms["vace_view"]["prediction"]
    assert [Path(file["uri"]).suffix for file in view["files"]] == [".mp4", ".zip"]
    host.files["/out/late.wav"] = FILES["/out/speech.wav"]
    payload = getattr(attempt, again)().result()
    assert [Path(file["uri"]).suffix for file in payload["files"]] == [".mp4", ".wav", ".zip"]
    assert host.bill == "1 predictions, $0.40"
