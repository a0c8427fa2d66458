"""Progress of transfers: log lines, stop requests and a check of the speed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceTransportError
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from threading import Event

    from airflow_vace.core.timing import Timing

# Less than this many bytes within `stalled_download_seconds` is no useful transfer.
_MIN_WINDOW_BYTES = 64 * 1024


class Progress:
    """Progress of one transfer.

    :param timing: interval of log lines, and time window of the speed check
    :param log: receives a line at level info per interval
    :param verb: first word of a log line, such as `Fetched`
    :param stop: ends the transfer when set; None: no such request
    :param size: total size in bytes, None if unknown
    """

    def __init__(self, timing: Timing, log: Any, verb: str, stop: Event | None, size: int | None) -> None:
        self.timing = timing
        self.log = log
        self.verb = verb
        self.stop = stop
        self.size = size
        self._logged_at = self._window_began = time.monotonic()
        self._window_count = 0

    def start_at(self, count: int) -> None:
        """Set the number of bytes from earlier attempts."""
        self._window_count = count

    def update(self, count: int) -> None:
        """Log the number of bytes so far, if a line is due.

        :raises VaceTransportError: if the transfer must end
        """
        # A thread can't be killed, so each update is also a chance to end the transfer.
        check_stop(self.stop)
        now = time.monotonic()
        if now - self._logged_at >= self.timing.slow_download_seconds:
            self._logged_at = now
            total = f" of {self.size / 1e6:.0f}" if self.size else ""
            self.log.info("%s %.0f%s MB", self.verb, count / 1e6, total)

    def check_speed(self, count: int, url: str) -> None:
        """Break off a transfer that is too slow to finish before the server deletes the file.

        :raises VaceTransportError: if too few bytes came within the last time window
        """
        now = time.monotonic()
        if now - self._window_began < self.timing.stalled_download_seconds:
            return
        if count - self._window_count < _MIN_WINDOW_BYTES:
            speed = f"{count - self._window_count} bytes in {now - self._window_began:.0f} s"
            raise VaceTransportError(f"GET {excerpt(url)}: the transfer is too slow, {speed}", sent=True)
        self._window_count, self._window_began = count, now


def fsspec_callback(progress: Progress) -> Any:
    """Return a fsspec callback that updates the progress of an upload to a store."""
    from fsspec.callbacks import Callback

    class ProgressCallback(Callback):  # type: ignore[misc]  # fsspec is not typed
        def call(self, *_: Any, **__: Any) -> None:
            progress.update(self.value)

    return ProgressCallback()


def check_stop(stop: Event | None) -> None:
    """Raise VaceTransportError if a transfer must end."""
    if stop is not None and stop.is_set():
        raise VaceTransportError("The transfer was stopped", sent=True)


def pause(seconds: float, stop: Event | None) -> None:
    """Sleep, and raise VaceTransportError as soon as the transfer must end."""
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)
    check_stop(stop)
