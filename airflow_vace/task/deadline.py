"""Deadline of an operator: confirmed by a second clock, enforced by a cancel."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_vace.exceptions import PredictionTimeout, VaceError
from airflow_vace.prediction import PredictionStatus

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction
    from airflow_vace.task.claim import OperatorClaim
    from airflow_vace.task.run import TaskRun

# The header `Date` has whole seconds, so two readings of the server's clock differ by up to a second. This
# fact does not scale with the durations of tests.
CLOCK_SLACK_SECONDS = 1.0


class Deadline:
    """Time-out of an operator in the present process.

    :param run: the run of the task
    :param claim: the claim of the task, whose record has the deadline of the latest attempt
    :param timeout: seconds from the submission
    :param cancel_on_timeout: cancel the prediction at the deadline
    """

    def __init__(
        self, run: TaskRun, claim: OperatorClaim, *, timeout: float, cancel_on_timeout: bool
    ) -> None:
        self.was_deferred = False
        self._run = run
        self._claim = claim
        self._timeout = timeout
        self._cancel_on_timeout = cancel_on_timeout
        self._started = time.monotonic()

    def enforce(self, error: PredictionTimeout, deadline: float | None) -> Prediction | None:
        """Cancel the prediction; return a success of the last moment.

        :return: None if no second clock confirms the deadline, and the wait goes on
        :param error: the end of a wait by this machine's clock
        :param deadline: seconds since the epoch by the server's clock; None ends the wait at once
        :raises PredictionTimeout: if the deadline is over
        """
        if self._is_confirmed(deadline):
            return self._cancel_overdue(error, deadline)
        self._run.log.warning(
            "By this machine's clock alone the deadline of prediction %s is over: it is not canceled,"
            " and the task waits on",
            error.prediction.id,
        )
        return None

    def postponed(self, deadline: float | None) -> float | None:
        """Return the deadline to wait on for after :meth:`enforce` has returned None."""
        if self._run.hook.clock.is_known:
            return deadline
        # The server has not shown its clock, so the wait takes its whole time on this machine's.
        return self._run.hook.wall_clock() + self._timeout

    def _is_confirmed(self, deadline: float | None) -> bool:
        """Return True if the server's, a triggerer's or a monotonic clock confirms the deadline."""
        clock = self._run.hook.clock
        self._claim.share_offset(clock)
        if clock.is_known and deadline is not None:
            return clock.confirmed(self._run.hook.wall_clock()) >= deadline - CLOCK_SLACK_SECONDS
        # The clock of the triggerer's machine, or Airflow's, has confirmed the end of a deferral.
        if deadline is None or self.was_deferred:
            return True
        return time.monotonic() - self._started >= self._timeout - CLOCK_SLACK_SECONDS

    def _cancel_overdue(self, error: PredictionTimeout, deadline: float | None) -> Prediction:
        run = self._run
        if not self._cancel_on_timeout:
            raise error
        if not self._claim.is_current(error.prediction, deadline, CLOCK_SLACK_SECONDS):
            run.log.warning(
                "Prediction %s is not canceled: it is not this attempt's any more", error.prediction.id
            )
            raise error
        canceled = run.cancel(error.prediction) if self._claim.may_cancel() else None
        prediction = canceled or error.prediction
        # The prediction may have succeeded while the cancel was on the way, and is a result then.
        if not prediction.status.is_final:
            with suppress(VaceError):
                prediction = run.prediction = prediction.updated(run.hook.get_prediction(prediction))
        if prediction.status is PredictionStatus.SUCCEEDED:
            return prediction
        outcome = "its cancel was accepted" if canceled else "its cancel failed"
        if not self._claim.may_cancel():
            outcome = "it is left running, since it may be another task's"
        raise PredictionTimeout(
            f"Prediction {prediction.id} was not final {self._timeout:g} s after its submission, and"
            f" {outcome}; it is {prediction.status}. {prediction.bill} Raise the timeout if it needs longer.",
            prediction=prediction,
        ) from error
