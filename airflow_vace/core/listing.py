"""The choice between a page of the back-end's list, with a hundred predictions, and single polls."""

from __future__ import annotations

# Fewer waits are polled singly, because a page would mostly show other predictions.
MIN_WAITS = 20
# The remaining predictions of a page come at no cost, so a few due polls are enough for a page.
_MIN_DUE = 3
# Pages with fewer predictions of ours show other users of the account, so pages pause for a while.
_MIN_SHOWN = 5
_FIRST_PAUSE_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 900.0


class Pages:
    """Choose between pages and single polls, by the number of waits and by the content of the last pages."""

    def __init__(self) -> None:
        self._closed_until = float("-inf")
        self._pause = _FIRST_PAUSE_SECONDS

    def are_open(self, waits: int, now: float) -> bool:
        """Return True if pages are useful for a number of waits."""
        return waits >= MIN_WAITS and now >= self._closed_until

    def is_worth(self, due: int) -> bool:
        """Return True if a number of due polls justifies a page."""
        return due >= _MIN_DUE

    def goes_on(self, shown: int) -> bool:
        """Return True if the next page is worth a request.

        :param shown: number of this poller's predictions on the last page
        """
        return shown >= _MIN_SHOWN

    def brought(self, shown: int, now: float) -> None:
        """Note the number of this poller's predictions on a first page."""
        if shown >= _MIN_SHOWN:
            self._pause = _FIRST_PAUSE_SECONDS
        else:
            self.failed(now)

    def failed(self, now: float) -> None:
        """Note a useless or failed list; single polls replace pages for a while."""
        self._closed_until = now + self._pause
        self._pause = min(self._pause * 2, _MAX_PAUSE_SECONDS)
