"""Report of a comparison, as text and as JSON."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_vace.core.pricing import money_text, run_seconds
from airflow_vace.core.spend import Spend
from airflow_vace.reconcile.comparison import Finding, Owner
from airflow_vace.submission.record import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from airflow_vace.core.pricing import Cost
    from airflow_vace.prediction import Prediction
    from airflow_vace.reconcile.known import Submission
    from airflow_vace.submission.record import Record

NO_RECORDS = (
    "This Airflow is older than 3.3 and keeps no records of submissions, so an orphan counts as foreign."
)
_MAX_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a comparison.

    :param charge: returns the cost of a prediction
    :param cancel_command: returns a shell command that cancels a prediction
    :param traceless: intents without a prediction
    :param troubles: sentences about predictions and values that could not be read
    """

    conn_id: str
    origin: str
    since: datetime
    findings: list[Finding] = field(repr=False)
    charge: Callable[[Prediction], Cost] = field(repr=False)
    cancel_command: Callable[[Prediction], str] = field(repr=False)
    traceless: list[Submission] = field(default_factory=list, repr=False)
    troubles: list[str] = field(default_factory=list)
    has_records: bool = True

    @property
    def exit_code(self) -> int:
        """0 without orphans, 1 with orphans, 2 if something could not be read."""
        if self.of(Owner.ORPHAN):
            return 1
        return 2 if self.troubles else 0

    def of(self, owner: Owner) -> list[Finding]:
        """Return the findings of one owner."""
        return [finding for finding in self.findings if finding.owner is owner]

    def spend(self, findings: Iterable[Finding]) -> Spend:
        """Return the sum of findings."""
        return Spend.of((finding.prediction for finding in findings), self.charge)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        yield f"Predictions of {self.conn_id} at {self.origin} since {self.since.isoformat()}"
        for owner in Owner:
            found = self.of(owner)
            yield f"{owner:>8} {shown(self.spend(found))}"
            if owner is Owner.OURS:
                for task, findings in _by_task(found).items():
                    yield f"         {task}: {shown(self.spend(findings))}"
        for finding in self.of(Owner.ORPHAN):
            yield ""
            yield from self._orphan(finding)
        for submission in self.traceless:
            yield ""
            yield (
                f"The account lists no prediction for the request of {submission.record.intended_at} of"
                f" {submission.place}. A clear of the task submits again."
            )
        yield from ([] if self.has_records else ["", f"Warning: {NO_RECORDS}"])
        for trouble in self.troubles[:_MAX_SHOWN]:
            yield f"Warning: {trouble}"
        if len(self.troubles) > _MAX_SHOWN:
            yield f"Warning: {len(self.troubles) - _MAX_SHOWN} more; --json shows all"

    def _orphan(self, finding: Finding) -> Iterator[str]:
        prediction = finding.prediction
        cost = self.charge(prediction)
        amount = "cost unknown" if cost.amount is None else money_text(cost.amount, cost.currency)
        yield f"Orphan {prediction.id}: {prediction.status}, created {prediction.created_at}, {amount}"
        for text in self._explanation(finding):
            yield f"  {text}"
        if not prediction.status.is_final:
            yield f"  To cancel: {self.cancel_command(prediction)}"

    def _explanation(self, finding: Finding) -> list[str]:
        """Return the reason and the next step for an orphan; nothing for other findings."""
        if finding.owner is not Owner.ORPHAN or finding.submission is None:
            return []
        record, place = finding.submission.record, finding.submission.place
        whose = "Of" if finding.is_certain else "Probably of"
        if record.phase is Phase.INTENT:
            reason = f"{whose} {place}, whose create of {record.intended_at} got no answer."
        else:
            reason = f"{whose} {place}, which has {record.known.id} for the same order: a second bill."
        return [reason, f"{finding.prediction.bill} {self._next_step(finding, record)}"]

    def _next_step(self, finding: Finding, record: Record) -> str:
        prediction, is_intent = finding.prediction, record.phase is Phase.INTENT
        # An attempt finds its lost create by input, in the list of its own connection.
        is_listed = record.origin in (None, self.origin)
        if is_intent and is_listed and finding.is_certain and prediction.input:
            return "Clear the task: its next attempt continues with this prediction."
        if prediction.data_removed or (prediction.status.is_final and not prediction.has_output):
            again = " To submit again, clear the task with on_orphaned_intent='resubmit'."
            return f"Without a file at the vendor, nothing can be fetched.{again if is_intent else ''}"
        return "A VacePredictionSensor on this id, with save_to, fetches the video within an hour of its end."

    def as_json(self) -> dict[str, Any]:
        """Return the report in plain JSON; `predictions` has a row for each prediction."""
        return {
            "conn_id": self.conn_id,
            "origin": self.origin,
            "since": self.since.isoformat(),
            "totals": {str(owner): self.spend(self.of(owner)).as_json() for owner in Owner},
            "predictions": [self._row(finding) for finding in self.findings],
            "intents_without_prediction": [
                {**asdict(one.place), "intended_at": one.record.intended_at} for one in self.traceless
            ],
            "has_records": self.has_records,
            "troubles": self.troubles,
            "exit_code": self.exit_code,
        }

    def _row(self, finding: Finding) -> dict[str, Any]:
        prediction = finding.prediction
        reason, advice = self._explanation(finding) or (None, None)
        return {
            "id": prediction.id,
            "owner": str(finding.owner),
            "is_certain": finding.is_certain,
            "status": str(prediction.status),
            "model": prediction.model,
            "created_at": prediction.created_at,
            "predict_seconds": run_seconds(prediction),
            "cost": self.charge(prediction).as_json(),
            "task": None if finding.place is None else asdict(finding.place),
            "reason": reason,
            "advice": advice,
        }


def shown(spend: Spend) -> str:
    """Return a sum as text, such as `200 predictions, 1,234 s, $80.00`."""
    parts = [
        f"{spend.count:,} prediction{'' if spend.count == 1 else 's'}",
        f"{spend.predict_seconds:,.0f} s",
    ]
    parts += [money_text(amount, currency) for currency, amount in sorted(spend.amounts.items())]
    if spend.unpriced:
        parts.append(f"{spend.unpriced:,} without a known cost")
    return ", ".join(parts)


def _by_task(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.place is not None:
            found[f"{finding.place.dag_id}.{finding.place.task_id}"].append(finding)
    return dict(sorted(found.items()))
