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
from airflow_vace.polling import Schedule, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

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
    try:
        size, digest = _write_whole(path, lambda file: _fetch(hook, url, file))
    except OSError as error:
        raise OSError(
            error.errno,
            f"Prediction {prediction.id} succeeded, but its video could not be written to {path}"
            f" ({error.strerror}). {prediction.bill} Fetch it within the hour, with a"
            " VacePredictionSensor on this id and another save_to",
        ) from error
    except VaceAPIError as error:
        if error.status_code not in (403, 404, 410):
            raise
        raise PredictionExpired(
            f"Prediction {prediction.id} succeeded, but its file is gone: files live for an hour."
            f" {prediction.bill} Submit it anew, and save it in time. What came: {error}",
            prediction=prediction,
        ) from error
    return _described(path, size, digest, content_type)


def _fetch(hook: VaceHook, url: str, file: BinaryIO) -> str:
    """Write what a URL brings into a file, going on where it broke off, and return its SHA-256."""
    if url[:5].lower() == "data:":
        content = _decoded(url)
        file.write(content)
        return hashlib.sha256(content).hexdigest()
    digest, etag = hashlib.sha256(), None
    schedule, attempt, most = Schedule(), 0, 0
    while True:
        at = file.tell()
        try:
            with hook.open_file(url, start=at, etag=etag) as download:
                etag = download.etag
                if download.start != at:
                    digest = _begin_anew(file)
                for chunk in download.chunks:
                    digest.update(chunk)
                    file.write(chunk)
            if download.size not in (None, file.tell()):
                short = f"GET {excerpt(url)}: {file.tell()} bytes came of {download.size}"
                raise VaceTransportError(short, sent=True)
            if download.size is None and _is_torn(file):
                raise VaceTransportError(f"GET {excerpt(url)}: it ends within a box of the MP4", sent=True)
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
            hook.log.warning("Fetching the file again in %.1f s: %s", delay, error)
            time.sleep(delay)


def _begin_anew(file: BinaryIO) -> hashlib._Hash:
    file.seek(0)
    file.truncate()
    return hashlib.sha256()


def _described(path: Path, size: int, digest: str, content_type: str) -> dict[str, Any]:
    return {"uri": path.as_uri(), "size": size, "sha256": digest, "content_type": content_type}


def _suffix_of(url: str) -> str:
    if url[:5].lower() == "data:":
        return _SUFFIXES.get(url[5:].split(",", 1)[0].split(";", 1)[0].lower(), ".mp4")
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return suffix if suffix in _SUFFIXES.values() else ".mp4"


def _decoded(url: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode(unquote(data), validate=True)
        return unquote_to_bytes(data)
    except binascii.Error as error:
        raise VaceProtocolError(f"The output is a data: URL that can't be decoded: {error}") from error


def _write_whole(path: Path, fetch: Callable[[BinaryIO], str]) -> tuple[int, str]:
    """Let `fetch` write to a temporary name beside `path`, check it, and rename; return size and SHA-256."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w+b") as file:
            digest = fetch(file)
            size = file.tell()
            _check_content(file, size, path.suffix)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # what a plain open() would have given, for other readers
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return size, digest


_MAGIC = {".webm": b"\x1a\x45\xdf\xa3", ".gif": b"GIF8", ".png": b"\x89PNG\r\n\x1a\n"}


def _check_content(file: BinaryIO, size: int, suffix: str) -> None:
    """Look whether a file is what its name says.

    :raises VaceProtocolError: if it is empty, a page for people, or no whole file of its kind
    """
    file.seek(0)
    start = file.read(64)
    if not size:
        raise VaceProtocolError("The output's URL brought an empty file")
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise VaceProtocolError("The output's URL brought an HTML page instead of a file")
    if suffix == ".mp4":
        boxes = list(_boxes_of(file, size))
        if boxes[:1] != [b"ftyp"] or b"moov" not in boxes:
            found = ", ".join(repr(box)[1:] for box in boxes[:8] if box) or "none"
            raise VaceProtocolError(
                f"The output's URL brought no whole MP4: of its boxes there are {found}, and ftyp and moov"
                " must be among them"
            )
    elif not start.startswith(_MAGIC.get(suffix, b"")):
        raise VaceProtocolError(f"The output's URL brought no {suffix[1:].upper()}, but {start[:16]!r}")


def _is_torn(file: BinaryIO) -> bool:
    """Whether an MP4 ends before its last box does: without a length nothing else says so."""
    size = file.tell()
    boxes = list(_boxes_of(file, size))
    file.seek(size)
    return b"ftyp" in boxes and boxes[-1] == b""


def _boxes_of(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the names of an MP4's outermost boxes (ISO/IEC 14496-12, 4.2), "" for one that is torn."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4])
        if length == 1:
            length = int.from_bytes(head[8:16])
        elif length == 0:  # to the end of the file
            length = size - at
        if length < 8 or at + length > size:
            yield b""
            return
        yield head[4:8]
        at += length
