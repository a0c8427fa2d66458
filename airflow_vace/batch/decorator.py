"""`@task.vace_batch`: turns a function into a batch of the returned rows."""

from __future__ import annotations

import inspect
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_vace.batch.operator import VaceBatchOperator
from airflow_vace.inputs import read_input
from airflow_vace.plain import is_record
from airflow_vace.task.airflow_internals import is_set_during_execution, set_during_execution

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow.sdk import Context

__all__ = ("vace_batch_task",)

# The rows of an attempt, for its further processes.
_INPUTS_KEY = "vace_batch_inputs"


class _VaceBatchDecoratedOperator(DecoratedOperator, VaceBatchOperator):
    """Submit the rows that a function returns, called once in each attempt.

    The return value is not rendered: text from outside must not reach Airflow's variables and connections.

    :param python_callable: returns a list of prompts or of inputs, or the path of a file
    :param op_args: positional arguments (templated)
    :param op_kwargs: keyword arguments (templated)
    :raises TypeError: for a coroutine or a generator function
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *VaceBatchOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **VaceBatchOperator.template_fields_renderers,
    }
    # The graph shows this name in place of the class name.
    custom_operator_name = "@task.vace_batch"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if inspect.iscoroutinefunction(python_callable) or inspect.isgeneratorfunction(python_callable):
            raise TypeError(
                "@task.vace_batch needs a plain function that returns the rows;"
                f" {python_callable.__name__!r} is a coroutine or a generator: define it with `def`, without"
                " `yield`"
            )
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            inputs=set_during_execution(),
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        self.inputs = self.python_callable(*self.op_args, **kwargs)
        ti: Any = context.get("ti")
        if self.deferrable and ti is not None:
            # A function may return other rows in a second call, so later processes read these.
            if not isinstance(self.inputs, str | PathLike):
                self.inputs = [read_input(row) if is_record(row) else row for row in self.inputs]
            ti.xcom_push(_INPUTS_KEY, self.inputs)
        return VaceBatchOperator.execute(self, context)

    def _go(self, context: Context, **kwargs: Any) -> dict[str, Any]:
        if is_set_during_execution(self.inputs):
            ti: Any = context["ti"]
            self.inputs = ti.xcom_pull(task_ids=ti.task_id, key=_INPUTS_KEY, map_indexes=ti.map_index)
        return super()._go(context, **kwargs)


def vace_batch_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool = False, **kwargs: Any
) -> Any:
    """Turn a function into a batch of the returned rows: a list of prompts or of inputs, or a file's path.

    The function gets the context of the task by name, as in `@task`, and runs once in each attempt. It must
    return the same rows for the same arguments. The rows are not rendered as templates.

    :param multiple_outputs: push each member of the result as a separate XCom
    :param kwargs: parameters of :class:`~airflow_vace.operators.VaceBatchOperator` except `inputs`, and
        Airflow's (`retries`, `pool`, ...)
    :raises TypeError: for a coroutine or a generator function
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_VaceBatchDecoratedOperator,
        **kwargs,
    )
