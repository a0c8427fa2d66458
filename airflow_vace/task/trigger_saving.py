"""Saves outputs in the triggerer, in threads beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from airflow_vace.observability.spans import traced
from airflow_vace.redaction import excerpt
from airflow_vace.storage.checks import STRICT_MODES, missing_packages
from airflow_vace.video.errors import VideoExtraMissing

if TYPE_CHECKING:
    from airflow_vace.hooks import VaceHook
    from airflow_vace.observability.metrics import TaskMetrics
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.destination import Destination


@cache
def savers(count: int) -> ThreadPoolExecutor:
    """Return the threads of this process for saves.

    :param count: number of saves at a time, each with a thread and a few megabytes
    """
    return ThreadPoolExecutor(max_workers=count, thread_name_prefix="vace-save")


async def save_in_triggerer(
    hook: VaceHook, prediction: Prediction, destination: Destination, log: Any, metrics: TaskMetrics
) -> list[dict[str, Any]] | None:
    """Save the output of a success; return None if a worker must save the output.

    :param hook: a hook for this save alone, because its session serves one thread
    :param metrics: counts the saved bytes
    :return: `uri, size, sha256, content_type` for each file
    """
    timing = hook.timing
    stop = threading.Event()
    # asgiref's threads can read connections from Airflow on older versions too, and asyncio's cannot.
    save = sync_to_async(_save, thread_sensitive=False, executor=savers(timing.max_trigger_saves))
    try:
        with traced("save", metrics.labels) as describe:
            describe(prediction)
            saving = save(hook, prediction, destination, stop=stop)
            files = await asyncio.wait_for(saving, timing.max_trigger_save_seconds)
    except Exception as error:  # noqa: BLE001 - third-party stores may raise any error
        reason = excerpt(str(error)) or f"not done within {timing.max_trigger_save_seconds:g} s"
        log.warning("Not saved in the triggerer, a worker tries it again: %s", reason)
        return None
    finally:
        # A save that is too late, or whose trigger is canceled, must not occupy a thread.
        stop.set()
    metrics.saved(files, prediction)
    return files


def _save(
    hook: VaceHook, prediction: Prediction, destination: Destination, *, stop: threading.Event
) -> list[dict[str, Any]]:
    from airflow_vace.storage.save import save_output

    if destination.checks in STRICT_MODES and (missing := missing_packages()):
        raise VideoExtraMissing(
            f"checks={destination.checks!r} needs the extra `video` here, {', '.join(missing)} is missing"
        )
    # A large output does not wait in memory for a free thread: the back-end sends it again.
    if not prediction.has_output:
        prediction = prediction.updated(hook.get_prediction(prediction))
    return save_output(hook, prediction, destination, stop=stop)
