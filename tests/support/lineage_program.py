"""Runs tasks by `dag.test()` with OpenLineage, for a test that reads the events."""

from __future__ import annotations

import sys
from typing import Any

from airflow.sdk import DAG

from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from support.runs import run


def main(folder: str) -> None:
    film = "https://example.com/film.mp4?sig=secret"
    with DAG("traced", schedule=None) as dag:
        # This process shares the reports of storage among its tasks, so the task without files comes first.
        failed = VacePredictionOperator(
            task_id="failed", input={"prompt": "a secret failure"}, wait_for_completion=True
        )
        values: dict[str, Any] = {"prompt": "a secret fox", "seed": 7, "src_video": film}
        single = VacePredictionOperator(
            task_id="single",
            input=values,
            wait_for_completion=True,
            save_to=f"{folder}/single.mp4",
            trigger_rule="all_done",
        )
        batch = VaceBatchOperator(task_id="batch", inputs=["a secret fox"] * 3, save_to=f"{folder}/batch/")
        failed >> single >> batch
    run(dag)


main(sys.argv[1])
