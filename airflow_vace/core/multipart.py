"""Multipart form (RFC 7578) for the upload of a single file, read in pieces."""

from __future__ import annotations

import re
import secrets
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

# Videos may be larger than the memory of a worker, so files are read in pieces of this size.
_PIECE_BYTES = 64 * 1024


class _FilePart:
    """The first `size` bytes of a file; later bytes are ignored."""

    # Another process may append to the file during the upload, but Content-Length is already sent.

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._remaining = file, size

    def read(self, size: int) -> bytes:
        piece = self._file.read(min(size, self._remaining)) if self._remaining else b""
        self._remaining -= len(piece)
        return piece


class Form:
    """A form with a file in the field `content`, readable once during the request.

    :param file: open for reading
    :param name: file name for the server
    :param content_type: media type of the file
    :param size: number of bytes to read from the file
    """

    def __init__(self, file: BinaryIO, *, name: str, content_type: str, size: int) -> None:
        boundary = f"vace-{secrets.token_hex(16)}"
        # A quote or line break in the name would end the header early.
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name) or "file"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="content"; filename="{plain}"\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        )
        self.content_type = f"multipart/form-data; boundary={boundary}"
        tail = f"\r\n--{boundary}--\r\n"
        self._parts: tuple[BinaryIO | _FilePart, ...] = (
            BytesIO(head.encode()),
            _FilePart(file, size),
            BytesIO(tail.encode()),
        )
        self._length = self._remaining = len(head) + size + len(tail)

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; the total equals the announced length.

        :param size: maximum number of bytes, negative for all
        :raises OSError: if the file became shorter
        """
        wanted = self._remaining if size < 0 else min(size, self._remaining)
        if not wanted:
            return b""
        piece = next((piece for part in self._parts if (piece := part.read(wanted))), b"")
        if not piece:
            # Content-Length is already sent, so the server would wait for the missing bytes.
            raise OSError(f"The file has become shorter by {self._remaining} bytes while it was sent")
        self._remaining -= len(piece)
        return piece

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(_PIECE_BYTES), b"")
