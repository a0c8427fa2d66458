"""Files out of a prediction: fetched, checked, and put in place whole before their server deletes them.

An output is written to a temporary file first, on the same disk as a local destination, so that what breaks
off leaves nothing under the final name; a store then gets the whole file.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_vace.core.retry import Backoff
from airflow_vace.exceptions import VaceError, VaceProtocolError, VaceTransportError, excerpt
from airflow_vace.storage.destination import without_secrets
from airflow_vace.storage.download import Fetch, announced, pause, told_by_store
from airflow_vace.storage.manifests import described, manifest_at, manifest_of, saved_at, written
from airflow_vace.storage.media_types import SUFFIXES
from airflow_vace.storage.paths import flush, store_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from threading import Event

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.destination import Destination
    from airflow_vace.storage.paths import Place

_MOST_PUTS = 3
_CHUNK = 1024 * 1024


def save_output(
    hook: VaceHook,
    prediction: Prediction,
    destination: Destination,
    *,
    stop: Event | None = None,
) -> list[dict[str, Any]]:
    """Save each output of a prediction, and return `uri, size, sha256, content_type` each.

    A file appears under its name only when it is whole, and then its manifest (the name and `.json`) beside
    it. One of this prediction that is there already is not fetched again.

    A file's name may be chosen by two tasks that save at once. In a local directory both of a pair are put in
    place under a lock, so video and manifest are of one prediction. Stores have no lock: between the two
    writes another task may write its own two, and then video and manifest are of different predictions. The
    manifest is therefore read again after it was written; if it is another prediction's by then, a warning
    says so and nothing is written a second time, since the other task may still be writing. Another task that
    writes after that check is not noticed.

    :param stop: ends the transfer when it is set
    :raises PredictionExpired: if the server has deleted a file
    :raises VaceTransportError: if a file could not be had, in several attempts
    :raises VaceAPIError: if the server refused it
    :raises VaceProtocolError: if it is at no address that may be fetched
    :raises VaceInputError: if an output is larger than the connection's extra `max_output_mb` allows
    :raises OSError: if a file could not be written, for whatever reason its store gives
    """
    transfer = _Transfer(hook, prediction, destination, stop)
    return [transfer.save(index) for index in range(len(prediction.output_urls))]


class _Transfer:
    """Brings the files of one prediction to their places."""

    def __init__(
        self, hook: VaceHook, prediction: Prediction, destination: Destination, stop: Event | None
    ) -> None:
        self.hook = hook
        self.prediction = prediction
        self.destination = destination
        self.stop = stop
        self.log = hook.log

    def save(self, index: int) -> dict[str, Any]:
        began = time.monotonic()
        content_type = announced(self.prediction.output_urls[index])
        place = self._place_of(index, content_type)
        found = self._existing(place, index, content_type) or self._renamed(place, index)
        if found is not None:
            return found
        part: Path | None = None
        try:
            part = place.new_part(SUFFIXES[content_type])
            with part.open("w+b") as opened:
                digest, told_type = Fetch(self.hook, self.prediction, index, self.stop).into(opened)
                size = opened.tell()
            if told_type != content_type:
                place = self._place_of(index, told_type)
            file = described(place, size, digest, told_type)
            self._put_pair(part, place, size, self._manifest(file, index))
        except VaceTransportError as error:
            raise VaceTransportError(
                f"Prediction {self.prediction.id} succeeded, but its file could not be had:"
                f" {str(error).rstrip('.')}. {self.prediction.bill}",
                sent=True,
            ) from error
        except VaceProtocolError as error:
            raise VaceProtocolError(
                f"Prediction {self.prediction.id} succeeded, but its output is no file:"
                f" {str(error).rstrip('.')}. {self.prediction.bill}"
            ) from error
        except VaceError:
            raise
        except Exception as error:  # stores are strangers, and may throw anything
            raise self._unwritten(place.uri, error) from error
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

    def _place_of(self, index: int, content_type: str) -> Place:
        """Return where an output goes; that its store can't be opened is no longer an error of the input."""
        number = index + 1 if len(self.prediction.output_urls) > 1 else None
        try:
            return self.destination.place_of(self.prediction.id, number, SUFFIXES[content_type])
        except VaceError as error:
            raise self._unwritten(excerpt(self.destination.save_to), error) from error

    def _unwritten(self, where: str, error: Exception) -> OSError:
        return store_error(
            f"Prediction {self.prediction.id} succeeded, but its video could not be written to {where}."
            f" {self.prediction.bill} Fetch it within the hour, with a VacePredictionSensor on this id and"
            " another save_to",
            error,
        )

    # --- what is there already ---------------------------------------------------------------------

    def _existing(self, place: Place, index: int, content_type: str) -> dict[str, Any] | None:
        """Return what an earlier attempt has saved of this prediction, if it has."""
        try:
            if found := saved_at(place, self.prediction.id):
                return found[0]
            if not self.destination.is_directory or not place.is_atomic:
                return None  # another prediction's, or half a file, for all that is known
            size = place.size()
            if not size:
                return None
            file = described(place, size, _digest_of(place), content_type)
            self._put_manifest(place, self._manifest(file, index))
        except Exception as error:  # noqa: BLE001 - who may only write can't look; then it is put there anew
            self.log.info(
                "Whether %s is there already could not be told: %s", place.uri, type(error).__name__
            )
            return None
        return file

    def _renamed(self, place: Place, index: int) -> dict[str, Any] | None:
        """Return what was saved of this output as another kind of file than its address announces.

        The server may have deleted the file since, and still give its address.
        """
        for content_type in SUFFIXES if self.destination.is_directory else ():
            other = self._place_of(index, content_type)
            if other.uri == place.uri:
                continue
            with suppress(Exception):  # as for the first place, whose trouble is in the log
                if found := saved_at(other, self.prediction.id):
                    return found[0]
        return None

    # --- putting in place --------------------------------------------------------------------------

    def _put(
        self, part: Path, place: Place, size: int, is_anothers: Callable[[], bool] = lambda: False
    ) -> None:
        """Put a file in place; in a store in several attempts, until it is there with its size.

        :param is_anothers: returns True if another task has put a file of its own there meanwhile
        """
        if place.local:
            place.take(part)
            return
        backoff, attempt = Backoff(timing=self.hook.timing), 0
        while True:
            attempt += 1
            try:
                place.take(part, told_by_store(self.log, size, self.stop))
                stored = _size_or_none(place)
                if stored not in (None, size) and not is_anothers():
                    raise OSError(f"{stored} bytes are there of {size}")
            except (PermissionError, FileNotFoundError):
                raise
            except Exception as error:  # stores are strangers, and may throw anything
                if attempt == _MOST_PUTS:
                    raise
                delay = backoff.next_delay()
                self.log.warning("Storing %s again in %.1f s: %s", place.uri, delay, excerpt(str(error)))
                pause(delay, self.stop)
            else:
                return

    def _put_pair(self, part: Path, place: Place, size: int, manifest: bytes) -> None:
        """Put a file and its manifest in place, as one as far as that is possible."""
        target = manifest_of(place)
        if not place.local:
            self._put(part, place, size)
            self._put_manifest(place, manifest)
            if other := self._other_at(place):
                self.log.warning(
                    "Prediction %s was saved as %s, and so was prediction %s at the same time: the manifest"
                    " is of the latter, and which of the two the file is of is not known. Give each task a"
                    " name of its own, or a directory",
                    self.prediction.id,
                    place.uri,
                    other,
                )
            return
        flush(part)  # before the lock: it takes seconds on a slow disk
        described_part = self._part_with(target, manifest)
        try:
            with place.locked():
                if self._other_at(place):
                    # If this process dies after the next step, the file must not stand beside another's.
                    target.remove()
                place.take(part)
                target.take(described_part)
        finally:
            described_part.unlink(missing_ok=True)

    def _put_manifest(self, place: Place, content: bytes) -> None:
        target = manifest_of(place)
        part = self._part_with(target, content)
        try:
            self._put(part, target, len(content), lambda: self._other_at(place) is not None)
        finally:
            part.unlink(missing_ok=True)

    def _part_with(self, target: Place, content: bytes) -> Path:
        part = target.new_part(".json")
        try:
            part.write_bytes(content)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return part

    def _other_at(self, place: Place) -> str | None:
        """Return the id of another prediction whose manifest is beside a file, None if there is none."""
        other = (_manifest_or_none(place) or {}).get("id", self.prediction.id)
        return None if other == self.prediction.id else excerpt(str(other), 200)

    def _manifest(self, file: dict[str, Any], index: int) -> bytes:
        """Return the text that says what a file is and where it came from."""
        told, task = self.prediction, self.destination.task
        values = self.destination.input or without_secrets(told.input)
        map_index = task.get("map_index")
        manifest = {
            "format": 1,
            "id": told.id,
            "model": told.model,
            "version": told.version,
            "input": values,
            "seed": told.input.get("seed", values.get("seed")),
            "label": task.get("label"),
            "map_index": map_index if isinstance(map_index, int) and map_index >= 0 else None,
            "output": index + 1,
            "outputs": len(told.output_urls),
            "metrics": told.metrics,
            "created_at": told.created_at,
            "started_at": told.started_at,
            "completed_at": told.completed_at,
            "saved_at": datetime.now(UTC).isoformat(),
            "task": task,
            **file,
        }
        return written(manifest)


def _size_or_none(place: Place) -> int | None:
    try:
        return place.size()
    except Exception:  # noqa: BLE001 - who may only write can't look
        return None


def _manifest_or_none(place: Place) -> dict[str, Any] | None:
    try:
        return manifest_at(place)
    except Exception:  # noqa: BLE001 - a store that may only be written to shows no manifest
        return None


def _digest_of(place: Place) -> str:
    digest = hashlib.sha256()
    with place.open() as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
