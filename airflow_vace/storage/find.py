"""Search for outputs that are saved already, by their manifests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow_vace.redaction import excerpt
from airflow_vace.storage.errors import is_refusal
from airflow_vace.storage.manifests import saved_at
from airflow_vace.storage.media_types import SUFFIXES

if TYPE_CHECKING:
    from airflow_vace.hooks import VaceHook
    from airflow_vace.storage.destination import Destination


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
    requests to the store for a saved MP4, and about a dozen if nothing is saved.

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
    found = _find_one(destination, prediction_id, (None, 1), max_lock_seconds)
    if found is None:
        return None
    files, outputs = [found.file], found.outputs
    if found.number is None:
        return files if outputs in (None, 1) else None
    while len(files) != outputs:
        suffix = PurePosixPath(files[-1]["uri"]).suffix
        found = _find_one(destination, prediction_id, (len(files) + 1,), max_lock_seconds, suffix)
        if found is None:
            # Manifests of older versions have no number of outputs, so consecutive files count as all.
            return files if outputs is None else None
        outputs = outputs or found.outputs
        files.append(found.file)
    return files


def _find_one(
    destination: Destination,
    prediction_id: str,
    numbers: tuple[int | None, ...],
    max_lock_seconds: float,
    likely_suffix: str | None = None,
) -> SavedFile | None:
    """Return the first saved output with one of these numbers, of any media type."""
    refusal: Exception | None = None
    # Each place costs a request to a store, so the likeliest suffix comes first.
    suffixes = sorted(SUFFIXES.values(), key=lambda suffix: suffix != likely_suffix)
    for suffix in suffixes if destination.is_directory else suffixes[:1]:
        for number in numbers:
            place = destination.place_of(prediction_id, number, suffix)
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


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
