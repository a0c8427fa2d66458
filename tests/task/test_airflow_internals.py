"""Airflow's private names: each test fails if a version of Airflow renames one of them."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.listeners import hookimpl
from airflow.sdk import DAG, task, task_group
from airflow.sdk.bases import operator
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder, GetTaskStates, TaskStatesResult

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.task import airflow_internals as internals
from support.supervisor import needs_airflow_3_3, serialised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def operator_of_a_clip(**kwargs: Any) -> VacePredictionOperator:
    return VacePredictionOperator(task_id="t", input={"prompt": "a fox"}, **kwargs)


# --- the supervisor --------------------------------------------------------------------------------


def test_the_task_runner_has_one_connection_to_the_supervisor() -> None:
    assert "SUPERVISOR_COMMS" in {*vars(task_runner), *task_runner.__annotations__}
    assert inspect.iscoroutinefunction(CommsDecoder.asend)
    assert callable(CommsDecoder.send)


def test_a_request_for_states_goes_over_this_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def send(message: Any) -> TaskStatesResult:
        sent.append(message)
        return TaskStatesResult(task_states={})

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(send=send), raising=False)
    ti = SimpleNamespace(dag_id="d", run_id="r")
    response = internals.request_states(internals.states_request(ti, ["t"], 3))
    assert sent == [GetTaskStates(dag_id="d", run_ids=["r"], task_ids=["t"], map_index=3)]
    assert response.task_states == {}


def test_a_test_of_a_dag_has_a_channel_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms

    assert not internals.loses_channel_in_threads()
    supervisor: Any = SimpleNamespace()
    channel = InProcessSupervisorComms(supervisor=supervisor)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", channel, raising=False)
    assert internals.loses_channel_in_threads()


# --- XCom ------------------------------------------------------------------------------------------


def parameters(call: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(call).parameters)


@needs_airflow_3_3
def test_xcoms_are_read_and_written_in_a_triggerer() -> None:
    from airflow.sdk.bases.xcom import BaseXCom

    instance = {"key", "dag_id", "task_id", "run_id", "map_index"}
    assert instance <= parameters(BaseXCom.aget_one)
    assert {*instance, "value"} <= parameters(BaseXCom.aset)


def test_without_a_custom_backend_xcoms_are_airflows_own() -> None:
    assert internals.has_custom_xcom_backend() is False


# --- arguments and mapped tasks --------------------------------------------------------------------


def test_a_copy_of_the_placeholder_is_still_the_placeholder() -> None:
    placeholder = internals.set_during_execution()
    assert internals.is_set_during_execution(copy.deepcopy(placeholder))
    assert not internals.is_set_during_execution({"prompt": "a fox"})


def test_airflow_renders_through_the_method_that_we_extend() -> None:
    expected = ["self", "parent", "template_fields", "context", "jinja_env", "seen_oids"]
    for base in VacePredictionOperator.__mro__[2:]:
        if "_do_render_template_fields" in vars(base):
            assert list(inspect.signature(vars(base)["_do_render_template_fields"]).parameters) == expected
            return
    pytest.fail("no base class has _do_render_template_fields")


def test_airflow_marks_the_instances_of_mapped_tasks() -> None:
    with DAG("d", schedule=None) as dag:
        VacePredictionOperator.partial(task_id="mapped").expand(input=[{"prompt": "a fox"}])
    made: Any = dag.get_task("mapped").unmap({"input": {"prompt": "a fox"}})
    assert made._given[internals.FROM_MAPPED] is True


@needs_airflow_3_3
def test_the_forms_of_an_xcom_argument_are_known() -> None:
    with DAG("d", schedule=None) as dag:
        submitted = operator_of_a_clip()
        VacePredictionSensor.partial(task_id="mapped").expand(prediction=submitted.output)
    assert internals.plain_xcom_arg_of(submitted.output).operator is submitted
    assert internals.plain_xcom_arg_of("abc") is None
    value = serialised(dag).get_task("mapped").expand_input.value["prediction"]
    assert internals.serialized_xcom_arg_of(value).operator.task_id == "t"
    assert internals.serialized_xcom_arg_of("abc") is None


@needs_airflow_3_3
def test_an_argument_of_a_mapped_task_group_has_a_name() -> None:
    names = []

    @task_group
    def group(prediction: Any) -> None:
        names.append(internals.mapped_argument_name(prediction))
        VacePredictionSensor(task_id="wait", prediction=prediction)

    with DAG("d", schedule=None) as dag:

        @task
        def ids() -> list[str]:
            return ["abc"]

        group.expand(prediction=ids())
    assert names == ["prediction"]
    assert internals.mapped_argument_name("abc") is None
    mapped = serialised(dag).task_group.children["group"]
    assert set(internals.expand_input_of_group(mapped).value) == {"prediction"}


# --- the end of a task -----------------------------------------------------------------------------


def test_an_authors_callable_after_the_task_is_found() -> None:
    assert internals.post_execute_hook_of(operator_of_a_clip(post_execute=print)) is print
    assert internals.post_execute_hook_of(operator_of_a_clip()) is None


@pytest.fixture
def listeners() -> Iterator[Any]:
    """Airflow's manager of listeners, emptied afterwards."""
    from airflow.sdk.listener import get_listener_manager

    manager: Any = get_listener_manager()
    yield manager
    manager.clear()


class OfTasks:
    @hookimpl
    def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None: ...


class OfStarts:
    @hookimpl
    def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None: ...


@needs_airflow_3_3
def test_a_plugin_that_listens_to_the_success_of_tasks_is_counted(listeners: Any) -> None:
    assert internals.has_listeners(operator_of_a_clip()) is False
    listeners.add_listener(OfStarts())
    assert internals.has_listeners(operator_of_a_clip()) is False
    listeners.add_listener(OfTasks())
    assert internals.has_listeners(operator_of_a_clip()) is True


@needs_airflow_3_3
def test_a_listener_of_an_unknown_openlineage_is_counted(listeners: Any) -> None:
    class Unknown(OfTasks):
        __module__ = "airflow.providers.openlineage.plugins.listener"

    listeners.add_listener(Unknown())
    task: Any = SimpleNamespace(dag_id="d", task_id="t")
    assert internals.has_listeners(task) is True


def test_a_failed_wait_is_resumed_by_the_words_that_we_expect() -> None:
    assert operator.TRIGGER_FAIL_REPR == internals.TRIGGER_FAILED
    assert operator.TriggerFailureReason.TRIGGER_TIMEOUT.value == internals.TRIGGER_TIMEOUT
