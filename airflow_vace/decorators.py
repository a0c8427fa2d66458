"""`@task.vace`: turns a function into a task for the video of the returned inputs."""

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

from airflow_vace.batch.decorator import vace_batch_task
from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import VaceInput, read_input
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.plain import is_record
from airflow_vace.submission.order import digest_of_arguments
from airflow_vace.task.airflow_internals import is_set_during_execution, set_during_execution
from airflow_vace.task.arguments import handed_over
from airflow_vace.task.errors import translated
from airflow_vace.task.view import VIEW_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import timedelta
    from decimal import Decimal
    from pathlib import Path
    from typing import ParamSpec

    from airflow.sdk import Context, ObjectStoragePath
    from airflow.sdk.bases.decorator import Task

    from airflow_vace.storage.checks import CheckMode, Rule
    from airflow_vace.submission.decision import OnOrphanedIntent
    from airflow_vace.task.operator_run import OperatorRun
    from airflow_vace.task.run import Reuse, SaveIn

    FParams = ParamSpec("FParams")

__all__ = ("VaceInput", "vace_batch_task", "vace_task")


class _VaceDecoratedOperator(DecoratedOperator, VacePredictionOperator):
    """Submit the return value of a function, called once in each attempt.

    The return value is not rendered: text from outside must not reach Airflow's variables and connections.

    :param python_callable: returns the inputs, or a prompt
    :param op_args: positional arguments (templated)
    :param op_kwargs: keyword arguments (templated)
    :raises TypeError: for a coroutine or a generator function
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *VacePredictionOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **VacePredictionOperator.template_fields_renderers,
    }
    # The graph shows this name in place of the class name.
    custom_operator_name = "@task.vace"
    # `input` exists only after the function has run, so Airflow stores the rendered fields again at the end.
    overwrite_rtif_after_execution = True
    # The function's arguments, rather than `input`, say which order this is.
    argument_fields: ClassVar[tuple[str, ...]] = ("op_args", "op_kwargs")

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Such a function returns an object without inputs, which would fail only when the task runs.
        if inspect.iscoroutinefunction(python_callable) or inspect.isgeneratorfunction(python_callable):
            raise TypeError(
                f"@task.vace needs a plain function that returns the inputs; {python_callable.__name__!r} is"
                " a coroutine or a generator: define it with `def`, without `yield`"
            )
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            input=set_during_execution(),
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        self._call_function(context)
        return VacePredictionOperator.execute(self, context)

    def _call_function(self, context: Context) -> None:
        """Set the input to the return value of the function."""
        from airflow_vace.storage.masking import mask_signatures

        # Rendering digests the arguments; a direct call of `execute` skips rendering.
        if self.arguments_digest is None:
            self.arguments_digest = digest_of_arguments([self.op_args, self.op_kwargs])
        # The return value must not be rendered, since text from outside would read Airflow's secrets.
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **kwargs)
        with translated():
            self.input = _input_of(returned, self.python_callable)
        # Rendering masks secrets in fields, but this value appears after rendering.
        mask_signatures(self.input)

    def _submit_again(self, run: OperatorRun) -> dict[str, Any]:
        # The input of the snapshot lacks files and signatures, so a new create calls the function again.
        self._call_function(run.context)
        return super()._submit_again(run)

    def _argument(self, name: str, given: Any, resolved: set[int]) -> Any:
        return handed_over(given, getattr(self, name), resolved, literals=True)

    def _restore_input(self, run: OperatorRun) -> None:
        """Note the return value of the function again after a deferral."""
        if not is_set_during_execution(self.input):
            super()._restore_input(run)
            return
        # The function runs once in each attempt, so its value comes from the snapshot of this attempt.
        ti = run.ti
        try:
            view = ti.xcom_pull(task_ids=ti.task_id, key=VIEW_KEY, map_indexes=ti.map_index)
        except Exception as error:  # noqa: BLE001 - Airflow may raise any error; the paid video matters more
            self.log.warning("What the function has returned could not be read again: %s", error)
            return
        if isinstance(view, dict) and isinstance(view.get("input"), dict):
            self.input = run.input = view["input"]


def _input_of(returned: object, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the inputs in the return value of a function.

    :raises VaceInputError: for a value that is neither inputs nor a prompt
    """
    if isinstance(returned, str) and returned.strip():
        return {"prompt": returned}
    if is_record(returned) or (isinstance(returned, Mapping) and returned):
        # A generator gives its items once only, so all later readers get its list.
        return read_input(returned)
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
    poll_interval: float | timedelta | None = None,
    timeout: float | timedelta = 3600,
    cancel_on_kill: bool = True,
    cancel_on_timeout: bool = True,
    save_to: str | Path | ObjectStoragePath | None = None,
    save_in: SaveIn = "worker",
    checks: CheckMode | None = None,
    check: Rule | None = None,
    max_regenerations: int | None = None,
    end_from_trigger: bool | None = None,
    durable: bool = True,
    reuse: Reuse = True,
    on_orphaned_intent: OnOrphanedIntent = "fail",
    label: str | None = None,
    max_cost: float | str | Decimal | None = None,
    partition_key: str | None = None,
    dry_run: bool | str = False,
    multiple_outputs: bool = False,
    **kwargs: Any,
) -> Callable[[Callable[FParams, VaceInput | dict[str, Any] | str]], Task[FParams, dict[str, Any]]]: ...


def vace_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool = False, **kwargs: Any
) -> Any:
    """Turn a function into a task for the video of the returned inputs.

    The function gets the context of the task by name, as in `@task`. The return value is a
    :class:`VaceInput`, or a prompt as text; neither is rendered as a template.

    The function runs once in each attempt, and once more before a regeneration after a deferral. It must
    return the same value for the same arguments: no clock, no chance. A retry goes on with the prediction
    that the earlier attempt has paid for, and logs a warning if the return value has changed.

    :param multiple_outputs: push each member of the payload as a separate XCom
    :param kwargs: parameters of :class:`~airflow_vace.operators.VacePredictionOperator` except `input`, and
        Airflow's (`retries`, `pool`, ...)
    :raises TypeError: for a coroutine or a generator function
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_VaceDecoratedOperator,
        **kwargs,
    )
