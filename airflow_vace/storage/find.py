"""Search for outputs that are saved already, by their manifests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_vace.redaction import excerpt
from airflow_vace.storage.errors import is_refusal
from airflow_vace.storage.manifests import saved_at
from airflow_vace.storage.suffixes import safe_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.hooks import VaceHook
    from airflow_vace.storage.destination import Destination
    from airflow_vace.storage.place import Place

# Without a list of the directory each suffix costs a request, so only these are tried.
_SEARCHED = (
    *(".mp4", ".webm", ".gif", ".png", ".jpg", ".webp", ".mov", ".wav", ".mp3", ".zip", ".glb", ".txt"),
    *(".json", ".bin"),
)


@dataclass(frozen=True, slots=True)
class SavedFile:
    """One saved output, found by its manifest.

    `file` is `uri, size, sha256, content_type`. `number` is the position in the file's name, None if the name
    has none. `outputs` is the number of outputs of the prediction, None in manifests of older versions.
    """

    file: dict[str, Any]
    number: int | None
    outputs: int | None


def find_saved(hook: VaceHook, destination: Destination, prediction_id: str) -> list[dict[str, Any]] | None:
    """Return the complete saved files of a prediction, or None without certainty.

    A file counts if the manifest names the prediction and the file's size. No request goes to the back-end,
    so this works after the back-end has deleted the files or forgotten the prediction. The search takes two
    requests to the store for a saved MP4, and three if nothing is saved and the store lists its files.

    :param hook: source of time limits, and log for an unknown result at level info
    :param destination: the task's destination
    :return: `uri, size, sha256, content_type` per output, in order; None if files are missing or unreadable
    """
    try:
        return _find_all(hook, destination, prediction_id)
    except Exception as error:  # noqa: BLE001 - store libraries share no base class of errors
        hook.log.info(
            "Whether prediction %s is saved at %s is not known: %s",
            prediction_id,
            excerpt(destination.save_to),
            excerpt(f"{type(error).__name__}: {error}", 300),
        )
        return None


def _find_all(hook: VaceHook, destination: Destination, prediction_id: str) -> list[dict[str, Any]] | None:
    max_lock_seconds = hook.timing.max_lock_seconds
    # A single output has no number in its name, the first of several has 1.
    found = find_output(destination, prediction_id, (None, 1), max_lock_seconds)
    if found is None:
        return None
    files, outputs = [found.file], found.outputs
    if found.number is None:
        return files if outputs in (None, 1) else None
    while len(files) != outputs:
        suffix = safe_suffix(files[-1]["uri"]) or ".bin"
        found = find_output(destination, prediction_id, (len(files) + 1,), max_lock_seconds, suffix)
        if found is None:
            # Manifests of older versions have no number of outputs, so consecutive files count as all.
            return files if outputs is None else None
        outputs = outputs or found.outputs
        files.append(found.file)
    return files


def find_output(
    destination: Destination,
    prediction_id: str,
    numbers: tuple[int | None, ...],
    max_lock_seconds: float,
    likely_suffix: str = ".mp4",
) -> SavedFile | None:
    """Return the first saved output with one of these numbers, of any media type.

    :param numbers: position in the name; None for a name without
    :param likely_suffix: suffix of the name that is read first, before the directory is listed
    :raises Exception: any error of the store's library, if the answer is unknown
    """
    refusal: Exception | None = None
    for number, place in _places(destination, prediction_id, numbers, likely_suffix):
        try:
            found = saved_at(place, prediction_id, max_lock_seconds)
        except Exception as error:  # store libraries share no base class of errors
            if not is_refusal(error):
                raise
            # S3 denies access to missing files for keys without permission to list, so search on.
            refusal = error
            continue
        if found is not None:
            file, manifest = found
            return SavedFile(file, number, _count(manifest.get("outputs")))
    if refusal is not None:
        raise refusal
    return None


def _places(
    destination: Destination, prediction_id: str, numbers: tuple[int | None, ...], likely_suffix: str
) -> Iterator[tuple[int | None, Place]]:
    """Yield the places of an output; each costs a request to a store, so the likeliest come first."""
    likely = [destination.place_of(prediction_id, number, likely_suffix) for number in numbers]
    yield from zip(numbers, likely, strict=True)
    names = _names_beside(likely[0])
    suffixes = _SEARCHED if names is None else sorted({safe_suffix(name) or ".bin" for name in names})
    seen = {place.uri for place in likely}
    for suffix in suffixes:
        for number in numbers:
            places = [destination.place_of(prediction_id, number, suffix)]
            if not destination.is_directory:
                places.append(destination.place_beside(prediction_id, number, suffix))
            for place in places:
                if place.uri not in seen and (names is None or place.name in names):
                    seen.add(place.uri)
                    yield number, place


def _names_beside(place: Place) -> set[str] | None:
    """Return the names of all files with a manifest in a directory; None if the store does not list."""
    try:
        names = place.parent.names()
    except Exception:  # noqa: BLE001 - keys without permission to list get any error of the store's library
        return None
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
