"""Faults between a server, S3 and a local directory, each in a separate process."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace.exceptions import VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.storage.destination import Destination
from airflow_vace.storage.find import find_saved
from airflow_vace.storage.save import save_output
from airflow_vace.storage.upload import InputFiles
from cluster import table
from support.films import MP4, box, film
from support.s3 import NEEDS_S3, S3, connected_s3
from support.tasks import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_vace.emulator import Emulator
    from airflow_vace.prediction import Prediction

    # Directory to save to, and a function that returns the files there.
    Place = tuple[str, Callable[[], dict[str, bytes]]]

pytestmark = [pytest.mark.usefixtures("hurry"), *NEEDS_S3]

# Larger than one chunk, so uploads to S3 have several parts.
EXTRA = box(b"free", os.urandom(24_000_000))

SAVE = """
import json, sys
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.core.timing import Timing
from airflow_vace.hooks import VaceHook
VaceHook.timing = Timing(min_retry_seconds=0.1, max_retry_seconds=0.2)
task = VacePredictionSensor(task_id="t", prediction=sys.argv[1], save_to=sys.argv[2], poke_interval=1)
print("RESULT " + json.dumps(task.execute({"ti": None})["files"]))
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with connected_s3("store") as server:
        yield server


@pytest.fixture(params=["s3", "local"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, s3: S3
) -> tuple[str, Callable[[], dict[str, bytes]]]:
    """Directory to save to, and a function that returns the files there."""
    if request.param == "s3":
        prefix = f"{tmp_path.name}/"
        return f"s3://store@clips/{prefix}", lambda: s3.files(prefix)
    return f"{tmp_path}/", lambda: {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


@pytest.fixture
def large(fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> tuple[Prediction, bytes]:
    """A prediction with a file of some 24 MB, and the content."""
    hook = VaceHook()
    prediction = hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox", "frame_num": 5}))
    with hook.open_file(prediction.output_urls[0]) as download:
        content = b"".join(download.chunks) + EXTRA
    (path,) = Path(fast_emulator._folder or "").glob("*.mp4")
    path.write_bytes(content)
    # Only a file may be cut off: the create of a busy machine takes longer.
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(timeout=1))
    return prediction, content


def saving(prediction: Prediction, save_to: str) -> subprocess.Popen[str]:
    """Start an attempt to save in a separate process."""
    return subprocess.Popen(
        [sys.executable, "-c", SAVE, prediction.id, save_to],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


FAULTS: dict[str, list[dict[str, Any]]] = {
    "reset at 50 %": [{"truncate": 12_000_000}],
    "HTML with 200": [{"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<html>Sign in"}],
    "wrong length": [{"status": 200, "headers": {"Content-Length": "5000"}, "body": "short"}] * 9,
    "500 twice": [{"status": 500}] * 2,
}
HEAD = ("fault", "to", "attempts", "after the first", "at the end", "billed")
SEEN: list[tuple[str, ...]] = []


@pytest.fixture(scope="module", autouse=True)
def _report(pytestconfig: pytest.Config) -> Iterator[None]:
    yield
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(table(HEAD, SEEN))  # noqa: T201 - the table is what a person wants of these tests


@pytest.mark.parametrize(
    "fault", [*FAULTS, "truncated", "disk full", "SIGKILL in the middle", "two attempts at once"]
)
def test_the_final_name_holds_the_whole_file_or_nothing(
    fast_emulator: Emulator,
    place: Place,
    large: tuple[Prediction, bytes],
    s3: S3,
    fault: str,
) -> None:
    (save_to, there), (prediction, whole) = place, large
    monitor = Monitor(there, whole)
    with monitor:
        attempts = first_attempts(fast_emulator, prediction, save_to, fault)
        after_first = sorted(there())
        attempts.append(attempted(prediction, save_to))
    stored = {name: content for name, content in there().items() if not name.endswith(".part")}
    assert attempts[-1] == "saved", attempts
    (name,) = [name for name in stored if name.endswith(".mp4")]
    assert stored[name] == whole
    manifest = json.loads(stored[name + ".json"])
    assert manifest["sha256"] == hashlib.sha256(whole).hexdigest()
    assert set(stored) == {name, f"{name}.json", f"{name}.jpg"}
    assert monitor.wrong == []
    assert s3.unfinished() == []
    assert fast_emulator.bill["charged"] == 1
    is_there = any(n.endswith(".mp4") and not n.startswith(".") for n in after_first)
    SEEN.append((fault, save_to[:2], ", ".join(attempts), "whole" if is_there else "nothing", "whole", "1"))


def first_attempts(emulator: Emulator, prediction: Prediction, save_to: str, fault: str) -> list[str]:
    """Run attempts under a fault, then remove the fault; return the results."""
    if fault == "truncated":  # the server has half of the file, and announces that length
        (path,) = Path(emulator._folder or "").glob("*.mp4")
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        ended = [attempted(prediction, save_to)]
        path.write_bytes(whole)
        return ended
    if fault == "disk full":
        process = saving(prediction, save_to)
        # The process imports Airflow for seconds before it writes.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
        return [finished(process)]
    if fault == "two attempts at once":
        both = [saving(prediction, save_to), saving(prediction, save_to)]
        return [finished(process) for process in both]
    if fault == "SIGKILL in the middle":
        so_far = len(emulator.requests)
        emulator.faults.add(path="/_delivery/*", drip=0.0)
        process = saving(prediction, save_to)
        emulator.wait_for(lambda: any("/_delivery/" in r.path for r in emulator.requests[so_far:]), 60)
        process.send_signal(signal.SIGKILL)
        return ["killed" if process.wait(60) == -signal.SIGKILL else "ended before"]
    for one in FAULTS[fault]:
        emulator.faults.add(path="/_delivery/*", **one)
    ended = [attempted(prediction, save_to)]
    emulator.faults.clear()
    return ended


def attempted(prediction: Prediction, save_to: str) -> str:
    task = VacePredictionSensor(task_id="t", prediction=prediction.id, save_to=save_to)
    try:
        task.execute({"ti": None})  # type: ignore[typeddict-item]  # no other member is used
    except Exception as error:  # noqa: BLE001 - the table shows the type
        return type(error.__cause__ or error).__name__
    return "saved"


def finished(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    if "RESULT" in out:
        return "saved"
    error = [line for line in out.splitlines() if line and not line.startswith((" ", "2026"))][-1]
    return error.partition(":")[0].rpartition(".")[2]


class Monitor:
    """Polls for anything but the complete file under the final name."""

    def __init__(self, there: Callable[[], dict[str, bytes]], whole: bytes) -> None:
        self.there, self.whole = there, whole
        self.wrong: list[int] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.over.wait(0.05):
            try:
                found = self.there()
            except Exception:  # noqa: BLE001, S112 - a file may disappear during the read
                continue
            self.wrong += [
                len(content)
                for name, content in found.items()
                if name.endswith(".mp4") and not name.startswith(".") and content != self.whole
            ]

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def test_a_path_in_s3_goes_out_as_a_signed_url(fast_emulator: Emulator, s3: S3) -> None:
    assert fast_emulator.url
    path = s3.put("in/a.mp4", MP4)
    found = InputFiles(VaceHook(), seconds=7200).reachable({"prompt": "x", "src_video": path})
    assert "X-Amz-Expires=7200" in found["src_video"]
    assert "AWS4-HMAC-SHA256" in found["src_video"]
    assert requests.get(found["src_video"], timeout=60).content == MP4


def test_files_in_s3_are_checked_with_few_small_requests(
    fast_emulator: Emulator, s3: S3, tmp_path: Path
) -> None:
    assert fast_emulator.url
    video = film(tmp_path / "a.mp4", 64, 48).read_bytes() + EXTRA
    larger = film(tmp_path / "b.mp4", 96, 48).read_bytes()
    values = {"src_video": s3.put("in/v.mp4", video), "src_mask": s3.put("in/m.mp4", larger)}
    with pytest.raises(Exception, match=r"\(96, 48\) and \(64, 48\)"):
        InputFiles(VaceHook(), seconds=60).reachable(values)


def test_a_missing_bucket_in_s3_is_refused_before_any_payment(s3: S3) -> None:
    destination = Destination.of("s3://store@no-such-bucket/clips/")
    assert destination is not None
    assert s3.url
    with pytest.raises(Exception, match="'no-such-bucket', which does not exist"):
        destination.check()
    good = Destination.of("s3://store@clips/any/")
    assert good is not None
    assert good.check() is None


def test_a_video_in_s3_has_its_media_type(s3: S3, large: tuple[Prediction, bytes]) -> None:
    destination = Destination.of("s3://store@clips/said/clip.mp4")
    assert destination is not None
    (file,) = save_output(VaceHook(), large[0], destination)
    assert file["uri"] == "s3://clips/said/clip.mp4"
    told = s3.client.head_object(Bucket="clips", Key="said/clip.mp4")
    assert told["ContentType"] == "video/mp4"
    assert told["ContentLength"] == file["size"]
    assert (
        s3.client.head_object(Bucket="clips", Key="said/clip.mp4.json")["ContentType"] == "application/json"
    )


@pytest.mark.parametrize("save_to", ["found/", "found/clip.mp4"])
def test_a_video_in_s3_is_found_by_its_manifest(
    s3: S3, large: tuple[Prediction, bytes], save_to: str
) -> None:
    destination = Destination.of(f"s3://store@clips/{save_to}")
    assert destination is not None
    assert find_saved(VaceHook(), destination, large[0].id) is None
    files = save_output(VaceHook(), large[0], destination)
    assert find_saved(VaceHook(), destination, large[0].id) == files
    key = str(files[0]["uri"]).removeprefix("s3://clips/")
    s3.client.put_object(Bucket="clips", Key=f"{key}.json", Body=b"")
    assert find_saved(VaceHook(), destination, large[0].id) is None


def test_a_video_in_s3_is_reused_until_its_source_changes(fast_emulator: Emulator, s3: S3) -> None:
    def night() -> dict[str, Any]:
        operator = VacePredictionOperator(
            task_id="t",
            input={"prompt": "a fox", "frame_num": 5, "src_video": "s3://store@clips/in/nightly.mp4"},
            wait_for_completion=True,
            reuse="saved",
            save_to="s3://store@clips/out/nightly.mp4",
        )
        return operator.execute(NOBODY)

    s3.put("in/nightly.mp4", MP4)
    first = night()
    s3.put("in/nightly.mp4", MP4)
    second = night()
    assert (second["id"], second["files"], second["reused"]) == (first["id"], first["files"], True)
    s3.put("in/nightly.mp4", MP4 + box(b"free", b"new"))
    assert "reused" not in night()
    assert fast_emulator.bill["charged"] == 2


def test_the_longest_key_that_is_accepted_is_saved_in_s3(s3: S3, large: tuple[Prediction, bytes]) -> None:
    assert s3.url
    longest = Destination.of(f"s3://store@clips/{'k' * 1010}.mp4")
    too_long = Destination.of(f"s3://store@clips/{'k' * 1011}.mp4")
    assert longest is not None
    assert too_long is not None
    with pytest.raises(VaceInputError, match="at most 1024"):
        too_long.check()
    assert longest.check() is None
    assert save_output(VaceHook(), large[0], longest)
