"""A Replicate-compatible server for laptops, tests and CI: real HTTP, real MP4s, scripted faults, a bill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_vace.emulator.faults import Fault as Fault
    from airflow_vace.emulator.server import Emulator as Emulator

_HOMES = {"Emulator": "server", "Fault": "faults"}


def __getattr__(name: str) -> Any:
    # pytest imports this package in every run, through its plugin, so the import must stay cheap.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
