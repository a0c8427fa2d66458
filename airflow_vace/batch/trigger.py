"""VaceBatchTrigger: waits for many predictions in the triggerer."""

from __future__ import annotations

__all__ = ("VaceBatchTrigger",)

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_vace.batch.watch import Warnings
from airflow_vace.observability.metrics import TaskMetrics
from airflow_vace.observability.spans import traced
from airflow_vace.prediction import PredictionStatus
from airflow_vace.redaction import excerpt
from airflow_vace.task.costs import cost_of
from airflow_vace.task.trigger_poller import join_poller, pause_until
from airflow_vace.task.trigger_saving import save_in_triggerer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_vace.client.poller import Poller, WaitOptions
    from airflow_vace.hooks import VaceHook

# Airflow cuts `on_kill` off after a second, so this set keeps the cancels under way alive.
_cancels: set[asyncio.Task[None]] = set()


class VaceBatchTrigger(BaseTrigger):
    """Wait until a batch has work for a worker: all items have ended, or enough, or a file is in danger.

    The event is `{"ended": [keys]}`, with the keys of all items whose waits are over.

    :param items: `[key, prediction id, deadline, digest]` for each open item; the deadline in seconds since
        the epoch, by the server's clock; the digest of the order for a manifest, or None. A fifth member
        False stands for a prediction that may be another task's, which no kill cancels
    :param vace_conn_id: connection of type `vace`
    :param poll_interval: greatest delay, in seconds, between an end and its notice
    :param cancel_on_kill: cancel the predictions when a person ends the deferred task (Airflow 3.3+)
    :param wake_after: number of ends that a worker is worth; None waits for all
    :param destination: save each success here, in the triggerer; JSON form of
        :class:`~airflow_vace.storage.destination.Destination`
    :param not_before: earliest time of the event, seconds since the epoch
    :param later: parameters of a later version, which stay in the row unchanged
    """

    def __init__(  # noqa: PLR0913, PLR0917 - kwargs of a stored trigger
        self,
        items: list[list[Any]],
        vace_conn_id: str = "vace_default",
        poll_interval: float | None = None,
        cancel_on_kill: bool = False,  # noqa: FBT001, FBT002 - likewise
        wake_after: int | None = None,
        destination: dict[str, Any] | None = None,
        not_before: float | None = None,
        **later: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.items = items
        self.vace_conn_id = vace_conn_id
        self.poll_interval = poll_interval
        self.cancel_on_kill = cancel_on_kill
        self.wake_after = wake_after
        self.destination = destination
        self.not_before = not_before
        self.later = later

    def serialize(self) -> tuple[str, dict[str, Any]]:
        given = {
            "items": self.items,
            "vace_conn_id": self.vace_conn_id,
            "poll_interval": self.poll_interval,
            "cancel_on_kill": self.cancel_on_kill,
            "wake_after": self.wake_after,
            "destination": self.destination,
            "not_before": self.not_before,
        }
        return "airflow_vace.batch.trigger.VaceBatchTrigger", given | self.later

    async def run(self) -> AsyncIterator[TriggerEvent]:
        # Airflow may cut off the code after a yield, so the trigger leaves the poller before the event.
        ended = await self._ended()
        await pause_until(self.not_before, self.task_instance)
        yield TriggerEvent({"ended": ended})  # type: ignore[no-untyped-call]

    async def _ended(self) -> list[str]:
        """Wait for the items; return the keys of those whose waits are over."""
        hook, poller = await join_poller(self.vace_conn_id)
        from airflow_vace.client.poller import WaitOptions, leave

        self.metrics = TaskMetrics(self.task_instance, lambda: poller.settings)
        over: asyncio.Queue[str] = asyncio.Queue()
        options = WaitOptions(
            write=Warnings(self.log), poll_interval=self.poll_interval, noticed=self.metrics.noticed
        )
        waits = [
            asyncio.create_task(self._wait(hook, poller, item, options, over), name=f"vace-batch {item[0]}")
            for item in self.items
        ]
        try:
            return await self._collected(over, hook.timing.max_unsaved_seconds)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            await leave(poller)

    async def _collected(self, over: asyncio.Queue[str], max_unsaved_seconds: float) -> list[str]:
        """Return the keys of the ended items once a worker is worth it."""
        wanted = len(self.items) if self.wake_after is None else min(self.wake_after, len(self.items))
        ended: list[str] = []
        try:
            while len(ended) < wanted:
                ended.append(await over.get())
                if len(ended) == 1:
                    # A vendor deletes a file after an hour, so the first one bounds the wait of all.
                    loop = asyncio.get_running_loop()
                    async with asyncio.timeout_at(loop.time() + max_unsaved_seconds):
                        while len(ended) < wanted:
                            ended.append(await over.get())
        except TimeoutError:
            self.log.info(
                "%d of %d items have ended; a worker saves these in time", len(ended), len(self.items)
            )
        while not over.empty():
            ended.append(over.get_nowait())
        return ended

    async def _wait(
        self, hook: VaceHook, poller: Poller, item: list[Any], options: WaitOptions, over: asyncio.Queue[str]
    ) -> None:
        key, identifier, deadline = item[:3]
        try:
            with traced("wait", self.metrics.labels) as describe:
                prediction = await poller.wait_until_final(identifier, replace(options, deadline=deadline))
                describe(prediction)
            if self.destination is not None and prediction.status is PredictionStatus.SUCCEEDED:
                from airflow_vace.storage.destination import Destination

                directory = Destination.from_json(self.destination)
                digest = item[3] if len(item) > 3 else None
                file = replace(
                    directory.file(f"{key}.mp4"), task={**directory.task, "label": key}, order_digest=digest
                )
                hook = hook.fresh(poller.settings)
                priced = replace(prediction, cost=cost_of(hook, prediction, {}))
                await save_in_triggerer(hook, priced, file, self.log, self.metrics)
        except Exception as error:  # noqa: BLE001 - a worker polls, and reports the reason
            self.log.warning("The wait for prediction %s ended: %s", identifier, excerpt(str(error)))
        over.put_nowait(key)

    async def on_kill(self) -> None:
        """Cancel the predictions if a person has ended the task."""
        if not self.cancel_on_kill:
            return
        from airflow_vace.batch.kill import acancel_if_ended
        from airflow_vace.hooks import VaceHook

        references = [item[1] for item in self.items if False not in item[4:]]
        hook = VaceHook(self.vace_conn_id)
        work = acancel_if_ended(self.task_instance, references, self.log, hook)
        task = asyncio.create_task(work)
        _cancels.add(task)
        task.add_done_callback(_cancels.discard)
        await asyncio.shield(task)
