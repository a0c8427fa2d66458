"""Dry run of a batch: all checks of all items, and the sum of their costs; nothing is submitted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.batch.jobs import MAX_ERROR_LENGTH, THREADS, Jobs
from airflow_vace.core.pricing import HOW_TO_PRICE, money_text, read_amount
from airflow_vace.exceptions import BudgetExceeded, VaceError
from airflow_vace.redaction import excerpt
from airflow_vace.submission.expense import total_cost
from airflow_vace.task.dry_run import NOTHING, check_account, plan_of, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_vace.batch.chunks import Chunks
    from airflow_vace.batch.items import Item
    from airflow_vace.batch.operator import VaceBatchOperator
    from airflow_vace.submission.rehearsal import Plan

_MAX_REASONS = 20


@dataclass(frozen=True, slots=True)
class _Problem:
    """The reason why an item would not be submitted; `is_cap` if a cap has no room for the item."""

    text: str
    is_cap: bool

    @classmethod
    def of(cls, error: Exception) -> _Problem:
        cause = error.__cause__ or error
        return cls(excerpt(str(error), MAX_ERROR_LENGTH), isinstance(cause, BudgetExceeded))


def dry_run_batch(task: VaceBatchOperator, context: Context, items: Sequence[Item], chunks: Chunks) -> str:
    """Return the outcome of a dry run in a sentence; log the plan of one item, and the first problems.

    :param items: the rows of the batch as items, in order
    :param chunks: the entries of the batch, loaded
    :raises AirflowFailException: if fewer items would succeed than `min_success` needs, and for an address or
        a key that does not work
    """
    check_account(task.hook, task.log)
    wanted = [item for item in items if item.row is not None]
    jobs = Jobs(task, context, chunks, lambda _, __: None)
    # Checks of a file in a store take a tenth of a second, so a thousand items need some threads.
    with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="vace-batch-dry-run") as pool:
        found = list(pool.map(lambda item: _planned(jobs, item), wanted))
    plans: list[Plan] = []
    problems: list[tuple[Item, _Problem]] = []
    # One item after another: the caps have room for the first ones, as in a run.
    for item, each in zip(wanted, found, strict=True):
        reserved = _reserved(each)
        if isinstance(reserved, _Problem):
            problems.append((item, reserved))
            continue
        if not plans:
            task.log.info("Dry run, item %s: %s", item.key, text_of(jobs.run_of(item), reserved))
        plans.append(reserved)
    _log_problems(task.log, problems)
    outcome = f"{NOTHING} {_summary(plans, [problem for _, problem in problems])}"
    # Airflow shows the reason of a skip in a field of its line only.
    task.log.info("%s", outcome)
    needed = task.needed_of(len(wanted))
    if len(plans) < needed:
        raise AirflowFailException(f"{outcome}. min_success needs {needed} of {len(wanted)} items.")
    return outcome


def _planned(jobs: Jobs, item: Item) -> Plan | _Problem:
    try:
        return plan_of(jobs.run_of(item))
    except (VaceError, AirflowFailException) as error:
        return _Problem.of(error)


def _reserved(plan: Plan | _Problem) -> Plan | _Problem:
    """Return a plan that fits below the caps, or the problem."""
    if isinstance(plan, _Problem):
        return plan
    try:
        plan.reserve()
    except VaceError as error:
        return _Problem.of(error)
    return plan


def _log_problems(log: Any, problems: Sequence[tuple[Item, _Problem]]) -> None:
    """Log the first problems, and of items without room below the cap the first one alone."""
    for item, problem in [found for found in problems if not found[1].is_cap][:_MAX_REASONS]:
        log.warning("Dry run: item %s would fail: %s", item.key, problem.text)
    for item, problem in [found for found in problems if found[1].is_cap][:1]:
        log.warning("Dry run: no room below the cap from item %s on: %s", item.key, problem.text)


def _summary(plans: Sequence[Plan], problems: Sequence[_Problem]) -> str:
    """Return the counts and the sum of the costs in words."""
    new = [plan for plan in plans if plan.record is None and plan.saved is None]
    beyond = sum(problem.is_cap for problem in problems)
    counts = {
        "would be submitted": len(new),
        "would continue with the prediction of an earlier attempt": sum(p.record is not None for p in plans),
        "would take a saved video, at no cost": sum(p.saved is not None for p in plans),
        "have no room below the cap": beyond,
        "would fail": len(problems) - beyond,
    }
    shown = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return f"{shown}; cost: {_cost_text(new)}" if new else shown


def _cost_text(new: Sequence[Plan]) -> str:
    total = total_cost([plan.expense for plan in new if plan.expense is not None])
    unpriced = sum(plan.expense is None for plan in new)
    amount = read_amount(total["amount"])
    if amount is None:
        return f"unknown; {HOW_TO_PRICE}"
    limit = "up to " if total["basis"] == "per_second" else ""
    more = f", and {unpriced} without a price" if unpriced else ""
    return f"{limit}{money_text(amount, total['currency'])}{more}"
