"""Dry runs against a back-end with prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator import Emulator
    from support.tasks import Run

PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}


def priced(server: Emulator, input_roots: Path) -> str:
    """Return a connection to Replicate's face, with uploads, prices and files that tasks may send."""
    return server.connection_to(backend="replicate", prices=PRICES, input_roots=str(input_roots))


def plan(run: Run) -> str:
    """Return the message of the skip that ends a dry run."""
    with pytest.raises(AirflowSkipException) as caught:
        run.result()
    return str(caught.value)


def posts(server: Emulator) -> list[str]:
    """Return the paths of all POST requests."""
    return [request.path for request in server.requests if request.method == "POST"]
