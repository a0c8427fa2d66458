"""OperatorRun: run of an operator, with claim and deadline."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from airflow_vace.submission.record import Phase
from airflow_vace.task.claim import OperatorClaim
from airflow_vace.task.deadline import Deadline
from airflow_vace.task.run import TaskRun, WaitingTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

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


class OperatorRun(TaskRun):
    """Operator in one process.

    :param task: the operator, with rendered fields
    :param context: Airflow's context of the task instance
    :param claim: the claim of an item of a batch (default: the claim of the task)
    """

    task: SubmittingTask
    claim: OperatorClaim

    def __init__(self, task: SubmittingTask, context: Context, claim: OperatorClaim | None = None) -> None:
        claim = claim or OperatorClaim.of(
            context,
            task.log,
            is_durable=task.durable,
            is_deferrable=task.wait_for_completion and task.deferrable,
        )
        super().__init__(task, context, claim)
        self.deadline = Deadline(self, claim, timeout=task.timeout, cancel_on_timeout=task.cancel_on_timeout)

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
