"""TaskRun: shared state of a task's parts within a process."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from airflow_vace.observability.metrics import TaskMetrics, is_on
from airflow_vace.prediction import first_count
from airflow_vace.task.costs import cost_of, order_cost
from airflow_vace.task.rendering import label_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from threading import Thread

    from airflow.sdk import Context

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.checks import CheckMode, Rule
    from airflow_vace.task.claim import Claim

SaveIn = Literal["worker", "triggerer"]
Reuse = bool | Literal["saved"]


class WaitingTask(Protocol):
    """Common parameters of operator and sensor, after rendering."""

    @property
    def hook(self) -> VaceHook: ...
    @property
    def vace_conn_id(self) -> str: ...
    @property
    def save_to(self) -> Any: ...
    @property
    def save_in(self) -> SaveIn: ...
    @property
    def checks(self) -> CheckMode | None: ...
    @property
    def check(self) -> Rule | None: ...
    @property
    def cancel_on_kill(self) -> bool: ...
    @property
    def end_from_trigger(self) -> bool | None: ...
    @property
    def partition_key(self) -> Any: ...
    @property
    def video_label(self) -> Any: ...
    @property
    def do_xcom_push(self) -> bool: ...
    @property
    def outlets(self) -> list[Any]: ...
    @property
    def map_index_template(self) -> str | None: ...
    @property
    def log(self) -> Any: ...
    def get_template_env(self) -> Any: ...
    def defer(
        self, *, trigger: Any, method_name: str, kwargs: dict[str, Any], timeout: timedelta | None
    ) -> NoReturn: ...


class TaskRun:
    """Task in one process: context, hook and current prediction.

    `prediction` is the latest known state, for links and `on_kill`; `input` the input of the prediction, {}
    if unknown; `recorded_seed` the seed in the ledger; `label` the label of an earlier leg or of the task;
    `reference` a sensor's argument, with a label and a seed of the upstream task. `is_saved` is True after a
    save in the triggerer, and `is_deadline_local` for a deadline by this machine's clock rather than the
    server's. `pushed_status` is the status in the latest snapshot; `cancel_thread` cancels after a kill.
    `waits_since` is the start of the wait in this process, by the server's clock, and `is_end_counted` is
    True once the metrics have the end of the prediction.

    :param task: operator or sensor, with rendered fields
    :param context: Airflow's context of the task instance
    :param claim: the task's right to cancel the prediction
    """

    def __init__(self, task: WaitingTask, context: Context, claim: Claim) -> None:
        self.task = task
        self.context = context
        self.claim = claim
        self.ti: Any = context.get("ti")
        self.log = task.log
        self.prediction: Prediction | None = None
        self.input: Mapping[str, Any] = {}
        self.reference: Prediction | None = None
        self.recorded_seed: int | None = None
        self.label: str | None = None
        self.is_saved = False
        self.is_deadline_local = False
        self.pushed_status: str | None = None
        self.cancel_thread: Thread | None = None
        self.waits_since: float | None = None
        self.is_end_counted = False
        self.metrics = TaskMetrics(self.ti, lambda: self.hook.settings, getattr(task, "model", None))

    @property
    def hook(self) -> VaceHook:
        """Hook of the task's connection."""
        return self.task.hook

    @property
    def try_number(self) -> int | None:
        """Number of the attempt, from 1; None outside of Airflow."""
        return getattr(self.ti, "try_number", None)

    @property
    def max_tries(self) -> int | None:
        """Airflow's limit of retries, greater after a clear; None outside of Airflow."""
        return getattr(self.ti, "max_tries", None)

    @property
    def order_digest(self) -> str | None:
        """Digest of the prediction's order for the manifest, None if unknown."""
        return None

    @property
    def model(self) -> str | None:
        """Model that the task asks for, as `owner/name`; None if unknown."""
        return None

    @property
    def is_last_attempt(self) -> bool:
        """Return True if Airflow does not retry the task any more."""
        tried, limit = self.try_number, self.max_tries
        return isinstance(tried, int) and isinstance(limit, int) and tried > limit

    def now(self) -> float:
        """Return the time by the deadline's clock, in seconds since the epoch."""
        return self.hook.wall_clock() if self.is_deadline_local else self.server_time()

    def server_time(self) -> float:
        """Return the server's time in seconds since the epoch, as far as the clock confirms it."""
        return self.hook.clock.confirmed(self.hook.wall_clock())

    def count_end(self, prediction: Prediction | None) -> None:
        """Count the end of a prediction, once for all attempts with a durable record."""
        # The look into the record may be a request, so it happens for a receiver only.
        if prediction is None or not prediction.status.is_final or self.is_end_counted or not is_on():
            return
        self.is_end_counted = True
        if not prediction.reused and not self.claim.has_settled(prediction):
            self.metrics.ended(replace(prediction, cost=self.cost_of(prediction)))

    def marked(self, prediction: Prediction) -> Prediction:
        """Return a prediction with label, map index, seed and cost."""
        # The vendor knows no labels and may echo no seed, so the payload of the upstream task fills both in.
        if self.reference is not None:
            prediction = self.reference.updated(prediction)
        self.label = self._own_label() or prediction.label
        prediction = replace(prediction, cost=self.cost_of(prediction))
        return replace(
            prediction,
            label=self.label,
            map_index=first_count(getattr(self.ti, "map_index", None)),
            seed=first_count(self.input.get("seed"), prediction.seed, self.recorded_seed),
        )

    def cost_of(self, prediction: Prediction) -> dict[str, Any]:
        """Return the JSON form of the cost of a prediction."""
        # The price of the order stays, whatever the table says now or the back-end returns no more.
        return order_cost(self.reference, prediction) or cost_of(self.hook, prediction, self.input)

    def cancel(self, prediction: Prediction) -> Prediction | None:
        """Cancel a prediction; return the server's answer, None if no cancel was accepted."""
        # A signal may have interrupted a request of the run's own session, so a new session cancels.
        canceled = self.hook.fresh().stop_prediction(prediction)
        self.prediction = canceled or prediction
        self.count_end(self.prediction)
        return canceled

    def _own_label(self) -> str | None:
        """Return the label of the task, of an earlier leg, or of `map_index_template`."""
        label = label_text(self.task.video_label) or self.label
        if label is not None or self.task.map_index_template is None:
            return label
        # Airflow renders the template again after the task and reports its errors, so none is raised here.
        with suppress(Exception):
            template = self.task.get_template_env().from_string(self.task.map_index_template)
            return label_text(template.render(self.context))
        return label_text(getattr(self.ti, "rendered_map_index", None))
