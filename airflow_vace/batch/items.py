"""The items of a batch, and their states."""

from __future__ import annotations

import json
import zlib
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

    `error` is the reason of a failure, and `may_retry` is True if another attempt of the task may help.
    `is_left_out` is True for a bad row.
    """

    position: int
    key: str
    row: Row | None
    columns: Mapping[str, Any]
    state: State = State.WAITING
    error: str | None = None
    may_retry: bool = True
    is_left_out: bool = False
    # Ten thousand payloads as dicts would take thirty megabytes more.
    _payload: bytes | None = None

    @property
    def payload(self) -> dict[str, Any] | None:
        """The payload of the item's prediction, None before the submission."""
        return None if self._payload is None else decompressed(self._payload)

    @payload.setter
    def payload(self, value: Mapping[str, Any] | None) -> None:
        self._payload = None if value is None else compressed(value)


def compressed(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object as compressed text."""
    return zlib.compress(json.dumps(value).encode(), 1)


def decompressed(content: bytes) -> dict[str, Any]:
    """Return the JSON object of :func:`compressed`."""
    found: dict[str, Any] = json.loads(zlib.decompress(content))
    return found


@dataclass(frozen=True, slots=True)
class Running:
    """A prediction that runs until the deadline at most, in seconds since the epoch by the server's clock."""

    prediction: Prediction
    deadline: float | None
