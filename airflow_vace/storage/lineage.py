"""Reports to Airflow's lineage collector about files that a task reads and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_vace.hooks import VaceHook


def report_input(hook: VaceHook, uri: str) -> None:
    """Report a file as input of a prediction."""
    _report(hook, "add_input_asset", uri)


def report_output(hook: VaceHook, uri: str) -> None:
    """Report a file as output of a prediction."""
    _report(hook, "add_output_asset", uri)


def _report(hook: VaceHook, call: str, uri: str) -> None:
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    try:
        collector: Any = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        getattr(collector, call)(context=hook, uri=uri)
    except Exception as error:  # noqa: BLE001 - plugins may raise anything, and lineage is optional
        hook.log.warning("%s was not reported to lineage: %s", uri, type(error).__name__)
