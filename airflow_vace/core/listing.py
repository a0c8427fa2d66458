"""Whether a page of the back-end's list, which shows a hundred predictions, is worth more than looks."""

from __future__ import annotations

# Fewer waits than this are looked at one by one.
FEWEST_WAITS = 20
# So many must be due together; the rest of a page comes for nothing.
_FEWEST_DUE = 3
# Pages that show fewer of ours than this are somebody else's.
_FEWEST_SHOWN = 5
_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 900.0


class Pages:
    """Decides between pages and single looks, by count and by what the last pages have shown."""

    def __init__(self) -> None:
        self._closed_until = float("-inf")
        self._pause = _FIRST_PAUSE

    def are_open(self, waits: int, now: float) -> bool:
        """Whether pages are to be had, with so many waits open."""
        return waits >= FEWEST_WAITS and now >= self._closed_until

    def is_worth(self, due: int) -> bool:
        """Whether a page should be asked for, with so many looks due."""
        return due >= _FEWEST_DUE

    def goes_on(self, shown: int) -> bool:
        """Whether the next page is worth a request, after one that showed so many of ours."""
        return shown >= _FEWEST_SHOWN

    def brought(self, shown: int, now: float) -> None:
        """Note how many of ours a first page showed."""
        if shown >= _FEWEST_SHOWN:
            self._pause = _FIRST_PAUSE
        else:
            self.failed(now)

    def failed(self, now: float) -> None:
        """Note that a list brought nothing, or no answer: single looks do without it for a while."""
        self._closed_until = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
