"""Waits for many predictions in one event loop: in the triggerer, or in a thread of a worker."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_vace.observability.metrics import RequestMeter
from airflow_vace.observability.spans import traced
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.client.settings import Settings
    from airflow_vace.hooks import VaceHook
    from airflow_vace.observability.metrics import TaskMetrics
    from airflow_vace.prediction import Prediction

# Trouble of a server gives a line for each wait, and a thousand equal lines help nobody.
_MAX_WARNINGS = 20


class Warnings:
    """Writes the first warnings of many waits, and leaves out the news of single predictions.

    :param log: the task's log
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._count = 0

    def __call__(self, news: str, is_warning: bool) -> None:  # noqa: FBT001 - as the poller calls it
        if not is_warning or self._count > _MAX_WARNINGS:
            return
        self._count += 1
        if self._count > _MAX_WARNINGS:
            news = "Further warnings of this wait are left out"
        self._log.warning("%s", news)


class Watcher:
    """Waits for predictions in a thread of a worker, while other threads submit and save.

    :param hook: hook of the connection, for this thread alone
    :param interval: bound in seconds on how late an end is noticed
    :param ended: receives the key of an item, and the prediction at the end of its wait; None after a crash
    :param log: the task's log
    :param metrics: the metrics of the task
    """

    def __init__(
        self,
        hook: VaceHook,
        interval: float | None,
        ended: Callable[[str, Prediction | None], None],
        log: Any,
        metrics: TaskMetrics,
    ) -> None:
        self._hook = hook
        self._interval = interval
        self._ended = ended
        self._write = Warnings(log)
        self._log = log
        self._metrics = metrics
        self._waits: set[asyncio.Task[None]] = set()
        self._is_ready = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, key: str, prediction: Prediction, deadline: float | None) -> None:
        """Begin to wait for a prediction."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vace-batch-watch", daemon=True)
            self._thread.start()
        self._is_ready.wait()
        self._loop.call_soon_threadsafe(self._begin, key, prediction, deadline)

    def close(self) -> None:
        """End all waits; the predictions run on."""
        if self._thread is None:
            return
        self._is_ready.wait()
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()
        self._thread = None
        self._is_ready.clear()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        from airflow_vace.client.poller import WaitOptions, join, leave

        self._loop = asyncio.get_running_loop()
        self._is_over = asyncio.Event()
        self._options = WaitOptions(
            write=self._write, poll_interval=self._interval, noticed=self._metrics.noticed
        )
        self._poller = join(
            self._hook.vace_conn_id,
            self._connect,
            timing=self._hook.timing,
            now=self._hook.wall_clock,
            meter=RequestMeter(),
        )
        self._is_ready.set()
        try:
            await self._is_over.wait()
        finally:
            for wait in self._waits:
                wait.cancel()
            await asyncio.gather(*self._waits, return_exceptions=True)
            await leave(self._poller)

    async def _connect(self) -> Settings:
        # Airflow's asynchronous requests belong to the event loop of the process, and this is another one.
        return await asyncio.to_thread(self._hook.read_again)

    def _begin(self, key: str, prediction: Prediction, deadline: float | None) -> None:
        wait = self._loop.create_task(self._wait(key, prediction, deadline))
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)

    async def _wait(self, key: str, prediction: Prediction, deadline: float | None) -> None:
        try:
            options = replace(self._options, deadline=deadline)
            with traced("wait", self._metrics.labels) as describe:
                end = await self._poller.wait_until_final(prediction.payload(), options)
                describe(end)
        except Exception as error:  # noqa: BLE001 - a bug in the poller must not leave an item without an end
            self._log.warning("The wait for prediction %s ended: %s", prediction.id, excerpt(str(error)))
            self._ended(key, None)
        else:
            self._ended(key, end)
