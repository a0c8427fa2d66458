"""Output of the package's programs: colour and motion in a terminal, plain lines elsewhere."""

from __future__ import annotations

import argparse
import io
import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_FRAMES_PER_SECOND = 8
# Below this width, in columns, a line has no room for a bar.
_MIN_BAR_WIDTH = 72
_WIDE = 100


def new_console(file: Any = None) -> Console:
    """Return a console that respects `NO_COLOR`, pipes, and the encoding of the output.

    :param file: a text stream (default: standard output)
    """
    from rich.console import Console

    stream = file or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        # A prompt may have any letter, and a letter that the output cannot encode must not end the program.
        stream.reconfigure(errors="replace")
    # Markup is off since brackets in a prompt would be read as styles.
    return Console(file=stream, highlight=False, markup=False, emoji=False)


def is_moving(console: Console) -> bool:
    """Return True if the console can redraw a line."""
    return console.is_terminal and not console.is_dumb_terminal


def print_path(console: Console, path: str, uri: str) -> None:
    """Print a path or an address on a line of its own, as a link where the terminal has links.

    :param uri: target of the link
    """
    from rich.style import Style
    from rich.text import Text

    # The terminal itself wraps a long path, so that a copy of the path has no line end inside.
    console.print(Text(path, Style(link=uri, color="cyan")), soft_wrap=True)


def port_number(text: str) -> int:
    """Return a port; 0 means any free one.

    :raises argparse.ArgumentTypeError: if the number is not between 0 and 65535
    """
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return number


class Steps:
    """The steps of a program: a moving line for the running one, a line with a mark for each finished one.

    A context manager; an error inside marks the running step as failed. Outside of a terminal each step and
    each tenth of its progress is a line.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._start = time.monotonic()
        self._name: str | None = None
        self._detail = ""
        self._percent: float | None = None
        self._printed_tenth: int | None = None
        self._live: Any = None

    def __enter__(self) -> Self:
        if is_moving(self.console):
            from rich.live import Live
            from rich.spinner import Spinner

            self._spinner = Spinner("dots" if self._is_utf() else "line", style="cyan")
            self._live = Live(
                self, console=self.console, refresh_per_second=_FRAMES_PER_SECOND, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed, self._name = self._name, None
        if self._live is not None:
            self._live.stop()
        if kind is not None and failed is not None:
            self._print("✗", "x", "red", failed)

    @property
    def seconds(self) -> float:
        """Seconds since the start of the program's first step."""
        return time.monotonic() - self._start

    def begin(self, name: str) -> None:
        """Show a new step as running; the step before it ends without a mark."""
        self._name, self._detail, self._percent, self._printed_tenth = name, "", None, None
        if self._live is None:
            self.console.print(f"{name} …" if self._is_utf() else f"{name} ...", soft_wrap=True)

    def update(self, detail: str, percent: float) -> None:
        """Show the progress of the running step.

        :param detail: the progress in words
        :param percent: 0 to 100
        """
        self._detail, self._percent = detail, percent
        if self._live is None and self._printed_tenth != percent // 10:
            self._printed_tenth = int(percent // 10)
            self.console.print(f"  {detail}", soft_wrap=True)

    def done(self, text: str) -> None:
        """Print a line with a check mark for the step that has ended."""
        self._name = None
        self._print("✓", "+", "green", text)

    def _is_utf(self) -> bool:
        return self.console.encoding.startswith("utf")

    def _print(self, mark: str, plain_mark: str, color: str, text: str) -> None:
        from rich.text import Text

        shown = mark if self._is_utf() else plain_mark
        self.console.print(Text.assemble((shown, f"bold {color}"), " ", text), soft_wrap=self._live is None)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the running step: spinner, name, bar, detail and the time since the start."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        del console
        if self._name is None:
            return
        width = options.max_width
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=1)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        cells: list[Any] = [self._spinner, self._name]
        if self._percent is not None and width >= _MIN_BAR_WIDTH:
            grid.add_column(width=30 if width >= _WIDE else 14)
            cells.append(ProgressBar(total=100, completed=self._percent))
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        grid.add_column(no_wrap=True, justify="right", style="dim")
        seconds = int(self.seconds)
        grid.add_row(*cells, self._detail, f"{seconds // 60}:{seconds % 60:02d}")
        yield grid
