"""Posters and contact sheets: JPEG files of about 20 kB for galleries and messages."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_vace.video import reading
from airflow_vace.video.errors import video_extra
from airflow_vace.video.measures import is_black
from airflow_vace.video.writing import whole

if TYPE_CHECKING:
    from PIL import Image

_MAX_POSTER_BYTES = 24_000
_SIDES = (640, 480, 320)
_QUALITIES = (82, 70, 58, 46, 34)
_THUMBNAIL_SIDE = 240
_GAP = 4


def poster(path: reading.Path, to: reading.Path) -> Path:
    """Write the first frame that is not black as a JPEG, and return the path.

    A wholly black video gives the frame in the middle. The longest side has at most 640 pixels; quality, then
    size, decrease until the file has at most 24 kB.

    :param path: local video file
    :param to: path of the JPEG; missing directories are created
    :raises VideoUnreadable: if no frame can be decoded
    """
    with video_extra():
        from PIL import Image
    image = Image.fromarray(_shown(path))
    for side, quality in itertools.product(_SIDES, _QUALITIES):
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        with whole(to) as part:
            small.save(part, "JPEG", quality=quality, optimize=True, progressive=True)
            size = part.stat().st_size
        if size <= _MAX_POSTER_BYTES:
            break
    return Path(reading.local(to))


def _shown(path: reading.Path) -> reading.Picture:
    count = 0
    for _, picture in reading.pictures(path):
        # Every fourth pixel is enough to see whether there is light.
        if not is_black(picture[::4, ::4]):
            return picture
        count += 1
    frames = (picture for _, picture in reading.pictures(path))
    return next(itertools.islice(frames, count // 2, None))


def contact_sheet(path: reading.Path, to: reading.Path, *, columns: int = 4, rows: int = 3) -> Path:
    """Write evenly spaced frames side by side as a JPEG, and return the path.

    The first and the last frame are always shown. A short video fills only the first cells.

    :param path: local video file
    :param to: path of the JPEG; missing directories are created
    :param columns: frames in a row
    :param rows: number of rows
    :raises VideoUnreadable: if no frame can be decoded
    :raises ValueError: for less than one row or column
    """
    with video_extra():
        from PIL import Image
    if columns < 1 or rows < 1:
        raise ValueError(f"A contact sheet needs one row and one column at least, got {columns}x{rows}.")
    thumbnails = _thumbnails(path, columns * rows)
    width, height = thumbnails[0].size
    lines = -(-len(thumbnails) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, lines * (height + _GAP) - _GAP), "white")
    for number, thumbnail in enumerate(thumbnails):
        row, column = divmod(number, columns)
        sheet.paste(thumbnail, (column * (width + _GAP), row * (height + _GAP)))
    with whole(to) as part:
        sheet.save(part, "JPEG", quality=80, optimize=True)
    return Path(reading.local(to))


def _thumbnails(path: reading.Path, cells: int) -> list[Image.Image]:
    with video_extra():
        from PIL import Image
    count = sum(1 for _ in reading.times(path))
    last = count - 1
    wanted = {round(cell * last / (cells - 1)) if cells > 1 else last // 2 for cell in range(cells)}
    found = []
    for number, (_, picture) in enumerate(reading.pictures(path)):
        if number in wanted:
            image = Image.fromarray(picture)
            image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
            found.append(image)
    return found
