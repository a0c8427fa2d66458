"""Cards of the Videos tab: shown and hidden values of a task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_vace.input_fields import SPEED_MODES
from airflow_vace.ui.cards import Task, cards_of, shown_cost
from airflow_vace.ui.xcoms import read_value


def task(**more: Any) -> Task:
    return Task(**{"instance": "i", "task_id": "t", "map_index": -1, "state": "success", **more})


def nowhere(*_: object) -> None:
    return None


PAYLOAD = {
    "id": "p1",
    "status": "succeeded",
    "model": "prunaai/vace-14b",
    "urls": {"get": "https://g/p1", "web": "https://w/p1"},
    "output": "https://delivery.example/a.mp4",
    "completed_at": "2026-01-01T12:00:00Z",
}
NOON = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def test_an_unsaved_video_plays_from_the_back_end_for_an_hour() -> None:
    (card,) = cards_of([task(result=PAYLOAD)], nowhere, NOON)
    assert card.videos == [{"src": PAYLOAD["output"], "type": None, "size": None, "where": "back-end"}]
    (card,) = cards_of([task(result=PAYLOAD)], nowhere, NOON + timedelta(hours=1))
    assert not card.videos
    assert "save_to" in (card.note or "")


@pytest.mark.parametrize(
    ("uri", "root"),
    [("s3://bucket/clips/a.mp4", "s3://bucket/clips/"), ("file:///data/clips/a.mp4", "/data/clips/")],
)
def test_a_video_saved_outside_of_the_roots_names_the_missing_root_at_once(uri: str, root: str) -> None:
    (card,) = cards_of([task(result={**PAYLOAD, "files": [{"uri": uri}]})], nowhere, NOON)
    assert [video["where"] for video in card.videos] == ["back-end"]
    assert card.hint == {"until": "2026-01-01T13:00:00+00:00", "root": root}


def test_an_unsaved_video_has_a_hint_unless_the_task_may_still_save_it() -> None:
    (card,) = cards_of([task(result=PAYLOAD)], nowhere, NOON)
    assert card.hint == {"until": "2026-01-01T13:00:00+00:00", "root": None}
    (card,) = cards_of([task(view={"prediction": PAYLOAD}, state="running")], nowhere, NOON)
    assert (card.is_open, card.hint) == (True, None)
    saved = task(result={**PAYLOAD, "files": [{"uri": "file:///a.mp4"}]})
    (card,) = cards_of([saved], lambda *_: "/files/i/0", NOON)
    assert card.hint is None


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        (SPEED_MODES["lightly"], "lightly"),
        ("Other", "Other"),
        ("extra", "extra"),
        (None, None),
    ],
)
def test_a_card_has_the_short_word_of_a_speed(mode: object, shown: object) -> None:
    view = {"prediction": PAYLOAD, "input": {"speed_mode": mode}}
    (card,) = cards_of([task(view=view)], nowhere, NOON)
    assert card.input.get("speed_mode") == shown


def test_a_time_at_the_end_of_the_calendar_does_not_break_the_gallery() -> None:
    (card,) = cards_of([task(result={**PAYLOAD, "completed_at": "9999-12-31T23:59:59Z"})], nowhere, NOON)
    assert card.hint == {"until": None, "root": None}


def test_a_signed_output_plays_by_a_route_or_has_a_note() -> None:
    signed = {**PAYLOAD, "output": f"{PAYLOAD['output']}?…"}
    (card,) = cards_of([task(result=signed)], nowhere, NOON, lambda task, number: f"/{task.task_id}/{number}")
    assert card.videos == [{"src": "/t/0", "type": None, "size": None, "where": "back-end"}]
    (card,) = cards_of([task(result=signed)], nowhere, NOON)
    assert not card.videos
    assert "signed" in (card.note or "")
    assert "save_to" in (card.note or "")


def test_a_card_has_the_cost_of_all_attempts_that_two_tasks_know() -> None:
    paid = {"amount": "0.40", "currency": "USD", "basis": "per_run"}
    submit = task(
        task_id="submit",
        result={**PAYLOAD, "status": "starting", "cost": {**paid, "task": "0.80", "reserved": "0.40"}},
    )
    wait = task(result={**PAYLOAD, "cost": paid})
    for order in ([submit, wait], [wait, submit]):
        (card,) = cards_of(order, nowhere, NOON)
        assert card.cost == {**paid, "task": "0.80"}
    (card,) = cards_of([submit], nowhere, NOON)
    assert (card.cost or {})["reserved"] == "0.40"


def test_a_card_has_the_reserved_cost_until_the_duration_is_known() -> None:
    by_second = {"currency": "USD", "basis": "per_second"}
    reserved = {**by_second, "amount": "0.84", "reserved": "0.84"}
    started = {**PAYLOAD, "status": "starting", "completed_at": None}
    submit = task(task_id="submit", result={**started, "cost": reserved})
    waiting = {"prediction": {**started, "cost": {**by_second, "amount": None}}}
    for order in ([submit, task(view=waiting)], [task(view=waiting), submit]):
        (card,) = cards_of(order, nowhere, NOON)
        assert card.cost == reserved


def test_a_paid_video_and_its_reuse_have_a_card_each() -> None:
    paid = {"amount": "0.40", "currency": "USD", "basis": "per_run"}
    saved = {**paid, "amount": "0.00", "saved": "0.40"}
    made = task(task_id="make", result={**PAYLOAD, "cost": paid})
    reused = task(task_id="reuse", result={**PAYLOAD, "reused": True, "cost": saved})
    for order in ([made, reused], [reused, made]):
        cards = {card.task_id: card.cost for card in cards_of(order, nowhere, NOON)}
        assert cards == {"make": paid, "reuse": saved}


@pytest.mark.parametrize("cost", [0.4, "0.40", [], {"amount": "0.40"}])
def test_a_cost_of_another_form_shows_nothing(cost: object) -> None:
    (card,) = cards_of([task(result={**PAYLOAD, "cost": cost})], nowhere, NOON)
    assert card.cost is None


def test_a_cost_keeps_the_number_of_items_without_a_price() -> None:
    cost = {"amount": "0.80", "currency": "USD", "basis": "per_run", "unpriced": 2}
    assert shown_cost({**cost, "other": 7}) == cost


def test_a_card_has_label_and_seed() -> None:
    named = {**PAYLOAD, "label": "Trail shoe", "seed": 7}
    tasks = [task(task_id="submit", result={**named, "status": "starting"}), task(result=PAYLOAD)]
    for order in (tasks, tasks[::-1]):
        (card,) = cards_of(order, nowhere, NOON)
        assert (card.status, card.label) == ("succeeded", "Trail shoe")
    (card,) = cards_of([task(result=named)], nowhere, NOON)
    assert (card.label, card.seed) == ("Trail shoe", 7)


def test_a_card_has_the_rejected_clips_without_their_addresses() -> None:
    clip = {
        "id": "p0",
        "seed": 7,
        "uri": "s3://b/p0.mp4",
        "problems": ["All frames are black."],
        "cost": None,
    }
    tasks = [task(result={**PAYLOAD, "rejected": [clip, {"id": "p00", "problems": None}]})]
    (card,) = cards_of(tasks, nowhere, NOON, rejected=lambda *of: f"/{of[1]}" if of[2].get("uri") else None)
    assert card.rejected == [
        {"id": "p0", "seed": 7, "problems": ["All frames are black."], "src": "/0"},
        {"id": "p00", "seed": None, "problems": [], "src": None},
    ]


def test_a_submitting_task_and_its_sensor_share_one_card() -> None:
    view = {"prediction": {**PAYLOAD, "status": "starting", "output": None}, "input": {"prompt": "a fox"}}
    tasks = [task(task_id="submit", view=view), task(task_id="wait", result=PAYLOAD, view={"input": {}})]
    for order in (tasks, tasks[::-1]):
        (card,) = cards_of(order, nowhere, NOON)
        assert (card.task_id, card.status, card.input) == ("wait", "succeeded", {"prompt": "a fox"})
        assert card.videos


def test_while_the_sensor_waits_the_card_is_open() -> None:
    view = {"prediction": {**PAYLOAD, "status": "starting", "output": None, "completed_at": None}}
    tasks = [task(task_id="submit", view=view), task(task_id="wait", view=view, state="deferred")]
    for order in (tasks, tasks[::-1]):
        (card,) = cards_of(order, nowhere, NOON)
        assert (card.task_id, card.is_open) == ("wait", True)


@pytest.mark.parametrize("status", ["failed", "canceled", "starting"])
def test_the_card_of_a_failed_sensor_has_the_error(status: str) -> None:
    # A back-end without times, or a sensor that ended before the prediction.
    started = {**PAYLOAD, "status": "starting", "output": None, "completed_at": None}
    view = {"prediction": {**started, "status": status}, "error": "The prediction has no video."}
    tasks = [
        task(task_id="submit", view={"prediction": started, "input": {"prompt": "a fox"}}),
        task(task_id="wait", view=view, state="failed"),
    ]
    for order in (tasks, tasks[::-1]):
        (card,) = cards_of(order, nowhere, NOON)
        assert (card.task_id, card.status, card.error) == ("wait", status, "The prediction has no video.")
        assert card.input == {"prompt": "a fox"}


@pytest.mark.parametrize(
    "value",
    [None, "text", 5, [], {}, {"prediction": None}, {"id": "../x"}, {"id": 5}, {"id": "p1", "status": 7}],
)
def test_other_values_in_xcom_make_an_empty_card(value: Any) -> None:
    (card,) = cards_of([task(result=value, view=value, state="failed")], nowhere, NOON)
    assert card.videos == []


def test_each_pass_of_a_loop_has_a_card() -> None:
    passes: list[dict[str, Any]] = [
        {"result": {**PAYLOAD, "id": "p1"}},
        {"result": {**PAYLOAD, "id": "p2"}},
        {"view": {"error": "out of memory"}, "state": "failed"},
        {"state": "running"},
    ]
    tasks = [
        task(instance=f"i{number}", map_index=0, loop_pass=number, **values)
        for number, values in enumerate(passes, start=1)
    ]
    cards = cards_of(tasks, nowhere, NOON)
    assert [(card.instance, card.loop_pass) for card in cards] == [(f"i{n}", n) for n in (1, 2, 3, 4)]
    assert [card.id for card in cards] == ["p1", "p2", None, None]


def test_a_card_says_why_a_value_could_not_be_read() -> None:
    (card,) = cards_of([task(trouble="The store is away.")], nowhere, NOON)
    assert card.note == "The store is away."
    view = {"prediction": {**PAYLOAD, "status": "starting", "output": None, "completed_at": None}}
    (card,) = cards_of([task(view=view, trouble="The store is away.")], nowhere, NOON)
    assert (card.id, card.note) == ("p1", "The store is away.")
    (card,) = cards_of([task(result=PAYLOAD, trouble="The store is away.")], nowhere, NOON)
    assert card.videos
    assert card.note is None


def test_javascript_urls_are_not_links() -> None:
    odd = {**PAYLOAD, "urls": {"web": "javascript:alert(1)"}, "output": "javascript:alert(1)"}
    (card,) = cards_of([task(result=odd)], nowhere, NOON)
    assert card.web is None
    assert not card.videos


def test_a_lone_surrogate_does_not_break_the_gallery() -> None:
    assert read_value({"prompt": ["a\ud83d"]}) == {"prompt": ["a?"]}
    assert read_value('{"prompt": "a\\ud83d"}') == {"prompt": "a?"}


def test_a_card_shows_plain_inputs_only() -> None:
    odd = {"prompt": {"text": "an object"}, "seed": [1], "size": "832*480", "secret": "x"}
    (card,) = cards_of([task(view={"prediction": PAYLOAD, "input": odd})], nowhere, NOON)
    assert card.input == {"size": "832*480"}
    (card,) = cards_of([task(view={"prediction": PAYLOAD, "input": {"prompt": "a" * 9000}})], nowhere, NOON)
    assert len(card.input["prompt"]) == 2000


SAVED = {"uri": "file:///clips/a.mp4", "size": 7}


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        (None, None),
        ("black", None),
        ({"problems": "black"}, {"problems": []}),
        (
            {"width": 832, "height": "480", "black_share": 1.0, "problems": ["black", {"a": 1}]},
            {"width": 832, "problems": ["black", "{'a': 1}"]},
        ),
    ],
)
def test_facts_of_a_card_are_numbers_and_problems(facts: Any, shown: Any) -> None:
    payload = {**PAYLOAD, "files": [{**SAVED, "facts": facts}]}
    (card,) = cards_of([task(result=payload)], lambda *_: "/files/i/0", NOON)
    assert card.videos[0]["facts"] == shown
    assert card.videos[0]["poster"] is None
