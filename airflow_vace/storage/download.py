"""One output on its way from the server to a temporary file: resumed, tried again, and looked at."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from airflow_vace.core.retry import Backoff, is_file_gone, verdict_of
from airflow_vace.exceptions import (
    PredictionExpired,
    VaceAPIError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
    excerpt,
)
from airflow_vace.prediction import RETENTION_SECONDS, is_data, parse_time
from airflow_vace.storage.media_types import HEAD, SUFFIXES, check_whole, type_of

if TYPE_CHECKING:
    from threading import Event
    from typing import BinaryIO

    from airflow_vace.client.downloads import Download
    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction

_MOST_ATTEMPTS = 5
# How often a long transfer tells how far it is.
_TELL_SECONDS = 10.0
# Slower than so many bytes in so many seconds is no transfer, but a server in trouble.
_SLOW_BYTES, _SLOW_SECONDS = 64 * 1024, 30.0
# One output may take this long over all attempts; after an hour its server deletes the file.
_LONGEST_FETCH_SECONDS = 1800.0


class Fetch:
    """Fetches the output with this `index` of a prediction.

    `prediction` is as last told: addresses may be signed for a short time, and are then asked for anew.
    """

    def __init__(self, hook: VaceHook, prediction: Prediction, index: int, stop: Event | None) -> None:
        self.hook = hook
        self.prediction = prediction
        self.index = index
        self.stop = stop
        self.log = hook.log
        self._digest = hashlib.sha256()
        self._etag: str | None = None
        self._size: int | None = None
        self._until = 0.0

    @property
    def url(self) -> str:
        return self.prediction.output_urls[self.index]

    def into(self, file: BinaryIO) -> tuple[str, str]:
        """Write the output into a file, going on where it broke off; return its SHA-256 and its media type.

        :raises PredictionExpired: if it is gone
        :raises VaceTransportError: if it could not be had, in several attempts
        :raises VaceAPIError: if it was refused
        :raises VaceProtocolError: if it is at no address that may be fetched, or can't be decoded
        :raises VaceInputError: if it is larger than the connection's extra `max_output_mb` allows
        """
        self._until = time.monotonic() + _LONGEST_FETCH_SECONDS
        if is_data(self.url):
            content = _decoded(self.url)
            self._check_size(len(content))
            file.write(content)
            return hashlib.sha256(content).hexdigest(), self._checked(file)
        backoff, attempt, most = Backoff(timing=self.hook.timing), 0, 0
        while True:
            at = file.tell()
            try:
                return self._once(file, at)
            except (VaceTransportError, VaceAPIError) as error:
                attempt = 1 if file.tell() > most else attempt + 1
                most = max(most, file.tell())
                if not at and is_file_gone(error):
                    self._look_again(error, is_last=attempt == _MOST_ATTEMPTS)
                elif attempt == _MOST_ATTEMPTS or not (at or verdict_of(error, "download").now):
                    raise
                if self._etag is None or not verdict_of(error, "download").now:
                    # Without a mark of the file its rest may be another's; and some servers refuse ranges.
                    self._begin_anew(file)
                delay = backoff.delay_after(error)
                if time.monotonic() + delay >= self._until:
                    raise
                self.log.warning("Fetching the file again in %.1f s: %s", delay, error)
                pause(delay, self.stop)

    def _once(self, file: BinaryIO, at: int) -> tuple[str, str]:
        with self.hook.open_file(self.url, start=at, etag=self._etag) as download:
            self._take_up(download, file, at)
            watch = _Watch(self.log, "Fetched", self.stop, self._size, file.tell())
            for chunk in download.chunks:
                self._check_size(file.tell() + len(chunk), is_counted=True)
                self._digest.update(chunk)
                file.write(chunk)
                self._check_time(file.tell())
                watch.at(file.tell())
                watch.check_speed(file.tell(), self.url)
        if self._size not in (None, file.tell()):
            short = f"GET {excerpt(self.url)}: {file.tell()} bytes came of {self._size}"
            raise VaceTransportError(short, sent=True)
        try:
            return self._digest.hexdigest(), self._checked(file)
        except VaceProtocolError as error:
            self._etag = None  # what the server has is not the file, or not yet
            raise VaceTransportError(f"GET {excerpt(self.url)}: {error}", sent=True) from error

    def _take_up(self, download: Download, file: BinaryIO, at: int) -> None:
        """Go on behind what is there only with the rest of the same file, else from the start.

        Some servers ignore If-Range, and behind one address there may be several servers.
        """
        if download.start == 0:
            if at:
                self._begin_anew(file)
            self._etag, self._size = download.etag, download.size
        elif not (
            download.start == at
            and self._etag is not None
            and download.etag == self._etag
            and (self._size is None or download.size in (None, self._size))
        ):
            self._etag = None
            other = f"GET {excerpt(self.url)}: a part came that is not the rest of the file that was begun"
            raise VaceTransportError(other, sent=True)
        elif self._size is None:
            self._size = download.size
        self._check_size(self._size or 0)

    def _check_size(self, size: int, *, is_counted: bool = False) -> None:
        limit = self.hook.settings.max_output_bytes
        if size <= limit:
            return
        has = "is larger than" if is_counted else f"has {size / 1e6:.1f} MB, more than"
        remedy = "raise the connection's extra 'max_output_mb', and clear the task within the hour"
        raise VaceInputError(
            f"Prediction {self.prediction.id} succeeded, but its output {has} the {limit / 1e6:g} MB that the"
            f" connection allows, and was not saved. {self.prediction.bill} Its file lives for an hour:"
            f" {remedy}.",
            field="max_output_mb",
            value=limit / 1e6,
            remedy=remedy,
        )

    def _check_time(self, count: int) -> None:
        if time.monotonic() >= self._until:
            late = f"GET {excerpt(self.url)}: not whole after {_LONGEST_FETCH_SECONDS / 60:.0f} minutes"
            raise VaceTransportError(f"{late}, {count / 1e6:.1f} MB came", sent=True)

    def _begin_anew(self, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self._digest = hashlib.sha256()

    def _checked(self, file: BinaryIO) -> str:
        """Return the media type that a file has by its content, else the announced one, if it is whole."""
        size = file.tell()
        file.seek(0)
        found = type_of(file.read(HEAD))
        content_type = found if found in SUFFIXES else announced(self.url)
        check_whole(file, size, content_type)
        file.seek(size)
        return content_type

    def _look_again(self, error: VaceError, *, is_last: bool) -> None:
        """Ask where a file is that its server refuses: it may be elsewhere, gone, or back in a moment."""
        with suppress(VaceError):
            told = self.prediction.updated(self.hook.get_prediction(self.prediction))
            if not told.data_removed and len(told.output_urls) == len(self.prediction.output_urls):
                self.prediction = told
            else:
                self.prediction = replace(self.prediction, data_removed=told.data_removed or told.has_expired)
        ended = parse_time(self.prediction.completed_at)
        age = None if ended is None else (datetime.now(UTC) - ended).total_seconds()
        if self.prediction.data_removed or (is_last and (age is None or age > RETENTION_SECONDS)):
            raise PredictionExpired(
                f"Prediction {self.prediction.id} succeeded, but its file is gone: files live for an hour."
                f" {self.prediction.bill} Submit it anew, and save it in time. What came: {error}",
                prediction=self.prediction,
            ) from error
        if is_last:
            raise VaceTransportError(
                f"The file is refused, although its hour is not over: {error}", sent=True
            )


class _Watch:
    """Looks at a transfer as it goes on: tells now and then how far it is, ends it if it must end."""

    def __init__(self, log: Any, done: str, stop: Event | None, size: int | None, at: int = 0) -> None:
        self.log, self.done, self.stop, self.size = log, done, stop, size
        self.told = self.since = time.monotonic()
        self.count = at

    def at(self, count: int) -> None:
        check_stop(self.stop)
        now = time.monotonic()
        if now - self.told >= _TELL_SECONDS:
            self.told = now
            of = f" of {self.size / 1e6:.0f}" if self.size else ""
            self.log.info("%s %.0f%s MB", self.done, count / 1e6, of)

    def check_speed(self, count: int, url: str) -> None:
        """Break off what trickles: it would hold its place until the file is deleted."""
        now = time.monotonic()
        if now - self.since < _SLOW_SECONDS:
            return
        if count - self.count < _SLOW_BYTES:
            slow = f"{count - self.count} bytes in {now - self.since:.0f} s"
            raise VaceTransportError(f"GET {excerpt(url)}: it trickles, {slow}", sent=True)
        self.count, self.since = count, now


def told_by_store(log: Any, size: int, stop: Event | None) -> Any:
    """Return what fsspec calls while it writes: it tells how far it is, and ends it if it must end."""
    from fsspec.callbacks import Callback

    watch = _Watch(log, "Stored", stop, size)

    class Told(Callback):  # type: ignore[misc]  # fsspec is not typed
        def call(self, *_: Any, **__: Any) -> None:
            watch.at(self.value)

    return Told()


def check_stop(stop: Event | None) -> None:
    """Raise VaceTransportError if a transfer must end."""
    if stop is not None and stop.is_set():
        raise VaceTransportError("The transfer was stopped", sent=True)


def pause(seconds: float, stop: Event | None) -> None:
    """Sleep, unless the transfer must end."""
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)
    check_stop(stop)


def announced(url: str) -> str:
    """Return the media type that a URL announces, video/mp4 if it says nothing."""
    if is_data(url):
        said = url[5:].split(",", 1)[0].split(";", 1)[0].lower()
        return said if said in SUFFIXES else "video/mp4"
    try:
        suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    except ValueError:  # no address at all: the download will say so
        suffix = ""
    return next((t for t, known in SUFFIXES.items() if known == suffix), "video/mp4")


def _decoded(url: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode(unquote(data), validate=True)
        return unquote_to_bytes(data)
    except binascii.Error as error:
        raise VaceProtocolError(f"The output is a data: URL that can't be decoded: {error}") from error
