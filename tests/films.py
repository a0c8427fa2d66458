"""The smallest files that pass for media."""

from __future__ import annotations

import base64


def box(name: bytes, content: bytes = b"") -> bytes:
    return (8 + len(content)).to_bytes(4) + name + content


MP4 = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov") + box(b"mdat", b"film")
WEBM = b"\x1a\x45\xdf\xa3film"
GIF = b"GIF89a"
DATA_URL = f"data:video/mp4;base64,{base64.b64encode(MP4).decode()}"
