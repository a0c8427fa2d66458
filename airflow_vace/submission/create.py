"""The paid create: the intent, the request, and the meaning of each failure for the bill."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowTaskTimeout

from airflow_vace.exceptions import (
    BudgetExceeded,
    LedgerError,
    SubmissionUnknown,
    VaceError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.submission.connections import account_of, hook_of
from airflow_vace.submission.expense import Expense, check_price
from airflow_vace.submission.ledger import IntentLostError
from airflow_vace.submission.record import Phase, Record, Terms
from airflow_vace.submission.rejected import paid_text, rejection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.core.pricing import Price
    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.submission.decision import Attempt, Policy, Submit
    from airflow_vace.submission.ledger import Ledger
    from airflow_vace.submission.order import Order
    from airflow_vace.submission.rejected import Rejected


_HOW_TO_ACCEPT = "Or accept the last clip with checks='warn' and a clear."


class Creator:
    """Records intents and sends creates.

    `is_submitting` is True during the create. After `is_killed` is set, from any thread, the creator sends
    nothing, and a create that waits for its turn ends within about a second.

    :param log: the task's log
    """

    def __init__(self, hook: VaceHook, ledger: Ledger, policy: Policy, attempt: Attempt, log: Any) -> None:
        self.hook = hook
        self.ledger = ledger
        self.policy = policy
        self.attempt = attempt
        self.log = log
        self.is_submitting = False
        self.is_killed = False

    def cancel_replaced(
        self,
        step: Submit,
        before: Record | None,
        consequence: str = "Submitting a new one, which is billed too.",
    ) -> Prediction | None:
        """Log the reason for another result, and cancel the old prediction if the step says so.

        Return the canceled prediction, None without an accepted cancel.

        :param before: the record of the old prediction
        :param consequence: a sentence about the bill
        :raises LedgerError: if another attempt has taken over; nothing was canceled
        """
        if step.why:
            self.log.warning("%s %s", step.why, consequence)
        if step.cancel is not None and before is not None:
            # Airflow may have given this attempt up, so a cancel could hit the successor's prediction.
            self.ledger.confirm(before)
            return hook_of(before, self.hook).stop_prediction(step.cancel)
        return None

    def latest_version(self, order: Order, before: Record | None) -> str | None:
        """Return the version to send for an order without a version, None for the server's choice.

        A retry stays with the version of the earlier attempt, so a version published since changes nothing.

        :param before: the record of the earlier attempt, None after a clear
        :raises VaceError: if the look-up failed; nothing was submitted
        """
        if order.version is not None:
            return None
        known = before.latest_version_for(order) if before is not None else None
        return known or self.hook.latest_version(order.model)

    def intend(
        self,
        order: Order,
        sent: Mapping[str, Any],
        before: Record | None,
        latest_version: str | None,
        rejected: tuple[Rejected, ...] = (),
    ) -> Record:
        """Record and return the intent to submit an order.

        :param sent: the input with URLs in place of paths
        :param before: the record to replace
        :param latest_version: see :meth:`latest_version`
        :param rejected: the clips in whose place the prediction is made
        :raises BudgetExceeded: if the create would pass a cap
        :raises VideoRejected: likewise, after a rejected clip
        :raises VaceInputError: for a table of prices that is none, and for a cap without a price
        :raises LedgerError: if the intent is not stored; nothing was submitted
        """
        now = self.hook.wall_clock()
        terms = Terms(
            now=now,
            deadline=now + self.policy.timeout,
            max_tries=self.attempt.max_tries,
            account=account_of(self.hook),
            latest_version=latest_version,
            expense=self.expense(order, sent, before, latest_version),
        )
        intent = Record.of(order, terms, before=before, sent=sent, rejected=rejected)
        try:
            self.ledger.intend(intent, before)
        except BudgetExceeded as error:
            is_after_rejection = before is not None and before.phase is Phase.SETTLED
            if before is None or not is_after_rejection or rejected[-1:] != (before.as_rejected(),):
                raise
            paid = paid_text(None if before.expense is None else before.expense.cost())
            raise rejection(before.known, rejected, paid, f"{error} {_HOW_TO_ACCEPT}") from error
        return intent

    def expense(
        self, order: Order, sent: Mapping[str, Any], before: Record | None, latest_version: str | None
    ) -> Expense | None:
        """Return the expense of a create, None without a price; for the arguments see :meth:`intend`.

        :raises VaceInputError: for a table of prices that is none, and for a cap without a price
        """
        spending = self.ledger.spending
        price = self.hook.pricing.price_of(order.model, order.version or latest_version, sent)
        if spending.is_limited:
            price = check_price(price, order.model)
        if price is None:
            return None
        earlier = None if before is None else before.expense or _unpriced_expense(before, price)
        longest = spending.longest or (earlier.longest if earlier is not None else None)
        return Expense.following(earlier, price, longest or self.policy.timeout)

    def submit(
        self, sent: Mapping[str, Any], intent: Record, before: Record | None, *, is_last: bool
    ) -> Prediction | None:
        """Create the prediction of an intent; return None for a lost create that can be searched for.

        :param sent: the input with URLs in place of paths
        :param before: the record to restore after a certain refusal
        :param is_last: raise instead of returning None
        :raises SubmissionUnknown: if a prediction may exist
        :raises VaceError: if no prediction exists
        """
        try:
            return self._create(intent.seeded(sent), intent)
        except (SubmissionUnknown, VaceProtocolError) as error:
            if self._can_search_after(error) and not is_last:
                self.log.warning("%s", error)
                return None
            if isinstance(error, VaceProtocolError) or not self.ledger.is_durable:
                raise
            raise self._with_advice(error) from error.__cause__
        except IntentLostError:
            raise  # the record belongs to another attempt, so a withdrawal would destroy it
        except (AirflowTaskTimeout, Exception):
            self._withdraw(before)
            raise

    def _create(self, values: Mapping[str, Any], intent: Record) -> Prediction:
        # The calls import the whole wire, and DAG parsing imports this module.
        from airflow_vace.core.calls import Creation

        self._check_alive()
        # The server cancels by itself some time after this task would have, in case the task has died.
        deadline = intent.deadline + self.hook.timing.server_cancel_grace_seconds
        self.is_submitting = True
        try:
            creation = Creation(
                values=values,
                model=intent.model,
                version=intent.version or intent.latest_version or "",
                deadline=deadline if self.policy.cancel_on_timeout else None,
                is_normalized=True,
            )
            return self.hook.submit(creation, lambda: self._check_may_resend(intent), self._check_alive)
        # These errors already say whether the create was accepted, so no translation follows.
        except (VaceError, AirflowException):
            raise
        except (AirflowTaskTimeout, Exception) as error:
            # Between two tries no request is open, so nothing can have been accepted.
            if not self.hook.client.is_create_open:
                raise
            raise SubmissionUnknown(
                f"{type(error).__name__} ended the request for a prediction before its response was read. The"
                " prediction may be running under an unknown id, and be billed: check the vendor's list of"
                " predictions before running the task again."
            ) from error
        finally:
            self.is_submitting = False

    def _check_alive(self) -> None:
        if self.is_killed:
            raise VaceTransportError(
                "The task was killed before it sent the request for a prediction; nothing was submitted",
                sent=False,
            )

    def _check_may_resend(self, intent: Record) -> None:
        """Raise if a refused create no longer belongs to this attempt."""
        self._check_alive()
        # During a long rate limit Airflow may start another attempt, so the owner is read again.
        self.ledger.confirm(intent)

    def _can_search_after(self, error: SubmissionUnknown | VaceProtocolError) -> bool:
        if not (self.ledger.is_durable and self.hook.lists_predictions):
            return False
        # A surprise such as a timeout of the task leaves no time for a search, so a retry searches.
        return isinstance(error, VaceProtocolError) or isinstance(error.__cause__, VaceError)

    def _with_advice(self, error: SubmissionUnknown) -> SubmissionUnknown:
        return SubmissionUnknown(
            f"{error} {self.policy.how_to_continue}",
            status_code=error.status_code,
            may_be_retried=self.hook.lists_predictions or self.policy.on_orphaned_intent == "resubmit",
        )

    def _withdraw(self, before: Record | None) -> None:
        try:
            self.ledger.withdraw(before)
            self.ledger.spending.publish()
        except LedgerError as error:
            self.log.warning("%s: a retry will search for a prediction that was never accepted", error)


def _unpriced_expense(record: Record, price: Price) -> Expense | None:
    """Return the expense of predictions that were submitted before a price was set, None without any."""
    unpriced = sum(clip.cost is None for clip in record.rejected)
    least = price.of_seconds(0).amount or Decimal()
    earlier = Expense(
        price=price, charged=Decimal(), earlier=least * unpriced, has_unknown=unpriced > 0 and not least
    )
    if record.phase is Phase.INTENT:
        return earlier if unpriced else None
    return replace(earlier, charged=None, reserved=least).settled(record.known)
