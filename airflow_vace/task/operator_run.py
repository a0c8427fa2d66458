"""OperatorRun: run of an operator, with claim and deadline."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow_vace.core.names import split_reference
from airflow_vace.submission.record import Phase
from airflow_vace.task.claim import OperatorClaim
from airflow_vace.task.deadline import Deadline
from airflow_vace.task.errors import translated
from airflow_vace.task.run import TaskRun, WaitingTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.submission.decision import OnOrphanedIntent
    from airflow_vace.task.run import Reuse


class SubmittingTask(WaitingTask, Protocol):
    """The operator's further parameters."""

    @property
    def input(self) -> Mapping[str, Any] | str: ...
    @property
    def model(self) -> str | None: ...
    @property
    def version(self) -> str | None: ...
    @property
    def arguments_digest(self) -> str | None: ...
    @property
    def poll_interval(self) -> float | None: ...
    @property
    def reuse(self) -> Reuse: ...
    @property
    def on_orphaned_intent(self) -> OnOrphanedIntent: ...
    @property
    def durable(self) -> bool: ...
    @property
    def wait_for_completion(self) -> bool: ...
    @property
    def deferrable(self) -> bool: ...
    @property
    def timeout(self) -> float: ...
    @property
    def cancel_on_timeout(self) -> bool: ...
    @property
    def max_cost(self) -> object: ...
    @property
    def max_regenerations(self) -> int | None: ...
    @property
    def is_dry_run(self) -> object: ...


class OrderingTask(Protocol):
    """The parameters that name a model."""

    @property
    def hook(self) -> VaceHook: ...
    @property
    def model(self) -> str | None: ...
    @property
    def version(self) -> str | None: ...


def model_of(task: OrderingTask) -> str | None:
    """Return the model that a task asks for, as `owner/name`; None if unknown."""
    # The model serves the checks of a paid video, so no error may cost the video.
    with suppress(Exception):
        model, _ = split_reference(task.model or None, task.version or None)
        return model or task.hook.settings.model
    return None


class OperatorRun(TaskRun):
    """Operator in one process.

    :param task: the operator, with rendered fields
    :param context: Airflow's context of the task instance
    :param claim: the claim of an item of a batch (default: the claim of the task)
    """

    task: SubmittingTask
    claim: OperatorClaim

    def __init__(self, task: SubmittingTask, context: Context, claim: OperatorClaim | None = None) -> None:
        with translated():
            claim = claim or OperatorClaim.of(
                context,
                task.log,
                is_durable=task.durable,
                is_deferrable=task.wait_for_completion and task.deferrable,
                max_cost=task.max_cost,
            )
        super().__init__(task, context, claim)
        self.deadline = self._new_deadline()

    def _new_deadline(self) -> Deadline:
        task = self.task
        return Deadline(self, self.claim, timeout=task.timeout, cancel_on_timeout=task.cancel_on_timeout)

    def begin_again(self) -> None:
        """Forget the prediction, after its video was rejected; the claim stays."""
        self.prediction, self.input, self.recorded_seed = None, {}, None
        self.is_saved = self.is_end_counted = False
        self.pushed_status = self.waits_since = None
        self.deadline = self._new_deadline()

    def marked(self, prediction: Prediction) -> Prediction:
        marked = super().marked(prediction)
        with suppress(Exception):  # rejected clips describe the video, so no error may cost the video
            record = None if prediction.reused else self.claim.ledger.latest
            if record is None or prediction.id in record.earlier:
                return marked
            # After a failed write the intent is the latest record of the prediction.
            if record.phase is Phase.INTENT or record.known.id == prediction.id:
                return replace(marked, rejected=[clip.as_json() for clip in record.rejected])
        return marked

    def cost_of(self, prediction: Prediction) -> dict[str, Any]:
        record = None
        with suppress(Exception):  # a cost describes the video, so no error may cost the video
            record = self.claim.ledger.latest
        if prediction.reused:
            cost = super().cost_of(prediction)
            # The record is of an earlier prediction of the task, which is paid all the same.
            return cost if record is None or record.expense is None else record.expense.beside(cost)
        if record is None or record.phase is Phase.INTENT or record.known.id != prediction.id:
            return super().cost_of(prediction)
        # The price at the submission applies, whatever the table says now.
        expense = record.expense_after(prediction)
        return super().cost_of(prediction) if expense is None else expense.cost()

    @property
    def model(self) -> str | None:
        return model_of(self.task)

    @property
    def order_digest(self) -> str | None:
        # Before the submission the record may be of an earlier prediction, and a read costs a request.
        if self.prediction is None:
            return None
        # The digest serves later runs only, so no error may cost the video.
        with suppress(Exception):
            record = self.claim.ledger.latest
            if record is not None and record.phase is not Phase.INTENT:
                return record.order_digest if record.known.id == self.prediction.id else None
        return None
