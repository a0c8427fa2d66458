"""One bill per prediction, whatever becomes of attempts, clears, connections and clocks."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.exceptions import (
    LedgerError,
    PredictionCanceled,
    PredictionFailed,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.task.submitting import submit
from support.attempts import (
    BACKENDS,
    DONE,
    MODES,
    Killed,
    billed,
    forget,
    killed_at,
    set_clock_ahead,
    statuses,
    task,
    waiting,
)
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def backend() -> str:
    return "replicate"


def sensor(prediction: Any, **kwargs: Any) -> Run:
    given = {"task_id": "w", "deferrable": False, "poke_interval": 0.05, "timeout": 30, **kwargs}
    return Run(lambda: VacePredictionSensor(prediction=prediction, **given), Store())


# --- cleared after the files' hour -----------------------------------------------------------------


@pytest.mark.parametrize("again", ["retried", "cleared"])
def test_a_task_that_only_submits_returns_its_expired_success(fast_emulator: Emulator, again: str) -> None:
    run = task()
    first = run.result()
    VaceHook().wait_for_prediction(first)
    forget(fast_emulator)
    assert getattr(run, again)().result()["id"] == first["id"]
    assert billed(fast_emulator) == 1


@pytest.mark.parametrize("again", ["retried", "cleared"])
def test_a_task_that_only_submits_returns_a_prediction_that_was_forgotten(
    fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    run = task()
    first = run.result()
    fast_emulator.world.runs.clear()
    set_clock_ahead(monkeypatch, 3 * 3600.0)
    fast_emulator.faults.add(times=None, clock=3 * 3600.0)
    payload = getattr(run, again)().result()
    assert (payload["id"], payload["data_removed"]) == (first["id"], True)
    assert billed(fast_emulator) == 0, "the emulator has forgotten the first one, and got no other"


@pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "deferrable"])
def test_the_first_dag_of_the_readme_cleared_after_the_hour_pays_nothing(
    fast_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    submit = task()
    wait = sensor(submit.result(), save_to=f"{tmp_path}/", deferrable=deferrable)
    done = wait.result()
    forget(fast_emulator)
    assert submit.cleared().result()["id"] == done["id"]
    again = wait.cleared().result()
    assert again["files"] == done["files"]
    assert billed(fast_emulator) == 1


@pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "deferrable"])
def test_a_sensor_finds_the_saved_file_of_a_prediction_that_was_forgotten(
    fast_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    wait = sensor(task().result(), save_to=f"{tmp_path}/clip.mp4", deferrable=deferrable)
    done = wait.result()
    fast_emulator.world.runs.clear()
    again = wait.cleared().result()
    assert (again["status"], again["files"]) == ("succeeded", done["files"])


def test_a_sensor_without_a_saved_file_says_that_the_video_is_gone(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    wait = sensor(task().result(), save_to=f"{tmp_path}/")
    (file,) = wait.result()["files"]
    forget(fast_emulator)
    for path in tmp_path.rglob("*.mp4"):
        path.unlink()
    with pytest.raises(AirflowFailException, match="its files have been deleted"):
        wait.cleared().result()
    assert file["size"]


@MODES
def test_a_worker_that_dies_between_the_file_and_its_record_pays_nothing(
    fast_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    class Dies(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            if value["phase"] == "settled" and not list(tmp_path.rglob("gone")):
                (tmp_path / "gone").touch()
                raise Killed
            super().set(key, value, retention=retention)

    run = waiting(Dies(), save_to=f"{tmp_path}/", deferrable=deferrable)
    with pytest.raises(Killed):
        run.result()
    forget(fast_emulator)
    payload = run.retried().result()
    assert payload["files"][0]["size"] > 0
    assert billed(fast_emulator) == 1


# --- a lost create that has ended ------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ({"status": "failed", "error": "E1001: out of memory"}, PredictionFailed),
        ({"status": "canceled"}, PredictionCanceled),
        ({"status": "aborted"}, PredictionCanceled),
    ],
    ids=["failed", "canceled", "aborted"],
)
@pytest.mark.parametrize("waits", [True, False], ids=["waits", "submits"])
def test_a_lost_create_that_ended_badly_ends_its_attempt(
    fast_emulator: Emulator,
    connect: Callable[[str], None],
    outcome: dict[str, Any],
    kind: type[Exception],
    *,
    deferrable: bool,
    waits: bool,
) -> None:
    connect(fast_emulator.connection_to(backend="replicate", timeout=30))
    fast_emulator.faults.add(method="POST", path="*/predictions", status=502, accept=True, outcome=outcome)
    fast_emulator.faults.add(method="GET", path="/v1/predictions", delay=0.5)
    run = task(wait_for_completion=waits, deferrable=deferrable)
    with pytest.raises(AirflowFailException) as caught:
        run.result()
    assert type(caught.value.__cause__) is kind
    assert billed(fast_emulator) == 1
    assert run.cleared().result()["status"] in ("starting", "processing", "succeeded")
    assert billed(fast_emulator) == 2, "a person has asked for another one"


def test_a_clear_of_a_running_task_pays_once_for_a_failure(
    fast_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    connect(fast_emulator.connection_to(backend="replicate", timeout=30))
    outcome = {"status": "failed", "error": "E1001: out of memory"}
    fast_emulator.faults.add(method="POST", path="*/predictions", status=502, accept=True, outcome=outcome)
    fast_emulator.faults.add(method="GET", path="/v1/predictions", delay=0.5)
    run = waiting()
    run.ti.max_tries, run.ti.try_number = 0, 2
    with pytest.raises(AirflowFailException, match="E1001"):
        run.result()
    assert billed(fast_emulator) == 1


def test_of_several_that_are_found_a_success_is_adopted(server: Emulator) -> None:
    run = waiting()
    killed_at(run, "submit", after=True)
    (found,) = json.loads(VaceHook().run("/v1/predictions").content)["results"]
    running = {**found, "id": "another0running0one"}
    page = {"results": [running, {**found, **DONE}], "next": None}
    headers = {"Content-Type": "application/json"}
    server.faults.add(method="GET", path="/v1/predictions", status=200, headers=headers, body=page)
    server.faults.add(method="GET", path="*/predictions/*", times=None, patch=DONE)
    payload = run.result()
    assert (payload["id"], payload["status"]) == (found["id"], "succeeded")
    assert any(seen.path.endswith("another0running0one/cancel") for seen in server.requests)


def test_a_create_that_answers_failed_at_once_fails_the_submitting_task(fast_emulator: Emulator) -> None:
    fast_emulator.faults.add(method="POST", patch={"status": "failed", "error": "NSFW content"})
    with pytest.raises(AirflowFailException, match="NSFW content") as caught:
        task().result()
    assert isinstance(caught.value.__cause__, PredictionFailed)


# --- an attempt that Airflow has given up ----------------------------------------------------------


class GivenUp(Store):
    """The store of an attempt that Airflow gives up, after some `reads` by itself: 404 from then on."""

    def __init__(self, store: Store, reads: int | None = None) -> None:
        super().__init__()
        self.store = store
        self.reads = reads
        self.is_over = threading.Event()

    def get(self, key: str) -> Any:
        if self.is_over.is_set():
            raise RuntimeError("404 Task instance not found")
        if self.reads is not None:
            self.reads -= 1
            if self.reads == 0:
                self.is_over.set()
        return self.store.get(key)

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        if self.is_over.is_set():
            raise RuntimeError("404 Task instance not found")
        self.store.set(key, value, retention=retention)

    def delete(self, key: str) -> None:
        if self.is_over.is_set():
            raise RuntimeError("404 Task instance not found")
        self.store.delete(key)


@pytest.mark.parametrize("sees", ["nothing", "the other's record"])
def test_an_attempt_given_up_in_a_rate_limit_sends_no_create(server: Emulator, sees: str) -> None:
    store = Store()
    old = GivenUp(store)
    server.faults.add(method="POST", path="*/predictions", status=429, headers={"Retry-After": "3"})
    seen: list[BaseException] = []

    def run() -> None:
        try:
            task(old if sees == "nothing" else store).result()
        except Exception as error:  # noqa: BLE001 - it is compared below
            seen.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    server.wait_for(lambda: any(request.method == "POST" for request in server.requests), 30)
    old.is_over.set()
    following = task(store).retried().result()
    thread.join(30)
    assert list(server.world.runs) == [following["id"]]
    assert isinstance(seen[0], LedgerError)
    assert store.record["prediction"]["id"] == following["id"]


def test_an_attempt_that_was_given_up_cancels_nothing_of_its_successor(server: Emulator) -> None:
    store = Store()
    old = GivenUp(store, reads=1)
    task(store).result()
    late: Any = task(old, input={"prompt": "an otter"}).cleared()
    with pytest.raises(LedgerError):
        late.result()
    assert statuses(server) == ["starting"]


@pytest.mark.parametrize("reads", ["nothing", "trouble", "a later deadline"])
def test_a_deadline_of_an_attempt_that_was_given_up_cancels_nothing(server: Emulator, reads: str) -> None:
    class Superseded(Store):
        def get(self, key: str) -> Any:
            record = super().get(key)
            if record is None or record["phase"] != "submitted":
                return record
            if reads == "trouble":
                raise RuntimeError("404 Task instance not found")
            return None if reads == "nothing" else {**record, "deadline": record["deadline"] + 3600}

    with pytest.raises((AirflowFailException, LedgerError)):
        waiting(Superseded(), timeout=0.5).result()
    assert statuses(server) == ["starting"]


# --- `airflow tasks test` --------------------------------------------------------------------------


@MODES
def test_a_test_of_a_task_leaves_the_run_alone(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, deferrable: bool
) -> None:
    store = Store()
    task(store).result()
    before = dict(store.rows)
    monkeypatch.setenv("AIRFLOW_TEST_MODE", "True")
    server.faults.add(method="GET", path="*/predictions*", skip=1, times=None, patch=DONE)
    edited = waiting(store, input={"prompt": "an edited fox"}, deferrable=deferrable)
    assert edited.result()["status"] == "succeeded"
    assert store.rows == before
    assert not any(found.canceled for found in server.world.runs.values())
    assert "leaves the record and the prediction of this run alone" in capfd.readouterr().out


def test_a_test_of_a_task_saves_beside_a_file_of_the_run(
    fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save_to = f"{tmp_path}/final.mp4"
    real = waiting(save_to=save_to).result()
    monkeypatch.setenv("AIRFLOW_TEST_MODE", "True")
    tested = waiting(save_to=save_to, input={"prompt": "an edited fox"}).result()
    assert billed(fast_emulator) == 2
    assert tested["files"][0]["uri"].endswith("final-test.mp4")
    manifest = json.loads((tmp_path / "final.mp4.json").read_text())
    assert manifest["id"] == real["id"]


def test_a_test_of_a_sensor_cancels_nothing(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_TEST_MODE", "True")
    run = sensor(task().result(), cancel_on_kill=True)
    wait: Any = run.leg()
    assert wait.poke(run.context) is False
    wait.on_kill()
    assert not any(found.canceled for found in server.world.runs.values())


# --- a prediction that may be another task's -------------------------------------------------------


@MODES
def test_an_adopted_prediction_of_an_authors_seed_is_never_canceled(
    server: Emulator, *, deferrable: bool
) -> None:
    seeded = {"prompt": "a fox", "seed": 7}
    theirs = task(input=seeded).result()
    mine = waiting(input=seeded, deferrable=deferrable, timeout=0.6)
    killed_at(mine, "submit")
    with pytest.raises(AirflowFailException, match="may be another task's"):
        mine.result()
    assert statuses(server) == ["starting"]
    leg: Any = mine.retried().leg()
    leg.timeout = 60
    submit(leg._begin(mine.context))
    leg.on_kill()
    assert not server.world.runs[theirs["id"]].canceled


def test_an_adopted_prediction_of_an_authors_seed_survives_a_changed_input(server: Emulator) -> None:
    store = Store()
    theirs = task(input={"prompt": "a fox", "seed": 7}).result()
    killed_at(task(store, input={"prompt": "a fox", "seed": 7}), "submit")
    task(store, input={"prompt": "an otter"}).cleared().result()
    assert not server.world.runs[theirs["id"]].canceled
    assert billed(server) == 2


# --- small things ----------------------------------------------------------------------------------


@BACKENDS
@pytest.mark.parametrize("prompt", ["None", " none ", "null"])
def test_a_prompt_that_a_template_did_not_find_is_refused(server: Emulator, prompt: str) -> None:
    with pytest.raises(AirflowFailException, match="xcom_pull"):
        task(input={"prompt": prompt}).result()
    assert server.requests == []


def test_a_killed_task_sends_no_create_after_a_limit(server: Emulator) -> None:
    run = task()
    # Longer than the guard below: the kill ends the pause.
    server.faults.add(method="POST", path="*/predictions", status=429, headers={"Retry-After": "100"})
    with ThreadPoolExecutor() as pool:
        result = pool.submit(run.result)
        server.wait_for(lambda: any(request.method == "POST" for request in server.requests), 30)
        run.legs[-1].on_kill()
        with pytest.raises(Exception, match="killed before it sent the request"):
            result.result(30)
    assert billed(server) == 0


@pytest.mark.usefixtures("server")
def test_a_raised_timeout_says_that_the_server_keeps_the_first_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store()
    task(store, timeout=60).result()
    task(store, timeout=7200).retried().result()
    assert "cancels it by the first deadline all the same" in capfd.readouterr().out


def test_an_unreadable_item_of_the_list_hides_no_lost_create(server: Emulator) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    (found,) = server.world.runs.values()
    listed = VaceHook().run("/v1/predictions").content
    results = json.loads(listed)["results"]
    for broken in ({"id": None}, None, "text", {"id": "x" * 300, "input": {"prompt": "a dog"}}):
        server.faults.add(
            method="GET",
            path="/v1/predictions",
            status=200,
            headers={"Content-Type": "application/json"},
            body={"results": [broken, *results], "next": None},
        )
    assert run.result()["id"] == found.id
    assert billed(server) == 1


@pytest.mark.parametrize(
    ("item", "bills"),
    [
        ({"id": None, "status": "starting"}, 0),
        ({"id": "abc", "status": None, "input": {"prompt": "a dog"}}, 1),
        ({"id": None, "created_at": "2020-01-01T00:00:00Z"}, 1),
        (None, 1),
    ],
    ids=["may be it", "another input", "older", "nothing"],
)
def test_an_unreadable_item_that_may_be_the_create_needs_a_person(
    server: Emulator, item: Any, bills: int
) -> None:
    run = task()
    killed_at(run, "submit")
    server.faults.add(
        method="GET",
        path="/v1/predictions",
        times=None,
        status=200,
        headers={"Content-Type": "application/json"},
        body={"results": [item], "next": None},
    )
    if bills:
        run.result()
    else:
        with pytest.raises(AirflowFailException, match="can't be distinguished from it"):
            run.result()
    assert billed(server) == bills


def test_a_refusal_that_is_not_certain_is_never_sent_again(server: Emulator) -> None:
    server.faults.add(
        method="POST",
        path="*/predictions",
        status=503,
        accept=True,
        headers={"Content-Type": "application/json"},
        body={"detail": "upstream at capacity, timed out waiting for its answer"},
    )
    assert task().result()["id"] in server.world.runs
    assert billed(server) == 1
