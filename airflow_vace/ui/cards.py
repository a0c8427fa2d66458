"""What the video tab shows of each prediction of a run, worked out from what its tasks left in XCom."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceError
from airflow_vace.prediction import Prediction, PredictionStatus, parse_time
from airflow_vace.redaction import is_shortened, unsigned
from airflow_vace.ui.files import type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    # The address of a saved file (`task, number, file`), None if it may not be shown.
    Source = Callable[["Task", int, dict[str, Any]], str | None]
    # The address at which a file is asked for whose own is signed (`task, number`), None if it can't be.
    Asked = Callable[["Task", int], str | None]

RESULT = "return_value"
_LONGEST_TEXT = 2000

# https://replicate.com/docs/topics/predictions/data-retention
_KEPT_BY_BACKEND = timedelta(hours=1)
# Task states in which a prediction that is not final may still go on.
_OPEN = ("running", "deferred", "queued", "scheduled", "restarting", "up_for_retry", "up_for_reschedule")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task instance of ours: its state as Airflow says it, its result and its view, as XCom has them."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int = 1
    result: Any = None
    view: Any = None

    @property
    def is_open(self) -> bool:
        return self.state in _OPEN

    @property
    def known(self) -> Mapping[str, Any]:
        """The view, as far as it is one."""
        return self.view if isinstance(self.view, dict) else {}

    @property
    def prediction(self) -> Prediction | None:
        """The newest of what the task has told: its result, else what it noted while it ran."""
        for told in (self.result, self.known.get("prediction")):
            try:
                if isinstance(told, dict):
                    return Prediction.from_json(told)
            except VaceError:
                continue
        return None


@dataclass(kw_only=True)
class Card:
    """One prediction, or one task that has none, for the script; `videos` are `{src, type, size, where}`."""

    task_id: str
    map_index: int
    state: str | None
    is_open: bool
    try_number: int
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


def read_value(value: Any) -> Any:
    """Return an XCom's value; Airflow keeps it as JSON, or as the text of JSON."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    return _printable(value)


def _printable(value: Any) -> Any:
    """Return a value without halves of characters, which no answer can hold."""
    if isinstance(value, dict):
        return {str(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _nowhere(*_: object) -> None:
    return None


def cards_of(
    tasks: Iterable[Task],
    source: Source,
    now: datetime | None = None,
    asked: Asked = _nowhere,
) -> list[Card]:
    """Return a card for each prediction, in the order of the tasks.

    The task that has submitted a prediction and the sensor that has waited for it make one card, that of
    who knows most.

    :param source: the address of a saved file (`task, number, file`), None if it may not be shown
    :param asked: the address at which a file is asked for whose own is signed (`task, number`), None if it
        can't be
    """
    found: dict[str, tuple[tuple[bool, ...], Card]] = {}
    for task in tasks:
        card = _card_of(task, source, now or datetime.now(UTC), asked)
        key = card.id or f"{task.task_id}[{task.map_index}]"
        rank = (bool(card.videos or card.note), card.completed_at is not None, card.is_open)
        before = found.get(key)
        if before is not None:
            card.input = card.input or before[1].input
            before[1].input = before[1].input or card.input
            card.label = before[1].label = card.label or before[1].label
        if before is None or rank > before[0]:
            found[key] = (rank, card)
    return [card for _, card in found.values()]


def _card_of(task: Task, source: Source, now: datetime, asked: Asked) -> Card:
    values = task.known.get("input")
    error = task.known.get("error")
    card = Card(
        task_id=task.task_id,
        map_index=task.map_index,
        state=task.state,
        is_open=task.is_open,
        try_number=task.try_number,
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
    web = _web(prediction.urls.get("web"))
    card.web = web if web and unsigned(web) == web and not is_shortened(web) else None
    card.created_at, card.started_at = prediction.created_at, prediction.started_at
    card.completed_at = prediction.completed_at
    card.seconds = seconds if isinstance(seconds, int | float) else None
    if prediction.status is PredictionStatus.SUCCEEDED:
        card.videos, card.note = _videos(task, prediction, source, now, asked)
    return card


def _videos(
    task: Task,
    prediction: Prediction,
    source: Source,
    now: datetime,
    asked: Asked,
) -> tuple[list[dict[str, Any]], str | None]:
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
        prediction.data_removed
        or prediction.has_expired
        or (ended is not None and now - ended > _KEPT_BY_BACKEND)
    )
    urls = web_urls_of(prediction)
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
    """Return the addresses in an output that a browser may be led to."""
    return [url for url in prediction.output_urls if _web(url)]


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that a card tells, each a number or a short text."""
    told = {name: values.get(name) for name in ("prompt", "seed", "size", "frame_num", "speed_mode")}
    return {
        name: value[:_LONGEST_TEXT] if isinstance(value, str) else value
        for name, value in told.items()
        if isinstance(value, str | int | float)
    }


def _web(url: object) -> str | None:
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else None
