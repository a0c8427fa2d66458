"""The items of a batch, and their states."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.batch.rows import Row
    from airflow_vace.prediction import Prediction


class State(StrEnum):
    """The states of an item; `REUSED` is a saved video of another run, `SKIPPED` was never submitted."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REUSED = "reused"
    FAILED = "failed"
    CANCELED = "canceled"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        """Return True if this attempt has nothing more to do for the item."""
        return self not in (State.WAITING, State.RUNNING)


@dataclass(slots=True, kw_only=True)
class Item:
    """One row of a batch and its state.

    `payload` is that of the item's prediction, None before the submission. `error` is the reason of a
    failure, and `may_retry` is True if another attempt of the task may help. `is_left_out` is True for a bad
    row.
    """

    position: int
    key: str
    row: Row | None
    columns: Mapping[str, Any]
    state: State = State.WAITING
    payload: dict[str, Any] | None = None
    error: str | None = None
    may_retry: bool = True
    is_left_out: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A prediction that runs until the deadline at most, in seconds since the epoch by the server's clock."""

    prediction: Prediction
    deadline: float | None
