"""Destination of a task's video."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_vace.exceptions import VaceTransportError
from airflow_vace.task.checking import extra_missing, mode_of
from airflow_vace.task.state import is_test_of_a_task

if TYPE_CHECKING:
    from airflow_vace.storage.destination import Destination
    from airflow_vace.task.run import TaskRun


def destination_of(run: TaskRun) -> Destination | None:
    """Return the destination of a task's files; None without `save_to`.

    :raises VaceInputError: if `save_to` names neither a directory nor a file
    """
    from airflow_vace.storage.destination import Destination

    found = Destination.of(run.task.save_to, run.ti, run.input if run.task.save_to else {})
    if found is None:
        return None
    # The name of a file in a directory contains a new id, so no later run looks for the file.
    if not found.is_directory:
        found = replace(found, order_digest=run.order_digest)
    found = replace(found, checks=mode_of(run.task), rule=run.task.check, model=run.model)
    if run.label is not None:
        found = replace(found, task={**found.task, "label": run.label})
    if run.claim.owns_prediction and not found.is_directory and is_test_of_a_task():
        # A test submits a prediction of its own in a real DAG run, whose file must not be replaced.
        found = replace(found, names=(*found.names, "-test"))
    return found


def check_destination(run: TaskRun) -> None:
    """Check for write access to `save_to`; log a warning if unknown.

    :raises VaceInputError: if files cannot be written there
    :raises VideoExtraMissing: if a video that is not paid for yet could not be checked here
    :raises VaceTransportError: if the store could not be opened now, and nothing is paid for yet
    """
    from airflow_vace.storage.destination import Destination

    destination = Destination.of(run.task.save_to, run.ti)
    if destination is None:
        return
    try:
        doubt = destination.check()
    except VaceTransportError as error:
        # The prediction of a sensor is paid for already, so the wait goes on until the store is back.
        if run.claim.owns_prediction:
            raise
        doubt = str(error)
    if doubt:
        run.log.warning("%s", doubt)
    # The prediction of a sensor is paid for already, so the video is saved in any case.
    if (missing := extra_missing(run.task)) is not None:
        if run.claim.owns_prediction:
            raise missing
        run.log.warning("The video will be saved without a check: %s", missing)


def find_files(run: TaskRun, prediction_id: str) -> list[dict[str, Any]] | None:
    """Return a prediction's files at `save_to`, by the manifests; None without files."""
    destination = destination_of(run)
    if destination is None:
        return None
    from airflow_vace.storage.find import find_saved

    return find_saved(run.hook, destination, prediction_id)
