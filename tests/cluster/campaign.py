"""What a cluster carries in the tests: mapped predictions that are saved, and the books on them."""

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
# What a vendor says of a prediction that is worth another, and what of one that is not.
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
    """What a run of a campaign came to; the lists name prompts."""

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
    """Compare what the vendor has on its bill with what Airflow tells and the store holds.

    Lost: paid for and made, and not in the store, byte for byte, where the task's result says. Billed twice:
    paid for again although the one before had not yet failed with what is worth another. Failed falsely: a
    task that is not a success although its prediction is, or although the vendor never refused it. Succeeded
    falsely: a task that is a success, and no prediction of it is.
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
            has_cause and _is_told(cluster, (dag_id, run_id, number), tries, runs)
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
    """Whether another could rightly be paid for at that moment."""
    return run.status_at(now) == "failed" and WORTH_ANOTHER in str(run.outcome["error"])


def _is_saved(s3: S3, result: dict[str, Any], made: list[Run]) -> bool:
    run = next((run for run in made if run.id == result["id"]), None)
    if run is None or len(result.get("files") or ()) != 1:
        return False
    (file,) = result["files"]
    with tempfile.TemporaryDirectory() as folder:
        # What the vendor delivers: it draws the same for the same prediction.
        path = Path(folder, "output.mp4")
        render(run, path)
        delivered = path.read_bytes()
    is_told = hashlib.sha256(delivered).hexdigest() == file["sha256"]
    return is_told and s3.read(file["uri"].removeprefix("s3://clips/")) == delivered


def _is_told(cluster: Cluster, where: tuple[str, str, int], attempt: int, runs: list[Run]) -> bool:
    """Whether the log of a task that failed says why: the vendor's refusal, or how the prediction ended."""
    path = "/dags/{}/dagRuns/{}/taskInstances/clip/logs/{}?map_index={}"
    dag_id, run_id, number = where
    text = str(cluster.ask("GET", path.format(dag_id, run_id, attempt, number))["content"])
    said = (
        ("PredictionFailed", "PredictionCanceled")
        if runs
        else ("VaceAPIError", "VaceAuthError", "VaceBillingError")
    )
    return any(name in text for name in said)
