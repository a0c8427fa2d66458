"""Interrupts a test's thread as a signal of Airflow does, in the middle of a request."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@contextmanager
def interrupting(act: Callable[[], object], when: Callable[[], object]) -> Iterator[None]:
    """Call `act` once in the main thread, as soon as `when` returns a true value.

    Airflow calls `on_kill`, and raises its time-outs, from handlers of signals like this.
    """
    is_over = threading.Event()
    main = threading.main_thread().ident or 0
    happened: list[bool] = []

    def handle(_: int, frame: FrameType | None) -> None:
        # An error in a frame of coverage would leave its lock locked for ever, so the next signal acts.
        is_in_coverage = frame is not None and f"{os.sep}coverage{os.sep}" in frame.f_code.co_filename
        if not happened and not is_in_coverage:
            happened.append(True)
            act()

    def watch() -> None:
        while not (happened or is_over.wait(0.005)):
            if when():
                signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)
        assert happened, "nothing was interrupted"


def raising(error: type[BaseException]) -> Callable[[], None]:
    """Return a function that raises an error."""

    def act() -> None:
        raise error

    return act
