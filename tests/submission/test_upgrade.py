"""A fleet is upgraded or rolled back: one version goes on with records, rows and events of another."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.models import FIRST_VERSION
from support.attempts import DONE
from support.supervisor import needs_airflow_3_3
from support.versions import RELEASED, TASKS, start, unpack

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

pytestmark = [needs_airflow_3_3, pytest.mark.long]

ROOT = Path(__file__).parents[2]
# A create under way is waited for; this one was killed long ago.
LONG_AGO = timedelta(minutes=5)
ENDED = {"method": "GET", "path": "*/predictions/*", "times": None, "patch": DONE}


class Story:
    """Tasks that one version starts and another finishes, each with another server."""

    def __init__(self, folder: Path, stack: ExitStack, **extra: str) -> None:
        self.folder = folder
        self.servers = {
            name: stack.enter_context(Emulator(time_scale=100, seed=seed)) for seed, name in enumerate(TASKS)
        }
        self.servers["submitted"].faults.add(method="GET", path="*/predictions*", hang="before")
        for name in ("intent", "unlisted"):
            self.servers[name].faults.add(method="POST", path="*/predictions", hang="after")
        self.servers["settled"].faults.add(**ENDED)
        self.servers["resumed"].faults.add(skip=1, **ENDED)  # the worker polls once before it defers
        self.connections = {
            f"AIRFLOW_CONN_{name.upper()}": server.connection_to(
                backend="gateway" if name == "unlisted" else "replicate", **extra
            )
            for name, server in self.servers.items()
        }

    def start(self, code: Path, step: str) -> subprocess.Popen[bytes]:
        return start(code, step, self.folder, self.connections)

    def is_begun(self) -> bool:
        """Return True if each task has ended, deferred, or come to the point of its kill."""
        has_polled = any(
            seen.method == "GET" and "/predictions/" in seen.path
            for seen in self.servers["submitted"].requests
        )
        has_created = all(self.servers[name].world.runs for name in ("intent", "unlisted"))
        others = ("settled", "deferred", "resumed")
        return has_polled and has_created and all((self.folder / f"{n}.write").exists() for n in others)

    def is_finished(self) -> bool:
        return all((self.folder / f"{name}.read").exists() for name in TASKS)

    def let_time_pass(self) -> None:
        """Make the intents old, and let all predictions end."""
        for name in ("intent", "unlisted"):
            store = self.folder / f"{name}.store"
            rows = json.loads(store.read_text())
            record = json.loads(rows["vace_prediction"])
            assert record["phase"] == "intent"
            record["intended_at"] = (datetime.fromisoformat(record["intended_at"]) - LONG_AGO).isoformat()
            store.write_text(json.dumps({"vace_prediction": json.dumps(record)}))
        for server in self.servers.values():
            server.faults.add(**ENDED)

    def outcome(self, name: str, step: str = "read") -> Any:
        return json.loads((self.folder / f"{name}.{step}").read_text())

    def record(self, name: str) -> Any:
        return json.loads(json.loads((self.folder / f"{name}.store").read_text())["vace_prediction"])


def wait_for(condition: Callable[[], bool], processes: list[subprocess.Popen[bytes]], stories: Any) -> None:
    """Wait for a condition; fail with the programs' logs after two minutes or an early end."""
    end = time.monotonic() + 120
    while not condition():
        is_over = any(process.poll() is not None for process in processes) and not condition()
        if time.monotonic() > end or is_over:
            logs = [path.read_text()[-4000:] for story in stories for path in story.folder.glob("*.log")]
            pytest.fail("\n".join(logs))
        time.sleep(0.1)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Story]]:
    """Return tasks of an upgrade from the last release, and of a roll-back."""
    folder = tmp_path_factory.mktemp("versions")
    released = unpack(RELEASED, folder / "released")
    versions = {"upgraded": (released, ROOT), "rolled back": (ROOT, released)}
    with ExitStack() as stack:
        # The last release looks no version up, so the connection names one where that release submits.
        extras = {"upgraded": {"version": FIRST_VERSION}, "rolled back": {}}
        found = {name: Story(tmp_path_factory.mktemp("story"), stack, **extras[name]) for name in versions}
        writers = [found[name].start(code, "write") for name, (code, _) in versions.items()]
        try:
            wait_for(lambda: all(story.is_begun() for story in found.values()), writers, found.values())
        finally:
            for process in writers:
                process.kill()
                process.wait()
        for story in found.values():
            story.let_time_pass()
        readers = [found[name].start(code, "read") for name, (_, code) in versions.items()]
        try:
            wait_for(lambda: all(story.is_finished() for story in found.values()), [], found.values())
        finally:
            for process in readers:
                process.kill()
                process.wait()
        yield found


@pytest.fixture(params=["upgraded", "rolled back"])
def story(stories: dict[str, Story], request: pytest.FixtureRequest) -> Story:
    return stories[request.param]


@pytest.mark.parametrize("name", ["submitted", "settled", "intent", "deferred", "resumed"])
def test_another_version_finishes_the_prediction_that_was_paid(story: Story, name: str) -> None:
    outcome = story.outcome(name)
    (run,) = story.servers[name].world.runs.values()
    assert outcome.get("result", outcome)["id"] == run.id
    assert outcome["result"]["status"] == "succeeded"
    assert story.servers[name].bill["charged"] == 1
    record = story.record(name)
    assert (record["phase"], record["prediction"]["id"]) == ("settled", run.id)


def test_another_version_refuses_to_pay_again_for_a_lost_create(story: Story) -> None:
    outcome = story.outcome("unlisted")
    assert outcome["cause"] == "SubmissionUnknown", outcome
    assert len(story.servers["unlisted"].world.runs) == 1
    assert story.record("unlisted")["phase"] == "intent"


def test_each_version_stores_the_trigger_under_the_same_path(story: Story) -> None:
    for name in ("deferred", "resumed"):
        stored = story.outcome(name, "write")
        assert stored["code"] != story.outcome(name)["code"]
        assert stored["path"] == "airflow_vace.triggers.VacePredictionTrigger"
        assert stored["method"] == "execute_complete"
