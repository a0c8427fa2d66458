"""VacePredictionTrigger: waits for a prediction in the triggerer."""

from __future__ import annotations

__all__ = ("VacePredictionStartTrigger", "VacePredictionTrigger")

import asyncio
import logging
import time
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_vace.core.references import read_known, read_reference
from airflow_vace.core.timing import Timing
from airflow_vace.links import LINKS, PredictionOutputLink
from airflow_vace.observability.metrics import TaskMetrics
from airflow_vace.observability.spans import traced
from airflow_vace.plain import is_absent
from airflow_vace.prediction import PredictionStatus
from airflow_vace.redaction import excerpt
from airflow_vace.storage.checks import STRICT_MODES, problems_of
from airflow_vace.task.airflow_internals import awrite_xcom
from airflow_vace.task.costs import cost_of, order_cost
from airflow_vace.task.fields import seconds
from airflow_vace.task.kill import acancel_if_ended
from airflow_vace.task.rendering import label_text
from airflow_vace.task.trigger_poller import join_poller, pause_until
from airflow_vace.task.trigger_saving import save_in_triggerer
from airflow_vace.task.triggerer import NeedsWorker, found, is_plain, lost_by_ending, started_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from airflow_vace.hooks import VaceHook
    from airflow_vace.links import PredictionPageLink
    from airflow_vace.prediction import Prediction

# Airflow cuts `on_kill` off after a second, so this set keeps the cancels under way alive.
_cancels: set[asyncio.Task[None]] = set()


class VacePredictionTrigger(BaseTrigger):
    """Wait for the end or the deadline; the event is the payload.

    An event with a running prediction ends the wait in the triggerer: the task polls on a worker, and raises
    the error there.

    :param prediction: payload, id, or `urls.get`
    :param vace_conn_id: connection of type `vace`
    :param deadline: end of the wait by the server's clock, seconds since the epoch; None waits without end
    :param poll_interval: greatest delay, in seconds, between the end and its notice (default: 10 s, or 5 % of
        the time waited)
    :param cancel_on_kill: cancel the prediction when a person ends the deferred task (Airflow 3.3+)
    :param destination: save a success in the triggerer; JSON form of
        :class:`~airflow_vace.storage.destination.Destination`. The event then has `files`
    :param end_from_trigger: end the task with a success here, with the result in XCom, without a worker
    :param do_xcom_push: push the result to XCom then
    :param not_before: earliest time of an event for a worker, seconds since the epoch
    :param later: parameters of a later version, which stay in the row unchanged
    """

    # A triggerer writes some thirty XComs a second and no more, so only the link that no worker has
    # written before is worth one.
    links: tuple[PredictionPageLink | PredictionOutputLink, ...] = (PredictionOutputLink(),)
    # True for a deadline by this machine's clock; a worker gives a deadline by the server's.
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
        return "airflow_vace.triggers.VacePredictionTrigger", self._changed(given)

    def _changed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the kwargs without defaults, with the kwargs of a later version."""
        # During an upgrade of a fleet an older triggerer loads the row, and knows only older kwargs.
        defaults = signature(type(self).__init__).parameters
        return {name: value for name, value in given.items() if value != defaults[name].default} | self.later

    async def run(self) -> AsyncIterator[TriggerEvent]:
        if self.later:
            # An older triggerer waits as well as possible, because the task gets the end in any case.
            self.log.info("A later version deferred this; left alone: %s", ", ".join(sorted(self.later)))
        # Airflow may cut off the code after a yield, so the trigger leaves the poller before the event.
        prediction = await self._end()
        prediction = self._marked(prediction)
        if await self._has_ended_task(prediction):
            yield TaskSuccessEvent()
            return
        await pause_until(self.not_before, self.task_instance)
        yield TriggerEvent(prediction.payload())  # type: ignore[no-untyped-call]

    def _marked(self, prediction: Prediction) -> Prediction:
        """Return a prediction with the task's map index, missing in older rows."""
        index = getattr(self.task_instance, "map_index", -1)
        return replace(prediction, map_index=index) if index >= 0 else prediction

    async def _end(self) -> Prediction:
        """Wait in the shared poller; return the prediction, perhaps with saved files."""
        hook, poller = await join_poller(self.vace_conn_id)
        from airflow_vace.client.poller import WaitOptions, leave

        self.metrics = TaskMetrics(self.task_instance, lambda: poller.settings)
        options = WaitOptions(
            write=self._log_news,
            deadline=self.deadline,
            poll_interval=self.poll_interval,
            is_deadline_local=self.is_deadline_local,
            noticed=self.metrics.noticed,
        )
        try:
            with traced("wait", self.metrics.labels) as describe:
                prediction = await poller.wait_until_final(self.prediction, options)
                describe(prediction)
            hook = hook.fresh(poller.settings)
            # A running prediction has no cost yet, and a worker goes on with the wait.
            if prediction.status.is_final:
                cost = order_cost(read_known(self.prediction), prediction)
                prediction = replace(prediction, cost=cost or cost_of(hook, prediction, {}))
            return await self._saved(hook, prediction)
        finally:
            await leave(poller)

    async def _has_ended_task(self, prediction: Prediction) -> bool:
        """Write a success to XCom; return False if a worker must end the task."""
        ti = self.task_instance
        if ti is None or not self.end_from_trigger:
            return False
        is_success = prediction.status is PredictionStatus.SUCCEEDED and bool(prediction.output_urls)
        is_saved = self.destination is None or bool(prediction.files)
        is_saved = is_saved and not self._is_rejected(prediction)
        if not (is_success and prediction.fits_payload and is_saved):
            return False
        try:
            for link in self.links:
                await awrite_xcom(ti, link.xcom_key, link.of(prediction, ti))
            if self.do_xcom_push:
                await awrite_xcom(ti, "return_value", prediction.payload())
        except Exception as error:  # noqa: BLE001 - Airflow may raise any error
            self.log.warning("The result could not be left here, a worker does it: %s", excerpt(str(error)))
            return False
        self.metrics.ended(prediction)
        return True

    def _is_rejected(self, prediction: Prediction) -> bool:
        """Return True if a worker must go on after the problems of this video, or of earlier ones."""
        is_strict = (self.destination or {}).get("checks") in STRICT_MODES
        # Only a worker has the record with the costs of all clips.
        return is_strict and bool(prediction.rejected or problems_of(prediction.files))

    def _log_news(self, news: str, is_warning: bool) -> None:  # noqa: FBT001 - as the poller calls it
        self.log.log(logging.WARNING if is_warning else logging.INFO, "%s", news)

    async def _saved(self, hook: VaceHook, prediction: Prediction) -> Prediction:
        """Return a success with saved files, or the prediction unchanged."""
        if self.destination is None or prediction.status is not PredictionStatus.SUCCEEDED:
            return prediction
        from airflow_vace.storage.destination import Destination

        destination = Destination.from_json(self.destination)
        files = await save_in_triggerer(hook, prediction, destination, self.log, self.metrics)
        return prediction if files is None else replace(prediction, files=files)

    async def on_kill(self) -> None:
        """Cancel the prediction if a person has ended the task."""
        if not self.cancel_on_kill or self.prediction is None:
            return
        work = acancel_if_ended(self.task_instance, self.prediction, self.vace_conn_id, self.log)
        task = asyncio.create_task(work)
        _cancels.add(task)
        task.add_done_callback(_cancels.discard)
        await asyncio.shield(task)


class VacePredictionStartTrigger(VacePredictionTrigger):
    """Begin a sensor in the triggerer: find the prediction, then wait.

    If only a worker can find the prediction, the event is `{"execute": reason}`.

    :param source: source of the prediction, from :func:`airflow_vace.task.triggerer.source_of`; None for a
        mapped task, whose serialised form has all arguments
    :param timeout: time-out of the sensor, in seconds from the start of the task
    :param end_from_trigger: None ends the task here if the task loses nothing by this
    :param saves: the task saves a file, so a worker must end the task
    :param label: label of the sensor; None passes on the label in the payload
    """

    links = LINKS
    is_deadline_local = True
    # Airflow sets the time at which it ends the wait.
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
        return "airflow_vace.triggers.VacePredictionStartTrigger", self._changed(given)

    def render_template_fields(self, *_: Any, **__: Any) -> None:
        """Render nothing: Airflow never answers some requests of a template here."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            # Airflow sends XComs one by one, slowly at first, so this time is ample.
            async with asyncio.timeout(Timing().max_trigger_search_seconds):
                await self._prepare()
        except Exception as error:  # noqa: BLE001 - after any error a worker begins the task
            reason = excerpt(str(error)) or type(error).__name__
            self.log.info("A worker begins this task: %s", reason)
            yield TriggerEvent({"execute": reason})  # type: ignore[no-untyped-call]
            return
        async for event in super().run():
            if event.payload and isinstance(event.payload, dict):
                event.payload["deadline"] = self.deadline
            yield event

    def _marked(self, prediction: Prediction) -> Prediction:
        return replace(super()._marked(prediction), label=self.label or prediction.label)

    async def _prepare(self) -> None:
        """Find prediction, deadline and place of the end, as a worker would.

        :raises Exception: of any kind, if only a worker can find them
        """
        ti = self.task_instance
        task: Any = self.task
        if ti is None or task is None:
            raise NeedsWorker("this Airflow gives a trigger no task")
        if self.source is None:
            self._take_arguments(task.partial_kwargs)
        if self.label is None and getattr(task, "map_index_template", None) is not None:
            raise NeedsWorker("its label is a template")
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
        """Take the parameters of a mapped sensor from the serialised task.

        :param given: the arguments of `partial`
        :raises NeedsWorker: if only a worker can render them
        """
        if not given.get("deferrable", conf.getboolean("operators", "default_deferrable", fallback=False)):
            raise NeedsWorker("it is not deferrable")
        conn_id: Any = given.get("vace_conn_id")
        self.vace_conn_id = self.vace_conn_id if is_absent(conn_id) else conn_id
        if not is_plain(self.vace_conn_id):
            raise NeedsWorker("its connection is a template")
        self.timeout = seconds(given.get("timeout"), conf.getfloat("sensors", "default_timeout"))
        self.poll_interval = seconds(given.get("poke_interval"), None)
        self.cancel_on_kill = bool(given.get("cancel_on_kill", False))
        self.asked_to_end = given.get("end_from_trigger")
        self.do_xcom_push = bool(given.get("do_xcom_push", True))
        self.saves = not is_absent(given.get("save_to"))
        if not is_plain(given.get("label")):
            raise NeedsWorker("its label is a template")
        self.label = label_text(given.get("label"))
        if given.get("save_in") == "triggerer":
            raise NeedsWorker("it saves in the triggerer, to a place that a worker renders")
