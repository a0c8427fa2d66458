"""VaceBatchOperator: many predictions in one task."""

from __future__ import annotations

__all__ = ("VaceBatchOperator",)

import math
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    conf,
)

from airflow_vace.exceptions import VaceError
from airflow_vace.task.airflow_internals import TRIGGER_FAILED
from airflow_vace.task.base import WaitingOperator
from airflow_vace.task.dry_run import is_dry_run
from airflow_vace.task.errors import can_submit_later, translated
from airflow_vace.task.fields import read_fields, seconds
from airflow_vace.task.parameters import check_batch
from airflow_vace.task.view import push_refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from decimal import Decimal
    from pathlib import Path
    from threading import Thread
    from typing import ClassVar, Literal

    from airflow.sdk import Context, ObjectStoragePath

    from airflow_vace.batch.job import BatchJob
    from airflow_vace.observability.lineage import Lineage
    from airflow_vace.storage.checks import CheckMode, Rule
    from airflow_vace.submission.decision import OnOrphanedIntent
    from airflow_vace.task.run import Reuse, SaveIn


class VaceBatchOperator(WaitingOperator):
    """Submit a prediction for each row of a list or a file, save all videos, and return the counts.

    One task, one deferral and one trigger serve all items, so an item costs almost no Airflow. Each item has
    a record of its own: a retry goes on with what runs, saves what has ended, and submits again only what
    failed and is worth another run.

    :param inputs: list of prompts or of inputs, or the path of a JSON Lines or CSV file, local or in a store
        (templated); see :func:`airflow_vace.batch.rows.read_rows`
    :param save_to: directory of the videos, local or in a store (templated); a video's name is its item's
        key, as in `s3://clips/2026-11-28/TR-101.mp4`
    :param key: member or column that names an item, unique in the batch (default: the position)
    :param model: `owner/name`, or `owner/name:version` (templated; default: the connection's, else
        prunaai/vace-14b)
    :param version: id of a version (templated; default: the connection's, else the model's latest)
    :param vace_conn_id: connection of type `vace` (templated)
    :param max_cost: greatest sum of the costs of this task's predictions, over all attempts and items, in the
        currency of the price (templated; default: no limit). A create that would pass the sum is not sent,
        and the rest of the items counts as skipped; needs a price, see :mod:`airflow_vace.core.pricing`
    :param max_in_flight: number of predictions that run at the vendor at once
    :param min_success: number (int) or share (float) of the items that must succeed, else the task fails
    :param on_bad_input: `fail` before anything is submitted, or `skip` rows that the model would refuse
    :param deferrable: wait in the triggerer (default: `[operators] default_deferrable`)
    :param poll_interval: greatest delay between an end and its notice, in seconds or as `timedelta`
        (default: 10 s, or 5 % of the time waited)
    :param timeout: time from an item's submission to its end, in seconds or as `timedelta` (default: 3600 s)
    :param cancel_on_kill: cancel the open predictions when the task is killed
    :param cancel_on_timeout: cancel a prediction at its deadline
    :param save_in: `worker`, or `triggerer` to save each video at once
    :param checks: `off`, `warn`, `fail` or `regenerate` for a saved video of another size or length than the
        input asks for, and for a black, frozen, one-coloured or damaged one: `warn` logs the problems, `fail`
        also fails the item, `regenerate` submits the item again with another seed, within `max_cost`. Each
        file stays (default: `warn` with the extra `video` installed, else `off`)
    :param check: a check of your own, `def check(facts, path) -> str | None`, which returns a problem; gets
        :class:`~airflow_vace.video.VideoFacts` and the path of the downloaded file, on a worker
    :param max_regenerations: number of further predictions of an item with `checks="regenerate"`, over all
        attempts, 1 to 10 (default: 1). `rejected` in the item's row lists its clips with problems
    :param durable: keep the records across attempts (Airflow 3.3+)
    :param reuse: return the successes to a task that is cleared; False submits all items again; "saved" also
        takes a video of an equal order that lies at `save_to` under the item's key, in any run of any DAG
    :param on_orphaned_intent: `fail` or `resubmit` after a create that was cut off at a back-end without a
        list of predictions; one unknown item blocks no other
    :param partition_key: partition of the asset events of `outlets`, such as `{{ ds }}` (templated; Airflow
        3.3+; an alias takes none)
    :param dry_run: check all items, their files, `save_to`, key and costs, log what the task would submit,
        and skip the task; nothing is submitted (templated; the connection's extra `dry_run` asks for the
        same)
    :raises ValueError: for parameters that cannot work together
    """

    template_fields: Sequence[str] = (
        "inputs",
        "key",
        "model",
        "version",
        "vace_conn_id",
        "save_to",
        "max_cost",
        "partition_key",
        "is_dry_run",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json"}
    ui_color = "#e9e3f7"

    def __init__(  # noqa: PLR0913 - a DAG author's parameters
        self,
        *,
        inputs: Any,
        save_to: str | Path | ObjectStoragePath,
        key: str | None = None,
        model: str | None = None,
        version: str | None = None,
        vace_conn_id: str = "vace_default",
        max_in_flight: int = 100,
        min_success: int | float = 1.0,  # noqa: PYI041 - an int is a number of items, a float a share
        on_bad_input: Literal["fail", "skip"] = "fail",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta | None = None,
        timeout: float | timedelta = 3600,
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        save_in: SaveIn = "worker",
        checks: CheckMode | None = None,
        check: Rule | None = None,
        max_regenerations: int | None = None,
        durable: bool = True,
        reuse: Reuse = True,
        on_orphaned_intent: OnOrphanedIntent = "fail",
        max_cost: float | str | Decimal | None = None,
        partition_key: str | None = None,
        dry_run: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inputs = inputs
        self.save_to = save_to
        self.key = key
        self.model = model
        self.version = version
        self.vace_conn_id = vace_conn_id
        self.max_in_flight = max_in_flight
        self.min_success = min_success
        self.on_bad_input = on_bad_input
        self.deferrable = deferrable
        self.poll_interval: float | None = seconds(poll_interval, None)
        self.timeout: float = seconds(timeout, 3600)
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.save_in = save_in
        self.checks = checks
        self.check = check
        self.max_regenerations = max_regenerations
        self.end_from_trigger = False
        self.durable = durable
        self.reuse = reuse
        self.on_orphaned_intent = on_orphaned_intent
        self.partition_key = partition_key
        self.max_cost = max_cost
        self.is_dry_run = dry_run
        self._job: BatchJob | None = None
        self._cancel: Thread | None = None
        check_batch(self)

    def execute(self, context: Context) -> dict[str, Any]:
        read_fields(self)
        with self._showing_failures(context):
            with translated(can_submit_later):
                asked = is_dry_run(self)
            if asked:
                from airflow_vace.batch.dry_run import dry_run_batch
                from airflow_vace.batch.job import prepare

                # Tasks downstream need the videos, so they are skipped too.
                raise AirflowSkipException(dry_run_batch(self, context, *prepare(self, context)))
        return self._go(context, is_resumed=False, ended=())

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Go on after the triggerer.

        :param event: `{"ended": [keys]}`, the items whose waits are over
        """
        return self._go(context, is_resumed=True, ended=tuple((event or {}).get("ended") or ()))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, on this worker after a failed trigger."""
        if next_method != TRIGGER_FAILED:
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning(
            "The wait in the triggerer ended without an answer (%s); waiting on this worker",
            (next_kwargs or {}).get("error"),
        )
        return self._go(context, is_resumed=True, ended=(), may_defer=False)

    def _go(
        self, context: Context, *, is_resumed: bool, ended: tuple[str, ...], may_defer: bool = True
    ) -> dict[str, Any]:
        # DAG parsing imports this module, and only a running task needs the rest.
        from airflow_vace.batch.job import BatchJob

        read_fields(self)
        with self._showing_failures(context), self._ending_on_timeout(), translated(lambda _: True):
            job = self._job = BatchJob.of(self, context, is_resumed=is_resumed)
            if not job.run(ended, may_leave=self.deferrable and may_defer):
                self._defer(job)
            return job.conclude()

    @contextmanager
    def _ending_on_timeout(self) -> Iterator[None]:
        """Cancel the open predictions at Airflow's own timeout, and wait for a cancel under way."""
        try:
            yield
        except AirflowTaskTimeout as error:
            self.on_kill()
            raise AirflowFailException(
                "execution_timeout ended the batch. Its open predictions are canceled unless"
                " cancel_on_kill=False. Use the operator's own timeout, which counts for each item."
            ) from error
        finally:
            if self._cancel is not None:
                self._cancel.join(self.hook.timing.max_on_kill_seconds)

    @contextmanager
    def _showing_failures(self, context: Context) -> Iterator[None]:
        """Show the error of the batch in the Videos tab."""
        try:
            yield
        except (VaceError, OSError, AirflowFailException, AirflowSensorTimeout) as error:
            if self._job is not None:
                self._job.view.push(error=error)
            elif self.do_xcom_push:
                push_refusal(context.get("ti"), self.vace_conn_id, error, self.log)
            raise

    def file_of(self, key: str) -> str:
        """Return the address of an item's video; another kind of output gets its own suffix."""
        return f"{self.save_to}{key}.mp4"

    def needed_of(self, count: int) -> int:
        """Return the number of items that must succeed, of all items."""
        share = self.min_success
        # A share such as 0.95 of 20 is a little more than 19 in binary.
        return math.ceil(share * count - 1e-9) if isinstance(share, float) else min(share, count)

    def add_lineage(self, lineage: Lineage) -> None:
        """Add the predictions of all items."""
        for item in self._job.items if self._job is not None else ():
            if item.payload is not None:
                values = item.row.input if item.row is not None else {}
                lineage.add(values, item.payload, model=item.payload.get("model") or self.model)

    def _defer(self, job: BatchJob) -> NoReturn:
        from airflow_vace.batch.trigger import VaceBatchTrigger

        timing = self.hook.timing
        now = self.hook.wall_clock()
        job.view.push()
        self.log.info("Waiting for %d predictions in the triggerer", len(job.work.open))
        self.defer(
            trigger=VaceBatchTrigger(**job.trigger_arguments(now + timing.min_deferral_seconds)),
            method_name="execute_complete",
            # Without a triggerer Airflow wakes the task itself, some time after the last deadline.
            timeout=timedelta(seconds=self.timeout + timing.deferral_grace_seconds),
        )

    def on_kill(self) -> None:
        """Cancel the open predictions if the task has ended for good."""
        from airflow_vace.batch.kill import handle_kill

        if self._job is not None and self._cancel is None:
            self._cancel = handle_kill(self._job.work, self, self._job.ti)
