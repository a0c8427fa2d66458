"""Files out of a prediction: streamed, checked, and put in place whole, before the server deletes them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from airflow_vace.exceptions import (
    PredictionExpired,
    VaceAPIError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
    excerpt,
)
from airflow_vace.polling import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction

_MOST_ATTEMPTS = 5
_SUFFIXES = {"video/mp4": ".mp4", "video/webm": ".webm", "image/gif": ".gif", "image/png": ".png"}


def read_save_to(save_to: object) -> Path | None:
    """Return the local directory that `save_to` names; None for None and for empty text.

    :raises VaceInputError: if it is not a local directory
    """
    if save_to is None or (isinstance(save_to, str) and not save_to.strip()):
        return None
    remedy = "give a local directory such as '/data/clips/' or 'file:///data/clips/'"
    path = save_to.strip() if isinstance(save_to, str) else ""
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    folder = Path(path).expanduser()
    is_folder = path.endswith("/") or folder.is_dir()
    if not path or "://" in path or not folder.is_absolute() or not is_folder:
        raise VaceInputError(
            f"save_to is {excerpt(repr(save_to), 200)}; {remedy}: absolute, with a slash at the end."
            " Nothing was sent, nothing is billed.",
            field="save_to",
            value=save_to,
            remedy=remedy,
        )
    return folder


def make_folder(folder: Path) -> None:
    """Make the directory, so that what cannot be written to is known before money is spent.

    :raises VaceInputError: if it can't be made, or not be written to
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "give a directory that the worker may write to"
        raise VaceInputError(
            f"save_to is {str(folder)!r}, which can't be written to ({error.strerror}); {remedy}.",
            field="save_to",
            value=str(folder),
            remedy=remedy,
        ) from error


def save_output(hook: VaceHook, prediction: Prediction, folder: Path) -> list[dict[str, Any]]:
    """Save each output of a prediction into a directory, and return `uri, size, sha256, content_type` each.

    A file appears under its name only when it is whole. One that is there already is not fetched again.

    :raises PredictionExpired: if the server has deleted a file
    :raises VaceTransportError: if a file could not be had, in several attempts
    :raises VaceProtocolError: if what came is not a media file
    :raises VaceInputError: if the directory can't be written to
    :raises OSError: if a file could not be written, such as for want of space
    """
    make_folder(folder)
    urls = prediction.output_urls
    files = []
    for number, url in enumerate(urls, start=1):
        stem = prediction.id if len(urls) == 1 else f"{prediction.id}-{number}"
        files.append(_save_one(hook, prediction, url, folder / f"{stem}{_suffix_of(url)}"))
    return files


def _save_one(hook: VaceHook, prediction: Prediction, url: str, path: Path) -> dict[str, Any]:
    content_type = next((t for t, s in _SUFFIXES.items() if s == path.suffix), "video/mp4")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return _described(path, path.stat().st_size, digest, content_type)
    schedule, attempt = Schedule(), 0
    while True:
        attempt += 1
        try:
            size, digest = _write_whole(path, _chunks_of(hook, url))
        except OSError as error:
            raise OSError(
                error.errno,
                f"Prediction {prediction.id} succeeded, but its video could not be written to {path}"
                f" ({error.strerror}). {prediction.bill} Fetch it within the hour, with a"
                " VacePredictionSensor on this id and another save_to",
            ) from error
        except (VaceTransportError, VaceAPIError) as error:
            if isinstance(error, VaceAPIError) and error.status_code in (403, 404, 410):
                raise PredictionExpired(
                    f"Prediction {prediction.id} succeeded, but its file is gone: files live for an hour."
                    f" {prediction.bill} Submit it anew, and save it in time. What came: {error}",
                    prediction=prediction,
                ) from error
            lasting = isinstance(error, VaceAPIError) and error.status_code < 429 and error.status_code != 408
            if lasting or attempt == _MOST_ATTEMPTS:
                raise
            retry_after = error.retry_after if isinstance(error, VaceAPIError) else None
            delay = schedule.next_delay(retry_after)
            hook.log.warning("Fetching the file again in %.1f s: %s", delay, error)
            time.sleep(delay)
        else:
            return _described(path, size, digest, content_type)


def _described(path: Path, size: int, digest: str, content_type: str) -> dict[str, Any]:
    return {"uri": path.as_uri(), "size": size, "sha256": digest, "content_type": content_type}


def _suffix_of(url: str) -> str:
    if url[:5].lower() == "data:":
        return _SUFFIXES.get(url[5:].split(",", 1)[0].split(";", 1)[0].lower(), ".mp4")
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return suffix if suffix in _SUFFIXES.values() else ".mp4"


def _chunks_of(hook: VaceHook, url: str) -> Iterator[bytes]:
    if url[:5].lower() == "data:":
        yield _decoded(url)
    else:
        yield from hook.iter_file(url)


def _decoded(url: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode(unquote(data), validate=True)
        return unquote_to_bytes(data)
    except binascii.Error as error:
        raise VaceProtocolError(f"The output is a data: URL that can't be decoded: {error}") from error


def _write_whole(path: Path, chunks: Iterable[bytes]) -> tuple[int, str]:
    """Write to a temporary name beside `path`, and rename once all is there; return size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                if not size and chunk.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
                    raise VaceProtocolError("The output's URL brought an HTML page instead of a file")
                digest.update(chunk)
                size += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if not size:
            raise VaceProtocolError("The output's URL brought an empty file")
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # what a plain open() would have given, for other readers
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return size, digest.hexdigest()
