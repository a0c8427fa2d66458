"""Errors of the room `video`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from airflow_vace.exceptions import VaceError

if TYPE_CHECKING:
    from collections.abc import Iterator


class VideoUnreadable(VaceError):  # noqa: N818 - named like the other ends of a video
    """Raised if a file cannot be decoded: empty, truncated, not a video, absent.

    :param path: the file
    :param reason: the decoder's words
    """

    def __init__(self, message: str, *, path: str, reason: str) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason


class VideoExtraMissing(VaceError, ImportError):  # noqa: N818 - likewise
    """Raised if PyAV, Pillow or numpy is not installed."""


@contextlib.contextmanager
def video_extra() -> Iterator[None]:
    """Raise an error with the command that installs the missing package, for imports inside of the block."""
    try:
        yield
    except ImportError as error:
        raise VideoExtraMissing(
            f"Videos cannot be decoded here: {error}. Install the extra `video` with"
            " `pip install 'airflow-provider-vace[video]'`. Nothing was sent, nothing is billed.",
            name=error.name,
        ) from error
