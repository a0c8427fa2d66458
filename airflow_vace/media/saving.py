"""Files out of a prediction: fetched, checked, and put in place whole before their server deletes them.

An output is written to a temporary file first, on the same disk as a local destination, so that what breaks
off leaves nothing under the final name; a store then gets the whole file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from airflow_vace.exceptions import (
    PredictionExpired,
    VaceAPIError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
    excerpt,
)
from airflow_vace.inputs import path_text
from airflow_vace.media.content import SUFFIXES, check_whole, is_torn
from airflow_vace.media.places import Place, store_error
from airflow_vace.polling import Schedule, is_passing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event
    from typing import BinaryIO

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction

_MOST_ATTEMPTS = 5
_MOST_PUTS = 3
_CHUNK = 1024 * 1024
# How often a long transfer tells how far it is.
_TELL_SECONDS = 10.0
_LARGEST_MANIFEST = 1024 * 1024
# Slower than so many bytes in so many seconds is no transfer, but a server in trouble.
_SLOW_BYTES, _SLOW_SECONDS = 64 * 1024, 30.0
# What a file name may end with; anything else without a slash is taken for a slip.
_FILE_SUFFIXES = frozenset({*SUFFIXES.values(), ".m4v", ".mov"})


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where the outputs of a task go, and what their manifests tell of the task; plain JSON for a trigger.

    :param save_to: a directory, with a slash at its end, or a file's name, locally or in a store
    :param names: in a directory: further directories, and how the file's name begins
    :param input: the task's input, without files and secrets
    :param task: which task instance it is
    """

    save_to: str
    names: tuple[str, ...] = ()
    input: Mapping[str, Any] = field(default_factory=dict, repr=False)
    task: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, save_to: object, ti: Any = None, values: Mapping[str, Any] | None = None) -> Self | None:
        """Read what a DAG author says; None for None and for empty text. Nothing is opened.

        :param ti: the task instance that the names are made of
        :param values: the task's input, if it has one
        :raises VaceInputError: if it is no place, or neither a directory nor a file's name
        """
        if save_to is None or (isinstance(save_to, str) and not save_to.strip()):
            return None
        remedy = (
            "give an absolute directory with a slash at its end, such as '/data/clips/' or 's3://bucket/clips/',"
            " or a file's name, such as 's3://bucket/clip.mp4'"
        )
        text = path_text(save_to) or ""
        scheme, has_scheme, rest = text.partition("://")
        path = rest if has_scheme else text
        is_file = PurePosixPath(path).suffix.lower() in _FILE_SUFFIXES
        is_local = not has_scheme or scheme.lower() == "file"
        is_folder = is_local and text[-1:] != "/" and Path(unquote(path) if has_scheme else path).is_dir()
        if text and not text.endswith("/") and (is_folder or not (is_file or isinstance(save_to, str))):
            text += "/"  # path objects drop it
        if not text or not (text.endswith("/") or is_file):
            raise VaceInputError(
                f"save_to is {excerpt(repr(save_to), 200)}; {remedy}. Nothing was sent, nothing is billed.",
                field="save_to",
                value=save_to,
                remedy=remedy,
            )
        if is_local:
            Place.of(text, "save_to")
        known = ("dag_id", "run_id", "task_id", "map_index")
        return cls(
            save_to=text,
            names=_names_of(ti) if text.endswith("/") else (),
            input=_without_secrets(dict(values or {})),
            task={name: getattr(ti, name) for name in known if hasattr(ti, name)},
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`as_json` wrote; members that a later version has added are left alone."""
        return cls(
            save_to=str(data["save_to"]),
            names=tuple(data.get("names") or ()),
            input=data.get("input") or {},
            task=data.get("task") or {},
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "names": list(self.names)}

    @property
    def is_directory(self) -> bool:
        return self.save_to.endswith("/")

    def check(self) -> str | None:
        """Look whether files can be put there, before money is spent.

        :return: why that could not be told, if so
        :raises VaceInputError: if they can't
        :raises VaceTransportError: if the store could not be opened now
        """
        place = Place.of(self.save_to, "save_to")
        return (place if self.is_directory else place.parent).check_writable("save_to")

    def place_of(self, prediction_id: str, number: int | None, suffix: str) -> Place:
        """Return where one output goes, `number` telling several of a prediction apart."""
        count = "" if number is None else f"-{number}"
        place = Place.of(self.save_to, "save_to")
        if self.is_directory:
            *folders, start = self.names or ("",)
            name = f"{start}-{prediction_id}" if start else prediction_id
            return place.below(*folders, f"{name}{count}{suffix}")
        return place.renamed(lambda name: f"{PurePosixPath(name).stem}{count}{PurePosixPath(name).suffix}")


def save_output(
    hook: VaceHook,
    prediction: Prediction,
    destination: Destination,
    *,
    stop: Event | None = None,
) -> list[dict[str, Any]]:
    """Save each output of a prediction, and return `uri, size, sha256, content_type` each.

    A file appears under its name only when it is whole, and a manifest (`.json`) beside it then. One of
    this prediction that is there already is not fetched again.

    :param stop: ends the transfer when it is set
    :raises PredictionExpired: if the server has deleted a file
    :raises VaceTransportError: if a file could not be had, in several attempts
    :raises VaceProtocolError: if what came is not a media file
    :raises VaceInputError: if the destination can't be written to
    :raises OSError: if a file could not be written, such as for want of space
    """
    transfer = _Transfer(hook, prediction, destination, stop)
    urls = prediction.output_urls
    files = []
    for number, url in enumerate(urls, start=1):
        content_type = _announced(url)
        place = destination.place_of(prediction.id, number if len(urls) > 1 else None, SUFFIXES[content_type])
        files.append(transfer.save(url, place, content_type))
    return files


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

    def save(self, url: str, place: Place, content_type: str) -> dict[str, Any]:
        began = time.monotonic()
        found = self._existing(place, content_type)
        if found is not None:
            return found
        part: Path | None = None
        try:
            part = place.new_part(SUFFIXES[content_type])
            with part.open("w+b") as file:
                digest = self._fetch(url, file)
                size = file.tell()
                check_whole(file, size, content_type)
            described = _described(place, size, digest, content_type)
            self._put(part, place, size)
            self._write_manifest(place, described)
        except VaceAPIError as error:
            if error.status_code not in (403, 404, 410):
                raise
            raise PredictionExpired(
                f"Prediction {self.prediction.id} succeeded, but its file is gone: files live for an hour."
                f" {self.prediction.bill} Submit it anew, and save it in time. What came: {error}",
                prediction=self.prediction,
            ) from error
        except VaceError:
            raise
        except Exception as error:  # stores are strangers, and may throw anything
            raise store_error(
                f"Prediction {self.prediction.id} succeeded, but its video could not be written to"
                f" {place.uri}. {self.prediction.bill} Fetch it within the hour, with a VacePredictionSensor"
                " on this id and another save_to",
                error,
            ) from error
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

    # --- what is there already ---------------------------------------------------------------------

    def _existing(self, place: Place, content_type: str) -> dict[str, Any] | None:
        """Return what an earlier attempt has saved of this prediction, if it has."""
        try:
            size = place.size()
            if not size:
                return None
            told = self._manifest_at(place)
            if told is not None:
                is_it = told.get("id") == self.prediction.id and told.get("size") == size
                digest = told.get("sha256")
                if is_it and isinstance(digest, str):
                    return _described(place, size, digest, str(told.get("content_type") or content_type))
            if not self.destination.is_directory:
                return None  # another prediction's, for all that is known
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

    # --- fetching ----------------------------------------------------------------------------------

    def _fetch(self, url: str, file: BinaryIO) -> str:
        """Write what a URL brings into a file, going on where it broke off, and return its SHA-256."""
        if url[:5].lower() == "data:":
            content = _decoded(url)
            file.write(content)
            return hashlib.sha256(content).hexdigest()
        digest, etag = hashlib.sha256(), None
        schedule, attempt, most = Schedule(), 0, 0
        told = _Telling(self.log, "Fetched")
        while True:
            at = file.tell()
            speed = _Speed(at)
            try:
                with self.hook.open_file(url, start=at, etag=etag) as download:
                    etag = download.etag
                    if download.start != at:
                        digest = _begin_anew(file)
                    for chunk in download.chunks:
                        digest.update(chunk)
                        file.write(chunk)
                        told.at(file.tell(), download.size)
                        speed.check(file.tell(), url)
                        self._check_stop()
                if download.size not in (None, file.tell()):
                    short = f"GET {excerpt(url)}: {file.tell()} bytes came of {download.size}"
                    raise VaceTransportError(short, sent=True)
                if is_torn(file):
                    etag = None  # what the server has is not whole, or not yet
                    raise VaceTransportError(
                        f"GET {excerpt(url)}: it ends within a box of the MP4", sent=True
                    )
                return digest.hexdigest()
            except (VaceTransportError, VaceAPIError) as error:
                attempt = 1 if file.tell() > most else attempt + 1
                most = max(most, file.tell())
                if attempt == _MOST_ATTEMPTS or not (at or is_passing(error)):
                    raise
                if etag is None or not is_passing(error):
                    # Without a mark of the file its rest may be another's; and some servers refuse ranges.
                    digest, etag = _begin_anew(file), None
                delay = schedule.next_delay(error.retry_after if isinstance(error, VaceAPIError) else None)
                self.log.warning("Fetching the file again in %.1f s: %s", delay, error)
                self._pause(delay)

    def _check_stop(self) -> None:
        if self.stop is not None and self.stop.is_set():
            raise VaceTransportError("The transfer was stopped", sent=True)

    def _pause(self, seconds: float) -> None:
        if self.stop is None:
            time.sleep(seconds)
        else:
            self.stop.wait(seconds)
        self._check_stop()

    # --- putting in place --------------------------------------------------------------------------

    def _put(self, part: Path, place: Place, size: int) -> None:
        if place.local:
            place.take(part)
            return
        schedule = Schedule()
        for attempt in range(1, _MOST_PUTS + 1):
            try:
                place.take(part, _Telling(self.log, "Stored", size).callback())
                stored = _size_or_none(place)
                if stored not in (None, size):
                    raise OSError(f"{stored} bytes are there of {size}")
            except (PermissionError, FileNotFoundError):
                raise
            except Exception as error:  # stores are strangers, and may throw anything
                if attempt == _MOST_PUTS:
                    raise
                delay = schedule.next_delay()
                self.log.warning("Storing %s again in %.1f s: %s", place.uri, delay, excerpt(str(error)))
                self._pause(delay)
            else:
                return

    def _write_manifest(self, place: Place, described: dict[str, Any]) -> None:
        """Write beside the file what it is and where it came from."""
        told = self.prediction
        values = self.destination.input or _without_secrets(told.input)
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


class _Speed:
    """Breaks off a transfer that trickles: it would hold its place until the file is deleted."""

    def __init__(self, at: int) -> None:
        self.count, self.since = at, time.monotonic()

    def check(self, count: int, url: str) -> None:
        now = time.monotonic()
        if now - self.since < _SLOW_SECONDS:
            return
        if count - self.count < _SLOW_BYTES:
            slow = f"{count - self.count} bytes in {now - self.since:.0f} s"
            raise VaceTransportError(f"GET {excerpt(url)}: it trickles, {slow}", sent=True)
        self.count, self.since = count, now


class _Telling:
    """Logs now and then how far a long transfer is."""

    def __init__(self, log: Any, done: str, size: int | None = None) -> None:
        self.log, self.done, self.size = log, done, size
        self.last = time.monotonic()

    def at(self, count: int, size: int | None = None) -> None:
        now = time.monotonic()
        if now - self.last < _TELL_SECONDS:
            return
        self.last, size = now, size or self.size
        of = f" of {size / 1e6:.0f}" if size else ""
        self.log.info("%s %.0f%s MB", self.done, count / 1e6, of)

    def callback(self) -> Any:
        """Return what fsspec calls while it writes."""
        from fsspec.callbacks import Callback

        telling = self

        class Tell(Callback):  # type: ignore[misc]  # fsspec is not typed
            def call(self, *_: Any, **__: Any) -> None:
                telling.at(self.value)

        return Tell()


def _names_of(ti: Any) -> tuple[str, ...]:
    """Return `{dag_id}/{run_id}/{task_id}-{map_index}`, each safe for any store; () without a task."""
    if ti is None:
        return ()
    index = getattr(ti, "map_index", -1)
    mapped = f"-{index}" if isinstance(index, int) and index >= 0 else ""
    return (_safe(ti.dag_id, 150), _safe(ti.run_id, 150), _safe(ti.task_id, 100) + mapped)


def _safe(name: str, limit: int) -> str:
    """Return a name that is one and the same in every store and file system."""
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "_", name).strip(".")
    return plain[:limit] or "_"


def _manifest_of(place: Place) -> Place:
    return place.renamed(lambda name: f"{PurePosixPath(name).stem}.json")


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


def _begin_anew(file: BinaryIO) -> hashlib._Hash:
    file.seek(0)
    file.truncate()
    return hashlib.sha256()


def _described(place: Place, size: int, digest: str, content_type: str) -> dict[str, Any]:
    return {"uri": place.uri, "size": size, "sha256": digest, "content_type": content_type}


def _announced(url: str) -> str:
    """Return the media type that a URL announces, video/mp4 if it says nothing."""
    if url[:5].lower() == "data:":
        said = url[5:].split(",", 1)[0].split(";", 1)[0].lower()
        return said if said in SUFFIXES else "video/mp4"
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return next((t for t, known in SUFFIXES.items() if known == suffix), "video/mp4")


def _decoded(url: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode(unquote(data), validate=True)
        return unquote_to_bytes(data)
    except binascii.Error as error:
        raise VaceProtocolError(f"The output is a data: URL that can't be decoded: {error}") from error


def _without_secrets(value: Any) -> Any:
    """Return an input as it may be kept for ever: no query of a URL, which may sign it, and no files."""
    if isinstance(value, dict):
        return {str(name): _without_secrets(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, str):
        return value if isinstance(value, int | float | None) else path_text(value) or str(value)
    if value[:5].lower() == "data:":
        digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
        return f"{value[:100].partition(',')[0].partition(';')[0]};sha256={digest}"
    return excerpt(value, 100_000) if "://" in value else value
