"""`checks="regenerate"`: another prediction in place of a clip with problems, one bill for each."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_vace.decorators import vace_task
from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import LedgerError, VaceInputError, VaceTransportError, VideoRejected
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.submission.submitter import Submission
from support.attempts import Killed, billed, hooked
from support.films import MP4
from support.interrupts import interrupting
from support.polled import end_all
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("hurry", "memory")

FOX = {"prompt": "a fox", "frame_num": 9}
PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
MODES: dict[str, dict[str, Any]] = {
    "worker": {"deferrable": False},
    "deferred": {"deferrable": True},
    "triggerer": {"deferrable": True, "save_in": "triggerer"},
}
EACH_MODE = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def vendor(fast_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    """A server with a list of predictions, and a price."""
    connect(fast_emulator.connection_to(backend="replicate", prices=PRICES))
    return fast_emulator


def clip(save_to: object, store: Store | None = None, **kwargs: Any) -> Run:
    given = {"input": FOX, "wait_for_completion": True, "save_to": save_to, "checks": "regenerate", **kwargs}
    return Run(partial(VacePredictionOperator, task_id="t", **given), store)


def path_of(uri: str, suffix: str = "") -> Path:
    return Path(urlsplit(uri).path + suffix)


def manifest_of(uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path_of(uri, ".json").read_text())
    return found


def seeds(server: Emulator) -> list[Any]:
    return [run.input["seed"] for run in server.world.runs.values()]


def failure_of(task: Run) -> AirflowFailException:
    with pytest.raises(AirflowFailException) as caught:
        task.result()
    return caught.value


def rejection_of(task: Run) -> VideoRejected:
    cause = failure_of(task).__cause__
    assert isinstance(cause, VideoRejected)
    return cause


# --- another clip ----------------------------------------------------------------------------------


@EACH_MODE
@pytest.mark.parametrize("name", ["fox.mp4", "clips/"])
def test_a_good_clip_takes_the_place_of_a_black_one(
    vendor: Emulator, tmp_path: Path, mode: str, name: str
) -> None:
    vendor.faults.add("black_video")
    payload = clip(f"{tmp_path}/{name}", Store(), **MODES[mode]).result()
    first, second = vendor.world.runs.values()
    (file,), (rejected,) = payload["files"], payload["rejected"]
    assert payload["id"] == second.id
    assert file["facts"]["problems"] == []
    assert payload["seed"] == second.input["seed"] != first.input["seed"]
    assert rejected == {
        "id": first.id,
        "seed": first.input["seed"],
        "uri": rejected["uri"],
        "problems": ["100% of the frames are black (limit: 20%)."],
        "cost": {"amount": "0.40", "currency": "USD", "basis": "per_run"},
    }
    assert payload["cost"] == {"amount": "0.40", "currency": "USD", "basis": "per_run", "task": "0.80"}
    for uri, run in ((file["uri"], second), (rejected["uri"], first)):
        assert manifest_of(uri)["id"] == run.id
        assert path_of(uri).stat().st_size == manifest_of(uri)["size"]
        assert path_of(uri, ".jpg").exists()
    assert manifest_of(rejected["uri"])["facts"]["black_share"] == 1
    if name == "fox.mp4":
        assert path_of(file["uri"]) == tmp_path / "fox.mp4"
        assert path_of(rejected["uri"]) == tmp_path / f"fox-{first.id}.mp4"


@EACH_MODE
def test_a_good_clip_is_not_made_again(vendor: Emulator, tmp_path: Path, mode: str) -> None:
    task = clip(f"{tmp_path}/fox.mp4", Store(), **MODES[mode])
    payload = task.result()
    assert "rejected" not in payload
    assert task.cleared().result()["files"] == payload["files"]
    assert billed(vendor) == 1


@pytest.mark.parametrize("save_to", ["memory://b/fox.mp4", "memory://b/clips/"])
def test_clips_in_a_store_stay_too(vendor: Emulator, memory: Any, save_to: str) -> None:
    memory.mkdir("/b")
    vendor.faults.add("frozen_video")
    payload = clip(save_to, Store()).result()
    uris = [payload["files"][0]["uri"], payload["rejected"][0]["uri"]]
    assert len({uri: memory.size(urlsplit(uri).netloc + urlsplit(uri).path) for uri in uris}) == 2
    if save_to.endswith(".mp4"):
        assert uris[0] == save_to


@EACH_MODE
def test_seeds_follow_from_the_authors(vendor: Emulator, tmp_path: Path, mode: str) -> None:
    vendor.faults.add("black_video", times=2)
    given = {"input": {**FOX, "seed": 7}, "max_regenerations": 2, **MODES[mode]}
    payload = clip(f"{tmp_path}/a.mp4", Store(), **given).result()
    once = seeds(vendor)
    assert once[0] == 7
    assert len(set(once)) == 3
    assert [each["seed"] for each in payload["rejected"]] == once[:2]
    vendor.faults.add("black_video", times=2)
    clip(f"{tmp_path}/b.mp4", Store(), **given).result()
    assert seeds(vendor)[3:] == once


def test_a_seed_of_another_model_changes_too(connect: Callable[[str], None], tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(MP4)
    given: dict[str, Any] = {"model": "me/film", "input": {"text": "rain", "seed": 3}}
    with Emulator(time_scale=0.0002, models={"me/film": film}) as vendor:
        connect(vendor.connection_to(backend="replicate"))
        rejection = rejection_of(clip(f"{tmp_path}/clips/", Store(), **given))
        assert seeds(vendor)[0] == 3
        assert len(set(seeds(vendor))) == len(rejection.rejected) == 2


@EACH_MODE
def test_a_function_is_called_again_for_its_input(vendor: Emulator, tmp_path: Path, mode: str) -> None:
    vendor.faults.add("black_video")
    given: dict[str, Any] = {"wait_for_completion": True, "save_to": f"{tmp_path}/", **MODES[mode]}

    def fox() -> dict[str, Any]:
        return FOX

    def made() -> Any:
        with DAG("d", schedule=None):
            made: Any = vace_task(checks="regenerate", **given)(fox)()
        return made.operator

    task = Run(made, Store())
    assert len(task.result()["rejected"]) == 1
    assert [run.input["prompt"] for run in vendor.world.runs.values()] == ["a fox"] * 2
    assert len(task.cleared().result()["rejected"]) == 1
    assert billed(vendor) == 2


def test_without_a_state_store_one_attempt_regenerates_too(
    vendor: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for mode in MODES.values():
        vendor.faults.add("black_video")
        payload = clip(f"{tmp_path}/{len(seeds(vendor))}/", durable=False, **mode).result()
        assert len(payload["rejected"]) == 1
    assert billed(vendor) == 6
    assert "a retry of this task, or a clear, may pay again" in capfd.readouterr().out


def test_assets_and_view_show_the_good_clip(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add("black_video")
    task = clip(f"{tmp_path}/fox.mp4", Store())
    payload = task.result()
    assert task.ti.xcoms["vace_view"]["prediction"]["id"] == payload["id"]


# --- the end of regenerations ----------------------------------------------------------------------


@EACH_MODE
def test_the_last_clip_with_problems_fails_the_task(vendor: Emulator, tmp_path: Path, mode: str) -> None:
    vendor.faults.add("black_video", times=None)
    task = clip(f"{tmp_path}/fox.mp4", Store(), max_regenerations=2, retries=2, **MODES[mode])
    error = rejection_of(task)
    assert billed(vendor) == 3
    assert str(error).startswith("3 clips have problems, and all files stay: ")
    assert "The task has paid $1.20." in str(error)
    assert [each["seed"] for each in error.rejected] == seeds(vendor)
    for each in error.rejected:
        assert f"{each['uri']} (seed {each['seed']}): 100% of the frames are black" in str(error)
        assert path_of(each["uri"]).exists()
    assert not (tmp_path / "fox.mp4").exists()
    assert task.ti.xcoms["vace_view"]["prediction"]["files"]
    for again in (task.retried(), task.cleared()):
        assert rejection_of(again).rejected == error.rejected
    assert billed(vendor) == 3


def test_a_clear_goes_on_with_more_regenerations_or_accepts_the_last(
    vendor: Emulator, tmp_path: Path
) -> None:
    vendor.faults.add("black_video", times=3)
    task = clip(f"{tmp_path}/fox.mp4", Store())
    rejection_of(task)
    task.make = clip(f"{tmp_path}/fox.mp4", max_regenerations=2).make
    last = rejection_of(task.cleared()).rejected[-1]
    assert billed(vendor) == 3
    task.make = clip(f"{tmp_path}/fox.mp4", checks="warn").make
    assert task.cleared().result()["files"][0]["uri"] == last["uri"]
    assert billed(vendor) == 3
    task.make = clip(f"{tmp_path}/fox.mp4", reuse=False).make
    payload = task.cleared().result()
    assert "rejected" not in payload
    assert path_of(payload["files"][0]["uri"]) == tmp_path / "fox.mp4"
    assert billed(vendor) == 4


def test_a_rejected_clip_of_strict_checks_is_replaced_after_a_change(
    vendor: Emulator, tmp_path: Path
) -> None:
    vendor.faults.add("black_video")
    task = clip(f"{tmp_path}/", Store(), checks="fail")
    rejection_of(task)
    task.make = clip(f"{tmp_path}/").make
    assert len(task.cleared().result()["rejected"]) == 1
    assert billed(vendor) == 2


def test_another_input_begins_again(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add("black_video", times=3)
    task = clip(f"{tmp_path}/", Store())
    rejection_of(task)
    task.make = clip(f"{tmp_path}/", input={**FOX, "prompt": "an owl"}).make
    payload = task.cleared().result()
    assert len(payload["rejected"]) == 1
    assert billed(vendor) == 4


@EACH_MODE
def test_no_regeneration_passes_a_cap(vendor: Emulator, tmp_path: Path, mode: str) -> None:
    vendor.faults.add("black_video", times=None)
    task = clip(f"{tmp_path}/fox.mp4", Store(), max_regenerations=5, max_cost="1.00", **MODES[mode])
    error = rejection_of(task)
    assert billed(vendor) == len(error.rejected) == 2
    assert "would pass max_cost=$1.00" in str(error)
    assert "The task has paid $0.80." in str(error)
    assert all(path_of(each["uri"]).exists() for each in error.rejected)
    assert task.ti.xcoms["vace_view"]["prediction"]["id"] == error.rejected[-1]["id"]
    assert rejection_of(task.retried()).rejected == error.rejected
    assert billed(vendor) == 2
    task.make = clip(f"{tmp_path}/fox.mp4", max_regenerations=2, max_cost="1.20", **MODES[mode]).make
    vendor.faults.clear()
    assert task.cleared().result()["cost"]["task"] == "1.20"
    assert billed(vendor) == 3


def test_a_regeneration_that_is_refused_or_fails_ends_as_usual(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add("black_video")
    vendor.faults.add(method="POST", status=402, body={"detail": "Insufficient credit", "status": 402})
    task = clip(f"{tmp_path}/", Store())
    assert "credit" in str(failure_of(task))
    assert billed(vendor) == 1
    vendor.faults.add(method="POST", outcome={"status": "failed", "error": "NSFW content"})
    assert "NSFW content" in str(failure_of(task.cleared()))
    payload = task.cleared().result()
    assert len(payload["rejected"]) == 1
    assert payload["cost"]["task"] == "1.20"
    assert len(set(seeds(vendor))) == billed(vendor) == 3


# --- crashes and retries ---------------------------------------------------------------------------


class Mortal(Store):
    """A store and hooks that kill the process at one of their steps."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self.step()
        super().set(key, value, retention=retention)
        self.step()

    def hook(self) -> type[VaceHook]:
        """Return hooks whose creates are two steps each, and reads one."""
        step = self.step

        class MortalHook(VaceHook):
            def submit(self, *args: Any, **kwargs: Any) -> Any:
                step()
                found = super().submit(*args, **kwargs)
                step()
                return found

            def get_prediction(self, *args: Any, **kwargs: Any) -> Any:
                step()
                return super().get_prediction(*args, **kwargs)

        return MortalHook


def lived(task: Run, store: Mortal) -> Any:
    """Run a task, with a retry after its death."""
    with hooked(task, store.hook()):
        try:
            return task.result()
        except Killed:
            return task.retried().result()


@pytest.mark.parametrize(("seed", "deferrable"), [(-1, False), (7, True)])
def test_a_death_at_any_step_costs_no_further_prediction(
    vendor: Emulator, tmp_path: Path, *, seed: int, deferrable: bool
) -> None:
    number, deaths = 0, 0
    while True:
        number += 1
        store = Mortal(number)
        vendor.faults.clear()
        vendor.faults.add("black_video")
        before = billed(vendor)
        # Equal orders with an author's seed could be each other's lost creates.
        values = {"prompt": f"fox {number}", "frame_num": 1, "seed": seed}
        task = clip(f"{tmp_path}/{number}.mp4", store, input=values, deferrable=deferrable)
        payload = lived(task, store)
        assert billed(vendor) - before == 2, f"after a death at step {number}"
        assert [each["id"] for each in payload["rejected"]] == list(vendor.world.runs)[-2:-1]
        assert path_of(payload["files"][0]["uri"]) == tmp_path / f"{number}.mp4"
        assert len(set(seeds(vendor)[-2:])) == 2
        if store.left > 0:
            break
        deaths += 1
    assert deaths > 10


@pytest.mark.parametrize("mode", ["worker", "deferred"])
def test_a_rejection_that_cannot_be_recorded_sends_no_create(
    vendor: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    vendor.faults.add("black_video")
    store = Store()
    real = store.set

    def full(key: str, value: Any, **kwargs: Any) -> None:
        if value["phase"] == "settled":
            raise RuntimeError("the disk is full")
        real(key, value, **kwargs)

    monkeypatch.setattr(store, "set", full)
    task = clip(f"{tmp_path}/fox.mp4", store, **MODES[mode])
    with pytest.raises(LedgerError, match="Nothing was submitted since; a retry goes on"):
        task.result()
    assert billed(vendor) == 1
    monkeypatch.undo()
    assert len(task.retried().result()["rejected"]) == 1
    assert billed(vendor) == 2


def test_a_kill_during_the_check_sends_no_create(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add("black_video")
    legs: list[Any] = []

    def killing(facts: Any, path: Path) -> None:
        del facts, path
        legs[-1].on_kill()

    task = clip(f"{tmp_path}/fox.mp4", Store(), check=killing)
    legs.append(task.leg())
    with pytest.raises(VaceTransportError, match="nothing was submitted"):
        legs[0].execute(task.context)
    assert billed(vendor) == 1
    task.make = clip(f"{tmp_path}/fox.mp4").make
    assert len(task.retried().result()["rejected"]) == 1
    assert billed(vendor) == 2


@pytest.mark.parametrize("cancel_on_kill", [False, True])
def test_a_kill_during_the_wait_sends_no_create(
    vendor: Emulator, tmp_path: Path, *, cancel_on_kill: bool
) -> None:
    vendor.faults.add("black_video")
    # The clip ends although the task is killed.
    vendor.faults.add(method="POST", path="*/cancel", status=503, times=None)
    vendor.world.time_scale = 100.0
    task = clip(f"{tmp_path}/fox.mp4", Store(), cancel_on_kill=cancel_on_kill)
    leg: Any = task.leg()

    def kill() -> None:
        leg.on_kill()
        end_all(vendor)

    def is_polled() -> bool:
        return any(seen.method == "GET" and "/predictions/" in seen.path for seen in vendor.requests)

    with interrupting(kill, is_polled), pytest.raises(VaceTransportError, match="nothing was submitted"):
        leg.execute(task.context)
    assert billed(vendor) == 1


def test_without_a_state_store_a_retry_does_not_begin_again(
    vendor: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.faults.add("black_video")
    real, calls = Submission.prediction_of, []

    def busy(submission: Submission, *args: Any) -> Any:
        calls.append(submission)
        if len(calls) > 1:
            raise VaceTransportError("The server is away", sent=False)
        return real(submission, *args)

    monkeypatch.setattr(Submission, "prediction_of", busy)
    assert "The server is away" in str(failure_of(clip(f"{tmp_path}/", durable=False)))
    assert (len(calls), billed(vendor)) == (2, 1)


def test_no_clip_is_paid_that_could_not_be_checked(
    vendor: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.faults.add("black_video")

    def last_check(facts: Any, path: Path) -> None:
        del facts, path
        monkeypatch.setitem(sys.modules, "av", None)

    task = clip(f"{tmp_path}/fox.mp4", Store(), check=last_check)
    assert "needs the extra `video`" in str(failure_of(task))
    assert billed(vendor) == 1


def test_clips_that_were_paid_before_there_was_a_price_count_for_the_cap(
    fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path
) -> None:
    connect(fast_emulator.connection_to(backend="replicate"))
    fast_emulator.faults.add("black_video", times=None)
    task = clip(f"{tmp_path}/fox.mp4", Store())
    rejection_of(task)
    assert billed(fast_emulator) == 2
    connect(fast_emulator.connection_to(backend="replicate", prices=PRICES))
    task.make = clip(f"{tmp_path}/fox.mp4", max_regenerations=2, max_cost="1.00").make
    assert "would pass max_cost=$1.00" in str(rejection_of(task.cleared()))
    assert billed(fast_emulator) == 2
    task.make = clip(f"{tmp_path}/fox.mp4", max_regenerations=2, max_cost="1.20").make
    assert "The task has paid $1.20" in str(rejection_of(task.cleared()))
    assert billed(fast_emulator) == 3


def test_a_gateway_without_a_list_leaves_a_lost_regeneration_to_a_person(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    fast_emulator.faults.add("black_video")
    fast_emulator.faults.add("accepted_then_502")
    task = clip(f"{tmp_path}/fox.mp4", Store())
    assert "A prediction may be running under an unknown id, and be billed" in str(failure_of(task))
    for again in (task.retried(), task.cleared()):
        assert "may be running under an unknown id, and be billed" in str(failure_of(again))
    assert billed(fast_emulator) == 2


# --- reuse, and a clear while the first clip runs ---------------------------------------------------


def test_a_saved_good_clip_is_reused_whatever_its_seed(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add("black_video")
    given: dict[str, Any] = {"input": {**FOX, "seed": 7}, "reuse": "saved"}
    first = clip(f"{tmp_path}/fox.mp4", Store(), **given).result()
    again = clip(f"{tmp_path}/fox.mp4", Store(), **given).result()
    assert (again["id"], again["reused"], again["seed"]) == (first["id"], True, first["seed"])
    assert billed(vendor) == 2
    strict = clip(f"{tmp_path}/fox.mp4", Store(), **{**given, "checks": "fail"})
    strict.ti.run_id = "tuesday"
    assert "reused" not in strict.result()


def test_a_rejected_clip_is_never_reused(vendor: Emulator, tmp_path: Path) -> None:
    vendor.faults.add("black_video", times=2)
    task = clip(f"{tmp_path}/fox.mp4", Store(), reuse="saved")
    rejection_of(task)
    other = clip(f"{tmp_path}/fox.mp4", Store(), reuse="saved")
    other.ti.run_id = "tuesday"
    payload = other.result()
    assert "reused" not in payload
    assert payload["files"][0]["facts"]["problems"] == []
    assert billed(vendor) == 3


# --- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"max_regenerations": 0}, "max_regenerations", "give an int from 1 to 10"),
        ({"max_regenerations": 11}, "max_regenerations", "give an int from 1 to 10"),
        ({"max_regenerations": True}, "max_regenerations", "give an int from 1 to 10"),
        ({"max_regenerations": "2"}, "max_regenerations", "give an int from 1 to 10"),
        ({"checks": "fail", "max_regenerations": 2}, "max_regenerations", "set checks='regenerate'"),
        ({"checks": None, "max_regenerations": 1}, "max_regenerations", "set checks='regenerate'"),
    ],
)
def test_a_mistake_is_an_error_when_airflow_reads_the_dag(
    given: dict[str, Any], field: str, reason: str
) -> None:
    values: dict[str, Any] = {"task_id": "t", "save_to": "/data/clips/", "checks": "regenerate", **given}
    for make in (
        partial(VacePredictionOperator, input=FOX, wait_for_completion=True),
        partial(VaceBatchOperator, inputs=["a fox"]),
    ):
        with pytest.raises(VaceInputError, match=reason) as caught:
            make(**values)
        assert caught.value.field == field
        assert caught.value.value == values[field]


def test_regeneration_without_a_place_is_refused_before_any_request(vendor: Emulator) -> None:
    with pytest.raises(ValueError, match="checks need save_to"):
        VacePredictionOperator(task_id="t", input=FOX, wait_for_completion=True, checks="regenerate")
    task = clip("{{ params.place }}", Store())
    leg: Any = task.leg()
    leg.save_to = ""
    with pytest.raises(AirflowFailException, match="save_to has rendered to nothing"):
        leg.execute(task.context)
    assert not vendor.requests


def test_a_sensor_refuses_to_regenerate() -> None:
    with pytest.raises(VaceInputError, match="a sensor has no input to submit again") as caught:
        VacePredictionSensor(task_id="t", prediction="abc", save_to="/data/clips/", checks="regenerate")
    assert caught.value.field == "checks"
    assert "checks='fail'" in caught.value.remedy


def test_regeneration_without_the_extra_fails_before_anything_is_paid(
    vendor: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert "checks='regenerate' needs the extra `video`" in str(failure_of(clip(f"{tmp_path}/", Store())))
    assert billed(vendor) == 0
