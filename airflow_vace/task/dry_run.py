"""Dry run of a task: all checks of a submission, and its cost; nothing is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.core.pricing import HOW_TO_PRICE, money_text
from airflow_vace.exceptions import VaceInputError
from airflow_vace.plain import is_absent
from airflow_vace.redaction import excerpt, without_secrets
from airflow_vace.submission.record import Phase
from airflow_vace.task.errors import can_submit_later, translated
from airflow_vace.task.saving import destination_of
from airflow_vace.task.submitting import checked_orders, submission_of

if TYPE_CHECKING:
    from airflow_vace.hooks import VaceHook
    from airflow_vace.submission.rehearsal import Plan
    from airflow_vace.task.operator_run import OperatorRun

_FLAGS = {"true": True, "false": False}
_MAX_INPUT_LENGTH = 500
NOTHING = "Dry run, nothing was submitted:"
# Stands for the id of a prediction that does not exist.
_ID = "ID"


class DryRunTask(Protocol):
    """The parameters of a task that can run dry, after rendering."""

    @property
    def is_dry_run(self) -> object: ...
    @property
    def hook(self) -> VaceHook: ...


def is_dry_run(task: DryRunTask) -> bool:
    """Return True if the task, or its connection, asks for a dry run.

    :raises VaceInputError: for a value that is neither true nor false
    """
    value = task.is_dry_run
    asked = False if is_absent(value) else _FLAGS.get(str(value).strip().lower())
    if asked is None:
        remedy = "give True or False, or a template that renders to one of these"
        raise VaceInputError(
            f"dry_run is {excerpt(repr(value))}; {remedy}. Nothing was submitted.",
            field="dry_run",
            value=value,
            remedy=remedy,
        )
    return asked or task.hook.settings.is_dry_run


def check_account(hook: VaceHook, log: Any) -> None:
    """Check address and key by free requests.

    :raises AirflowFailException: for an address or a key that does not work
    """
    is_good, message = hook.test_connection()
    if not is_good:
        raise AirflowFailException(
            f"Dry run: the connection {hook.vace_conn_id!r} does not work. {message}. Nothing was submitted."
        )
    log.info("Dry run: %s", message)


def dry_run_of(run: OperatorRun) -> str | None:
    """Return the outcome of a dry run in a sentence; None if the task is to submit.

    :raises AirflowFailException: for anything that would stop the create
    :raises VaceError: for an error that another attempt may not meet
    """
    with translated(can_submit_later):
        if not is_dry_run(run.task):
            return None
        check_account(run.hook, run.log)
        plan = plan_of(run)
        plan.reserve()
    outcome = f"{NOTHING} {text_of(run, plan)}"
    # Airflow shows the reason of a skip in a field of its line only.
    run.log.info("%s", outcome)
    return outcome


def plan_of(run: OperatorRun) -> Plan:
    """Return the next step of a task's submission, after all checks but those of the caps.

    :raises AirflowFailException: for anything that would stop the create
    :raises VaceError: for an error that another attempt may not meet
    """
    from airflow_vace.submission.rehearsal import rehearse

    with translated(can_submit_later):
        orders = checked_orders(run)
        return rehearse(submission_of(run, orders, is_dry_run=True), orders.since)


def text_of(run: OperatorRun, plan: Plan) -> str:
    """Return the next step of a task in words."""
    if plan.record is not None and plan.record.phase is Phase.INTENT:
        return (
            f"an earlier attempt has started a request for a prediction at {plan.record.intended_at}, and"
            " recorded no response, so the task would look for that prediction, and pay for another one only"
            " if there is none"
        )
    if plan.record is not None:
        known = plan.record.known
        return (
            f"an earlier attempt has submitted a prediction {known.id}, {known.status}, so the task would"
            " continue with it, and pay for another one only if it brings no video"
        )
    if plan.saved is not None:
        uris = ", ".join(str(file.get("uri")) for file in plan.saved.files)
        return f"the task would return {uris} of prediction {plan.saved.id}, at no cost"
    order, saving = plan.order, ""
    version = "" if order.version is None else f", version {order.version}"
    if (destination := destination_of(run)) is not None:
        saving = f", and save the video as {destination.place_of(_ID, None, '.mp4').uri}"
    shown = excerpt(str(_shown(order.values)), _MAX_INPUT_LENGTH)
    return f"the task would submit {order.model}{version} with {shown}{saving}; cost: {_cost_text(run, plan)}"


def _shown(values: Any) -> Any:
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the public module hides the name

    return without_secrets(dict(values), redact)


def _cost_text(run: OperatorRun, plan: Plan) -> str:
    if plan.expense is None:
        return f"unknown; {HOW_TO_PRICE}"
    price = plan.expense.price
    amount = money_text(plan.expense.held, price.currency)
    return amount if price.per_second is None else f"up to {amount} for {run.task.timeout:g} s, the timeout"
