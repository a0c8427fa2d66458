"""Files into a prediction: checked before money is spent, and brought where the back-end can fetch them."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_vace.client.addresses import private_address_of
from airflow_vace.core.retry import verdict_of
from airflow_vace.exceptions import VaceError, VaceInputError, VaceTransportError, excerpt
from airflow_vace.inputs import FILE_FIELDS, path_text, paths_in
from airflow_vace.storage.lineage import report_input
from airflow_vace.storage.media_types import HEAD, dimensions_of, type_of
from airflow_vace.storage.paths import Place, said, store_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.hooks import VaceHook

# https://replicate.com/docs/topics/predictions/input-files: what a data: URL and an upload may hold.
LARGEST_DATA = 256_000
LARGEST_UPLOAD = 100_000_000
# What stores sign for at most: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html
_LONGEST_SIGNED = 7 * 86400
_SHORTEST_SIGNED = 3600
# What is read at once of a file's beginning: most tell there all that is asked.
_FIRST = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One file of the input, as it was found; `size` is in bytes."""

    field: str
    text: str
    place: Place
    size: int
    content_type: str
    dimensions: tuple[int, int] | None


@dataclass(frozen=True)
class _No:
    """Why a file can't go one way, and whether it may be able to later."""

    why: str
    may_pass: bool = False


class Sources:
    """Makes the files that an input names by their paths reachable for a back-end.

    :param hook: of the connection that the input goes to
    :param seconds: how long the back-end may take to fetch them, its queue included
    """

    def __init__(self, hook: VaceHook, *, seconds: float) -> None:
        self.hook = hook
        self.seconds = seconds
        self.log = hook.log

    def reachable(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the input with URLs in place of paths: signed ones, uploaded files, or data: URLs.

        Nothing that is billed is sent.

        :raises VaceInputError: for a file that is missing, empty, of the wrong kind, not allowed, or that
            can't be brought to the back-end: it names field, value and remedy
        :raises VaceTransportError: if a store did not answer
        :raises VaceError: if the back-end refused an upload
        """
        found = {text: self._found(field, text) for field, text in paths_in(values)}
        _check_mask(values, found)
        urls = {text: self._url_of(source) for text, source in found.items()}
        return {name: _replaced(value, urls) for name, value in values.items()}

    # --- checks before money -----------------------------------------------------------------------

    def _found(self, field: str, text: str) -> _Source:
        place = Place.of(text, field)
        if place.local:
            place = self._allowed(field, text, place.local)
        try:
            size = place.size()
            first = place.read(0, _FIRST) if size else b""
        except PermissionError as error:
            raise _error(field, text, f"may not be read ({error})", "let the worker read it") from error
        except Exception as error:  # stores are strangers, and may throw anything
            raise _unread(field, place, error) from error
        if size is None:
            raise _error(field, text, "does not exist", "name a file that is there")
        if not size:
            raise _error(field, text, "is empty", "name a file with something in it")
        wanted = FILE_FIELDS[field]
        content_type = type_of(first[:HEAD]) or "unknown"
        if content_type.partition("/")[0] not in wanted and content_type != "image/gif":
            kinds = " or ".join(wanted)
            raise _error(
                field, text, f"is no {kinds} by its content ({first[:16]!r})", f"name a {kinds} file"
            )
        return _Source(
            field=field,
            text=text,
            place=place,
            size=size,
            content_type=content_type,
            dimensions=_dimensions(place, first, size),
        )

    def _allowed(self, field: str, text: str, path: Path) -> Place:
        """Return the true file behind a local path, if the connection allows its directory."""
        roots = self.hook.settings.input_roots
        remedy = (
            "put it below one of the directories in the connection's extra 'input_roots', or use a store"
            if roots
            else "list the directories that tasks may send from in the connection's extra 'input_roots',"
            " or use a store such as s3://"
        )
        true, found = _opened(path)
        if not any(true.is_relative_to(Path(root).resolve()) for root in roots):
            raise _error(field, text, "is in no directory that tasks may send from", remedy)
        if found is None or not stat.S_ISREG(found.st_mode):
            raise _error(field, text, "does not exist, or is no file", "name a file that is there")
        return Place(uri=true.as_uri(), local=true, inode=(found.st_dev, found.st_ino))

    # --- the ways to a back-end --------------------------------------------------------------------

    def _url_of(self, source: _Source) -> str:
        noes: list[_No] = []
        for way in (self._signed, self._uploaded, self._as_data):
            try:
                answer = way(source)
            except VaceError:
                raise
            except Exception as error:  # stores are strangers, and may throw anything
                raise _unread(source.field, source.place, error) from error
            if isinstance(answer, str):
                return answer
            noes.append(answer)
        whys = "; ".join(no.why for no in noes)
        if any(no.may_pass for no in noes):
            raise VaceTransportError(
                f"{source.field}: {source.place.uri} can't be brought to the back-end now: {whys}."
                " Nothing was submitted.",
                sent=False,
            )
        remedy = (
            "give an http(s) URL that the back-end can reach, keep the file in a store that signs URLs"
            " (s3, gs, az) with credentials that may sign, or use a back-end that takes uploads"
        )
        raise _error(source.field, source.text, f"can't be brought to it: {whys}", remedy)

    def _signed(self, source: _Source) -> str | _No:
        seconds = int(min(max(self.seconds, _SHORTEST_SIGNED), _LONGEST_SIGNED))
        try:
            url = source.place.signed(seconds)
            host = urlsplit(url).hostname
        except NotImplementedError:
            return _No("the store signs no URL")
        except Exception as error:  # noqa: BLE001 - stores are strangers, and may throw anything
            return _No(f"the store signs no URL ({said(error)})", may_pass=isinstance(error, OSError))
        mask_signatures(url)
        if not url.lower().startswith(("http://", "https://")) or not host:
            return _No("the store signs no http(s) URL")
        if self._is_private(url) and not self._is_private(self.hook.settings.api.base_url):
            return _No(f"the store's host {host} is in a private network, the back-end is not")
        status = self.hook.client.status_of(url)
        if status is not None and status >= 400:
            may_pass = status >= 500 or status in (408, 429)
            return _No(f"the store refuses its own signed URL ({status})", may_pass=may_pass)
        self._tell(source, f"goes as a signed URL, valid for {seconds / 3600:.1f} h")
        return url

    def _is_private(self, url: str) -> bool:
        """Whether a host is in a private network, as far as can be told from here."""
        try:
            resolve = not self.hook.settings.proxy_for(url)
            return private_address_of(url, resolve=resolve) is not None
        except OSError:  # a name that only others can resolve; who fetches will tell
            return False

    def _uploaded(self, source: _Source) -> str | _No:
        backend = self.hook.settings.api.backend
        if backend.files is None:
            return _No(f"the back-end {backend.name!r} takes no uploads")
        if source.size > LARGEST_UPLOAD:
            most = f"{LARGEST_UPLOAD // 1_000_000} MB"
            return _No(f"{source.size / 1e6:.0f} MB are more than the {most} that it takes as an upload")
        self._tell(source, "is uploaded to the back-end, which keeps it for a day")
        try:
            return self.hook.upload_file(
                source.place.open,
                name=source.place.name,
                content_type=source.content_type,
                size=source.size,
            )
        except VaceError as error:
            if not verdict_of(error, "upload").now:
                raise
            raise VaceTransportError(
                f"{source.field}: {source.place.uri} could not be uploaded, nothing was submitted: {error}",
                sent=False,
            ) from error

    def _as_data(self, source: _Source) -> str | _No:
        if source.size > LARGEST_DATA:
            return _No(f"it has more than the {LARGEST_DATA // 1000} kB of a data: URL")
        with source.place.open() as file:
            content = file.read(LARGEST_DATA + 1)
        self._tell(source, "goes along as a data: URL")
        return f"data:{source.content_type};base64,{base64.b64encode(content).decode()}"

    def _tell(self, source: _Source, what: str) -> None:
        told = "" if source.dimensions is None else ", {}x{}".format(*source.dimensions)
        size = f"{source.size / 1e6:.2f} MB, {source.content_type}{told}"
        self.log.info("%s: %s (%s) %s", source.field, source.place.uri, size, what)
        report_input(self.hook, source.place.uri)


def mask_signatures(value: Any) -> None:
    """Let Airflow mask what opens the URLs in a value, in containers too, wherever it might be written.

    User info and all values of queries and fragments are masked, since CDNs call their signatures what they
    like. Airflow masks nothing that is shorter than `[logging] min_length_masked_secret` (5).
    """
    from airflow_vace.hooks import mask_secrets_in

    mask_secrets_in(_texts_in(value))


def _texts_in(value: Any) -> Iterator[str]:
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping | list | tuple | set | frozenset) and id(item) not in seen:
            seen.add(id(item))  # a container may hold itself
            todo.extend([*item, *item.values()] if isinstance(item, Mapping) else item)
        elif item is not None and not isinstance(item, int | float):
            with suppress(Exception):  # Airflow keeps the text of an object that is no JSON, if it has one
                yield path_text(item) or str(item)


def _replaced(value: Any, urls: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, urls) for item in value]
    return urls.get(value, value) if isinstance(value, str) else value


def _dimensions(place: Place, first: bytes, size: int) -> tuple[int, int] | None:
    def read(at: int, length: int) -> bytes:
        return first[at : at + length] if at + length <= len(first) else place.read(at, length)

    try:
        return dimensions_of(read, size)
    except Exception:  # noqa: BLE001 - a store's trouble here costs a check, no more
        return None


def _check_mask(values: Mapping[str, Any], found: Mapping[str, _Source]) -> None:
    """Compare mask and video, if both are files that can be looked into."""
    mask, video = (found.get(str(values.get(name))) for name in ("src_mask", "src_video"))
    if mask is None or video is None:
        return
    for what, one, other in (
        ("kind", mask.content_type.partition("/")[0], video.content_type.partition("/")[0]),
        ("dimensions", mask.dimensions, video.dimensions),
    ):
        if one and other and one != other:
            raise _error(
                "src_mask",
                mask.text,
                f"has another {what} than src_video: {one} and {other}",
                f"make a mask of the {what} of the video",
            )


def _opened(path: Path) -> tuple[Path, os.stat_result | None]:
    """Return where an open file truly is, and what it is: a name may come to mean another one meanwhile."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return path.resolve(), None
    try:
        known = Path(f"/proc/self/fd/{handle}")
        true = known.readlink() if known.exists() else path.resolve()
        return true, os.fstat(handle)
    finally:
        os.close(handle)


def _unread(field: str, place: Place, error: Exception) -> VaceTransportError:
    what = f"{field}: {place.uri} could not be read; nothing was submitted, nothing is billed"
    return VaceTransportError(str(store_error(what, error)), sent=False)


def _error(field: str, text: str, problem: str, remedy: str) -> VaceInputError:
    return VaceInputError(
        f"Input {field!r} is {excerpt(text, 200)}, which {problem}; {remedy}. Nothing is billed.",
        field=field,
        value=text,
        remedy=remedy,
    )
