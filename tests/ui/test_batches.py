"""Batches of the Videos tab: the head, pages of cards, and values of another form."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.ui.batches import OUTCOMES, head_of, heads_and_others, item_at, page_of, stamped
from airflow_vace.ui.cards import Task
from support.batch_views import head_of_batch, item_of_batch, pages_of_batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.site import Site

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
EACH_OUTCOME = "sufckxrw"


def task(**more: Any) -> Task:
    return Task(**{"instance": "i", "task_id": "catalogue", "map_index": -1, "state": "success", **more})


def source(task: Task, number: int, _: dict[str, Any]) -> str:
    return f"/files/{task.instance}/{number}?item={task.item}"


def nowhere(*_: object) -> None:
    return None


def cards_on_page(states: str, page: int = 0, **more: Any) -> list[Any]:
    pages = list(pages_of_batch(states).values())
    cards, note = page_of(
        task(view=head_of_batch(states), page=pages[page], **more), page, source, NOON, nowhere
    )
    assert note is None
    return cards


def test_the_head_counts_items_by_outcome() -> None:
    head = head_of(task(view=head_of_batch("s" * 940 + "u" * 10 + "f" * 20 + "kxx" + "r" * 20 + "w" * 7)))
    assert head is not None
    counts = {"succeeded": 940, "reused": 10, "failed": 20, "unknown": 1, "skipped": 2, "running": 20}
    assert head.counts == {**counts, "waiting": 7}
    assert (len(head.states), head.page_size) == (1000, 60)
    assert head.manifest == "s3://clips/2026-11-28/manifest.jsonl"


def test_a_batch_stands_beside_ordinary_tasks() -> None:
    ordinary = task(instance="j", task_id="clip", view={"prediction": None})
    batch = task(view=head_of_batch(EACH_OUTCOME))
    heads, others = heads_and_others([ordinary, batch])
    assert [head.task_id for head in heads] == ["catalogue"]
    assert others == [ordinary]


@pytest.mark.parametrize(
    "odd",
    [
        {"states": None},
        {"states": "s" * 7},
        {"states": "s" * 7 + "?"},
        {"states": ["s"] * 8},
        {"items": "8"},
        {"items": -1},
        {"page_size": 0},
        {"page_size": "60"},
        {"page_size": 10**9},
        {"items": 200_000, "states": "s" * 200_000},
    ],
)
def test_a_head_of_another_form_becomes_a_card_with_a_reason(odd: dict[str, Any]) -> None:
    heads, (other,) = heads_and_others([task(view=head_of_batch(EACH_OUTCOME, **odd))])
    assert not heads
    assert "cannot read" in (other.trouble or "")


@pytest.mark.parametrize("batch", [None, 5, "text", [], [{}]])
def test_a_batch_of_another_type_becomes_a_card_with_a_reason(batch: Any) -> None:
    heads, (other,) = heads_and_others([task(view={"batch": batch})])
    assert not heads
    assert "cannot read" in (other.trouble or "")


def test_an_empty_batch_has_a_head_without_pages() -> None:
    head = head_of(task(view=head_of_batch("")))
    assert head is not None
    assert (head.counts, stamped(head, {}).stamps) == ({}, ())


def test_a_head_shows_neither_a_signature_nor_other_types() -> None:
    head = head_of(task(view=head_of_batch("s", manifest="https://h/m.jsonl?sig=SECRET")))
    assert head is not None
    assert "SECRET" not in str(head.manifest)
    odd = head_of(task(view=head_of_batch("s", manifest=["x"]) | {"error": {"no": "text"}}))
    assert odd is not None
    assert (odd.manifest, odd.error) == (None, None)


def test_each_page_has_a_stamp_that_changes_with_the_page() -> None:
    head = head_of(task(view=head_of_batch("s" * 130)))
    assert head is not None
    first = stamped(head, {0: NOON, 2: NOON, 7: NOON}).stamps
    assert [stamp is None for stamp in first] == [False, True, False]
    assert stamped(head, {0: NOON, 1: NOON, 2: NOON.replace(microsecond=1)}).stamps[2] != first[2]


def test_each_outcome_has_a_card_with_key_and_reason() -> None:
    cards = cards_on_page(EACH_OUTCOME)
    assert [card.key for card in cards] == [f"TR-{number:04d}" for number in range(8)]
    named = [OUTCOMES[letter] for letter in EACH_OUTCOME]
    named[EACH_OUTCOME.index("r")] = "processing"
    assert [card.status for card in cards] == named
    assert [bool(card.videos) for card in cards] == [True, True, *[False] * 6]
    assert cards[2].error == "E1001 out of memory"
    notes = {card.status: card.note for card in cards}
    assert "billed" in notes["unknown"]
    assert "did not submit" in notes["skipped"]
    assert "last reported" in notes["processing"]
    assert "not submitted" in notes["waiting"]
    assert not any(card.is_open for card in cards)


def test_only_running_and_waiting_items_are_open() -> None:
    cards = cards_on_page(EACH_OUTCOME, state="deferred")
    assert [card.status for card in cards if card.is_open] == ["processing", "waiting"]


def test_the_address_of_a_file_names_page_and_item() -> None:
    cards = cards_on_page("s" * 70, page=1)
    assert [card.item for card in cards] == [f"1.{number}" for number in range(10)]
    assert cards[9].videos[0]["src"] == "/files/i/0?item=1.9"


@pytest.mark.parametrize("page", ["text", 5, [], {}, {"items": None}, {"items": {"0": {}}}])
def test_a_page_of_another_form_has_a_note(page: Any) -> None:
    cards, note = page_of(task(view=head_of_batch("s"), page=page), 0, source, NOON, nowhere)
    assert not cards
    assert "cannot read" in (note or "")


def test_a_missing_page_is_not_reported_yet() -> None:
    batch = task(view=head_of_batch("s" * 70))
    assert page_of(batch, 1, source, NOON, nowhere) == ([], "The task has not reported these items yet.")
    assert item_at(batch, 1, 0) is None


def test_a_page_that_could_not_be_read_says_why() -> None:
    batch = task(view=head_of_batch("s"), trouble="The store is away.")
    assert page_of(batch, 0, source, NOON, nowhere) == ([], "The store is away.")


@pytest.mark.parametrize(
    "odd",
    [None, "text", 5, [], {}, {"state": "?"}, {"state": ["s"]}, {"prediction": {"id": "../x"}, "input": 5}],
)
def test_an_item_of_another_form_spoils_no_other_card(odd: Any) -> None:
    good = item_of_batch(1, "s", "s3://clips/{key}.mp4")
    page = {"items": [odd, good]}
    (first, second), note = page_of(task(view=head_of_batch("ss"), page=page), 0, source, NOON, nowhere)
    assert note is None
    assert (first.status, first.videos) == ("unreadable", [])
    assert (second.key, second.status) == ("TR-0001", "succeeded")
    assert second.videos


def test_items_beyond_the_page_size_are_not_shown() -> None:
    batch = task(view=head_of_batch("ss", page_size=1), page=pages_of_batch("ss")["vace_view_page_0000"])
    cards, _ = page_of(batch, 0, source, NOON, nowhere)
    assert len(cards) == 1
    assert item_at(batch, 0, 1) is None


@pytest.fixture
def batch(site: Site) -> Iterator[str]:
    """Write the XComs of a batch of 130 items for the first clip, whose file all items share."""
    (film, *_) = sorted(site.roots.rglob("*.mp4"))
    states = "s" * 100 + "f" * 20 + "w" * 10
    kept = {key: site.value(key) for key in ("vace_view", "return_value")}
    for key, value in pages_of_batch(states, f"file://{film}").items():
        site.put(value, key=key)
    site.put(head_of_batch(states), key="vace_view")
    site.put({"counts": {"succeeded": 100}, "manifest": None, "cost": None})
    yield states
    site.clear()
    for key, value in kept.items():
        # A failed clip has a view, but no result.
        if value is not None:
            site.put(value, key=key)


def page_on(site: Site, page: int) -> dict[str, Any]:
    answer = site.get(f"{site.run}/pages/{site.instance(map_index=0)}/{page}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@contextmanager
def xcom_queries() -> Iterator[list[str]]:
    """Collect the parameters of all queries for values of XComs."""
    from airflow import settings
    from sqlalchemy import event

    asked: list[str] = []

    def note(_1: Any, _2: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "xcom.value" in statement:
            asked.append(str(parameters))

    event.listen(settings.engine, "before_cursor_execute", note)
    yield asked
    event.remove(settings.engine, "before_cursor_execute", note)


def test_the_run_and_the_task_show_one_head_for_a_batch(site: Site, batch: str) -> None:
    head, *others = site.cards()
    assert (head["task_id"], head["states"]) == ("clip", batch)
    assert head["counts"] == {"succeeded": 100, "failed": 20, "waiting": 10}
    assert len(head["stamps"]) == 3
    assert all(head["stamps"])
    assert [card["map_index"] for card in others] == [1, 2]
    assert site.cards("?task_id=clip&map_index=0") == [head]


def test_a_page_has_sixty_cards_in_the_order_of_the_inputs(site: Site, batch: str) -> None:
    pages = [page_on(site, page) for page in range(4)]
    assert [len(page["cards"]) for page in pages] == [60, 60, 10, 0]
    cards = [card for page in pages for card in page["cards"]]
    assert [card["key"] for card in cards] == [f"TR-{number:04d}" for number in range(130)]
    assert [card["status"] for card in cards] == [OUTCOMES[letter] for letter in batch]
    assert [page["note"] for page in pages] == [None] * 3 + ["The task has not reported these items yet."]


def test_one_page_costs_one_query_for_values(site: Site, batch: str) -> None:
    assert batch
    with xcom_queries() as asked:
        page_on(site, 1)
    assert len(asked) == 1
    assert "vace_view_page_0001" in asked[0]
    assert "vace_view_page_0000" not in asked[0]
    with xcom_queries() as asked:
        site.cards()
    assert len(asked) == 1
    assert "vace_view_page" not in asked[0]


def test_a_new_value_of_a_page_changes_its_stamp_alone(site: Site, batch: str) -> None:
    assert batch
    (head, *_) = site.cards()
    page = pages_of_batch(batch)["vace_view_page_0001"]
    site.put(page, key="vace_view_page_0001")
    (later, *_) = site.cards()
    changed = [new != old for new, old in zip(later["stamps"], head["stamps"], strict=True)]
    assert changed == [False, True, False]


def test_a_video_of_an_item_is_sent(site: Site, batch: str) -> None:
    assert batch
    card = page_on(site, 1)["cards"][39]
    (video,) = card["videos"]
    path = video["src"].removeprefix("/vace")
    answer = site.get(path)
    (film, *_) = sorted(site.roots.rglob("*.mp4"))
    assert (answer.status_code, answer.content) == (200, film.read_bytes())
    base = path.partition("?")[0]
    for other in (base, f"{base}?item=1.40", f"{base}?item=1.60", f"{base}?item=9.0"):
        assert site.get(other).status_code == 404
    for odd in ("x", "-1.0", "1", "1.0.0", "1.", "9" * 30 + ".0", ""):
        assert site.get(f"{base}?item={odd}").status_code == 422


def test_progress_of_an_ended_item_sends_no_request(site: Site, batch: str) -> None:
    assert batch
    path = f"{site.run}/progress/{site.instance(map_index=0)}"
    assert site.get(f"{path}?item=0.0").json()["status"] == "succeeded"
    assert site.get(f"{path}?item=2.0").status_code == 404
    assert site.get(path).status_code == 404


def test_other_tasks_have_no_pages(site: Site, batch: str) -> None:
    assert batch
    instance = site.instance(map_index=2)
    assert site.get(f"{site.run}/pages/{instance}/0").status_code == 404
    assert site.get(f"{site.run}/files/{instance}/0?item=0.0").status_code == 404
    assert site.get(f"{site.run}/pages/{site.instance('summary')}/0").status_code == 404


def test_the_head_of_a_thousand_items_is_small(site: Site, batch: str) -> None:
    assert batch
    site.put(head_of_batch("s" * 1000), key="vace_view")
    answer = site.get(f"{site.run}/videos?task_id=clip&map_index=0")
    assert len(answer.content) < 4000
    (head,) = answer.json()
    assert [stamp is None for stamp in head["stamps"]] == [False] * 3 + [True] * 14


def test_a_mangled_head_leaves_the_other_cards(site: Site, batch: str) -> None:
    site.put(head_of_batch(batch, states="s"), key="vace_view")
    cards = site.cards()
    assert [card["map_index"] for card in cards] == [0, 1, 2]
    assert "cannot read" in cards[0]["note"]
    assert page_on(site, 0)["cards"] == []
    assert "cannot read" in page_on(site, 0)["note"]


def test_a_card_of_a_batch_has_the_poster_of_its_video() -> None:
    page = pages_of_batch("s")["vace_view_page_0000"]
    (file,) = page["items"][0]["prediction"]["files"]
    file["poster"] = True
    batch = task(view=head_of_batch("s"), page=page)
    named: list[Any] = []

    def poster(_: Task, number: int, of: dict[str, Any]) -> str:
        named.append(of["poster"])
        return f"/posters/{number}"

    cards, _ = page_of(batch, 0, source, NOON, nowhere, poster)
    assert cards[0].videos[0]["poster"] == "/posters/0"
    assert named == [f"{file['uri']}.jpg"]
