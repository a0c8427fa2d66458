"""The sums that the tasks of a DAG run see of each other for `[vace] max_cost_per_dag_run`."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from support.attempts import billed, killed_at
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
SIZES = {"prunaai/vace-14b": [{"size": "1280*720", "per_run": 0.80}, {"per_run": 0.40}]}
CAP = "AIRFLOW__VACE__MAX_COST_PER_DAG_RUN"


class DagRun:
    """The tasks of a DAG run, with their XComs."""

    def __init__(self) -> None:
        self.xcoms: dict[str, dict[str, Any]] = {}
        self.tasks: list[Any] = []

    def task(self, task_id: str, kind: Any = VacePredictionOperator, **kwargs: Any) -> Run:
        given = {"input": {"prompt": "a fox", "frame_num": 1}, "wait_for_completion": True}
        given = kwargs if kind is VaceBatchOperator else {**given, **kwargs}
        run = Run(partial(kind, task_id=task_id, **given), Store())
        self.tasks.append(SimpleNamespace(task_id=task_id, template_fields=("max_cost", "vace_conn_id")))
        ti: Any = run.ti
        ti.task_id, ti.xcom_pull = task_id, self.pull
        self.xcoms[task_id] = ti.xcoms
        run.context["dag"] = SimpleNamespace(tasks=self.tasks)
        return run

    def pull(self, *, task_ids: Any, key: str, map_indexes: int = -1) -> Any:
        del map_indexes
        if isinstance(task_ids, str):
            return self.xcoms[task_ids].get(key)
        return [self.xcoms[each][key] for each in task_ids if key in self.xcoms[each]]


@pytest.fixture
def vendor(
    fast_emulator: Emulator, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Emulator:
    """A server at forty cents a prediction, in a deployment that allows forty cents a run."""
    connect(fast_emulator.connection_to(backend="replicate", prices=PRICES))
    monkeypatch.setenv(CAP, "0.40")
    return fast_emulator


def test_a_retry_that_sends_no_create_stays_in_the_sum(vendor: Emulator) -> None:
    dag_run = DagRun()
    first = dag_run.task("first")
    killed_at(first, "get_prediction")
    first.result()
    with pytest.raises(AirflowFailException, match="would pass"):
        dag_run.task("second").result()
    assert billed(vendor) == 1


def test_a_cleared_batch_that_sends_no_create_stays_in_the_sum(vendor: Emulator, tmp_path: Path) -> None:
    dag_run = DagRun()
    first = dag_run.task("first", VaceBatchOperator, inputs=["a fox"], save_to=f"{tmp_path}/")
    first.result()
    first.cleared().result()
    with pytest.raises(AirflowFailException, match="would pass"):
        dag_run.task("second").result()
    assert billed(vendor) == 1


def test_what_was_reserved_by_time_is_free_after_the_end(
    fast_emulator: Emulator, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = {"prunaai/vace-14b": {"per_second": 0.01}}
    connect(fast_emulator.connection_to(backend="replicate", prices=prices))
    # The timeout of each task reserves $36.
    monkeypatch.setenv(CAP, "40")
    dag_run = DagRun()
    for name in ("first", "second"):
        dag_run.task(name).result()
    assert billed(fast_emulator) == 2


def test_a_refused_create_is_in_no_sum(
    fast_emulator: Emulator, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(fast_emulator.connection_to(backend="replicate", prices=SIZES))
    monkeypatch.setenv(CAP, "1.00")
    dag_run = DagRun()
    dag_run.task("first").result()
    with pytest.raises(AirflowFailException, match="would pass"):
        dag_run.task("large", input={"prompt": "a fox", "size": "1280*720"}).result()
    dag_run.task("third").result()
    assert billed(fast_emulator) == 2


def test_a_dry_run_stops_no_task_that_pays_but_another_dry_run(vendor: Emulator) -> None:
    dag_run = DagRun()
    with pytest.raises(AirflowSkipException, match=r"\$0.40"):
        dag_run.task("rehearsed", dry_run=True).result()
    dag_run.task("paid").result()
    with pytest.raises(AirflowFailException, match="would pass"):
        dag_run.task("rehearsed_too", dry_run=True).result()
    assert billed(vendor) == 1


def test_dry_runs_of_a_dag_run_are_summed(vendor: Emulator) -> None:
    dag_run = DagRun()
    with pytest.raises(AirflowSkipException):
        dag_run.task("first", dry_run=True).result()
    with pytest.raises(AirflowFailException, match="would pass"):
        dag_run.task("second", dry_run=True).result()
    assert billed(vendor) == 0
