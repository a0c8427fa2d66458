"""Checks of parameters when Airflow reads a DAG, before any task runs."""

from __future__ import annotations

from inspect import iscoroutinefunction
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, get_args

from airflow_vace.exceptions import VaceInputError
from airflow_vace.input_files import path_text
from airflow_vace.plain import is_absent
from airflow_vace.redaction import excerpt
from airflow_vace.storage.checks import STRICT_MODES, CheckMode
from airflow_vace.submission.decision import OnOrphanedIntent
from airflow_vace.task.budget import check_max_cost
from airflow_vace.task.run import SaveIn

if TYPE_CHECKING:
    from airflow_vace.storage.destination import Destination
    from airflow_vace.task.operator_run import SubmittingTask
    from airflow_vace.task.run import Reuse

_MAX_SECONDS = 365 * 86400
# A record holds all rejected clips, and a model that fails more often needs a person.
MAX_REGENERATIONS = 10


class BatchTask(Protocol):
    """The checked parameters of a batch."""

    @property
    def save_to(self) -> Any: ...
    @property
    def save_in(self) -> SaveIn: ...
    @property
    def checks(self) -> object: ...
    @property
    def check(self) -> object: ...
    @property
    def max_regenerations(self) -> object: ...
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
    @property
    def max_cost(self) -> object: ...


# None of them is a template field.
_FLAGS = ("wait_for_completion", "deferrable", "durable", "cancel_on_kill", "cancel_on_timeout")


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


def check_checks(checks: object, check: object, save_to: object, save_in: object) -> None:
    """Check the parameters of checks.

    :raises ValueError: for a mode or a check that cannot work
    """
    if checks is not None and checks not in get_args(CheckMode):
        raise ValueError(f"checks is {checks!r}; it must be {' or '.join(map(repr, get_args(CheckMode)))}")
    if check is None:
        is_asked = checks in ("warn", *STRICT_MODES)
    elif not callable(check) or iscoroutinefunction(check):
        raise ValueError(f"check is {check!r}; it must be a plain function of facts and path")
    elif checks == "off":
        raise ValueError("check= has no effect with checks='off': leave checks out")
    elif save_in == "triggerer":
        raise ValueError("check= runs on a worker: a triggerer has no functions of a DAG; leave save_in out")
    else:
        is_asked = True
    if is_asked and is_absent(save_to):
        raise ValueError(
            "checks need save_to: videos are checked when they are saved; give save_to, or leave checks out"
        )


def check_regenerations(checks: object, max_regenerations: object) -> None:
    """Check the number of regenerations.

    :raises VaceInputError: for a number that cannot work, and for a number without `checks="regenerate"`
    """
    if max_regenerations is None:
        return
    is_count = isinstance(max_regenerations, int) and not isinstance(max_regenerations, bool)
    if checks != "regenerate":
        problem, remedy = "has no effect", "set checks='regenerate' too, or remove max_regenerations"
    elif not is_count or not 1 <= max_regenerations <= MAX_REGENERATIONS:  # type: ignore[operator]
        problem, remedy = "is no number of regenerations", f"give an int from 1 to {MAX_REGENERATIONS}"
    else:
        return
    raise VaceInputError(
        f"max_regenerations is {max_regenerations!r}, which {problem}; {remedy}.",
        field="max_regenerations",
        value=max_regenerations,
        remedy=remedy,
    )


def refuse_regenerate(checks: object) -> None:
    """Check that a sensor does not regenerate.

    :raises VaceInputError: for `checks="regenerate"`
    """
    if checks != "regenerate":
        return
    remedy = (
        "set it on the VacePredictionOperator, with wait_for_completion=True and save_to, or use"
        " checks='fail' here"
    )
    raise VaceInputError(
        f"checks is 'regenerate', and a sensor has no input to submit again; {remedy}.",
        field="checks",
        value=checks,
        remedy=remedy,
    )


def check_operator(task: SubmittingTask) -> None:
    """Check the parameters of an operator.

    :raises ValueError: for a parameter, or a combination, that cannot work
    """
    is_deferrable = task.wait_for_completion and task.deferrable
    check_saving(task.save_to, task.save_in, task.end_from_trigger, is_deferrable=is_deferrable)
    check_checks(task.checks, task.check, task.save_to, task.save_in)
    check_regenerations(task.checks, task.max_regenerations)
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
        raise ValueError(
            "save_to is missing: give a directory such as '/data/clips/' or 's3://bucket/clips/', since the"
            " server deletes the videos of a batch after an hour"
        )
    check_checks(task.checks, task.check, task.save_to, task.save_in)
    check_regenerations(task.checks, task.max_regenerations)
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
    for name in _FLAGS:
        # Any text is true for Python, also "False" and a template, which nothing renders here.
        if isinstance(value := getattr(task, name, None), str):
            raise ValueError(f"{name} is {value!r}; it must be True or False, and no template")  # noqa: TRY004 - see above
    if task.reuse not in (True, False, "saved"):
        raise ValueError(f"reuse is {task.reuse!r}; it must be True, False or 'saved'")
    check_max_cost(task.max_cost)
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


def check_regenerate(task: SubmittingTask, destination: Destination | None) -> None:
    """Check that `checks="regenerate"` has a place for the videos, after rendering.

    :raises VaceInputError: without `save_to`
    """
    if task.checks == "regenerate" and destination is None:
        remedy = "give a directory or a file's name, such as 's3://bucket/clips/'"
        raise VaceInputError(
            "checks is 'regenerate', and save_to has rendered to nothing: videos are checked when they are"
            f" saved. Nothing was sent, nothing is billed; {remedy}.",
            field="save_to",
            value=task.save_to,
            remedy=remedy,
        )


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
