"""Check of a downloaded file's content, and its media type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.redaction import excerpt
from airflow_vace.storage.media_types import HEAD_BYTES, check_size, check_whole, has_end_mark, type_of
from airflow_vace.storage.suffixes import Announced, FileType, file_type, suffix_of_compression

if TYPE_CHECKING:
    from typing import BinaryIO

    from airflow_vace.client.downloads import Download


class ContentCheck:
    """Check of one output's content, for all attempts of its download.

    `announced` is the type by headers and name of the latest attempt.
    """

    def __init__(self, log: Any) -> None:
        self.announced = Announced()
        self._log = log
        self._shown = ""
        self._has_end = True
        self._undecoded: str | None = None
        self._doubtful_digest: str | None = None

    def expect(self, url: str, download: Download) -> None:
        """Note the headers of a download from the start of the file."""
        self.announced = Announced.of(url, download.content_type, download.disposition)
        self._shown = excerpt(url)
        self._has_end, self._undecoded = download.has_end, download.undecoded

    def type_of(self, file: BinaryIO, digest: str) -> FileType:
        """Return the type of a complete file by its content, else by its headers and its name.

        :param digest: SHA-256 of the content
        :raises VaceProtocolError: if the file is incomplete, or no file
        """
        size = file.tell()
        file.seek(0)
        found = type_of(file.read(HEAD_BYTES))
        check_whole(file, size, found, self.announced)
        if not self._has_end:
            # The end of the connection may be the end of the file, or an interruption.
            check_size(file, size, found)
            if not has_end_mark(file, size, found):
                self._doubt(digest)
        file.seek(size)
        if self._undecoded is not None and found is None:
            return self._compressed(self._undecoded)
        return file_type(found, self.announced)

    def _doubt(self, digest: str) -> None:
        """Accept a file without a mark at its end only if a second download brings the same bytes.

        :raises VaceProtocolError: for the first download
        """
        if digest != self._doubtful_digest:
            self._doubtful_digest = digest
            raise VaceProtocolError("The output's URL brought a file that seems to lack its end")
        self._log.warning(
            "%s seems to lack its end, and is saved since a second download agrees", self._shown
        )

    def _compressed(self, encoding: str) -> FileType:
        self._log.warning(
            "The server compresses %s with %s although asked not to, and this machine has no library for it:"
            " the file is saved compressed. Install 'urllib3[brotli,zstd]' for the next one",
            self._shown,
            encoding,
        )
        return FileType("application/octet-stream", suffix_of_compression(encoding))
