"""Airflow on Celery, two of each part: everything that can be struck is struck, then the books are opened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if "VACE_CLUSTER" in os.environ:
    from cluster import table, until
    from cluster.campaign import Books, audit
    from cluster.scene import scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cluster.scene import Scene
    from support.wire import Passing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("VACE_CLUSTER" not in os.environ, reason="VACE_CLUSTER is not set: takes minutes"),
]

# Frames of a prediction that takes three quarters of a minute: all are deferred before the first has ended.
LONG = 17
# How many mapped predictions are struck at a time, and how many go through the vendor's moods.
STRUCK = int(os.environ.get("VACE_CLUSTER_STRUCK", "8"))
MAPPED = int(os.environ.get("VACE_CLUSTER_MAPPED", "40"))
MOST_QUEUED = 60
CUT_SECONDS = float(os.environ.get("VACE_CLUSTER_CUT", "20"))


THOROUGH = pytest.mark.skipif(
    os.environ.get("VACE_CLUSTER") != "all", reason="VACE_CLUSTER is not all: takes half an hour"
)


class Watch:
    """Strikes once, when something certain goes over the wire."""

    def __init__(self) -> None:
        self.moment = ""
        self.strike: Callable[[Passing], object] = lambda _: None
        self._lock = threading.Lock()

    def arm(self, moment: str, strike: Callable[[Passing], object]) -> None:
        self.moment, self.strike = moment, strike

    def _is(self, moment: str, passing: Passing) -> bool:
        with self._lock:
            if self.moment != moment:
                return False
            self.moment = ""
        self.strike(passing)
        return True

    def before(self, passing: Passing) -> bool:
        if passing.method == "POST" and passing.path.endswith("/predictions"):
            return self._is("before a create is sent", passing)
        if "/_delivery/" in passing.path:
            return self._is("while it saves", passing)
        if passing.method == "GET" and "/predictions/" in passing.path:
            return self._is("while it waits", passing)
        return False

    def after(self, passing: Passing) -> bool:
        is_create = passing.method == "POST" and passing.path.endswith("/predictions")
        return is_create and "id" in (passing.answer or {}) and self._is("a create accepted", passing)


class Stage:
    """All that the strikes need, in one place."""

    def __init__(self, found: Scene, watch: Watch) -> None:
        self.cluster, self.database, self.queue = found.cluster, found.database, found.queue
        self.vendor, self.s3, self.link, self.wire = found.vendor, found.s3, found.link, found.wire.url
        self.watch = watch
        self.undisturbed: dict[str, float] = {}
        self.rows: list[tuple[Any, ...]] = []

    def begin(self, dag_id: str, run_id: str, count: int = STRUCK, **conf: Any) -> None:
        self.cluster.trigger(dag_id, run_id, count=count, **conf)

    def counted(self, dag_id: str, run_id: str, state: str, task_id: str = "clip") -> int:
        query = (
            "SELECT count(*) FROM task_instance"
            " WHERE dag_id=%s AND run_id=%s AND task_id=%s AND state=%s AND map_index >= 0"
        )
        ((found,),) = self.cluster.sql(query, dag_id, run_id, task_id, state)
        return int(found)

    def state(self, dag_id: str, run_id: str) -> str:
        query = "SELECT state FROM dag_run WHERE dag_id=%s AND run_id=%s"
        return str(self.cluster.sql(query, dag_id, run_id)[0][0])

    def wait_for_end(self, dag_id: str, run_id: str, seconds: float = 600) -> float:
        """Wait for a run's end, and return how long it took from its beginning."""

        def is_over() -> bool:
            self.cluster.revive()
            return self.state(dag_id, run_id) in ("success", "failed")

        until(is_over, seconds, every=1)
        query = "SELECT extract(epoch FROM end_date - start_date) FROM dag_run WHERE dag_id=%s AND run_id=%s"
        return float(self.cluster.sql(query, dag_id, run_id)[0][0])

    def judge(self, what: str, dag_id: str, run_id: str, count: int = STRUCK) -> Books:
        """Wait for a run's end, open the books, and keep a row for the table."""
        took = self.wait_for_end(dag_id, run_id)
        books = audit(self.cluster, self.vendor, self.s3, (dag_id, run_id), count)
        longer = f"{took - self.undisturbed[dag_id]:+.0f}" if dag_id in self.undisturbed else ""
        self.undisturbed.setdefault(dag_id, took)
        fates = (len(books.lost), len(books.billed_twice), len(books.failed_falsely))
        self.rows.append((what, dag_id, count, books.billed, books.attempts, *fates, f"{took:.0f}", longer))
        return books


HEAD = (
    "struck",
    "shape",
    "predictions",
    "billed",
    "attempts",
    "lost",
    "billed twice",
    "falsely failed",
    "took, s",
    "longer, s",
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    watch = Watch()
    # Whoever lets more queue than can run in a minute must let it queue for longer.
    settings = {"AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "600"} if MAPPED > MOST_QUEUED else {}
    with scene(before=watch.before, after=watch.after, settings=settings) as parts:
        found = Stage(parts, watch)
        head = ("(the cluster's start)", "", "", "", "", "", "", "", f"{parts.seconds_to_start:.0f}", "")
        found.rows.append(head)
        yield found


@pytest.fixture(scope="module", autouse=True)
def _told(stage: Stage, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(table(HEAD, stage.rows))  # noqa: T201 - the table is what a person wants of these tests


@pytest.mark.parametrize("dag_id", ["deferred", pytest.param("waiting", marks=THOROUGH)])
def test_undisturbed_all_is_made_once_and_saved(stage: Stage, dag_id: str) -> None:
    stage.begin(dag_id, "undisturbed")
    books = stage.judge("nothing", dag_id, "undisturbed")
    assert books.are_clean
    assert (books.succeeded, books.billed) == (STRUCK, STRUCK)


def test_of_two_triggerers_one_dies_and_the_other_takes_its_waits(stage: Stage) -> None:
    stage.begin("deferred", "triggerer", frames=LONG)
    until(lambda: sum(stage.cluster.waits().values()) == STRUCK, 120)
    waits = stage.cluster.waits()
    died = max(waits, key=waits.__getitem__)
    assert waits[died] >= STRUCK / 2
    stage.cluster.kill(died)
    books = stage.judge("triggerer killed", "deferred", "triggerer")
    stage.cluster.start(died)
    assert books.are_clean
    assert (books.succeeded, books.billed, books.attempts) == (STRUCK, STRUCK, STRUCK)


@pytest.mark.parametrize(
    ("moment", "dag_id"),
    [
        pytest.param("before a create is sent", "deferred", marks=THOROUGH),
        ("a create accepted", "deferred"),
        pytest.param("while it waits", "waiting", marks=THOROUGH),
        pytest.param("while it saves", "deferred", marks=THOROUGH),
    ],
)
def test_a_worker_dies(stage: Stage, moment: str, dag_id: str) -> None:
    died: list[str] = []

    def strike(passing: Passing) -> None:
        pid = passing.sender
        assert pid is not None, passing
        part = stage.cluster.part_of(pid)
        stage.cluster.kill(part)
        died.append(part)

    run_id = f"worker {moment}".replace(" ", "-")
    stage.watch.arm(moment, strike)
    stage.begin(dag_id, run_id, connection="watched")
    until(lambda: died, 180)
    stage.cluster.start(*died)  # as whatever looks after it would
    books = stage.judge(f"worker killed, {moment}", dag_id, run_id)
    assert books.are_clean
    assert (books.succeeded, books.billed) == (STRUCK, STRUCK)


@THOROUGH
def test_a_scheduler_dies(stage: Stage) -> None:
    stage.begin("deferred", "scheduler")
    until(lambda: stage.counted("deferred", "scheduler", "running") > 0, 120, every=0.1)
    stage.cluster.kill("scheduler-1")
    books = stage.judge("scheduler killed", "deferred", "scheduler")
    stage.cluster.start("scheduler-1")
    assert books.are_clean
    assert (books.succeeded, books.billed) == (STRUCK, STRUCK)


@pytest.mark.parametrize("state", [pytest.param("running", marks=THOROUGH), "deferred"])
def test_the_database_is_restarted(stage: Stage, state: str) -> None:
    run_id = f"database-{state}"
    stage.begin("deferred", run_id)
    until(lambda: stage.counted("deferred", run_id, state) > 1, 120, every=0.1)
    stage.database.stop()
    time.sleep(5)  # as long as a server takes that is restarted; no event tells it
    stage.database.start()
    books = stage.judge(f"PostgreSQL restarted, tasks {state}", "deferred", run_id)
    assert books.are_clean
    assert (books.succeeded, books.billed) == (STRUCK, STRUCK)


@THOROUGH
@pytest.mark.parametrize("keeps", [True, False], ids=["with its queue", "empty"])
def test_the_queue_is_restarted(stage: Stage, *, keeps: bool) -> None:
    run_id = f"redis-{keeps}"
    stage.begin("deferred", run_id)
    until(lambda: stage.counted("deferred", run_id, "queued") > 1, 120, every=0.1)
    stage.queue.stop()
    if not keeps:
        stage.queue.forget()
    time.sleep(3)
    stage.queue.start()
    books = stage.judge(f"Redis restarted {'with its queue' if keeps else 'empty'}", "deferred", run_id)
    assert books.are_clean
    assert (books.succeeded, books.billed) == (STRUCK, STRUCK)


@pytest.mark.parametrize("state", ["running", pytest.param("deferred", marks=THOROUGH)])
def test_the_network_to_the_vendor_is_cut(stage: Stage, state: str) -> None:
    run_id = f"network-{state}"
    stage.begin("deferred", run_id)
    until(lambda: stage.counted("deferred", run_id, state) > 1, 120, every=0.1)
    stage.link.cut()
    time.sleep(CUT_SECONDS)
    stage.link.mend()
    books = stage.judge(f"network cut {CUT_SECONDS:g} s, tasks {state}", "deferred", run_id)
    assert books.are_clean
    assert (books.succeeded, books.billed) == (STRUCK, STRUCK)


def test_the_vendor_is_killed_and_comes_back_with_what_it_had_accepted(stage: Stage) -> None:
    stage.begin("deferred", "vendor")
    until(lambda: stage.counted("deferred", "vendor", "deferred") > 1, 120, every=0.1)
    stage.vendor.stop()
    time.sleep(5)
    stage.vendor.start()
    books = stage.judge("back-end killed, back after 5 s", "deferred", "vendor")
    assert books.are_clean
    assert (books.succeeded, books.billed) == (STRUCK, STRUCK)


ROLLING = {
    "released, finished by new": ("released", "released", "new"),
    "new, finished by released": ("new", "released", "released"),
    "next, finished by new": ("next", "new", "new"),
}


@pytest.mark.parametrize(
    "what",
    [name if number < 1 else pytest.param(name, marks=THOROUGH) for number, name in enumerate(ROLLING)],
)
def test_while_a_fleet_is_upgraded_waits_of_one_version_are_finished_by_another(
    stage: Stage, what: str
) -> None:
    workers, triggerers, then = ROLLING[what]
    versions = {name: version(stage, name) for name in {workers, triggerers, then}}
    run_id = what.replace(" ", "-").replace(",", "")
    run_parts(stage, versions, {"worker": workers, "triggerer": triggerers})
    try:
        stage.begin("deferred", run_id, frames=LONG)
        until(lambda: sum(stage.cluster.waits().values()) == STRUCK, 120)
        if then != triggerers:
            run_parts(stage, versions, {"triggerer": then})
        books = stage.judge(f"upgrade: deferred by {what}", "deferred", run_id)
    finally:
        run_parts(stage, {"new": None}, {"worker": "new", "triggerer": "new"})
    assert books.are_clean
    assert (books.succeeded, books.billed, books.attempts) == (STRUCK, STRUCK, STRUCK)
    for number in range(STRUCK):
        path = f"/dags/deferred/dagRuns/{run_id}/taskInstances/clip/logs/1?map_index={number}"
        assert f"the code is {then}" in str(stage.cluster.ask("GET", path)["content"])


# What users had before: the last version without omitted defaults in a trigger's row.
RELEASED = "cda21dc"


def version(stage: Stage, name: str) -> Path:
    """Return a folder with the package as it was, is, or may become; its triggers say which it is."""
    root, folder = Path(__file__).parents[2], stage.cluster.home / name
    if folder.exists():
        return folder
    if name == "released":
        archive = subprocess.run(
            ["git", "archive", RELEASED, "airflow_vace"], cwd=root, capture_output=True, check=False
        )
        if archive.returncode:
            pytest.skip(f"commit {RELEASED} is not in this clone")
        folder.mkdir()
        subprocess.run(["tar", "x", "-C", str(folder)], input=archive.stdout, check=True)
    else:
        shutil.copytree(root / "airflow_vace", folder / "airflow_vace")
    path = folder / "airflow_vace" / "triggers.py"
    text = path.read_text()
    begin = "        prediction = await self._end()\n"
    assert text.count(begin) == 1
    text = text.replace(begin, f'        self.log.info("the code is {name}")\n{begin}')
    if name == "next":
        first = '            "prediction": self.prediction,\n'
        assert text.count(first) == 1
        text = text.replace(first, f'{first}            "colour": "red",\n')
        text = text.replace(
            "defaults[name].default}", 'defaults["later" if name == "colour" else name].default}'
        )
    path.write_text(text)
    return folder


def run_parts(stage: Stage, versions: Mapping[str, Path | None], wanted: dict[str, str]) -> None:
    """Start workers or triggerers again, on a version each."""
    for kind, name in wanted.items():
        for part in (f"{kind}-1", f"{kind}-2"):
            stage.cluster.kill(part)
            stage.cluster.run_on(part, versions[name])
            stage.cluster.start(part)
    stage.cluster.wait_until_healthy()


def test_a_changed_key_reaches_the_waits_that_are_open(stage: Stage) -> None:
    count = 100
    now = time.time()
    runs = stage.vendor.plan(count, ends=now + 1e6)
    stage.begin("sensed", "key", ids=[run.id for run in runs])
    until(lambda: stage.counted("sensed", "key", "deferred", "wait") == count, 120)

    taken = "SELECT count(*) FROM trigger WHERE triggerer_id IS NOT NULL"

    def are_looked_at() -> bool:
        """Whether each was asked for; a list shows them all, as they are the newest."""
        asked = {seen["path"].rpartition("/")[2] for seen in stage.vendor.asked() if seen["method"] == "GET"}
        return stage.cluster.sql(taken) == [(count,)] and ("predictions" in asked or len(asked) >= count)

    until(are_looked_at, 60)
    stage.vendor.stop()
    stage.vendor.api_key = "another-key-of-this-emulator"
    stage.vendor.start()
    changed = time.monotonic()
    body = stage.vendor.connection_to(stage.link.url, backend="replicate", timeout=20) | {
        "connection_id": "vace"
    }
    stage.cluster.ask("PATCH", "/connections/vace", body)
    body |= {"connection_id": "watched", "host": stage.wire}
    stage.cluster.ask("PATCH", "/connections/watched", body)
    began = time.time()
    stage.vendor.stop()
    stage.vendor.release(runs, ends=began + 20)
    stage.vendor.start()
    stage.wait_for_end("sensed", "key")
    took = time.monotonic() - changed
    good = stage.counted("sensed", "key", "success", "wait")
    query = (
        "SELECT sum(try_number) FROM task_instance WHERE dag_id='sensed' AND task_id='wait' AND run_id='key'"
    )
    ((attempts,),) = stage.cluster.sql(query)
    stage.rows.append(
        ("key changed", "sensed", count, 0, attempts, count - good, 0, count - good, f"{took:.0f}", "")
    )
    assert good == count
    assert attempts <= count


def test_many_go_through_all_the_moods_of_a_vendor(stage: Stage) -> None:
    stage.vendor.stop()
    stage.vendor.options["chaos"] = "0.05"
    stage.vendor.start()
    try:
        stage.begin("deferred", "many", MAPPED)
        stage.wait_for_end("deferred", "many", 3600)
    finally:
        stage.vendor.stop()
        stage.vendor.options.pop("chaos")
        stage.vendor.start()
    books = stage.judge("5 % of all requests go wrong", "deferred", "many", MAPPED)
    print(json.dumps({"succeeded": books.succeeded, "failed as they should": books.failed}))  # noqa: T201
    assert books.are_clean, books
    assert books.succeeded + books.failed == MAPPED
    assert books.succeeded >= 0.8 * MAPPED
