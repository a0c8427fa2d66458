"""The lines of `vace-emulator`: address and connection, and in a terminal each change of a prediction."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from airflow_vace.emulator.prices import EMULATOR_COST
from airflow_vace.terminal import is_moving, print_path

if TYPE_CHECKING:
    from rich.console import Console

    from airflow_vace.emulator.server import Emulator

_LOOK_SECONDS = 0.2
_STYLES = {"succeeded": "green", "failed": "red", "canceled": "yellow", "aborted": "yellow"}


class News:
    """The lines of a running emulator.

    :param console: without a terminal, only the address and the variables are printed: a program that starts
        the emulator may never read more
    """

    def __init__(self, console: Console, emulator: Emulator) -> None:
        self.console = console
        self.emulator = emulator
        self._known = {run.id: run.status_at(time.time()) for run in emulator.world.runs.values()}

    def print_start(self, variables: dict[str, str]) -> None:
        """Print the address, and the shell's commands that set the variables."""
        emulator, console = self.emulator, self.console
        if is_moving(console):
            from rich.text import Text

            title = Text.assemble(
                ("✓", "bold green"), " Serving prunaai/vace-14b at ", (emulator.url, "cyan")
            )
            console.print(title, soft_wrap=True)
            print_path(console, f"{emulator.url}/ has all predictions and the bill", f"{emulator.url}/")
            console.print(
                "Paste this into the terminal of Airflow; Ctrl-C ends the emulator:\n", soft_wrap=True
            )
        else:
            console.print(
                f"Serving prunaai/vace-14b at {emulator.url}; paste this, and stop with Ctrl-C:",
                soft_wrap=True,
            )
        for name, value in variables.items():
            console.print(f"export {name}='{value}'", soft_wrap=True)
        if is_moving(console):
            console.print()
        # A program that starts this one waits for the lines.
        console.file.flush()

    async def follow(self) -> None:
        """Print each change of a prediction, until cancelled."""
        while is_moving(self.console):
            self._print_changes()
            await asyncio.sleep(_LOOK_SECONDS)

    def print_end(self) -> None:
        """Print the bill."""
        if is_moving(self.console):
            self._print_changes()
            bill = self.emulator.bill
            count = len(bill["predictions"])
            counts = f"{count} prediction{'' if count == 1 else 's'}, {bill['charged']} charged."
            self.console.print(f"\nStopped: {counts}\nCost of each: {EMULATOR_COST}")

    def _print_changes(self) -> None:
        from rich.text import Text

        now = time.time()
        for run in list(self.emulator.world.runs.values()):
            status = run.status_at(now)
            if self._known.get(run.id) == status:
                continue
            is_new = run.id not in self._known
            self._known[run.id] = status
            finished = run.finished_at(now)
            note = f"after {finished - run.timeline.created:.1f} s" if finished else ""
            if is_new and finished is None:
                note = " ".join(str(run.input.get("prompt", "")).split())
            line = Text.assemble(
                (time.strftime("%H:%M:%S"), "dim"),
                f" {run.id} ",
                (f"{status:<10}", _STYLES.get(status, "")),
                " ",
                note,
            )
            self.console.print(line, no_wrap=True, overflow="ellipsis")
