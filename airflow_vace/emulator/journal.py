"""A file of accepted predictions, for a restart of the emulator."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from airflow_vace.emulator.world import Run, Timeline

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """A JSON Lines file of runs; a later line replaces an earlier line with the same id.

    :param path: the file; None disables the journal
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def note(self, run: Run) -> None:
        """Append the current state of a run."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(run)) + "\n")

    def drop_partial_line(self) -> None:
        """Remove a truncated last line; only the file's next writer may call this.

        The writer was killed before the response, and no client knows of the run in this line.
        """
        if self.path is not None and self.path.exists():
            # Truncate in place: a rewritten file could lose runs if this process is killed as well.
            content = self.path.read_bytes()
            with self.path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)

    def runs(self) -> dict[str, Run]:
        """Return all runs by id, in order of acceptance.

        A partial last line is skipped: a writer is at work, or was killed there.

        :raises ValueError: if the file is not a journal; the message names the line
        """
        if self.path is None or not self.path.exists():
            return {}
        *whole, _ = self.path.read_text(encoding="utf-8").split("\n")
        found: dict[str, Run] = {}
        for number, line in enumerate(whole, start=1):
            try:
                members = json.loads(line)
                run = Run(**members | {"timeline": Timeline(**members["timeline"])})
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{self.path}, line {number} is not a run: {error}") from error
            found[run.id] = run
        return found
