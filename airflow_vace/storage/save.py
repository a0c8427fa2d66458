"""Saving of a prediction's outputs: download, check, and write without visible partial files.

Each output goes to a temporary file first, on the same disk as a local destination, so an interrupted
download leaves nothing under the final name. A store then receives the complete file.
"""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import (
    PredictionExpired,
    VaceAPIError,
    VaceError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.redaction import excerpt, without_secrets
from airflow_vace.storage.checks import Checker, problems_of
from airflow_vace.storage.download import OutputDownload
from airflow_vace.storage.errors import is_transient, store_error
from airflow_vace.storage.find import find_output
from airflow_vace.storage.local import LocalFile, flush
from airflow_vace.storage.manifests import (
    build_manifest,
    describe_file,
)
from airflow_vace.storage.outputs import Inline, likely_suffix_of, outputs_of
from airflow_vace.storage.place import CHUNK_BYTES, digest_of
from airflow_vace.storage.posters import draw_poster, put_poster
from airflow_vace.storage.progress import check_stop
from airflow_vace.storage.suffixes import FileType, type_of_suffix
from airflow_vace.storage.write import Writer, manifest_or_none, size_or_none

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from threading import Event

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.destination import Destination
    from airflow_vace.storage.place import Place

_MAX_SHOWN = 5


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

    Without any address in the output, the output itself is the file: text as `.txt`, other values as `.json`.
    One output that cannot be fetched does not keep the others from being saved.

    :param prediction: a success with output
    :param stop: ends the transfer when set
    :return: `uri, size, sha256, content_type` per output, and `facts` and `poster` of a video
    :raises VaceError: if an output is missing; `files` of the error describes the saved ones
    :raises PredictionExpired: if the server has deleted an output
    :raises VaceTransportError: if all attempts of a download failed
    :raises VaceAPIError: if the server refused a download
    :raises VaceProtocolError: if an output's URL is forbidden or invalid, or brings no file
    :raises VaceInputError: if an output exceeds the connection's extra `max_output_mb`
    :raises OSError: if a write failed, for any reason that a store gives
    """
    saver = _Saver(hook, prediction, destination, stop)
    count = len(saver.outputs)
    if count == 1:
        return [saver.save(0)]
    until = time.monotonic() + hook.timing.max_download_seconds
    files: list[dict[str, Any]] = []
    failures: dict[int, VaceError] = {}
    for index in range(count):
        # Each missing output takes some minutes, and the others have an hour.
        if failures and time.monotonic() > until:
            failures[index] = VaceTransportError("no time was left", sent=False)
            continue
        try:
            files.append(saver.save(index))
        except VaceError as error:
            check_stop(stop)
            failures[index] = error
    if failures:
        raise _incomplete(prediction, files, failures)
    return files


def _incomplete(
    prediction: Prediction, files: list[dict[str, Any]], failures: Mapping[int, VaceError]
) -> VaceError:
    """Return the error for missing outputs: the first one that a retry may solve, with all reasons."""
    cause = next((error for error in failures.values() if is_transient(error)), None)
    cause = cause or next(iter(failures.values()))
    total = len(files) + len(failures)
    shown = list(failures.items())[:_MAX_SHOWN]
    missing = "; ".join(f"output {index + 1} of {total}: {str(error).rstrip('.')}" for index, error in shown)
    more = f"; and {len(failures) - len(shown)} more" if len(failures) > len(shown) else ""
    saved = ", ".join(file["uri"] for file in files[:_MAX_SHOWN]) or "none"
    next_step = (
        "An output that is gone cannot be fetched again: another prediction has to be paid."
        if isinstance(cause, PredictionExpired)
        else "Within the hour another attempt of the task fetches only the missing ones, at no cost."
    )
    message = (
        f"{len(failures)} of the {total} outputs of prediction {prediction.id} are missing: {missing}{more}."
        f" Saved: {saved}{', …' if len(files) > _MAX_SHOWN else ''}. {next_step}"
    )
    error = _reworded(cause, message)
    error.files = files
    error.__cause__ = cause
    return error


def _reworded(error: VaceError, message: str) -> VaceError:
    """Return a copy of an error with another message, and the same evidence."""
    found = copy(error)
    found.args = (message,)
    return found


@dataclass(frozen=True, slots=True)
class _Found:
    """A downloaded output: type, size in bytes, SHA-256, the member `facts`, and the JPEG of the poster."""

    kind: FileType
    size: int
    digest: str
    facts: dict[str, Any]
    poster: bytes | None


class _Saver:
    """Saves the outputs of one prediction."""

    def __init__(
        self, hook: VaceHook, prediction: Prediction, destination: Destination, stop: Event | None
    ) -> None:
        self.hook = hook
        self.prediction = prediction
        self.outputs = outputs_of(prediction)
        self.destination = destination
        self.writer = Writer(hook, prediction, stop)
        asked = replace(prediction, model=destination.model or prediction.model)
        self.checker = Checker(asked, self._input(), destination.checks, destination.rule, hook.log)
        self.stop = stop
        self.log = hook.log

    def save(self, index: int) -> dict[str, Any]:
        """Save one output unless present, and return its entry."""
        began = time.monotonic()
        suffix = likely_suffix_of(self.outputs[index])
        place = self._place_of(index, suffix)
        if (found := self._existing(place, index, suffix)) is not None:
            return found
        part: Path | None = None
        try:
            with self._explained(place):
                part = place.new_part(suffix, self.hook.timing.stale_part_seconds)
                with part.open("w+b") as opened:
                    download = OutputDownload(self.hook, self.prediction, index, self.stop)
                    digest, kind = download.into(opened)
                    size = opened.tell()
            fetched = self._examined(part, kind, size, digest)
            # The suffix follows the content, since players trust the suffix.
            place = self._place_of(index, kind.suffix)
            with self._explained(place):
                if part.suffix != kind.suffix and not isinstance(place, LocalFile):
                    # Stores derive the media type from the name of the local file.
                    part = part.rename(f"{part}{kind.suffix}")
                file = self._write(part, place, index, fetched)
        finally:
            if part is not None:
                part.unlink(missing_ok=True)
        self._log_saved(file, kind, index, time.monotonic() - began)
        return file

    def _examined(self, part: Path, kind: FileType, size: int, digest: str) -> _Found:
        """Check a downloaded video and draw its poster, before any lock is held."""
        facts = self.checker.facts_of(part, kind.content_type, size)
        # One parameter decides whether a save decodes videos, since a thousand take minutes of a core.
        is_wanted = self.destination.checks != "off"
        poster = draw_poster(part, kind.content_type, self.log) if is_wanted else None
        return _Found(kind, size, digest, {} if facts is None else {"facts": facts}, poster)

    def _write(self, part: Path, place: Place, index: int, found: _Found) -> dict[str, Any]:
        """Write a file, its poster and its manifest."""
        if isinstance(place, LocalFile):
            # A flush takes seconds on a slow disk, so flush before the lock.
            flush(part)
        with place.locked(self.hook.timing.max_lock_seconds):
            if self._is_rejected(found):
                place = self._beside(index, found.kind.suffix)
            elif self._is_taken(place):
                place = self._place_beside(place, index, found.kind.suffix)
            file = describe_file(place, found.size, found.digest, found.kind.content_type) | found.facts
            file |= put_poster(found.poster, place, self.hook.timing.stale_part_seconds, self.log)
            self.writer.write_pair(part, place, found.size, self._manifest(file, index))
        return file

    def _is_taken(self, place: Place) -> bool:
        """Return True if a fixed name holds the file of another prediction of the same run.

        A later run replaces the file of an earlier run. Within one run, two files under one name are a
        mistake, and each of both is paid for.
        """
        if self.destination.is_directory or not self.destination.task.get("run_id"):
            return False
        found = manifest_or_none(place) or {}
        if found.get("id") in (None, self.prediction.id) or not isinstance(found.get("task"), dict):
            return False
        task, ours = found["task"], self.destination.task
        is_same_run = all(task.get(name) == ours.get(name) for name in ("dag_id", "run_id"))
        return is_same_run and bool(size_or_none(place))

    def _is_rejected(self, found: _Found) -> bool:
        """Return True if a fixed name must stay free for the prediction that takes this one's place."""
        if self.destination.is_directory or self.destination.checks != "regenerate":
            return False
        return bool(problems_of([found.facts]))

    def _beside(self, index: int, suffix: str) -> Place:
        return self.destination.place_beside(self.prediction.id, self._number(index), suffix)

    def _place_beside(self, place: Place, index: int, suffix: str) -> Place:
        other = self._beside(index, suffix)
        self.log.warning(
            "%s holds the file of another prediction of this run, so prediction %s is saved as %s. Give"
            " save_to a directory (a slash at its end), or a name that differs for each video",
            place.uri,
            self.prediction.id,
            other.uri,
        )
        return other

    def _log_saved(self, file: dict[str, Any], kind: FileType, index: int, seconds: float) -> None:
        self.log.info(
            "Saved prediction %s as %s: %.1f MB, sha256 %s…, in %.1f s",
            self.prediction.id,
            file["uri"],
            file["size"] / 1e6,
            file["sha256"][:12],
            seconds,
        )
        for problem in problems_of([file]):
            self.log.warning("%s has a problem: %s", file["uri"], problem)
        if not kind.is_visual and not isinstance(self.outputs[index], Inline):
            self.log.warning(
                "%s is no known video or image, but %s: its content was not checked",
                file["uri"],
                kind.content_type,
            )

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
        except PredictionExpired:
            raise
        except VaceAPIError as error:
            problem = f"{succeeded} file was refused: {str(error).rstrip('.')}"
            raise _reworded(error, f"{problem}. {self.prediction.bill}") from error
        except VaceError:
            raise
        except Exception as error:  # store libraries share no base class of errors
            raise self._write_error(place.uri, error) from error

    def _number(self, index: int) -> int | None:
        return index + 1 if len(self.outputs) > 1 else None

    def _place_of(self, index: int, suffix: str) -> Place:
        """Return the place of an output.

        :raises OSError: if the store can't be opened: after the payment this is no error of the input
        """
        try:
            return self.destination.place_of(self.prediction.id, self._number(index), suffix)
        except VaceError as error:
            raise self._write_error(excerpt(self.destination.save_to), error) from error

    def _write_error(self, where: str, error: Exception) -> OSError:
        return store_error(
            f"Prediction {self.prediction.id} succeeded, but its video could not be written to {where}."
            f" {self.prediction.bill} Fetch it within the hour, with a VacePredictionSensor on this id and"
            " another save_to",
            error,
        )

    def _existing(self, place: Place, index: int, suffix: str) -> dict[str, Any] | None:
        """Return the file of an earlier attempt, with a new manifest if that attempt was killed too early.

        The type of a saved file may differ from the one that its address announces.
        """
        numbers = (self._number(index),)
        try:
            seconds = self.hook.timing.max_lock_seconds
            if found := find_output(self.destination, self.prediction.id, numbers, seconds, suffix):
                return found.file
            # Without a manifest a fixed name may hold another prediction's file, and a store without
            # atomic writes may hold half a file, so download again.
            if not self.destination.is_directory or not place.is_atomic:
                return None
            size = place.size()
            if not size:
                return None
            file = self._described_again(place, size, suffix)
            self.writer.write_manifest(place, self._manifest(file, index))
        except Exception as error:  # noqa: BLE001 - keys that may only write see nothing, so write again
            self.log.info("Whether %s exists is unknown: %s", place.uri, type(error).__name__)
            return None
        return file

    def _described_again(self, place: Place, size: int, suffix: str) -> dict[str, Any]:
        """Return the entry of a saved file without a manifest, with facts and poster."""
        kind, seconds = FileType(type_of_suffix(suffix), suffix), self.hook.timing.stale_part_seconds
        file = describe_file(place, size, digest_of(place), kind.content_type)
        if self.destination.checks == "off":
            return file
        if isinstance(place, LocalFile):
            found = self._examined(place.path, kind, size, file["sha256"])
        else:
            # The decoder reads files of this machine only.
            part = place.new_part(suffix, seconds)
            try:
                with place.open() as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
                found = self._examined(part, kind, size, file["sha256"])
            finally:
                part.unlink(missing_ok=True)
        return file | found.facts | put_poster(found.poster, place, seconds, self.log)

    def _manifest(self, file: dict[str, Any], index: int) -> bytes:
        to = self.destination
        return build_manifest(self.prediction, index, to.task, self._input(), file, to.order_digest)

    def _input(self) -> Mapping[str, Any]:
        """Return the prediction's input without files and secrets."""
        from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the public module hides the name

        return self.destination.input or without_secrets(self.prediction.input, redact)
