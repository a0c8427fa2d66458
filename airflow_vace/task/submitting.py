"""Submit a prediction once, or find the prediction of an earlier attempt."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_vace.exceptions import LedgerError
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.prediction import Prediction
from airflow_vace.submission.decision import Attempt, Policy
from airflow_vace.submission.record import Phase
from airflow_vace.task.airflow_internals import TRIGGER_TIMEOUT
from airflow_vace.task.ending import retrying_for_free
from airflow_vace.task.errors import can_poll_later, can_submit_later, translated
from airflow_vace.task.kill import handle_kill
from airflow_vace.task.orders import Orders, note_input, note_reused
from airflow_vace.task.parameters import check_reuse
from airflow_vace.task.saving import check_destination, destination_of, find_files
from airflow_vace.task.state import is_test_of_a_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.submission.order import Order
    from airflow_vace.submission.submitter import Submission
    from airflow_vace.task.operator_run import OperatorRun


def submit(run: OperatorRun) -> tuple[Prediction, float]:
    """Return the task's prediction and deadline.

    :raises VaceError: if a retry may submit, and cannot pay twice
    :raises AirflowFailException: after all other errors
    """
    with translated(can_submit_later):
        # A wrong `save_to` must fail before the create, which costs money.
        check_reuse(run.task, destination_of(run))
        orders = orders_of(run)
        submission = run.claim.submission = _submission(run, orders)
        try:
            prediction, deadline = submission.prediction_of(orders.since)
        except AirflowTaskTimeout:
            if submission.prediction is None:
                raise
            run.prediction = submission.prediction
            with retrying_for_free(run, submission.prediction):
                raise
        finally:
            if orders.latest is not None:
                with suppress(LedgerError):
                    note_input(run, orders.latest, run.claim.ledger.latest)
    run.prediction = prediction
    if prediction.reused and submission.order is not None:
        note_reused(run, submission.order, prediction)
    # The signal came before there was an id to cancel.
    if submission.is_killed:
        handle_kill(run)
    return prediction, deadline


def restore_input(run: OperatorRun) -> None:
    """Note the input of the prediction again after a deferral."""
    # The input only describes the video, so no error may cost the video.
    with suppress(Exception):
        record = run.claim.ledger.latest
        note_input(run, orders_of(run).since(record), record)


def recorded_prediction(run: OperatorRun, failure: Mapping[str, Any]) -> tuple[Prediction, float | None]:
    """Return the recorded prediction and deadline after a failed trigger.

    :param failure: Airflow's `error` and `traceback`
    """
    run.log.warning(
        "The wait in the triggerer ended without an answer (%s); polling on this worker\n%s",
        failure.get("error"),
        "".join(failure.get("traceback") or ()),
    )
    run.deadline.was_deferred = failure.get("error") == TRIGGER_TIMEOUT
    with translated(can_poll_later):
        record = run.claim.ledger.latest
        if run.claim.is_durable and (record is None or record.phase is Phase.INTENT):
            raise LedgerError(
                "The wait ended, and there is no record of its prediction, which may run on. Either it"
                " could not be written, then a retry looks for it; or a person deleted it, then a retry"
                " submits again."
            )
        prediction = run.prediction = Prediction.from_json(record.prediction if record else None)
    return prediction, record.deadline if record else None


def warn_of_lost_state(log: Any, *, is_durable: bool) -> None:
    """Log the reason why a later attempt of the task may pay again.

    :param is_durable: the parameter `durable` of the task
    """
    if is_test_of_a_task():
        log.warning(
            "`airflow tasks test` leaves the record and the prediction of this run alone: it submits a"
            " prediction of its own, which is billed, and which no other run of the task knows of"
        )
        return
    is_old = "Airflow below 3.3 keeps no state across attempts"
    why = is_old if is_durable else "durable=False"
    log.warning("%s: a retry of this task, or a clear, may pay again", why)


def orders_of(run: OperatorRun) -> Orders:
    """Return the maker of a task's orders."""
    task = run.task
    return Orders(
        run.hook, task.input, model=task.model, version=task.version, arguments=task.arguments_digest
    )


def _submission(run: OperatorRun, orders: Orders) -> Submission:
    # DAG parsing imports this module, and only a running task needs the submitter.
    from airflow_vace.submission.submitter import Submission

    task = run.task
    policy = Policy(
        timeout=task.timeout,
        cancel_on_timeout=task.cancel_on_timeout,
        reuse=bool(task.reuse),
        on_orphaned_intent=task.on_orphaned_intent,
        only_submits=not task.wait_for_completion,
    )
    return Submission(
        run.hook,
        run.claim.ledger,
        policy,
        log=run.log,
        reachable=lambda values: _prepared(run, values, orders.latest),
        saved=lambda prediction_id: find_files(run, prediction_id),
        attempt=Attempt(try_number=run.try_number, max_tries=run.max_tries),
        reusable=lambda order: _reusable(run, order),
    )


def _reusable(run: OperatorRun, order: Order) -> tuple[Order, Prediction | None]:
    """Return the order with a digest, and the saved success of an equal order if the author asks for one."""
    destination = destination_of(run)
    # The name of a file in a directory contains a new id, so no later run finds the file.
    if destination is None or destination.is_directory:
        return order, None
    from airflow_vace.storage.reuse import find_reusable
    from airflow_vace.storage.sources import identified

    order = identified(run.hook, order)
    return order, find_reusable(run.hook, destination, order) if run.task.reuse == "saved" else None


def _prepared(run: OperatorRun, values: Mapping[str, Any], order: Order | None) -> Mapping[str, Any]:
    """Check sources and destination of files; return the input with URLs for paths."""
    from airflow_vace.storage.upload import InputFiles

    # Money is spent right after this, so a full disk or a missing file must show now.
    check_destination(run)
    # A back-end may fetch an input until the deadline, when the prediction is canceled.
    seconds = run.task.timeout + run.hook.timing.signed_url_grace_seconds
    model = order.model if order is not None else DEFAULT_MODEL
    return InputFiles(run.hook, seconds=seconds, model=model).reachable(values)
