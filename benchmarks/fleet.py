"""Capacity of a fleet: triggerers for a number of waits, and the effect of the rate limit.

Run with `uv run python benchmarks/fleet.py`; a few minutes. This is a simulation: the clock is virtual, the
decisions are the package's (`Wait`, `Pace`, `Pages` of `airflow_vace.core`), predictions are those of
`frontier.py`, and the costs are measurements of `waits.py` and `airflow_waits.py`, listed in
`benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from dataclasses import dataclass, field

from frontier import LATENCY, Run, runs

from airflow_vace.core.listing import Pages
from airflow_vace.core.rate_limit import Pace
from airflow_vace.core.schedule import Experience
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import VaceError, VaceRateLimited, VaceTransportError
from airflow_vace.prediction import Prediction

DAY = 86_400.0
# benchmarks/README.md: processor time of one poll, and of all of Airflow for one wait, by mode.
SECONDS_PER_POLL = 0.00037
SECONDS_PER_WAIT = {"deferred": 122 / 60, "ended there": 74 / 60, "started and ended there": 15.7 / 60}
# https://replicate.com/docs/topics/predictions/rate-limits
LIMIT = 50.0
CREATES = 10.0
PAGE = 100
ROUND_SECONDS = 2.0
# Predictions a day.
RATES = (10_000, 100_000, 800_000)
# Predictions arrive during this time.
SECONDS = 1800.0


class Server:
    """A vendor with a limit of requests a second and a burst of one second; outages are possible."""

    def __init__(self, limit: float, outage: tuple[float, float]) -> None:
        self.limit, self.outage = limit, outage
        self._allowance, self._counted = limit, 0.0
        self.asked = self.refused = self.asked_while_down = 0

    def trouble(self, now: float) -> VaceError | None:
        """Count a request, and return the error of a request without a regular response."""
        self.asked += 1
        if self.outage[0] <= now < self.outage[1]:
            self.asked_while_down += 1
            return VaceTransportError("down", sent=True)
        self._allowance = min(self._allowance + (now - self._counted) * self.limit, self.limit)
        self._counted = now
        if self._allowance < 1:
            self.refused += 1
            return VaceRateLimited("too many", status_code=429, retry_after=1.0)
        self._allowance -= 1
        return None


@dataclass
class Triggerer:
    """State of one triggerer: its waits, their next polls, and its request budget."""

    pace: Pace
    experience: Experience = field(default_factory=Experience)
    pages: Pages = field(default_factory=Pages)
    waits: dict[int, Wait] = field(default_factory=dict)
    due: list[tuple[float, int]] = field(default_factory=list)
    next_round: float = 0.0


@dataclass
class Outcome:
    """Result of a fleet: sorted lateness in seconds, outside and inside of the outage."""

    server: Server
    late: list[float]
    late_by_outage: list[float]
    open_at_most: int

    @property
    def polls_a_second(self) -> float:
        return self.server.asked / SECONDS


class Fleet:
    """Triggerers with predictions at a steady rate; all predictions end.

    :param per_day: predictions a day, shared by the triggerers
    :param lists: whether the back-end lists a hundred predictions per page
    :param outage: start and end of the outage, in seconds
    """

    def __init__(
        self,
        per_day: float,
        triggerers: int,
        *,
        lists: bool = False,
        outage: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.every, self.lists, self.outage = DAY / per_day, lists, outage
        self.runs = runs(1, max(int(SECONDS / self.every), 1), has_logs=True)
        for number, run in enumerate(self.runs):
            shift = number * self.every - run.timeline.created
            run.timeline.created += shift
            if run.fails_at is not None:
                run.fails_at += shift
        self.server = Server(LIMIT, outage)
        self.triggerers = [Triggerer(Pace(LIMIT if lists else None)) for _ in range(triggerers)]
        self.late = [0.0] * len(self.runs)
        self.open_now = self.open_at_most = 0

    def run(self) -> Outcome:
        """Run all triggerers until no wait is open."""
        for run in self.runs:
            due = self.triggerers[run.number % len(self.triggerers)].due
            heapq.heappush(due, (run.timeline.created + LATENCY, run.number))
        clock = [(one.due[0][0], index) for index, one in enumerate(self.triggerers) if one.due]
        heapq.heapify(clock)
        while clock:
            now, index = heapq.heappop(clock)
            one = self.triggerers[index]
            held = one.pace.delay(now)
            if held <= 0 and one.due[0][0] <= now:
                for number, trouble in self._ask(one, now):
                    self._answered(one, number, trouble, now + LATENCY)
                held = 0.0
            if one.due:
                heapq.heappush(clock, (max(now + held, one.due[0][0]), index))
        in_outage = [late for late, run in zip(self.late, self.runs, strict=True) if self._is_in_outage(run)]
        calm = [late for late, run in zip(self.late, self.runs, strict=True) if not self._is_in_outage(run)]
        return Outcome(self.server, sorted(calm), sorted(in_outage), self.open_at_most)

    def _is_in_outage(self, run: Run) -> bool:
        return self.outage[0] <= run.ended < self.outage[1]

    def _answered(self, one: Triggerer, number: int, trouble: VaceError | None, at: float) -> None:
        run = self.runs[number]
        if number not in one.waits:
            known = Prediction.from_json({"id": f"p{number}", "status": "starting"})
            one.waits[number] = Wait(prediction=known, experience=one.experience)
            self.open_now += 1
            self.open_at_most = max(self.open_at_most, self.open_now)
        wait = one.waits[number]
        decision = wait.failed(trouble, at) if trouble else wait.answered(run.state_at(at), at)
        if isinstance(decision, PollAgain):
            heapq.heappush(one.due, (at + decision.seconds, number))
        else:
            self.late[number] = at - run.ended
            del one.waits[number]
            self.open_now -= 1

    def _ask(self, one: Triggerer, now: float) -> list[tuple[int, VaceError | None]]:
        """Read pages if worthwhile, otherwise poll the prediction that is due first."""
        shown = self._pages(one, now) if self.lists and one.pages.are_open(len(one.waits), now) else []
        if shown:
            return shown
        _, number = heapq.heappop(one.due)
        one.pace.sent(now)
        trouble = self.server.trouble(now)
        _note(one.pace, trouble, now, f"p{number}")
        return [(number, trouble)]

    def _pages(self, one: Triggerer, now: float) -> list[tuple[int, VaceError | None]]:
        """Read pages, newest first, for all predictions that are due soon."""
        wanted = {number for due, number in one.due if due <= now + ROUND_SECONDS / 2}
        if now < one.next_round or not one.pages.is_worth(len(wanted)):
            return []
        one.next_round = now + ROUND_SECONDS
        end = min(int(now / self.every) + 1, len(self.runs))
        shown: set[int] = set()
        for first in range(end - PAGE, -PAGE, -PAGE):
            one.pace.sent(now)
            trouble = self.server.trouble(now)
            _note(one.pace, trouble, now, "list")
            if trouble is not None:
                one.pages.failed(now)
                break
            listed = range(max(first, 0), first + PAGE)
            ours = {number for number in listed if number in one.waits or number in wanted}
            shown |= ours
            if first == end - PAGE:
                one.pages.brought(len(ours), now)
            if wanted <= shown or not one.pages.goes_on(len(ours)):
                break
        one.due = [item for item in one.due if item[1] not in shown]
        heapq.heapify(one.due)
        return [(number, None) for number in shown]


def _note(pace: Pace, trouble: VaceError | None, now: float, who: str) -> None:
    if isinstance(trouble, VaceRateLimited):
        pace.refused(now + LATENCY, trouble.retry_after)
    elif trouble is not None:
        pace.failed(now + LATENCY, who)
    else:
        pace.answered(now + LATENCY)


def _at(values: list[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def sizes() -> None:
    """Print the results of several fleets at several rates."""
    print("Predictions that come evenly, half an hour; an account of 50 requests a second, unknown to it")
    print(
        "a day      triggerers  open at most  polls a second  refused  late: median    p95  poller, of a core"
    )
    for per_day in RATES:
        for triggerers in (1, 2, 4):
            out = Fleet(per_day, triggerers).run()
            _row(f"{per_day:>9,}  {triggerers:>10}", out, triggerers)
    print("\nThe same where the back-end lists, so that a page answers for up to a hundred")
    for per_day in RATES[1:]:
        for triggerers in (1, 2):
            _row(f"{per_day:>9,}  {triggerers:>10}", Fleet(per_day, triggerers, lists=True).run(), triggerers)


def _row(head: str, out: Outcome, triggerers: int) -> None:
    share = out.polls_a_second * SECONDS_PER_POLL / triggerers
    refused = out.server.refused / out.server.asked
    print(
        f"{head}  {out.open_at_most:>12,}  {out.polls_a_second:>14.1f}  {refused:>7.2%}"
        f"  {statistics.median(out.late):>11.1f} s  {_at(out.late, 0.95):>5.1f} s  {share:>17.2%}"
    )


def outages() -> None:
    """Print the effect of a ten-minute outage on lateness."""
    print("\nThe back-end is gone for ten minutes (of those that end meanwhile; counted from their end)")
    print(
        "a day      triggerers  asked a second meanwhile  late: median        p95  last one after it is back"
    )
    down = (600.0, 1200.0)
    for per_day in RATES:
        for triggerers in (1, 2):
            out = Fleet(per_day, triggerers, outage=down).run()
            asked = out.server.asked_while_down / (down[1] - down[0])
            late = out.late_by_outage
            ended = [run_late for run_late in late if run_late]
            last = max(ended, default=0.0)
            print(
                f"{per_day:>9,}  {triggerers:>10}  {asked:>24.2f}  {statistics.median(late):>10.0f} s"
                f"  {_at(late, 0.95):>7.0f} s  {max(last - (down[1] - down[0]), 0.0):>22.0f} s"
            )


def hosts() -> None:
    """Print the processor time of all of Airflow, by mode of the waits."""
    print("\nCores that all of Airflow keeps busy, by how the waits are run; creates limited to 10 a second")
    print("a day      " + "  ".join(f"{name:>22}" for name in SECONDS_PER_WAIT) + "   accounts, for creates")
    for per_day in RATES:
        cores = "  ".join(f"{per_day / DAY * seconds:>22.2f}" for seconds in SECONDS_PER_WAIT.values())
        print(f"{per_day:>9,}  {cores}  {max(1, -(-per_day // int(CREATES * DAY))):>22.0f}")


def main() -> None:
    """Print all tables."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    random.seed(1)
    sizes()
    outages()
    hosts()


if __name__ == "__main__":
    main()
