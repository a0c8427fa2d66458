"""The shared poller of a triggerer, for the triggers of single waits and of batches."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

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
