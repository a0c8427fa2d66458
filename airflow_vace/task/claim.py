"""Claim of a task to a prediction: right to cancel, record for later attempts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from airflow_vace.exceptions import LedgerError, VaceError
from airflow_vace.submission.ledger import AttemptLedger, Ledger
from airflow_vace.submission.record import Phase
from airflow_vace.task.budget import spending_of
from airflow_vace.task.state import is_test_of_a_task

if TYPE_CHECKING:
    from airflow_vace.core.clock import Clock
    from airflow_vace.prediction import Prediction
    from airflow_vace.submission.submitter import Submission


class Claim(Protocol):
    """Conditions of a cancel.

    `owns_prediction` is True for the task that has submitted the prediction.
    """

    @property
    def owns_prediction(self) -> bool: ...

    def may_cancel(self) -> bool:
        """Return True unless the prediction is, or may be, another task's."""

    def is_known_to_retry(self) -> bool:
        """Return True if a later attempt would go on with the prediction."""

    def has_settled(self, prediction: Prediction) -> bool:
        """Return True if an earlier attempt has recorded the end of the prediction."""

    def stop_submitting(self) -> Prediction | None:
        """Send no create from now on; return the prediction submitted so far, or None."""


class SensorClaim:
    """The claim of a sensor, whose prediction another task has submitted."""

    owns_prediction = False

    def __init__(self, ti: Any) -> None:
        self._ti = ti

    def may_cancel(self) -> bool:
        return not is_test_of_a_task()

    def is_known_to_retry(self) -> bool:
        return self._ti is not None

    def has_settled(self, prediction: Prediction) -> bool:
        del prediction  # a sensor keeps no record
        return False

    def stop_submitting(self) -> None:
        return None


class OperatorClaim:
    """Claim of an operator, by the record in the ledger.

    `submission` is None in a process that has submitted nothing, after a deferral. `is_stopped` is True after
    a kill; no create follows then.

    :param ledger: the record of the task, for all attempts or for one
    :param ti: the task instance, None outside of Airflow
    :param log: the task's log
    """

    owns_prediction = True

    def __init__(self, ledger: Ledger, ti: Any, log: Any) -> None:
        self.ledger = ledger
        self.submission: Submission | None = None
        self.is_stopped = False
        self._ti = ti
        self._log = log

    @classmethod
    def of(
        cls, context: Any, log: Any, *, is_durable: bool, is_deferrable: bool, max_cost: object = None
    ) -> OperatorClaim:
        """Return a claim with the most durable ledger at hand.

        :param max_cost: the author's cap, rendered
        :raises VaceInputError: for a cap that is no amount
        """
        spending = spending_of(max_cost, context)
        ti, store = context.get("ti"), context.get("task_state_store")
        if is_test_of_a_task():
            # The state store may be that of a real run, whose record must stay as it is.
            return cls(AttemptLedger(None, spending), ti, log)
        if is_durable and store is not None:
            return cls(Ledger(store, spending), ti, log)
        return cls(AttemptLedger(ti if is_deferrable else None, spending), ti, log)

    @property
    def is_durable(self) -> bool:
        """True if later attempts read the same ledger."""
        return self.ledger.is_durable

    @property
    def is_recorded(self) -> bool:
        """True unless the store has refused the record of the prediction."""
        return self.submission is None or self.submission.is_recorded

    def may_cancel(self) -> bool:
        if self.submission is not None:
            return self.submission.is_own
        try:
            record = self.ledger.latest
        except LedgerError:
            # An unread record may say that the prediction is another task's, so nothing is canceled.
            return False
        return record is None or record.is_own

    def is_known_to_retry(self) -> bool:
        return self.is_durable and self.is_recorded and self._ti is not None

    def has_settled(self, prediction: Prediction) -> bool:
        with suppress(LedgerError):
            record = self.ledger.latest
            return record is not None and record.phase is Phase.SETTLED and record.known.id == prediction.id
        return False

    def stop_submitting(self) -> Prediction | None:
        self.is_stopped = True
        submission = self.submission
        if submission is None:
            return None
        submission.is_killed = True
        if submission.prediction is None and submission.is_submitting:
            self._log.warning(
                "Killed before there was a prediction: one may have been accepted at this moment, and is"
                " then billed, unless its answer still comes in time to cancel it"
            )
        return submission.prediction

    def is_current(self, prediction: Prediction, deadline: float | None, slack: float) -> bool:
        """Return False if the record is gone or another attempt's.

        :param deadline: of this attempt; a later deadline in the record is another attempt's
        :param slack: seconds by which two readings of one clock may differ
        :raises LedgerError: if the record could not be read; a retry cancels then
        """
        if not self.is_durable or not self.is_recorded:
            return True
        record = self.ledger.read()
        if record is None or record.phase is Phase.INTENT or record.known.id != prediction.id:
            return False
        # A later attempt with a greater time-out has moved the deadline, and waits on.
        return deadline is None or record.deadline <= deadline + slack

    def is_younger_than(self, seconds: float, now: float) -> bool:
        """Return True if this task has submitted the prediction within this time.

        :param now: by the clock of this machine, in seconds since the epoch
        """
        with suppress(VaceError, ValueError):
            record = self.ledger.latest
            if record is not None and record.is_own:
                return now - datetime.fromisoformat(record.intended_at).timestamp() < seconds
        return False

    def share_offset(self, clock: Clock) -> None:
        """Give a clock the offset at the submission, if another process has submitted."""
        if self.submission is None:
            with suppress(LedgerError):
                record = self.ledger.latest
                clock.agreed = None if record is None else record.offset or 0.0

    def note_deferred(self, prediction: Prediction, *, is_deferred: bool) -> None:
        """Record the start, or the end, of a wait in the triggerer.

        A task without retries needs no such note, because a person has caused each later attempt.
        """
        try:
            record = self.ledger.latest
            if record is None or record.phase is not Phase.SUBMITTED or not self.is_durable:
                return
            if record.known.id != prediction.id or not record.max_tries or record.deferred == is_deferred:
                return
            self.ledger.write(replace(record, deferred=is_deferred))
        except LedgerError as error:
            self._log.warning("%s", error)

    def settle(self, prediction: Prediction | None) -> None:
        """Record the end of a prediction for later attempts.

        A running prediction and a reused file change nothing, and an error of the store is logged.
        """
        # The prediction of a reused file is another task's, so this ledger has no record of it.
        if prediction is None or not prediction.status.is_final or prediction.reused:
            return
        if self.ledger.keeps_ends:
            self._settle(prediction)

    def settle_rejected(self, prediction: Prediction) -> None:
        """Record a success whose video has problems, before another prediction takes its place.

        :raises LedgerError: if the ledger has no such record afterwards
        """
        self._settle(prediction)
        if not self.has_settled(prediction):
            raise LedgerError(
                f"The video of prediction {prediction.id} has problems, and this could not be recorded."
                " Nothing was submitted since; a retry goes on, and pays nothing twice."
            )

    def _settle(self, prediction: Prediction) -> None:
        try:
            # Another attempt may have taken over during the wait, so the record is read again: to
            # overwrite a new intent would lose a create that is billed.
            record = self.ledger.read()
            if record is None:
                return
            if record.phase is Phase.INTENT and prediction.id not in record.earlier:
                record = record.submitted(prediction)
            # The intent of an attempt that has taken over stays as it is.
            if record.phase is Phase.INTENT:
                return
            if record.known.id == prediction.id:
                self.ledger.write(record.settled(prediction))
                self.ledger.spending.publish()
        except LedgerError as error:
            self._log.warning("The end of prediction %s was not recorded: %s", prediction.id, error)
