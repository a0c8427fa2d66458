"""Cards of the Videos tab, computed from the XComs of a run's tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceError
from airflow_vace.prediction import Prediction, PredictionStatus, parse_time
from airflow_vace.redaction import is_shortened, unsigned
from airflow_vace.ui.files import type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    # URL of a saved file from `task, number, file`; None if the API server must not send the file.
    Source = Callable[["Task", int, dict[str, Any]], str | None]
    # URL of the route that redirects to a signed output, from `task, number`; None without a connection.
    Asked = Callable[["Task", int], str | None]

RESULT = "return_value"
_MAX_TEXT_LENGTH = 2000

# https://replicate.com/docs/topics/predictions/data-retention
_RETENTION = timedelta(hours=1)
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
    :param videos: `{"src": url, "type": content type, "size": bytes, "where": "saved" | "back-end"}`
    :param note: the reason why no video is shown
    :param item: for an item of a batch, the numbers of page and item, as the routes take them
    :param key: the name of an item in its batch
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
    item: str | None = None
    key: str | None = None


def _nowhere(*_: object) -> None:
    return None


def cards_of(
    tasks: Iterable[Task],
    source: Source,
    now: datetime | None = None,
    asked: Asked = _nowhere,
) -> list[Card]:
    """Return a card for each prediction, in the order of the tasks.

    A submitting task and its sensor share one card, with the values of the task that knows more.

    :param source: return the URL of a saved file from `task, number, file`, None to hide the file
    :param now: the current time by default
    :param asked: return the URL of the route to a signed output from `task, number`, None to hide the output
    """
    found: dict[str, tuple[tuple[bool, ...], Card]] = {}
    for task in tasks:
        card = card_of(task, source, now or datetime.now(UTC), asked)
        key = card.id or task.instance
        rank = (bool(card.videos or card.note), card.completed_at is not None, card.is_open)
        before = found.get(key)
        if before is not None:
            # The submitting task alone knows the inputs, so the surviving card takes them over.
            card.input = card.input or before[1].input
            before[1].input = before[1].input or card.input
            card.label = before[1].label = card.label or before[1].label
        if before is None or rank > before[0]:
            found[key] = (rank, card)
    return [card for _, card in found.values()]


def card_of(task: Task, source: Source, now: datetime, asked: Asked) -> Card:
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
    card.seconds = seconds if isinstance(seconds, int | float) else None
    if prediction.status is PredictionStatus.SUCCEEDED:
        card.videos, note = _videos(task, prediction, source, now, asked)
        card.note = None if card.videos else task.trouble or note
    return card


def _videos(
    task: Task,
    prediction: Prediction,
    source: Source,
    now: datetime,
    asked: Asked,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the videos to play, or none and a note with the reason."""
    saved = [
        {
            "src": src,
            "type": type_of(str(file.get("uri"))),
            "size": _number(file.get("size")),
            "where": "saved",
        }
        for number, file in enumerate(prediction.files)
        if (src := source(task, number, file)) is not None
    ]
    if saved:
        return saved, None
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


def web_urls_of(prediction: Prediction) -> list[str]:
    """Return the output URLs that a browser may open."""
    return [url for url in prediction.output_urls if _web(url)]


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs for a card: numbers and short texts."""
    shown = {name: values.get(name) for name in ("prompt", "seed", "size", "frame_num", "speed_mode")}
    return {
        name: value[:_MAX_TEXT_LENGTH] if isinstance(value, str) else value
        for name, value in shown.items()
        if isinstance(value, str | int | float)
    }


def _web(url: object) -> str | None:
    # A `javascript:` URL would run with the rights of the page.
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else None
