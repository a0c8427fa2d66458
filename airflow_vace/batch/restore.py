"""The state of each item at the start of a process, by its entry in the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_vace.batch.items import Running, State
from airflow_vace.prediction import PredictionStatus
from airflow_vace.storage.checks import unpacked
from airflow_vace.submission.decision import may_regenerate
from airflow_vace.submission.record import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_vace.batch.chunks import Chunks, Entry
    from airflow_vace.batch.items import Item
    from airflow_vace.submission.decision import Attempt
    from airflow_vace.submission.record import Record

_CANCELED = (PredictionStatus.CANCELED, PredictionStatus.ABORTED)


def restore(
    items: Iterable[Item],
    chunks: Chunks,
    attempt: Attempt,
    *,
    is_resumed: bool,
    max_regenerations: int = 0,
) -> dict[str, Running]:
    """Set the state of each item, and return the predictions that run, by the keys of their items.

    An item of an earlier attempt stays "waiting": the submission decides whether its prediction serves. An
    item whose rejected video another prediction may replace stays "waiting" too.

    :param attempt: Airflow's numbers of this attempt
    :param is_resumed: an earlier process of the same attempt has submitted items
    :param max_regenerations: number of predictions that may replace an item's rejected videos
    """
    found: dict[str, Running] = {}
    for item in items:
        if item.is_left_out:
            continue
        entry = chunks.entry(item.key)
        record = entry.record
        is_of_attempt = is_resumed and entry.attempt == chunks.attempt
        if entry.reused is not None:
            # A later attempt looks again whether the file is there.
            if is_of_attempt:
                files = unpacked(entry.reused.get("files") or ())
                item.state, item.payload = State.REUSED, {**entry.reused, "files": files}
        elif record is None or record.phase is Phase.INTENT:
            if is_of_attempt and entry.error is not None:
                item.state = State.FAILED if record is None else State.UNKNOWN
                item.error, item.may_retry = entry.error, entry.may_retry
        elif is_of_attempt and record.phase is Phase.SUBMITTED and entry.error is None:
            item.state, item.payload = State.RUNNING, record.known.payload()
            found[item.key] = Running(record.known, record.deadline)
        elif may_regenerate(record, max_regenerations):
            continue
        elif record.phase is Phase.SETTLED or is_of_attempt:
            is_cleared = attempt.is_cleared_since(record)
            _restore_ended(item, entry, record, is_of_attempt=is_of_attempt, is_cleared=is_cleared)
    return found


def _restore_ended(
    item: Item, entry: Entry, record: Record, *, is_of_attempt: bool, is_cleared: bool
) -> None:
    known = record.known
    if known.status is PredictionStatus.SUCCEEDED and entry.error is None:
        if is_of_attempt:
            item.state, item.payload = State.SUCCEEDED, known.payload()
        return
    # A retry repeats only what another run may improve; a person's clear repeats all failures.
    may_help = entry.may_retry and (known.worth_another_run or entry.error is not None)
    if is_of_attempt or not (may_help or is_cleared):
        item.state = State.CANCELED if known.status in _CANCELED else State.FAILED
        item.payload, item.may_retry = known.payload(), may_help
        item.error = entry.error or known.error or f"Prediction {known.id} is {known.status}"
