"""The clock that deadlines count by: no prediction is canceled on the word of one machine's clock."""

from __future__ import annotations

from dataclasses import dataclass

# What a request's way and the whole seconds of `Date` make of two clocks that agree.
TOLERANCE_SECONDS = 30.0
# A clock that is further off says nothing about a duration of minutes.
LARGEST_OFFSET_SECONDS = 86400.0


@dataclass(slots=True)
class Clock:
    """This machine's clock beside the server's, shown by the header `Date` of its answers (RFC 9110, 6.6.1).

    `offset` is how far the server's clock is ahead, in seconds: 0.0 while both agree, None until an answer
    has shown it.
    """

    offset: float | None = None

    @property
    def is_known(self) -> bool:
        """Return True if the server's clock was seen."""
        return self.offset is not None

    def note(self, served: float | None, now: float) -> None:
        """Compare the clocks after an answer; `served` is the server's time, `now` this machine's."""
        if served is None:
            return
        offset = served - now
        if abs(offset) <= LARGEST_OFFSET_SECONDS:
            self.offset = offset if abs(offset) > TOLERANCE_SECONDS else 0.0

    def earlier(self, now: float) -> float:
        """Return the earlier of both clocks: a deadline that it has reached, both have reached."""
        return now + min(self.offset or 0.0, 0.0)

    def at_server(self, moment: float) -> float:
        """Return the server's time at a moment of this machine's clock: other machines share that one."""
        return moment + (self.offset or 0.0)
