"""An event loop whose clock jumps to the next timer, for hours of waits within seconds."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

# A thread of the loop's executor, or a connection on loopback, is ready within this time.
_SETTLE_SECONDS = 0.0005


class _Selector(selectors.DefaultSelector):
    """Report ready files; without any, advance the clock instead of a sleep."""

    now = 0.0
    # Calls in threads, which take real time.
    calls = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout != 0:
            ready = super().select(_SETTLE_SECONDS)
        if not ready and self.calls:
            ready = super().select(1.0)
        elif not ready and timeout is not None:
            self.now += max(timeout, 0.0)
        return ready or (super().select(None) if timeout is None else ready)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop for servers and clients in one process."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Stop the virtual time while a thread runs."""
        call: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._clock.calls += 1
        call.add_done_callback(self._end_call)
        return call

    def _end_call(self, _: object) -> None:
        self._clock.calls -= 1

    def time(self) -> float:
        """Return the virtual seconds since the loop's start."""
        return self._clock.now


def run_virtually(work: Coroutine[Any, Any, Any]) -> Any:
    """Run work in a new loop with virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
