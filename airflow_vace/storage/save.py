"""Saving of a prediction's outputs: download, check, and write without visible partial files.

Each output goes to a temporary file first, on the same disk as a local destination, so an interrupted
download leaves nothing under the final name. A store then receives the complete file.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow_vace.core.retry import Backoff
from airflow_vace.exceptions import VaceError, VaceProtocolError, VaceTransportError
from airflow_vace.redaction import excerpt, without_secrets
from airflow_vace.storage.download import OutputDownload, announced_type
from airflow_vace.storage.errors import is_permanent_write_error, store_error
from airflow_vace.storage.local import LocalFile, flush
from airflow_vace.storage.manifests import (
    build_manifest,
    describe_file,
    manifest_at,
    manifest_place,
    saved_at,
)
from airflow_vace.storage.media_types import SUFFIXES
from airflow_vace.storage.progress import Progress, fsspec_callback, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from threading import Event

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.destination import Destination
    from airflow_vace.storage.place import Place

_CHUNK_BYTES = 1024 * 1024


def save_output(
    hook: VaceHook,
    prediction: Prediction,
    destination: Destination,
    *,
    stop: Event | None = None,
) -> list[dict[str, Any]]:
    """Save all outputs of a prediction with a manifest each, and describe the files.

    A file appears under its name only when complete, then the manifest (the name plus `.json`). Outputs of
    this prediction from earlier attempts are not downloaded again.

    Two tasks may save under one name at the same time. In a local directory a lock covers both writes of a
    pair, so video and manifest belong to the same prediction. Stores have no lock: another task may write
    between the two writes, and then video and manifest belong to different predictions. A check of the
    manifest after the write logs a warning for this case. Nothing is repaired, since the other task may
    still be writing, and writes after the check remain unnoticed.

    :param prediction: a success with `output_urls`
    :param stop: ends the transfer when set
    :return: `uri, size, sha256, content_type` per output
    :raises PredictionExpired: if the server has deleted an output
    :raises VaceTransportError: if all attempts of a download failed
    :raises VaceAPIError: if the server refused a download
    :raises VaceProtocolError: if an output's URL is forbidden or invalid, or brings no file
    :raises VaceInputError: if an output exceeds the connection's extra `max_output_mb`
    :raises OSError: if a write failed, for any reason that a store gives
    """
    saver = _Saver(hook, prediction, destination, stop)
    return [saver.save(index) for index in range(len(prediction.output_urls))]


class _Saver:
    """Saves the outputs of one prediction."""

    def __init__(
        self, hook: VaceHook, prediction: Prediction, destination: Destination, stop: Event | None
    ) -> None:
        self.hook = hook
        self.prediction = prediction
        self.destination = destination
        self.writer = _Writer(hook, prediction, stop)
        self.stop = stop
        self.log = hook.log

    def save(self, index: int) -> dict[str, Any]:
        """Save one output unless present, and return `uri, size, sha256, content_type`."""
        began = time.monotonic()
        content_type = announced_type(self.prediction.output_urls[index])
        place = self._place_of(index, content_type)
        found = self._existing(place, index, content_type) or self._existing_as_other_type(place, index)
        if found is not None:
            return found
        part: Path | None = None
        try:
            with self._explained(place):
                part = place.new_part(SUFFIXES[content_type], self.hook.timing.stale_part_seconds)
                with part.open("w+b") as opened:
                    download = OutputDownload(self.hook, self.prediction, index, self.stop)
                    digest, found_type = download.into(opened)
                    size = opened.tell()
            # The suffix follows the content, since players trust the suffix.
            if found_type != content_type:
                place = self._place_of(index, found_type)
            with self._explained(place):
                file = describe_file(place, size, digest, found_type)
                self.writer.write_pair(part, place, size, self._manifest(file, index))
        finally:
            if part is not None:
                part.unlink(missing_ok=True)
        self.log.info(
            "Saved prediction %s as %s: %.1f MB, sha256 %s…, in %.1f s",
            self.prediction.id,
            place.uri,
            size / 1e6,
            digest[:12],
            time.monotonic() - began,
        )
        return file

    @contextmanager
    def _explained(self, place: Place) -> Iterator[None]:
        """Add to any error the prediction's id, the bill, and the next step."""
        succeeded = f"Prediction {self.prediction.id} succeeded, but its"
        try:
            yield
        except VaceTransportError as error:
            problem = f"{succeeded} file could not be downloaded: {str(error).rstrip('.')}"
            raise VaceTransportError(f"{problem}. {self.prediction.bill}", sent=True) from error
        except VaceProtocolError as error:
            problem = f"{succeeded} output is no file: {str(error).rstrip('.')}"
            raise VaceProtocolError(f"{problem}. {self.prediction.bill}") from error
        except VaceError:
            raise
        except Exception as error:  # store libraries share no base class of errors
            raise self._write_error(place.uri, error) from error

    def _place_of(self, index: int, content_type: str) -> Place:
        """Return the place of an output.

        :raises OSError: if the store can't be opened: after the payment this is no error of the input
        """
        number = index + 1 if len(self.prediction.output_urls) > 1 else None
        try:
            return self.destination.place_of(self.prediction.id, number, SUFFIXES[content_type])
        except VaceError as error:
            raise self._write_error(excerpt(self.destination.save_to), error) from error

    def _write_error(self, where: str, error: Exception) -> OSError:
        return store_error(
            f"Prediction {self.prediction.id} succeeded, but its video could not be written to {where}."
            f" {self.prediction.bill} Fetch it within the hour, with a VacePredictionSensor on this id and"
            " another save_to",
            error,
        )

    def _existing(self, place: Place, index: int, content_type: str) -> dict[str, Any] | None:
        """Return the file of an earlier attempt, with a new manifest if that attempt was killed too early."""
        try:
            if found := saved_at(place, self.prediction.id, self.hook.timing.max_lock_seconds):
                return found[0]
            # Without a manifest a fixed name may hold another prediction's file, and a store without
            # atomic writes may hold half a file, so download again.
            if not self.destination.is_directory or not place.is_atomic:
                return None
            size = place.size()
            if not size:
                return None
            file = describe_file(place, size, _digest_of(place), content_type)
            self.writer.write_manifest(place, self._manifest(file, index))
        except Exception as error:  # noqa: BLE001 - keys that may only write see nothing, so write again
            self.log.info("Whether %s exists is unknown: %s", place.uri, type(error).__name__)
            return None
        return file

    def _existing_as_other_type(self, place: Place, index: int) -> dict[str, Any] | None:
        """Return a saved output whose media type differs from the URL's announcement.

        The server may have deleted the file, and still return its URL.
        """
        for content_type in SUFFIXES if self.destination.is_directory else ():
            other = self._place_of(index, content_type)
            if other.uri == place.uri:
                continue
            # An error here was logged for the first place already.
            with suppress(Exception):
                if found := saved_at(other, self.prediction.id, self.hook.timing.max_lock_seconds):
                    return found[0]
        return None

    def _manifest(self, file: dict[str, Any], index: int) -> bytes:
        from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the public module hides the name

        values = self.destination.input or without_secrets(self.prediction.input, redact)
        return build_manifest(self.prediction, index, self.destination.task, values, file)


class _Writer:
    """Writes a prediction's complete files and manifests to their places."""

    def __init__(self, hook: VaceHook, prediction: Prediction, stop: Event | None) -> None:
        self.timing = hook.timing
        self.log = hook.log
        self.prediction_id = prediction.id
        self.stop = stop

    def write_pair(self, part: Path, place: Place, size: int, manifest: bytes) -> None:
        """Write a file and its manifest, as one step where the destination has locks."""
        if isinstance(place, LocalFile):
            self._write_locked_pair(part, place, manifest)
            return
        self._write(part, place, size)
        self.write_manifest(place, manifest)
        # Stores have no lock, so a mixed pair can only be detected afterwards.
        if other := self._other_prediction_at(place):
            self.log.warning(
                "Prediction %s was saved as %s, and so was prediction %s at the same time: the manifest"
                " is of the latter, and which of the two the file is of is not known. Give each task a"
                " name of its own, or a directory",
                self.prediction_id,
                place.uri,
                other,
            )

    def write_manifest(self, place: Place, content: bytes) -> None:
        """Write the manifest beside a file."""
        target = manifest_place(place)
        part = self._part_with(target, content)
        try:
            self._write(part, target, len(content), lambda: self._other_prediction_at(place) is not None)
        finally:
            part.unlink(missing_ok=True)

    def _write_locked_pair(self, part: Path, place: LocalFile, manifest: bytes) -> None:
        target = manifest_place(place)
        # A flush takes seconds on a slow disk, so flush before the lock.
        flush(part)
        manifest_part = self._part_with(target, manifest)
        try:
            with place.locked(self.timing.max_lock_seconds):
                # If this process dies after the next write, another prediction's manifest must not
                # describe the new file.
                if self._other_prediction_at(place):
                    target.path.unlink(missing_ok=True)
                place.put(part)
                target.put(manifest_part)
        finally:
            manifest_part.unlink(missing_ok=True)

    def _write(
        self,
        part: Path,
        place: Place,
        size: int,
        is_taken_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Write a file; in a store repeat until the store reports the right size.

        :param is_taken_over: returns True if another task has written its own file here meanwhile
        """
        if isinstance(place, LocalFile):
            place.put(part)
            return
        backoff, attempt = Backoff(timing=self.timing), 0
        while True:
            attempt += 1
            try:
                progress = Progress(self.timing, self.log, "Stored", self.stop, size)
                place.put(part, fsspec_callback(progress))
                # Some stores accept truncated uploads without an error, so compare the size.
                stored = _size_or_none(place)
                if stored not in (None, size) and not is_taken_over():
                    raise OSError(f"{stored} bytes are there of {size}")
            except Exception as error:  # store libraries share no base class of errors
                if is_permanent_write_error(error) or attempt == self.timing.max_write_attempts:
                    raise
                delay = backoff.next_delay()
                self.log.warning("Storing %s again in %.1f s: %s", place.uri, delay, excerpt(str(error)))
                pause(delay, self.stop)
            else:
                return

    def _part_with(self, target: Place, content: bytes) -> Path:
        part = target.new_part(".json", self.timing.stale_part_seconds)
        try:
            part.write_bytes(content)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return part

    def _other_prediction_at(self, place: Place) -> str | None:
        """Return the id in a foreign manifest beside a file, None if the manifest is missing or our own."""
        other = (_manifest_or_none(place) or {}).get("id", self.prediction_id)
        return None if other == self.prediction_id else excerpt(str(other), 200)


def _size_or_none(place: Place) -> int | None:
    try:
        return place.size()
    except Exception:  # noqa: BLE001 - keys that may only write get an error, although the write succeeded
        return None


def _manifest_or_none(place: Place) -> dict[str, Any] | None:
    try:
        return manifest_at(place)
    except Exception:  # noqa: BLE001 - keys that may only write get an error instead of a manifest
        return None


def _digest_of(place: Place) -> str:
    digest = hashlib.sha256()
    with place.open() as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
