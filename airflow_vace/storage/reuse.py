"""Search for the saved result of an equal order, by the manifest beside a file with a fixed name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow_vace.ids import is_id
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.prediction import Prediction, first_count
from airflow_vace.redaction import excerpt
from airflow_vace.storage.checks import problems_of
from airflow_vace.storage.errors import describe_error
from airflow_vace.storage.manifests import described, manifest_at, manifest_place
from airflow_vace.storage.sources import FileOrder, identified
from airflow_vace.storage.suffixes import safe_suffix

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from airflow_vace.hooks import VaceHook
    from airflow_vace.storage.destination import Destination
    from airflow_vace.storage.place import Place

_MEMBERS = ("id", "model", "version", "metrics", "created_at", "started_at", "completed_at")


class ReusableOrder(FileOrder, Protocol):
    """An order with a digest, see :class:`airflow_vace.submission.order.Order`."""

    @property
    def digest(self) -> str | None: ...
    @property
    def fixed_seed(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class _Pair:
    """A file with its manifest.

    `number` is the position in the file's name, None if the name has none; `size` is the file's size in
    bytes, None without a file.
    """

    place: Place
    number: int | None
    manifest: dict[str, Any]
    size: int | None


class _NotReusable(Exception):  # noqa: N818 - no error: the task submits
    """Raised for a file that is not the result of the order; the message is the reason."""


def find_reusable(
    hook: VaceHook,
    destination: Destination,
    order: ReusableOrder,
    *,
    refuses_problems: bool = False,
    further_seeds: Collection[int] = (),
) -> Prediction | None:
    """Return the saved success of an equal order, with `files` and `reused`; None if there is none.

    A file with a fixed name counts if the manifest has the order's digest and the file's size, and the
    author's seed, if any. All outputs of the prediction must be there. The check costs one small read and one
    size per output, and no request to the back-end. Each thread needs a separate hook.

    Call this after the ledger's record is read and before an intent is written: a prediction in the ledger
    is paid for, so a task goes on with that prediction rather than leave a run without a reader.

    :param hook: source of time limits and `input_roots`, and log at level info for the result or the reason
    :param destination: the task's destination; a directory has no reusable file
    :param order: a digest that is present already spares the look at source files
    :param refuses_problems: a file whose manifest has problems is no result
    :param further_seeds: seeds that count like the author's
    """
    if destination.is_directory:
        return None
    shown = excerpt(destination.save_to)
    try:
        if order.digest is None:
            order = identified(hook, order)
        found = _find(hook, destination, order, further_seeds, refuses_problems=refuses_problems)
    except _NotReusable as reason:
        hook.log.info("No saved file is reused at %s: %s", shown, reason)
        return None
    except Exception as error:  # noqa: BLE001 - store libraries share no base class of errors
        hook.log.info("No saved file is reused: %s gives no answer (%s)", shown, describe_error(error))
        return None
    return found


def _find(
    hook: VaceHook,
    destination: Destination,
    order: ReusableOrder,
    further_seeds: Collection[int],
    *,
    refuses_problems: bool,
) -> Prediction:
    """Return the prediction of the saved files.

    :raises _NotReusable: if a file is missing, or of another order
    :raises Exception: any error of the store's library, if the answer is unknown
    """
    if order.digest is None:
        raise _NotReusable("the content of a source file is unknown")
    seconds = hook.timing.max_lock_seconds
    # A single output has no number in its name, the first of several has 1.
    first = _pair(destination, (None, 1), order, seconds)
    if first is None:
        raise _NotReusable(_reason_without_manifest(destination, order))
    _check(first, order, further_seeds)
    identifier, count = first.manifest["id"], first_count(first.manifest.get("outputs")) or 0
    if (first.number is None) != (count == 1):
        raise _NotReusable(f"the manifest of {first.place.name} names {count} outputs")
    pairs = [first]
    for number in range(2, count + 1):
        pair = _pair(destination, (number,), order, seconds)
        if pair is None or pair.manifest.get("id") != identifier:
            raise _NotReusable(f"output {number} of {count} of prediction {identifier} is missing")
        _check(pair, order, further_seeds)
        pairs.append(pair)
    if refuses_problems and (problems := problems_of(pair.manifest for pair in pairs)):
        raise _NotReusable(
            f"prediction {identifier} has problems, and the checks are strict: {' '.join(problems)}"
        )
    hook.log.info(
        "Reusing %s: prediction %s, of %s, has the same input, model and version. Nothing is submitted,"
        " nothing is paid",
        first.place.uri,
        identifier,
        _origin(first.manifest),
    )
    return _prediction(pairs)


def _pair(
    destination: Destination, numbers: tuple[int | None, ...], order: ReusableOrder, max_lock_seconds: float
) -> _Pair | None:
    """Return the file of the order with one of these numbers, else any file with a manifest; None without."""
    others = []
    for number, place in _places(destination, numbers, order.model):
        # Without the lock another task could replace the pair between the two reads.
        with place.locked(max_lock_seconds):
            manifest = manifest_at(place)
            if manifest is None:
                continue
            pair = _Pair(place, number, manifest, place.size())
        if manifest.get("order_digest") == order.digest:
            return pair
        others.append(pair)
    return others[0] if others else None


def _places(
    destination: Destination, numbers: tuple[int | None, ...], model: str
) -> Iterator[tuple[int | None, Place]]:
    """Yield the places of an output, the likeliest first."""
    is_other = model.lower() != DEFAULT_MODEL
    suffix = (safe_suffix(destination.save_to) or ".bin") if is_other else ".mp4"
    likely = [destination.place_of("any", number, suffix) for number in numbers]
    yield from zip(numbers, likely, strict=True)
    # Another model may return any kind of file, and only a list of the directory shows the suffix.
    names = likely[0].parent.names() if is_other else []
    suffixes = {safe_suffix(name.removesuffix(".json")) for name in names if name.endswith(".json")}
    for suffix in sorted(found or ".bin" for found in suffixes):
        for number in numbers:
            place = destination.place_of("any", number, suffix)
            if place.name in names and place.uri not in {known.uri for known in likely}:
                yield number, place


def _check(pair: _Pair, order: ReusableOrder, further_seeds: Collection[int]) -> None:
    """Check that a file is complete and of the order.

    :raises _NotReusable: if not
    """
    name, manifest = pair.place.name, pair.manifest
    if not is_id(manifest.get("id")) or not isinstance(manifest.get("sha256"), str):
        raise _NotReusable(f"the manifest of {name} is not readable")
    whose = f"{name} is of prediction {manifest['id']}, of {_origin(manifest)}"
    if not isinstance(manifest.get("order_digest"), str):
        raise _NotReusable(
            f"{whose}, and the manifest holds no digest of its order: an earlier release or a sensor saved it"
        )
    if manifest["order_digest"] != order.digest:
        raise _NotReusable(f"{whose}, with another input, source file, model or version")
    seed = _seed_of(manifest)
    if order.fixed_seed not in (None, seed) and seed not in further_seeds:
        raise _NotReusable(f"{whose}, with seed {seed} rather than {order.fixed_seed}")
    if pair.size is None or pair.size != manifest.get("size"):
        raise _NotReusable(f"{name} has {pair.size or 0} bytes rather than the {manifest.get('size')} saved")


def _reason_without_manifest(destination: Destination, order: ReusableOrder) -> str:
    _, place = next(_places(destination, (None,), order.model))
    if place.size() is None and destination.names:
        # An inserted row changes the index, so the log must show the whole name.
        return f"{place.name} is not there yet (a mapped task's name ends with the map index)"
    if place.size() is None:
        return "nothing is there yet"
    return f"{place.name} has no manifest, or none that is readable ({manifest_place(place).name})"


def _prediction(pairs: list[_Pair]) -> Prediction:
    """Return the success with these files, as the manifests describe it."""
    manifest = pairs[0].manifest
    known = {name: manifest.get(name) for name in _MEMBERS}
    prediction = Prediction.from_json({**known, "status": "succeeded", "seed": _seed_of(manifest)})
    files = [described(pair.place, pair.manifest) for pair in pairs]
    return replace(prediction, files=files, reused=True)


def _seed_of(manifest: dict[str, Any]) -> int | None:
    # A server may echo another seed, so the seed of the task's input comes first.
    values = manifest.get("input")
    sent = values.get("seed") if isinstance(values, dict) else None
    return first_count(sent, manifest.get("seed"))


def _origin(manifest: dict[str, Any]) -> str:
    """Return DAG, run and task of a manifest as text for the log."""
    task = manifest.get("task")
    known = task if isinstance(task, dict) else {}
    return excerpt(", ".join(f"{name} {known.get(name)}" for name in ("dag_id", "run_id", "task_id")), 300)
