"""Manifests: the JSON beside each saved file that says what it is and where it came from."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import excerpt
from airflow_vace.storage.media_types import SUFFIXES
from airflow_vace.storage.paths import is_refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.storage.destination import Destination
    from airflow_vace.storage.paths import Place

_LARGEST_MANIFEST = 1024 * 1024
_LONGEST_VALUE = 1000


def manifest_of(place: Place) -> Place:
    """Return the place of a file's manifest."""
    return place.renamed(lambda name: f"{name}.json")


def manifest_at(place: Place) -> dict[str, Any] | None:
    """Return what the manifest of a file says; None if there is none, or none that can be read as one.

    :raises OSError: (or whatever the store raises) if it does not say
    """
    try:
        content = manifest_of(place).read(0, _LARGEST_MANIFEST)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def written(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest's text, no larger than what is read again."""
    content = _text(manifest)
    if len(content) > _LARGEST_MANIFEST:
        values = {name: _shortened(value) for name, value in manifest["input"].items()}
        metrics = {name: _shortened(value) for name, value in manifest["metrics"].items()}
        content = _text({**manifest, "input": values, "metrics": metrics})
    if len(content) > _LARGEST_MANIFEST:
        content = _text({**manifest, "input": {}, "metrics": {}})
    return content


def described(place: Place, size: int, digest: str, content_type: str) -> dict[str, Any]:
    """Return what a payload says of a saved file."""
    return {"uri": place.uri, "size": size, "sha256": digest, "content_type": content_type}


def find_saved(destination: Destination, prediction_id: str, log: Any) -> list[dict[str, Any]] | None:
    """Return the files of a prediction that are whole at their places, as :func:`save_output` returns them.

    A file counts if its manifest names the prediction and the file's size. The back-end is not asked, so this
    works when it has deleted the files, or does not know the prediction any more. In a store the search takes
    two requests for a saved MP4, and about a dozen where nothing is saved.

    :param destination: where the task saves to
    :param log: gets a line at level info if the store does not say what is there
    :return: `uri, size, sha256, content_type` each, in the order of the outputs; None if no file is there, or
        only some are, or the store does not say
    """
    try:
        return _found(destination, prediction_id)
    except Exception as error:  # noqa: BLE001 - stores are strangers, and may throw anything
        log.info(
            "Whether prediction %s is saved at %s is not known: %s",
            prediction_id,
            excerpt(destination.save_to),
            excerpt(f"{type(error).__name__}: {error}", 300),
        )
        return None


def _found(destination: Destination, prediction_id: str) -> list[dict[str, Any]] | None:
    first = _first_of(destination, prediction_id, (None, 1))
    if first is None:
        return None
    file, number, outputs = first
    if number is None:
        return [file] if outputs in (None, 1) else None
    files = [file]
    while len(files) != outputs:
        likely = PurePosixPath(files[-1]["uri"]).suffix
        another = _first_of(destination, prediction_id, (len(files) + 1,), likely)
        if another is None:
            # Manifests of older versions name no number of outputs; then all that are there in a row count.
            return files if outputs is None else None
        outputs = outputs or another[2]
        files.append(another[0])
    return files


def _first_of(
    destination: Destination, prediction_id: str, numbers: tuple[int | None, ...], likely: str | None = None
) -> tuple[dict[str, Any], int | None, int | None] | None:
    """Return the first output that is saved, its number, and how many there are; None if none is there.

    The likeliest suffix comes first, since each place costs a request to a store.
    """
    refusal: Exception | None = None
    suffixes = sorted(SUFFIXES.values(), key=lambda suffix: suffix != likely)
    for suffix in suffixes if destination.is_directory else suffixes[:1]:
        for number in numbers:
            try:
                found = saved_at(destination.place_of(prediction_id, number, suffix), prediction_id)
            except Exception as error:  # stores are strangers, and may throw anything
                if not is_refusal(error):
                    raise
                refusal = error  # S3 answers so for a missing file to a task that may not list
                continue
            if found is not None:
                file, known = found
                outputs = known.get("outputs")
                is_known = isinstance(outputs, int) and not isinstance(outputs, bool) and outputs > 0
                return file, number, outputs if is_known else None
    if refusal is not None:
        raise refusal
    return None


def saved_at(place: Place, prediction_id: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return a prediction's file as a payload describes it, and its manifest; None if it is not there whole.

    :raises OSError: (or whatever the store raises) if it does not say
    """
    with place.locked():
        known = manifest_at(place) or {}
        size, digest = known.get("size"), known.get("sha256")
        if known.get("id") != prediction_id or not size or not isinstance(digest, str):
            return None
        if place.size() != size:
            return None
    return described(place, size, digest, str(known.get("content_type"))), known


def _text(manifest: Mapping[str, Any]) -> bytes:
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
    return text.encode(errors="backslashreplace")  # half a surrogate pair is an escape in JSON, too


def _shortened(value: object) -> str:
    return excerpt(value if isinstance(value, str) else json.dumps(value, default=str), _LONGEST_VALUE)
