"""Owners of predictions, from records of all kinds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.prediction import Prediction
from airflow_vace.reconcile.comparison import Limits, Owner, compare, traceless
from airflow_vace.reconcile.known import Known, Place, Submission
from airflow_vace.submission.record import Account
from support.records import intent, order, prediction

if TYPE_CHECKING:
    from airflow_vace.submission.record import Record

INTENDED = datetime(2026, 1, 1, 11, 59, tzinfo=UTC)
HERE = Account(origin="https://here/v1", key="k")
LIMITS = Limits(account=HERE)


def listed(name: str, *, after: float = 1.0, **members: Any) -> Prediction:
    """Return a listed prediction, created some seconds after the intents."""
    created = (INTENDED + timedelta(seconds=after)).isoformat()
    return Prediction.from_json({"id": name, "status": "succeeded", "created_at": created, **members})


def echo(record: Record, name: str, *, after: float = 1.0, **values: Any) -> Prediction:
    """Return the listed prediction of a record's order."""
    given = record.seeded(order(**values).values)
    return listed(name, after=after, model="prunaai/vace-14b", input=dict(given))


def known_of(*records: Record, is_over: bool = True) -> Known:
    known = Known()
    for number, record in enumerate(records):
        place = Place(dag_id="d", run_id="r", task_id="t", map_index=number)
        known.add_record(place, record, is_over=is_over)
    return known


def owners(known: Known, *predictions: Prediction, limits: Limits = LIMITS) -> dict[str, tuple[str, bool]]:
    found = compare(predictions, known, limits)
    return {one.prediction.id: (str(one.owner), one.is_certain) for one in found}


ORPHAN, DOUBTFUL = ("orphan", True), ("orphan", False)
OURS, FOREIGN = ("ours", True), ("foreign", True)


def test_a_recorded_prediction_is_ours_also_an_earlier_one() -> None:
    record = replace(intent(), earlier=("old",)).submitted(prediction("starting", upstream_id="vendors"))
    found = owners(known_of(record), listed("abc"), listed("old"), listed("vendors"), listed("other"))
    assert found == {"abc": OURS, "old": OURS, "vendors": OURS, "other": FOREIGN}


def test_a_prediction_with_the_intents_input_is_an_orphan() -> None:
    record = intent()
    found = owners(known_of(record), echo(record, "lost"), echo(record, "other", prompt="a dog", seed=3))
    assert found == {"lost": ORPHAN, "other": FOREIGN}


def test_the_create_of_a_running_task_is_ours() -> None:
    record = intent()
    known = known_of(record, is_over=False)
    (found,) = compare([echo(record, "lost")], known, LIMITS)
    assert (found.owner, found.place) == (Owner.OURS, known.submissions[0].place)


def test_a_second_prediction_of_a_recorded_order_is_an_orphan() -> None:
    lost = intent()
    record = replace(lost, lost_since=lost.intended_at).submitted(prediction("starting"))
    assert owners(known_of(record, is_over=False), echo(lost, "second")) == {"second": ORPHAN}


def test_equal_orders_of_siblings_share_their_orphans_out() -> None:
    siblings = [intent(order(seed=7)) for _ in range(3)]
    known = known_of(*siblings)
    found = compare([echo(siblings[0], name, seed=7) for name in "abc"], known, LIMITS)
    assert {one.place.map_index for one in found if one.place} == {0, 1, 2}
    assert {one.owner for one in found} == {Owner.ORPHAN}


def test_an_authors_seed_in_a_later_order_is_another_persons() -> None:
    record = intent(order(seed=7)).submitted(prediction("starting", created_at=INTENDED.isoformat()))
    soon, later = echo(record, "soon", seed=7), echo(record, "later", after=3600, seed=7)
    assert owners(known_of(record), soon, later) == {"soon": DOUBTFUL, "later": FOREIGN}


def test_a_prediction_before_the_intent_is_foreign() -> None:
    record = intent(order(seed=7))
    assert owners(known_of(record), echo(record, "early", after=-1000, seed=7)) == {"early": FOREIGN}


def test_after_the_input_is_deleted_the_nearest_in_time_is_doubtful() -> None:
    records = [intent(), replace(intent(), intended_at="2026-01-01T12:30:00+00:00")]
    gone = {
        name: listed(name, after=after, data_removed=True)
        for name, after in {"near": 0.5, "neighbour": -5, "other": 20, "late": 1800, "far": 600}.items()
    }
    found = owners(known_of(*records), *gone.values())
    assert {name for name, owner in found.items() if owner == DOUBTFUL} == {"near", "late"}
    assert {name for name, owner in found.items() if owner == FOREIGN} == {"neighbour", "other", "far"}


def test_files_in_an_order_make_an_orphan_doubtful() -> None:
    record = replace(intent(order(seed=7)), is_exact=False)
    assert owners(known_of(record), echo(record, "lost", seed=7)) == {"lost": DOUBTFUL}


def test_a_drawn_seed_with_another_input_is_doubtful() -> None:
    record = intent()
    changed = listed("changed", input={"prompt": "another", "seed": record.seed})
    assert owners(known_of(record), changed) == {"changed": DOUBTFUL}


def test_without_a_time_only_a_drawn_seed_identifies_an_orphan() -> None:
    drawn, fixed = intent(), intent(order(seed=7))
    found = owners(
        known_of(drawn, fixed),
        replace(echo(drawn, "drawn"), created_at=None),
        replace(echo(fixed, "fixed", seed=7), created_at=None),
        replace(listed("gone"), created_at=None),
    )
    assert found == {"drawn": ORPHAN, "fixed": FOREIGN, "gone": FOREIGN}


def test_another_model_is_foreign() -> None:
    record = intent()
    values = dict(record.seeded(order().values))
    assert owners(known_of(record), listed("x", input=values, model="other/model")) == {"x": FOREIGN}


@pytest.mark.parametrize(
    ("origin", "seed", "owner"),
    [
        (HERE.origin, -1, ORPHAN),
        (HERE.origin, 7, ORPHAN),
        ("https://elsewhere/v1", -1, ORPHAN),
        ("https://elsewhere/v1", 7, FOREIGN),
    ],
)
def test_a_rotated_key_hides_no_orphan(origin: str, seed: int, owner: tuple[str, bool]) -> None:
    record = replace(intent(order(seed=seed)), origin=origin, account="digest of another key")
    assert owners(known_of(record), echo(record, "lost", seed=seed)) == {"lost": owner}
    # Without an input nothing proves that the other key is of the same account.
    assert owners(known_of(record), listed("gone")) == {"gone": FOREIGN}


def test_intents_without_a_prediction_are_listed() -> None:
    there, missing, running, old = intent(), intent(), intent(), intent()
    known = known_of(there, missing, replace(old, intended_at="2025-01-01T00:00:00+00:00"))
    known.submissions.append(
        Submission(place=Place(dag_id="d", run_id="r", task_id="busy"), record=running, is_over=False)
    )
    since = INTENDED - timedelta(hours=1)
    found = traceless(compare([echo(there, "lost")], known, LIMITS), known, LIMITS, since)
    assert [one.place.map_index for one in found] == [1]


def test_a_video_that_a_task_reuses_belongs_to_its_maker() -> None:
    known = Known()
    reader, maker = (Place(dag_id="d", run_id="r", task_id=name) for name in ("reader", "maker"))
    known.add_prediction(reader, prediction("succeeded"), is_own=False)
    known.add_prediction(maker, prediction("succeeded"), is_own=True)
    known.finish()
    assert known.places["abc"] == maker
