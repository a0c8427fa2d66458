"""Cards of the Videos tab, computed from the XComs of a run's tasks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceError
from airflow_vace.input_fields import SPEED_MODES
from airflow_vace.prediction import Prediction, PredictionStatus, parse_time
from airflow_vace.redaction import is_shortened, unsigned
from airflow_vace.storage.playable import type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    # URL of a saved file from `task, number, file`; None if the API server must not send the file. `file` is
    # an entry of the prediction's `files`, or of `rejected`.
    Source = Callable[["Task", int, dict[str, Any]], str | None]
    # URL of the route that redirects to a signed output, from `task, number`; None without a connection.
    Asked = Callable[["Task", int], str | None]

RESULT = "return_value"
_MAX_TEXT_LENGTH = 2000
_MAX_PROBLEMS = 20
_MAX_REJECTED = 20

# https://replicate.com/docs/topics/predictions/data-retention
_RETENTION = timedelta(hours=1)
_FINAL = frozenset(str(status) for status in PredictionStatus if status.is_final)
# Task states in which an unfinished prediction may still run.
_OPEN = ("running", "deferred", "queued", "scheduled", "restarting", "up_for_retry", "up_for_reschedule")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One of the provider's task instances.

    :param instance: the id of the task instance
    :param map_index: -1 for a task that is not mapped
    :param state: Airflow's state, None before the start
    :param loop_pass: number of the pass, from 1, for a mapped task in a loop; None outside of loops
    :param result: the XCom `return_value`, of any type
    :param view: the XCom `vace_view`, of any type
    :param trouble: the reason why a value could not be read
    :param page: the XCom of one page of a batch, of any type
    :param item: for an item of a batch, the numbers of page and item, such as `3.17`
    """

    instance: str
    task_id: str
    map_index: int
    state: str | None
    try_number: int = 1
    loop_pass: int | None = None
    result: Any = None
    view: Any = None
    trouble: str | None = None
    page: Any = None
    item: str | None = None

    @property
    def is_open(self) -> bool:
        """Return True if the task runs, waits or will run again."""
        return self.state in _OPEN

    @property
    def known(self) -> Mapping[str, Any]:
        """The view, or an empty mapping if the XCom has another type."""
        return self.view if isinstance(self.view, dict) else {}

    @property
    def prediction(self) -> Prediction | None:
        """The newest known prediction: the result, else the one in the view."""
        for payload in (self.result, self.known.get("prediction")):
            # Any task can push such an XCom, so a wrong one must not break the page.
            try:
                if isinstance(payload, dict):
                    return Prediction.from_json(payload)
            except VaceError:
                continue
        return None


@dataclass(kw_only=True)
class Card:
    """One prediction, or one task without a prediction, for the script of the tab.

    :param error: the task's error, else the prediction's
    :param web: URL of the vendor's page
    :param seconds: runtime at the vendor
    :param videos: `{"src": url, "type": content type, "size": bytes, "where": "saved" | "back-end"}`; saved
        ones also have `poster`, a URL or None, and `facts`, the measured ones or None
    :param note: the reason why no video is shown
    :param hint: `{"until": time | null, "root": place | null}` for videos that play from the back-end alone:
        the end of that, and the missing root of a saved file, None for an unsaved one
    :param item: for an item of a batch, the numbers of page and item, as the routes take them
    :param key: the name of an item in its batch
    :param cost: the payload's cost, as text
    :param rejected: earlier clips that the checks rejected: `{"id", "seed", "problems", "src"}`; `src` is a
        URL, None for a file that the page must not show
    """

    instance: str
    task_id: str
    map_index: int
    state: str | None
    is_open: bool
    try_number: int
    loop_pass: int | None = None
    id: str | None = None
    status: str | None = None
    model: str | None = None
    label: str | None = None
    seed: int | None = None
    input: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    web: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    seconds: float | None = None
    videos: list[dict[str, Any]] = field(default_factory=list)
    note: str | None = None
    hint: dict[str, Any] | None = None
    item: str | None = None
    key: str | None = None
    cost: dict[str, Any] | None = None
    rejected: list[dict[str, Any]] = field(default_factory=list)


def nowhere(*_: object) -> None:
    """Return no URL."""


def cards_of(  # noqa: PLR0913 - four kinds of URLs
    tasks: Iterable[Task],
    source: Source,
    now: datetime | None = None,
    asked: Asked = nowhere,
    poster: Source = nowhere,
    *,
    rejected: Source = nowhere,
) -> list[Card]:
    """Return a card for each prediction, in the order of the tasks.

    A submitting task and its sensor share one card, with the values of the task that knows more.

    :param source: return the URL of a saved file from `task, number, file`, None to hide the file
    :param now: the current time by default
    :param asked: return the URL of the route to a signed output from `task, number`, None to hide the output
    :param poster: return the URL of a saved file's poster from `task, number, file`, None without one
    :param rejected: return the URL of a rejected clip from `task, number, clip`, None to hide the file
    """
    found: dict[tuple[str, bool], tuple[tuple[bool, ...], Card]] = {}
    for task in tasks:
        card = card_of(task, source, now or datetime.now(UTC), asked, poster, rejected=rejected)
        # A task that reuses a video has paid nothing, unlike the task that has made the video.
        is_reused = card.id is not None and task.prediction is not None and task.prediction.reused
        key = (card.id or task.instance, is_reused)
        rank = _knowledge(card)
        before = found.get(key)
        if before is not None:
            # The submitting task alone knows the inputs, so the surviving card takes them over.
            card.input = card.input or before[1].input
            before[1].input = before[1].input or card.input
            card.label = before[1].label = card.label or before[1].label
            card.cost = before[1].cost = _merged_cost(card.cost, before[1].cost)
            card.rejected = before[1].rejected = card.rejected or before[1].rejected
        if before is None or rank > before[0]:
            found[key] = (rank, card)
    return [card for _, card in found.values()]


def _knowledge(card: Card) -> tuple[bool, ...]:
    """Return the rank of a card among those of one prediction; the greatest knows most."""
    # Some back-ends report no times, so the status counts too.
    has_ended = card.completed_at is not None or card.status in _FINAL
    return (bool(card.videos or card.note), has_ended, card.is_open, card.error is not None)


def card_of(  # noqa: PLR0913 - four kinds of URLs
    task: Task,
    source: Source,
    now: datetime,
    asked: Asked,
    poster: Source = nowhere,
    *,
    rejected: Source = nowhere,
) -> Card:
    """Return the card of one task; the parameters are those of :func:`cards_of`."""
    values = task.known.get("input")
    error = task.known.get("error")
    card = Card(
        instance=task.instance,
        task_id=task.task_id,
        map_index=task.map_index,
        state=task.state,
        is_open=task.is_open,
        try_number=task.try_number,
        loop_pass=task.loop_pass,
        item=task.item,
        note=task.trouble,
        input=_shown(values) if isinstance(values, dict) else {},
        error=error if isinstance(error, str) else None,
    )
    prediction = task.prediction
    if prediction is None:
        return card
    seconds = prediction.metrics.get("predict_time")
    card.id, card.status, card.model = prediction.id, str(prediction.status), prediction.model
    card.label, card.seed = prediction.label, prediction.seed
    card.error = card.error or prediction.error
    # A signature in a link would give the page's reader the author's rights, so such links are dropped.
    web = _web(prediction.urls.get("web"))
    card.web = web if web and unsigned(web) == web and not is_shortened(web) else None
    card.created_at, card.started_at = prediction.created_at, prediction.started_at
    card.completed_at = prediction.completed_at
    card.cost = shown_cost(task.known.get("cost") or prediction.cost)
    card.rejected = _rejected_clips(task, prediction, rejected)
    card.seconds = seconds if isinstance(seconds, int | float) else None
    if prediction.status is PredictionStatus.SUCCEEDED:
        card.videos, note = _saved_videos(task, prediction, source, poster), None
        if not card.videos:
            card.videos, note = _unsaved_videos(task, prediction, now, asked)
            card.hint = _hint(task, prediction) if card.videos else None
        card.note = None if card.videos else task.trouble or note
    return card


def _saved_videos(task: Task, prediction: Prediction, source: Source, poster: Source) -> list[dict[str, Any]]:
    """Return the saved videos that the page may show."""
    return [
        {
            "src": src,
            "type": type_of(str(file.get("uri"))),
            "size": _number(file.get("size")),
            "where": "saved",
            "poster": poster(task, number, file),
            "facts": _shown_facts(file.get("facts")),
        }
        for number, file in enumerate(prediction.files)
        if (src := source(task, number, file)) is not None
    ]


def _rejected_clips(task: Task, prediction: Prediction, source: Source) -> list[dict[str, Any]]:
    """Return the clips that the checks rejected before this prediction, without their addresses."""
    return [
        {
            "id": str(clip.get("id"))[:_MAX_TEXT_LENGTH],
            "seed": _number(clip.get("seed")),
            "problems": _problem_texts(clip.get("problems")),
            "src": source(task, number, clip),
        }
        for number, clip in enumerate(prediction.rejected[:_MAX_REJECTED])
    ]


def _unsaved_videos(
    task: Task, prediction: Prediction, now: datetime, asked: Asked
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the videos that the back-end still has, or none and a note with the reason."""
    ended = parse_time(prediction.completed_at)
    is_gone = (
        prediction.data_removed or prediction.has_expired or (ended is not None and now - ended > _RETENTION)
    )
    urls = web_urls_of(prediction)
    # XCom holds shortened URLs without their signature, so a route must ask the back-end for the whole one.
    sources = [asked(task, number) if is_shortened(url) else url for number, url in enumerate(urls)]
    if any(sources) and not is_gone:
        return [{"src": src, "type": None, "size": None, "where": "back-end"} for src in sources if src], None
    if urls and not is_gone:
        return [], "Its address is signed, and so it is not kept; save_to keeps the video."
    if prediction.files:
        return [], (
            "Saved, but not shown here: what may be shown is listed in Airflow's setting [vace] video_roots,"
            " and its place is not below any of these."
        )
    return [], "Its file was not saved, and back-ends delete them after an hour; save_to keeps them."


def _hint(task: Task, prediction: Prediction) -> dict[str, Any] | None:
    """Return the hint of a card whose video plays from the back-end; None while the task may still save."""
    if not prediction.files and task.is_open:
        return None
    ended = parse_time(prediction.completed_at)
    uri = prediction.files[0].get("uri") if prediction.files else None
    folder = uri.rpartition("/")[0].removeprefix("file://") + "/" if isinstance(uri, str) else None
    until = None
    # Any task can push a time in the year 9999, which has no later one.
    with suppress(OverflowError):
        until = (ended + _RETENTION).isoformat() if ended else None
    return {"until": until, "root": folder}


def shown_cost(cost: object) -> dict[str, Any] | None:
    """Return the texts, flags and count of a cost, None for a value of another form."""
    if not isinstance(cost, dict):
        return None
    return {
        str(name): value
        for name, value in cost.items()
        if isinstance(value, str | bool | None) or (name == "unpriced" and isinstance(value, int))
    }


def _merged_cost(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the cost of a prediction that two tasks report: settled, and with the submitting task's sum."""
    if one is None or other is None:
        return one or other
    settled, open_ = (other, one) if "reserved" in one else (one, other)
    if settled.get("amount") is None:
        # A price by the second has no amount before the end, so the reserved amount stays.
        settled, open_ = open_, settled
    return {**{name: open_[name] for name in ("task", "has_unknown") if name in open_}, **settled}


def web_urls_of(prediction: Prediction) -> list[str]:
    """Return the output URLs that a browser may open."""
    return [url for url in prediction.output_urls if _web(url)]


def _shown_facts(facts: object) -> dict[str, Any] | None:
    """Return size, length and problems of a checked video; None for an unchecked one."""
    if not isinstance(facts, dict):
        return None
    names = ("width", "height", "frames", "fps", "seconds")
    shown = {name: facts[name] for name in names if isinstance(facts.get(name), int | float)}
    return {**shown, "problems": _problem_texts(facts.get("problems"))}


def _problem_texts(problems: object) -> list[str]:
    texts = problems[:_MAX_PROBLEMS] if isinstance(problems, list) else []
    return [str(text)[:_MAX_TEXT_LENGTH] for text in texts]


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs for a card: numbers and short texts."""
    shown = {name: values.get(name) for name in ("prompt", "seed", "size", "frame_num", "speed_mode")}
    # The API's words have pictures, and a person chooses by the short ones.
    shown["speed_mode"] = next(
        (short for short, text in SPEED_MODES.items() if text == shown["speed_mode"]), shown["speed_mode"]
    )
    return {
        name: value[:_MAX_TEXT_LENGTH] if isinstance(value, str) else value
        for name, value in shown.items()
        if isinstance(value, str | int | float)
    }


def _web(url: object) -> str | None:
    # A `javascript:` URL would run with the rights of the page.
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else None
