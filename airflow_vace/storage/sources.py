"""Identity of source files: the content of local files, the version of files in stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from airflow_vace.redaction import excerpt
from airflow_vace.storage.errors import describe_error
from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.paths import existing_place_of
from airflow_vace.storage.place import digest_of
from airflow_vace.storage.store import StoreFile
from airflow_vace.storage.upload import InputFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.hooks import VaceHook
    from airflow_vace.storage.place import Place

# Members of fsspec's `info`, digests of the content before times, since a copy may change only the time.
_VERSION_MEMBERS = (
    *("md5Hash", "content_md5", "crc32c", "ETag", "etag", "e_tag"),
    *("mtime", "LastModified", "last_modified", "updated", "modified", "modify", "created"),
)


class FileOrder(Protocol):
    """An order with files, see :class:`airflow_vace.submission.order.Order`."""

    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def model(self) -> str: ...
    def identified(self, contents: Mapping[str, Any] | None) -> Self: ...


AnyOrder = TypeVar("AnyOrder", bound=FileOrder)


def identified(hook: VaceHook, order: AnyOrder) -> AnyOrder:
    """Return the order with the digest for manifests, without a digest if a source file is unknown.

    A local file is read once, and a file in a store costs a request for the size and version, without a
    download. An http(s) address counts as text, without the signature.

    :param hook: hook with the connection's extra `input_roots`, and log for an unknown file at level info
    """
    try:
        contents = _contents_of(hook, order)
    except Exception as error:  # noqa: BLE001 - store libraries share no base class of errors
        reason = describe_error(error)
        hook.log.info("No later run can reuse the video, because a source file is unknown: %s", reason)
        return order.identified(None)
    return order.identified(contents)


def _contents_of(hook: VaceHook, order: FileOrder) -> dict[str, Any]:
    files = InputFiles(hook, seconds=0, model=order.model)
    contents: dict[str, Any] = {}
    for field, text in files.paths_of(order.values):
        place = existing_place_of(text, field)
        if isinstance(place, LocalFile):
            # Any other file could be a named pipe, whose read would never end.
            place = files.allowed(field, text, place.path)
        contents[text] = _content_of(place)
    return contents


def _content_of(place: Place) -> dict[str, Any]:
    """Return JSON that changes whenever the content of a file changes.

    :raises LookupError: if the store keeps no version
    """
    if not isinstance(place, StoreFile):
        return {"sha256": digest_of(place)}
    # A listing in the cache of this process may be older than the file.
    place.fs.invalidate_cache(place.path)
    known = place.fs.info(place.path)
    version = next((str(known[name]) for name in _VERSION_MEMBERS if known.get(name)), None)
    if version is None:
        raise LookupError(f"the store of {excerpt(place.uri)} keeps neither digest nor time")
    return {"uri": place.uri, "size": known.get("size"), "version": version}
