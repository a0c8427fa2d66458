"""Runs a deferred task and a batch in spans of Airflow, as worker and triggerer do, for a test."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

from airflow import settings
from airflow.jobs import triggerer_job_runner
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.execution_time import task_runner

from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from support.tasks import Run, Store


def in_worker(ti: Any, work: Any) -> Any:
    with task_runner._make_task_span(SimpleNamespace(ti=ti)):  # type: ignore[arg-type]
        return work()


def in_triggerer(ti: Any, trigger: Any) -> Any:
    async def first() -> Any:
        with triggerer_job_runner._make_trigger_span(ti, 1, ti.task_id):
            (payload,) = [event.payload async for event in trigger.run()]
            return payload

    return asyncio.run(first())


def main(folder: str) -> None:
    initialize: Any = settings.initialize
    initialize()
    carrier = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    own = {"task_id": "t", "dag_id": "d", "run_id": "r", "try_number": 1, "map_index": -1}
    ti = SimpleNamespace(**own, context_carrier=carrier)
    single: dict[str, Any] = {"input": {"prompt": "a secret fox", "seed": 7}, "wait_for_completion": True}
    run = Run(
        lambda: VacePredictionOperator(task_id="t", deferrable=True, save_to=f"{folder}/", **single),
        Store(),
    )
    try:
        in_worker(ti, lambda: run.leg().execute(run.context))
    except TaskDeferred as deferred:
        event = in_triggerer(ti, deferred.trigger)
        kwargs = {**(deferred.kwargs or {}), "event": event}
        method = deferred.method_name
        in_worker(ti, lambda: run.leg().resume_execution(method, kwargs, run.context))
    batch: dict[str, Any] = {"inputs": ["a secret fox"], "save_to": f"{folder}/batch/"}
    many = Run(lambda: VaceBatchOperator(task_id="many", **batch), Store())
    in_worker(SimpleNamespace(**{**own, "task_id": "many"}, context_carrier=carrier), many.result)
    with task_runner.flush_spans():
        pass


main(sys.argv[1])
