"""Comparison of an account's predictions with Airflow's records; pure, without I/O and clock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_vace.prediction import latest_time
from airflow_vace.submission.order import mark_of
from airflow_vace.submission.record import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_vace.prediction import Prediction
    from airflow_vace.reconcile.known import Known, Place, Submission
    from airflow_vace.submission.record import Account


class Owner(StrEnum):
    """The owner of a prediction.

    `OURS` is a prediction of a known task, `ORPHAN` a prediction of this package that no task knows, and
    `FOREIGN` any other prediction of the account.
    """

    OURS = "ours"
    ORPHAN = "orphan"
    FOREIGN = "foreign"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A prediction with its owner.

    :param place: the task, None for a foreign prediction
    :param submission: for an orphan, and for a create under way, the record that describes it
    :param is_certain: False if the prediction may also be somebody else's
    """

    prediction: Prediction
    owner: Owner
    place: Place | None = None
    submission: Submission | None = None
    is_certain: bool = True


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a comparison.

    :param account: address and key of the listed account
    :param clock_difference: of the clocks of workers and vendor
    :param arrival: time from an intent to the create, unless the create waits for its turn
    """

    account: Account
    clock_difference: timedelta = timedelta(seconds=60)
    arrival: timedelta = timedelta(minutes=2)


def compare(predictions: Iterable[Prediction], known: Known, limits: Limits) -> list[Finding]:
    """Return a finding for each prediction, in the given order."""
    listed = list(predictions)
    places = {found.id: place for found in listed if (place := _place_of(found, known)) is not None}
    matches = _Matches([one for one in listed if one.id not in places], known.submissions, limits)
    return [
        Finding(prediction=one, owner=Owner.OURS, place=places[one.id])
        if one.id in places
        else matches.finding(one)
        for one in listed
    ]


def traceless(findings: Iterable[Finding], known: Known, limits: Limits, since: datetime) -> list[Submission]:
    """Return the intents of tasks that are over, where the account has no prediction; nothing is billed."""
    matched = {id(finding.submission) for finding in findings}
    return [
        submission
        for submission in known.submissions
        if submission.record.phase is Phase.INTENT
        and submission.is_over
        and submission.record.is_at(limits.account)
        and _intended(submission) >= since
        and id(submission) not in matched
    ]


def _place_of(prediction: Prediction, known: Known) -> Place | None:
    place = known.places.get(prediction.id)
    return place or known.places.get(prediction.upstream_id or "")


class _Matches:
    """Records that describe predictions without a known task."""

    def __init__(self, unknown: list[Prediction], submissions: Iterable[Submission], limits: Limits) -> None:
        self.limits = limits
        # A mark is computed once for each set of names, not for each record.
        self._by_mark: dict[tuple[str, ...], dict[str, list[Submission]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._by_seed: dict[int, list[Submission]] = defaultdict(list)
        self._open: list[tuple[datetime, Submission]] = []
        for submission in submissions:
            record = submission.record
            self._by_mark[record.marked][record.mark].append(submission)
            if record.is_seed_drawn and record.seed is not None:
                self._by_seed[record.seed].append(submission)
            if record.phase is Phase.INTENT:
                self._open.append((_intended(submission), submission))
        self._open.sort(key=lambda pair: pair[0])
        self._found: dict[str, tuple[Submission, bool]] = {}
        self._used: set[int] = set()
        self._match([one for one in unknown if one.input], is_certain=True)
        rest = [one for one in unknown if one.id not in self._found]
        self._match(rest, is_certain=False)

    def finding(self, prediction: Prediction) -> Finding:
        """Return the finding for a prediction without a known task."""
        submission, is_certain = self._found.get(prediction.id, (None, True))
        if submission is None:
            return Finding(prediction=prediction, owner=Owner.FOREIGN)
        is_intent = submission.record.phase is Phase.INTENT
        # The next attempt of a running task looks its lost create up by itself.
        is_ours = is_intent and not submission.is_over
        return Finding(
            prediction=prediction,
            owner=Owner.OURS if is_ours else Owner.ORPHAN,
            place=submission.place,
            submission=submission,
            # A person may run the author's input and seed a second time.
            is_certain=is_certain and (is_intent or submission.record.is_seed_drawn),
        )

    def _match(self, predictions: Iterable[Prediction], *, is_certain: bool) -> None:
        """Assign predictions to records, beginning with the pairs that lie nearest in time."""
        pairs = [
            (_distance(prediction, submission), number, prediction, submission)
            for number, prediction in enumerate(predictions)
            for submission in self._candidates(prediction)
            if self._fits(prediction, submission, is_certain=is_certain)
        ]
        pairs.sort(key=lambda pair: pair[:2])
        # An intent stands for one create. Equal input proves a further one, and nearness in time does not.
        for may_repeat in (False, True) if is_certain else (False,):
            for *_, prediction, submission in pairs:
                is_free = may_repeat or id(submission) not in self._used
                if is_free and prediction.id not in self._found:
                    self._used.add(id(submission))
                    self._found[prediction.id] = (submission, is_certain)

    def _candidates(self, prediction: Prediction) -> Iterator[Submission]:
        values = prediction.input
        if not values:
            yield from self._near(latest_time(prediction.created_at))
            return
        for names, submissions in self._by_mark.items():
            yield from submissions.get(mark_of(values, names), ())
        seed = values.get("seed")
        yield from self._by_seed.get(seed, ()) if isinstance(seed, int) else ()

    def _near(self, created: datetime | None) -> Iterator[Submission]:
        """Yield the open intents that a prediction without input may stand for."""
        if created is None:
            return
        lead = self.limits.clock_difference
        start = bisect_left(self._open, created - self.limits.arrival - lead, key=lambda pair: pair[0])
        end = bisect_right(self._open, created + lead, key=lambda pair: pair[0])
        for _, submission in self._open[start:end]:
            yield submission

    def _fits(self, prediction: Prediction, submission: Submission, *, is_certain: bool) -> bool:
        record, answer = submission.record, submission.record.is_of(prediction)
        if answer is False or answer is not (True if is_certain else None):
            return False
        if prediction.input and record.is_seed_drawn:
            # A drawn seed belongs to this task alone, in any account and at any time.
            return True
        created = latest_time(prediction.created_at)
        if created is None or created < datetime.fromisoformat(record.listed_from):
            return False
        # A rotated key is another key of the same account, and equal inputs make up for that.
        is_same_server = record.origin in (None, self.limits.account.origin)
        if not (is_same_server if is_certain else record.is_at(self.limits.account)):
            return False
        # An author's seed may recur in a later order of another person.
        return record.phase is Phase.INTENT or created <= self._last_moment(submission)

    def _last_moment(self, submission: Submission) -> datetime:
        """Return the latest creation of a second prediction of a record with a prediction."""
        own, intended = latest_time(submission.record.known.created_at), _intended(submission)
        return max(own or intended, intended) + self.limits.arrival + self.limits.clock_difference


def _distance(prediction: Prediction, submission: Submission) -> float:
    """Return the seconds between intent and creation."""
    created = latest_time(prediction.created_at)
    return abs((created - _intended(submission)).total_seconds()) if created else 0.0


def _intended(submission: Submission) -> datetime:
    return datetime.fromisoformat(submission.record.intended_at)
