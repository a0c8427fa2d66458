"""The takeover of an earlier attempt's prediction: its deadline, its record, and the log."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import LedgerError
from airflow_vace.submission.decision import Reattach, Return
from airflow_vace.submission.record import Phase

if TYPE_CHECKING:
    from airflow_vace.hooks import VaceHook
    from airflow_vace.submission.decision import Attempt, Policy
    from airflow_vace.submission.ledger import Ledger
    from airflow_vace.submission.order import Order
    from airflow_vace.submission.record import Record


class Takeover:
    """Continues with the prediction of an earlier attempt.

    :param log: the task's log
    """

    def __init__(self, hook: VaceHook, ledger: Ledger, policy: Policy, attempt: Attempt, log: Any) -> None:
        self.hook = hook
        self.ledger = ledger
        self.policy = policy
        self.attempt = attempt
        self.log = log

    def announce(self, record: Record | None) -> None:
        """Log the record of the earlier attempt, if any, and use its clock for deadlines."""
        if record is None:
            return
        if record.phase is Phase.INTENT:
            self.log.warning(
                "An earlier attempt of this task started a request for a prediction at %s, and recorded no"
                " response",
                record.intended_at,
            )
            return
        known = record.known
        # Deadlines count in the server's time, so a clock that has changed since must not cancel early.
        self.hook.clock.agreed = record.offset or 0.0
        self.log.info(
            "An earlier attempt of this task submitted prediction %s at %s (last known: %s)",
            known.id,
            known.created_at or record.intended_at,
            known.status,
        )

    def continue_with(self, step: Reattach | Return, order: Order) -> float:
        """Record this attempt as the owner and return the deadline in seconds since the epoch.

        A raised timeout moves the deadline; otherwise the deadline of the submission stays.
        """
        self._log_reuse(step, order)
        record = step.record
        intended = datetime.fromisoformat(record.intended_at).timestamp() + (record.offset or 0.0)
        deadline = max(record.deadline, intended + self.policy.timeout)
        # Without the new `max_tries`, the next retry would look like a clear, and could pay again.
        taken = replace(record, max_tries=self.attempt.max_tries, deferred=False, deadline=deadline)
        if taken != record:
            with suppress(LedgerError):  # the old record serves the next attempt too
                self.ledger.write(taken)
        grace = self.hook.timing.server_cancel_grace_seconds
        if deadline > record.deadline + grace and self.policy.cancel_on_timeout:
            self.log.warning(
                "The timeout was raised after prediction %s was submitted: a server that heeds Cancel-After"
                " cancels it by the first deadline all the same",
                record.known.id,
            )
        return deadline

    def _log_reuse(self, step: Reattach | Return, order: Order) -> None:
        prediction = step.prediction
        if step.record.fingerprint != order.fingerprint:
            self.log.warning(
                "This attempt has another input than the one before, from which prediction %s was made. The"
                " task continues with that prediction, so nothing is paid twice. A template or a function"
                " must give the same input in each attempt: no clock, no chance, no try_number. Clear the"
                " task to submit the new input; clear it once more if it was cleared while it ran, since"
                " Airflow does not show that to a task.",
                prediction.id,
            )
        if isinstance(step, Return):
            self.log.info(
                "Prediction %s has succeeded: its result is returned, nothing is paid again. To generate"
                " again, start a new DAG run, set reuse=False, or %s",
                prediction.id,
                self.policy.how_to_resubmit,
            )
        elif not prediction.status.is_final:
            self.log.info(
                "Prediction %s is %s: continuing with it. Nothing new is submitted, there is one bill",
                prediction.id,
                prediction.status,
            )
