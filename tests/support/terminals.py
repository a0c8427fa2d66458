"""Programs in a terminal of a given width, and what they write there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# The new session has no terminal of its own yet, so the program takes its input's. Tests in the background of
# a shell ignore Ctrl-C, and a program of a terminal does not.
_TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " signal.signal(signal.SIGINT, signal.SIG_DFL);"
    " os.execv(sys.executable, sys.argv[1:])"
)
_LINK = re.compile(r"\x1b\]8;[^\x1b]*\x1b\\")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-7]|9[0-7]|38)(?:;[0-9]+)*m")


class Terminal:
    """A program that runs in a terminal of its own.

    :param process: the program
    :param master: file descriptor of the terminal's other side
    """

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._is_open = True
        self.written = ""

    def read_until(self, text: str) -> None:
        """Read until a text appears; fail at the program's end."""
        while text not in self.written:
            assert self._read(), self.written

    def read_to_end(self) -> str:
        """Return all that the program has written."""
        while self._read():
            pass
        self.process.wait()
        return self.written

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def hang_up(self) -> None:
        """Close the terminal, as a person closes its window."""
        os.close(self._master)
        self._is_open = False

    def close(self) -> None:
        """Close the terminal unless it is closed."""
        if self._is_open:
            self.hang_up()

    def _read(self) -> bool:
        try:
            found = os.read(self._master, 65536)
        except OSError:
            # Linux reports the end of a terminal as an error.
            return False
        self.written += found.decode(errors="replace")
        return bool(found)


@contextlib.contextmanager
def terminal(*arguments: str, columns: int = 80, **environment: str) -> Iterator[Terminal]:
    """Run Python with these arguments in a terminal; kill the program at the end of the block."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    # Settings of the tests' own terminal must not count.
    own = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    with subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        # Ctrl-C reaches the programs of a session's own terminal only.
        start_new_session=True,
        env=inherited | {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment,
    ) as process:
        os.close(slave)
        running = Terminal(process, master)
        try:
            yield running
        finally:
            process.kill()
            running.close()


def plain(written: str) -> str:
    """Return what was written without colours, links and movements of the cursor."""
    return _CONTROL.sub("", _LINK.sub("", written)).replace("\r\n", "\n")
