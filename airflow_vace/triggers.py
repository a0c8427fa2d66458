"""VacePredictionTrigger: a wait in the triggerer."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import cache
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_vace.core.requests import read_known, read_reference
from airflow_vace.exceptions import excerpt
from airflow_vace.links import LINKS, PredictionOutputLink
from airflow_vace.prediction import PredictionStatus
from airflow_vace.task.rendering import label_text
from airflow_vace.task.state import UNKNOWN, aread_state, is_ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from airflow_vace.hooks import VaceHook
    from airflow_vace.links import PredictionPageLink
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.destination import Destination

# Files that one triggerer saves at a time; each takes a thread and a few megabytes.
_MOST_SAVES = 4
# How long a save may take, its place in the queue included, before it is left to a worker.
LONGEST_SAVE_SECONDS = 600.0


@cache
def _savers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_MOST_SAVES, thread_name_prefix="vace-save")


def _save(
    hook: VaceHook, prediction: Prediction, destination: Destination, *, stop: threading.Event
) -> list[dict[str, Any]]:
    """Save an output; the back-end is asked for one that is too large to be held until a thread is free."""
    from airflow_vace.storage.save import save_output

    if not prediction.has_output:
        prediction = prediction.updated(hook.get_prediction(prediction))
    return save_output(hook, prediction, destination, stop=stop)


# Cancels under way: on_kill is cut off after a second, and nobody else holds a reference.
_cancels: set[asyncio.Task[None]] = set()


class VacePredictionTrigger(BaseTrigger):
    """Wait until a prediction is final, or its deadline has passed; the event is the payload.

    An event whose status is not final says that waiting here is over: the task looks for itself, and
    raises what it finds.

    :param prediction: payload, id, or `urls.get`
    :param vace_conn_id: connection of type `vace`
    :param deadline: end of the wait by the server's clock, seconds since the epoch; None: without end
    :param poll_interval: how late, in seconds, the end may be noticed (default: 10 s, or 5 % of
        the time waited)
    :param cancel_on_kill: cancel the prediction when a person ends the deferred task (Airflow 3.3+)
    :param destination: save a success here and now; the JSON form of
        :class:`~airflow_vace.storage.destination.Destination`. The event then has `files`
    :param end_from_trigger: end the task with a success here, with its result in XCom, without a worker
    :param do_xcom_push: whether the result goes to XCom then
    :param not_before: hold what a worker goes on with until then, seconds since the epoch
    :param later: what a later version has stored; it is left alone
    """

    # What no worker has left before; a triggerer leaves some thirty XComs a second, and no more.
    links: tuple[PredictionPageLink | PredictionOutputLink, ...] = (PredictionOutputLink(),)
    # Whether the deadline is by this machine's clock; a worker gives one by the server's.
    is_deadline_local = False

    def __init__(  # noqa: PLR0913, PLR0917 - kwargs of a stored trigger
        self,
        prediction: Any,
        vace_conn_id: str = "vace_default",
        deadline: float | None = None,
        poll_interval: float | None = None,
        cancel_on_kill: bool = False,  # noqa: FBT001, FBT002 - likewise
        destination: dict[str, Any] | None = None,
        end_from_trigger: bool = False,  # noqa: FBT001, FBT002 - likewise
        do_xcom_push: bool = True,  # noqa: FBT001, FBT002 - likewise
        not_before: float | None = None,
        **later: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prediction = prediction
        self.vace_conn_id = vace_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.cancel_on_kill = cancel_on_kill
        self.destination = destination
        self.end_from_trigger = end_from_trigger
        self.do_xcom_push = do_xcom_push
        self.not_before = not_before
        self.later = later

    def serialize(self) -> tuple[str, dict[str, Any]]:
        given = {
            "prediction": self.prediction,
            "vace_conn_id": self.vace_conn_id,
            "deadline": self.deadline,
            "poll_interval": self.poll_interval,
            "cancel_on_kill": self.cancel_on_kill,
            "destination": self.destination,
            "end_from_trigger": self.end_from_trigger,
            "do_xcom_push": self.do_xcom_push,
            "not_before": self.not_before,
        }
        return "airflow_vace.triggers.VacePredictionTrigger", self._needed(given)

    def _needed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the kwargs that are not their defaults: while a fleet is upgraded, others must load them."""
        defaults = signature(type(self).__init__).parameters
        return {name: value for name, value in given.items() if value != defaults[name].default} | self.later

    async def run(self) -> AsyncIterator[TriggerEvent]:
        if self.later:
            # An older triggerer waits as well as it can: the task is told the end in any case.
            self.log.info("A later version deferred this; left alone: %s", ", ".join(sorted(self.later)))
        # The poller is left before the event: what comes after a yield can be cut off.
        prediction = await self._end()
        prediction = self._marked(prediction)
        if await self._succeeds(prediction):
            yield TaskSuccessEvent()
            return
        # In dag.test() there is no worker that may not have ended yet.
        if self.not_before is not None and self.task_instance is not None:
            await asyncio.sleep(max(self.not_before - time.time(), 0.0))
        yield TriggerEvent(prediction.payload())  # type: ignore[no-untyped-call]

    def _marked(self, prediction: Prediction) -> Prediction:
        """Return a prediction with the map index of the task, which a row of an older version lacks."""
        index = getattr(self.task_instance, "map_index", -1)
        return replace(prediction, map_index=index) if index >= 0 else prediction

    async def _end(self) -> Prediction:
        # What this imports takes half a second, and a triggerer's loop has others to run.
        await asyncio.to_thread(import_module, "airflow_vace.hooks")
        await asyncio.to_thread(import_module, "airflow_vace.client.poller")
        from airflow_vace.client.poller import WaitOptions, join, leave
        from airflow_vace.hooks import VaceHook

        hook = VaceHook(self.vace_conn_id)
        poller = join(self.vace_conn_id, hook.connect_again, timing=hook.timing, now=hook.wall_clock)
        options = WaitOptions(
            write=self._tell,
            deadline=self.deadline,
            poll_interval=self.poll_interval,
            is_deadline_local=self.is_deadline_local,
        )
        try:
            prediction = await poller.wait_until_final(self.prediction, options)
            return await self._saved(hook.fresh(poller.settings), prediction)
        finally:
            await leave(poller)

    async def _succeeds(self, prediction: Prediction) -> bool:
        """Leave the result where a worker would, if the task can end with it here and now."""
        ti = self.task_instance
        is_success = prediction.status is PredictionStatus.SUCCEEDED and bool(prediction.output_urls)
        is_whole = is_success and prediction.fits_payload
        if ti is None or not self.end_from_trigger or not is_whole:
            return False
        if self.destination is not None and not prediction.files:
            return False
        try:
            from airflow.sdk.execution_time.xcom import XCom

            results: dict[str, Any] = {link.xcom_key: link.of(prediction) for link in self.links}
            if self.do_xcom_push:
                results["return_value"] = prediction.payload()
            where = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id}
            for key, value in results.items():
                await XCom.aset(key=key, value=value, map_index=ti.map_index, **where)
        except Exception as error:  # noqa: BLE001 - Airflow's own trouble, of any kind
            self.log.warning("The result could not be left here, a worker does it: %s", excerpt(str(error)))
            return False
        return True

    def _tell(self, news: str, is_warning: bool) -> None:  # noqa: FBT001 - as the poller calls it
        self.log.log(logging.WARNING if is_warning else logging.INFO, "%s", news)

    async def _saved(self, hook: VaceHook, prediction: Prediction) -> Prediction:
        """Return a success with its files saved, if that is to be done here and can be; else as it is."""
        if self.destination is None or prediction.status is not PredictionStatus.SUCCEEDED:
            return prediction
        from airflow_vace.storage.destination import Destination

        destination = Destination.from_json(self.destination)
        stop = threading.Event()
        # asgiref's threads, unlike asyncio's, can ask Airflow for connections on its older versions too.
        save = sync_to_async(_save, thread_sensitive=False, executor=_savers())
        try:
            saving = save(hook, prediction, destination, stop=stop)
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
        if self.prediction is None:
            return
        identifier, _ = read_reference(self.prediction)
        try:
            state = await aread_state(self.task_instance) if self.task_instance else UNKNOWN
        except Exception:  # noqa: BLE001 - Airflow's own trouble, of any kind: when in doubt, don't cancel
            self.log.warning("Prediction %s is not canceled: the task's state could not be read", identifier)
            return
        if not is_ended(state):
            self.log.info("Prediction %s is not canceled: the task is %s", identifier, state)
            return
        from airflow_vace.hooks import VaceHook

        async with VaceHook(self.vace_conn_id) as hook:
            await hook.astop_prediction(read_known(self.prediction))


# How long a triggerer may take to be told an XCom; it tells them one by one, and at first it is slow.
_LONGEST_SEARCH = 300.0


class VacePredictionStartTrigger(VacePredictionTrigger):
    """Begin a sensor in the triggerer: find its prediction, then wait as :class:`VacePredictionTrigger` does.

    What can't be found here is a worker's: the event is then `{"execute": why}`.

    :param source: where the prediction is, from :func:`airflow_vace.task.triggerer.source_of`; None for a
        mapped task, which has all the rest in its serialised form too
    :param timeout: of the sensor, in seconds from its beginning
    :param end_from_trigger: None for whenever nothing is lost by it
    :param label: the sensor's own; None passes on that of the payload
    """

    links = LINKS
    is_deadline_local = True
    # Set by the triggerer: when Airflow ends the wait by itself.
    timeout_after: datetime | None = None

    def __init__(  # noqa: PLR0913, PLR0917 - kwargs of a stored trigger
        self,
        source: dict[str, Any] | None = None,
        vace_conn_id: str = "vace_default",
        timeout: float | None = None,
        poll_interval: float | None = None,
        cancel_on_kill: bool = False,  # noqa: FBT001, FBT002 - likewise
        end_from_trigger: bool | None = None,  # noqa: FBT001 - likewise
        do_xcom_push: bool = True,  # noqa: FBT001, FBT002 - likewise
        saves: bool = False,  # noqa: FBT001, FBT002 - likewise
        label: str | None = None,
        **later: Any,
    ) -> None:
        super().__init__(
            None,
            vace_conn_id,
            poll_interval=poll_interval,
            cancel_on_kill=cancel_on_kill,
            do_xcom_push=do_xcom_push,
            **later,
        )
        self.source = source
        self.timeout = timeout
        self.asked_to_end = end_from_trigger
        self.saves = saves
        self.label = label

    def serialize(self) -> tuple[str, dict[str, Any]]:
        given = {
            "source": self.source,
            "vace_conn_id": self.vace_conn_id,
            "timeout": self.timeout,
            "poll_interval": self.poll_interval,
            "cancel_on_kill": self.cancel_on_kill,
            "end_from_trigger": self.asked_to_end,
            "do_xcom_push": self.do_xcom_push,
            "saves": self.saves,
            "label": self.label,
        }
        return "airflow_vace.triggers.VacePredictionStartTrigger", self._needed(given)

    def render_template_fields(self, *_: Any, **__: Any) -> None:
        """Render nothing: a template may ask Airflow what it never answers a triggerer."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            async with asyncio.timeout(_LONGEST_SEARCH):
                await self._prepare()
        except Exception as error:  # noqa: BLE001 - whatever it is, a worker has other ways
            why = excerpt(str(error)) or type(error).__name__
            self.log.info("A worker begins this task: %s", why)
            yield TriggerEvent({"execute": why})  # type: ignore[no-untyped-call]
            return
        async for event in super().run():
            if event.payload and isinstance(event.payload, dict):
                event.payload["deadline"] = self.deadline
            yield event

    def _marked(self, prediction: Prediction) -> Prediction:
        return replace(super()._marked(prediction), label=self.label or prediction.label)

    async def _prepare(self) -> None:
        """Find out what is waited for, and how, as a worker would.

        :raises Exception: if that takes a worker
        """
        from airflow_vace.task.triggerer import NotHere, found, lost_by_ending, started_at

        ti = self.task_instance
        task: Any = self.task
        if ti is None or task is None:
            raise NotHere("this Airflow does not tell a trigger its task")
        if self.source is None:
            self._take_arguments(task.partial_kwargs)
        if self.label is None and getattr(task, "map_index_template", None) is not None:
            raise NotHere("its label is a template")
        prediction = await found(self.source or {}, ti)
        read_reference(prediction)
        self.prediction = prediction
        started = started_at(task, self.timeout_after) or time.time()
        self.deadline = None if self.timeout is None else started + self.timeout
        lost = lost_by_ending(task, ti.map_index)
        self.end_from_trigger = not (self.asked_to_end is False or self.saves or lost)
        if lost and self.asked_to_end:
            self.log.warning("A worker ends this task, since %s would be lost here", ", ".join(lost))

    def _take_arguments(self, given: dict[str, Any]) -> None:
        """Take from a mapped task what its operator would be made with.

        :raises Exception: if that takes a worker
        """
        from airflow_vace.task.triggerer import NotHere, is_plain

        if not given.get("deferrable", conf.getboolean("operators", "default_deferrable", fallback=False)):
            raise NotHere("it is not deferrable")
        self.vace_conn_id = given.get("vace_conn_id", self.vace_conn_id)
        if not is_plain(self.vace_conn_id):
            raise NotHere("its connection is a template")
        timeout = given.get("timeout", conf.getfloat("sensors", "default_timeout"))
        interval = given.get("poke_interval")
        self.timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
        self.poll_interval = interval.total_seconds() if isinstance(interval, timedelta) else interval
        self.cancel_on_kill = bool(given.get("cancel_on_kill", False))
        self.asked_to_end = given.get("end_from_trigger")
        self.do_xcom_push = bool(given.get("do_xcom_push", True))
        self.saves = given.get("save_to") is not None
        if not is_plain(given.get("label")):
            raise NotHere("its label is a template")
        self.label = label_text(given.get("label"))
        if given.get("save_in") == "triggerer":
            raise NotHere("it saves in the triggerer, to a place that a worker renders")
