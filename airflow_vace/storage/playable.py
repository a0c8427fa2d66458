"""Types of saved files that a browser may get from Airflow's API server."""

from __future__ import annotations

# Types that a browser plays but never runs, so a saved page or SVG can start no script.
TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}


def type_of(uri: str) -> str | None:
    """Return the content type for a file's name, None if a browser must not get the file."""
    return next((kind for suffix, kind in TYPES.items() if uri.lower().endswith(suffix)), None)
