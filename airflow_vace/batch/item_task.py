"""One item of a batch as a task: parameters, log, and the end of its prediction."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import PredictionTimeout
from airflow_vace.task.checking import result_or_rejected
from airflow_vace.task.ending import retrying_for_free
from airflow_vace.task.polling import poll_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.checks import CheckMode, Rule
    from airflow_vace.submission.decision import OnOrphanedIntent
    from airflow_vace.task.operator_run import OperatorRun
    from airflow_vace.task.run import Reuse, SaveIn


class QuietLog:
    """The batch's log without lines at level info, since a batch has thousands of these.

    :param log: the task's log
    :param start: begins each line, such as the key of an item
    """

    def __init__(self, log: Any, start: str = "") -> None:
        self._log = log
        self._start = start.replace("%", "%%")

    def log(self, level: int, message: str, *args: Any) -> None:
        """Write a line, at level debug in place of info."""
        level = logging.DEBUG if level == logging.INFO else level
        self._log.log(level, f"{self._start}{message}", *args)

    def debug(self, message: str, *args: Any) -> None:
        """Write a line at level debug."""
        self.log(logging.DEBUG, message, *args)

    def info(self, message: str, *args: Any) -> None:
        """Write a line at level debug."""
        self.log(logging.INFO, message, *args)

    def warning(self, message: str, *args: Any) -> None:
        """Write a warning."""
        self.log(logging.WARNING, message, *args)

    def error(self, message: str, *args: Any) -> None:
        """Write an error."""
        self.log(logging.ERROR, message, *args)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTask:
    """The parameters of an operator for one item; see :class:`VacePredictionOperator`.

    `hook_of_thread` returns the hook of the present thread, because a session serves one thread.
    """

    hook_of_thread: Callable[[], VaceHook]
    log: Any
    input: Mapping[str, Any]
    model: str | None
    version: str | None
    vace_conn_id: str
    save_to: str
    timeout: float
    poll_interval: float | None
    cancel_on_kill: bool
    cancel_on_timeout: bool
    durable: bool
    reuse: Reuse
    on_orphaned_intent: OnOrphanedIntent
    video_label: str
    checks: CheckMode | None = None
    check: Rule | None = None
    max_regenerations: int | None = None
    arguments_digest: str | None = None
    save_in: SaveIn = "worker"
    end_from_trigger: bool | None = False
    # The batch counts the expenses of all items.
    max_cost: None = None
    # The batch asks for a dry run of all items.
    is_dry_run: bool = False
    wait_for_completion: bool = True
    deferrable: bool = False
    # The batch announces its assets and pushes its view itself.
    do_xcom_push: bool = False
    outlets: list[Any] = field(default_factory=list)
    partition_key: str | None = None
    map_index_template: str | None = None

    @property
    def hook(self) -> VaceHook:
        """The hook of the present thread."""
        return self.hook_of_thread()

    def get_template_env(self) -> NoReturn:
        """Raise, since no field of an item is a template."""
        raise NotImplementedError

    def defer(
        self, *, trigger: Any, method_name: str, kwargs: dict[str, Any], timeout: timedelta | None
    ) -> NoReturn:
        """Raise, since the batch defers for all items."""
        raise NotImplementedError


class Unfinished(Enum):
    """The reasons why an item has no payload yet."""

    RUNNING = auto()
    REJECTED = auto()


def finish(run: OperatorRun, prediction: Prediction, deadline: float | None) -> dict[str, Any] | Unfinished:
    """Return the payload of a success with saved files.

    :param run: the run of the item
    :param prediction: the last known state
    :param deadline: seconds since the epoch, by the server's clock
    :return: `RUNNING` for a prediction that still runs, `REJECTED` for a video whose place another
        prediction takes
    :raises VaceError: for an end that a retry of the task may improve
    :raises AirflowFailException: for any other end
    """
    wait = Wait(
        prediction=prediction,
        deadline=deadline,
        poll_interval=run.task.poll_interval,
        timing=run.hook.timing,
    )
    with retrying_for_free(run, prediction):
        try:
            polled = prediction if prediction.status.is_final else poll_once(run, wait)
        except PredictionTimeout as error:
            late = run.deadline.enforce(error, deadline)
            if late is None:
                return Unfinished.RUNNING
            polled = late
        if isinstance(polled, PollAgain):
            return Unfinished.RUNNING
        run.prediction = polled
        result = result_or_rejected(run, polled)
        return Unfinished.REJECTED if result is None else result
