"""Writes of complete files and manifests to their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_vace.core.retry import Backoff
from airflow_vace.redaction import excerpt
from airflow_vace.storage.errors import is_permanent_write_error
from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.manifests import manifest_at, manifest_place
from airflow_vace.storage.progress import Progress, fsspec_callback, pause

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from threading import Event

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.place import Place


class Writer:
    """Writes a prediction's complete files and manifests to their places."""

    def __init__(self, hook: VaceHook, prediction: Prediction, stop: Event | None) -> None:
        self.timing = hook.timing
        self.log = hook.log
        self.prediction_id = prediction.id
        self.stop = stop

    def write_pair(self, part: Path, place: Place, size: int, manifest: bytes) -> None:
        """Write a file and its manifest; the caller holds the lock of the directory, if there is one."""
        if isinstance(place, LocalFile):
            self._write_local_pair(part, place, manifest)
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

    def _write_local_pair(self, part: Path, place: LocalFile, manifest: bytes) -> None:
        target = manifest_place(place)
        manifest_part = self._part_with(target, manifest)
        try:
            # If this process dies after the next write, another prediction's manifest must not describe the
            # new file.
            if self._other_prediction_at(place):
                target.path.unlink(missing_ok=True)
            place.put(part)
            target.put(manifest_part)
        finally:
            manifest_part.unlink(missing_ok=True)

    def _write(
        self, part: Path, place: Place, size: int, is_taken_over: Callable[[], bool] = lambda: False
    ) -> None:
        write_file(part, place, Progress(self.timing, self.log, "Stored", self.stop, size), is_taken_over)

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
        other = (manifest_or_none(place) or {}).get("id", self.prediction_id)
        return None if other == self.prediction_id else excerpt(str(other), 200)


def write_file(
    part: Path, place: Place, progress: Progress, is_taken_over: Callable[[], bool] = lambda: False
) -> None:
    """Move a complete local file to its place; in a store repeat until the store reports the right size.

    :param progress: with the size of the file in bytes
    :param is_taken_over: returns True if another task has written its own file here meanwhile
    :raises OSError: (or any error of the store's library) if all attempts failed
    """
    if isinstance(place, LocalFile):
        place.put(part)
        return
    timing, backoff, attempt = progress.timing, Backoff(timing=progress.timing), 0
    while True:
        attempt += 1
        try:
            place.put(part, fsspec_callback(progress))
            # Some stores accept truncated uploads without an error, so compare the size.
            stored = size_or_none(place)
            if stored not in (None, progress.size) and not is_taken_over():
                raise OSError(f"{stored} bytes are there of {progress.size}")
        except Exception as error:  # store libraries share no base class of errors
            if is_permanent_write_error(error) or attempt == timing.max_write_attempts:
                raise
            delay = backoff.next_delay()
            progress.log.warning("Storing %s again in %.1f s: %s", place.uri, delay, excerpt(str(error)))
            pause(delay, progress.stop)
        else:
            return


def size_or_none(place: Place) -> int | None:
    """Return the size of a file in bytes; None without a file, and without an answer."""
    try:
        return place.size()
    except Exception:  # noqa: BLE001 - keys that may only write get an error, although the write succeeded
        return None


def manifest_or_none(place: Place) -> dict[str, Any] | None:
    """Return the manifest beside a file; None without one, and without an answer."""
    try:
        return manifest_at(place)
    except Exception:  # noqa: BLE001 - keys that may only write get an error instead of a manifest
        return None
