"""XCom `vace_view`: snapshot of a task for the Videos tab."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_vace.prediction import Prediction
    from airflow_vace.task.run import TaskRun

VIEW_KEY = "vace_view"
# A batch has a head under the key of the view, and its items in pages under these keys.
PAGE_PREFIX = f"{VIEW_KEY}_page_"
_MAX_ERROR_LENGTH = 2000


def page_key(page: int) -> str:
    """Return the key of a batch's page, by number from 0."""
    return f"{PAGE_PREFIX}{page:04d}"


def view_of(
    prediction: Prediction | None, vace_conn_id: str, values: object, error: BaseException | None
) -> dict[str, Any]:
    """Return `{prediction, vace_conn_id, input, error}` as plain JSON.

    :param prediction: the view holds the payload; None before the submission
    :param values: input of the task; the view leaves out files and signatures
    :param error: the failure of the task, whose message the view holds
    """
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # exported nowhere else

    from airflow_vace.redaction import without_secrets

    known: Mapping[str, Any] = values if isinstance(values, dict) else {}
    return {
        "prediction": None if prediction is None else prediction.payload(),
        "vace_conn_id": vace_conn_id,
        "input": without_secrets(dict(known), redact),
        "error": None if error is None else without_secrets(str(error), redact)[:_MAX_ERROR_LENGTH],
    }


def _saved_before(error: BaseException | None) -> list[dict[str, Any]]:
    """Return the outputs that were saved although others are missing; [] for any other error."""
    # The record of the prediction must not hold these files, since a retry would miss the others.
    found = getattr(error, "files", ()) or getattr(getattr(error, "__cause__", None), "files", ())
    return [dict(file) for file in found]


@contextmanager
def showing(log: Any) -> Iterator[None]:
    """Log an error of a push in place of raising: the view is optional, and Airflow may raise any error."""
    try:
        yield
    except Exception as trouble:  # noqa: BLE001 - see the docstring
        log.warning("The video tab will not show this: %s", trouble)


def push_snapshot(run: TaskRun, prediction: Prediction | None, error: BaseException | None = None) -> None:
    """Push the view to XCom after each change of status and each failure.

    :param run: the run whose task the view shows
    :param error: the failure of the task
    """
    status = prediction.status if prediction else None
    if run.ti is None or not run.task.do_xcom_push or (run.pushed_status == status and error is None):
        return
    # The Videos tab shows running and failed tasks too, which have no result in XCom.
    with showing(run.log):
        marked = run.marked(prediction) if prediction else None
        if marked is not None and (files := _saved_before(error)):
            marked = replace(marked, files=files)
        run.ti.xcom_push(VIEW_KEY, view_of(marked, run.task.vace_conn_id, run.input, error))
    run.pushed_status = status


def push_refusal(ti: Any, vace_conn_id: str, error: BaseException, log: Any) -> None:
    """Push the view of a task that has failed before the first submission.

    :param ti: Airflow's task instance; None pushes nothing
    """
    if ti is not None:
        with showing(log):
            ti.xcom_push(VIEW_KEY, view_of(None, vace_conn_id, None, error))
