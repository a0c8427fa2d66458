"""`@task.vace`: a function that returns the inputs of a prediction is the task that makes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, overload

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)
from airflow.sdk.definitions._internal.types import SET_DURING_EXECUTION

from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import VaceInput
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.submission.order import digest_of_arguments
from airflow_vace.task.arguments import handed_over
from airflow_vace.task.view import KEY
from airflow_vace.task.waiting import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import ParamSpec

    from airflow.sdk import Context, ObjectStoragePath
    from airflow.sdk.bases.decorator import Task

    from airflow_vace.submission.decision import OnOrphanedIntent
    from airflow_vace.task.waiting import SaveIn

    FParams = ParamSpec("FParams")

__all__ = ("VaceInput", "vace_task")


class _VaceDecoratedOperator(DecoratedOperator, VacePredictionOperator):
    """Submit what a function returns; the function runs once in each attempt, on a worker.

    What it returns is no template: text from outside must not reach Airflow's variables and connections.

    :param python_callable: returns the inputs, or a prompt
    :param op_args: its positional arguments (templated)
    :param op_kwargs: its keyword arguments (templated)
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *VacePredictionOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **VacePredictionOperator.template_fields_renderers,
    }
    custom_operator_name = "@task.vace"
    overwrite_rtif_after_execution = True
    argument_fields: ClassVar[tuple[str, ...]] = ("op_args", "op_kwargs")

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
                f"@task.vace needs a plain function that returns the inputs; {python_callable.__name__!r} is"
                " a coroutine or a generator"
            )
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            input=SET_DURING_EXECUTION,
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        from airflow_vace.storage.upload import mask_signatures

        if self._arguments is None:  # nothing was rendered
            self._arguments = digest_of_arguments([self.op_args, self.op_kwargs])
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **kwargs)
        with translated():
            self.input = _input_of(returned, self.python_callable)
        mask_signatures(self.input)
        return VacePredictionOperator.execute(self, context)

    def _argument(self, name: str, given: Any, resolved: set[int]) -> Any:
        return handed_over(given, getattr(self, name), resolved, literals=True)

    def enter(self, context: Context) -> None:
        """Take up, after a deferral, what the function has returned in this attempt, as it was noted."""
        super().enter(context)
        if not isinstance(self.input, type(SET_DURING_EXECUTION)):
            return
        ti = self._ti
        try:
            view = ti.xcom_pull(task_ids=ti.task_id, key=KEY, map_indexes=ti.map_index)
        except Exception as error:  # noqa: BLE001 - Airflow's own, of any kind: what was paid for matters more
            self.log.warning("What the function has returned could not be read again: %s", error)
            view = None
        if isinstance(view, dict) and isinstance(view.get("input"), dict):
            self.input = self._known_input = view["input"]


def _input_of(returned: object, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the inputs that a function has returned.

    :raises VaceInputError: if it has returned neither inputs nor a prompt
    """
    if isinstance(returned, str) and returned.strip():
        return {"prompt": returned}
    if isinstance(returned, Mapping) and returned:
        return dict(returned)
    remedy = "return a dict of inputs such as {'prompt': '...'}, or the prompt as text"
    shown = "nothing" if returned is None else f"{type(returned).__name__} {str(returned)[:100]!r}"
    raise VaceInputError(
        f"The function {function.__name__!r} of @task.vace has returned {shown}; {remedy}. Nothing was sent,"
        " nothing is billed.",
        field="input",
        value=returned,
        remedy=remedy,
    )


@overload
def vace_task(
    python_callable: Callable[FParams, VaceInput | dict[str, Any] | str],
) -> Task[FParams, dict[str, Any]]: ...


@overload
def vace_task(
    *,
    model: str | None = None,
    version: str | None = None,
    vace_conn_id: str = "vace_default",
    wait_for_completion: bool = False,
    deferrable: bool = ...,
    poll_interval: float | None = None,
    timeout: float = 3600,
    cancel_on_kill: bool = True,
    cancel_on_timeout: bool = True,
    save_to: str | ObjectStoragePath | None = None,
    save_in: SaveIn = "worker",
    end_from_trigger: bool | None = None,
    durable: bool = True,
    reuse: bool = True,
    on_orphaned_intent: OnOrphanedIntent = "fail",
    label: str | None = None,
    multiple_outputs: bool = False,
    **kwargs: Any,
) -> Callable[[Callable[FParams, VaceInput | dict[str, Any] | str]], Task[FParams, dict[str, Any]]]: ...


def vace_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool = False, **kwargs: Any
) -> Any:
    """Make of a function that returns inputs a task that makes the video; `@task.vace` is this.

    The parameters are those of :class:`~airflow_vace.operators.VacePredictionOperator` but `input`, and a
    task's own (`retries`, `pool`, ...). The function gets a task's context by name, as in `@task`; it
    returns a :class:`VaceInput`, or a prompt as text, which is not rendered as a template.

    It runs once in each attempt, so let it return the same for the same arguments: no clock, no chance.
    An attempt that Airflow retries by itself goes on with the prediction that the one before has paid
    for, and warns if the function has returned something else since.

    :param multiple_outputs: push each member of the payload as an XCom of its own
    :raises TypeError: for a coroutine or a generator function
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_VaceDecoratedOperator,
        **kwargs,
    )
