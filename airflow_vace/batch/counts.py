"""Counts of a batch, its log lines, and its view for the Videos tab."""

from __future__ import annotations

import json
import time
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from airflow_vace.batch.items import State
from airflow_vace.connection import airflow_turn
from airflow_vace.redaction import without_secrets
from airflow_vace.storage.checks import packed
from airflow_vace.task.view import VIEW_KEY, page_key, showing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_vace.batch.costs import Costs
    from airflow_vace.batch.items import Item

PAGE_SIZE = 60

_LETTERS = {
    State.SUCCEEDED: "s",
    State.REUSED: "u",
    State.FAILED: "f",
    State.CANCELED: "c",
    State.UNKNOWN: "k",
    State.SKIPPED: "x",
    State.RUNNING: "r",
    State.WAITING: "w",
}
_SHOWN_INPUTS = ("prompt", "seed", "size", "frame_num")
_FINAL = (
    *(State.SUCCEEDED, State.REUSED, State.FAILED, State.CANCELED),
    *(State.UNKNOWN, State.SKIPPED),
)


def counts_of(items: Sequence[Item], states: Sequence[State] = _FINAL) -> dict[str, int]:
    """Return the number of items by state."""
    found = Counter(item.state for item in items)
    return {str(state): found[state] for state in states}


class Progress:
    """Logs each tenth of the items that ends, with counts and rate.

    :param log: the task's log
    """

    def __init__(self, items: Sequence[Item], log: Any) -> None:
        self._items = items
        self._log = log
        self._started = time.monotonic()
        self._before = self._done()
        self._tenth = self._tenth_of(self._ended())

    def note(self) -> bool:
        """Log a line after another tenth; return True then."""
        ended = self._ended()
        tenth = self._tenth_of(ended)
        if tenth <= self._tenth:
            return False
        self._tenth = tenth
        minutes = max(time.monotonic() - self._started, 1.0) / 60
        self._log.info(
            "%d of %d items have ended (%s), %.0f a minute",
            ended,
            len(self._items),
            summary_of(self._items),
            (self._done() - self._before) / minutes,
        )
        return True

    def _ended(self) -> int:
        return sum(item.state.is_final for item in self._items)

    def _done(self) -> int:
        # A skipped item takes no time, so it would raise the rate of the others.
        return sum(item.state.is_final and item.state is not State.SKIPPED for item in self._items)

    def _tenth_of(self, ended: int) -> int:
        return 10 * ended // max(len(self._items), 1)


def summary_of(items: Sequence[Item]) -> str:
    """Return the counts as text, such as `95 succeeded, 5 failed`."""
    found = [f"{count} {state}" for state, count in counts_of(items, tuple(State)).items() if count]
    return ", ".join(found) or "no items"


def _packed(payload: dict[str, Any]) -> dict[str, Any]:
    return {**payload, "files": packed(payload.get("files") or ())}


class View:
    """The batch in XCom: a head, and pages of items for the Videos tab.

    :param ti: Airflow's task instance; None pushes nothing
    :param vace_conn_id: connection of the batch
    :param costs: the costs of the items
    :param log: the task's log
    """

    def __init__(self, ti: Any, vace_conn_id: str, items: Sequence[Item], costs: Costs, log: Any) -> None:
        self._ti = ti
        self._costs = costs
        self._conn_id = vace_conn_id
        self._items = items
        self._log = log
        # Digests of the values as pushed, since the pages of a large batch take megabytes.
        self._pushed: dict[str, str] = {}

    def push(self, manifest: str | None = None, error: BaseException | None = None) -> None:
        """Push the head, and all pages that have changed since the last push of this process."""
        if self._ti is None:
            return
        from airflow.sdk.log import redact  # type: ignore[attr-defined]  # exported nowhere else

        text = None if error is None else without_secrets(str(error), redact)[:2000]
        with showing(self._log):
            for number, start in enumerate(range(0, len(self._items), PAGE_SIZE)):
                page = [self._shown(item, redact) for item in self._items[start : start + PAGE_SIZE]]
                self._push(page_key(number), {"items": page})
            self._push(VIEW_KEY, self._head(manifest, text))

    def _push(self, key: str, value: dict[str, Any]) -> None:
        digest = sha256(json.dumps(value, default=str).encode()).hexdigest()
        if self._pushed.get(key) != digest:
            with airflow_turn():
                self._ti.xcom_push(key, value)
            self._pushed[key] = digest

    def _head(self, manifest: str | None, error: str | None) -> dict[str, Any]:
        return {
            "batch": {
                "items": len(self._items),
                "page_size": PAGE_SIZE,
                "pages": -(-len(self._items) // PAGE_SIZE),
                "counts": counts_of(self._items, tuple(State)),
                "states": "".join(_LETTERS[item.state] for item in self._items),
                "manifest": manifest,
                "cost": self._costs.total(self._items),
            },
            "vace_conn_id": self._conn_id,
            "error": error,
        }

    def _shown(self, item: Item, redact: Any) -> dict[str, Any]:
        given = item.row.input if item.row is not None else {}
        return {
            "key": item.key,
            "state": _LETTERS[item.state],
            "prediction": item.payload and _packed(item.payload),
            "input": without_secrets({name: given[name] for name in _SHOWN_INPUTS if name in given}, redact),
            "error": item.error,
            "cost": self._costs.of(item),
        }
