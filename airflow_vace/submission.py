"""Submitting once: carries out what the ledger decides, until the task has a prediction of its own."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowNotFoundException,
    AirflowTaskTimeout,
)

from airflow_vace.exceptions import (
    LedgerError,
    SubmissionUnknown,
    VaceAuthError,
    VaceBillingError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.ledger import (
    HOW_TO_ANEW,
    HOW_TO_GO_ON,
    Adopt,
    Gone,
    Listed,
    LookAt,
    LookUp,
    OnOrphanedIntent,
    Phase,
    Reattach,
    Record,
    Refuse,
    Return,
    Submit,
    decide,
)
from airflow_vace.polling import Backoff, LookAgain, Wait, is_not_found

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_vace.hooks import VaceHook
    from airflow_vace.ledger import Decision, Ledger, Order, Told
    from airflow_vace.prediction import Prediction

# The server is asked to cancel by itself some time after we would have: a net below our own cancel.
CANCEL_AFTER_GRACE_SECONDS = 60.0

# A create may still be on its way, and a list may lag: how long a lost one is looked for before it counts
# as never accepted, and how old its intent must be by then.
LOOK_UP_SECONDS = 10.0
INTENT_GRACE_SECONDS = 30.0
# How long an attempt asks a server in trouble what it knows, before Airflow's retries take over.
MOST_TROUBLE_SECONDS = 60.0
# What asking again does not mend.
_LASTING = (VaceAuthError, VaceBillingError, VaceInputError)
# Creates of one attempt that got no answer, and then were not to be found.
_MOST_LOST = 3


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the author of a task says about its money; `timeout` is in seconds from the submission."""

    timeout: float
    cancel_on_timeout: bool = True
    reuse: bool = True
    on_orphaned_intent: OnOrphanedIntent = "fail"


def _as_it_is(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values


class Submission:
    """One attempt of a task to have exactly one prediction for its order.

    `prediction` is the task's as soon as it is known, for whoever must cancel it; `is_recorded` says whether
    another attempt would know of it; after `is_killed` is set, no create is sent any more.

    :param hook: the hook of the order's connection
    :param ledger: what earlier attempts have left
    :param log: the task's log: what was found, what was decided, what it means for money
    :param reachable: makes URLs of the paths in an input, as late as possible: they may be valid for a time
    :param max_tries: Airflow's, which tells a clear from a retry; None if unknown
    """

    def __init__(  # noqa: PLR0913 - what an attempt has
        self,
        hook: VaceHook,
        ledger: Ledger,
        policy: Policy,
        *,
        log: Any,
        reachable: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _as_it_is,
        max_tries: int | None = None,
    ) -> None:
        self.hook = hook
        self.ledger = ledger
        self.policy = policy
        self.log = log
        self.reachable = reachable
        self.max_tries = max_tries
        self.prediction: Prediction | None = None
        self.is_submitting = False
        self.is_killed = False
        self.is_recorded = True

    def prediction_of(self, order: Order) -> tuple[Prediction, float]:
        """Return the order's prediction, the one that is there or a new one, and its deadline.

        The deadline is that of the attempt which submitted it, unless the time-out was raised since.

        :raises LedgerError: if it is not known what has been submitted; nothing was submitted
        :raises SubmissionUnknown: if one may have been submitted that can't be found
        :raises VaceError: if looking or submitting failed
        """
        record = self.ledger.read()
        told: Told = None
        lost = 0
        if record is not None:
            self._tell_found(record)
        while True:
            decision = self._decision(record, order, told)
            match decision:
                case Submit():
                    order = replace(order, sent=self.reachable(order.values))
                    before, record, told = record, self._intended(order, decision, record), None
                    submitted = self._submitted(order, record, before, is_last=lost + 1 == _MOST_LOST)
                    if submitted is not None:
                        return submitted, record.deadline
                    lost += 1
                case LookAt(prediction):
                    self.prediction = prediction
                    told = self._look_at(prediction)
                case LookUp(intent):
                    told = self._look_up(intent)
                case Adopt(intent, prediction, others):
                    record, told = self._adopted(intent, prediction, others), prediction
                case Reattach(found, prediction) | Return(found, prediction):
                    self._tell_reused(decision, order)
                    return prediction, self._taken_up(found)
                case Refuse(error):
                    raise error

    def _decision(self, record: Record | None, order: Order, told: Told) -> Decision:
        before = record.max_tries if record is not None else None
        is_cleared = before is None or before != self.max_tries
        asked = (order.model, order.version, order.conn_id)
        is_alike = record is not None and (record.model, record.version, record.conn_id) == asked
        return decide(
            record,
            order.fingerprint,
            told,
            now=time.time(),
            is_cleared=is_cleared,
            may_differ=order.is_computed and is_alike and not is_cleared,
            reuse=self.policy.reuse,
            on_orphaned_intent=self.policy.on_orphaned_intent,
        )

    # --- submitting --------------------------------------------------------------------------------

    def _intended(self, order: Order, decision: Submit, before: Record | None) -> Record:
        if decision.why:
            self.log.warning("%s Submitting a new one, which is billed too.", decision.why)
        if decision.cancel is not None and before is not None:
            self._hook_of(before).stop_prediction(decision.cancel)
        self.prediction = None
        deadline = time.time() + self.policy.timeout
        intent = Record.of(order, deadline=deadline, max_tries=self.max_tries, before=before)
        self.ledger.intend(intent, before)
        return intent

    def _submitted(
        self, order: Order, intent: Record, before: Record | None, *, is_last: bool
    ) -> Prediction | None:
        """Submit; return the prediction, None if there may be one that this attempt can look up."""
        sent = order if intent.seed is None else order.with_seed(intent.seed)
        try:
            prediction = self.prediction = self._created(sent, intent.deadline)
        except (SubmissionUnknown, VaceProtocolError) as error:
            if not self.ledger.is_durable:
                raise
            can_look_up = self.hook.lists_predictions
            is_told = isinstance(error, VaceProtocolError) or isinstance(error.__cause__, VaceError)
            if can_look_up and is_told and not is_last:
                self.log.warning("%s", error)
                return None
            if isinstance(error, VaceProtocolError):
                raise
            raise SubmissionUnknown(
                f"{error} {HOW_TO_GO_ON}",
                status_code=error.status_code,
                may_be_retried=can_look_up or self.policy.on_orphaned_intent == "resubmit",
            ) from error.__cause__
        except (AirflowTaskTimeout, Exception):
            self._withdraw(before)
            raise
        seed = "" if intent.seed is None else f", seed {intent.seed}"
        self.log.info(
            "Submitted prediction %s of %s (%s%s)", prediction.id, order.model, prediction.status, seed
        )
        self._note(intent.submitted(prediction))
        return prediction

    def _created(self, order: Order, deadline: float) -> Prediction:
        """Create; whatever ends that with a request still open is :class:`SubmissionUnknown`."""
        if self.is_killed:
            raise VaceTransportError("Killed before the create was sent; nothing was submitted", sent=False)
        self.is_submitting = True
        try:
            return self.hook.create_prediction(
                order.wire,
                model=order.model,
                version=order.version,
                deadline=deadline + CANCEL_AFTER_GRACE_SECONDS if self.policy.cancel_on_timeout else None,
            )
        except (VaceError, AirflowException):
            raise
        except (AirflowTaskTimeout, Exception) as error:
            if not self.hook.is_create_open:
                raise
            raise SubmissionUnknown(
                f"{type(error).__name__} ended the create before its answer was read, so a prediction may"
                " be running, and be billed, whose id nobody knows. Look into the vendor's list of"
                " predictions before running the task again."
            ) from error
        finally:
            self.is_submitting = False

    def _withdraw(self, before: Record | None) -> None:
        try:
            self.ledger.withdraw(before)
        except LedgerError as error:
            self.log.warning("%s: a retry will look for a prediction that was never accepted", error)

    def _note(self, record: Record) -> None:
        try:
            self.ledger.write(record)
        except LedgerError as error:
            self.is_recorded = False
            self.log.warning("%s: only this attempt knows prediction %s", error, record.known.id)

    # --- what an earlier attempt has left ----------------------------------------------------------

    def _tell_found(self, record: Record) -> None:
        if record.phase is Phase.INTENT:
            self.log.warning(
                "An earlier attempt of this task began a create at %s, and left no answer to it",
                record.intended_at,
            )
        else:
            known = record.known
            self.log.info(
                "An earlier attempt of this task submitted prediction %s at %s (last known: %s)",
                known.id,
                known.created_at or record.intended_at,
                known.status,
            )

    def _tell_reused(self, decision: Reattach | Return, order: Order) -> None:
        prediction = decision.prediction
        if decision.record.fingerprint != order.fingerprint:
            self.log.warning(
                "The task's function has returned another input than in the attempt before, from which"
                " prediction %s was made; going on with that one, so that nothing is paid twice. Let the"
                " function return the same for the same arguments (no clock, no chance), or clear the task"
                " to submit what it returns now.",
                prediction.id,
            )
        if isinstance(decision, Reattach):
            self.log.info(
                "Prediction %s is %s: going on with it. Nothing new is submitted, there is one bill",
                prediction.id,
                prediction.status,
            )
        else:
            self.log.info(
                "Prediction %s has succeeded: its result is returned, nothing is paid again. To generate"
                " anew, start a new DAG run, set reuse=False, or %s",
                prediction.id,
                HOW_TO_ANEW,
            )

    def _taken_up(self, record: Record) -> float:
        """Take over what an earlier attempt has recorded, and return its deadline."""
        if record.max_tries != self.max_tries:  # a retry from here on is no clear
            with suppress(LedgerError):  # what is recorded already serves the next attempt too
                self.ledger.write(replace(record, max_tries=self.max_tries))
        intended = datetime.fromisoformat(record.intended_at).timestamp()
        return max(record.deadline, intended + self.policy.timeout)

    def _look_at(self, prediction: Prediction) -> Prediction | Gone:
        wait = Wait(prediction=prediction, deadline=time.time() + MOST_TROUBLE_SECONDS)
        while True:
            try:
                return prediction.updated(self.hook.get_prediction(prediction))
            except VaceError as error:
                decision = wait.failed(error, time.time())
                self.hook.tell(wait)
                if isinstance(decision, LookAgain):
                    time.sleep(decision.seconds)
                elif is_not_found(error):
                    return Gone(error=error)
                elif isinstance(error, _LASTING):
                    raise
                else:
                    raise LedgerError(
                        f"What became of prediction {prediction.id} could not be told: {error} Nothing was"
                        " submitted since; a retry looks again."
                    ) from error

    def _look_up(self, intent: Record) -> Listed:
        """Look for a lost create until it is found, or had the time to come through."""
        hook = self._lister(intent)
        if hook is None:
            return Listed(found=None)
        self.log.info("Looking into the back-end's list whether it was accepted")
        began = time.time()
        age = began - datetime.fromisoformat(intent.intended_at).timestamp()
        grace = max(LOOK_UP_SECONDS, min(INTENT_GRACE_SECONDS - age, INTENT_GRACE_SECONDS))
        backoff = Backoff()
        is_missing = False
        while True:
            looked = time.time()
            try:
                seen = [(p, intent.is_of(p)) for p in hook.list_predictions(intent.listed_from)]
            except _LASTING:
                raise
            except VaceError as error:
                if is_not_found(error):
                    if is_missing:  # said once, it may be a proxy in trouble
                        return Listed(found=None)
                    is_missing = True
                if looked - began >= MOST_TROUBLE_SECONDS:
                    raise SubmissionUnknown(
                        f"What became of the create of {intent.intended_at} could not be looked up: {error}"
                        " Nothing was submitted since; a retry looks again.",
                        may_be_retried=True,
                    ) from error
                self.log.warning("The list of predictions could not be read: %s", error)
            else:
                found = tuple(prediction for prediction, is_it in seen if is_it)
                if found or looked - began >= grace:
                    return Listed(found=found, is_unclear=any(is_it is None for _, is_it in seen))
            time.sleep(backoff.next_delay())

    def _lister(self, intent: Record) -> VaceHook | None:
        """Return what can list the predictions of the connection that a create went over, if anything can."""
        hook = self._hook_of(intent)
        try:
            return hook if hook.lists_predictions else None
        except AirflowNotFoundException as error:
            self.log.warning("%s: what it was submitted over can't be asked any more", error)
            return None

    def _adopted(self, intent: Record, prediction: Prediction, others: tuple[Prediction, ...]) -> Record:
        self.log.warning(
            "It was accepted: prediction %s, %s, has the input and the time of it, and is this task's",
            prediction.id,
            prediction.status,
        )
        for other in others:
            self.log.warning("Prediction %s is of the same create, and one too many", other.id)
            self._hook_of(intent).stop_prediction(other)
        record = intent.submitted(prediction)
        self._note(record)
        return record

    def _hook_of(self, record: Record) -> VaceHook:
        same = record.conn_id == self.hook.vace_conn_id
        return self.hook if same else type(self.hook)(record.conn_id)
