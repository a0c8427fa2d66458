"""The submitter: carries out decisions until a task has exactly one prediction for an order."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, assert_never

from airflow_vace.exceptions import LedgerError
from airflow_vace.prediction import Prediction
from airflow_vace.submission.connections import hook_of, leads_to_account_of
from airflow_vace.submission.create import Creator
from airflow_vace.submission.decision import (
    Adopt,
    Attempt,
    Gone,
    Listed,
    Poll,
    Reattach,
    Refuse,
    Return,
    Search,
    Situation,
    Submit,
    decide,
)
from airflow_vace.submission.poll import EarlierPrediction
from airflow_vace.submission.record import Phase
from airflow_vace.submission.search import CreateSearch
from airflow_vace.submission.takeover import Takeover

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_vace.hooks import VaceHook
    from airflow_vace.submission.decision import Evidence, Policy, Step
    from airflow_vace.submission.ledger import Ledger
    from airflow_vace.submission.order import Order
    from airflow_vace.submission.record import Record


class Origin(Enum):
    """Origins of a task's prediction.

    `CREATED` is a create of this attempt, or the found create of an earlier one. `KEPT` is a prediction of an
    earlier attempt, `RETURNED` a success that a cleared task gets again, and `REUSED` a saved file.
    """

    CREATED = auto()
    KEPT = auto()
    RETURNED = auto()
    REUSED = auto()


def _unchanged(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values


def _no_files(_: str) -> None:
    return None


def _nothing_saved(_: Record) -> None:
    return None


def _nothing_reusable(order: Order) -> tuple[Order, None]:
    return order, None


class Submission:
    """One attempt of a task to have exactly one prediction for an order.

    `prediction` is set as soon as the prediction is known, for a cancel by a signal handler; `order` is the
    latest order of the attempt. `is_recorded` is True if another attempt would find the prediction in the
    ledger. `is_own` is False for a prediction that may belong to another task, with no cancel allowed.
    `origin` says how the task came to the prediction.

    :param hook: the hook of the order's connection
    :param ledger: the records of earlier attempts
    :param policy: the author's rules about money
    :param log: the task's log
    :param reachable: replaces paths in an input by URLs, immediately before the create, since URLs may expire
    :param saved: returns the files of a prediction's id at their final places, None without files
    :param attempt: Airflow's numbers of the attempt (default: unknown)
    :param saved_of: returns the saved success of an intent's create, None without one
    :param reusable: returns the order with its digest, and the saved success of an equal order, or None
    """

    def __init__(  # noqa: PLR0913 - the parts of an attempt
        self,
        hook: VaceHook,
        ledger: Ledger,
        policy: Policy,
        *,
        log: Any,
        reachable: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _unchanged,
        saved: Callable[[str], list[dict[str, Any]] | None] = _no_files,
        attempt: Attempt | None = None,
        saved_of: Callable[[Record], Prediction | None] = _nothing_saved,
        reusable: Callable[[Order], tuple[Order, Prediction | None]] = _nothing_reusable,
    ) -> None:
        self.hook = hook
        self.ledger = ledger
        self.policy = policy
        self.log = log
        self.reachable = reachable
        self.attempt = attempt or Attempt()
        self.saved_of = saved_of
        self.reusable = reusable
        self.prediction: Prediction | None = None
        self.order: Order | None = None
        self.is_recorded = True
        self.is_own = True
        self.origin = Origin.CREATED
        self._creator = Creator(hook, ledger, policy, self.attempt, log)
        self._search = CreateSearch(hook, log)
        self._earlier = EarlierPrediction(hook, saved, log)
        self._takeover = Takeover(hook, ledger, policy, self.attempt, log)
        self._has_intended = False

    @property
    def is_submitting(self) -> bool:
        """Return True during the create."""
        return self._creator.is_submitting

    @property
    def is_killed(self) -> bool:
        """Return True after a kill; no create follows."""
        return self._creator.is_killed

    @is_killed.setter
    def is_killed(self, value: bool) -> None:
        self._creator.is_killed = value

    def prediction_of(self, order_since: Callable[[Record | None], Order]) -> tuple[Prediction, float]:
        """Return the order's prediction, existing or new, and the deadline in seconds since the epoch.

        An existing prediction keeps the deadline of its submission, unless the timeout was raised since. A
        prediction in the ledger is paid for and may run, so a saved file of another task comes second.

        :param order_since: makes the order; connection defaults come from the given record, if any
        :raises LedgerError: if the record is unreadable; nothing was submitted
        :raises SubmissionUnknown: if a prediction may exist that no search can find
        :raises VideoRejected: if a cap has no room for another prediction after a rejected clip
        :raises VaceError: if a poll or the create failed
        """
        record = self.ledger.read()
        order = self.order = order_since(record)
        evidence: Evidence = None
        lost_creates, is_adopted = 0, False
        self._takeover.announce(record)
        while True:
            step = self._next_step(record, order, evidence, is_adopted=is_adopted)
            match step:
                case Submit():
                    order, known, saved = self._renewed(order_since, order, record)
                    if saved is not None:
                        self._creator.cancel_replaced(step, record, "A saved file is the result, at no cost.")
                        self.prediction, self.is_own, self.origin = saved, False, Origin.REUSED
                        return saved, self.hook.wall_clock()
                    version = self._creator.latest_version(order, known)
                    sent = self.reachable(order.values)
                    canceled = self._creator.cancel_replaced(step, record)
                    # From here on a kill must not cancel the old prediction in place of the new.
                    self.prediction = None
                    before = record if record is None else _closed(record, canceled or evidence)
                    record = self._creator.intend(order, sent, before, version, step.rejected)
                    self.is_own = self._has_intended = True
                    evidence, is_adopted = None, False
                    lost_creates += 1
                    is_last = lost_creates >= self.hook.timing.max_lost_creates
                    self.prediction = self._creator.submit(sent, record, before, is_last=is_last)
                    if self.prediction is not None:
                        return self.prediction, self._record_submitted(record, self.prediction)
                case Poll(prediction):
                    # A kill during the poll cancels this prediction, so the assignment comes first.
                    self.prediction, self.is_own = prediction, record is None or record.is_own
                    evidence = self._earlier.poll(prediction)
                case Search(intent):
                    evidence = self._searched(intent)
                case Adopt(intent, prediction, others):
                    record, evidence = self._adopt(intent, prediction, others), prediction
                    is_adopted = True
                case Reattach(found, prediction) | Return(found, prediction):
                    self.is_own = found.is_own
                    self.origin = self._origin_of(step, is_adopted=is_adopted)
                    return prediction, self._takeover.continue_with(step, order)
                case Refuse(error):
                    raise error
                case _:
                    assert_never(step)

    def _searched(self, intent: Record) -> Listed:
        """Search the list for a lost create; without a list, the place of its video."""
        listed = self._search.search(intent)
        # An attempt whose records were out of reach may have saved the video all the same.
        if listed.found is None and (saved := self.saved_of(intent)) is not None:
            return Listed(found=(saved,))
        return listed

    # --- deciding ----------------------------------------------------------------------------------

    def _next_step(
        self, record: Record | None, order: Order, evidence: Evidence, *, is_adopted: bool
    ) -> Step:
        now = self._confirmed_now()
        is_cleared = record is None or self._is_cleared(record, evidence, now)
        situation = Situation(
            fingerprint=order.fingerprint,
            now=now,
            policy=self.policy,
            is_cleared=is_cleared,
            may_differ=record is not None and not is_cleared and _is_same_wish(record, order),
            is_adopted=is_adopted,
            can_deny=record is None
            or not isinstance(evidence, Gone)
            or leads_to_account_of(record, self.hook),
        )
        return decide(record, evidence, situation)

    def _is_cleared(self, record: Record, evidence: Evidence, now: float) -> bool:
        """Return True if a person has asked for this attempt.

        A wait in the triggerer ends only with the prediction or at the deadline. An attempt before that end
        proves a clear, since Airflow keeps `max_tries` in a clear of a running task.
        """
        is_running = isinstance(evidence, Prediction) and not evidence.status.is_final
        if record.deferred and is_running and now < record.deadline:
            return True
        # This attempt's intent already answers the clear, so later steps express no new wish.
        return not self._has_intended and self.attempt.is_cleared_since(record)

    def _renewed(
        self, order_since: Callable[[Record | None], Order], order: Order, before: Record | None
    ) -> tuple[Order, Record | None, Prediction | None]:
        """Return the order, the record whose looked-up version applies, and a saved success.

        After a clear, the connection's current defaults and the model's present version apply.
        """
        if before is not None and not self._has_intended and self.attempt.is_cleared_since(before):
            order, before = order_since(None), None
        # A digest from after the upload could name a newer source file than that of the video, and a later
        # run would then get the video of the old file.
        self.order, saved = self.reusable(order)
        return self.order, before, saved

    def _origin_of(self, step: Reattach | Return, *, is_adopted: bool) -> Origin:
        if is_adopted:
            return Origin.CREATED
        is_returned = isinstance(step, Return) and self.attempt.is_cleared_since(step.record)
        return Origin.RETURNED if is_returned else Origin.KEPT

    def _confirmed_now(self) -> float:
        return self.hook.clock.confirmed(self.hook.wall_clock())

    # --- submitting --------------------------------------------------------------------------------

    def _record_submitted(self, intent: Record, prediction: Prediction) -> float:
        """Record a new prediction and return its deadline in the server's time."""
        seed = "" if intent.seed is None else f", seed {intent.seed}"
        self.log.info(
            "Submitted prediction %s of %s (%s%s)", prediction.id, intent.model, prediction.status, seed
        )
        clock = self.hook.clock
        # All machines share the server's time, so the deadline is stored in that time.
        clock.agreed = clock.offset
        deadline = clock.at_server(intent.deadline)
        self._write(replace(intent.submitted(prediction), deadline=deadline, offset=clock.offset))
        return deadline

    def _adopt(self, intent: Record, prediction: Prediction, others: tuple[Prediction, ...]) -> Record:
        """Record the found prediction of a lost create, and cancel duplicates."""
        self.log.warning(
            "The lost request was accepted: prediction %s, %s, has its input and time, and is this task's",
            prediction.id,
            prediction.status,
        )
        expense = intent.expense
        for other in others:
            self.log.warning("Prediction %s is a duplicate from the same create", other.id)
            canceled = hook_of(intent, self.hook).stop_prediction(other)
            if expense is not None:
                # The duplicate is billed too, and nobody would have to pay more than was reserved for one.
                charged = expense.price.charge(canceled or other).amount
                expense = expense.and_also(expense.reserved if charged is None else charged)
        record = replace(intent.submitted(prediction), is_own=intent.is_seed_drawn, expense=expense)
        self._write(record)
        return record

    def _write(self, record: Record) -> None:
        try:
            self.ledger.write(record)
        except LedgerError as error:
            # The prediction is paid, so the attempt continues without a record.
            self.is_recorded = False
            self.log.warning("%s: only this attempt knows prediction %s", error, record.known.id)


def _closed(record: Record, evidence: Evidence) -> Record:
    """Return the record with the cost of its prediction, as far as the evidence shows the cost."""
    if record.expense is None:
        return record
    if record.phase is Phase.INTENT:
        is_denied = isinstance(evidence, Listed) and evidence.found == () and not evidence.is_unclear
        return replace(record, expense=record.expense.denied()) if is_denied else record
    if isinstance(evidence, Prediction) and evidence.id == record.known.id:
        return replace(record, expense=record.expense_after(evidence))
    return record


def _is_same_wish(record: Record, order: Order) -> bool:
    """Return True if an order has the record's model, version, connection and arguments."""
    if (record.model, record.version, record.conn_id) != (order.model, order.version, order.conn_id):
        return False
    # Records of older versions lack the digest, so a missing digest matches any arguments.
    return None in (record.arguments, order.arguments) or record.arguments == order.arguments
