"""Order of an operator: the author's parameters, completed by connection and record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_vace.core.names import split_reference
from airflow_vace.submission.order import Order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.submission.record import Record
    from airflow_vace.task.run import TaskRun

    _Resolved = tuple[dict[str, Any], str, str | None]


class Orders:
    """Makes the orders of a task, and normalises the input once for each model.

    `latest` is the order of the last call, None before the first call.

    :param hook: the hook of the task's connection
    :param values: input of the task, or text from a template
    :param model: `owner/name`, None for the model of the record or the connection
    :param version: id of a version, None for that of the record or the connection
    :param arguments: digest of the values that other tasks have passed in
    :raises VaceInputError: if two models or two versions are named
    """

    def __init__(
        self,
        hook: VaceHook,
        values: Mapping[str, Any] | str,
        *,
        model: str | None,
        version: str | None,
        arguments: str | None,
    ) -> None:
        self.latest: Order | None = None
        self._hook = hook
        self._values = values
        self._model, self._version = split_reference(model or None, version or None)
        self._arguments = arguments
        self._resolved: dict[str | None, _Resolved] = {}

    def since(self, record: Record | None) -> Order:
        """Return the present order, the same object for an equal order.

        :param record: gives the model and the version that the author leaves to the connection, so that a
            change of the connection does not change the order of a retry
        :raises VaceInputError: for an input that the model cannot accept
        """
        # A retry must not become another order because somebody has edited the connection.
        model = self._model or (record.model if record is not None else None)
        if model not in self._resolved:
            self._resolved[model] = self._hook.resolved(self._values, model=model, version=self._version)
        values, model, version = self._resolved[model]
        order = Order(
            values=values,
            model=model,
            version=record.version if record is not None and self._continues(record, model) else version,
            conn_id=self._hook.vace_conn_id,
            arguments=self._arguments,
        )
        # An order keeps its digest, so an equal order must not be a new object.
        if self.latest is None or order != self.latest:
            self.latest = order
        return self.latest

    def _continues(self, record: Record, model: str) -> bool:
        """Return True if the record's version applies: no version by the author, and the same model."""
        is_same_model = record.model.lower() == model.lower() and record.conn_id == self._hook.vace_conn_id
        return not self._version and is_same_model


def note_input(run: TaskRun, order: Order, record: Record | None) -> None:
    """Note the input and the seed of the run's prediction.

    :param record: of the prediction; one that was made from another order leaves the input unknown
    """
    # The ledger draws a seed if the author gives none, so manifest and view show the one that was sent.
    run.recorded_seed = record.seed if record is not None else None
    if record is not None and record.fingerprint != order.fingerprint:
        run.input = {}
    elif run.recorded_seed is None:
        run.input = order.values
    else:
        run.input = order.with_seed(run.recorded_seed).values


def note_reused(run: TaskRun, order: Order, prediction: Prediction) -> None:
    """Note the input of a saved success, whose files need no further check.

    :param order: of this task, equal to the order of the prediction but for a random or a regenerated seed
    """
    run.is_saved, run.recorded_seed = True, prediction.seed
    has_known_seed = order.is_random or order.fixed_seed is not None
    if has_known_seed and prediction.seed is not None:
        order = order.with_seed(prediction.seed)
    run.input = order.values
