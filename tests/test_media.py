from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace import media, polling
from airflow_vace.exceptions import (
    PredictionExpired,
    VaceAPIError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.media import read_save_to, save_output
from airflow_vace.prediction import Prediction

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "SHORTEST_INTERVAL", 0.02)
    monkeypatch.setattr(polling, "LONGEST_INTERVAL", 0.05)


def told(output: Any) -> Prediction:
    return Prediction.from_json({"id": "abc", "status": "succeeded", "output": output})


def done(emulator: Emulator) -> Prediction:
    hook = VaceHook()
    assert emulator.url
    return hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox", "frame_num": 5}))


@pytest.mark.parametrize(
    ("save_to", "folder"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("/data/clips/", "/data/clips"),
        (" file:///data/my%20clips/ ", "/data/my clips"),
        ("/", "/"),
    ],
)
def test_save_to_names_a_local_directory(save_to: str | None, folder: str | None) -> None:
    assert read_save_to(save_to) == (None if folder is None else Path(folder))


def test_a_home_and_a_directory_without_a_slash_are_known(tmp_path: Path) -> None:
    assert read_save_to("~/clips/") == Path.home() / "clips"
    assert read_save_to(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("save_to", ["clips/", "/data/clips", "s3://b/", "gs://b/c/", 5, ["/data/"]])
def test_anything_else_is_refused(save_to: Any) -> None:
    with pytest.raises(VaceInputError) as caught:
        read_save_to(save_to)
    assert caught.value.field == "save_to"


def test_a_file_is_saved_whole_under_the_predictions_id(fast_emulator: Emulator, tmp_path: Path) -> None:
    prediction = done(fast_emulator)
    (file,) = save_output(VaceHook(), prediction, tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / f"{prediction.id}.mp4"
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o644
    before = len(fast_emulator.requests)
    assert save_output(VaceHook(), prediction, path.parent) == [file]
    assert len(fast_emulator.requests) == before


def test_several_outputs_are_numbered_and_keep_their_kind(fast_emulator: Emulator, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.webm", "c"):
        fast_emulator.faults.add(path=f"/{name}", status=200, body=name)
    urls = [f"{fast_emulator.url}/{name}" for name in ("a.mp4", "b.webm", "c")]
    files = save_output(VaceHook(), told([*urls, "data:image/gif,%47IF"]), tmp_path)
    assert [Path(f["uri"]).name for f in files] == ["abc-1.mp4", "abc-2.webm", "abc-3.mp4", "abc-4.gif"]
    assert [f["content_type"] for f in files] == ["video/mp4", "video/webm", "video/mp4", "image/gif"]
    assert (tmp_path / "abc-4.gif").read_text() == "GIF"


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "headers": {"Retry-After": "0"}},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 500},
        {"reset": "before"},
    ],
    ids=str,
)
def test_what_passes_is_fetched_again(fast_emulator: Emulator, tmp_path: Path, fault: dict[str, Any]) -> None:
    prediction = done(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", times=3, **fault)
    (file,) = save_output(VaceHook(), prediction, tmp_path)
    assert file["size"] > 1000
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_is_gone_has_expired(fast_emulator: Emulator, tmp_path: Path, status: int) -> None:
    prediction = done(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", status=status)
    with pytest.raises(PredictionExpired, match="its file is gone") as caught:
        save_output(VaceHook(), prediction, tmp_path)
    assert caught.value.prediction_id == prediction.id
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 400}, VaceAPIError),
        ({"status": 500}, VaceAPIError),
        ({"reset": "before"}, VaceTransportError),
        ({"status": 200, "headers": {"Content-Length": "50"}, "body": "short"}, VaceTransportError),
        ({"status": 200, "body": "<!DOCTYPE html><title>Sign in</title>"}, VaceProtocolError),
        ({"status": 200, "body": ""}, VaceProtocolError),
    ],
    ids=str,
)
def test_what_is_no_file_never_appears_under_its_name(
    fast_emulator: Emulator,
    tmp_path: Path,
    fault: dict[str, Any],
    kind: type[VaceError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(media, "_MOST_ATTEMPTS", 2)
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(timeout=0.5))
    prediction = done(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", times=None, **fault)
    with pytest.raises(kind):
        save_output(VaceHook(), prediction, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_data_url_that_is_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(VaceProtocolError, match="can't be decoded"):
        save_output(VaceHook(), told("data:video/mp4;base64,%%%"), tmp_path)
