"""Download of one output to a temporary file, with retries, resumption and checks."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_vace.core.retry import Backoff, is_file_gone
from airflow_vace.exceptions import (
    PredictionExpired,
    VaceAPIError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.prediction import RETENTION_SECONDS, parse_time
from airflow_vace.redaction import excerpt, is_data
from airflow_vace.storage.contents import ContentCheck
from airflow_vace.storage.errors import is_transient
from airflow_vace.storage.outputs import Inline, content_of, outputs_of
from airflow_vace.storage.progress import Progress, pause
from airflow_vace.storage.suffixes import Announced, FileType

if TYPE_CHECKING:
    from threading import Event
    from typing import BinaryIO

    from airflow_vace.client.downloads import Download
    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction


class OutputDownload:
    """Download of one output of a prediction.

    :param prediction: latest known state; URLs with short-lived signatures are requested again if refused
    :param index: position among the prediction's outputs, from 0
    :param stop: ends the transfer when set
    """

    def __init__(self, hook: VaceHook, prediction: Prediction, index: int, stop: Event | None) -> None:
        self.hook = hook
        self.prediction = prediction
        self.index = index
        self.stop = stop
        self._digest = hashlib.sha256()
        self._etag: str | None = None
        self._size: int | None = None
        self._check = ContentCheck(hook.log)
        self._deadline = 0.0

    @property
    def url(self) -> str:
        return self.prediction.output_urls[self.index]

    def into(self, file: BinaryIO) -> tuple[str, FileType]:
        """Write the output to a file, and return the SHA-256, and the media type with its suffix.

        A retry resumes behind the bytes of earlier attempts.

        :raises PredictionExpired: if the server has deleted the output
        :raises VaceTransportError: if all attempts failed, or time is over (`max_download_seconds`)
        :raises VaceAPIError: if the server refused the request
        :raises VaceProtocolError: if the URL is forbidden or invalid
        :raises VaceInputError: if the output exceeds the connection's extra `max_output_mb`
        """
        timing = self.hook.timing
        self._deadline = time.monotonic() + timing.max_download_seconds
        output = outputs_of(self.prediction)[self.index]
        if isinstance(output, Inline):
            self._write(file, output.content)
            return self._digest.hexdigest(), output.type
        if is_data(self.url):
            self._check.announced = Announced.of(self.url)
            self._write(file, content_of(self.url))
            digest = self._digest.hexdigest()
            return digest, self._check.type_of(file, digest)
        backoff, attempt, furthest = Backoff(timing=timing), 0, 0
        while True:
            start = file.tell()
            try:
                return self._attempt(file, start)
            except (VaceTransportError, VaceAPIError) as error:
                # Slow but steady servers need many attempts, so count only attempts without new bytes.
                attempt = 1 if file.tell() > furthest else attempt + 1
                furthest = max(furthest, file.tell())
                is_last = attempt == timing.max_download_attempts
                if not start and is_file_gone(error):
                    self._refresh(error, is_last=is_last)
                elif is_last or not (start or is_transient(error)):
                    raise
                if self._etag is None or not is_transient(error):
                    # Without an ETag the rest may belong to another file, and some servers refuse ranges.
                    self._restart(file)
                delay = backoff.delay_after(error)
                if time.monotonic() + delay >= self._deadline:
                    raise
                self.hook.log.warning("Fetching the file again in %.1f s: %s", delay, error)
                pause(delay, self.stop)

    def _write(self, file: BinaryIO, content: bytes) -> None:
        self._check_size(len(content))
        self._digest.update(content)
        file.write(content)

    def _attempt(self, file: BinaryIO, start: int) -> tuple[str, FileType]:
        with self.hook.open_file(self.url, start=start, etag=self._etag) as download:
            self._accept(download, file, start)
            progress = Progress(self.hook.timing, self.hook.log, "Fetched", self.stop, self._size)
            progress.start_at(file.tell())
            for chunk in download.chunks:
                self._check_size(file.tell() + len(chunk), is_counted=True)
                self._digest.update(chunk)
                file.write(chunk)
                self._check_time(file.tell())
                progress.update(file.tell())
                progress.check_speed(file.tell(), self.url)
        if self._size not in (None, file.tell()):
            problem = f"GET {excerpt(self.url)}: {file.tell()} bytes came of {self._size}"
            raise VaceTransportError(problem, sent=True)
        try:
            digest = self._digest.hexdigest()
            return digest, self._check.type_of(file, digest)
        except VaceProtocolError as error:
            # The server's file is wrong or incomplete, so its ETag must not mark a good beginning.
            self._etag = None
            raise VaceTransportError(f"GET {excerpt(self.url)}: {error}", sent=True) from error

    def _accept(self, download: Download, file: BinaryIO, start: int) -> None:
        """Check that a response continues the bytes in the file, or start over with a whole response.

        Some servers ignore If-Range, and several servers may share one address.

        :raises VaceTransportError: if the response is a part of another file
        """
        if download.start == 0:
            if start:
                self._restart(file)
            self._etag, self._size = download.etag, download.size
            self._check.expect(self.url, download)
        elif not (
            download.start == start
            and self._etag is not None
            and download.etag == self._etag
            and (self._size is None or download.size in (None, self._size))
        ):
            self._etag = None
            problem = f"GET {excerpt(self.url)}: the response is a part of another file than the first bytes"
            raise VaceTransportError(problem, sent=True)
        elif self._size is None:
            self._size = download.size
        self._check_size(self._size or 0)

    def _check_size(self, size: int, *, is_counted: bool = False) -> None:
        limit = self.hook.settings.max_output_bytes
        if size <= limit:
            return
        excess = "is larger than" if is_counted else f"has {size / 1e6:.1f} MB, more than"
        remedy = "raise the connection's extra 'max_output_mb', and clear the task within the hour"
        raise VaceInputError(
            f"Prediction {self.prediction.id} succeeded, but its output {excess} the {limit / 1e6:g} MB that"
            f" the connection allows, and was not saved. {self.prediction.bill} Its file lives for an hour:"
            f" {remedy}.",
            field="max_output_mb",
            value=limit / 1e6,
            remedy=remedy,
        )

    def _check_time(self, count: int) -> None:
        if time.monotonic() >= self._deadline:
            minutes = self.hook.timing.max_download_seconds / 60
            problem = f"GET {excerpt(self.url)}: not whole after {minutes:.0f} minutes"
            raise VaceTransportError(f"{problem}, {count / 1e6:.1f} MB came", sent=True)

    def _restart(self, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self._digest = hashlib.sha256()

    def _refresh(self, error: VaceError, *, is_last: bool) -> None:
        """Poll the prediction after a refused download: the file may have a new URL, or be deleted.

        :param is_last: the answer is final, no attempt follows
        :raises PredictionExpired: if the output is deleted
        :raises VaceTransportError: if the last attempt was refused within the output's hour
        """
        with suppress(VaceError):
            latest = self.prediction.updated(self.hook.get_prediction(self.prediction))
            if not latest.data_removed and len(latest.output_urls) == len(self.prediction.output_urls):
                self.prediction = latest
            else:
                is_removed = latest.data_removed or latest.has_expired_at(self._now())
                self.prediction = replace(self.prediction, data_removed=is_removed)
        times = (self.prediction.completed_at, self.prediction.started_at, self.prediction.created_at)
        # Without the time of the end an earlier one shows that the hour cannot be over.
        known = next(filter(None, map(parse_time, times)), None)
        is_old = known is None or self._now() - known.timestamp() > RETENTION_SECONDS
        if self.prediction.data_removed or (is_last and is_old):
            raise PredictionExpired(
                f"Prediction {self.prediction.id} succeeded, but its file is gone: files live for an hour."
                f" {self.prediction.bill} Submit it again, and save it in time. Response: {error}",
                prediction=self.prediction,
            ) from error
        if is_last:
            raise VaceTransportError(
                f"The file is refused, although its hour is not over: {error}", sent=True
            )

    def _now(self) -> float:
        # `completed_at` is the server's time, and this machine's clock may be hours ahead.
        return self.hook.clock.confirmed(time.time())
