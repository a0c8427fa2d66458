"""The pytest fixture `vace_emulator`, available wherever this package is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.emulator import Emulator


@pytest.fixture
def vace_emulator() -> Iterator[Emulator]:
    """Run a new emulator for one test, at a thousand times real speed."""
    # Import here: pytest loads this plugin in every run, also where no test uses the emulator.
    from airflow_vace.emulator import Emulator

    with Emulator(time_scale=0.001) as emulator:
        yield emulator
