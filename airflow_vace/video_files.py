"""Control videos, last frames and joined videos of files in stores, for tasks.

The functions do the work of the same functions in :mod:`airflow_vace.video`, and take addresses too:
`s3://aws_default@bucket/clip.mp4` with an Airflow connection before the `@`, an `ObjectStoragePath`, and the
`uri` of a saved file. A source without a connection uses the connection of `to` if both are in one bucket.

Files of a store are copied to this machine and back through a temporary directory. A file appears under its
name in the store only when it is complete.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from airflow_vace import video as local_files
from airflow_vace.exceptions import VaceInputError
from airflow_vace.input_files import path_text
from airflow_vace.storage.errors import store_error
from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.paths import existing_place_of, place_of
from airflow_vace.storage.place import CHUNK_BYTES, unusable
from airflow_vace.storage.progress import Progress
from airflow_vace.storage.write import write_file
from airflow_vace.video import ControlInput, fitting

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from airflow.sdk import ObjectStoragePath

    from airflow_vace.storage.place import Place

    Address = str | os.PathLike[str] | ObjectStoragePath

__all__ = ("ControlInput", "between", "extend", "inpaint", "join", "last_frame", "local_copy", "outpaint")

log = logging.getLogger(__name__)

_REMEDY = "give a file such as '/data/clip.mp4', or one of a store: 's3://aws_default@bucket/clip.mp4'"


def extend(
    video: Address,
    *,
    frames: int = fitting.MAX_FRAMES,
    overlap: int = 17,
    size: str | None = None,
    to: Address,
) -> ControlInput:
    """Write the inputs that continue a video, see :func:`airflow_vace.video.extend`.

    :param video: file, local or in a store
    :param frames: frames of the control video, 4n+1
    :param overlap: frames to keep from the end of the video
    :param size: one of VACE's sizes; default: the nearest
    :param to: directory, local or in a store
    :return: the inputs without the prompt, with addresses in the store of `to`
    :raises VaceInputError: for wrong numbers, a missing file, and an unusable address
    :raises VideoUnreadable: if the video cannot be decoded
    :raises OSError: if a file cannot be copied from or to its store
    """
    with _Files(to, "video") as files:
        source = files.source(video)
        made = local_files.extend(source, frames=frames, overlap=overlap, size=size, to=files.folder)
        return files.stored(made)


def between(
    first: Address, last: Address, *, frames: int = fitting.MAX_FRAMES, size: str | None = None, to: Address
) -> ControlInput:
    """Write the inputs of a transition between two pictures, see :func:`airflow_vace.video.between`.

    :param first: image or video, local or in a store
    :param last: image or video, local or in a store
    :param frames: frames of the transition with both pictures, 4n+1
    :param size: one of VACE's sizes; default: the nearest to `first`
    :param to: directory, local or in a store
    :return: the inputs without the prompt, with addresses in the store of `to`
    :raises VaceInputError: for wrong numbers, a missing file, and an unusable address
    :raises VideoUnreadable: if a file cannot be decoded
    :raises OSError: if a file cannot be copied from or to its store
    """
    with _Files(to, "first and last") as files:
        start, end = files.source(first), files.source(last)
        return files.stored(local_files.between(start, end, frames=frames, size=size, to=files.folder))


def outpaint(video: Address, *, size: str, anchor: str = "center", to: Address) -> ControlInput:
    """Write the inputs that enlarge the canvas of a video, see :func:`airflow_vace.video.outpaint`.

    :param video: file, local or in a store
    :param size: one of VACE's sizes, the canvas
    :param anchor: place of the video on the canvas
    :param to: directory, local or in a store
    :return: the inputs without the prompt, with addresses in the store of `to`
    :raises VaceInputError: for a wrong size or anchor, a missing file, and an unusable address
    :raises VideoUnreadable: if the video cannot be decoded
    :raises OSError: if a file cannot be copied from or to its store
    """
    with _Files(to, "video") as files:
        return files.stored(
            local_files.outpaint(files.source(video), size=size, anchor=anchor, to=files.folder)
        )


def inpaint(
    video: Address,
    *,
    box: tuple[int, int, int, int] | None = None,
    mask: Address | None = None,
    size: str | None = None,
    to: Address,
) -> ControlInput:
    """Write the inputs that replace a part of each frame, see :func:`airflow_vace.video.inpaint`.

    :param video: file, local or in a store
    :param box: left, top, right, bottom in pixels of the video
    :param mask: image or video, local or in a store; light areas are generated
    :param size: one of VACE's sizes; default: the nearest
    :param to: directory, local or in a store
    :return: the inputs without the prompt, with addresses in the store of `to`
    :raises VaceInputError: for a wrong box or mask, a missing file, and an unusable address
    :raises VideoUnreadable: if a file cannot be decoded
    :raises OSError: if a file cannot be copied from or to its store
    """
    with _Files(to, "video and mask") as files:
        source, areas = files.source(video), None if mask is None else files.source(mask)
        return files.stored(local_files.inpaint(source, box=box, mask=areas, size=size, to=files.folder))


def last_frame(video: Address, to: Address) -> str:
    """Write the last frame of a video as a PNG, and return the address of the picture.

    :param video: file, local or in a store
    :param to: address of the PNG, local or in a store
    :raises VaceInputError: for a missing file, and an unusable address
    :raises VideoUnreadable: if the video cannot be decoded
    :raises OSError: if a file cannot be copied from or to its store
    """
    with _Files(to, "video", is_directory=False) as files:
        return files.stored_file(local_files.last_frame(files.source(video), files.folder))


def join(videos: Sequence[Address], *, overlap: int = 0, to: Address) -> str:
    """Write videos one after another as an MP4, and return the address, see :func:`airflow_vace.video.join`.

    :param videos: files in order, local or in stores
    :param overlap: frames at the start of each further video that repeat the end of the video before
    :param to: address of the MP4, local or in a store
    :raises VaceInputError: without a video, for a wrong overlap, a missing file, and an unusable address
    :raises VideoUnreadable: if a video cannot be decoded
    :raises OSError: if a file cannot be copied from or to its store
    """
    with _Files(to, "videos", is_directory=False) as files:
        # A single address is a mistake that the local function reports.
        sources: Any = videos if isinstance(videos, str) else [files.source(video) for video in videos]
        return files.stored_file(local_files.join(sources, overlap=overlap, to=files.folder))


@contextlib.contextmanager
def local_copy(address: Address) -> Iterator[Path]:
    """Yield the path of a local file, or of a temporary copy of a file in a store.

    :param address: a file, such as the `uri` of a saved file
    :raises VaceInputError: for a missing file in a store, and an unusable address
    :raises OSError: if the file cannot be copied
    """
    with _Copies("address") as copies:
        yield copies.source(address)


class _Copies(contextlib.ExitStack):
    """Local copies of sources, in a temporary directory.

    :param field: name of the argument with the source, for errors
    """

    def __init__(self, field: str) -> None:
        super().__init__()
        self._field = field
        self._to = ""
        self._scratch: Path | None = None
        self._count = 0

    def source(self, address: Address) -> Path:
        """Return a local path with the content of an address."""
        text = _with_connection(_text_of(address, self._field), self._to)
        place = existing_place_of(text, self._field, _REMEDY)
        return place.path if isinstance(place, LocalFile) else self._copy_of(place)

    def _temporary(self) -> Path:
        if self._scratch is None:
            self._scratch = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="vace-")))
        return self._scratch

    def _copy_of(self, place: Place) -> Path:
        self._count += 1
        # Errors about the content name the copy, so a person recognises the source.
        path = self._temporary() / f"{self._count}-{place.name}"
        try:
            size = place.size()
            if size is None:
                raise unusable(self._field, place.uri, "does not exist", "name an existing file")
            with place.open() as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
            if (copied := path.stat().st_size) != size:
                raise OSError(f"{copied} bytes came of {size}")
        except VaceInputError:
            raise
        except Exception as error:  # store libraries share no base class of errors
            raise store_error(f"{self._field}: {place.uri} could not be read", error) from error
        log.info("%s is fetched, %.1f MB", place.uri, size / 1e6)
        return path


class _Files(_Copies):
    """Local paths that stand for the addresses of one call.

    `folder` is the local target: `to` itself, or a place in a temporary directory for a target in a store.

    :param to: target of the call
    :param field: see :class:`_Copies`
    :param is_directory: True if `to` is a directory, False for a file
    """

    def __init__(self, to: Address, field: str, *, is_directory: bool = True) -> None:
        super().__init__(field)
        self._to = _text_of(to, "to")
        target = place_of(self._to, "to")
        if not is_directory and (str(path_text(to)).endswith("/") or _is_local_directory(target)):
            raise unusable("to", to, "is a directory", "give a file's name, such as 'film.mp4'")
        self._target = None if isinstance(target, LocalFile) else target
        if isinstance(target, LocalFile):
            self.folder = target.path
            return
        # A refusal is known before a minute of decoding.
        if doubt := target.check_writable("to"):
            log.info("%s", doubt)
        self.folder = Path("target") if is_directory else Path("target", target.name)

    def __enter__(self) -> Self:
        super().__enter__()
        if self._target is not None:
            self.folder = self._temporary() / self.folder
        return self

    def stored(self, made: ControlInput) -> ControlInput:
        """Return inputs whose files are at the target."""
        if self._target is None:
            return made
        mask, video = (
            self._stored_in(self._target, Path(made[field])) for field in ("src_mask", "src_video")
        )
        return {**made, "src_video": video, "src_mask": mask}

    def stored_file(self, made: Path) -> str:
        """Return the address of a file at the target."""
        if self._target is None:
            return str(made)
        _upload(made, self._target)
        return self._to

    def _stored_in(self, target: Place, path: Path) -> str:
        _upload(path, target.below(path.name))
        return f"{self._to.rstrip('/')}/{path.name}"


def _is_local_directory(place: Place) -> bool:
    return isinstance(place, LocalFile) and place.path.is_dir()


def _upload(path: Path, place: Place) -> None:
    from airflow_vace.hooks import VaceHook

    size = path.stat().st_size
    try:
        write_file(path, place, Progress(VaceHook.timing, log, "Stored", None, size))
    except Exception as error:  # store libraries share no base class of errors
        raise store_error(f"{place.uri} could not be written", error) from error
    log.info("%s is stored, %.1f MB", place.uri, size / 1e6)


def _text_of(address: object, field: str) -> str:
    """Return the text of an address; a relative path starts at the working directory."""
    text = path_text(address)
    if text is None:
        raise unusable(field, address, "is no path", _REMEDY)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _with_connection(text: str, to: str) -> str:
    """Return the address with the connection of `to`, if it has none and both are in one bucket."""
    scheme, _, rest = text.partition("://")
    other_scheme, _, other_rest = to.partition("://")
    conn_id, has_id, bucket = other_rest.partition("/")[0].rpartition("@")
    is_same = (scheme, rest.partition("/")[0]) == (other_scheme, bucket)
    return f"{scheme}://{conn_id}@{rest}" if has_id and is_same else text
