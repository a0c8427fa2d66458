"""A batch in one process: from rows to items, work, and result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.batch.chunks import AttemptStore, Chunks
from airflow_vace.batch.costs import Costs, check_prices
from airflow_vace.batch.counts import Progress, View, counts_of, summary_of
from airflow_vace.batch.items import Item, State
from airflow_vace.batch.manifest import write_manifest
from airflow_vace.batch.rows import read_rows, refuse_bad_rows
from airflow_vace.batch.work import Work
from airflow_vace.connection import let_threads_take_turns
from airflow_vace.core.names import split_reference
from airflow_vace.exceptions import BatchFailed, VaceError, VaceInputError
from airflow_vace.storage.destination import Destination
from airflow_vace.storage.lineage import report_output
from airflow_vace.storage.masking import mask_signatures
from airflow_vace.storage.upload import InputFiles
from airflow_vace.task.airflow_internals import loses_channel_in_threads
from airflow_vace.task.budget import spending_of
from airflow_vace.task.checking import extra_missing, mode_of
from airflow_vace.task.errors import can_submit_later, translated
from airflow_vace.task.operator_run import model_of
from airflow_vace.task.partitions import add_partition
from airflow_vace.task.state import is_test_of_a_task
from airflow_vace.task.submitting import warn_of_lost_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_vace.batch.operator import VaceBatchOperator

_MAX_REASONS = 5


class BatchJob:
    """The items of a batch, their work, and their view.

    :param task: the operator, with rendered fields
    :param context: Airflow's context of the task instance
    :param items: all rows, bad ones included, in order
    :param work: the work on the items
    """

    def __init__(self, task: VaceBatchOperator, context: Context, items: Sequence[Item], work: Work) -> None:
        self.task = task
        self.context = context
        self.ti: Any = context.get("ti")
        self.items = items
        self.work = work
        self.costs = Costs(work.chunks.spending)
        ti = self.ti if task.do_xcom_push else None
        self.view = View(ti, task.vace_conn_id, items, self.costs, task.log)

    @classmethod
    def of(cls, task: VaceBatchOperator, context: Context, *, is_resumed: bool) -> BatchJob:
        """Read rows and records; send no create.

        :raises AirflowFailException: for a bad row, source or directory
        :raises LedgerError: if the records are out of reach
        """
        items, chunks = prepare(task, context)
        if not chunks.is_durable and not is_resumed:
            warn_of_lost_state(task.log, is_durable=task.durable)
        progress = Progress(items, task.log)
        work = Work(task, context, items, chunks, is_resumed=is_resumed, changed=lambda: job.note(progress))
        job = cls(task, context, items, work)
        if not is_resumed:
            task.log.info("%d items: %s", len(items), _beginning(items, chunks))
        return job

    def note(self, progress: Progress) -> None:
        """Log and show the progress after another tenth of the items."""
        if progress.note():
            self.view.push()

    def run(self, ended: Sequence[str], *, may_leave: bool) -> bool:
        """Work on the items; return False if the rest of the wait belongs into the triggerer.

        :param ended: keys of the items whose waits in the triggerer are over
        """
        self.work.look_at(ended)
        return self.work.run(may_leave=may_leave)

    def trigger_arguments(self, not_before: float) -> dict[str, Any]:
        """Return the arguments of the trigger that waits for the open items.

        :param not_before: earliest time of an event, in seconds since the epoch
        """
        task = self.task
        saves = task.save_in == "triggerer"
        return {
            "items": [
                [
                    *(key, running.prediction.id, running.deadline),
                    self.work.order_digest(key) if saves else None,
                    *(() if self.work.is_own(key) else (False,)),
                ]
                for key, running in self.work.open.items()
            ],
            "vace_conn_id": task.vace_conn_id,
            "poll_interval": task.poll_interval,
            "cancel_on_kill": task.cancel_on_kill,
            "wake_after": self.work.wake_after,
            "destination": replace(self.directory(), model=model_of(task)).as_json() if saves else None,
            "not_before": not_before,
        }

    def directory(self) -> Destination:
        """Return the destination of all items."""
        return read_directory(self.task, self.ti)

    # --- the end -----------------------------------------------------------------------------------

    def conclude(self) -> dict[str, Any]:
        """Write the manifest, announce the videos, and return counts and manifest.

        :raises BatchFailed: if too few items have succeeded, and a retry may help
        :raises AirflowFailException: if too few have succeeded, and no retry can help
        """
        rows = (self._row(item) for item in self.items)
        uri = write_manifest(self._manifest_uri(), rows, timing=self.task.hook.timing)
        counts = counts_of(self.items)
        self._announce(counts, uri)
        self.view.push(uri)
        self.task.log.info("%s; manifest: %s", summary_of(self.items), uri)
        wanted = [item for item in self.items if not item.is_left_out]
        missing = [item for item in wanted if item.state not in (State.SUCCEEDED, State.REUSED)]
        if len(wanted) - len(missing) < self.task.needed_of(len(wanted)):
            raise self._error(missing, len(wanted), uri)
        return {"counts": counts, "manifest": uri, "cost": self.costs.total(self.items)}

    def _error(self, missing: Sequence[Item], wanted: int, uri: str) -> Exception:
        needed = self.task.needed_of(wanted)
        reasons = "\n".join(f"- {item.key}: {item.error}" for item in missing[:_MAX_REASONS])
        more = f"\nand {len(missing) - _MAX_REASONS} more" if len(missing) > _MAX_REASONS else ""
        helped = sum(item.may_retry for item in missing)
        hopeless = "No retry can improve these, but a clear after a correction can"
        advice = f"A retry submits {helped} of them again" if helped else hopeless
        text = (
            f"{wanted - len(missing)} of {wanted} items succeeded, and min_success needs {needed}:"
            f" {summary_of(self.items)}. What succeeded is saved, and listed in {uri}. {advice}; the first"
            f" reasons:\n{reasons}{more}"
        )
        return BatchFailed(text) if helped else AirflowFailException(text)

    def _row(self, item: Item) -> dict[str, Any]:
        payload = item.payload or {}
        return {
            "key": item.key,
            "id": payload.get("id"),
            "status": str(item.state),
            "error": item.error,
            "seed": payload.get("seed"),
            "files": payload.get("files") or [],
            "cost": self.costs.of(item),
            # A member that depends on the item would move a column of this name in some rows only.
            **({"rejected": payload.get("rejected") or []} if self.task.checks == "regenerate" else {}),
            "columns": item.columns,
        }

    def _manifest_uri(self) -> str:
        # Runs may share the directory of the videos, and each has a result of its own.
        directory = self.directory()
        path = "/".join(directory.names) or self.task.task_id
        return f"{directory.save_to}{path}.manifest.jsonl"

    def _announce(self, counts: dict[str, int], uri: str) -> None:
        """Report the videos to lineage and to the task's assets."""
        from airflow.sdk import Asset, AssetAlias

        files = [file for item in self.items for file in (item.payload or {}).get("files") or ()]
        for file in files:
            report_output(self.task.hook, file["uri"])
        events: Any = self.context.get("outlet_events")
        for outlet in self.task.outlets if events is not None else ():
            if isinstance(outlet, AssetAlias):
                for file in files:
                    events[outlet].add(Asset(uri=file["uri"], name=file["uri"]), extra={"manifest": uri})
            elif isinstance(outlet, Asset):
                events[outlet].extra.update(
                    {"counts": counts, "manifest": uri, "cost": self.costs.total(self.items)}
                )
                add_partition(events[outlet], self.task.partition_key, self.task.log)


def prepare(task: VaceBatchOperator, context: Context) -> tuple[list[Item], Chunks]:
    """Return the rows as items, and the loaded records, after all checks of the batch as a whole.

    :raises AirflowFailException: for a bad row, source or directory
    :raises VaceTransportError: if the store of the rows or of the directory does not answer now
    :raises LedgerError: if the records are out of reach
    """
    let_threads_take_turns(loses_channel_in_threads())
    with translated():
        chunks = _chunks_of(task, context)
    chunks.load()
    chunks.spending.publish()
    # A store or a file may be back by the time of a retry, which fetches the videos that are paid for.
    with translated(lambda error: chunks.has_records or can_submit_later(error)):
        # The files of a prediction that is paid for may be gone, and each create checks its own.
        items = _items_of(task, checks_files=not chunks.has_records)
        check_directory(task, context.get("ti"), has_records=chunks.has_records)
    # Videos that are paid for are fetched whatever has changed since, and each create checks its price.
    if chunks.has_records:
        return items, chunks
    if (missing := extra_missing(task)) is not None:
        raise AirflowFailException(str(missing)) from missing
    with translated():
        model, version = split_reference(task.model or None, task.version or None)
        name = model or task.hook.settings.model
        check_prices(task.hook.pricing, chunks.spending, items, name, version)
    return items, chunks


def read_directory(task: VaceBatchOperator, ti: Any) -> Destination:
    """Return the destination of a batch.

    :raises VaceInputError: if `save_to` is no directory
    """
    found = Destination.of(task.save_to, ti)
    if found is None or not found.is_directory:
        raise VaceInputError(
            f"save_to is {task.save_to!r}; a batch needs a directory. Nothing was submitted.",
            field="save_to",
            value=task.save_to,
            remedy="give a directory with a slash at its end, such as 's3://bucket/clips/'",
        )
    return replace(found, checks=mode_of(task))


def check_directory(task: VaceBatchOperator, ti: Any, *, has_records: bool) -> None:
    """Check that videos can be saved, and write the directory as text into the task.

    :param has_records: predictions may be paid, so the wait goes on until the store is back
    :raises VaceInputError: if `save_to` is no directory, or cannot be written
    :raises VaceTransportError: if the store does not answer now
    """
    found = read_directory(task, ti)
    try:
        doubt = found.check()
    except VaceError as error:
        if not has_records:
            raise
        doubt = str(error)
    if doubt:
        task.log.warning("%s", doubt)
    task.save_to = found.save_to


def _beginning(items: Sequence[Item], chunks: Chunks) -> str:
    """Return the counts of the items, and how many of those that wait have been submitted before."""
    counts = summary_of(items)
    known = sum(item.state is State.WAITING and chunks.entry(item.key).record is not None for item in items)
    return f"{counts} ({known} of them submitted by an earlier attempt)" if known else counts


def _items_of(task: VaceBatchOperator, *, checks_files: bool) -> list[Item]:
    hook = task.hook
    model, version = split_reference(task.model or None, task.version or None)

    name = model or hook.settings.model
    files = InputFiles(hook, seconds=task.timeout, model=name)

    def check(values: dict[str, Any]) -> None:
        resolved, _, _ = hook.resolved(values, model=model, version=version)
        if checks_files:
            files.check_local(resolved)

    rows, bad = read_rows(task.inputs, key=task.key, model=name, check=check)
    if task.on_bad_input == "fail":
        refuse_bad_rows(bad, len(rows) + len(bad))
    # Rows of a file are no rendered fields, so Airflow masks nothing in them.
    mask_signatures([row.input for row in rows])
    items = [Item(position=row.position, key=row.key, row=row, columns=row.columns) for row in rows]
    for row in bad:
        task.log.warning("Left out: %s", row.problem)
        items.append(
            Item(
                position=row.position,
                key=row.key or f"row-{row.position}",
                row=None,
                columns=row.columns,
                state=State.SKIPPED,
                error=row.problem,
                may_retry=False,
                is_left_out=True,
            )
        )
    return sorted(items, key=lambda item: item.position)


def _chunks_of(task: VaceBatchOperator, context: Context) -> Chunks:
    """Return the records of the batch in the most durable store at hand."""
    ti, store = context.get("ti"), context.get("task_state_store")
    attempt = getattr(ti, "try_number", None) or 0
    spending = spending_of(task.max_cost, context)
    if is_test_of_a_task():
        # The state store may be that of a real run, whose records must stay as they are.
        return Chunks(AttemptStore(None), attempt, is_durable=False, spending=spending)
    if task.durable and store is not None:
        return Chunks(store, attempt, is_durable=True, spending=spending)
    of_attempt = AttemptStore(ti if task.deferrable else None)
    return Chunks(of_attempt, attempt, is_durable=False, spending=spending)
