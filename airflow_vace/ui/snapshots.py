"""Polls of the back-end for the Videos tab, cached so that many browsers cause few requests."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock, Semaphore
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_vace.exceptions import VaceError
from airflow_vace.hooks import VaceHook
from airflow_vace.ui.cards import web_urls_of

_MAX_SNAPSHOTS = 500
_MAX_URLS = 100
# Each poll holds a thread of the API server, so a slow back-end must not take all of them.
_MAX_CONCURRENT_POLLS = 4


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A prediction at the back-end at one moment; fields are None or empty if the poll failed.

    :param eta: remaining seconds
    :param urls: output URLs, with their signatures
    :param taken_at: monotonic time in seconds
    """

    status: str | None = None
    percent: int | None = None
    step: int | None = None
    steps: int | None = None
    eta: float | None = None
    urls: list[str] = field(default_factory=list)
    taken_at: float = field(default_factory=time.monotonic)

    def progress(self) -> dict[str, Any]:
        """Return the JSON object for a progress bar."""
        # The URLs are secret: a browser gets them from the route that redirects, and nowhere else.
        return {name: getattr(self, name) for name in ("status", "percent", "step", "steps", "eta")}


class Snapshots:
    """A cache of snapshots by connection and prediction; safe for threads."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Snapshot] = {}
        self._lock = Lock()
        self._polls = Semaphore(_MAX_CONCURRENT_POLLS)

    def clear(self) -> None:
        """Forget all snapshots."""
        with self._lock:
            self._known.clear()

    def for_progress(self, conn_id: str, prediction_id: str) -> Snapshot:
        """Return a snapshot that is recent enough for a progress bar."""
        return self._recent(conn_id, prediction_id, VaceHook.timing.progress_refresh_seconds)

    def for_outputs(self, conn_id: str, prediction_id: str) -> Snapshot:
        """Return a snapshot with output URLs whose signatures are still valid."""
        # A player requests a video in many ranges, and each of them asks for the URL again.
        return self._recent(conn_id, prediction_id, VaceHook.timing.signed_url_refresh_seconds)

    def _recent(self, conn_id: str, prediction_id: str, max_age: float) -> Snapshot:
        key = (conn_id, prediction_id)
        with self._lock:
            last = self._known.get(key)
        # A snapshot without URLs may miss an output that is there now, so it expires early.
        if last is not None and not last.urls:
            max_age = VaceHook.timing.progress_refresh_seconds
        if last is not None and time.monotonic() - last.taken_at < max_age:
            return last
        if not self._polls.acquire(blocking=False):
            return last or Snapshot()
        try:
            taken = _take(conn_id, prediction_id)
        finally:
            self._polls.release()
        with self._lock:
            while len(self._known) >= _MAX_SNAPSHOTS:
                self._known.pop(next(iter(self._known)))
            self._known[key] = taken
        return taken


def _take(conn_id: str, prediction_id: str) -> Snapshot:
    try:
        hook = VaceHook(conn_id)
        # The id comes from a task's XCom, which may name any connection. Only a key of this type may be sent.
        if hook.get_connection(conn_id).conn_type != hook.conn_type:
            return Snapshot()
        prediction = hook.get_prediction(prediction_id)
    except (VaceError, AirflowNotFoundException):
        # The task's log reports the trouble; the page only misses a bar.
        return Snapshot()
    bar, status, urls = prediction.progress, str(prediction.status), web_urls_of(prediction)[:_MAX_URLS]
    if bar is None:
        return Snapshot(status=status, urls=urls)
    return Snapshot(
        status=status, percent=bar.percent, step=bar.step, steps=bar.steps, eta=bar.eta, urls=urls
    )
