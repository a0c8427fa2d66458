"""Manifests: the JSON file beside each saved file, with its prediction, input and checksum."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_vace.redaction import excerpt
from airflow_vace.storage.outputs import outputs_of
from airflow_vace.storage.posters import poster_place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.place import Place

AnyPlace = TypeVar("AnyPlace", bound="Place")

# A larger file is no manifest of ours, so readers stop there, and writers shorten their text.
_MAX_MANIFEST_BYTES = 1024 * 1024
_MAX_VALUE_LENGTH = 1000


def manifest_place(place: AnyPlace) -> AnyPlace:
    """Return the place of a file's manifest."""
    return place.renamed(lambda name: f"{name}.json")


def manifest_at(place: Place) -> dict[str, Any] | None:
    """Return the manifest beside a file; None if there is none, or no valid one.

    :raises OSError: (or any error of the store's library) if the answer is unknown
    """
    try:
        content = manifest_place(place).read(0, _MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def build_manifest(  # noqa: PLR0913, PLR0917 - the parts of a manifest
    prediction: Prediction,
    index: int,
    task: Mapping[str, Any],
    values: Mapping[str, Any],
    file: dict[str, Any],
    order_digest: str | None = None,
) -> bytes:
    """Return the manifest of one saved output as JSON text.

    :param index: position among the prediction's outputs, from 0
    :param task: `dag_id, run_id, task_id, map_index, label` of the task, as far as known
    :param values: the prediction's input without files and secrets
    :param file: `uri, size, sha256, content_type`, and `facts` and `poster` of a video
    :param order_digest: digest of the prediction's order, None if unknown
    """
    map_index = task.get("map_index")
    manifest = {
        "format": 1,
        "id": prediction.id,
        "model": prediction.model,
        "version": prediction.version,
        "input": values,
        "seed": prediction.input.get("seed", values.get("seed")),
        "label": task.get("label"),
        "map_index": map_index if isinstance(map_index, int) and map_index >= 0 else None,
        "output": index + 1,
        "outputs": len(outputs_of(prediction)),
        "metrics": prediction.metrics,
        "cost": prediction.cost,
        "created_at": prediction.created_at,
        "started_at": prediction.started_at,
        "completed_at": prediction.completed_at,
        "saved_at": datetime.now(UTC).isoformat(),
        "task": task,
        **({} if order_digest is None else {"order_digest": order_digest}),
        **file,
    }
    return _encoded_within_limit(manifest)


def describe_file(place: Place, size: int, digest: str, content_type: str) -> dict[str, Any]:
    """Return the entry for a saved file in a payload's `files`."""
    return {"uri": place.uri, "size": size, "sha256": digest, "content_type": content_type}


def described(place: Place, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a saved file by its manifest, with `facts` and `poster` if the file has them."""
    file = describe_file(place, manifest["size"], manifest["sha256"], str(manifest.get("content_type")))
    if isinstance(manifest.get("facts"), dict):
        file["facts"] = manifest["facts"]
    # The files may have been copied from another directory, together.
    return file | ({"poster": poster_place(place).uri} if manifest.get("poster") else {})


def saved_at(
    place: Place, prediction_id: str, max_lock_seconds: float
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return a prediction's complete file at a place, with the manifest; None if absent or incomplete.

    :return: `uri, size, sha256, content_type` and more, and the whole manifest
    :raises OSError: (or any error of the store's library) if the answer is unknown
    """
    # Without the lock another task could replace the pair between the two reads.
    with place.locked(max_lock_seconds):
        manifest = manifest_at(place) or {}
        size, digest = manifest.get("size"), manifest.get("sha256")
        if manifest.get("id") != prediction_id or not size or not isinstance(digest, str):
            return None
        if place.size() != size:
            return None
    return described(place, manifest), manifest


def _encoded_within_limit(manifest: Mapping[str, Any]) -> bytes:
    """Encode a manifest; shorten input and metrics if readers would refuse its size."""
    content = _encoded(manifest)
    if len(content) > _MAX_MANIFEST_BYTES:
        values = {name: _shortened(value) for name, value in manifest["input"].items()}
        metrics = {name: _shortened(value) for name, value in manifest["metrics"].items()}
        content = _encoded({**manifest, "input": values, "metrics": metrics})
    if len(content) > _MAX_MANIFEST_BYTES:
        content = _encoded({**manifest, "input": {}, "metrics": {}})
    return content


def _encoded(manifest: Mapping[str, Any]) -> bytes:
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
    # UTF-8 can't encode half a surrogate pair, but JSON can escape it.
    return text.encode(errors="backslashreplace")


def _shortened(value: object) -> str:
    return excerpt(value if isinstance(value, str) else json.dumps(value, default=str), _MAX_VALUE_LENGTH)
