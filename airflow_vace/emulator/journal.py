"""What an emulator has accepted, kept in a file: it can be killed and started again as a vendor's is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from airflow_vace.emulator.world import Run, Timeline

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """A file of JSON lines, a run in each; of a run that stands there twice, the last is true.

    :param path: the file; None keeps nothing
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def note(self, run: Run) -> None:
        """Write a run down, as it is now."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(run)) + "\n")

    def mend(self) -> None:
        """Drop a last line that was cut off: nobody was answered. Only for who writes it from now on."""
        if self.path is not None and self.path.exists():
            content = self.path.read_bytes()
            with self.path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)

    def runs(self) -> dict[str, Run]:
        """Return all runs by id, in the order in which they were accepted.

        A last line that is not whole is left out: it is being written, or whoever wrote it was killed.

        :raises ValueError: for what is no journal
        """
        if self.path is None or not self.path.exists():
            return {}
        *whole, _ = self.path.read_text(encoding="utf-8").split("\n")
        found: dict[str, Run] = {}
        for number, line in enumerate(whole, start=1):
            try:
                told = json.loads(line)
                run = Run(**told | {"timeline": Timeline(**told["timeline"])})
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{self.path}, line {number} is no run: {error}") from error
            found[run.id] = run
        return found
