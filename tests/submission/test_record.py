"""Records: their JSON form, their seeds, and their comparison with listed predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.exceptions import LedgerError
from airflow_vace.submission.ledger import Ledger
from airflow_vace.submission.record import RECORD_KEY, Account, Phase, Record, Terms
from airflow_vace.submission.rejected import Rejected
from support.records import (
    EARLIER,
    EXPIRED,
    FILE,
    NOW,
    intended,
    intent,
    order,
    prediction,
    settled,
    submitted,
)
from support.tasks import Store

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction
    from airflow_vace.submission.order import Order

# --- JSON ------------------------------------------------------------------------------------------


def test_a_record_survives_json_and_members_of_later_versions() -> None:
    for record in (intent(), submitted(), settled("succeeded", files=[FILE])):
        text = json.dumps(record.as_json())
        assert Record.from_json(json.loads(text)) == record
        assert Record.from_json({**json.loads(text), "colour": "red"}) == record


def test_a_record_holds_neither_input_nor_output() -> None:
    secret = order(prompt="the secret prompt", src_video="https://a/b?sig=SIGNED", seed=5)
    record = intent(secret).submitted(
        prediction(
            "succeeded", output="https://out/SIGNED", urls={"get": "https://g", "stream": "https://SIGNED"}
        )
    )
    text = json.dumps(record.settled(record.known).as_json())
    assert "secret prompt" not in text
    assert "SIGNED" not in text
    assert '"get": "https://g"' in text


def test_saved_files_stay_recorded() -> None:
    record = settled("succeeded", files=[FILE])
    assert record.settled(EXPIRED).known.files == [FILE]


def broken(**changes: Any) -> dict[str, Any]:
    return {**submitted().as_json(), **changes}


@pytest.mark.parametrize(
    "data",
    [
        [],
        "intent",
        {},
        broken(phase="dreamt"),
        broken(prediction=None),
        broken(prediction={"id": "../x", "status": "starting"}),
        broken(deadline="soon"),
        broken(deadline=None),
        broken(intended_at="yesterday"),
        broken(intended_at=5),
        broken(marked=None),
    ],
)
def test_an_unreadable_record_is_not_taken_for_an_empty_store(data: Any) -> None:
    store = Store()
    store.rows[RECORD_KEY] = json.dumps(data)
    with pytest.raises(LedgerError, match="no record that this version can read"):
        Ledger(store).read()


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_no_json_makes_reading_a_record_fail_otherwise(data: Any) -> None:
    with pytest.raises(LedgerError):
        Record.from_json(data)


def test_a_record_of_an_earlier_version_is_read() -> None:
    record = Record.from_json(EARLIER)
    assert (record.is_own, record.deferred, record.origin, record.arguments) == (True, False, None, None)
    assert record.is_at(Account("https://anywhere.example/v1", "any key")), "it names no account"


def test_an_intent_holds_the_given_time() -> None:
    record = Record.of(order(), Terms(now=NOW, deadline=NOW), before=None)
    assert datetime.fromisoformat(record.intended_at).timestamp() == NOW
    assert record.phase is Phase.INTENT


# --- seeds -----------------------------------------------------------------------------------------


def test_a_drawn_seed_stays_with_a_lost_create() -> None:
    first = intent()
    assert first.is_seed_drawn
    assert first.seed is not None
    assert 0 <= first.seed < 2**31
    again = intended(order(), first)
    assert (again.seed, again.lost_since) == (first.seed, first.intended_at)
    assert again.listed_from == first.listed_from
    assert again.nonce != first.nonce
    second = intended(order(), first.submitted(prediction("failed")))
    assert second.seed != first.seed
    assert second.earlier == ("abc",)
    changed = intended(order(prompt="x"), first)
    assert changed.seed != first.seed


def test_an_earlier_prediction_is_not_adopted_under_the_vendors_id() -> None:
    before = intent(order(seed=5)).submitted(prediction("failed", upstream_id="up"))
    after = intended(order(seed=5), before)
    assert after.earlier == ("abc", "up")
    found = prediction("failed", input={"prompt": "a fox", "seed": 5})
    assert after.is_of(replace(found, id="up")) is False


def test_a_given_seed_and_another_models_seed_are_kept() -> None:
    given = intent(order(seed=0))
    assert (given.seed, given.is_seed_drawn) == (0, False)
    other = intent(order(model="someone/else", seed=-1))
    assert (other.seed, other.is_seed_drawn) == (None, False)


# --- comparison with listed predictions ------------------------------------------------------------


def echo(record: Record, of: Order, **more: Any) -> Prediction:
    values = {**of.values, **({} if record.seed is None else {"seed": record.seed})}
    return prediction("starting", **{"model": "prunaai/vace-14b", "input": values, **more})


def test_an_echo_with_or_without_defaults_is_known_again() -> None:
    one = order(src_video="https://s3/v.mp4?X-Amz-Signature=a")
    lone = intent(one)
    assert lone.is_of(echo(lone, one)) is True
    whole = {**echo(lone, one).input, "sample_steps": 50, "frame_num": 81}
    assert lone.is_of(echo(lone, one, input=whole)) is True
    for model in ("PrunaAI/VACE-14b", "hidden", "dp-123", None):
        assert lone.is_of(echo(lone, one, model=model)) is True


def test_another_prediction_is_excluded() -> None:
    lone = intent()
    sibling = intent()
    assert lone.is_of(echo(sibling, order())) is False
    assert lone.is_of(echo(lone, order(), model="someone/else")) is False
    assert lone.is_of(echo(lone, order(), input={"prompt": "a fox"})) is False
    later = intended(order(seed=7), submitted(order(seed=7)))
    assert later.is_of(echo(later, order(seed=7))) is False, "it is the one that was known before"
    assert later.is_of(replace(echo(later, order(seed=7)), id="def")) is True


def test_an_input_that_the_server_changes_leaves_the_match_unclear() -> None:
    lone = intent(order(prompt="a fox\n"))
    stripped = {**echo(lone, order()).input, "prompt": "a fox"}
    assert lone.is_of(echo(lone, order(), input=stripped)) is True
    assert lone.is_of(echo(lone, order(), input={**stripped, "prompt": "A FOX"})) is None


def test_a_deleted_input_leaves_the_match_unclear() -> None:
    lone = intent()
    assert lone.is_of(echo(lone, order(), input={})) is None
    assert lone.is_of(echo(lone, order(), input={}, model="someone/else")) is False


def test_files_that_a_server_replaces_do_not_hide_a_prediction() -> None:
    files = order(src_ref_images=["data:image/png;base64,AAAA"])
    drawn = intent(files)
    changed = {**echo(drawn, files).input, "src_ref_images": ["https://replicate.delivery/x.png"]}
    assert drawn.is_of(echo(drawn, files, input=changed)) is True
    chosen = intent(order(src_ref_images=["data:image/png;base64,AAAA"], seed=7))
    changed = {**changed, "seed": 7}
    assert chosen.is_of(echo(chosen, files, input=changed)) is None, "it may be a sibling's with another file"


def test_the_list_is_read_from_some_time_before_the_intent() -> None:
    lone = intent()
    gap = datetime.fromisoformat(lone.intended_at) - datetime.fromisoformat(lone.listed_from)
    assert gap == timedelta(minutes=15)


# --- rejected clips --------------------------------------------------------------------------------


def test_each_prediction_after_rejected_clips_has_another_seed() -> None:
    terms = Terms(now=NOW, deadline=NOW)
    for of, is_drawn in ((order(), True), (order(seed=7), False), (order("me/film", seed=7), False)):
        clips: tuple[Rejected, ...] = (Rejected(id="p0", seed=Record.of(of, terms, before=None).seed),)
        for number in range(1, 11):
            record = Record.of(of, terms, before=None, rejected=clips)
            again = Record.of(of, terms, before=record, rejected=clips)
            # A lost create keeps its seed, so it is still recognised when it appears late.
            assert again.seed == record.seed
            assert record.is_seed_drawn == is_drawn
            clips = (*clips, Rejected(id=f"p{number}", seed=record.seed))
        assert len({clip.seed for clip in clips}) == 11
        assert all(clip.seed is None or 0 <= clip.seed < 2**31 for clip in clips)


def test_a_record_keeps_rejected_clips_in_bounds() -> None:
    facts = {"problems": ["The prompt asks for more. " * 40] * 20}
    record = submitted().settled(prediction("succeeded", files=[{**FILE, "facts": facts}]))
    clip = record.as_rejected()
    assert (clip.id, clip.uri, clip.seed) == ("abc", FILE["uri"], record.seed)
    whole = replace(record, rejected=(clip,) * 10)
    text = json.dumps(whole.as_json())
    assert Record.from_json(json.loads(text)) == whole
    assert len(json.dumps(whole.as_json()["rejected"])) < 10_000
    assert whole.known.rejected == [clip.as_json()] * 10


@pytest.mark.parametrize("data", [None, 5, "x", {"id": "x"}, [{}], [5], [None], [[]]])
def test_unreadable_rejected_clips_cost_no_record(data: Any) -> None:
    assert Record.from_json(broken(rejected=data)).rejected == ()
