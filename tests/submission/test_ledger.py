from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.exceptions import LedgerError, SubmissionUnknown, VaceAPIError
from airflow_vace.inputs import normalize_input
from airflow_vace.prediction import Prediction
from airflow_vace.submission.ledger import (
    KEY,
    Adopt,
    AttemptLedger,
    Decision,
    Gone,
    Ledger,
    Listed,
    LookAt,
    LookUp,
    Order,
    Phase,
    Reattach,
    Record,
    Refuse,
    Return,
    Submit,
    Told,
    decide,
)
from support.tasks import Store

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
FILE = {"uri": "file:///a.mp4", "size": 1, "sha256": "0", "content_type": "video/mp4"}


def order(model: str = "prunaai/vace-14b", conn_id: str = "vace_default", **values: Any) -> Order:
    known, _ = normalize_input({"prompt": "a fox", **values}, model=model)
    return Order(values=known, model=model, version=None, conn_id=conn_id)


def prediction(status: str, **more: Any) -> Prediction:
    return Prediction.from_json({"id": "abc", "status": status, **more})


def intent(of: Order | None = None, **more: Any) -> Record:
    record = Record.of(of or order(), deadline=NOW + 600, max_tries=2, before=None)
    return replace(record, intended_at="2026-01-01T11:59:00+00:00", **more)


def submitted(of: Order | None = None) -> Record:
    return intent(of).submitted(prediction("starting"))


def settled(status: str, **more: Any) -> Record:
    return submitted().settled(prediction(status, **more))


SUCCEEDED = prediction("succeeded", output="https://a/b.mp4")
EXPIRED = prediction("succeeded", data_removed=True)
RUNNING = prediction("processing")
GONE = Gone(error=VaceAPIError("no such prediction", status_code=404))
OTHER = order(prompt="an otter").fingerprint

# What is recorded, what the back-end says, what else there is → what is done.
TABLE: list[tuple[str, Record | None, Told, dict[str, Any], Decision]] = [
    ("nothing was ever submitted", None, None, {}, Submit()),
    # in flight
    ("submitted, not asked", submitted(), None, {}, LookAt(submitted().known)),
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
    ("settled, not asked", settled("succeeded"), None, {}, LookAt(settled("succeeded").known)),
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
        "its file is gone, whatever the server tells",
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
            told,
            {},
            Submit(why=f"Prediction abc of an earlier attempt {said}. {bill}"),
        )
        for status, said, bill in (
            ("failed", "has failed: E6716", "It may be billed for the time that it ran."),
            ("canceled", "was canceled: E6716", "It is billed for the time that it ran."),
            ("aborted", "was aborted: E6716", "It never started and is not billed."),
        )
        for when, record, told in (
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
    ("intent, not looked up", intent(nonce="n"), None, {}, LookUp(intent(nonce="n"))),
    (
        "intent, changed",
        intent(nonce="n", seed=1),
        None,
        {"fingerprint": OTHER},
        LookUp(intent(nonce="n", seed=1)),
    ),
]


def normal(decision: Decision) -> Any:
    """Return a decision without what is drawn by chance."""
    record = getattr(decision, "record", None) or getattr(decision, "intent", None)
    if record is None:
        return decision
    name = "record" if hasattr(decision, "record") else "intent"
    return replace(decision, **{name: replace(record, nonce="n", seed=1, mark="m")})


@pytest.mark.parametrize(
    ("record", "told", "more", "wanted"), [c[1:] for c in TABLE], ids=[c[0] for c in TABLE]
)
def test_what_follows_from_a_record(
    record: Record | None, told: Told, more: dict[str, Any], wanted: Decision
) -> None:
    arguments = {"fingerprint": order().fingerprint, "now": NOW, **more}
    decision = decide(record, told=told, **arguments)
    assert normal(decision) == normal(wanted)


FOUND = prediction("processing")


def test_a_lone_intent_that_the_list_shows_is_adopted() -> None:
    lone = intent()
    decision = decide(lone, lone.fingerprint, Listed(found=(FOUND,)), now=NOW)
    assert decision == Adopt(lone, FOUND)


def test_a_lone_intent_that_the_list_does_not_show_is_submitted() -> None:
    lone = intent()
    decision = decide(lone, lone.fingerprint, Listed(found=()), now=NOW)
    assert isinstance(decision, Submit)
    assert "nothing was paid for it" in decision.why


@pytest.mark.parametrize("listed", [Listed(found=None), Listed(found=(), is_unclear=True)], ids=str)
def test_a_lone_intent_that_cannot_be_looked_up_is_the_authors_to_decide(listed: Listed) -> None:
    lone = intent()
    refused = decide(lone, lone.fingerprint, listed, now=NOW)
    assert isinstance(refused, Refuse)
    assert isinstance(refused.error, SubmissionUnknown)
    assert not refused.error.may_be_retried
    for said in (lone.intended_at, KEY, "on_orphaned_intent='resubmit'", "VacePredictionSensor"):
        assert said in str(refused.error)
    again = decide(lone, lone.fingerprint, listed, now=NOW, on_orphaned_intent="resubmit")
    assert isinstance(again, Submit)
    assert "may be running, and be billed" in again.why


def test_of_several_that_are_ours_the_one_that_can_still_bring_a_video_is_adopted() -> None:
    failed, running, late = (
        replace(prediction(status), id=name)
        for name, status in (("f", "failed"), ("r", "processing"), ("l", "starting"))
    )
    drawn = intent()
    decision = decide(drawn, drawn.fingerprint, Listed(found=(failed, running, late)), now=NOW)
    assert decision == Adopt(drawn, running, (late,))
    twice = decide(drawn, drawn.fingerprint, Listed(found=(running, running)), now=NOW)
    assert twice == Adopt(drawn, running), "one that stands on two pages is one"
    chosen = intent(order(seed=7))
    decision = decide(chosen, chosen.fingerprint, Listed(found=(failed, running, late)), now=NOW)
    assert decision == Adopt(chosen, running), "with a chosen seed the others may be another task's"


def test_a_prediction_is_looked_at_and_not_listed() -> None:
    with pytest.raises(TypeError, match="looked at"):
        decide(submitted(), order().fingerprint, Listed(found=()), now=NOW)


# --- the fingerprint -------------------------------------------------------------------------------


def test_the_same_order_has_the_same_fingerprint() -> None:
    assert order().fingerprint == order(size="832x480", sample_steps="50", seed=-1).fingerprint
    assert order().fingerprint == order(sample_guide_scale=5.0).fingerprint
    assert order(model="PrunaAI/vace-14b").fingerprint == order().fingerprint


SIGNED = "https://b.s3.amazonaws.com/a.mp4?X-Amz-Signature=abc&X-Amz-Expires=60&v=1"
PATH = replace(order(), values={**order().values, "src_video": "s3://bucket/a.mp4"})


@pytest.mark.parametrize(
    ("of", "fingerprint", "mark"),
    [
        (order(), "b0eeb4ca469013c9", "8f825a919ebdc197"),
        (order(seed=7), "d3a0e5fa5f12349d", "d50d3c22c8f7f327"),
        (PATH, "ad937a477eac8d43", "43e0d321e00ea889"),
        (order(src_video=SIGNED), "8695988d0f6b80b7", "119216c18320364d"),
        (order("owner/name", steps=3.0, nested={"a": [1, None]}), "b7eba15cd7f7f782", "1d0fa8c4f8790210"),
    ],
    ids=["plain", "seed", "path", "signed", "other model"],
)
def test_fingerprints_are_those_that_stored_records_hold(of: Order, fingerprint: str, mark: str) -> None:
    """A release that changes them would pay again for what earlier attempts have submitted."""
    assert (of.fingerprint[:16], of.mark(of.marked)[:16]) == (fingerprint, mark)


# A record as it was before it held the address and the arguments.
EARLIER = {
    "phase": "submitted",
    "fingerprint": "b0eeb4ca469013c9794b1d0aee87e4bfbbc6e440b33a358706984a46560ab5c1",
    "mark": "8f825a919ebdc197def7a78a79ddaf8c7195783a6a7bb51531a563f5705c7e4c",
    "marked": ["prompt", "seed", "size"],
    "is_exact": True,
    "conn_id": "vace_default",
    "model": "prunaai/vace-14b",
    "version": None,
    "seed": 5,
    "is_seed_drawn": True,
    "nonce": "00ff00ff00ff00ff",
    "intended_at": "2026-01-01T11:59:00+00:00",
    "lost_since": None,
    "deadline": NOW + 600,
    "max_tries": 2,
    "prediction": {"id": "abc", "status": "starting"},
    "earlier": [],
}


def test_a_record_of_an_earlier_version_is_gone_on_with() -> None:
    record = Record.from_json(EARLIER)
    assert (record.is_own, record.deferred, record.origin, record.arguments) == (True, False, None, None)
    assert record.is_at("https://anywhere.example/v1", "any key"), "it says nothing of its account"
    decision = decide(record, order().fingerprint, RUNNING, now=NOW)
    assert decision == Reattach(record, RUNNING)


@pytest.mark.parametrize(
    "other",
    [
        order(prompt="an otter"),
        order(size="480*832"),
        order(seed=7),
        order(src_video="https://a/b.mp4"),
        order(conn_id="another"),
        order(model="someone/else"),
        replace(order(), version="v2"),
    ],
    ids=str,
)
def test_whatever_changes_the_video_or_the_bill_changes_the_fingerprint(other: Order) -> None:
    assert other.fingerprint != order().fingerprint


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (
            "https://s3/b/v.mp4?X-Amz-Date=1&X-Amz-Signature=a&versionId=3",
            "https://s3/b/v.mp4?X-Amz-Date=2&X-Amz-Signature=b&versionId=3",
        ),
        ("https://gcs/v.mp4?X-Goog-Signature=a&X-Goog-Expires=9", "https://gcs/v.mp4?X-Goog-Signature=b"),
        ("https://cdn/v.mp4?Expires=1&Signature=a&Key-Pair-Id=k", "https://cdn/v.mp4?Expires=2&Signature=b"),
        (
            "https://oss/v.mp4?OSSAccessKeyId=a&Signature=b&Expires=1&security-token=c",
            "https://oss/v.mp4?OSSAccessKeyId=d&Signature=e&Expires=2&security-token=f",
        ),
        ("https://oss/v.mp4?x-oss-signature=a&x-oss-date=1", "https://oss/v.mp4?x-oss-signature=b"),
        ("https://cos/v.mp4?q-signature=a&q-sign-time=1", "https://cos/v.mp4?q-signature=b"),
        ("https://az/v.mp4?sv=1&se=2&sr=b&sp=r&sig=a", "https://az/v.mp4?sv=1&se=3&sr=b&sp=r&sig=b"),
    ],
)
def test_a_signature_that_is_made_anew_is_no_other_input(one: str, two: str) -> None:
    assert order(src_video=one).fingerprint == order(src_video=two).fingerprint
    assert order(src_ref_images=[one]).fingerprint == order(src_ref_images=[two]).fingerprint
    assert order(src_video=one).fingerprint != order(src_video=one.replace("v.mp4", "w.mp4")).fingerprint


def test_a_prompt_that_begins_like_a_url_is_text() -> None:
    odd = order(prompt="http://[fox] on a hill")
    assert odd.fingerprint != order().fingerprint
    assert intent().is_of(echo(intent(), odd)) is False


def test_a_query_that_signs_nothing_counts() -> None:
    first, second = (order(src_video=f"https://a/b?id={n}&expires=1") for n in (1, 2))
    assert first.fingerprint != second.fingerprint
    signed, other = (order(src_video=f"https://a/b?id={n}&sig=x") for n in (1, 2))
    assert signed.fingerprint != other.fingerprint


# --- seeds -----------------------------------------------------------------------------------------


def test_a_seed_that_is_not_given_is_drawn_once_and_stays_with_a_lost_create() -> None:
    first = intent()
    assert first.is_seed_drawn
    assert first.seed is not None
    assert 0 <= first.seed < 2**31
    again = Record.of(order(), deadline=NOW, max_tries=2, before=first)
    assert (again.seed, again.lost_since) == (first.seed, first.intended_at)
    assert again.listed_from == first.listed_from
    assert again.nonce != first.nonce
    anew = Record.of(order(), deadline=NOW, max_tries=2, before=first.submitted(prediction("failed")))
    assert anew.seed != first.seed
    assert anew.earlier == ("abc",)
    changed = Record.of(order(prompt="x"), deadline=NOW, max_tries=2, before=first)
    assert changed.seed != first.seed


def test_a_seed_that_is_given_is_kept_and_another_models_is_none_of_ours() -> None:
    given = intent(order(seed=0))
    assert (given.seed, given.is_seed_drawn) == (0, False)
    other = intent(order(model="someone/else", seed=-1))
    assert (other.seed, other.is_seed_drawn) == (None, False)


# --- knowing a lost one again ----------------------------------------------------------------------


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


def test_what_is_another_is_told_apart() -> None:
    lone = intent()
    sibling = intent()
    assert lone.is_of(echo(sibling, order())) is False
    assert lone.is_of(echo(lone, order(), model="someone/else")) is False
    assert lone.is_of(echo(lone, order(), input={"prompt": "a fox"})) is False
    later = Record.of(order(seed=7), deadline=NOW, max_tries=2, before=submitted(order(seed=7)))
    assert later.is_of(echo(later, order(seed=7))) is False, "it is the one that was known before"
    assert later.is_of(replace(echo(later, order(seed=7)), id="def")) is True


def test_an_input_that_the_server_tells_otherwise_is_not_taken_for_another() -> None:
    lone = intent(order(prompt="a fox\n"))
    stripped = {**echo(lone, order()).input, "prompt": "a fox"}
    assert lone.is_of(echo(lone, order(), input=stripped)) is True
    assert lone.is_of(echo(lone, order(), input={**stripped, "prompt": "A FOX"})) is None


def test_an_input_that_is_gone_can_be_told_from_nothing() -> None:
    lone = intent()
    assert lone.is_of(echo(lone, order(), input={})) is None
    assert lone.is_of(echo(lone, order(), input={}, model="someone/else")) is False


def test_files_that_a_server_takes_out_of_the_input_do_not_hide_it() -> None:
    files = order(src_ref_images=["data:image/png;base64,AAAA"])
    drawn = intent(files)
    told = {**echo(drawn, files).input, "src_ref_images": ["https://replicate.delivery/x.png"]}
    assert drawn.is_of(echo(drawn, files, input=told)) is True
    chosen = intent(order(src_ref_images=["data:image/png;base64,AAAA"], seed=7))
    told = {**told, "seed": 7}
    assert chosen.is_of(echo(chosen, files, input=told)) is None, "it may be a sibling's with another file"


def test_the_list_is_read_from_some_time_before_the_intent() -> None:
    lone = intent()
    gap = datetime.fromisoformat(lone.intended_at) - datetime.fromisoformat(lone.listed_from)
    assert gap == timedelta(minutes=15)


# --- the record ------------------------------------------------------------------------------------


def test_a_record_survives_json_and_what_a_later_version_adds() -> None:
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


def test_what_was_saved_once_stays_known() -> None:
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
def test_what_is_no_record_is_not_taken_for_none(data: Any) -> None:
    store = Store()
    store.rows[KEY] = json.dumps(data)
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


# --- the ledger ------------------------------------------------------------------------------------


def test_an_intent_is_written_and_read_back() -> None:
    store, lone = Store(), intent()
    ledger = Ledger(store)
    assert ledger.read() is None
    ledger.intend(lone, None)
    assert ledger.read() == lone
    ledger.withdraw(None)
    assert ledger.read() is None


def test_an_intent_that_another_attempt_has_overwritten_is_none() -> None:
    store = Store()

    class Racing(Store):
        def get(self, key: str) -> Any:
            return {**intent().as_json(), "nonce": "another"} if key else None

    with pytest.raises(LedgerError, match="another attempt of this task runs"):
        Ledger(Racing()).intend(intent(), None)

    class Forgetful(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            """Lose it."""

    with pytest.raises(LedgerError, match="loses what it is given"):
        Ledger(Forgetful()).intend(intent(), None)
    assert store.rows == {}


@pytest.mark.parametrize("call", ["get", "set", "delete"])
def test_a_store_in_trouble_is_told_by_its_own_name(call: str) -> None:
    store = Store()
    store.trouble.append((call, RuntimeError("the API server is away")))
    ledger = Ledger(store)
    acts: dict[str, Callable[[], object]] = {
        "get": ledger.read,
        "set": lambda: ledger.write(intent()),
        "delete": lambda: ledger.withdraw(None),
    }
    act = acts[call]
    with pytest.raises(LedgerError, match=r"RuntimeError: the API server is away"):
        act()


def test_the_ledger_of_one_attempt_says_that_it_is_no_more() -> None:
    ledger = AttemptLedger(None)
    assert not ledger.is_durable
    ledger.intend(intent(), None)
    record = submitted()
    ledger.write(record)
    ledger.withdraw(None)
    assert ledger.read() == record
    assert AttemptLedger(None).read() is None


def test_time_is_wall_clock() -> None:
    record = Record.of(order(), deadline=NOW, max_tries=None, before=None)
    assert abs(datetime.fromisoformat(record.intended_at).timestamp() - time.time()) < 60
    assert record.phase is Phase.INTENT
