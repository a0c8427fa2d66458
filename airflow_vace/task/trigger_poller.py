"""The shared poller of a triggerer, for the triggers of single waits and of batches."""

from __future__ import annotations

import asyncio
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_vace.observability.metrics import TriggererMeter

if TYPE_CHECKING:
    from airflow_vace.client.poller import Poller
    from airflow_vace.hooks import VaceHook


async def join_poller(vace_conn_id: str) -> tuple[VaceHook, Poller]:
    """Return a hook of a connection, and this event loop's poller; the caller leaves the poller."""
    # The imports take half a second, which would stop all other triggers of this event loop.
    await asyncio.to_thread(import_module, "airflow_vace.hooks")
    await asyncio.to_thread(import_module, "airflow_vace.client.poller")
    from airflow_vace.client.poller import join
    from airflow_vace.hooks import VaceHook

    hook = VaceHook(vace_conn_id)
    meter = TriggererMeter(vace_conn_id)
    poller = join(vace_conn_id, hook.connect_again, timing=hook.timing, now=hook.wall_clock, meter=meter)
    return hook, poller


async def pause_until(not_before: float | None, ti: Any) -> None:
    """Pause until the first leg of a task has surely ended.

    :param not_before: by the clock of the worker, seconds since the epoch
    :param ti: the task instance; `dag.test()` has none here, and no worker whose first leg must end first
    """
    if not_before is None or ti is None:
        return
    from airflow_vace.hooks import VaceHook

    # The clock of the worker may be hours ahead, and the paid file lives for an hour.
    left = min(not_before - time.time(), VaceHook.timing.min_deferral_seconds)
    await asyncio.sleep(max(left, 0.0))
