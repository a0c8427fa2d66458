"""The pytest fixture `vace_emulator`, there for whoever has this package installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.emulator import Emulator


@pytest.fixture
def vace_emulator() -> Iterator[Emulator]:
    """Run a fresh emulator, a thousand times as fast as life, for one test."""
    from airflow_vace.emulator import Emulator

    with Emulator(time_scale=0.001) as emulator:
        yield emulator
