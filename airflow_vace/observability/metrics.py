"""Metrics by Airflow's `Stats`, for StatsD, DogStatsD or OpenTelemetry.

Airflow's section `[metrics]` chooses the receiver. Without a receiver a call returns after a look at a cached
setting. `docs/metrics.md` lists :data:`METRICS`, and describes each.
"""

from __future__ import annotations

import logging
import re
import socket
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, assert_never

from airflow_vace.client.meter import Meter
from airflow_vace.core.pricing import read_amount, run_seconds
from airflow_vace.prediction import latest_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_vace.client.settings import Settings
    from airflow_vace.prediction import Prediction

log = logging.getLogger(__name__)

# InfluxDB's and Datadog's forms of a tag separate by these characters, so a value must not contain them.
_UNSAFE = re.compile(r"[^\w./-]")
_MAX_TAG_LENGTH = 100


class Kind(StrEnum):
    """The types of metrics; a timer has milliseconds, as Airflow's own."""

    COUNTER = "counter"
    GAUGE = "gauge"
    TIMER = "timer"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, with the names of the tags."""

    name: str
    kind: Kind
    tags: tuple[str, ...]


_TASK = ("dag_id", "task_id", "model", "backend")

SUBMITTED = Metric("vace.submitted", Kind.COUNTER, _TASK)
REATTACHED = Metric("vace.reattached", Kind.COUNTER, _TASK)
REUSED = Metric("vace.reused", Kind.COUNTER, _TASK)
ENDED = Metric("vace.ended", Kind.COUNTER, (*_TASK, "status"))
COST = Metric("vace.cost_micros", Kind.COUNTER, (*_TASK, "currency"))
QUEUED = Metric("vace.queue_duration", Kind.TIMER, _TASK)
RAN = Metric("vace.run_duration", Kind.TIMER, _TASK)
NOTICED = Metric("vace.notice_delay", Kind.TIMER, _TASK)
SAVED = Metric("vace.saved_bytes", Kind.COUNTER, _TASK)
POLLS = Metric("vace.polls", Kind.COUNTER, ("backend", "verb"))
RATE_LIMITED = Metric("vace.rate_limited", Kind.COUNTER, ("backend", "verb"))
OPEN_WAITS = Metric("vace.open_waits", Kind.GAUGE, ("conn_id", "hostname"))

METRICS = (
    *(SUBMITTED, REATTACHED, REUSED, ENDED, COST, QUEUED, RAN),
    *(NOTICED, SAVED, POLLS, RATE_LIMITED, OPEN_WAITS),
)


@cache
def is_on() -> bool:
    """Return True if Airflow has a receiver of metrics; read once in a process."""
    from airflow.providers.common.compat.sdk import conf

    names = ("statsd_on", "statsd_datadog_enabled", "otel_on")
    return any(conf.getboolean("metrics", name, fallback=False) for name in names)


def emit(metric: Metric, value: float = 1, **tags: str) -> None:
    """Send a value to the receiver; no error of a receiver reaches a task.

    :param value: a count, a level, or for a timer seconds
    :param tags: values of the metric's tags; empty values are left out
    """
    if not is_on():
        return
    from airflow.providers.common.compat.sdk import Stats

    known = {name: _UNSAFE.sub("_", tags[name])[:_MAX_TAG_LENGTH] for name in metric.tags if tags.get(name)}
    try:
        match metric.kind:
            case Kind.COUNTER:
                Stats.incr(metric.name, int(value), tags=known)
            case Kind.GAUGE:
                Stats.gauge(metric.name, value, tags=known)
            case Kind.TIMER:
                Stats.timing(metric.name, timedelta(seconds=value), tags=known)
            case _:
                assert_never(metric.kind)
    except Exception as error:  # noqa: BLE001 - a custom receiver may raise anything, and metrics are optional
        log.debug("The metric %s was not sent: %s", metric.name, error)


class TaskMetrics:
    """Metrics of one task instance.

    :param ti: the task instance, None outside of Airflow
    :param settings: returns the connection's settings, None if unknown; called only for a receiver
    :param model: the author's model, None for the prediction's or the connection's
    """

    def __init__(self, ti: Any, settings: Callable[[], Settings | None], model: str | None = None) -> None:
        self._ti = ti
        self._settings = settings
        self._model = model

    def submitted(self) -> None:
        """Count a create that the server has accepted."""
        self._emit(SUBMITTED)

    def reattached(self) -> None:
        """Count an attempt that goes on with a prediction of an earlier attempt."""
        self._emit(REATTACHED)

    def reused(self) -> None:
        """Count a saved file in place of a create."""
        self._emit(REUSED)

    def ended(self, prediction: Prediction) -> None:
        """Count a final prediction by status, with cost and times of queue and run as far as known."""
        if not is_on():
            return
        self._emit(ENDED, prediction=prediction, status=str(prediction.status))
        cost = prediction.cost or {}
        if (amount := read_amount(cost.get("amount"))) is not None:
            # Some receivers cut counters to whole numbers, so the unit is a millionth.
            self._emit(COST, int(amount * 1_000_000), prediction, currency=cost.get("currency") or "")
        if (seconds := queue_seconds(prediction)) is not None:
            self._emit(QUEUED, seconds, prediction)
        if (seconds := run_seconds(prediction)) is not None:
            self._emit(RAN, seconds, prediction)

    def noticed(self, prediction: Prediction, since: float, now: float) -> None:
        """Measure the delay between the end of a prediction and its notice.

        An end before the wait, or at an unknown time, says nothing about the wait and is left out.

        :param since: start of the wait, in seconds since the epoch by the server's clock
        :param now: time of the notice, by the same clock
        """
        if not is_on():
            return
        ended = parse_time(prediction.completed_at)
        # A time without a zone may be any zone's, so a delay from there could be wrong by hours.
        if not prediction.status.is_final or ended is None or ended != latest_time(prediction.completed_at):
            return
        if ended.timestamp() >= since:
            self._emit(NOTICED, max(now - ended.timestamp(), 0.0), prediction)

    def saved(self, files: Sequence[dict[str, Any]], prediction: Prediction) -> None:
        """Count the bytes of saved files."""
        if is_on():
            self._emit(SAVED, sum(file.get("size") or 0 for file in files), prediction)

    def _emit(
        self, metric: Metric, value: float = 1, prediction: Prediction | None = None, **tags: str
    ) -> None:
        if is_on():
            emit(metric, value, **self.labels(prediction), **tags)

    def labels(self, prediction: Prediction | None) -> dict[str, str]:
        """Return DAG, task, model and back-end by the names of tags; an empty text if unknown."""
        settings = self._settings()
        model = self._model or (prediction and prediction.model) or (settings and settings.model) or ""
        return {
            "dag_id": getattr(self._ti, "dag_id", None) or "",
            "task_id": getattr(self._ti, "task_id", None) or "",
            "model": model.partition(":")[0],
            "backend": settings.api.backend.name if settings is not None else "",
        }


class RequestMeter(Meter):
    """Counts polls and refusals for lack of room (429)."""

    def sent(self, backend: str, verb: str) -> None:
        if verb in ("get", "list"):
            emit(POLLS, backend=backend, verb=verb)

    def answered(self, backend: str, verb: str, status: int) -> None:
        if status == 429:
            emit(RATE_LIMITED, backend=backend, verb=verb)


class TriggererMeter(RequestMeter):
    """The same, with the open waits of a connection in this triggerer."""

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id

    def waits(self, count: int) -> None:
        emit(OPEN_WAITS, count, conn_id=self._conn_id, hostname=_hostname())


@cache
def _hostname() -> str:
    return socket.gethostname()


def queue_seconds(prediction: Prediction) -> float | None:
    """Return the seconds from the create to the start of the run; None if unknown."""
    start, end = parse_time(prediction.created_at), parse_time(prediction.started_at)
    if start is None or end is None or end < start:
        return None
    return (end - start).total_seconds()
