"""Destinations of a task's outputs: parsing of `save_to`, checks, and file names."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from airflow_vace.exceptions import VaceInputError
from airflow_vace.ids import id_in_file_name
from airflow_vace.input_files import path_text
from airflow_vace.redaction import excerpt, without_secrets
from airflow_vace.storage.manifests import manifest_at
from airflow_vace.storage.paths import place_of
from airflow_vace.storage.place import bytes_of
from airflow_vace.storage.suffixes import TYPES, kind_of, safe_suffix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.core.timing import Timing
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.checks import CheckMode, Rule
    from airflow_vace.storage.place import Place

# A text without one of these endings and without a slash is probably a directory with a forgotten slash,
# so it is refused.
_FILE_SUFFIXES = frozenset(TYPES)
# Behind a prediction's id stand the number of one output among many, a suffix, and the manifest's suffix.
_LARGEST_NUMBER = "-9999"
_ENDING_BYTES = len(f"{_LARGEST_NUMBER}.webm.json")
# A name that is too long shrinks to at least one letter, a hyphen and a digest.
_DIGEST_LETTERS = 20
_SHORTEST_NAME_BYTES = 2 + _DIGEST_LETTERS + _ENDING_BYTES
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T_ ][\d:.+]+)?")
_TASK_FIELDS = ("dag_id", "run_id", "task_id", "map_index")
_REMEDY = (
    "give an absolute directory with a slash at its end, such as '/data/clips/' or 's3://bucket/clips/', or a"
    " file's name, such as 's3://bucket/clip.mp4'"
)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A directory or a file's name for the outputs of one task; plain JSON for triggers.

    :param save_to: directory with a slash at the end, or a file's name, local or in a store
    :param names: for a directory: subdirectories, and the first part of the file's name; for a file: parts
        to append to the file's stem
    :param input: the task's input, without files and secrets
    :param task: `dag_id, run_id, task_id, map_index` of the task instance
    :param order_digest: digest of the task's order, for the manifest; None if unknown
    :param checks: whether videos are checked during the save, see :mod:`airflow_vace.storage.checks`
    :param rule: the author's own check, which no trigger can have
    :param model: `owner/name` of the task's order, since gateways echo other names; None if unknown
    """

    save_to: str
    names: tuple[str, ...] = ()
    input: Mapping[str, Any] = field(default_factory=dict, repr=False)
    task: Mapping[str, Any] = field(default_factory=dict)
    order_digest: str | None = None
    checks: CheckMode = "off"
    rule: Rule | None = field(default=None, repr=False)
    model: str | None = None

    @classmethod
    def of(cls, save_to: object, ti: Any = None, values: Mapping[str, Any] | None = None) -> Self | None:
        """Parse a DAG author's `save_to`; None for None and empty text. No store is opened.

        :param save_to: text or path object
        :param ti: task instance, source of the file names; None: the prediction's id is the name
        :param values: the task's input, for the manifest
        :raises VaceInputError: if the value is neither a directory nor a file's name
        """
        if save_to is None or (isinstance(save_to, str) and not save_to.strip()):
            return None
        from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the public module hides the name

        text = _address_of(save_to)
        # DAG processors call this often, so a store is not opened here; `check` opens the store later.
        if _is_local(text):
            place_of(text, "save_to")
        stem, index = PurePosixPath(_path_part(text)).stem, _index_of(getattr(ti, "map_index", -1))
        return cls(
            save_to=text,
            names=_names_in_directory(ti, index) if text.endswith("/") else _names_of_file(index, stem),
            input=without_secrets(dict(values or {}), redact),
            task={name: getattr(ti, name) for name in _TASK_FIELDS if hasattr(ti, name)},
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the result of :meth:`as_json`; ignore unknown members from later versions."""
        return cls(
            save_to=str(data["save_to"]),
            names=tuple(data.get("names") or ()),
            input=data.get("input") or {},
            task=data.get("task") or {},
            order_digest=data.get("order_digest"),
            checks=data.get("checks") or "off",
            model=data.get("model"),
        )

    def as_json(self) -> dict[str, Any]:
        checks = None if self.checks == "off" else self.checks
        known = {**asdict(replace(self, rule=None)), "names": list(self.names), "checks": checks}
        # An older triggerer needs no new member, and a row without a digest has none.
        return {name: value for name, value in known.items() if value is not None}

    def file(self, name: str) -> Self:
        """Return the destination of a file in this directory; :meth:`of` returns the same for its address."""
        index = _index_of(self.task.get("map_index"))
        return replace(
            self, save_to=f"{self.save_to}{name}", names=_names_of_file(index, PurePosixPath(name).stem)
        )

    @property
    def is_directory(self) -> bool:
        return self.save_to.endswith("/")

    def check(self) -> str | None:
        """Check before any payment that outputs can be saved here.

        :return: the reason for remaining doubt, None if there is none
        :raises VaceInputError: if saving is impossible
        :raises VaceTransportError: if the check may give another result later
        """
        place = self.place_of("any", None, ".mp4")
        if self.is_directory:
            size, meaning = _SHORTEST_NAME_BYTES, "the shortest one, with its manifest's suffix"
        else:
            size = bytes_of(f"{place.name}{_LARGEST_NUMBER}.json")
            meaning = "with the number of an output and the suffix of a manifest"
        place.parent.check_name("save_to", self.save_to, size, meaning)
        if not self.is_directory:
            place.check_replaceable("save_to")
        return place.parent.check_writable("save_to")

    def place_of(self, prediction_id: str, number: int | None, suffix: str) -> Place:
        """Return the place of one output.

        :param number: position among several outputs, from 1; None for a single output
        :param suffix: ending of the name, such as `.mp4`; an author's ending of the same kind stays, so a GIF
            may be `clip.mp4`, and a ZIP beside it is `clip-2.zip`
        :raises VaceInputError: if the store can't be opened because of a wrong address or connection
        :raises VaceTransportError: if the store can't be opened at the moment
        """
        count = "" if number is None else f"-{number}"
        place = place_of(self.save_to, "save_to")
        if self.is_directory:
            *folders, start = self.names or ("",)
            for folder in folders:
                place = place.below(_fitted(folder, place.max_name_bytes))
            identifier = id_in_file_name(prediction_id)
            name = f"{start}-{identifier}" if start else identifier
            room = max(_ENDING_BYTES, len(f"{_LARGEST_NUMBER}{suffix}.json"))
            return place.below(f"{_fitted(name, place.max_file_name_bytes - room)}{count}{suffix}")
        stem, ending = _split(place.name, suffix)
        name = f"{stem}{''.join(self.names)}{count}"
        if bytes_of(f"{name}{ending}.json") > place.parent.max_file_name_bytes:
            # The check before the payment counted the author's ending.
            ending = PurePosixPath(place.name).suffix
        return place.renamed(lambda _: f"{name}{ending}")

    def place_beside(self, prediction_id: str, number: int | None, suffix: str) -> Place:
        """Return the place of an output whose fixed name belongs to another prediction of the same run.

        :param suffix: see :meth:`place_of`
        """
        place = self.place_of(prediction_id, number, suffix)
        stem, ending = _split(place.name, suffix)
        identifier = id_in_file_name(prediction_id)
        limit = place.parent.max_file_name_bytes - len(".json")
        name = f"{stem}-{identifier}{ending}"
        if bytes_of(name) > limit:
            count = "" if number is None else f"-{number}"
            name = f"{_fitted(identifier, limit - bytes_of(count + ending))}{count}{ending}"
        return place.renamed(lambda _: name)

    def holds(self, prediction: Prediction, timing: Timing) -> bool:
        """Return True if all saved files of a prediction are still here.

        An author's fixed file name is reused by later predictions, so the manifest decides whose file is
        present. Without permission to read, the prediction's own record counts.

        :param prediction: with the `files` of an earlier save
        :param timing: limit of the wait for a lock
        """
        is_one = len(prediction.files) == 1
        return all(
            self._holds_file(prediction.id, file, None if is_one else number, timing)
            for number, file in enumerate(prediction.files, start=1)
        )

    def _holds_file(
        self, prediction_id: str, file: Mapping[str, Any], number: int | None, timing: Timing
    ) -> bool:
        try:
            uri = str(file.get("uri"))
            suffix = safe_suffix(uri) or ".bin"
            places = [self.place_of(prediction_id, number, suffix)]
            if not self.is_directory:
                places.append(self.place_beside(prediction_id, number, suffix))
            # Earlier releases percent-encoded the addresses of local files.
            place = next((place for place in places if place.uri in (uri, unquote(uri))), None)
            if place is None:
                return False
            with place.locked(timing.max_lock_seconds):
                if place.size() != file.get("size"):
                    return False
                # Names in a directory contain the prediction's id, so the manifest adds no certainty.
                if self.is_directory:
                    return True
                found_id = (manifest_at(place) or {}).get("id", prediction_id)
                return bool(found_id == prediction_id)
        except Exception:  # noqa: BLE001 - keys that may only write see nothing, so the record counts
            return True


def _address_of(save_to: object) -> str:
    """Return `save_to` as text, with a slash at the end of directories."""
    text = path_text(save_to) or ""
    is_file = PurePosixPath(_path_part(text)).suffix.lower() in _FILE_SUFFIXES
    # Path objects drop a slash at the end, so directories are recognised without one.
    is_directory = (_is_local(text) and _is_existing_directory(text)) or not (
        is_file or isinstance(save_to, str)
    )
    if text and not text.endswith("/") and is_directory:
        text += "/"
    if not text or not (text.endswith("/") or is_file):
        raise VaceInputError(
            f"save_to is {excerpt(repr(save_to), 200)}; {_REMEDY}. Nothing was sent, nothing is billed.",
            field="save_to",
            value=save_to,
            remedy=_REMEDY,
        )
    return text


def _is_local(text: str) -> bool:
    scheme, has_scheme, _ = text.partition("://")
    return not has_scheme or scheme.lower() == "file"


def _path_part(text: str) -> str:
    """Return an address without scheme and bucket."""
    _, has_scheme, rest = text.partition("://")
    if not has_scheme:
        return text
    return rest if _is_local(text) else rest.partition("/")[2]


def _is_existing_directory(text: str) -> bool:
    path = _path_part(text)
    try:
        return not text.endswith("/") and Path(path).is_dir()
    except OSError:
        # Names beyond the limit raise here, although `check` reports them with a better message.
        return False


def _names_in_directory(ti: Any, index: str) -> tuple[str, ...]:
    """Return `{dag_id}/{run_id}/{task_id}-{map_index}` in parts that any store accepts; () without a task."""
    if ti is None:
        return ()
    return (_safe(ti.dag_id, 150), _safe(ti.run_id, 150), _safe(ti.task_id, 100) + index)


def _names_of_file(index: str, stem: str) -> tuple[str, ...]:
    """Return the map index as a suffix, unless the author's name ends in the index already.

    Only the last number counts as index, and dates are ignored. Otherwise instances 11 and 28 would both
    write to `2026-11-28.mp4`.
    """
    numbers = re.findall(r"\d+", _DATE.sub("", stem))
    return (index,) if index and numbers[-1:] != [index[1:]] else ()


def _index_of(map_index: object) -> str:
    return f"-{map_index}" if isinstance(map_index, int) and map_index >= 0 else ""


def _split(name: str, suffix: str) -> tuple[str, str]:
    """Return the stem of an author's file name, and the ending for a file with this suffix."""
    known = [known for known in (*TYPES, suffix) if name.lower().endswith(known)]
    length = len(max(known, key=len, default=PurePosixPath(name).suffix))
    stem, ending = name[: len(name) - length], name[len(name) - length :]
    return stem, ending if kind_of(ending) == kind_of(suffix) else suffix


def _fitted(name: str, limit: int) -> str:
    """Shorten a name to `limit` bytes; equal names give equal results, for later searches."""
    # Ids and names from `_safe` are ASCII, so characters are bytes.
    if len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_LETTERS]
    return f"{name[: max(limit - _DIGEST_LETTERS - 1, 1)]}-{digest}"


def _safe(name: str, limit: int) -> str:
    """Replace all characters that any store or file system treats specially."""
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "_", name).strip(".")
    return plain[:limit] or "_"
