"""Batches of the Videos tab: the head of a batch, and the cards of one page of its items.

A batch task pushes its head to the XCom `vace_view`, and its items to `vace_view_page_0000` and later pages.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_vace.redaction import unsigned
from airflow_vace.storage.checks import poster_name
from airflow_vace.ui.cards import Card, Task, card_of, nowhere, shown_cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from airflow_vace.ui.cards import Asked, Source

# The letters of `states` in the head, in the order of the chips.
OUTCOMES = {
    "s": "succeeded",
    "u": "reused",
    "f": "failed",
    "c": "canceled",
    "k": "unknown",
    "x": "skipped",
    "r": "running",
    "w": "waiting",
}
_OPEN = "rw"
_NOTES = {
    "c": "Canceled: there is no video.",
    "k": "The vendor may have received and billed this prediction; the task's log has the details.",
    "x": "Skipped: the task did not submit this input.",
    "r": "This prediction was running when the task last reported.",
    "w": "This prediction was not submitted when the task last reported.",
}
# Any task can push a head, and each browser holds its text, so larger ones are not shown.
_MAX_ITEMS = 100_000
_MAX_PAGE_SIZE = 200
_MAX_TEXT_LENGTH = 2000
_UNREADABLE_HEAD = "The Videos tab cannot read this task's report of its batch; the manifest lists the items."
_MISSING_PAGE = "The task has not reported these items yet."
_UNREADABLE_PAGE = "The Videos tab cannot read the report of these items; the manifest lists the items."
_UNREADABLE_ITEM = "The Videos tab cannot read the report of this item."


@dataclass(frozen=True, kw_only=True)
class Head:
    """One batch, for the script of the tab.

    :param states: one letter of :data:`OUTCOMES` per item, in the order of the inputs
    :param counts: number of items by outcome, zeros left out
    :param stamps: a number per page that changes with the page; None for a missing page
    """

    instance: str
    task_id: str
    map_index: int
    state: str | None
    is_open: bool
    try_number: int
    loop_pass: int | None
    page_size: int
    states: str
    counts: dict[str, int]
    manifest: str | None
    error: str | None
    cost: dict[str, Any] | None = None
    stamps: tuple[int | None, ...] = ()


def heads_and_others(tasks: Iterable[Task]) -> tuple[list[Head], list[Task]]:
    """Return the heads of all batches, and the tasks without one.

    A batch whose head has another form stays a task, with the reason as its trouble.
    """
    heads, others = [], []
    for task in tasks:
        head = head_of(task)
        if head is not None:
            heads.append(head)
        elif "batch" in task.known:
            others.append(replace(task, trouble=task.trouble or _UNREADABLE_HEAD))
        else:
            others.append(task)
    return heads, others


def head_of(task: Task) -> Head | None:
    """Return the head in a task's view, None for other tasks and for heads of another form."""
    batch = task.known.get("batch")
    if not isinstance(batch, dict):
        return None
    items, page_size, states = (batch.get(name) for name in ("items", "page_size", "states"))
    if not isinstance(states, str) or len(states) != items or len(states) > _MAX_ITEMS:
        return None
    if not set(states) <= set(OUTCOMES):
        return None
    if not isinstance(page_size, int) or not 0 < page_size <= _MAX_PAGE_SIZE:
        return None
    # The filter of the tab uses `states`, so counts from elsewhere could contradict the cards.
    counted = Counter(states)
    manifest = _text(batch.get("manifest"))
    return Head(
        instance=task.instance,
        task_id=task.task_id,
        map_index=task.map_index,
        state=task.state,
        is_open=task.is_open,
        try_number=task.try_number,
        loop_pass=task.loop_pass,
        page_size=page_size,
        states=states,
        counts={name: counted[letter] for letter, name in OUTCOMES.items() if counted[letter]},
        manifest=unsigned(manifest) if manifest else None,
        error=_text(task.known.get("error")),
        cost=shown_cost(batch.get("cost")),
    )


def stamped(head: Head, written_at: Mapping[int, datetime]) -> Head:
    """Return the head with the stamps of its pages.

    :param written_at: time of the XCom of each page
    """
    pages = -(-len(head.states) // head.page_size)
    times = [written_at.get(page) for page in range(pages)]
    return replace(head, stamps=tuple(None if at is None else int(at.timestamp() * 1e6) for at in times))


def item_at(task: Task, page: int, number: int) -> Task | None:
    """Return a task with the values of one item of a batch; None if the page has no such item.

    :param task: the batch task, with one page
    :param number: position of the item in the page, from 0
    """
    items = _items_of(task)
    if items is None or number >= len(items):
        return None
    item = items[number] if isinstance(items[number], dict) else {}
    view = {name: item.get(name) for name in ("prediction", "input", "error", "cost")}
    view["prediction"] = _with_posters(view["prediction"])
    view["vace_conn_id"] = task.known.get("vace_conn_id")
    return replace(task, result=None, page=None, view=view, trouble=None, item=f"{page}.{number}")


def _with_posters(prediction: Any) -> Any:
    """Return a prediction with the addresses of posters, for which a page keeps True."""
    files = prediction.get("files") if isinstance(prediction, dict) else None
    if not isinstance(files, list):
        return prediction
    whole = [
        {**file, "poster": poster_name(str(file.get("uri")))}
        if isinstance(file, dict) and file.get("poster") is True
        else file
        for file in files
    ]
    return {**prediction, "files": whole}


def page_of(  # noqa: PLR0913, PLR0917 - four kinds of URLs
    task: Task,
    page: int,
    source: Source,
    now: datetime,
    asked: Asked,
    poster: Source = nowhere,
    *,
    rejected: Source = nowhere,
) -> tuple[list[Card], str | None]:
    """Return the cards of one page in the order of the items, or none and a note with the reason.

    :param task: the batch task, with one page
    :param source: as for :func:`airflow_vace.ui.cards.cards_of`
    :param asked: as for :func:`airflow_vace.ui.cards.cards_of`
    :param poster: as for :func:`airflow_vace.ui.cards.cards_of`
    :param rejected: as for :func:`airflow_vace.ui.cards.cards_of`
    """
    items = _items_of(task)
    if items is None:
        return [], task.trouble or (_MISSING_PAGE if task.page is None else _UNREADABLE_PAGE)
    cards = []
    for number, item in enumerate(items):
        single = item_at(task, page, number)
        if single is not None:
            card = card_of(single, source, now, asked, poster, rejected=rejected)
            cards.append(_item_card(card, item))
    return cards, None


def _items_of(task: Task) -> list[Any] | None:
    head = head_of(task)
    items = task.page.get("items") if isinstance(task.page, dict) else None
    return items[: head.page_size] if head is not None and isinstance(items, list) else None


def _item_card(card: Card, item: Any) -> Card:
    """Complete a card with the key and the outcome of its item."""
    known = item if isinstance(item, dict) else {}
    letter = str(known.get("state"))
    outcome = OUTCOMES.get(letter)
    key = known.get("key")
    card.key = str(key)[:_MAX_TEXT_LENGTH] if isinstance(key, str | int) else None
    # The state of the task is in the head of the batch, so the card has none.
    card.state = None
    if outcome is None:
        card.status, card.is_open, card.note = "unreadable", False, _UNREADABLE_ITEM
        return card
    card.is_open = card.is_open and letter in _OPEN
    if letter != "r" or card.status is None:
        card.status = outcome
    if not card.videos and not card.is_open:
        card.note = _NOTES.get(letter, card.note)
    return card


def _text(value: object) -> str | None:
    return value[:_MAX_TEXT_LENGTH] if isinstance(value, str) and value else None
