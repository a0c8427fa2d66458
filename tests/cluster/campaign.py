"""DAGs of mapped, saved predictions for a cluster, and an audit of their runs."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.emulator.video import render

if TYPE_CHECKING:
    from airflow_vace.emulator.world import Run
    from cluster.servers import Vendor
    from cluster.whole import Cluster
    from support.s3 import S3

DAGS = """
from datetime import timedelta

from airflow.sdk import DAG

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor

AGAIN = {"retries": 5, "retry_delay": timedelta(seconds=1)}
# Airflow's limits must not decide how many predictions are in flight.
ROOM = {"max_active_tasks": 2000, "max_active_runs": 50}

for name in ("deferred", "waiting", "saved_by_triggerer"):
    with DAG(name, schedule=None, params={"count": 8, "frames": 5, "connection": "vace"}, **ROOM) as dag:

        @dag.task(**AGAIN)
        def inputs(params=None, dag_run=None, dag=None):
            mine = f"{dag.dag_id} {dag_run.run_id}"
            return [{"prompt": f"{mine} {n}", "frame_num": params["frames"]} for n in range(params["count"])]

        VacePredictionOperator.partial(
            task_id="clip",
            wait_for_completion=True,
            deferrable=name != "waiting",
            vace_conn_id="{{ params.connection }}",
            save_to="s3://store@clips/{{ run_id }}/",
            save_in="triggerer" if name == "saved_by_triggerer" else "worker",
            **AGAIN,
        ).expand(input=inputs())
    globals()[name] = dag

with DAG("sensed", schedule=None, params={"ids": []}, **ROOM) as sensed:

    @sensed.task(**AGAIN)
    def ids(params=None):
        return params["ids"]

    VacePredictionSensor.partial(
        task_id="wait",
        vace_conn_id="vace",
        deferrable=True,
        start_from_trigger=True,
        poke_interval=5.0,
        **AGAIN,
    ).expand(prediction=ids())
"""
# The vendor's code for a failure that another prediction may not meet.
WORTH_ANOTHER = "E6716"


TASKS = (
    "SELECT map_index, state, try_number FROM task_instance"
    " WHERE dag_id=%s AND run_id=%s AND task_id='clip' AND map_index >= 0"
)
RESULTS = (
    "SELECT map_index, value FROM xcom"
    " WHERE dag_id=%s AND run_id=%s AND task_id='clip' AND key='return_value'"
)


@dataclass(frozen=True)
class Books:
    """The result of an audit; the lists name prompts."""

    succeeded: int
    failed: int
    lost: list[str]
    billed_twice: list[str]
    failed_falsely: list[str]
    succeeded_falsely: list[str]
    billed: int
    attempts: int

    @property
    def are_clean(self) -> bool:
        return not (self.lost or self.billed_twice or self.failed_falsely or self.succeeded_falsely)


def audit(cluster: Cluster, vendor: Vendor, s3: S3, run: tuple[str, str], count: int) -> Books:
    """Compare the vendor's bill with Airflow's states and the store's files.

    Lost: made and paid, but the file named in the task's result is missing or differs. Billed twice: paid
    again before the earlier prediction had failed with a transient error. Failed falsely: the task failed
    although its prediction succeeded or the vendor refused nothing. Succeeded falsely: the task succeeded
    although no prediction did.
    """
    dag_id, run_id = run
    by_prompt: dict[str, list[Run]] = defaultdict(list)
    for known in vendor.journal.runs().values():
        by_prompt[known.input["prompt"]].append(known)
    tasks = {index: (state, tries) for index, state, tries in cluster.sql(TASKS, dag_id, run_id)}
    results: dict[int, Any] = dict(cluster.sql(RESULTS, dag_id, run_id))
    prompts = [f"{dag_id} {run_id} {number}" for number in range(count)]
    lost, twice, falsely, well = [], [], [], []
    for number, prompt in enumerate(prompts):
        runs, (state, tries) = by_prompt[prompt], tasks[number]
        # Two predictions of a task are no error by themselves: the first may have failed transiently.
        runs.sort(key=lambda run: run.timeline.created)
        made = [run for run in runs if run.status_at(time.time()) == "succeeded"]
        if not all(_makes_room(earlier, later.timeline.created) for earlier, later in pairwise(runs)):
            twice.append(prompt)
        if state == "success" and not made:
            well.append(prompt)
        if made and not (number in results and _is_saved(s3, results[number], made)):
            lost.append(prompt)
        has_cause = not made and (
            not runs or runs[-1].status_at(time.time()) in ("failed", "canceled", "aborted")
        )
        if state != "success" and not (
            has_cause and _is_explained(cluster, (dag_id, run_id, number), tries, runs)
        ):
            falsely.append(prompt)
        assert all(run.finished_at(time.time()) is not None for run in runs), f"{prompt} is still billing"
    states = [state for state, _ in tasks.values()]
    return Books(
        succeeded=states.count("success"),
        failed=len(states) - states.count("success"),
        lost=lost,
        billed_twice=twice,
        failed_falsely=falsely,
        succeeded_falsely=well,
        billed=sum(len(by_prompt[prompt]) for prompt in prompts),
        attempts=sum(tries for _, tries in tasks.values()),
    )


def _makes_room(run: Run, now: float) -> bool:
    """Return True if another prediction may be paid for at that moment."""
    return run.status_at(now) == "failed" and WORTH_ANOTHER in str(run.outcome["error"])


def _is_saved(s3: S3, result: dict[str, Any], made: list[Run]) -> bool:
    run = next((run for run in made if run.id == result["id"]), None)
    if run is None or len(result.get("files") or ()) != 1:
        return False
    (file,) = result["files"]
    with tempfile.TemporaryDirectory() as folder:
        # The vendor draws the same bytes for the same prediction.
        path = Path(folder, "output.mp4")
        render(run, path)
        delivered = path.read_bytes()
    is_named = hashlib.sha256(delivered).hexdigest() == file["sha256"]
    return is_named and s3.read(file["uri"].removeprefix("s3://clips/")) == delivered


def _is_explained(cluster: Cluster, where: tuple[str, str, int], attempt: int, runs: list[Run]) -> bool:
    """Return True if a failed task's log names the refusal, or the end of the prediction."""
    path = "/dags/{}/dagRuns/{}/taskInstances/clip/logs/{}?map_index={}"
    dag_id, run_id, number = where
    text = str(cluster.ask("GET", path.format(dag_id, run_id, attempt, number))["content"])
    said = (
        ("PredictionFailed", "PredictionCanceled")
        if runs
        else ("VaceAPIError", "VaceAuthError", "VaceBillingError")
    )
    return any(name in text for name in said)
