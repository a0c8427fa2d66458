"""Interrupts of the package's programs: Ctrl-C, SIGTERM and a closed terminal."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SLICE_SECONDS = 0.1


class _Recorder:
    """A signal handler that only remembers that a signal has arrived."""

    def __init__(self) -> None:
        self.has_arrived = False

    def __call__(self, *_: object) -> None:
        self.has_arrived = True


@contextlib.contextmanager
def late_interrupts() -> Iterator[None]:
    """Let interrupts raise in :func:`check` and :func:`pause` only; for the main thread.

    Python itself raises KeyboardInterrupt between any two instructions: inside a library's import, a callback
    or the start of a process, where it can be lost, or can leave files and processes that nobody knows.
    """
    recorder = _Recorder()
    # `nohup` and background jobs ignore a signal, and so must the program.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, recorder) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Raise the interrupt that has arrived.

    :raises KeyboardInterrupt: if an interrupt has arrived in the block of :func:`late_interrupts`
    """
    handlers = map(signal.getsignal, _SIGNALS)
    if any(isinstance(handler, _Recorder) and handler.has_arrived for handler in handlers):
        raise KeyboardInterrupt


def pause(seconds: float) -> None:
    """Sleep, at most until an interrupt.

    :raises KeyboardInterrupt: as in :func:`check`, within a tenth of a second
    """
    until = time.monotonic() + seconds
    check()
    while (left := until - time.monotonic()) > 0:
        # A handler that does not raise lets `time.sleep` go on, so a long sleep would delay the interrupt.
        time.sleep(min(left, _SLICE_SECONDS))
        check()
