"""The clock that deadlines count by: no prediction is canceled on the word of one machine's clock."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_vace.core.timing import Timing


@dataclass(slots=True)
class Clock:
    """This machine's clock beside the server's, shown by the header `Date` of its answers (RFC 9110, 6.6.1).

    Deadlines are kept in the server's time, which all machines share. `offset` is how far the server's clock
    is ahead, in seconds: 0.0 while both agree, None until an answer has shown it. `agreed` is the offset at
    the submission. If it differs from today's, one of three clocks is wrong, and the later deadline holds.
    """

    offset: float | None = None
    agreed: float | None = None
    tolerance: float = Timing().clock_tolerance_seconds

    @property
    def is_known(self) -> bool:
        """Return True if the server's clock was seen."""
        return self.offset is not None

    def note(self, served: float | None, now: float) -> None:
        """Compare the clocks after an answer; `served` is the server's time, `now` this machine's."""
        if served is not None:
            self.offset = served - now if abs(served - now) > self.tolerance else 0.0

    def at_server(self, moment: float) -> float:
        """Return the server's time at a moment of this machine's clock."""
        return moment + (self.offset or 0.0)

    def confirmed(self, now: float) -> float:
        """Return the server's time, as far as the clocks at the submission confirm it."""
        offset = self.offset or 0.0
        return now + (offset if self.agreed is None else min(offset, self.agreed))
