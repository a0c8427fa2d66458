"""Submit a prediction once, or find the prediction of an earlier attempt."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, assert_never

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_vace.exceptions import LedgerError
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.observability.spans import traced
from airflow_vace.prediction import Prediction, latest_time
from airflow_vace.storage.checks import STRICT_MODES
from airflow_vace.submission.decision import Attempt, Policy
from airflow_vace.submission.expense import check_price
from airflow_vace.submission.order import Order
from airflow_vace.submission.record import Phase
from airflow_vace.submission.rejected import next_seed
from airflow_vace.task.airflow_internals import TRIGGER_TIMEOUT, has_state_store
from airflow_vace.task.checking import extra_missing, regenerations_of
from airflow_vace.task.ending import retrying_for_free
from airflow_vace.task.errors import can_poll_later, can_submit_later, translated
from airflow_vace.task.kill import handle_kill
from airflow_vace.task.orders import Orders, note_input, note_reused
from airflow_vace.task.parameters import check_regenerate, check_reuse
from airflow_vace.task.saving import check_destination, destination_of, find_files
from airflow_vace.task.state import is_test_of_a_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.submission.record import Record
    from airflow_vace.submission.submitter import Origin, Submission
    from airflow_vace.task.operator_run import OperatorRun


def submit(run: OperatorRun) -> tuple[Prediction, float]:
    """Return the task's prediction and deadline.

    :raises VaceError: if a retry may submit, and cannot pay twice
    :raises AirflowFailException: after all other errors
    """
    # Without a durable record a retry knows of no rejected clip, and would pay for all of them again.
    is_lost_by_retry = not run.claim.is_durable and run.claim.ledger.latest is not None
    with translated(lambda error: can_submit_later(error) and not is_lost_by_retry):
        orders = checked_orders(run)
        # Airflow has deleted the sum of an earlier attempt.
        run.claim.ledger.spending.publish()
        submission = run.claim.submission = submission_of(run, orders)
        # The signal may have come during the wait for an earlier video, or its check.
        if run.claim.is_stopped:
            submission.is_killed = True
        try:
            with traced("submit", run.metrics.labels) as describe:
                prediction, deadline = submission.prediction_of(orders.since)
                describe(prediction)
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
    _count(run, submission.origin)
    if prediction.reused and submission.order is not None:
        note_reused(run, submission.order, prediction)
    # The signal came before there was an id to cancel.
    if submission.is_killed:
        handle_kill(run)
    return prediction, deadline


def checked_orders(run: OperatorRun) -> Orders:
    """Return the maker of a task's orders, after the checks that need no request.

    :raises VideoExtraMissing: if a video that is not paid for yet could not be checked here
    :raises VaceInputError: for parameters that cannot work after rendering
    """
    # A task with a record may only have to fetch its video, which is paid for.
    missing = extra_missing(run.task)
    if missing is not None and run.claim.ledger.latest is None:
        raise missing
    # A wrong `save_to` must fail before the create, which costs money.
    destination = destination_of(run)
    check_reuse(run.task, destination)
    check_regenerate(run.task, destination)
    orders = orders_of(run)
    _check_price(run, orders)
    return orders


def _count(run: OperatorRun, origin: Origin) -> None:
    """Count the prediction by origin."""
    from airflow_vace.submission.submitter import Origin

    match origin:
        case Origin.CREATED:
            run.metrics.submitted()
        case Origin.KEPT:
            run.metrics.reattached()
        case Origin.RETURNED:
            run.metrics.reattached()
            # An earlier attempt, or the triggerer, has counted the success of a cleared task.
            run.is_end_counted = True
        case Origin.REUSED:
            run.metrics.reused()
        case _:
            assert_never(origin)


def _check_price(run: OperatorRun, orders: Orders) -> None:
    """Check that a cap has a price, before any request.

    :raises VaceInputError: without a price, or for a bad table of prices
    """
    ledger = run.claim.ledger
    # A task with a record may only have to fetch its video, for which no price is needed.
    if ledger.spending.is_limited and ledger.latest is None:
        order = orders.since(None)
        if not run.hook.pricing.knows(order.model):
            check_price(None, order.model)


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
    why = "durable=False"
    if is_durable and has_state_store():
        why = "the context of execute() has no task_state_store, in which Airflow keeps the state of a task"
    elif is_durable:
        why = "Airflow below 3.3 keeps no state across attempts"
    log.warning("%s: a retry of this task, or a clear, may pay again", why)


def orders_of(run: OperatorRun) -> Orders:
    """Return the maker of a task's orders."""
    task = run.task
    return Orders(
        run.hook, task.input, model=task.model, version=task.version, arguments=task.arguments_digest
    )


def submission_of(run: OperatorRun, orders: Orders, *, is_dry_run: bool = False) -> Submission:
    """Return the submission of a task.

    :param is_dry_run: upload no file
    """
    # DAG parsing imports this module, and only a running task needs the submitter.
    from airflow_vace.submission.submitter import Submission

    task = run.task
    policy = Policy(
        timeout=task.timeout,
        cancel_on_timeout=task.cancel_on_timeout,
        reuse=bool(task.reuse),
        on_orphaned_intent=task.on_orphaned_intent,
        only_submits=not task.wait_for_completion,
        is_of_item=run.claim.ledger.name != "",
        max_regenerations=regenerations_of(task),
    )
    return Submission(
        run.hook,
        run.claim.ledger,
        policy,
        log=run.log,
        reachable=lambda values: _prepared(run, values, orders.latest, is_dry_run=is_dry_run),
        saved=lambda prediction_id: find_files(run, prediction_id),
        attempt=Attempt(try_number=run.try_number, max_tries=run.max_tries),
        saved_of=lambda intent: _saved_of(run, intent),
        reusable=lambda order: _reusable(run, order),
    )


def _saved_of(run: OperatorRun, intent: Record) -> Prediction | None:
    """Return the saved success of an intent's create, found by its manifest; None without one."""
    destination = destination_of(run)
    if destination is None or destination.is_directory or intent.order_digest is None:
        return None
    from airflow_vace.storage.reuse import find_reusable

    order = Order(
        values={} if intent.seed is None else {"seed": intent.seed},
        model=intent.model,
        version=intent.version,
        conn_id=intent.conn_id,
        digest=intent.order_digest,
    )
    found = find_reusable(run.hook, destination, order)
    if found is None or found.id in intent.earlier:
        return None
    # An author's seed may recur in an earlier run, whose video this create has not made.
    created = latest_time(found.created_at)
    is_later = created is not None and created >= datetime.fromisoformat(intent.listed_from)
    return replace(found, reused=False) if intent.is_seed_drawn or is_later else None


def _reusable(run: OperatorRun, order: Order) -> tuple[Order, Prediction | None]:
    """Return the order with a digest, and the saved success of an equal order if the author asks for one."""
    destination = destination_of(run)
    # The name of a file in a directory contains a new id, so no later run finds the file.
    if destination is None or destination.is_directory:
        return order, None
    from airflow_vace.storage.reuse import find_reusable
    from airflow_vace.storage.sources import identified

    order = identified(run.hook, order)
    if run.task.reuse != "saved":
        return order, None
    seed, count = order.fixed_seed, regenerations_of(run.task)
    # An earlier run may have needed another seed than the author's.
    seeds = () if seed is None else (next_seed(seed, number) for number in range(1, count + 1))
    found = find_reusable(
        run.hook,
        destination,
        order,
        refuses_problems=run.task.checks in STRICT_MODES,
        further_seeds=tuple(seeds),
    )
    return order, found


def _prepared(
    run: OperatorRun, values: Mapping[str, Any], order: Order | None, *, is_dry_run: bool
) -> Mapping[str, Any]:
    """Check sources and destination of files; return the input with URLs for paths."""
    from airflow_vace.storage.upload import InputFiles

    # Money is spent right after this, so a full disk or a missing file must show now.
    check_destination(run)
    # A back-end may fetch an input until the deadline, when the prediction is canceled.
    seconds = run.task.timeout + run.hook.timing.signed_url_grace_seconds
    model = order.model if order is not None else DEFAULT_MODEL
    files = InputFiles(run.hook, seconds=seconds, model=model, is_dry_run=is_dry_run)
    return files.reachable(values)
