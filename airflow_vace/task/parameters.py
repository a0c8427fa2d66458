"""Checks of parameters when Airflow reads a DAG, before any task runs."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, get_args

from airflow_vace.exceptions import VaceInputError
from airflow_vace.input_files import path_text
from airflow_vace.plain import is_absent
from airflow_vace.redaction import excerpt
from airflow_vace.submission.decision import OnOrphanedIntent
from airflow_vace.task.run import SaveIn

if TYPE_CHECKING:
    from airflow_vace.storage.destination import Destination
    from airflow_vace.task.operator_run import SubmittingTask
    from airflow_vace.task.run import Reuse

_MAX_SECONDS = 365 * 86400


class BatchTask(Protocol):
    """The checked parameters of a batch."""

    @property
    def save_to(self) -> Any: ...
    @property
    def save_in(self) -> SaveIn: ...
    @property
    def deferrable(self) -> bool: ...
    @property
    def max_in_flight(self) -> object: ...
    @property
    def min_success(self) -> object: ...
    @property
    def on_bad_input(self) -> str: ...
    @property
    def timeout(self) -> float: ...
    @property
    def poll_interval(self) -> float | None: ...
    @property
    def reuse(self) -> Reuse: ...
    @property
    def on_orphaned_intent(self) -> OnOrphanedIntent: ...


def check_saving(save_to: object, save_in: object, end_from_trigger: object, *, is_deferrable: bool) -> None:
    """Check the parameters of saving, and of the end of the task.

    :param is_deferrable: the task waits in the triggerer
    :raises ValueError: for a combination that would lose the video
    """
    if save_in not in get_args(SaveIn):
        raise ValueError(f"save_in is {save_in!r}; it must be 'worker' or 'triggerer'")
    is_saved = not is_absent(save_to)
    if save_in == "triggerer" and (not is_saved or not is_deferrable):
        raise ValueError(
            "save_in='triggerer' needs save_to, and a task that waits in the triggerer: deferrable=True"
        )
    # A typo such as "true" would silently mean True.
    if end_from_trigger not in (None, True, False):
        raise ValueError(f"end_from_trigger is {end_from_trigger!r}; it must be True, False or None")
    if end_from_trigger and is_saved and save_in != "triggerer":
        raise ValueError(
            "end_from_trigger=True leaves no worker to save the video: add save_in='triggerer', or leave it"
            " out, which ends there whenever nothing is lost"
        )


def check_operator(task: SubmittingTask) -> None:
    """Check the parameters of an operator.

    :raises ValueError: for a parameter, or a combination, that cannot work
    """
    is_deferrable = task.wait_for_completion and task.deferrable
    check_saving(task.save_to, task.save_in, task.end_from_trigger, is_deferrable=is_deferrable)
    if not is_absent(task.save_to) and not task.wait_for_completion:
        raise VaceInputError(
            "save_to needs wait_for_completion=True: without it there is no video yet when this task"
            " ends. Give save_to to the VacePredictionSensor instead.",
            field="save_to",
            value=task.save_to,
            remedy="wait_for_completion=True, or save_to on the sensor",
        )
    if task.reuse == "saved" and (is_absent(task.save_to) or _is_directory(task.save_to)):
        raise _reuse_error(task)
    _check_waiting(task)


def check_batch(task: BatchTask) -> None:
    """Check the parameters of a batch.

    :raises ValueError: for a parameter, or a combination, that cannot work
    """
    check_saving(task.save_to, task.save_in, False, is_deferrable=task.deferrable)
    if is_absent(task.save_to):
        raise ValueError("save_to is missing: a batch needs a directory, since its videos live for an hour")
    in_flight = task.max_in_flight
    if not isinstance(in_flight, int) or isinstance(in_flight, bool) or in_flight < 1:
        raise ValueError(f"max_in_flight is {in_flight!r}; give a positive number of predictions")
    success = task.min_success
    is_share = isinstance(success, float) and 0 <= success <= 1
    is_count = isinstance(success, int) and not isinstance(success, bool) and success >= 0
    if not (is_share or is_count):
        raise ValueError(
            f"min_success is {success!r}; give a number of items as int, such as 950, or a share as float,"
            " such as 0.95"
        )
    if task.on_bad_input not in ("fail", "skip"):
        raise ValueError(f"on_bad_input is {task.on_bad_input!r}; it must be 'fail' or 'skip'")
    _check_waiting(task)


def _check_waiting(task: BatchTask | SubmittingTask) -> None:
    if task.reuse not in (True, False, "saved"):
        raise ValueError(f"reuse is {task.reuse!r}; it must be True, False or 'saved'")
    _check_seconds("timeout", task.timeout)
    if task.poll_interval is not None:
        _check_seconds("poll_interval", task.poll_interval)
    orphaned = task.on_orphaned_intent
    if orphaned not in get_args(OnOrphanedIntent):
        raise ValueError(f"on_orphaned_intent is {orphaned!r}; it must be 'fail' or 'resubmit'")


def check_reuse(task: SubmittingTask, destination: Destination | None) -> None:
    """Check that `reuse="saved"` has a file's name to find, after rendering.

    :raises VaceInputError: for a directory, and without `save_to`
    """
    if task.reuse == "saved" and (destination is None or destination.is_directory):
        raise _reuse_error(task)


def _is_directory(save_to: object) -> bool:
    """Return True for a directory by its name; a template may still render to one."""
    text = path_text(save_to)
    if text is None:
        return False
    # Path objects drop a slash at the end.
    return text.endswith("/") or not (isinstance(save_to, str) or PurePosixPath(text).suffix)


def _reuse_error(task: SubmittingTask) -> VaceInputError:
    remedy = "name a file in save_to, such as 's3://bucket/clips/{{ params.sku }}.mp4', or set reuse=True"
    return VaceInputError(
        f"reuse='saved' finds a video by the name of its file, and save_to is {excerpt(repr(task.save_to))}:"
        " names in a directory contain the id of a new prediction. Nothing was sent, nothing is billed;"
        f" {remedy}.",
        field="reuse",
        value=task.save_to,
        remedy=remedy,
    )


def _check_seconds(name: str, value: object) -> None:
    """Check a duration.

    :raises ValueError: unless the value is a positive number of at most a year
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _MAX_SECONDS:  # type: ignore[operator]
        raise ValueError(
            f"{name} is {value!r}; give a positive number of seconds or a timedelta, a year at most, and no"
            " template"
        )
