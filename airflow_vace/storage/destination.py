"""Where a task's outputs go, what they are called, and what their manifests tell of the task."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from airflow_vace.exceptions import VaceInputError, excerpt
from airflow_vace.inputs import path_text
from airflow_vace.redaction import digested, unsigned
from airflow_vace.storage.manifests import manifest_at
from airflow_vace.storage.media_types import SUFFIXES
from airflow_vace.storage.paths import Place, bytes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.prediction import Prediction

# What a file name may end with; anything else without a slash is taken for a slip.
_FILE_SUFFIXES = frozenset({*SUFFIXES.values(), ".m4v", ".mov"})
# Before a bucket stands the name of an Airflow connection, before a web host what opens it.
_CONNECTION = re.compile(r"((?!https?:)[a-z][a-z0-9+.-]*://)([\w.-]+@)", re.IGNORECASE)
# What follows a prediction's name: the number of one output among many, a suffix, and a manifest's.
_LARGEST_NUMBER = "-9999"
_ENDING = len(f"{_LARGEST_NUMBER}.webm.json")
# The shortest form of a name that is too long: a letter of it, and a digest.
_DIGEST_LETTERS = 20
_SHORTEST_NAME = 2 + _DIGEST_LETTERS + _ENDING
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T_ ][\d:.+]+)?")
_REMEDY = (
    "give an absolute directory with a slash at its end, such as '/data/clips/' or 's3://bucket/clips/', or a"
    " file's name, such as 's3://bucket/clip.mp4'"
)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A directory or a file's name, as a task names it; plain JSON, for a trigger.

    :param save_to: a directory, with a slash at its end, or a file's name, locally or in a store
    :param names: in a directory: further directories, and how the file's name begins; else what is put
        behind the file's name
    :param input: the task's input, without files and secrets
    :param task: which task instance it is
    """

    save_to: str
    names: tuple[str, ...] = ()
    input: Mapping[str, Any] = field(default_factory=dict, repr=False)
    task: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, save_to: object, ti: Any = None, values: Mapping[str, Any] | None = None) -> Self | None:
        """Read what a DAG author says; None for None and for empty text. Nothing is opened.

        :param ti: the task instance that the names are made of
        :param values: the task's input, if it has one
        :raises VaceInputError: if it is no place, or neither a directory nor a file's name
        """
        if save_to is None or (isinstance(save_to, str) and not save_to.strip()):
            return None
        text = path_text(save_to) or ""
        scheme, has_scheme, rest = text.partition("://")
        is_local = not has_scheme or scheme.lower() == "file"
        name = PurePosixPath(
            rest if is_local and has_scheme else rest.partition("/")[2] or "" if has_scheme else text
        )
        is_file = name.suffix.lower() in _FILE_SUFFIXES
        is_folder = is_local and _is_folder(text)
        if text and not text.endswith("/") and (is_folder or not (is_file or isinstance(save_to, str))):
            text += "/"  # path objects drop it
        if not text or not (text.endswith("/") or is_file):
            raise VaceInputError(
                f"save_to is {excerpt(repr(save_to), 200)}; {_REMEDY}. Nothing was sent, nothing is billed.",
                field="save_to",
                value=save_to,
                remedy=_REMEDY,
            )
        if is_local:
            Place.of(text, "save_to")
        known = ("dag_id", "run_id", "task_id", "map_index")
        return cls(
            save_to=text,
            names=_names_in_directory(ti) if text.endswith("/") else _names_of_file(ti, name.stem),
            input=without_secrets(dict(values or {})),
            task={name: getattr(ti, name) for name in known if hasattr(ti, name)},
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`as_json` wrote; members that a later version has added are left alone."""
        return cls(
            save_to=str(data["save_to"]),
            names=tuple(data.get("names") or ()),
            input=data.get("input") or {},
            task=data.get("task") or {},
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "names": list(self.names)}

    @property
    def is_directory(self) -> bool:
        return self.save_to.endswith("/")

    def check(self) -> str | None:
        """Look whether files can be put there, before money is spent.

        :return: why that could not be told, if so
        :raises VaceInputError: if they can't
        :raises VaceTransportError: if that can't be told now, and may be told later
        """
        place = self.place_of("any", None, ".mp4")
        if self.is_directory:
            size, what = _SHORTEST_NAME, "the shortest one, with its manifest's suffix"
        else:
            size = bytes_of(f"{place.name}{_LARGEST_NUMBER}.json")
            what = "with the number of an output and the suffix of a manifest"
        place.parent.check_name("save_to", self.save_to, size, what)
        if not self.is_directory:
            place.check_replaceable("save_to")
        return place.parent.check_writable("save_to")

    def place_of(self, prediction_id: str, number: int | None, suffix: str) -> Place:
        """Return where one output goes, `number` telling several of a prediction apart.

        :raises VaceInputError: (or VaceTransportError) if its store can't be opened
        """
        count = "" if number is None else f"-{number}"
        place = Place.of(self.save_to, "save_to")
        if self.is_directory:
            *folders, start = self.names or ("",)
            for folder in folders:
                place = place.below(_fitted(folder, place.longest_name))
            name = f"{start}-{prediction_id}" if start else prediction_id
            return place.below(f"{_fitted(name, place.room - _ENDING)}{count}{suffix}")
        index = "".join(self.names)
        return place.renamed(
            lambda name: f"{PurePosixPath(name).stem}{index}{count}{PurePosixPath(name).suffix}"
        )

    def holds(self, prediction: Prediction) -> bool:
        """Return True if the files that were saved of a prediction are at their places here.

        A file's name that an author has chosen may have been taken over by another prediction since, so its
        manifest must not name another one.
        """
        for number, file in enumerate(prediction.files, start=1):
            many = len(prediction.files) > 1
            suffix = PurePosixPath(str(file.get("uri"))).suffix
            try:
                place = self.place_of(prediction.id, number if many else None, suffix)
                with place.locked():
                    is_here = place.uri == file.get("uri") and place.size() == file.get("size")
                    if is_here and not self.is_directory:
                        is_here = (manifest_at(place) or {}).get("id", prediction.id) == prediction.id
            except Exception:  # noqa: BLE001 - who may only write can't look; then the record is believed
                is_here = True
            if not is_here:
                return False
        return True


def _is_folder(text: str) -> bool:
    has_scheme = "://" in text
    path = unquote(text.partition("://")[2]) if has_scheme else text
    try:
        return not text.endswith("/") and Path(path).is_dir()
    except OSError:  # a name that is too long is not there; that it is too long is found when it is checked
        return False


def _names_in_directory(ti: Any) -> tuple[str, ...]:
    """Return `{dag_id}/{run_id}/{task_id}-{map_index}`, each safe for any store; () without a task."""
    if ti is None:
        return ()
    return (_safe(ti.dag_id, 150), _safe(ti.run_id, 150), _safe(ti.task_id, 100) + _index_of(ti))


def _names_of_file(ti: Any, stem: str) -> tuple[str, ...]:
    """Return the suffix that separates the files of a mapped task, if their author's name does not.

    Only the name's last number counts as the index, and dates do not count. Any number would not do: with the
    same name for all, such as `2026-11-28.mp4`, the instances 11 and 28 would both write to it.
    """
    index = _index_of(ti)
    numbers = re.findall(r"\d+", _DATE.sub("", stem))
    return (index,) if index and numbers[-1:] != [index[1:]] else ()


def _index_of(ti: Any) -> str:
    index = getattr(ti, "map_index", -1)
    return f"-{index}" if isinstance(index, int) and index >= 0 else ""


def _fitted(name: str, limit: int) -> str:
    """Return a name of at most `limit` bytes; the same one for the same name, so that it is found again."""
    if len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_LETTERS]
    return f"{name[: max(limit - _DIGEST_LETTERS - 1, 1)]}-{digest}"


def _safe(name: str, limit: int) -> str:
    """Return a name that is one and the same in every store and file system."""
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "_", name).strip(".")
    return plain[:limit] or "_"


def without_secrets(value: Any, name: str | None = None) -> Any:
    """Return an input as it may be kept for ever: no signature, no file, nothing that is named a secret."""
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # Airflow tells of no other

    if isinstance(value, dict):
        return {str(key): without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item, name) for item in value]
    if not isinstance(value, str):
        return value if isinstance(value, int | float | None) else path_text(value) or str(value)
    if (short := digested(value)) is not value:
        return short
    if of_store := _CONNECTION.match(value):
        place = unsigned(of_store[1] + value[of_store.end() :])
        return redact(of_store[0] + place.removeprefix(of_store[1]), name)
    shown = unsigned(value)
    # An input's place is whole without its user info; an output's must say that something is missing.
    return redact(shown if "?" in value or "#" in value else shown.removesuffix("?…"), name)
