"""Decisions about money: the next step after a record and a back-end's evidence. Pure, no I/O, no clock.

:func:`decide` returns one step at a time. The submitter carries out the step, and calls :func:`decide` again
with new evidence until the task has a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, assert_never

from airflow_vace.exceptions import LedgerError, SubmissionUnknown, VaceError
from airflow_vace.prediction import RETENTION_SECONDS, Prediction, PredictionStatus, parse_time
from airflow_vace.storage.checks import problems_of
from airflow_vace.submission.record import RECORD_KEY, Phase, Record

if TYPE_CHECKING:
    from airflow_vace.submission.rejected import Rejected

OnOrphanedIntent = Literal["fail", "resubmit"]

_HOW_TO_RESUBMIT = f"delete the key {RECORD_KEY!r} in this task's state store and clear the task"
_HOW_TO_SUBMIT_AN_ITEM_AGAIN = "give the item another key in the inputs"

_ENDED_WITHOUT_VIDEO = (PredictionStatus.FAILED, PredictionStatus.CANCELED, PredictionStatus.ABORTED)


# --- circumstances ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The task author's rules about money.

    `timeout` is in seconds from the submission. `reuse` is False if a clear asks for a new prediction.
    `on_orphaned_intent` applies to a lone intent without a list for the search. `only_submits` is True for a
    task with the prediction's id as result, so an expired video is no loss. `is_of_item` is True for an item
    of a batch, whose record a person cannot delete alone. `max_regenerations` is the number of predictions in
    place of successes whose saved videos have problems.
    """

    timeout: float
    cancel_on_timeout: bool = True
    reuse: bool = True
    on_orphaned_intent: OnOrphanedIntent = "fail"
    only_submits: bool = False
    is_of_item: bool = False
    max_regenerations: int = 0

    @property
    def how_to_resubmit(self) -> str:
        """What a person does to submit again, as an imperative clause."""
        return _HOW_TO_SUBMIT_AN_ITEM_AGAIN if self.is_of_item else _HOW_TO_RESUBMIT

    @property
    def how_to_continue(self) -> str:
        """What a person does after a create that may have been accepted."""
        return (
            "To continue with a prediction, use a VacePredictionSensor on its id; to submit again,"
            f" {self.how_to_resubmit}, or set on_orphaned_intent='resubmit'."
        )


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Airflow's numbers of an attempt, None if unknown; the numbers distinguish a clear from a retry."""

    try_number: int | None = None
    max_tries: int | None = None

    @classmethod
    def of(cls, ti: object) -> Attempt:
        """Return the numbers of a task instance; None stands for no task instance."""
        return cls(try_number=getattr(ti, "try_number", None), max_tries=getattr(ti, "max_tries", None))

    @property
    def is_last(self) -> bool:
        """Return True if Airflow does not retry the task any more."""
        tried, limit = self.try_number, self.max_tries
        return tried is not None and limit is not None and tried > limit

    def is_cleared_since(self, record: Record) -> bool:
        """Return True if a person has cleared the task since the record.

        A clear raises `max_tries`, except for a task that Airflow considers running. Airflow's retries end
        with `max_tries`, so a higher `try_number` proves a clear too. Source: Airflow 3.3.2,
        `clear_task_instances` and `_is_eligible_to_retry`.
        """
        if record.max_tries is None or record.max_tries != self.max_tries:
            return True
        return self.try_number is not None and self.try_number > record.max_tries + 1


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The circumstances of a decision, apart from record and evidence.

    `fingerprint` belongs to this attempt's order; `now` is in seconds since the epoch. `is_cleared` is True
    if a person has cleared the task since the record. `may_differ` is True in a retry by Airflow, where a
    changed input expresses no wish. `is_adopted` is True after this attempt has found a lost create.
    `can_deny` is False if another server or account was asked, with no right to deny the prediction.
    """

    fingerprint: str
    now: float
    policy: Policy
    is_cleared: bool = False
    may_differ: bool = False
    is_adopted: bool = False
    can_deny: bool = True

    @property
    def is_result_wanted(self) -> bool:
        """Return False if a person has cleared a task with `reuse=False`."""
        return self.policy.reuse or not self.is_cleared


# --- evidence --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gone:
    """The back-end's answer to a poll: no such prediction."""

    error: VaceError


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The result of a search for a lost create in the back-end's list.

    `found` is None if no search was possible, for the reason `why`. `is_unclear` is True if the list contains
    predictions that the search can neither accept nor exclude.
    """

    found: tuple[Prediction, ...] | None
    is_unclear: bool = False
    why: str = "this back-end does not list its predictions"


Evidence = Prediction | Gone | Listed | None


# --- steps -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Submit a new prediction for the reason `why`; first cancel the prediction `cancel`, if any.

    `rejected` holds the clips in whose place the prediction is made.
    """

    why: str = ""
    cancel: Prediction | None = None
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True)
class Poll:
    """Poll a prediction and decide again."""

    prediction: Prediction


@dataclass(frozen=True)
class Search:
    """Search the back-end's list for the lost create of an intent and decide again."""

    intent: Record


@dataclass(frozen=True)
class Adopt:
    """Record the found prediction of an intent, cancel the `others`, and decide again."""

    intent: Record
    prediction: Prediction
    others: tuple[Prediction, ...] = ()


@dataclass(frozen=True)
class Reattach:
    """Continue with a prediction that runs, or report the end of an adopted prediction."""

    record: Record
    prediction: Prediction


@dataclass(frozen=True)
class Return:
    """Return a prediction that has succeeded as the task's result."""

    record: Record
    prediction: Prediction


@dataclass(frozen=True)
class Refuse:
    """Raise the error: only a person can decide."""

    error: VaceError


Step = Submit | Poll | Search | Adopt | Reattach | Return | Refuse


def decide(record: Record | None, evidence: Evidence, situation: Situation) -> Step:
    """Return the next step of an attempt.

    :param record: content of the state store; None for an empty store, never for an unreadable store
    :param evidence: the back-end's latest answer; None before the first request
    :param situation: the attempt's circumstances
    :raises TypeError: if evidence from a list is given for a prediction with a known id
    """
    if record is None:
        return Submit()
    if record.phase is Phase.INTENT:
        return _step_after_intent(record, evidence, situation)
    known = record.known
    if record.phase is Phase.SETTLED and known.status is not PredictionStatus.SUCCEEDED:
        return Submit(why=_ended_badly(known), rejected=_kept_clips(record, situation))
    # In a retry by Airflow a template may render another input by chance, so that is no new order.
    if situation.fingerprint != record.fingerprint and not situation.may_differ:
        return _step_after_another_order(record)
    # The problems of a saved video are certain, so no poll comes first.
    if may_regenerate(record, situation.policy.max_regenerations):
        return _step_after_rejection(record, situation.policy)
    match evidence:
        case None:
            return Poll(known)
        case Gone():
            return _step_after_denial(record, evidence, situation)
        case Prediction():
            return _step_after_poll(record, evidence, situation)
        case Listed():
            raise TypeError(f"a prediction that is {record.phase} is polled, not listed")
        case _:
            assert_never(evidence)


def may_regenerate(record: Record | None, max_regenerations: int) -> bool:
    """Return True if the recorded video has problems, and another prediction may take its place."""
    if record is None or record.phase is not Phase.SETTLED or len(record.rejected) >= max_regenerations:
        return False
    return bool(problems_of(record.known.files))


def _step_after_rejection(record: Record, policy: Policy) -> Step:
    rejected = (*record.rejected, record.as_rejected())
    return Submit(
        why=f"The video of prediction {record.known.id} has problems, and stays saved: {rejected[-1]}"
        f" Regeneration {len(rejected)} of {policy.max_regenerations}, with another seed.",
        rejected=rejected,
    )


def _kept_clips(record: Record, situation: Situation) -> tuple[Rejected, ...]:
    """Return the rejected clips that count for a further prediction of the order."""
    is_same = situation.fingerprint == record.fingerprint or situation.may_differ
    return record.rejected if is_same and situation.is_result_wanted else ()


def _step_after_intent(record: Record, evidence: Evidence, situation: Situation) -> Step:
    policy, rejected = situation.policy, _kept_clips(record, situation)
    if not isinstance(evidence, Listed):
        return Search(record)
    if evidence.found:
        found = {prediction.id: prediction for prediction in evidence.found}
        best = min(found.values(), key=_rank)
        # A drawn seed belongs to this task alone. With an author's seed, other predictions may belong to
        # other tasks, so a cancel would destroy their work.
        others = [p for p in found.values() if p.id != best.id and not p.status.is_final]
        return Adopt(record, best, tuple(others) if record.is_seed_drawn else ())
    # Only a list without doubtful items proves that nothing was accepted, so only then a repeat is safe.
    if evidence.found is not None and not evidence.is_unclear:
        return Submit(
            why=f"The request for a prediction of {record.intended_at} never arrived: the back-end lists no"
            " such prediction, so nothing was paid for it.",
            rejected=rejected,
        )
    reason = evidence.why
    if evidence.found is not None:
        reason = "the back-end's list contains predictions that can't be distinguished from it"
    lost = (
        f"A request for a prediction was started at {record.intended_at}, its response was lost, and {reason}"
    )
    if policy.on_orphaned_intent == "resubmit":
        return Submit(
            why=f"{lost}. The prediction may be running, and be billed. Submitting again because of"
            " on_orphaned_intent='resubmit'.",
            rejected=rejected,
        )
    return Refuse(
        SubmissionUnknown(
            f"{lost}. The prediction may be running under an unknown id, and be billed. Check the vendor's"
            f" list of predictions. {policy.how_to_continue}"
        )
    )


def _rank(prediction: Prediction) -> int:
    """Return 0 for a success, 1 for a prediction that runs, 2 for an end without a video."""
    if prediction.status is PredictionStatus.SUCCEEDED:
        return 0
    return 2 if prediction.status in _ENDED_WITHOUT_VIDEO else 1


def _step_after_another_order(record: Record) -> Step:
    known = record.known
    was = f"Prediction {known.id} of an earlier attempt was made from another input, model, version or"
    was += " connection"
    if record.phase is Phase.SETTLED:
        return Submit(why=f"{was}. {known.bill}")
    # Another task may wait for the prediction, so a cancel would harm that task.
    if not record.is_own:
        return Submit(why=f"{was}. It keeps running, since it may be another task's.")
    return Submit(why=f"{was}. It is canceled, if it still runs.", cancel=known)


def _step_after_poll(record: Record, latest: Prediction, situation: Situation) -> Step:
    if latest.status is PredictionStatus.SUCCEEDED:
        return _step_after_success(record, latest, situation)
    # The attempt has paid for an adopted prediction itself, so the task reports its end and pays no second.
    if latest.status.is_final and not (situation.is_adopted and not situation.is_cleared):
        return Submit(why=_ended_badly(latest), rejected=_kept_clips(record, situation))
    return Reattach(record, latest)


def _step_after_success(record: Record, latest: Prediction, situation: Situation) -> Step:
    files = record.known.files or latest.files
    if not situation.is_result_wanted:
        return Submit(why=f"Prediction {latest.id} has succeeded, but reuse=False asks for a new one.")
    has_expired = latest.has_expired_at(situation.now) or record.known.data_removed
    # Saved files outlive the retention, and a task with an id as result needs no files.
    if has_expired and not files and not situation.policy.only_submits:
        return Submit(why=_expired(latest), rejected=_kept_clips(record, situation))
    return Return(record, replace(latest, files=files))


def _step_after_denial(record: Record, gone: Gone, situation: Situation) -> Step:
    known = record.known
    # The saved files are the result, so the denial of the server does not matter.
    if known.files and situation.is_result_wanted:
        return Return(record, replace(known, data_removed=True))
    if not situation.can_deny:
        where = f"at {record.origin}" if record.origin else "over this connection"
        return Refuse(
            LedgerError(
                f"Prediction {known.id} was submitted {where}, and the connection {record.conn_id!r} leads to"
                " another server or account now, which does not know it. Nothing was submitted since: point"
                f" the connection back, or {situation.policy.how_to_resubmit}. Response: {gone.error}"
            )
        )
    ended = parse_time(known.completed_at)
    if situation.now <= (ended.timestamp() if ended else record.deadline) + RETENTION_SECONDS:
        # Before the retention ends, a wrong server or key is the likely cause, so a new create may pay twice.
        return Refuse(gone.error)
    is_id_enough = situation.policy.only_submits and situation.is_result_wanted
    if is_id_enough and known.status not in _ENDED_WITHOUT_VIDEO:
        return Return(record, replace(known, data_removed=True))
    return Submit(why=_expired(known), rejected=_kept_clips(record, situation))


def _ended_badly(prediction: Prediction) -> str:
    verb = "has failed" if prediction.status is PredictionStatus.FAILED else f"was {prediction.status}"
    error = f": {prediction.error}" if prediction.error else ""
    return f"Prediction {prediction.id} of an earlier attempt {verb}{error}. {prediction.bill}"


def _expired(prediction: Prediction) -> str:
    return (
        f"Prediction {prediction.id} has ended and its files have been deleted since, with nothing saved by"
        " this task. It is billed all the same."
    )
