"""Input files of a prediction: checks before any payment, and URLs that the back-end can read."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_vace.client.addresses import private_address_of
from airflow_vace.exceptions import VaceError, VaceInputError, VaceTransportError
from airflow_vace.input_files import FILE_FIELDS, paths_in
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.other_inputs import check_without_inner_paths, paths_anywhere
from airflow_vace.redaction import excerpt
from airflow_vace.storage.errors import describe_error, is_transient, is_transient_status, store_error
from airflow_vace.storage.lineage import report_input
from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.masking import mask_signatures
from airflow_vace.storage.media_types import HEAD_BYTES, dimensions_of, type_of
from airflow_vace.storage.paths import existing_place_of
from airflow_vace.storage.suffixes import Announced, file_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.hooks import VaceHook
    from airflow_vace.storage.place import Place

# https://replicate.com/docs/topics/predictions/input-files: limits of a data: URL and of an upload.
MAX_DATA_URL_BYTES = 256_000
MAX_UPLOAD_BYTES = 100_000_000
_CONTENTS = {"video": "a video", "image": "an image"}
# Stores sign for a week at most: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html
_MAX_SIGNED_SECONDS = 7 * 86400
_MIN_SIGNED_SECONDS = 3600
# Most files have type and dimensions in their first bytes, so one request to a store is enough.
_FIRST_READ_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class _InputFile:
    """One checked file of the input; `size` in bytes, `dimensions` in pixels."""

    field: str
    text: str
    place: Place
    size: int
    content_type: str
    dimensions: tuple[int, int] | None


@dataclass(frozen=True)
class _Obstacle:
    """Reason against one way to the back-end; `is_transient` if the way may be open later."""

    reason: str
    is_transient: bool = False


class InputFiles:
    """Replacement of file paths in an input by URLs that the back-end can read.

    :param hook: hook of the connection that receives the input
    :param seconds: time until the back-end has read the files, queue included; validity of signed URLs
    :param model: `owner/name`; kind and dimensions of files are checked for prunaai/vace-14b only
    :param is_dry_run: upload no file, and leave its path in place
    """

    def __init__(
        self, hook: VaceHook, *, seconds: float, model: str = DEFAULT_MODEL, is_dry_run: bool = False
    ) -> None:
        self.hook = hook
        self.seconds = seconds
        self.is_dry_run = is_dry_run
        self.is_other = model.strip().lower() != DEFAULT_MODEL
        self.log = hook.log

    def reachable(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the input with signed URLs, upload URLs or `data:` URLs in place of paths.

        No request that costs money is sent. Inputs of another model may have paths anywhere, see
        :func:`airflow_vace.other_inputs.names_file`.

        :param values: normalised input
        :raises VaceInputError: for a file that is missing, empty, of the wrong type, forbidden, or out of the
            back-end's reach; with field, value and remedy
        :raises VaceTransportError: if a store did not answer
        :raises VaceError: if the back-end refused an upload
        """
        if self.is_other:
            check_without_inner_paths(values)
        files = {text: self._checked(field, text) for field, text in self.paths_of(values)}
        if not self.is_other:
            _check_mask(values, files)
        urls = {text: self._url_of(file) for text, file in files.items()}
        return {name: _replaced(value, urls) for name, value in values.items()}

    def paths_of(self, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield field and path of each file in a normalised input."""
        return paths_anywhere(values, _is_file) if self.is_other else paths_in(values)

    def check_local(self, values: Mapping[str, Any]) -> None:
        """Check the local files of a normalised input, without a request.

        :raises VaceInputError: for a file that is missing, empty, not allowed, or no file of its kind
        """
        for field, text in self.paths_of(values):
            if "://" not in text or text.startswith("file://"):
                self._checked(field, text)

    def _checked(self, field: str, text: str) -> _InputFile:
        place = existing_place_of(text, field)
        if isinstance(place, LocalFile):
            place = self.allowed(field, text, place.path)
        try:
            size = place.size()
            first = place.read(0, _FIRST_READ_BYTES) if size else b""
        except PermissionError as error:
            raise _error(field, text, f"may not be read ({error})", "let the worker read it") from error
        except Exception as error:  # store libraries share no base class of errors
            raise _read_error(field, place, error) from error
        if size is None:
            raise _error(field, text, "does not exist", "name an existing file")
        if not size:
            raise _error(field, text, "is empty", "name a file with content")
        return _InputFile(
            field=field,
            text=text,
            place=place,
            size=size,
            content_type=_any_type(text, first) if self.is_other else _expected_type(field, text, first),
            dimensions=_dimensions(place, first, size),
        )

    def allowed(self, field: str, text: str, path: Path) -> LocalFile:
        """Return the real file behind a local path.

        :raises VaceInputError: if the connection's extra `input_roots` does not allow the directory
        """
        roots = self.hook.settings.input_roots
        remedy = (
            "put it below one of the directories in the connection's extra 'input_roots', or use a store"
            if roots
            else "list the directories that tasks may send from in the connection's extra 'input_roots',"
            " or use a store such as s3://"
        )
        real_path, found = _real_file(path)
        if not any(real_path.is_relative_to(Path(root).resolve()) for root in roots):
            raise _error(field, text, "is in no directory that tasks may send from", remedy)
        if found is None or not stat.S_ISREG(found.st_mode):
            problem = (
                "is a directory" if found and stat.S_ISDIR(found.st_mode) else "does not exist, or is no file"
            )
            raise _error(field, text, problem, "name a file that exists on the worker")
        return LocalFile(real_path, (found.st_dev, found.st_ino))

    def _url_of(self, file: _InputFile) -> str:
        obstacles: list[_Obstacle] = []
        # A signed URL costs no transfer, an upload is limited in size, a data: URL even more.
        for way in (self._signed_url, self._uploaded_url, self._data_url):
            try:
                answer = way(file)
            except VaceError:
                raise
            except Exception as error:  # store libraries share no base class of errors
                raise _read_error(file.field, file.place, error) from error
            if isinstance(answer, str):
                return answer
            obstacles.append(answer)
        reasons = "; ".join(obstacle.reason for obstacle in obstacles)
        if any(obstacle.is_transient for obstacle in obstacles):
            raise VaceTransportError(
                f"{file.field}: {file.place.uri} can't be sent to the back-end now: {reasons}."
                " Nothing was submitted.",
                sent=False,
            )
        remedy = (
            "give an http(s) URL that the back-end can reach, keep the file in a store that signs URLs"
            " (s3, gs, az) with credentials that may sign, or use a back-end that takes uploads"
        )
        raise _error(file.field, file.text, f"can't be sent to the back-end: {reasons}", remedy)

    def _signed_url(self, file: _InputFile) -> str | _Obstacle:
        seconds = int(min(max(self.seconds, _MIN_SIGNED_SECONDS), _MAX_SIGNED_SECONDS))
        try:
            url = file.place.signed_url(seconds)
            host = urlsplit(url).hostname
        except NotImplementedError:
            return _Obstacle("the store signs no URL")
        except Exception as error:  # noqa: BLE001 - store libraries share no base class of errors
            reason = f"the store signs no URL ({describe_error(error)})"
            return _Obstacle(reason, is_transient=isinstance(error, OSError))
        # HTTP libraries log URLs, so mask the signature before the first request.
        mask_signatures(url)
        if not url.lower().startswith(("http://", "https://")) or not host:
            return _Obstacle("the store signs no http(s) URL")
        if self._is_private(url) and not self._is_private(self.hook.settings.api.base_url):
            return _Obstacle(f"the store's host {host} is in a private network, the back-end is not")
        status = self.hook.client.status_of(url)
        if status is not None and status >= 400:
            reason = f"the store refuses its own signed URL ({status})"
            return _Obstacle(reason, is_transient=is_transient_status(status))
        self._report(file, f"goes as a signed URL, valid for {seconds / 3600:.1f} h")
        return url

    def _is_private(self, url: str) -> bool:
        """Return True if this machine resolves the URL's host to a private address."""
        try:
            # Behind a proxy only the proxy may resolve names, so do not resolve here.
            resolve = not self.hook.settings.proxy_for(url)
            return private_address_of(url, resolve=resolve) is not None
        except OSError:
            # Only the back-end's network may know the name, so let the back-end decide.
            return False

    def _uploaded_url(self, file: _InputFile) -> str | _Obstacle:
        backend = self.hook.settings.api.backend
        if backend.files is None:
            return _Obstacle(f"the back-end {backend.name!r} takes no uploads")
        if file.size > MAX_UPLOAD_BYTES:
            limit = f"{MAX_UPLOAD_BYTES // 1_000_000} MB"
            return _Obstacle(f"{file.size / 1e6:.0f} MB are more than the {limit} limit of an upload")
        if self.is_dry_run:
            self._report(file, "would be uploaded to the back-end")
            return file.text
        self._report(file, "is uploaded to the back-end, which keeps it for a day")
        try:
            return self.hook.upload_file(
                file.place.open,
                name=file.place.name,
                content_type=file.content_type,
                size=file.size,
            )
        except VaceError as error:
            if not is_transient(error, "upload"):
                raise
            raise VaceTransportError(
                f"{file.field}: {file.place.uri} could not be uploaded, nothing was submitted: {error}",
                sent=False,
            ) from error

    def _data_url(self, file: _InputFile) -> str | _Obstacle:
        if file.size > MAX_DATA_URL_BYTES:
            return _Obstacle(f"it has more than the {MAX_DATA_URL_BYTES // 1000} kB of a data: URL")
        with file.place.open() as opened:
            # The file may have grown since its check, so bound the read.
            content = opened.read(MAX_DATA_URL_BYTES + 1)
        if len(content) != file.size:
            # A part of a video would be a paid input of no use.
            raise VaceTransportError(
                f"{file.field}: {file.place.uri} has changed since its check; nothing was submitted",
                sent=False,
            )
        self._report(file, "goes along as a data: URL")
        return f"data:{file.content_type};base64,{base64.b64encode(content).decode()}"

    def _report(self, file: _InputFile, way: str) -> None:
        """Log how a file reaches the back-end, and report the file to lineage."""
        pixels = "" if file.dimensions is None else ", {}x{}".format(*file.dimensions)
        size = f"{file.size / 1e6:.2f} MB, {file.content_type}{pixels}"
        self.log.info("%s: %s (%s) %s", file.field, file.place.uri, size, way)
        if not self.is_dry_run:
            report_input(self.hook, file.place.uri)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        # A long prompt that begins with a slash is no possible name.
        return False


def _replaced(value: Any, urls: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, urls) for item in value]
    if isinstance(value, Mapping):
        return {name: _replaced(item, urls) for name, item in value.items()}
    return urls.get(value, value) if isinstance(value, str) else value


def _expected_type(field: str, text: str, first: bytes) -> str:
    """Return the media type of a file by its first bytes.

    :raises VaceInputError: if the field takes no such file; an animated GIF passes as image and as video
    """
    kinds = FILE_FIELDS[field]
    content_type = type_of(first[:HEAD_BYTES]) or "unknown"
    if content_type.partition("/")[0] not in kinds and content_type != "image/gif":
        kind = " or ".join(kinds)
        remedy = f"give a file that contains {' or '.join(_CONTENTS[each] for each in kinds)}"
        raise _error(field, text, f"is no {kind} by its content ({first[:16]!r})", remedy)
    return content_type


def _any_type(text: str, first: bytes) -> str:
    """Return the media type of a file by its first bytes, else by its name."""
    return file_type(type_of(first[:HEAD_BYTES]), Announced.of(text)).content_type


def _dimensions(place: Place, first: bytes, size: int) -> tuple[int, int] | None:
    def read(at: int, length: int) -> bytes:
        return first[at : at + length] if at + length <= len(first) else place.read(at, length)

    try:
        return dimensions_of(read, size)
    except Exception:  # noqa: BLE001 - the dimensions serve one optional check, so ignore a store's error
        return None


def _check_mask(values: Mapping[str, Any], files: Mapping[str, _InputFile]) -> None:
    """Compare kind and dimensions of mask and video, if both are known."""
    mask, video = (files.get(str(values.get(name))) for name in ("src_mask", "src_video"))
    if mask is None or video is None:
        return
    for aspect, of_mask, of_video in (
        ("kind", mask.content_type.partition("/")[0], video.content_type.partition("/")[0]),
        ("dimensions", mask.dimensions, video.dimensions),
    ):
        if of_mask and of_video and of_mask != of_video:
            raise _error(
                "src_mask",
                mask.text,
                f"has another {aspect} than src_video: {of_mask} and {of_video}",
                f"make a mask of the {aspect} of the video",
            )


def _real_file(path: Path) -> tuple[Path, os.stat_result | None]:
    """Return the real path and the status of an opened file.

    Links may change between a check and a read, so the open handle is the only reliable source.
    """
    try:
        # Without O_NONBLOCK a named pipe would block the worker forever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return path.resolve(), None
    try:
        link = Path(f"/proc/self/fd/{handle}")
        return (link.readlink() if link.exists() else path.resolve()), os.fstat(handle)
    finally:
        os.close(handle)


def _read_error(field: str, place: Place, error: Exception) -> VaceTransportError:
    problem = f"{field}: {place.uri} could not be read; nothing was submitted, nothing is billed"
    return VaceTransportError(store_error(problem, error).strerror or problem, sent=False)


def _error(field: str, text: str, problem: str, remedy: str) -> VaceInputError:
    return VaceInputError(
        f"Input {field!r} is {excerpt(text, 200)}, which {problem}; {remedy}. Nothing is billed.",
        field=field,
        value=text,
        remedy=remedy,
    )
