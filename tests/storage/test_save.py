"""Downloads and local saves: retries, resumption, expiry, and refusal of incomplete files."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import (
    PredictionExpired,
    VaceAPIError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.storage import save
from airflow_vace.storage.destination import Destination
from airflow_vace.storage.suffixes import TYPES
from conftest import scale_waits
from support.films import GIF, MP4, WEBM, box
from support.saving import succeeded, to

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator
    from airflow_vace.prediction import Prediction

pytestmark = pytest.mark.usefixtures("hurry", "any_connection")


def save_output(hook: VaceHook, prediction: Prediction, folder: Path) -> list[dict[str, Any]]:
    return save.save_output(hook, prediction, to(f"{folder}/", ti=None))


def saved_in(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


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
        (" file:///data/my%20clips/ ", "/data/my%20clips"),
        ("file:///data/my clips/", "/data/my clips"),
        ("/", "/"),
    ],
)
def test_save_to_names_a_local_directory(save_to: str | None, folder: str | None) -> None:
    destination = Destination.of(save_to)
    if folder is None:
        assert destination is None
    else:
        assert destination is not None
        assert destination.place_of("abc", None, ".mp4").uri == f"file://{Path(folder, 'abc.mp4')}"


def test_a_home_and_a_directory_without_a_slash_are_known(tmp_path: Path) -> None:
    for save_to, folder in (("~/clips/", Path.home() / "clips"), (str(tmp_path), tmp_path)):
        destination = Destination.of(save_to)
        assert destination is not None
        assert destination.place_of("abc", None, ".mp4").uri == (folder / "abc.mp4").as_uri()


@pytest.mark.parametrize(
    "save_to", ["clips/", "/data/clips", "s3://b/clips", "file://clips", "clip.mp4", 5, ["/data/"]]
)
def test_anything_else_is_refused(save_to: Any) -> None:
    with pytest.raises(VaceInputError) as caught:
        Destination.of(save_to)
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
    video = f"data:video/mp4;base64,{base64.b64encode(MP4).decode()}"
    webm = f"data:video/webm;base64,{base64.b64encode(WEBM).decode()}"
    untold = f"data:;base64,{base64.b64encode(MP4).decode()}"
    files = save_output(
        VaceHook(), succeeded(output=[video, webm, untold, "data:image/gif,%47IF89a"]), tmp_path
    )
    assert fast_emulator.requests == []
    assert [Path(f["uri"]).name for f in files] == ["abc-1.mp4", "abc-2.webm", "abc-3.mp4", "abc-4.gif"]
    assert [f["content_type"] for f in files] == ["video/mp4", "video/webm", "video/mp4", "image/gif"]
    assert (tmp_path / "abc-4.gif").read_bytes() == GIF


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
def test_a_transient_fault_is_retried(fast_emulator: Emulator, tmp_path: Path, fault: dict[str, Any]) -> None:
    prediction = done(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", times=3, **fault)
    (file,) = save_output(VaceHook(), prediction, tmp_path)
    assert file["size"] > 1000
    assert saved_in(tmp_path) == [".json", ".mp4"]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_is_gone_has_expired(fast_emulator: Emulator, tmp_path: Path, status: int) -> None:
    prediction = done(fast_emulator)
    fast_emulator.world.retention = 0.0
    fast_emulator.faults.add(path="/_delivery/*", times=None, status=status)
    with pytest.raises(PredictionExpired, match="its file is gone") as caught:
        save_output(VaceHook(), prediction, tmp_path)
    assert caught.value.prediction_id == prediction.id
    assert list(tmp_path.iterdir()) == []
    asked = [r for r in fast_emulator.requests if r.path.startswith("/_delivery/")]
    assert len([r for r in asked if r.auth]) == 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_within_the_files_hour_is_not_taken_for_its_end(
    fast_emulator: Emulator, tmp_path: Path, status: int
) -> None:
    prediction = done(fast_emulator)
    # After a 403 a second request goes without the key.
    times = Timing().max_download_attempts * (2 if status == 403 else 1)
    fast_emulator.faults.add(path="/_delivery/*", times=times, status=status)
    with pytest.raises(VaceTransportError, match="although its hour is not over"):
        save_output(VaceHook(), prediction, tmp_path)
    fast_emulator.faults.add(path="/_delivery/*", times=2, status=status)
    assert save_output(VaceHook(), prediction, tmp_path)[0]["size"] > 0


def test_a_refusal_within_the_hour_by_the_servers_clock_is_no_expiry(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    prediction = done(fast_emulator)
    ended = datetime.now(UTC) - timedelta(hours=2)
    behind = {"clock": -7200.0, "patch": {"completed_at": ended.isoformat()}}
    fast_emulator.faults.add(method="GET", path="*/predictions/*", times=None, **behind)
    fast_emulator.faults.add(path="/_delivery/*", times=None, status=404)
    with pytest.raises(VaceTransportError, match="although its hour is not over"):
        save_output(VaceHook(), prediction, tmp_path)


def test_without_an_end_time_a_lasting_refusal_means_expired(fast_emulator: Emulator, tmp_path: Path) -> None:
    prediction = replace(done(fast_emulator), completed_at=None)
    fast_emulator.faults.add(path="*/predictions/*", times=None, status=503)
    fast_emulator.faults.add(path="/_delivery/*", times=None, status=404)
    with pytest.raises(VaceTransportError, match="its hour is not over"):
        save_output(VaceHook(), prediction, tmp_path)
    with pytest.raises(PredictionExpired):
        save_output(VaceHook(), replace(prediction, created_at=None, started_at=None), tmp_path)


def test_a_refused_url_is_requested_again(fast_emulator: Emulator, tmp_path: Path) -> None:
    prediction = done(fast_emulator)
    old = replace(prediction, output=f"{fast_emulator.url}/_delivery/none/output.mp4?sig=expired")
    assert save_output(VaceHook(), old, tmp_path)[0]["size"] > 0


@pytest.mark.parametrize("body", ["<html>Sign in", ""])
def test_one_page_instead_of_the_file_is_retried(fast_emulator: Emulator, tmp_path: Path, body: str) -> None:
    prediction = done(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", status=200, body=body)
    assert save_output(VaceHook(), prediction, tmp_path)[0]["size"] > 0


@pytest.mark.parametrize(
    ("url", "content", "suffix", "kind"),
    [
        ("data:video/mp4,", GIF, ".gif", "image/gif"),
        ("data:,", b"\xff\xd8\xff\xe0", ".jpg", "image/jpeg"),
        ("data:image/webp,", b"RIFF\0\0\0\0WEBP", ".webp", "image/webp"),
        ("data:video/webm,", MP4, ".mp4", "video/mp4"),
    ],
)
def test_the_content_decides_about_the_suffix(
    tmp_path: Path, url: str, content: bytes, suffix: str, kind: str
) -> None:
    output = url + "".join(f"%{byte:02x}" for byte in content)
    (file,) = save_output(VaceHook(), succeeded(output=output), tmp_path)
    assert (tmp_path / f"abc{suffix}").read_bytes() == content
    assert file["content_type"] == kind


@pytest.mark.usefixtures("fast_emulator")
def test_an_output_without_a_valid_url_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VaceProtocolError, match=r"at no http\(s\) address: https://\[broken/a\.mp4"):
        save_output(VaceHook(), succeeded(output="https://[broken/a.mp4"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 400}, VaceAPIError),
        ({"status": 500}, VaceAPIError),
        ({"reset": "before"}, VaceTransportError),
        ({"status": 200, "headers": {"Content-Length": "50"}, "body": "short"}, VaceTransportError),
        ({"status": 200, "body": "<!DOCTYPE html><title>Sign in</title>"}, VaceTransportError),
        ({"status": 200, "body": ""}, VaceTransportError),
    ],
    ids=str,
)
def test_a_failed_download_never_appears_under_the_final_name(
    fast_emulator: Emulator,
    tmp_path: Path,
    fault: dict[str, Any],
    kind: type[VaceError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scale_waits(monkeypatch, 0.01, max_download_attempts=2, stalled_download_seconds=30.0)
    prediction = done(fast_emulator)
    # Only the file may be cut off: the create of a busy machine takes longer.
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(timeout=0.5))
    fast_emulator.faults.add(path="/_delivery/*", times=None, **fault)
    with pytest.raises(kind):
        save_output(VaceHook(), prediction, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [1, 1000, 10_000])
def test_a_download_that_breaks_off_goes_on_where_it_was(
    fast_emulator: Emulator, tmp_path: Path, at: int
) -> None:
    prediction = done(fast_emulator)
    with VaceHook().open_file(prediction.output_urls[0]) as download:
        whole = b"".join(download.chunks)
    assert len(whole) == download.size
    fast_emulator.faults.add(path="/_delivery/*", truncate=at)
    (file,) = save_output(VaceHook(), prediction, tmp_path)
    assert file["sha256"] == hashlib.sha256(whole).hexdigest()
    # Bytes in the socket at the break may be lost, earlier ones are not requested again.
    assert saved_in(tmp_path) == [".json", ".mp4"]


class Watched(VaceHook):
    """Records offset and use of an ETag for each download request."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, bool]] = []

    def open_file(self, url: str, *, start: int = 0, etag: str | None = None) -> Any:
        self.seen.append((start, etag is not None))
        return super().open_file(url, start=start, etag=etag)


BREAK = 300_000  # more than a socket's buffer, whose content may be lost at the break


def large(emulator: Emulator) -> Prediction:
    """Return a prediction whose file is large enough to break off in the middle."""
    prediction = done(emulator)
    with VaceHook().open_file(prediction.output_urls[0]) as download:
        b"".join(download.chunks)  # the emulator renders the file with the first request
    (path,) = Path(emulator._folder or "").glob("*.mp4")
    path.write_bytes(path.read_bytes() + box(b"free", b"x" * 2_000_000))
    return prediction


def content_of(emulator: Emulator) -> bytes:
    (path,) = Path(emulator._folder or "").glob("*.mp4")
    return path.read_bytes()


def test_only_the_missing_rest_is_requested(fast_emulator: Emulator, tmp_path: Path) -> None:
    prediction = large(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", truncate=BREAK)
    hook = Watched()
    (file,) = save_output(hook, prediction, tmp_path)
    assert file["sha256"] == hashlib.sha256(content_of(fast_emulator)).hexdigest()
    assert hook.seen[0] == (0, False)
    assert 0 < hook.seen[1][0] <= BREAK
    assert hook.seen[1][1]
    assert len(hook.seen) == 2


@pytest.mark.parametrize("refusal", [{"status": 416}, {"status": 403, "times": 2}], ids=str)
def test_a_refused_range_restarts_the_download(
    fast_emulator: Emulator, tmp_path: Path, refusal: dict[str, Any]
) -> None:
    prediction = large(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", truncate=BREAK)
    fast_emulator.faults.add(path="/_delivery/*", **refusal)
    hook = Watched()
    (file,) = save_output(hook, prediction, tmp_path)
    assert file["sha256"] == hashlib.sha256(content_of(fast_emulator)).hexdigest()
    assert [start == 0 for start, _ in hook.seen] == [True, False, True]


def test_a_changed_file_is_downloaded_from_its_start(fast_emulator: Emulator, tmp_path: Path) -> None:
    prediction = large(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", truncate=BREAK)

    class Changed(Watched):
        def open_file(self, url: str, *, start: int = 0, etag: str | None = None) -> Any:
            if start:
                (path,) = Path(fast_emulator._folder or "").glob("*.mp4")
                path.write_bytes(path.read_bytes() + box(b"free", b"another"))
            return super().open_file(url, start=start, etag=etag)

    (file,) = save_output(Changed(), prediction, tmp_path)
    assert file["sha256"] == hashlib.sha256(content_of(fast_emulator)).hexdigest()


def test_a_server_that_breaks_off_at_one_place_is_given_up(fast_emulator: Emulator, tmp_path: Path) -> None:
    prediction = large(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", times=None, truncate=BREAK)
    hook = Watched()
    with pytest.raises(VaceTransportError):
        save_output(hook, prediction, tmp_path)
    assert len(hook.seen) <= 2 * Timing().max_download_attempts
    assert list(tmp_path.iterdir()) == []


def test_half_a_file_of_the_announced_length_is_refused(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 0.01, max_download_attempts=2, stalled_download_seconds=30.0)
    prediction = large(fast_emulator)
    (path,) = Path(fast_emulator._folder or "").glob("*.mp4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VaceTransportError, match="ends within a box"):
        save_output(VaceHook(), prediction, tmp_path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(whole)
    assert save_output(VaceHook(), prediction, tmp_path)[0]["size"] == len(whole)


def test_a_download_that_is_too_slow_is_given_up(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 0.01, max_download_attempts=1, stalled_download_seconds=0.2)
    prediction = done(fast_emulator)
    fast_emulator.faults.add(path="/_delivery/*", times=None, drip=0.01)
    with pytest.raises(VaceTransportError, match="the transfer is too slow"):
        save_output(VaceHook(), prediction, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"film", "mp4", "brought no video/mp4, but text"),
        (box(b"ftyp", b"isom") + b"\0\0\0\x40moov", "mp4", "there are 'ftyp'"),
        (box(b"moov") + box(b"ftyp"), "mp4", "must be among them"),
        (box(b"ftyp") + box(b"mdat"), "mp4", "must be among them"),
        (b"\0\0\0\x01ftyp" + bytes(8), "mp4", "none"),
        (b"\0\0\0\0moov", "mp4", "'moov'"),
        (b"film", "webm", "brought no video/webm, but text"),
        (b"film", "gif", "brought no image/gif, but text"),
        (b"film", "png", "brought no image/png, but text"),
        (b"  <HTML>", "mp4", "HTML page"),
        (b"", "gif", "empty file"),
    ],
)
def test_a_file_of_another_type_is_refused(tmp_path: Path, content: bytes, kind: str, said: str) -> None:
    media_type = TYPES[f".{kind}"]
    url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    with pytest.raises(VaceProtocolError, match=said):
        save_output(VaceHook(), succeeded(output=url), tmp_path)
    assert list(tmp_path.iterdir()) == []


class Closing(BaseHTTPRequestHandler):
    """Sends files without a length: the end of the connection is the end of the file."""

    films: ClassVar[list[bytes]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.films.pop(0))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_file_without_a_length_is_whole_if_its_last_box_is(fast_emulator: Emulator, tmp_path: Path) -> None:
    Closing.films = [MP4[:-2], MP4]
    assert fast_emulator.requests == []
    with HTTPServer(("127.0.0.1", 0), Closing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a.mp4"
        (file,) = save_output(VaceHook(), succeeded(output=url), tmp_path)
        server.shutdown()
    assert file["sha256"] == hashlib.sha256(MP4).hexdigest()
    assert Closing.films == []


def test_boxes_of_more_than_four_gigabytes_are_measured_by_their_long_form(tmp_path: Path) -> None:
    long = (1).to_bytes(4) + b"moov" + (16).to_bytes(8)
    content = box(b"ftyp", b"isom") + long
    url = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
    assert save_output(VaceHook(), succeeded(output=url), tmp_path)[0]["size"] == len(content)


def test_a_data_url_that_is_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(VaceProtocolError, match="can't be decoded"):
        save_output(VaceHook(), succeeded(output="data:video/mp4;base64,%%%"), tmp_path)
