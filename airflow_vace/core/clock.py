"""The clock of deadlines: no prediction is canceled by a single machine's clock."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_vace.core.timing import Timing


@dataclass(slots=True)
class Clock:
    """This machine's clock beside the server's, as the header `Date` of answers shows (RFC 9110, 6.6.1).

    Deadlines are kept in the server's time, because all machines share that clock.

    :param offset: seconds by which the server's clock is ahead; 0.0 while both agree, None before an answer
    :param agreed: the offset at the submission; if today's offset differs, a clock is wrong, and the later
        deadline holds
    :param tolerance: seconds within which two clocks agree
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
