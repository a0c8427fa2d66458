"""Disturb each part of Airflow on Celery, two of each, and compare the bill with tasks and store."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if "VACE_CLUSTER" in os.environ:
    from cluster import table, until
    from cluster.campaign import Books, audit
    from cluster.scene import scene
    from support.versions import OLDEST, RELEASED, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cluster.scene import Scene
    from support.wire import Passing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("VACE_CLUSTER" not in os.environ, reason="VACE_CLUSTER is not set: takes minutes"),
]

# A prediction of 17 frames takes 45 seconds, so all are deferred before the first has ended.
LONG = 17
# Mapped predictions of one disturbance, and of the run against a vendor with random faults.
COUNT = int(os.environ.get("VACE_CLUSTER_COUNT", "8"))
MAPPED = int(os.environ.get("VACE_CLUSTER_MAPPED", "40"))
MOST_QUEUED = 60
CUT_SECONDS = float(os.environ.get("VACE_CLUSTER_CUT", "20"))


THOROUGH = pytest.mark.skipif(
    os.environ.get("VACE_CLUSTER") != "all", reason="VACE_CLUSTER is not all: takes half an hour"
)


class Watch:
    """Act once, when a given kind of request passes."""

    def __init__(self) -> None:
        self.moment = ""
        self.act: Callable[[Passing], object] = lambda _: None
        self._lock = threading.Lock()

    def arm(self, moment: str, act: Callable[[Passing], object]) -> None:
        self.moment, self.act = moment, act

    def _is(self, moment: str, passing: Passing) -> bool:
        with self._lock:
            if self.moment != moment:
                return False
            self.moment = ""  # several workers send at once, and one kill is enough
        self.act(passing)
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
    """A scene, and the rows of the printed table."""

    def __init__(self, found: Scene, watch: Watch) -> None:
        self.cluster, self.database, self.queue = found.cluster, found.database, found.queue
        self.vendor, self.s3, self.link, self.wire = found.vendor, found.s3, found.link, found.wire.url
        self.watch = watch
        self.undisturbed: dict[str, float] = {}
        self.rows: list[tuple[Any, ...]] = []

    def begin(self, dag_id: str, run_id: str, count: int = COUNT, **conf: Any) -> None:
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
        """Wait for a run's end, and return its duration in seconds."""

        def is_over() -> bool:
            # A scheduler ends by itself when its database is gone for too long; a supervisor restarts it.
            self.cluster.revive()
            return self.state(dag_id, run_id) in ("success", "failed")

        until(is_over, seconds, every=1)
        query = "SELECT extract(epoch FROM end_date - start_date) FROM dag_run WHERE dag_id=%s AND run_id=%s"
        return float(self.cluster.sql(query, dag_id, run_id)[0][0])

    def judge(self, what: str, dag_id: str, run_id: str, count: int = COUNT) -> Books:
        """Wait for a run's end, audit it, and add a row to the table."""
        took = self.wait_for_end(dag_id, run_id)
        books = audit(self.cluster, self.vendor, self.s3, (dag_id, run_id), count)
        longer = f"{took - self.undisturbed[dag_id]:+.0f}" if dag_id in self.undisturbed else ""
        self.undisturbed.setdefault(dag_id, took)
        fates = (len(books.lost), len(books.billed_twice), len(books.failed_falsely))
        self.rows.append((what, dag_id, count, books.billed, books.attempts, *fates, f"{took:.0f}", longer))
        return books


HEAD = (
    "disturbed by",
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
    # More tasks than run in a minute stay queued longer, so Airflow must allow that.
    settings = {"AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "600"} if MAPPED > MOST_QUEUED else {}
    with scene(before=watch.before, after=watch.after, settings=settings) as parts:
        found = Stage(parts, watch)
        head = ("(the cluster's start)", "", "", "", "", "", "", "", f"{parts.seconds_to_start:.0f}", "")
        found.rows.append(head)
        yield found


@pytest.fixture(scope="module", autouse=True)
def _table(stage: Stage) -> Iterator[None]:
    yield
    print(table(HEAD, stage.rows))


@pytest.mark.parametrize("dag_id", ["deferred", pytest.param("waiting", marks=THOROUGH)])
def test_undisturbed_predictions_are_made_once_and_saved(stage: Stage, dag_id: str) -> None:
    stage.begin(dag_id, "undisturbed")
    books = stage.judge("nothing", dag_id, "undisturbed")
    assert books.are_clean
    assert (books.succeeded, books.billed) == (COUNT, COUNT)


def test_a_second_triggerer_takes_the_waits_of_one_that_dies(stage: Stage) -> None:
    stage.begin("deferred", "triggerer", frames=LONG)
    until(lambda: sum(stage.cluster.waits().values()) == COUNT, 120)
    waits = stage.cluster.waits()
    died = max(waits, key=waits.__getitem__)
    # The two share the waits unevenly; the fuller one has at least half.
    assert waits[died] >= COUNT / 2
    stage.cluster.kill(died)
    books = stage.judge("triggerer killed", "deferred", "triggerer")
    stage.cluster.start(died)
    assert books.are_clean
    assert (books.succeeded, books.billed, books.attempts) == (COUNT, COUNT, COUNT)


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

    def act(passing: Passing) -> None:
        pid = passing.sender
        assert pid is not None, passing
        part = stage.cluster.part_of(pid)
        stage.cluster.kill(part)
        died.append(part)

    run_id = f"worker {moment}".replace(" ", "-")
    stage.watch.arm(moment, act)
    stage.begin(dag_id, run_id, connection="watched")
    until(lambda: died, 180)
    stage.cluster.start(*died)  # as a supervisor would
    books = stage.judge(f"worker killed, {moment}", dag_id, run_id)
    assert books.are_clean
    assert (books.succeeded, books.billed) == (COUNT, COUNT)


@THOROUGH
def test_a_scheduler_dies(stage: Stage) -> None:
    stage.begin("deferred", "scheduler")
    until(lambda: stage.counted("deferred", "scheduler", "running") > 0, 120, every=0.1)
    stage.cluster.kill("scheduler-1")
    books = stage.judge("scheduler killed", "deferred", "scheduler")
    stage.cluster.start("scheduler-1")
    assert books.are_clean
    assert (books.succeeded, books.billed) == (COUNT, COUNT)


@pytest.mark.parametrize("state", [pytest.param("running", marks=THOROUGH), "deferred"])
def test_the_database_is_restarted(stage: Stage, state: str) -> None:
    run_id = f"database-{state}"
    stage.begin("deferred", run_id)
    until(lambda: stage.counted("deferred", run_id, state) > 1, 120, every=0.1)
    stage.database.stop()
    time.sleep(5)  # the time of a restart; no event marks its end
    stage.database.start()
    books = stage.judge(f"PostgreSQL restarted, tasks {state}", "deferred", run_id)
    assert books.are_clean
    assert (books.succeeded, books.billed) == (COUNT, COUNT)


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
    assert (books.succeeded, books.billed) == (COUNT, COUNT)


@pytest.mark.parametrize("state", ["running", pytest.param("deferred", marks=THOROUGH)])
def test_the_network_to_the_vendor_is_cut(stage: Stage, state: str) -> None:
    run_id = f"network-{state}"
    stage.begin("deferred", run_id)
    until(lambda: stage.counted("deferred", run_id, state) > 1, 120, every=0.1)
    stage.link.cut()
    time.sleep(CUT_SECONDS)
    stage.link.restore()
    books = stage.judge(f"network cut {CUT_SECONDS:g} s, tasks {state}", "deferred", run_id)
    assert books.are_clean
    assert (books.succeeded, books.billed) == (COUNT, COUNT)


def test_a_killed_vendor_comes_back_with_its_accepted_predictions(stage: Stage) -> None:
    stage.begin("deferred", "vendor")
    until(lambda: stage.counted("deferred", "vendor", "deferred") > 1, 120, every=0.1)
    stage.vendor.stop()
    time.sleep(5)
    stage.vendor.start()
    books = stage.judge("back-end killed, back after 5 s", "deferred", "vendor")
    assert books.are_clean
    assert (books.succeeded, books.billed) == (COUNT, COUNT)


# Versions of workers and triggerers: when predictions are deferred, and when they are finished.
ROLLING = {
    "upgraded": (("released", "released"), ("new", "new")),
    "rolled back": (("new", "new"), ("released", "released")),
    "workers last": (("released", "released"), ("released", "new")),
    "triggerers last": (("new", "released"), ("new", "released")),
    "from the oldest": (("oldest", "oldest"), ("new", "new")),
    "from the next": (("next", "next"), ("new", "new")),
}


@pytest.mark.parametrize(
    "what",
    [name if number < 1 else pytest.param(name, marks=THOROUGH) for number, name in enumerate(ROLLING)],
)
def test_while_a_fleet_is_upgraded_one_version_finishes_what_another_began(stage: Stage, what: str) -> None:
    first, then = ROLLING[what]
    folders = {name: version(stage, name) for name in {*first, *then}}
    run_id = what.replace(" ", "-")
    run_parts(stage, folders, dict(zip(KINDS, first, strict=True)))
    try:
        stage.begin("deferred", run_id, frames=LONG)
        until(lambda: sum(stage.cluster.waits().values()) == COUNT, 120)
        changed = {kind: new for kind, old, new in zip(KINDS, first, then, strict=True) if new != old}
        run_parts(stage, folders, changed)
        books = stage.judge(f"fleet {what}", "deferred", run_id)
    finally:
        run_parts(stage, {"new": None}, dict.fromkeys(KINDS, "new"))
    assert books.are_clean
    assert (books.succeeded, books.billed, books.attempts) == (COUNT, COUNT, COUNT)
    for number in range(COUNT):
        path = f"/dags/deferred/dagRuns/{run_id}/taskInstances/clip/logs/1?map_index={number}"
        log = str(stage.cluster.ask("GET", path)["content"])
        said = (f"submitted by {first[0]}", f"waits in {then[1]}", f"finished by {then[0]}")
        assert [text for text in said if text not in log] == []
    # The ledger's records, whichever version wrote them first, say that nothing is owed any more.
    query = "SELECT value FROM task_state_store WHERE run_id = %s AND key = 'vace_prediction'"
    records = [json.loads(value) for (value,) in stage.cluster.sql(query, run_id)]
    assert [record["phase"] for record in records] == ["settled"] * COUNT


KINDS = ("worker", "triggerer")
# Appended to the package's modules, so logs show which version did which part of the work.
WORKER_MARK = """
_execute, _resume = VacePredictionOperator.execute, VacePredictionOperator.execute_complete


def _marked_execute(self, context):
    self.log.info("submitted by NAME")
    return _execute(self, context)


def _marked_resume(self, context, *args, **kwargs):
    self.log.info("finished by NAME")
    return _resume(self, context, *args, **kwargs)


VacePredictionOperator.execute, VacePredictionOperator.execute_complete = _marked_execute, _marked_resume
"""
TRIGGER_MARK = """
_run = VacePredictionTrigger.run


async def _marked_run(self):
    self.log.info("waits in NAME")
    async for event in _run(self):
        yield event


VacePredictionTrigger.run = _marked_run
"""
# A later version may store kwargs that are unknown to this one.
NEXT_MARK = """
_serialize = VacePredictionTrigger.serialize


def _later_serialize(self):
    path, kwargs = _serialize(self)
    return path, {**kwargs, "colour": "red"}


VacePredictionTrigger.serialize = _later_serialize
"""


def version(stage: Stage, name: str) -> Path:
    """Return a folder with a past, present or future version of the package, which logs its name."""
    root, folder = Path(__file__).parents[2], stage.cluster.home / name
    if folder.exists():
        return folder
    commits = {"released": RELEASED, "oldest": OLDEST}
    if name in commits:
        unpack(commits[name], folder)
    else:
        shutil.copytree(root / "airflow_vace", folder / "airflow_vace")
    marks = {"operators": WORKER_MARK, "triggers": TRIGGER_MARK + (NEXT_MARK if name == "next" else "")}
    for module, mark in marks.items():
        with (folder / "airflow_vace" / f"{module}.py").open("a") as file:
            file.write(mark.replace("NAME", name))
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
    # They end when the test says, so no wait is over before the key changes.
    runs = stage.vendor.plan(count, ends=now + 1e6)
    stage.begin("sensed", "key", ids=[run.id for run in runs])
    until(lambda: stage.counted("sensed", "key", "deferred", "wait") == count, 120)

    taken = "SELECT count(*) FROM trigger WHERE triggerer_id IS NOT NULL"

    def are_polled() -> bool:
        """Return True if each was polled, alone or in one list of the newest."""
        asked = {seen["path"].rpartition("/")[2] for seen in stage.vendor.asked() if seen["method"] == "GET"}
        return stage.cluster.sql(taken) == [(count,)] and ("predictions" in asked or len(asked) >= count)

    until(are_polled, 60)
    stage.vendor.stop()
    # Open waits hold the old key, and learn of the new one from the connection alone.
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


def test_predictions_survive_random_faults_of_the_vendor(stage: Stage) -> None:
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
    print(json.dumps({"succeeded": books.succeeded, "failed as they should": books.failed}))
    assert books.are_clean, books
    assert books.succeeded + books.failed == MAPPED
    # Some fail rightly, by a refusal or a failed prediction; without many successes little is proved.
    assert books.succeeded >= 0.8 * MAPPED
