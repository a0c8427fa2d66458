"""Submitting once: carries out what the ledger decides, until the task has a prediction of its own."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowNotFoundException,
    AirflowTaskTimeout,
)

from airflow_vace.core.retry import Backoff, is_lasting, is_not_found
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import (
    LedgerError,
    SubmissionUnknown,
    VaceError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.submission.ledger import (
    HOW_TO_ANEW,
    HOW_TO_GO_ON,
    Adopt,
    Gone,
    IntentLostError,
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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_vace.core.responses import Page
    from airflow_vace.hooks import VaceHook
    from airflow_vace.submission.ledger import Decision, Ledger, Order, Told

# The server is asked to cancel by itself some time after we would have: a net below our own cancel.
CANCEL_AFTER_GRACE_SECONDS = 60.0

# How often a success that has no output yet, but looks old, is asked for again.
_MOST_LOOKS_FOR_OUTPUT = 3
# Creates of one attempt that got no answer, and then were not to be found.
_MOST_LOST = 3


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the author of a task says about its money; `timeout` is in seconds from the submission.

    `only_submits`: the task's result is the prediction's id, so a video that has expired since is no loss.
    """

    timeout: float
    cancel_on_timeout: bool = True
    reuse: bool = True
    on_orphaned_intent: OnOrphanedIntent = "fail"
    only_submits: bool = False


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Airflow's numbers of an attempt, None where they are unknown; they tell a clear from a retry."""

    try_number: int | None = None
    max_tries: int | None = None

    def is_cleared_since(self, record: Record) -> bool:
        """Return True if a person has cleared the task since a record was made.

        A clear raises `max_tries`, unless the task runs at that moment; an attempt beyond those that Airflow
        makes by itself can still only come from a person (Airflow 3.3.2, `clear_task_instances` and
        `_is_eligible_to_retry`).
        """
        if record.max_tries is None or record.max_tries != self.max_tries:
            return True
        return self.try_number is not None and self.try_number > record.max_tries + 1


def _as_it_is(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values


def _nothing(_: str) -> None:
    return None


class Submission:
    """One attempt of a task to have exactly one prediction for its order.

    `prediction` is the task's as soon as it is known, for whoever must cancel it; `is_recorded` says whether
    another attempt would know of it; after `is_killed` is set, no create is sent any more. `is_own` is False
    for a prediction that may be another task's, which must not be canceled.

    :param hook: the hook of the order's connection
    :param ledger: what earlier attempts have left
    :param log: the task's log: what was found, what was decided, what it means for money
    :param reachable: makes URLs of the paths in an input, as late as possible: they may be valid for a time
    :param saved: returns the files of a prediction's id that are at their places already, None for none
    :param attempt: which attempt this is
    """

    def __init__(  # noqa: PLR0913 - what an attempt has
        self,
        hook: VaceHook,
        ledger: Ledger,
        policy: Policy,
        *,
        log: Any,
        reachable: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _as_it_is,
        saved: Callable[[str], list[dict[str, Any]] | None] = _nothing,
        attempt: Attempt | None = None,
    ) -> None:
        self.hook = hook
        self.ledger = ledger
        self.policy = policy
        self.log = log
        self.reachable = reachable
        self.saved = saved
        self.attempt = attempt or Attempt()
        self.prediction: Prediction | None = None
        self.is_submitting = False
        self.is_killed = False
        self.is_recorded = True
        self.is_own = True
        self._has_intended = False

    def prediction_of(self, order_since: Callable[[Record | None], Order]) -> tuple[Prediction, float]:
        """Return the order's prediction, the one that is there or a new one, and its deadline.

        The deadline is that of the attempt which submitted it, unless the time-out was raised since.

        :param order_since: makes the order; what its author leaves to the connection is as in the record, if
            there is one
        :raises LedgerError: if it is not known what has been submitted; nothing was submitted
        :raises SubmissionUnknown: if one may have been submitted that can't be found
        :raises VaceError: if looking or submitting failed
        """
        record = self.ledger.read()
        order = order_since(record)
        told: Told = None
        lost = 0
        is_adopted = False
        if record is not None:
            self._take_over(record)
        while True:
            decision = self._decision(record, order, told, is_adopted=is_adopted)
            match decision:
                case Submit():
                    order = self._sendable(order_since, order, record)
                    before, record, told = record, self._intended(order, decision, record), None
                    is_adopted = False
                    submitted = self._submitted(order, record, before, is_last=lost + 1 == _MOST_LOST)
                    if submitted is not None:
                        return submitted, self.hook.clock.at_server(record.deadline)
                    lost += 1
                case LookAt(prediction):
                    self.prediction, self.is_own = prediction, record is None or record.is_own
                    told = self._look_at(prediction)
                case LookUp(intent):
                    told = self._look_up(intent)
                case Adopt(intent, prediction, others):
                    record, told = self._adopted(intent, prediction, others), prediction
                    is_adopted = True
                case Reattach(found, prediction) | Return(found, prediction):
                    self._tell_reused(decision, order)
                    return prediction, self._taken_up(found)
                case Refuse(error):
                    raise error

    def _decision(self, record: Record | None, order: Order, told: Told, *, is_adopted: bool) -> Decision:
        is_cleared = record is None or self._is_cleared(record, told)
        return decide(
            record,
            order.fingerprint,
            told,
            now=self.hook.clock.confirmed(time.time()),
            is_cleared=is_cleared,
            may_differ=record is not None and not is_cleared and _is_same_wish(record, order),
            reuse=self.policy.reuse,
            on_orphaned_intent=self.policy.on_orphaned_intent,
            only_submits=self.policy.only_submits,
            is_adopted=is_adopted,
            can_deny=record is None or not isinstance(told, Gone) or self._leads_to(record),
        )

    def _is_cleared(self, record: Record, told: Told) -> bool:
        """Return True if a person asks for this attempt.

        A wait in the triggerer ends by itself only with the prediction, or at its deadline. An attempt that
        comes earlier, after one that waits there, is a person's: Airflow leaves `max_tries` as it is if it
        takes the task for a running one.
        """
        is_early = isinstance(told, Prediction) and not told.status.is_final
        is_waiting = record.deferred and is_early and self.hook.clock.confirmed(time.time()) < record.deadline
        # The attempt's own intent answers the clear; what follows from it is no person's wish any more.
        return is_waiting or (not self._has_intended and self.attempt.is_cleared_since(record))

    def _leads_to(self, record: Record) -> bool:
        """Return True if the record's connection still leads to the server and account of its create."""
        try:
            hook = self._hook_of(record)
            return record.is_at(_address_of(hook), hook.settings.api.key)
        except (AirflowNotFoundException, VaceError):
            return False

    # --- submitting --------------------------------------------------------------------------------

    def _sendable(
        self, order_since: Callable[[Record | None], Order], order: Order, before: Record | None
    ) -> Order:
        """Return the order with URLs in place of paths; after a clear, with the connection's new defaults."""
        if before is not None and not self._has_intended and self.attempt.is_cleared_since(before):
            order = order_since(None)
        return replace(order, sent=self.reachable(order.values))

    def _intended(self, order: Order, decision: Submit, before: Record | None) -> Record:
        if decision.why:
            self.log.warning("%s Submitting a new one, which is billed too.", decision.why)
        if decision.cancel is not None and before is not None:
            self.ledger.confirm(before)  # an attempt that was given up must not cancel its successor's
            self._hook_of(before).stop_prediction(decision.cancel)
        self.prediction = None
        intent = Record.of(
            order,
            deadline=time.time() + self.policy.timeout,
            max_tries=self.attempt.max_tries,
            before=before,
            origin=_address_of(self.hook),
            key=self.hook.settings.api.key,
        )
        self.ledger.intend(intent, before)
        self.is_own = self._has_intended = True
        return intent

    def _submitted(
        self, order: Order, intent: Record, before: Record | None, *, is_last: bool
    ) -> Prediction | None:
        """Submit; return the prediction, None if there may be one that this attempt can look up."""
        sent = order if intent.seed is None else order.with_seed(intent.seed)
        try:
            prediction = self.prediction = self._created(sent, intent)
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
        except IntentLostError:
            raise  # the record is another attempt's
        except (AirflowTaskTimeout, Exception):
            self._withdraw(before)
            raise
        seed = "" if intent.seed is None else f", seed {intent.seed}"
        self.log.info(
            "Submitted prediction %s of %s (%s%s)", prediction.id, order.model, prediction.status, seed
        )
        clock = self.hook.clock
        clock.agreed = clock.offset
        at_server = clock.at_server(intent.deadline)
        self._note(replace(intent.submitted(prediction), deadline=at_server, offset=clock.offset))
        return prediction

    def _check_wanted(self, intent: Record) -> None:
        """Raise if a create that was refused is no longer this attempt's to send."""
        self._check_alive()
        self.ledger.confirm(intent)

    def _check_alive(self) -> None:
        if self.is_killed:
            raise VaceTransportError("Killed before the create was sent; nothing was submitted", sent=False)

    def _created(self, order: Order, intent: Record) -> Prediction:
        """Create; whatever ends that with a request still open is :class:`SubmissionUnknown`."""
        self._check_alive()
        deadline = intent.deadline + CANCEL_AFTER_GRACE_SECONDS
        self.is_submitting = True
        try:
            return self.hook.create_prediction(
                order.wire,
                model=order.model,
                version=order.version or "",
                deadline=deadline if self.policy.cancel_on_timeout else None,
                before_resend=lambda: self._check_wanted(intent),
            )
        except (VaceError, AirflowException):
            raise
        except (AirflowTaskTimeout, Exception) as error:
            if not self.hook.client.is_create_open:
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

    def _take_over(self, record: Record) -> None:
        if record.phase is Phase.INTENT:
            self.log.warning(
                "An earlier attempt of this task began a create at %s, and left no answer to it",
                record.intended_at,
            )
        else:
            known = record.known
            self.hook.clock.agreed = record.offset or 0.0
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
                "This attempt has another input than the one before, from which prediction %s was made. The"
                " task goes on with that prediction, so nothing is paid twice. A template or a function must"
                " give the same input in each attempt: no clock, no chance, no try_number. Clear the task to"
                " submit the new input; clear it once more if it was cleared while it ran, since Airflow does"
                " not show that to a task.",
                prediction.id,
            )
        if prediction.status.is_final and isinstance(decision, Reattach):
            return  # its end, an error, says all
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
        self.is_own = record.is_own
        intended = datetime.fromisoformat(record.intended_at).timestamp() + (record.offset or 0.0)
        deadline = max(record.deadline, intended + self.policy.timeout)
        taken = replace(record, max_tries=self.attempt.max_tries, deferred=False, deadline=deadline)
        if taken != record:  # a retry from here on is no clear
            with suppress(LedgerError):  # what is recorded already serves the next attempt too
                self.ledger.write(taken)
        if deadline > record.deadline + CANCEL_AFTER_GRACE_SECONDS and self.policy.cancel_on_timeout:
            self.log.warning(
                "The timeout was raised after prediction %s was submitted: a server that heeds Cancel-After"
                " cancels it by the first deadline all the same",
                record.known.id,
            )
        return deadline

    def _look_at(self, prediction: Prediction) -> Prediction | Gone:
        """Return what is known of a prediction; one whose files its server has deleted may be saved."""
        told, backoff = self._asked(prediction), Backoff(timing=self.hook.timing)
        for _ in range(_MOST_LOOKS_FOR_OUTPUT):
            if not isinstance(told, Prediction) or told.data_removed or prediction.data_removed:
                break
            if not told.has_expired_at(self.hook.clock.confirmed(time.time())):
                return told
            time.sleep(backoff.next_delay())  # its output may lag behind, and a time without a zone mislead
            told = self._asked(prediction)
        files = self.saved(prediction.id)
        if not files:
            return told
        self.log.info("Prediction %s is saved: its files are at save_to", prediction.id)
        known = told if isinstance(told, Prediction) else prediction
        return replace(known, status=PredictionStatus.SUCCEEDED, files=files, data_removed=True, error=None)

    def _asked(self, prediction: Prediction) -> Prediction | Gone:
        wait = Wait(
            prediction=prediction,
            deadline=time.time() + self.hook.timing.max_trouble_seconds,
            timing=self.hook.timing,
        )
        while True:
            try:
                return prediction.updated(self.hook.get_prediction(prediction))
            except VaceError as error:
                decision = wait.failed(error, time.time())
                if wait.news:
                    self.log.warning("%s", wait.news)
                if isinstance(decision, PollAgain):
                    time.sleep(decision.seconds)
                elif is_not_found(error):
                    return Gone(error=error)
                elif is_lasting(error):
                    raise
                else:
                    raise LedgerError(
                        f"What became of prediction {prediction.id} could not be told: {error} Nothing was"
                        " submitted since; a retry looks again."
                    ) from error

    def _look_up(self, intent: Record) -> Listed:
        """Look for a lost create until it is found, or had the time to come through."""
        hook = self._lister(intent)
        if isinstance(hook, Listed):
            return hook
        self.log.info("Looking into the back-end's list whether it was accepted")
        began = time.time()
        age = began - datetime.fromisoformat(intent.intended_at).timestamp()
        timing = self.hook.timing
        lag = min(timing.intent_grace_seconds - age, timing.intent_grace_seconds)
        grace = max(timing.lost_create_lookup_seconds, lag)
        backoff = Backoff(timing=self.hook.timing)
        is_missing = False
        while True:
            looked = time.time()
            try:
                pages = list(hook.list_pages(_listed_from(intent, hook)))
            except VaceError as error:
                if is_lasting(error):
                    raise
                if is_not_found(error):
                    if is_missing:  # said once, it may be a proxy in trouble
                        return Listed(found=None)
                    is_missing = True
                if looked - began >= self.hook.timing.max_trouble_seconds:
                    raise SubmissionUnknown(
                        f"What became of the create of {intent.intended_at} could not be looked up: {error}"
                        " Nothing was submitted since; a retry looks again.",
                        may_be_retried=True,
                    ) from error
                self.log.warning("The list of predictions could not be read: %s", error)
            else:
                listed = self._listed(intent, pages)
                if listed.found or looked - began >= grace:
                    return listed
            time.sleep(backoff.next_delay())

    def _listed(self, intent: Record, pages: list[Page]) -> Listed:
        """Return what pages show of a lost create; only the same account can deny it."""
        seen = [(p, intent.is_of(p)) for page in pages for p in page.predictions]
        found = tuple(prediction for prediction, is_it in seen if is_it)
        if found or self._leads_to(intent):
            may_be = any(intent.may_be(item) for page in pages for item in page.unreadable)
            return Listed(found=found, is_unclear=may_be or any(is_it is None for _, is_it in seen))
        why = (
            f"the key of the connection {intent.conn_id!r} was changed since: its account may be another one"
        )
        return Listed(found=None, why=why)

    def _lister(self, intent: Record) -> VaceHook | Listed:
        """Return what can list the predictions of the server that a create went to, or why nothing can."""
        hook = self._hook_of(intent)
        try:
            if intent.origin not in (None, _address_of(hook)):
                why = f"the connection {intent.conn_id!r} led to {intent.origin} then, and elsewhere now"
                return Listed(found=None, why=why)
            return hook if hook.lists_predictions else Listed(found=None)
        except AirflowNotFoundException:
            why = f"the connection {intent.conn_id!r}, over which it was sent, does not exist any more"
            return Listed(found=None, why=why)

    def _adopted(self, intent: Record, prediction: Prediction, others: tuple[Prediction, ...]) -> Record:
        self.log.warning(
            "It was accepted: prediction %s, %s, has the input and the time of it, and is this task's",
            prediction.id,
            prediction.status,
        )
        for other in others:
            self.log.warning("Prediction %s is of the same create, and one too many", other.id)
            self._hook_of(intent).stop_prediction(other)
        record = replace(intent.submitted(prediction), is_own=intent.is_seed_drawn)
        self._note(record)
        return record

    def _hook_of(self, record: Record) -> VaceHook:
        same = record.conn_id == self.hook.vace_conn_id
        return self.hook if same else type(self.hook)(record.conn_id)


def _listed_from(intent: Record, hook: VaceHook) -> str:
    """Return the time from which a lost create is listed, earlier if this machine's clock is ahead."""
    since = datetime.fromisoformat(intent.listed_from)
    return (since + timedelta(seconds=min(hook.clock.offset or 0.0, 0.0))).isoformat()


def _address_of(hook: VaceHook) -> str:
    api = hook.settings.api
    return f"{api.base_url}{api.prefix}"


def _is_same_wish(record: Record, order: Order) -> bool:
    """Return True if an order has the record's model, version, connection and arguments."""
    if (record.model, record.version, record.conn_id) != (order.model, order.version, order.conn_id):
        return False
    return None in (record.arguments, order.arguments) or record.arguments == order.arguments
