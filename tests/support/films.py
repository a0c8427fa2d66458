"""Smallest valid media files, and small real films."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import av
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path


def box(name: bytes, content: bytes = b"") -> bytes:
    return (8 + len(content)).to_bytes(4) + name + content


MP4 = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov") + box(b"mdat", b"film")
WEBM = b"\x1a\x45\xdf\xa3film"
GIF = b"GIF89a"
DATA_URL = f"data:video/mp4;base64,{base64.b64encode(MP4).decode()}"


def film(path: Path, width: int, height: int, *, options: dict[str, str] | None = None) -> Path:
    """Write two frames of a real MP4."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("mpeg4", rate=16)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(2):
            image = Image.new("RGB", (width, height))
            frame: av.VideoFrame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
