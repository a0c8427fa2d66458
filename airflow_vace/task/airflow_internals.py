"""Airflow's private names, all in this module.

Airflow may rename a private name in any release; `tests/task/test_airflow_internals.py` pins each name. The
imports stand in the functions, because DAG parsing does not need most of the code behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk.execution_time.comms import GetTaskStates

# Airflow passes this argument to the operators of mapped tasks alone, so it marks them.
FROM_MAPPED = "_airflow_from_mapped"

# The method, and the error, by which Airflow resumes a task whose wait in the triggerer has failed.
TRIGGER_FAILED = "__fail__"
TRIGGER_TIMEOUT = "Trigger timeout"


# --- the supervisor --------------------------------------------------------------------------------


def request_states(message: GetTaskStates) -> Any:
    """Return the supervisor's response to a request for task states."""
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return SUPERVISOR_COMMS.send(message)


def loses_channel_in_threads() -> bool:
    """Return True in `dag.test()`, which removes the supervisor's channel during each request."""
    from airflow.sdk.execution_time import task_runner

    channel = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return type(channel).__name__ == "InProcessSupervisorComms"


async def arequest_states(message: GetTaskStates) -> Any:
    """Await :func:`request_states`."""
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return await SUPERVISOR_COMMS.asend(message)


def states_request(ti: Any, task_ids: Sequence[str], map_index: int | None = None) -> GetTaskStates:
    """Return a request for the states of tasks in one DAG run.

    :param ti: a task instance of the DAG run
    :param task_ids: ids of the tasks
    :param map_index: of one instance; None asks for all instances
    """
    from airflow.sdk.execution_time.comms import GetTaskStates

    return GetTaskStates(dag_id=ti.dag_id, task_ids=list(task_ids), run_ids=[ti.run_id], map_index=map_index)


# --- XCom ------------------------------------------------------------------------------------------


def share_loop(task: Any, other: Any) -> bool:
    """Return True if two tasks are in the same task loop (Airflow 3.4)."""
    from airflow.sdk.definitions._internal.loop import (  # type: ignore[import-not-found]  # Airflow 3.4
        get_enclosing_loop,
    )

    first, second = get_enclosing_loop(task), get_enclosing_loop(other)
    return first is not None and second is not None and first.group_id == second.group_id


def xcoms_of_last_pass(ti: Any, task: Any, key: str) -> list[Any]:
    """Return the XComs of a task in the previous pass of the loop that it shares with a task instance."""
    from airflow.sdk.definitions.xcom_arg import PlainXComArg
    from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

    options: dict[str, Any] = {"previous_iteration": True}
    return list(LazyXComSequence(xcom_arg=PlainXComArg(task, key), ti=ti, **options))


def has_state_store() -> bool:
    """Return True if Airflow keeps a state of tasks across attempts (Airflow 3.3+)."""
    try:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE
    except ImportError:
        return False
    return NEVER_EXPIRE is not None


def can_write_xcom_in_triggerer() -> bool:
    """Return True if triggers can write an XCom (Airflow 3.3+)."""
    from airflow.sdk.bases.xcom import BaseXCom

    return hasattr(BaseXCom, "aset")


def has_custom_xcom_backend() -> bool:
    """Return True if the deployment has its own XCom backend.

    The code of a backend may block an event loop.
    """
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom

    return XCom is not BaseXCom


async def aread_xcom(ti: Any, task_id: str, key: str, map_index: int) -> Any:
    """Return an XCom of the DAG run of a task instance, None if there is none."""
    from airflow.sdk.execution_time.xcom import XCom

    return await XCom.aget_one(
        key=key, dag_id=ti.dag_id, task_id=task_id, run_id=ti.run_id, map_index=map_index
    )


async def awrite_xcom(ti: Any, key: str, value: Any) -> None:
    """Write an XCom of a task instance."""
    from airflow.sdk.execution_time.xcom import XCom

    await XCom.aset(
        key=key,
        value=value,
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index,
    )


# --- arguments and mapped tasks --------------------------------------------------------------------


def set_during_execution() -> Any:
    """Return the placeholder for an argument that a running task computes."""
    from airflow.sdk.definitions._internal.types import SET_DURING_EXECUTION

    return SET_DURING_EXECUTION


def is_set_during_execution(value: Any) -> bool:
    """Return True for the placeholder of :func:`set_during_execution`, copies included."""
    return isinstance(value, type(set_during_execution()))


def plain_xcom_arg_of(value: Any) -> Any:
    """Return an XComArg without an index, like `submit.output`; None for other values."""
    from airflow.sdk.definitions.xcom_arg import PlainXComArg

    return value if isinstance(value, PlainXComArg) else None


def serialized_xcom_arg_of(value: Any) -> Any:
    """Return a serialised XComArg without an index; None for other values."""
    from airflow.serialization.definitions.xcom_arg import SchedulerPlainXComArg

    return value if isinstance(value, SchedulerPlainXComArg) else None


def mapped_argument_name(value: Any) -> str | None:
    """Return the name of an argument of a mapped task group; None for any other value."""
    from airflow.sdk.definitions._internal.expandinput import MappedArgument

    return value._key if isinstance(value, MappedArgument) else None  # noqa: SLF001 - no public name exists


def expand_input_of_group(group: Any) -> Any:
    """Return the mapped arguments of a task group."""
    return group._expand_input  # noqa: SLF001 - no public name exists


# --- the end of a task -----------------------------------------------------------------------------


def post_execute_hook_of(task: Any) -> Any:
    """Return the `post_execute` callable of a task's author, None if there is none."""
    return getattr(task, "_post_execute_hook", None)


def has_listeners(task: Any) -> bool:
    """Return True if a plugin listens to the success of a task.

    The listener of OpenLineage counts unless the provider's policy leaves out the task's events.
    """
    from airflow.sdk.listener import get_listener_manager

    heard = get_listener_manager().hook.on_task_instance_success.get_hookimpls()
    names = [getattr(each.plugin, "__module__", None) or type(each.plugin).__module__ for each in heard]
    others = [name for name in names if not name.startswith("airflow.providers.openlineage.")]
    return bool(others) or (len(names) > len(others) and _emits_lineage(task))


def _emits_lineage(task: Any) -> bool:
    try:
        from airflow.providers.openlineage.utils.emission_policy import resolve_task_emission_policy

        policy = resolve_task_emission_policy(operator=task, dag_id=task.dag_id, task_id=task.task_id)
        return bool(policy.emit)
    except Exception:  # noqa: BLE001 - another version of the provider; then the event counts
        return True


def is_asset_reference(outlet: Any) -> bool:
    """Return True for `Asset.ref(name=...)` and `Asset.ref(uri=...)`."""
    from airflow.sdk.definitions.asset import AssetRef

    return isinstance(outlet, AssetRef)
