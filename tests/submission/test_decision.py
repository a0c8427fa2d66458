"""Decisions: the step that follows from a record and a back-end's evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_vace.exceptions import SubmissionUnknown
from airflow_vace.submission.decision import (
    Adopt,
    Evidence,
    Listed,
    OnOrphanedIntent,
    Policy,
    Poll,
    Reattach,
    Refuse,
    Return,
    Search,
    Situation,
    Step,
    Submit,
    decide,
)
from airflow_vace.submission.record import RECORD_KEY, Record
from airflow_vace.submission.rejected import Rejected
from support.records import (
    EARLIER,
    EXPIRED,
    FILE,
    GONE,
    NOW,
    RUNNING,
    SUCCEEDED,
    intent,
    order,
    prediction,
    settled,
    submitted,
)


def decided(
    record: Record | None,
    evidence: Evidence,
    *,
    reuse: bool = True,
    on_orphaned_intent: OnOrphanedIntent = "fail",
    **more: Any,
) -> Step:
    """Decide for the usual order at the usual time, except for the given circumstances."""
    policy = Policy(timeout=600, reuse=reuse, on_orphaned_intent=on_orphaned_intent)
    given = {"fingerprint": order().fingerprint, "now": NOW, **more}
    return decide(record, evidence, Situation(policy=policy, **given))


OTHER = order(prompt="an otter").fingerprint

# What is recorded, what the back-end says, what else there is → what is done.
TABLE: list[tuple[str, Record | None, Evidence, dict[str, Any], Step]] = [
    ("nothing was ever submitted", None, None, {}, Submit()),
    # in flight
    ("submitted, not asked", submitted(), None, {}, Poll(submitted().known)),
    ("starting", submitted(), prediction("starting"), {}, Reattach(submitted(), prediction("starting"))),
    ("processing", submitted(), RUNNING, {}, Reattach(submitted(), RUNNING)),
    ("an unknown status", submitted(), prediction("odd"), {}, Reattach(submitted(), prediction("odd"))),
    ("running, cleared", submitted(), RUNNING, {"is_cleared": True}, Reattach(submitted(), RUNNING)),
    (
        "running, cleared, not to be reused",
        submitted(),
        RUNNING,
        {"is_cleared": True, "reuse": False},
        Reattach(submitted(), RUNNING),
    ),
    # succeeded
    ("succeeded", submitted(), SUCCEEDED, {}, Return(submitted(), SUCCEEDED)),
    ("settled, not asked", settled("succeeded"), None, {}, Poll(settled("succeeded").known)),
    ("settled, still there", settled("succeeded"), SUCCEEDED, {}, Return(settled("succeeded"), SUCCEEDED)),
    (
        "succeeded, retried without reuse: nobody has had it yet",
        submitted(),
        SUCCEEDED,
        {"reuse": False},
        Return(submitted(), SUCCEEDED),
    ),
    (
        "succeeded, cleared without reuse",
        settled("succeeded"),
        SUCCEEDED,
        {"is_cleared": True, "reuse": False},
        Submit(why="Prediction abc has succeeded, but reuse=False asks for a new one."),
    ),
    # succeeded and expired
    (
        "expired, nothing saved",
        settled("succeeded"),
        EXPIRED,
        {},
        Submit(
            why="Prediction abc has ended and its files have been deleted since, with nothing saved by"
            " this task. It is billed all the same."
        ),
    ),
    (
        "expired, saved",
        settled("succeeded", files=[FILE]),
        EXPIRED,
        {},
        Return(settled("succeeded", files=[FILE]), replace(EXPIRED, files=[FILE])),
    ),
    (
        "forgotten, saved",
        settled("succeeded", files=[FILE]),
        GONE,
        {},
        Return(
            settled("succeeded", files=[FILE]),
            replace(settled("succeeded", files=[FILE]).known, data_removed=True),
        ),
    ),
    (
        "forgotten long after its deadline",
        submitted(),
        GONE,
        {"now": NOW + 600 + 3601},
        Submit(
            why="Prediction abc has ended and its files have been deleted since, with nothing saved by"
            " this task. It is billed all the same."
        ),
    ),
    ("forgotten while it should run", submitted(), GONE, {}, Refuse(GONE.error)),
    (
        "forgotten soon after its success: another server, or key",
        settled("succeeded", completed_at="2026-01-01T11:59:30Z"),
        GONE,
        {},
        Refuse(GONE.error),
    ),
    (
        "forgotten an hour after its success",
        settled("succeeded", completed_at="2026-01-01T10:59:30Z"),
        GONE,
        {},
        Submit(
            why="Prediction abc has ended and its files have been deleted since, with nothing saved by"
            " this task. It is billed all the same."
        ),
    ),
    (
        "its file is gone, whatever the server answers",
        settled("succeeded", data_removed=True),
        SUCCEEDED,
        {},
        Submit(
            why="Prediction abc has ended and its files have been deleted since, with nothing saved by"
            " this task. It is billed all the same."
        ),
    ),
    # ended without a video
    *(
        (
            f"{status}, {when}",
            record,
            evidence,
            {},
            Submit(why=f"Prediction abc of an earlier attempt {said}. {bill}"),
        )
        for status, said, bill in (
            ("failed", "has failed: E6716", "It may be billed for the time that it ran."),
            ("canceled", "was canceled: E6716", "It is billed for the time that it ran."),
            ("aborted", "was aborted: E6716", "It never started and is not billed."),
        )
        for when, record, evidence in (
            ("seen now", submitted(), prediction(status, error="E6716")),
            ("seen before", settled(status, error="E6716"), None),
        )
    ),
    # another input
    (
        "changed, running",
        submitted(),
        None,
        {"fingerprint": OTHER},
        Submit(
            why="Prediction abc of an earlier attempt was made from another input, model, version or"
            " connection. It is canceled, if it still runs.",
            cancel=submitted().known,
        ),
    ),
    (
        "changed, ended",
        settled("succeeded"),
        None,
        {"fingerprint": OTHER},
        Submit(
            why="Prediction abc of an earlier attempt was made from another input, model, version or"
            " connection. It is billed."
        ),
    ),
    # a lone intent
    ("intent, not looked up", intent(nonce="n"), None, {}, Search(intent(nonce="n"))),
    (
        "intent, changed",
        intent(nonce="n", seed=1),
        None,
        {"fingerprint": OTHER},
        Search(intent(nonce="n", seed=1)),
    ),
]


def normal(step: Step) -> Any:
    """Return a step without random members."""
    record = getattr(step, "record", None) or getattr(step, "intent", None)
    if record is None:
        return step
    name = "record" if hasattr(step, "record") else "intent"
    return replace(step, **{name: replace(record, nonce="n", seed=1, mark="m")})


@pytest.mark.parametrize(
    ("record", "evidence", "more", "wanted"), [c[1:] for c in TABLE], ids=[c[0] for c in TABLE]
)
def test_a_record_and_evidence_lead_to_a_step(
    record: Record | None, evidence: Evidence, more: dict[str, Any], wanted: Step
) -> None:
    assert normal(decided(record, evidence, **more)) == normal(wanted)


def test_a_record_of_an_earlier_version_continues() -> None:
    record = Record.from_json(EARLIER)
    assert decided(record, RUNNING) == Reattach(record, RUNNING)


FOUND = prediction("processing")


def test_a_lone_intent_that_the_list_shows_is_adopted() -> None:
    lone = intent()
    step = decided(lone, Listed(found=(FOUND,)))
    assert step == Adopt(lone, FOUND)


def test_a_lone_intent_that_the_list_does_not_show_is_submitted() -> None:
    lone = intent()
    step = decided(lone, Listed(found=()), fingerprint=lone.fingerprint)
    assert isinstance(step, Submit)
    assert "nothing was paid for it" in step.why


@pytest.mark.parametrize("listed", [Listed(found=None), Listed(found=(), is_unclear=True)], ids=str)
def test_the_author_decides_about_a_lone_intent_without_a_search(listed: Listed) -> None:
    lone = intent()
    refused = decided(lone, listed, fingerprint=lone.fingerprint)
    assert isinstance(refused, Refuse)
    assert isinstance(refused.error, SubmissionUnknown)
    assert not refused.error.may_be_retried
    for said in (lone.intended_at, RECORD_KEY, "on_orphaned_intent='resubmit'", "VacePredictionSensor"):
        assert said in str(refused.error)
    again = decided(lone, listed, fingerprint=lone.fingerprint, on_orphaned_intent="resubmit")
    assert isinstance(again, Submit)
    assert "may be running, and be billed" in again.why


def test_of_several_found_predictions_the_most_promising_is_adopted() -> None:
    failed, running, late = (
        replace(prediction(status), id=name)
        for name, status in (("f", "failed"), ("r", "processing"), ("l", "starting"))
    )
    drawn = intent()
    step = decided(drawn, Listed(found=(failed, running, late)), fingerprint=drawn.fingerprint)
    assert step == Adopt(drawn, running, (late,))
    twice = decided(drawn, Listed(found=(running, running)), fingerprint=drawn.fingerprint)
    assert twice == Adopt(drawn, running), "one that stands on two pages is one"
    chosen = intent(order(seed=7))
    step = decided(chosen, Listed(found=(failed, running, late)), fingerprint=chosen.fingerprint)
    assert step == Adopt(chosen, running), "with a chosen seed the others may be another task's"


def test_a_prediction_is_polled_and_not_listed() -> None:
    with pytest.raises(TypeError, match="polled"):
        decided(submitted(), Listed(found=()))


# --- rejected clips --------------------------------------------------------------------------------

BAD = {**FILE, "facts": {"problems": ["100% of the frames are black."]}}


def rejected(*ids: str) -> tuple[Rejected, ...]:
    return tuple(Rejected(id=each, seed=number) for number, each in enumerate(ids))


def bad(*earlier: str) -> Record:
    return replace(settled("succeeded", files=[BAD]), rejected=rejected(*earlier))


def regenerating(record: Record, evidence: Evidence = None, count: int = 2, **more: Any) -> Step:
    policy = Policy(timeout=600, max_regenerations=count, reuse=more.pop("reuse", True))
    given = {"fingerprint": order().fingerprint, "now": NOW, **more}
    return decide(record, evidence, Situation(policy=policy, **given))


def test_a_recorded_problem_leads_to_another_prediction_without_a_poll() -> None:
    step = regenerating(bad("x"))
    assert isinstance(step, Submit)
    assert [clip.id for clip in step.rejected] == ["x", "abc"]
    assert "Regeneration 2 of 2, with another seed." in step.why
    assert "100% of the frames are black." in step.why


def test_the_last_rejected_clip_is_the_result() -> None:
    assert regenerating(bad("x", "y")) == Poll(bad("x", "y").known)
    assert isinstance(regenerating(bad("x", "y"), SUCCEEDED), Return)
    assert isinstance(regenerating(bad(), SUCCEEDED, count=0), Return)


@pytest.mark.parametrize(
    ("record", "evidence"),
    [
        (replace(settled("failed"), rejected=rejected("x")), None),
        (replace(submitted(), rejected=rejected("x")), prediction("canceled")),
        (replace(submitted(), rejected=rejected("x")), EXPIRED),
        (intent(rejected=rejected("x")), Listed(found=())),
    ],
    ids=["failed", "canceled", "expired", "lost"],
)
def test_rejected_clips_count_for_each_further_prediction_of_the_order(
    record: Record, evidence: Evidence
) -> None:
    step = regenerating(record, evidence)
    assert isinstance(step, Submit)
    assert step.rejected == rejected("x")
    fresh = regenerating(record, evidence, is_cleared=True, reuse=False)
    assert isinstance(fresh, Submit)
    assert fresh.rejected == ()


def test_another_order_begins_without_rejected_clips() -> None:
    step = regenerating(bad("x"), fingerprint=OTHER)
    assert isinstance(step, Submit)
    assert step.rejected == ()
