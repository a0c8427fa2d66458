"""Dry runs of one task: all checks, a plan with its cost, and not one create or upload."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.decorators import vace_task
from airflow_vace.exceptions import VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from support.attempts import killed_at
from support.dry_runs import plan, posts, priced
from support.films import MP4
from support.runs import run as run_dag
from support.runs import states
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def vendor(fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path) -> Emulator:
    connect(priced(fast_emulator, tmp_path))
    return fast_emulator


@pytest.fixture
def film(tmp_path: Path) -> str:
    path = tmp_path / "street.mp4"
    path.write_bytes(MP4)
    return str(path)


def task(store: Store | None = None, **kwargs: Any) -> Run:
    given = {"input": {"prompt": "a fox", "seed": 7}, "wait_for_completion": True, "dry_run": True, **kwargs}
    return Run(lambda: VacePredictionOperator(task_id="t", **given), store)


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_a_dry_run_says_what_the_task_would_do_and_submits_nothing(
    vendor: Emulator, tmp_path: Path, film: str, *, deferrable: bool
) -> None:
    store = Store()
    run = task(
        store,
        input={"prompt": "a fox", "seed": 7, "src_video": film},
        save_to=f"{tmp_path}/clips/",
        deferrable=deferrable,
    )
    text = plan(run)
    assert text.startswith("Dry run, nothing was submitted: the task would submit prunaai/vace-14b, version ")
    assert "'prompt': 'a fox'" in text
    assert "'seed': 7" in text
    assert f"save the video as file://{tmp_path}/clips/d/r/t-ID.mp4; cost: $0.40" in text
    assert posts(vendor) == []
    assert vendor.bill["predictions"] == []
    assert (store.rows, run.deferred) == ({}, [])
    # The same task without the parameter pays, so the test above is of a task that works.
    real = task(store, input={"prompt": "a fox", "src_video": film}, dry_run=False)
    assert real.result()["status"] == "succeeded"
    assert len(vendor.bill["predictions"]) == 1


@pytest.mark.usefixtures("vendor")
def test_the_log_has_the_account_the_doubts_and_the_way_of_each_file(
    film: str, capfd: pytest.CaptureFixture[str]
) -> None:
    plan(task(input={"prompt": "a fox", "src_video": film, "frame_num": 500}))
    logged = capfd.readouterr().out
    assert "Dry run: Reached http://127.0.0.1" in logged
    assert "the key was accepted" in logged
    assert f"src_video: file://{film}" in logged
    assert "would be uploaded to the back-end" in logged
    assert "The model may refuse this: frame_num=500 is not" in logged


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"input": {"prompt": ""}}, ["prompt"]),
        ({"input": {"prompt": "a fox", "frame_num": "many"}}, ["frame_num", "many"]),
        (
            {"input": {"prompt": "a fox", "src_video": "file:///nowhere/a.mp4"}},
            ["src_video", "/nowhere/a.mp4"],
        ),
        ({"save_to": "/proc/clips/"}, ["save_to", "/proc/clips"]),
        ({"save_to": "here.txt"}, ["save_to", "here.txt"]),
        ({"max_cost": "0.39"}, ["$0.40", "max_cost=$0.39"]),
        ({"model": "a/b", "max_cost": 5}, ["no price for a/b"]),
        ({"dry_run": "perhaps"}, ["dry_run", "'perhaps'", "True or False"]),
    ],
    ids=str,
)
def test_a_mistake_fails_the_dry_run_with_the_message_of_a_real_run(
    vendor: Emulator, kwargs: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(AirflowFailException) as caught:
        task(**kwargs).result()
    for word in words:
        assert word in str(caught.value)
    assert posts(vendor) == []


def test_a_refused_key_fails_the_dry_run(vendor: Emulator, connect: Callable[[str], None]) -> None:
    connection = json.loads(vendor.connection_to(backend="gateway"))
    connect(json.dumps(connection | {"password": "wrong-key"}))
    with pytest.raises(AirflowFailException, match=r"'vace_default' does not work\. Key refused"):
        task().result()


def test_without_a_price_the_plan_says_how_to_set_one(
    fast_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    connect(fast_emulator.connection_to(backend="gateway"))
    assert "cost: unknown; " in plan(task())


def test_a_price_by_the_second_is_bounded_by_the_timeout(
    fast_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    prices = {"prunaai/vace-14b": {"per_second": 0.01}}
    connect(fast_emulator.connection_to(backend="gateway", prices=prices))
    assert "cost: up to $1.20 for 120 s, the timeout" in plan(task(timeout=120))


def test_an_earlier_prediction_and_a_saved_video_are_named(vendor: Emulator, tmp_path: Path) -> None:
    store, file = Store(), f"{tmp_path}/fox.mp4"
    run = task(store, save_to=file, dry_run=False)
    payload = run.result()
    run.make = task(save_to=file).make
    assert f"an earlier attempt has submitted a prediction {payload['id']}, succeeded" in plan(run.cleared())
    text = plan(task(Store(), save_to=file, reuse="saved"))
    assert f"would return file://{file} of prediction {payload['id']}, at no cost" in text
    assert len(vendor.bill["predictions"]) == 1


def test_a_request_without_a_response_is_named(vendor: Emulator) -> None:
    run = task(Store(), dry_run=False)
    killed_at(run, "submit", after=True)
    run.make = task().make
    assert "an earlier attempt has started a request for a prediction at 2" in plan(run)
    assert len(vendor.bill["predictions"]) == 1


# --- the connection's extra ------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [True, "true"], ids=repr)
def test_the_connection_asks_for_a_dry_run_of_all_tasks(
    vendor: Emulator, connect: Callable[[str], None], extra: object
) -> None:
    connect(vendor.connection_to(backend="gateway", dry_run=extra))
    assert "the task would submit prunaai/vace-14b with" in plan(task(dry_run=False))
    with pytest.raises(VaceInputError, match="extra 'dry_run' is true, so the create was not sent"):
        VaceHook().create_prediction({"prompt": "a fox"})
    assert posts(vendor) == []


@pytest.mark.parametrize("name", ["dryrun", "dry-run", "Dry_Run"])
def test_a_misspelt_dry_run_pays_nothing(vendor: Emulator, connect: Callable[[str], None], name: str) -> None:
    connect(vendor.connection_to(backend="gateway", **{name: True}))
    with pytest.raises(AirflowFailException, match=f"extra '{name}' is True; it must be spelt 'dry_run'"):
        task(dry_run=False).result()
    assert posts(vendor) == []


def test_a_bad_extra_is_named(vendor: Emulator, connect: Callable[[str], None]) -> None:
    connect(vendor.connection_to(backend="gateway", dry_run="maybe"))
    with pytest.raises(AirflowFailException, match="extra 'dry_run' is 'maybe'; it must be true or false"):
        task().result()


# --- in Airflow ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("airflow_db")
def test_a_param_turns_a_dag_into_a_dry_run_and_skips_what_needs_the_video(vendor: Emulator) -> None:
    from airflow.sdk import DAG
    from airflow.sdk import task as airflow_task

    with DAG("dry", schedule=None, params={"dry_run": True}) as dag:

        @vace_task(wait_for_completion=True, dry_run="{{ params.dry_run }}")
        def clip() -> str:
            return "a fox"

        @airflow_task
        def use(payload: Any) -> None:
            raise AssertionError(payload)

        use(clip())
    assert states(run_dag(dag)) == {("clip", -1): "skipped", ("use", -1): "skipped"}
    assert posts(vendor) == []
