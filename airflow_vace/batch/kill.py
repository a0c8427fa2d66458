"""The end of a killed batch: cancel all predictions that run, or keep them running."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any, assert_never

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_vace.observability.metrics import TaskMetrics
from airflow_vace.redaction import excerpt
from airflow_vace.submission.decision import Attempt
from airflow_vace.task.costs import cost_of
from airflow_vace.task.kill import AfterState, OnKill, decide_by_state, decide_on_kill
from airflow_vace.task.state import UNKNOWN, aread_state, is_ended, read_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_vace.batch.operator import VaceBatchOperator
    from airflow_vace.batch.work import Work
    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction

# Airflow leaves a killed task about five seconds, which is enough for some hundred cancels at a time.
_THREADS = 16


def handle_kill(work: Work, task: VaceBatchOperator, ti: Any) -> Thread | None:
    """Submit nothing more, and cancel the open predictions if the task has ended for good.

    :param ti: the task instance, None outside of Airflow
    :return: the thread that asks for the task's state and cancels, None if there is none
    """
    running = work.stop()
    if not running:
        return None
    decision = decide_on_kill(
        running[0],
        may_cancel=True,
        cancel_on_kill=task.cancel_on_kill,
        is_known_to_retry=work.chunks.is_durable and ti is not None,
        is_timeout=isinstance(sys.exception(), AirflowTaskTimeout),
    )
    match decision:
        case OnKill.NOTHING_RUNS | OnKill.KEEP_FOREIGN:
            return None
        case OnKill.KEEP_AS_CONFIGURED:
            task.log.warning(
                "Killed; %d predictions are left running and are billed (cancel_on_kill=False)", len(running)
            )
            return None
        case OnKill.CANCEL_IF_ENDED:
            # The signal may have interrupted a request to Airflow on the same socket, so a thread asks.
            thread = Thread(
                target=_cancel_if_ended, args=(task, ti, running, work.metrics), name="vace-on-kill"
            )
            thread.start()
            return thread
        case OnKill.CANCEL:
            cancel_all(task.hook, running, work.metrics)
            return None
        case _:
            assert_never(decision)


def cancel_all(hook: VaceHook, predictions: Sequence[Prediction], metrics: TaskMetrics) -> int:
    """Cancel predictions, several at a time; return the number of accepted cancels."""

    def cancel(prediction: Prediction) -> bool:
        try:
            return _counted(hook, hook.fresh().stop_prediction(prediction), metrics)
        except Exception as error:  # noqa: BLE001 - the other cancels must not depend on this one
            hook.log.warning("Prediction %s is not canceled: %s", prediction.id, excerpt(str(error)))
            return False

    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="vace-cancel") as pool:
        return sum(pool.map(cancel, predictions))


def _counted(hook: VaceHook, canceled: Prediction | None, metrics: TaskMetrics) -> bool:
    """Count an accepted cancel; return True for one."""
    if canceled is not None and canceled.status.is_final:
        metrics.ended(replace(canceled, cost=cost_of(hook, canceled, {})))
    return canceled is not None


def _cancel_if_ended(
    task: VaceBatchOperator, ti: Any, running: Sequence[Prediction], metrics: TaskMetrics
) -> None:
    try:
        state = read_state(ti)
    except Exception as error:  # noqa: BLE001 - Airflow may raise any error; a doubt cancels nothing
        task.log.warning(
            "%d predictions are not canceled, since the task's state could not be read (%s): if nobody runs"
            " the task again, they run, and are billed, to their ends",
            len(running),
            error,
        )
        return
    is_last = Attempt.of(ti).is_last
    decision = decide_by_state(state, is_last_attempt=is_last, owns_prediction=True)
    if decision is AfterState.CANCEL:
        count = cancel_all(task.hook, running, metrics)
        task.log.warning("Killed; %d of %d predictions are canceled", count, len(running))
        return
    task.log.info("%d predictions are not canceled: the task is %s", len(running), state)


async def acancel_if_ended(ti: Any, references: Sequence[str], log: Any, hook: VaceHook) -> None:
    """Cancel a deferred batch's predictions if a person has ended the task.

    :param ti: the task instance, None outside of Airflow
    :param references: ids of the predictions
    :param hook: a hook of the connection
    """
    import asyncio

    from airflow_vace.core.references import read_known

    try:
        state = await aread_state(ti) if ti else UNKNOWN
    except Exception:  # noqa: BLE001 - Airflow may raise any error; a doubt cancels nothing
        log.warning("%d predictions are not canceled: the task's state could not be read", len(references))
        return
    if not is_ended(state):
        log.info("%d predictions are not canceled: the task is %s", len(references), state)
        return
    slots = asyncio.Semaphore(_THREADS)
    metrics = TaskMetrics(ti, lambda: hook.settings)

    async def cancel(reference: str) -> bool:
        async with slots:
            return _counted(hook, await hook.astop_prediction(read_known(reference)), metrics)

    async with hook:
        outcomes = await asyncio.gather(*map(cancel, references), return_exceptions=True)
    log.warning("%d of %d predictions are canceled", outcomes.count(True), len(references))
