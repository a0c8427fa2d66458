"""Posters: the JPEG beside each saved video, for galleries. No trouble with a poster costs a video."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_vace.redaction import excerpt
from airflow_vace.storage.checks import missing_packages, poster_name

if TYPE_CHECKING:
    from airflow_vace.storage.place import Place

AnyPlace = TypeVar("AnyPlace", bound="Place")


def poster_place(place: AnyPlace) -> AnyPlace:
    """Return the place of a video's poster, beside the video."""
    return place.renamed(poster_name)


def draw_poster(part: Path, content_type: str, log: Any) -> bytes | None:
    """Return the poster of a downloaded video as JPEG of about 20 kB.

    :param part: the downloaded file
    :return: None for other files, without the extra `video`, and for a video that cannot be decoded
    """
    if not content_type.startswith("video/") or missing_packages():
        return None
    from airflow_vace.video.posters import poster

    try:
        with TemporaryDirectory(prefix="vace-") as folder:
            return poster(part, Path(folder, "poster.jpg")).read_bytes()
    except Exception as error:  # noqa: BLE001 - a decoder may raise any error; the paid video matters more
        log.info("No poster could be drawn: %s", excerpt(f"{type(error).__name__}: {error}", 300))
        return None


def put_poster(content: bytes | None, place: Place, stale_seconds: float, log: Any) -> dict[str, str]:
    """Write the poster beside a video, and return the member `poster` of the file; {} after an error.

    :param content: the JPEG, None without a poster
    :param place: place of the video
    :param stale_seconds: age in seconds at which temporary files of killed attempts are deleted
    """
    if content is None:
        return {}
    target = poster_place(place)
    part: Path | None = None
    try:
        part = target.new_part(".jpg", stale_seconds)
        part.write_bytes(content)
        target.put(part)
    except Exception as error:  # noqa: BLE001 - store libraries share no base class of errors
        reason = excerpt(f"{type(error).__name__}: {error}", 300)
        log.warning("The poster %s could not be written: %s", target.uri, reason)
        return {}
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return {"poster": target.uri}
