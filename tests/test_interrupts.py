"""Interrupts of programs: they raise where a program waits, and nowhere else."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from airflow_vace.interrupts import check, late_interrupts, pause

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """Let no signal be ignored, as `nohup` and a shell's background job do with the tests."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_raises_at_the_next_check_and_not_before(number: int) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    done: list[str] = []

    def work() -> None:
        with late_interrupts():
            check()
            signal.raise_signal(number)
            done.append("the step after the signal")
            check()
            done.append("the step after the check")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["the step after the signal"]
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_an_interrupt_ends_a_pause() -> None:
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))

    def wait() -> None:
        with late_interrupts():
            timer.start()
            pause(3600)

    with pytest.raises(KeyboardInterrupt):
        wait()
    timer.join()


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with late_interrupts():
        signal.raise_signal(signal.SIGINT)
        pause(0.01)


def test_outside_of_the_block_a_pause_only_sleeps() -> None:
    check()
    pause(0.01)
