"""Files out of a prediction: fetched, checked, and put in place whole before their server deletes them.

An output is written to a temporary file first, on the same disk as a local destination, so that what breaks
off leaves nothing under the final name; a store then gets the whole file.
"""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceError, VaceProtocolError, VaceTransportError, excerpt
from airflow_vace.media.content import SUFFIXES
from airflow_vace.media.destination import without_secrets
from airflow_vace.media.fetching import Fetch, announced, pause, told_by_store
from airflow_vace.media.places import store_error
from airflow_vace.polling import Backoff

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from airflow_vace.hooks import VaceHook
    from airflow_vace.media.destination import Destination
    from airflow_vace.media.places import Place
    from airflow_vace.prediction import Prediction

_MOST_PUTS = 3
_CHUNK = 1024 * 1024
_LARGEST_MANIFEST = 1024 * 1024


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

    :param stop: ends the transfer when it is set
    :raises PredictionExpired: if the server has deleted a file
    :raises VaceTransportError: if a file could not be had, in several attempts
    :raises VaceAPIError: if the server refused it
    :raises VaceProtocolError: if it is at no address that may be fetched
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
        found = self._existing(place, content_type)
        if found is not None:
            return found
        part: Path | None = None
        try:
            part = place.new_part(SUFFIXES[content_type])
            with part.open("w+b") as file:
                digest, told_type = Fetch(self.hook, self.prediction, index, self.stop).into(file)
                size = file.tell()
            if told_type != content_type:
                place = self._place_of(index, told_type)
            described = _described(place, size, digest, told_type)
            self._put(part, place, size)
            self._write_manifest(place, described)
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
        return described

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

    def _existing(self, place: Place, content_type: str) -> dict[str, Any] | None:
        """Return what an earlier attempt has saved of this prediction, if it has."""
        try:
            size = place.size()
            if not size:
                return None
            told = self._manifest_at(place) or {}
            digest = told.get("sha256")
            if told.get("id") == self.prediction.id and told.get("size") == size and isinstance(digest, str):
                return _described(place, size, digest, str(told.get("content_type") or content_type))
            if not self.destination.is_directory or not place.is_atomic:
                return None  # another prediction's, or half a file, for all that is known
            described = _described(place, size, _digest_of(place), content_type)
            self._write_manifest(place, described)
        except Exception as error:  # noqa: BLE001 - who may only write can't look; then it is put there anew
            self.log.info(
                "Whether %s is there already could not be told: %s", place.uri, type(error).__name__
            )
            return None
        return described

    def _manifest_at(self, place: Place) -> dict[str, Any] | None:
        manifest = _manifest_of(place)
        size = manifest.size()
        if not size or size > _LARGEST_MANIFEST:
            return None
        try:
            told = json.loads(manifest.read(0, size))
        except ValueError:
            return None
        return told if isinstance(told, dict) else None

    # --- putting in place --------------------------------------------------------------------------

    def _put(self, part: Path, place: Place, size: int) -> None:
        if place.local:
            place.take(part)
            return
        backoff, attempt = Backoff(), 0
        while True:
            attempt += 1
            try:
                place.take(part, told_by_store(self.log, size, self.stop))
                stored = _size_or_none(place)
                if stored not in (None, size):
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

    def _write_manifest(self, place: Place, described: dict[str, Any]) -> None:
        """Write beside the file what it is and where it came from."""
        told = self.prediction
        values = self.destination.input or without_secrets(told.input)
        manifest = {
            "format": 1,
            "id": told.id,
            "model": told.model,
            "version": told.version,
            "input": values,
            "seed": told.input.get("seed", values.get("seed")),
            "metrics": told.metrics,
            "created_at": told.created_at,
            "started_at": told.started_at,
            "completed_at": told.completed_at,
            "saved_at": datetime.now(UTC).isoformat(),
            "task": self.destination.task,
            **described,
        }
        target = _manifest_of(place)
        part = target.new_part(".json")
        try:
            part.write_text(json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n")
            self._put(part, target, part.stat().st_size)
        finally:
            part.unlink(missing_ok=True)


def _manifest_of(place: Place) -> Place:
    return place.renamed(lambda name: f"{name}.json")


def _size_or_none(place: Place) -> int | None:
    try:
        return place.size()
    except Exception:  # noqa: BLE001 - who may only write can't look
        return None


def _digest_of(place: Place) -> str:
    digest = hashlib.sha256()
    with place.open() as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _described(place: Place, size: int, digest: str, content_type: str) -> dict[str, Any]:
    return {"uri": place.uri, "size": size, "sha256": digest, "content_type": content_type}
