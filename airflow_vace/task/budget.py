"""Caps of a task: the author's `max_cost`, and the configuration's limit for a DAG run."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_vace.core.pricing import amount_text, read_amount
from airflow_vace.exceptions import LedgerError, VaceInputError
from airflow_vace.plain import is_absent
from airflow_vace.redaction import excerpt
from airflow_vace.submission.expense import Spending
from airflow_vace.task.airflow_internals import share_loop, xcoms_of_last_pass

if TYPE_CHECKING:
    from collections.abc import Iterable

# What a task instance has spent and reserved, as text, for the other tasks of its DAG run.
COST_KEY = "vace_cost"
# What the task instance would spend, in a dry run.
REHEARSED_KEY = "vace_cost_of_dry_run"
# What the earlier passes of a task loop have spent, likewise: a pass reads only the pass before it.
EARLIER_KEY = "vace_cost_of_earlier_passes"
_RUN_OPTION = "max_cost_per_dag_run"


def check_max_cost(max_cost: object) -> None:
    """Check a cap when Airflow reads the DAG; a text may be a template.

    :raises ValueError: for a value that is no amount
    """
    if not is_absent(max_cost) and not isinstance(max_cost, str) and read_amount(max_cost) is None:
        raise _no_amount("max_cost", max_cost)


def read_max_cost(max_cost: object) -> Decimal | None:
    """Return a cap after rendering, None without one.

    :raises VaceInputError: for a value that is no amount
    """
    if is_absent(max_cost):
        return None
    amount = read_amount(max_cost)
    if amount is None:
        raise _no_amount("max_cost", max_cost)
    return amount


def spending_of(max_cost: object, context: Any) -> Spending:
    """Return the spending of a task with the caps of author and deployment.

    :param max_cost: the author's cap, rendered
    :param context: Airflow's context of the task instance
    :raises VaceInputError: for a cap that is no amount
    """
    cap = read_max_cost(max_cost)
    text = conf.get("vace", _RUN_OPTION, fallback="")
    ti = context.get("ti")
    if not text.strip() or ti is None:
        return Spending(cap)
    run_cap = read_amount(text)
    if run_cap is None:
        raise _no_amount(f"[vace] {_RUN_OPTION}", text)
    costs = _RunCosts(ti, context)
    return Spending(cap, run_cap=run_cap, spent_elsewhere=costs.spent_elsewhere, announce=costs.announce)


class _RunCosts:
    """The expenses of all tasks of a DAG run, in XCom.

    Each task writes its own sum before it reads the others', so of two tasks that submit at the same time at
    least one sees both sums. Airflow deletes the XComs of a task at the start of another attempt, which
    writes the sum again once it has read its records. In a task loop (Airflow 3.4) a pass adds the sum of the
    pass before it to that pass's own sum of earlier ones; a pass without a create ends this chain.
    """

    def __init__(self, ti: Any, context: Any) -> None:
        self._ti = ti
        self._loop = context.get("loop")
        self._tasks = [task for task in getattr(context.get("dag"), "tasks", ()) if _spends(task)]

    def announce(self, own: Decimal) -> None:
        """Write the sum of this task.

        :raises Exception: of any kind, if Airflow's XComs are out of reach
        """
        from airflow_vace.connection import airflow_turn

        with airflow_turn():
            self._ti.xcom_push(COST_KEY, amount_text(own))

    def spent_elsewhere(self, own: Decimal, is_rehearsal: bool) -> Decimal:  # noqa: FBT001 - a callback
        """Write the sum of this task, and return the sum of all others.

        :param is_rehearsal: only other dry runs see the sum of a dry run
        :raises LedgerError: if Airflow's XComs are out of reach; nothing was submitted
        """
        # DAG parsing imports this module, and must load no HTTP client.
        from airflow_vace.connection import airflow_turn

        ti = self._ti
        try:
            with airflow_turn():
                ti.xcom_push(REHEARSED_KEY if is_rehearsal else COST_KEY, amount_text(own))
                earlier = self._spent_in_earlier_passes()
                # Without map indexes, Airflow returns the values of all instances of each task.
                names = [task.task_id for task in self._tasks]
                found = list(ti.xcom_pull(task_ids=names, key=COST_KEY))
                if is_rehearsal:
                    found += ti.xcom_pull(task_ids=names, key=REHEARSED_KEY)
        except Exception as error:  # Airflow's API server and XCom backends raise any type
            raise LedgerError(
                f"The costs of this DAG run could not be read ({type(error).__name__}: {error}), so [vace]"
                f" {_RUN_OPTION} cannot be kept. Nothing was submitted."
            ) from error
        return _sum(found) - own + earlier

    def _spent_in_earlier_passes(self) -> Decimal:
        """Write and return the sum of all earlier passes of a task loop, 0 outside of a loop."""
        if self._loop is None or not self._loop.index:
            return Decimal()
        ti = self._ti
        tasks = [task for task in self._tasks if share_loop(task, ti.task)]
        sums = [xcom for task in tasks for xcom in xcoms_of_last_pass(ti, task, EARLIER_KEY)]
        costs = [xcom for task in tasks for xcom in xcoms_of_last_pass(ti, task, COST_KEY)]
        # The tasks of a pass have read the same sum, unless one of them was too early to see all of it.
        earlier = max((_sum([amount]) for amount in sums), default=Decimal()) + _sum(costs)
        ti.xcom_push(EARLIER_KEY, amount_text(earlier))
        return earlier


def _sum(amounts: Iterable[object]) -> Decimal:
    return sum((read_amount(amount) or Decimal() for amount in amounts), Decimal())


def _spends(task: Any) -> bool:
    """Return True for a task of this package that submits, mapped or not."""
    fields = getattr(task, "template_fields", ()) or ()
    return "max_cost" in fields and "vace_conn_id" in fields


def _no_amount(name: str, value: object) -> VaceInputError:
    remedy = "give an amount of at least 0 in the currency of the prices, such as 12.50"
    return VaceInputError(
        f"{name} is {excerpt(repr(value))}, which is no amount of money; {remedy}. Nothing was submitted.",
        field=name,
        value=value,
        remedy=remedy,
    )
