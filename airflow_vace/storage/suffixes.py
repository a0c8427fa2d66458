"""Suffixes and media types of saved files: by content, else by the server's headers, else by the name."""

from __future__ import annotations

import mimetypes
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from airflow_vace.redaction import is_data

if TYPE_CHECKING:
    from collections.abc import Iterable

# The first suffix of a type is the one of new files.
TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".ts": "video/mp2t",
    ".3gp": "video/3gpp",
    ".flv": "video/x-flv",
    ".wmv": "video/x-ms-wmv",
    ".mpg": "video/mpeg",
    ".ogv": "video/ogg",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".svg": "image/svg+xml",
    ".exr": "image/x-exr",
    ".psd": "image/vnd.adobe.photoshop",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".m4b": "audio/mp4",
    ".aac": "audio/aac",
    ".aiff": "audio/aiff",
    ".mid": "audio/midi",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".obj": "model/obj",
    ".ply": "model/ply",
    ".stl": "model/stl",
    ".usdz": "model/vnd.usdz+zip",
    ".fbx": "application/vnd.autodesk.fbx",
    ".txt": "text/plain",
    ".srt": "application/x-subrip",
    ".vtt": "text/vtt",
    ".ass": "text/x-ass",
    ".lrc": "text/x-lrc",
    ".toml": "application/toml",
    ".ini": "text/plain",
    ".log": "text/plain",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".md": "text/markdown",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".zip": "application/zip",
    ".tar.gz": "application/gzip",
    ".tgz": "application/gzip",
    ".gz": "application/gzip",
    ".tar": "application/x-tar",
    ".7z": "application/x-7z-compressed",
    ".rar": "application/vnd.rar",
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
    ".pdf": "application/pdf",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".safetensors": "application/x-safetensors",
    ".parquet": "application/vnd.apache.parquet",
    ".bin": "application/octet-stream",
}
_SUFFIX_OF = {kind: suffix for suffix, kind in reversed(TYPES.items())} | {"application/gzip": ".gz"}
# Other names of the same types.
_ALIASES = {
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/x-m4a": "audio/mp4",
    "audio/x-flac": "audio/flac",
    "application/x-zip-compressed": "application/zip",
    "application/x-gzip": "application/gzip",
    "text/json": "application/json",
    "text/xml": "application/xml",
    "image/jpg": "image/jpeg",
}
# Servers send these for any content.
_UNSPECIFIC = ("application/octet-stream", "binary/octet-stream", "application/x-binary", "text/plain")
# The content of these is a container, so the name says more: an NPZ is a ZIP.
_REFINED = {
    "video/mp4": (".m4a", ".m4b", ".3gp", ".f4v", ".m4s"),
    "application/zip": (".npz", ".usdz", ".3mf", ".docx", ".xlsx", ".pptx", ".epub", ".kmz", ".pt", ".pth"),
    "application/gzip": (".tar.gz", ".tgz", ".nii.gz", ".json.gz", ".csv.gz", ".svgz"),
    "application/xml": (".svg",),
    "audio/ogg": (".opus",),
    "image/tiff": (".tif", ".tiff", ".dng"),
}
# Each has a signature, so a file without this signature is of another type, whatever its name is.
_SIGNED_TYPES = frozenset(
    {
        *("video/mp4", "video/webm", "video/x-matroska", "video/x-msvideo", "image/gif", "image/png"),
        *("image/jpeg", "image/webp", "image/avif", "image/heic", "audio/wav", "audio/flac", "audio/ogg"),
        *("audio/mp4", "model/gltf-binary", "application/zip", "application/gzip", "application/pdf"),
        *("application/x-npy", "application/x-npz"),
    }
)
# A text of these types may be of any other type, so the name decides: an INI file begins like JSON.
_TEXTS = ("text/plain", "application/json", "application/xml")
# A name may announce one of these although the file is text: TypeScript, and content that was decompressed.
AMBIGUOUS_TYPES = ("video/mp2t", "application/gzip")
# Files of these types are text or binary.
_TEXT_OR_BINARY = ("model/stl", "model/ply", "application/vnd.autodesk.fbx")
# A double click on a saved file, or a visit to its address, must start nothing.
_ACTIVE = re.compile(
    r"\.(exe|com|bat|cmd|msi|scr|pif|cpl|lnk|hta|jar|apk|app|dmg|pkg|deb|rpm|run|bin|dll|so|dylib|sys|desktop|url"
    r"|(ba|z|c|k)?sh|ps\d?|psm1|vb[se]?|ws[fh]?|m?js|jse|php\d?|phtml|py[cw]?|rb|pl|[xs]?html?|xht|mht(ml)?|aspx?"
    r"|jspx?|cgi|reg|inf|iso|img|vhdx?)"
)
_SAFE = re.compile(r"\.[a-z0-9]{1,12}")
_DOUBLE = re.compile(r".*(\.[a-z]{3,4}\.gz)")
_MEDIA_TYPE = re.compile(r"[a-z0-9][\w.+-]{0,60}/[a-z0-9][\w.+-]{0,80}")
_FILE_NAME = re.compile(r"filename\*?\s*=\s*\"?([^\";]{1,400})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileType:
    """Media type and suffix of a saved file."""

    content_type: str
    suffix: str

    @property
    def is_visual(self) -> bool:
        """Return True for a known video or image."""
        return self.content_type in _SUFFIX_OF and self.content_type.startswith(("video/", "image/"))

    @property
    def is_text(self) -> bool:
        """Return True if people can read the content."""
        return is_text_type(self.content_type)


@dataclass(frozen=True, slots=True)
class Announced:
    """The type of a file by its headers and its name, before any byte is read.

    :param header: `Content-Type`, None without a usable one
    :param suffixes: safe suffixes of the names, the most reliable first
    """

    header: str | None = None
    suffixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, url: str, content_type: str | None = None, disposition: str | None = None) -> Announced:
        """Read the address of a file, its `Content-Type` and its `Content-Disposition`."""
        if is_data(url):
            return cls(header=_media_type(url.lstrip()[5:].partition(",")[0]))
        named = _FILE_NAME.search(disposition or "")
        names = (unquote(named[1]) if named else "", _name_in(url))
        suffixes = (safe_suffix(name) for name in names)
        return cls(header=_media_type(content_type), suffixes=tuple(suffix for suffix in suffixes if suffix))

    @property
    def types(self) -> Iterable[str]:
        """Return the announced media types that say something."""
        headers = (self.header,) if self.header and self.header not in _UNSPECIFIC else ()
        return (*headers, *(type_of_suffix(suffix) for suffix in self.suffixes))

    @property
    def expected(self) -> str | None:
        """Return the media type of the most reliable name, else of the header; None without both."""
        # The table of Python calls a subtitle file (`.ass`) a sound, so only the own table counts.
        names = (TYPES.get(suffix, "application/octet-stream") for suffix in self.suffixes)
        return next(names, None) or self.header

    @property
    def likely_suffix(self) -> str:
        """Return the suffix under which the file is saved, unless the content is of another type."""
        known = (suffix_of_type(kind) for kind in self.types if kind in _SUFFIX_OF)
        return next(iter(self.suffixes), None) or next(known, None) or ".mp4"


def file_type(found: str | None, announced: Announced) -> FileType:
    """Return type and suffix of a complete file.

    :param found: media type by the content, None if unknown
    """
    if found is not None:
        return _refined_type(found, announced)
    header = announced.header
    if header in _SUFFIX_OF and header not in (*_SIGNED_TYPES, *_UNSPECIFIC):
        return FileType(header, suffix_of_type(header))
    for suffix in announced.suffixes:
        kind = type_of_suffix(suffix)
        if kind not in _SIGNED_TYPES:
            return FileType(kind, suffix)
    return FileType("application/octet-stream", ".bin")


def _refined_type(found: str, announced: Announced) -> FileType:
    """Return the type of a file whose content says less than the name or the header."""
    refining, is_text = _REFINED.get(found, ()), found in _TEXTS
    # Text under the name `a.csv.gz` was decompressed on its way.
    names = (suffix.removesuffix(".gz") if is_text else suffix for suffix in announced.suffixes)
    for suffix in filter(None, names):
        kind = type_of_suffix(suffix)
        if suffix in refining or kind == found or (is_text and not is_media_type(kind)):
            return FileType(kind if kind != "application/octet-stream" else found, suffix)
    header = announced.header
    is_finer_text = found == "text/plain" and header in _SUFFIX_OF and is_text_type(header)
    if header is not None and (is_finer_text or (found, header) == ("video/mp4", "audio/mp4")):
        found = header
    return FileType(found, suffix_of_type(found))


def safe_suffix(name: str) -> str | None:
    """Return the suffix of a file's name in lower case; None for none, a strange one, and a program's."""
    name = PurePosixPath(name.replace("\\", "/")).name.strip().lower()
    double = _DOUBLE.fullmatch(name[-200:])
    suffix = double[1] if double else PurePosixPath(name).suffix
    if double and (suffix in TYPES or any(suffix in known for known in _REFINED.values())):
        return suffix
    suffix = PurePosixPath(name).suffix
    return suffix if _SAFE.fullmatch(suffix) and not _ACTIVE.fullmatch(suffix) else None


def type_of_suffix(suffix: str) -> str:
    """Return the media type of a suffix, `application/octet-stream` if unknown."""
    return TYPES.get(suffix) or mimetypes.guess_type(f"a{suffix}")[0] or "application/octet-stream"


def suffix_of_type(content_type: str) -> str:
    """Return the suffix of a media type, `.bin` if unknown."""
    return _SUFFIX_OF.get(content_type, ".bin")


def suffix_of_compression(name: str) -> str:
    """Return the suffix of a file that is still compressed; `name` is the word of HTTP."""
    return {"br": ".br", "zstd": ".zst"}.get(name, ".bin")


def is_text_type(content_type: str) -> bool:
    """Return True if a media type is text, JSON or XML."""
    return content_type.startswith("text/") or content_type in (
        *("application/json", "application/jsonl", "application/xml", "application/yaml"),
        *("application/toml",),
        *("application/x-subrip", "model/gltf+json", "model/obj", "image/svg+xml"),
    )


def is_media_type(content_type: str) -> bool:
    """Return True for a known type whose files are no text: videos, images, sounds, archives, scenes."""
    is_either = content_type in _UNSPECIFIC or content_type in _TEXT_OR_BINARY
    return content_type in _SUFFIX_OF and not is_either and not is_text_type(content_type)


def kind_of(suffix: str) -> str:
    """Return the group of a suffix; an author's ending stays for another file of the same group."""
    kind = TYPES.get(suffix.lower())
    if kind is None or kind == "application/octet-stream":
        return suffix.lower()
    if is_text_type(kind):
        return "text"
    family = kind.partition("/")[0]
    return {"video": "visual", "image": "visual", "audio": "audio"}.get(family, suffix.lower())


def _name_in(url: str) -> str:
    try:
        return unquote(urlsplit(url.strip()).path)
    except ValueError:
        # The download fails later, with an error that shows the invalid URL.
        return ""


def _media_type(value: str | None) -> str | None:
    text = (value or "").partition(";")[0].strip().lower()
    return _ALIASES.get(text, text) if _MEDIA_TYPE.fullmatch(text) else None
