"""Airflow's knowledge of predictions: records in state stores, and payloads in XComs."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_vace.batch.chunks import KEY_PREFIX, Entry
from airflow_vace.exceptions import LedgerError, VaceError
from airflow_vace.prediction import Prediction, parse_time
from airflow_vace.submission.record import RECORD_KEY, Phase, Record
from airflow_vace.task.state import ENDED_BY_A_PERSON
from airflow_vace.task.view import VIEW_KEY, page_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from airflow_vace.reconcile.airflow_api import AirflowApi

_SENSOR = "VacePredictionSensor"
# Names of the classes, as Airflow's REST API filters task instances.
OPERATORS = (
    *("VacePredictionOperator", "_VaceDecoratedOperator", _SENSOR),
    *("VaceBatchOperator", "_VaceBatchDecoratedOperator"),
)
_RESULT_KEY = "return_value"
# The clocks of Airflow and of the vendor may differ by this.
_MAX_CLOCK_SKEW = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A task instance; `item` is the key of an item in a batch, None for other tasks."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    item: str | None = None

    @classmethod
    def of(cls, row: dict[str, Any], item: str | None = None) -> Place:
        """Return the place of a row of Airflow's REST API."""
        return cls(
            dag_id=row["dag_id"],
            run_id=row.get("dag_run_id") or row.get("run_id") or "",
            task_id=row["task_id"],
            map_index=row.get("map_index", -1),
            item=item,
        )

    def __str__(self) -> str:
        index = "" if self.map_index < 0 else f"[{self.map_index}]"
        item = "" if self.item is None else f", item {self.item}"
        return f"{self.dag_id}.{self.task_id}{index}, run {self.run_id}{item}"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A record, and its task instance; `is_over` is True if no attempt of the task follows by itself."""

    place: Place
    record: Record
    is_over: bool


@dataclass(kw_only=True)
class Known:
    """The content of Airflow's state stores and XComs.

    `places` is by id of a prediction. `troubles` are sentences about values that could not be read.
    `has_records` is False before Airflow 3.3, where nobody can recognise an orphan. `shared` holds the
    predictions that may belong to another task.
    """

    places: dict[str, Place] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    has_records: bool = True
    shared: list[tuple[Place, list[str | None]]] = field(default_factory=list, repr=False)

    def add(self, place: Place, ids: Iterable[str | None]) -> None:
        """Note the ids of a task's predictions; an earlier place of an id stays."""
        for identifier in ids:
            if identifier:
                self.places.setdefault(identifier, place)

    def add_record(self, place: Place, record: Record, *, is_over: bool) -> None:
        """Note a record with all its predictions."""
        self.submissions.append(Submission(place=place, record=record, is_over=is_over))
        if record.phase is not Phase.INTENT:
            self.add_prediction(place, record.known, is_own=record.is_own)
        self.add(place, record.earlier)

    def add_prediction(self, place: Place, prediction: Prediction, *, is_own: bool) -> None:
        """Note a task's prediction; with `is_own=False` the place counts only if no other task names it."""
        # A gateway's list may name a prediction by the vendor's id.
        ids = [prediction.id, prediction.upstream_id]
        # The clips that the checks rejected are paid too.
        ids += [clip["id"] for clip in prediction.rejected if isinstance(clip["id"], str)]
        if is_own:
            self.add(place, ids)
        else:
            self.shared.append((place, ids))

    def finish(self) -> None:
        """Note the predictions that no task has made itself."""
        for place, ids in self.shared:
            self.add(place, ids)


def read_known(
    api: AirflowApi, since: datetime, operators: Iterable[str], *, has_records: bool = True
) -> Known:
    """Read records and payloads of all task instances that have changed since a moment.

    :param api: after the log-in
    :param operators: names of operator classes beside this package's own
    :param has_records: this Airflow has task state stores
    :raises NotCheckedError: if Airflow does not answer, or refuses
    """
    reader = _Reader(api, Known(has_records=has_records))
    start = since - _MAX_CLOCK_SKEW
    instances = api.task_instances(start.isoformat(), [*OPERATORS, *operators])
    # A subclass has another name, but pushes the same views and records.
    pushed = {key: [row for row in api.xcoms(key) if _is_since(row, start)] for key in (RECORD_KEY, VIEW_KEY)}
    rows = {_identity(row): row for row in (*pushed[VIEW_KEY], *pushed[RECORD_KEY], *instances)}
    for row in rows.values() if has_records else ():
        if row.get("operator") != _SENSOR:
            reader.read_state(row)
    for key in (RECORD_KEY, VIEW_KEY):
        for row in pushed[key]:
            reader.read_xcom(rows[_identity(row)], key)
    for row in instances:
        if row.get("state") == "success":
            # A task that the triggerer ends has pushed its result alone.
            reader.read_xcom(row, _RESULT_KEY)
    reader.known.finish()
    return reader.known


class _Reader:
    """Fills a :class:`Known`; the best evidence is read first, and spares the rest."""

    def __init__(self, api: AirflowApi, known: Known) -> None:
        self.api = api
        self.known = known
        self._read: set[tuple[Place, str | None, int | None]] = set()

    def read_state(self, row: dict[str, Any]) -> None:
        """Read the record of a task, or the records of a batch."""
        values = self.api.state(row)
        records = [*self._records_in(row, values)]
        if not records:
            return
        is_over = self._is_over(row) if any(r.phase is Phase.INTENT for _, r in records) else True
        for place, record in records:
            self.known.add_record(place, record, is_over=is_over)
        if any(record.phase is not Phase.INTENT for _, record in records):
            self._read.add(_identity(row))

    def read_xcom(self, row: dict[str, Any], key: str) -> None:
        """Read a payload, view or record, unless better evidence about the task is known."""
        place = Place.of(row)
        if _identity(row) in self._read:
            return
        value = self.api.xcom(row, key)
        if isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value)
        # A sensor's prediction is mostly another task's, so its view alone explains nothing.
        if isinstance(value, str) and "://" in value and row.get("operator") != _SENSOR:
            self.known.troubles.append(f"The XCom {key} of {place} is in a store, and was not read.")
        if not isinstance(value, dict):
            return
        self._read.add(_identity(row))
        is_own = key != _RESULT_KEY
        if key == VIEW_KEY:
            # A sensor's view has no input, and its prediction is mostly another task's.
            is_own = bool(value.get("input"))
            if isinstance(batch := value.get("batch"), dict):
                self._read_pages(row, batch)
        if key != _RESULT_KEY:
            value = value.get("prediction")
        self._add_payload(place, value, is_own=is_own)

    def _read_pages(self, row: dict[str, Any], batch: dict[str, Any]) -> None:
        pages = batch.get("pages")
        for number in range(pages if isinstance(pages, int) else 0):
            page = self.api.xcom(row, page_key(number))
            items = page.get("items") if isinstance(page, dict) else None
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict):
                    self._add_payload(Place.of(row, str(item.get("key"))), item.get("prediction"))

    def _add_payload(self, place: Place, payload: object, *, is_own: bool = True) -> None:
        # Any task may push such an XCom, so a wrong one is no trouble.
        with suppress(VaceError):
            prediction = Prediction.from_json(payload)
            self.known.add_prediction(place, prediction, is_own=is_own and not prediction.reused)

    def _records_in(self, row: dict[str, Any], values: dict[str, Any]) -> Iterator[tuple[Place, Record]]:
        """Yield the records in a state store, and note those that are unreadable."""
        place = Place.of(row)
        for key, value in values.items():
            try:
                if key == RECORD_KEY:
                    yield place, Record.from_json(value)
                elif key.startswith(KEY_PREFIX):
                    for name, item in value["items"].items():
                        entry = Entry.from_json(item)
                        if entry.reused is not None:
                            self._add_payload(replace(place, item=name), entry.reused, is_own=False)
                        if entry.record is not None:
                            yield replace(place, item=name), entry.record
            except (LedgerError, KeyError, TypeError, AttributeError, ValueError):
                self.known.troubles.append(f"The record {key} of {place} is unreadable.")

    def _is_over(self, row: dict[str, Any]) -> bool:
        """Return True if Airflow does nothing more for a task by itself."""
        found = row if "state" in row else self.api.task_instance(row)
        return found is None or found.get("state") in ENDED_BY_A_PERSON


def _identity(row: dict[str, Any]) -> tuple[Place, str | None, int | None]:
    # The passes of a loop (Airflow 3.4) share task and map index, and differ in the region.
    return Place.of(row), row.get("region_id"), row.get("region_index")


def _is_since(row: dict[str, Any], start: datetime) -> bool:
    written = parse_time(row.get("timestamp"))
    return written is None or written >= start
