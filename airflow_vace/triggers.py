"""VacePredictionTrigger: a wait in the triggerer."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_vace.api import read_known, read_reference
from airflow_vace.exceptions import excerpt
from airflow_vace.hooks import VaceHook
from airflow_vace.poller import join, leave
from airflow_vace.prediction import PredictionStatus
from airflow_vace.task_state import UNKNOWN, aread_state, is_ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_vace.prediction import Prediction

# Files that one triggerer saves at a time; each takes a thread and a few megabytes.
_MOST_SAVES = 4
# How long a save may take, its place in the queue included, before it is left to a worker.
LONGEST_SAVE_SECONDS = 600.0


@cache
def _savers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_MOST_SAVES, thread_name_prefix="vace-save")


# Cancels under way: on_kill is cut off after a second, and nobody else holds a reference.
_cancels: set[asyncio.Task[None]] = set()


class VacePredictionTrigger(BaseTrigger):
    """Wait until a prediction is final, or its deadline has passed; the event is the payload.

    An event whose status is not final says that waiting here is over: the task looks for itself, and
    raises what it finds.

    :param prediction: payload, id, or `urls.get`
    :param vace_conn_id: connection of type `vace`
    :param deadline: wall-clock end of the wait, seconds since the epoch; None: without end
    :param poll_interval: how late, in seconds, the end may be noticed (default: 10 s, or 5 % of
        the time waited)
    :param cancel_on_kill: cancel the prediction when a person ends the deferred task (Airflow 3.3+)
    :param destination: save a success here and now, as :class:`~airflow_vace.media.Destination` says in JSON;
        the event then has `files`
    """

    def __init__(  # noqa: PLR0913, PLR0917 - kwargs of a stored trigger
        self,
        prediction: Any,
        vace_conn_id: str = "vace_default",
        deadline: float | None = None,
        poll_interval: float | None = None,
        cancel_on_kill: bool = False,  # noqa: FBT001, FBT002 - likewise
        destination: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prediction = prediction
        self.vace_conn_id = vace_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.cancel_on_kill = cancel_on_kill
        self.destination = destination

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "airflow_vace.triggers.VacePredictionTrigger",
            {
                "prediction": self.prediction,
                "vace_conn_id": self.vace_conn_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "cancel_on_kill": self.cancel_on_kill,
                "destination": self.destination,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        # The poller is left before the event: what comes after a yield can be cut off.
        payload = await self._wait()
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def _wait(self) -> dict[str, Any]:
        poller = join(self.vace_conn_id)
        try:
            prediction = await poller.until_over(
                self.prediction, deadline=self.deadline, poll_interval=self.poll_interval, tell=self._tell
            )
            saved = await self._saved(poller.hook, prediction)
        finally:
            await leave(poller)
        return saved.payload()

    def _tell(self, news: str, is_warning: bool) -> None:  # noqa: FBT001 - as the poller calls it
        self.log.log(logging.WARNING if is_warning else logging.INFO, "%s", news)

    async def _saved(self, hook: VaceHook, prediction: Prediction) -> Prediction:
        """Return a success with its files saved, if that is to be done here and can be; else as it is."""
        if self.destination is None or prediction.status is not PredictionStatus.SUCCEEDED:
            return prediction
        from airflow_vace.media import Destination, save_output

        destination = Destination.from_json(self.destination)
        stop = threading.Event()
        # asgiref's threads, unlike asyncio's, can ask Airflow for connections on its older versions too.
        save = sync_to_async(save_output, thread_sensitive=False, executor=_savers())
        try:
            saving = save(hook.fresh(), prediction, destination, stop=stop)
            files = await asyncio.wait_for(saving, LONGEST_SAVE_SECONDS)
        except Exception as error:  # noqa: BLE001 - stores are strangers, and may throw anything
            what = excerpt(str(error)) or f"not done within {LONGEST_SAVE_SECONDS:g} s"
            self.log.warning("Not saved in the triggerer, a worker tries it again: %s", what)
            return prediction
        finally:
            stop.set()
        return replace(prediction, files=files)

    async def on_kill(self) -> None:
        """Cancel the prediction if a person ended the task, and leave it alone if the wait only moves."""
        if not self.cancel_on_kill:
            return
        task = asyncio.create_task(self._cancel_if_killed())
        _cancels.add(task)
        task.add_done_callback(_cancels.discard)
        await asyncio.shield(task)

    async def _cancel_if_killed(self) -> None:
        identifier, _ = read_reference(self.prediction)
        try:
            state = await aread_state(self.task_instance) if self.task_instance else UNKNOWN
        except Exception:  # noqa: BLE001 - Airflow's own trouble, of any kind: when in doubt, don't cancel
            self.log.warning("Prediction %s is not canceled: the task's state could not be read", identifier)
            return
        if not is_ended(state):
            self.log.info("Prediction %s is not canceled: the task is %s", identifier, state)
            return
        async with VaceHook(self.vace_conn_id) as hook:
            await hook.astop_prediction(read_known(self.prediction))
