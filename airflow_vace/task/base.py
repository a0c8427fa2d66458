"""Methods for Airflow on operator and sensor: rendering, links and `on_kill`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_vace.links import LINKS
from airflow_vace.task.airflow_internals import FROM_MAPPED
from airflow_vace.task.fields import is_native, render_as_text
from airflow_vace.task.kill import handle_kill
from airflow_vace.task.rendering import mask_fields, protect_data

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from airflow.sdk import Context

    from airflow_vace.hooks import VaceHook
    from airflow_vace.observability.lineage import Lineage
    from airflow_vace.prediction import Prediction
    from airflow_vace.task.run import SaveIn, TaskRun


class WaitingOperator(BaseOperator):
    """Base of the waiting tasks; DAG authors use the subclasses."""

    operator_extra_links = LINKS

    vace_conn_id: str
    save_to: Any
    save_in: SaveIn
    cancel_on_kill: bool
    end_from_trigger: bool | None
    # The parameter `label`: Airflow's graph shows the attribute `label` of a task as the task's name.
    video_label: Any = None
    partition_key: Any = None
    # The arguments of a mapped task's instance, which Airflow knows only until the templates are rendered.
    _given: Mapping[str, Any] | None = None
    # The run of this process; None until Airflow runs the task.
    _run: TaskRun | None = None

    def __new__(cls, *_: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        # A subclass may hide these arguments from `__init__`, so they are kept before its call.
        if kwargs.get(FROM_MAPPED):
            object.__setattr__(made, "_given", kwargs)
        return made

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Render the DAG file's text only, and mask secrets in URLs."""
        is_own = parent is self
        if is_own:
            index = getattr(context.get("ti"), "map_index", -1)
            protect_data(self, self._given, index, jinja_env, seen_oids)
            if is_native(self, jinja_env):
                template_fields = render_as_text(self, template_fields, context, seen_oids)
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        if is_own:
            self._given = None
            mask_fields(self)

    @cached_property
    def hook(self) -> VaceHook:
        """Hook of the task's connection; the first API call reads the connection."""
        # The hook imports HTTP clients, and DAG parsing imports this module.
        from airflow_vace.hooks import VaceHook

        return VaceHook(self.vace_conn_id)

    def on_kill(self) -> None:
        """Cancel the prediction if the task has ended for good.

        Airflow calls this after a SIGTERM and after an `execution_timeout`.
        """
        if self._run is not None:
            handle_kill(self._run)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return files and predictions of the task for OpenLineage; its provider calls this method."""
        del task_instance  # the run of this process knows more
        from airflow_vace.observability.lineage import Lineage

        found = Lineage()
        self.add_lineage(found)
        return found.for_openlineage()

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Return the same for a task that has failed, as far as known."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def add_lineage(self, lineage: Lineage) -> None:
        """Add the prediction of the task."""
        run = self._run
        if run is not None and run.prediction is not None:
            prediction = run.marked(run.prediction)
            model = prediction.model or getattr(self, "model", None)
            lineage.add(run.input or prediction.input, prediction.payload(), model=model)

    @property
    def linked_prediction(self) -> Prediction | None:
        """The prediction for the task's links."""
        return self._run.prediction if self._run is not None else None
