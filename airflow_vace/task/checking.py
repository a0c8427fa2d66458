"""Checks of saved videos: mode of a task, conditions at its start, and failure for problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from airflow_vace.exceptions import VideoRejected
from airflow_vace.storage.checks import STRICT_MODES, missing_packages, problems_of
from airflow_vace.submission.rejected import Rejected, paid_text, read_rejected, rejection
from airflow_vace.video.errors import VideoExtraMissing

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.checks import CheckMode, Rule
    from airflow_vace.task.operator_run import OperatorRun
    from airflow_vace.task.run import TaskRun

DEFAULT_REGENERATIONS = 1
_INSTALL = "install the extra with `pip install 'airflow-provider-vace[video]'` where the tasks run"


class CheckingTask(Protocol):
    """The parameters of checks."""

    @property
    def checks(self) -> CheckMode | None: ...
    @property
    def check(self) -> Rule | None: ...


class RegeneratingTask(CheckingTask, Protocol):
    """The parameters of checks of a task that submits."""

    @property
    def max_regenerations(self) -> int | None: ...


def mode_of(task: CheckingTask) -> CheckMode:
    """Return the mode of checks; without the author's word `warn` with the extra `video`, else `off`."""
    return task.checks or ("off" if missing_packages() else "warn")


def regenerations_of(task: RegeneratingTask) -> int:
    """Return the number of predictions that may take the place of rejected ones."""
    if task.checks != "regenerate":
        return 0
    return DEFAULT_REGENERATIONS if task.max_regenerations is None else task.max_regenerations


def extra_missing(task: CheckingTask) -> VideoExtraMissing | None:
    """Return the error for an author's checks without the extra `video`; None if the checks can run here."""
    is_asked = task.checks in ("warn", *STRICT_MODES) or task.check is not None
    if not is_asked or not (missing := missing_packages()):
        return None
    asked = "check=" if task.checks is None else f"checks={task.checks!r}"
    return VideoExtraMissing(
        f"{asked} needs the extra `video`, and Python has no package {', '.join(missing)} here: {_INSTALL},"
        " or set checks='off'. Nothing was submitted, nothing is billed."
    )


def refuse_problems(run: TaskRun, prediction: Prediction) -> None:
    """Raise an error for saved videos with problems if `checks` is `fail` or `regenerate`.

    :param prediction: a success
    :raises VideoRejected: for a problem
    :raises VideoExtraMissing: if a video was saved without a check because this worker has no extra
    """
    if run.task.checks not in STRICT_MODES:
        return
    uris = ", ".join(str(file.get("uri")) for file in prediction.files[:3])
    saved = f"Prediction {prediction.id} is saved as {uris}"
    if problems := problems_of(prediction.files):
        if run.task.checks == "regenerate":
            raise _exhausted(prediction)
        raise VideoRejected(
            f"{saved}, and its video has problems: {' '.join(problems)} {prediction.bill} A retry or a clear"
            " gives the same video, at no cost. Look at the video: checks='warn' accepts it, and a clear with"
            " reuse=False pays for another one.",
            prediction=prediction,
            problems=problems,
        )
    if any(_is_unchecked(file) for file in prediction.files) and (missing := missing_packages()):
        raise VideoExtraMissing(
            f"{saved}, and its video was not checked, since Python has no package {', '.join(missing)} here:"
            f" {_INSTALL}. {prediction.bill} A clear returns the saved video."
        )


def _exhausted(prediction: Prediction) -> VideoRejected:
    clips = (*read_rejected(prediction.rejected), Rejected.of(prediction, prediction.seed, prediction.cost))
    return rejection(
        prediction,
        clips,
        paid_text(prediction.cost),
        "A retry or a clear pays for no other clip. Look at the clips: checks='warn' and a clear accept the"
        " last one; a greater max_regenerations and a clear go on; another input, or reuse=False and a clear,"
        " begin again.",
    )


def result_or_rejected(run: OperatorRun, prediction: Prediction) -> dict[str, Any] | None:
    """Return the payload of a success, with saved files, and record the end.

    :return: None for a rejected video, whose place another prediction takes: submit again
    :raises VideoRejected: for a rejected video without such a prediction
    :raises LedgerError: if the rejection could not be recorded; nothing was submitted since
    :raises VaceError: see :func:`airflow_vace.task.result.result_of`
    """
    from airflow_vace.task.result import result_of

    try:
        result = result_of(run, prediction)
    except VideoRejected as error:
        if len(error.prediction.rejected) >= regenerations_of(run.task) or error.prediction.reused:
            raise
        run.claim.settle_rejected(error.prediction)
        return None
    run.claim.settle(run.prediction)
    return result


def _is_unchecked(file: dict[str, Any]) -> bool:
    return str(file.get("content_type")).startswith("video/") and "facts" not in file
