"""Result of a task: output, saved files, asset events and payload of a success."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_vace.core.outcome import read_end
from airflow_vace.core.retry import Backoff
from airflow_vace.exceptions import VaceError, VaceInputError
from airflow_vace.observability.spans import traced
from airflow_vace.prediction import PredictionStatus, first_count
from airflow_vace.task.airflow_internals import is_asset_reference
from airflow_vace.task.checking import refuse_problems
from airflow_vace.task.partitions import add_partition
from airflow_vace.task.saving import destination_of, find_files

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.destination import Destination
    from airflow_vace.task.run import TaskRun


def result_of(run: TaskRun, prediction: Prediction) -> dict[str, Any]:
    """Save and announce the files of a success; return the payload.

    :raises VaceError: if the prediction has another end, its file could not be saved, or the saved video has
        problems with `checks="fail"`
    """
    run.count_end(prediction)
    prediction = run.marked(prediction)
    destination = destination_of(run)
    if prediction.files and _has_saved(run, prediction, destination):
        return _announced(run, prediction)
    prediction = run.prediction = _with_output(
        run, replace(prediction, files=[]), is_to_save=destination is not None
    )
    now = run.now()
    # The vendor deletes files after an hour, but an earlier attempt may have saved them by then.
    if prediction.has_expired_at(now) and (files := find_files(run, prediction.id)):
        run.log.info("Prediction %s is saved already: its files are at save_to", prediction.id)
        return _announced(run, replace(prediction, files=files))
    read_end(prediction, now)
    if destination is not None:
        prediction = _saved(run, prediction, destination)
    elif not prediction.fits_payload:
        raise _too_large(prediction)
    run.log.info("Prediction %s succeeded after %s", prediction.id, _duration(prediction))
    return _announced(run, prediction)


# --- output and files ------------------------------------------------------------------------------


def _has_saved(run: TaskRun, prediction: Prediction, destination: Destination | None) -> bool:
    """Return True if the files of a prediction are in place, or cannot be fetched again."""
    if run.is_saved or destination is None or destination.holds(prediction, run.hook.timing):
        return True
    # A file that can be fetched again is saved again, at the place that the task names now.
    if not prediction.has_expired_at(run.now()):
        return False
    run.log.warning(
        "What was saved is not at save_to, and its server has deleted it since: %s", prediction.files
    )
    return True


def _with_output(run: TaskRun, prediction: Prediction, *, is_to_save: bool) -> Prediction:
    """Return a success with the output, after further polls if the output is late.

    A payload holds neither `data:` URLs nor signatures, so a save polls for the whole address.

    :raises VaceError: if the back-end did not give the address for a save
    """
    backoff = Backoff(timing=run.hook.timing)
    last_error: VaceError | None = None
    for attempt in range(run.hook.timing.max_output_polls):
        has_output = prediction.has_output and not (is_to_save and prediction.is_shortened)
        if prediction.status is not PredictionStatus.SUCCEEDED or has_output or prediction.data_removed:
            return prediction
        # The first poll needs no pause: the payload has lost the output's signature, and the server has it.
        if attempt:
            time.sleep(backoff.next_delay())
        try:
            prediction = prediction.updated(run.hook.get_prediction(prediction))
        except VaceError as error:
            last_error = error
            run.log.warning("The output of prediction %s could not be read: %s", prediction.id, error)
    if is_to_save and prediction.is_shortened and last_error is not None:
        raise last_error
    return prediction


def _saved(run: TaskRun, prediction: Prediction, destination: Destination) -> Prediction:
    """Return a prediction with files, after the output is saved."""
    from airflow_vace.storage.save import save_output

    prediction = _with_input(run, prediction)
    with traced("save", run.metrics.labels) as describe:
        describe(prediction)
        files = save_output(run.hook, prediction, destination)
    run.metrics.saved(files, prediction)
    return replace(prediction, files=files)


def _with_input(run: TaskRun, prediction: Prediction) -> Prediction:
    """Return a prediction with the input if a manifest or an event needs the input."""
    # Payloads have no input, so a sensor polls for the input once more.
    if prediction.input or run.input or not (run.task.save_to or run.task.outlets):
        return prediction
    # The input only describes the video, so a failed poll must not cost the result.
    with suppress(VaceError):
        return replace(prediction, input=run.hook.get_prediction(prediction).input)
    return prediction


# --- events ----------------------------------------------------------------------------------------


def _announced(run: TaskRun, prediction: Prediction) -> dict[str, Any]:
    """Report a video to lineage and to the task's assets, and return the payload.

    :raises VideoRejected: for a video with problems if `checks="fail"`
    """
    from airflow.sdk import Asset, AssetAlias

    from airflow_vace.storage.lineage import report_output

    run.prediction = prediction
    refuse_problems(run, prediction)
    prediction = _with_input(run, prediction)
    for file in prediction.files:
        report_output(run.hook, file["uri"])
    events: Any = run.context.get("outlet_events")
    extra = _event_extra(prediction)
    for outlet in run.task.outlets if events is not None else ():
        if isinstance(outlet, AssetAlias):
            # An alias has no address, so each file becomes an asset.
            for file in prediction.files:
                events[outlet].add(Asset(uri=file["uri"], name=file["uri"]), extra=extra)
        elif isinstance(outlet, Asset):
            _fill(run, events[outlet], extra)
        elif is_asset_reference(outlet):
            _announce_reference(run, events, outlet, extra)
    return prediction.payload()


def _fill(run: TaskRun, event: Any, extra: dict[str, Any]) -> None:
    event.extra.update(extra)
    add_partition(event, run.task.partition_key, run.log)


def _announce_reference(run: TaskRun, events: Any, outlet: Any, extra: dict[str, Any]) -> None:
    """Add the extra to the event of `Asset.ref(...)`, which Airflow looks up by name or URI."""
    try:
        _fill(run, events[outlet], extra)
    except Exception as error:  # noqa: BLE001 - Airflow may raise any error; the paid video matters more
        run.log.warning("The event of %r has no details of the video: %s", outlet, error)


def _event_extra(prediction: Prediction) -> dict[str, Any]:
    first = prediction.files[0] if prediction.files else {}
    return {
        "prediction_id": prediction.id,
        "uri": first.get("uri"),
        "sha256": first.get("sha256"),
        "seed": first_count(prediction.seed, prediction.input.get("seed")),
        "map_index": prediction.map_index,
        "label": prediction.label,
        "metrics": prediction.metrics,
        "cost": prediction.cost,
        "files": prediction.files,
    }


# --- words -----------------------------------------------------------------------------------------


def _too_large(prediction: Prediction) -> VaceInputError:
    count = len(prediction.output_urls)
    form = "a data: URL" if count == 1 else f"a list of {count} URLs" if count else "text, or an object"
    return VaceInputError(
        f"Prediction {prediction.id} succeeded, and its output is {form}, which is too large or too nested"
        f" for XCom. {prediction.bill} Set save_to, and fetch it with a VacePredictionSensor on this id"
        " within the hour.",
        field="save_to",
        remedy="set save_to to a directory",
    )


def _duration(prediction: Prediction) -> str:
    seconds = prediction.metrics.get("total_time") or prediction.metrics.get("predict_time")
    return f"{seconds:.0f} s" if isinstance(seconds, int | float) else "an unknown time"
