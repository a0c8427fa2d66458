"""Trouble of some predictions holds up no others, in virtual time.

The variable `VACE_FAIRNESS_RUNS` sets the number of runs of each scenario (default: 2).
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from support.troubled import TROUBLE, TroubledServer, ends_of
from support.virtual_time import run_virtually

RUNS = range(int(os.environ.get("VACE_FAIRNESS_RUNS", "2")))
WAITS = [f"p{number}" for number in range(45)]
TROUBLED, NOT_FOUND = WAITS[:30], WAITS[44]
REFUSALS = [kind for kind in TROUBLE if "429" in kind]


def ends_with(trouble: dict[str, list[str | None]], poll_interval: float | None = None) -> dict[str, float]:
    """Return the ends of 45 waits in random order; one of these predictions does not exist."""
    ids = random.sample(WAITS, len(WAITS))

    async def run() -> dict[str, float]:
        async with TroubledServer(trouble, {NOT_FOUND: "404"}) as server:
            return await ends_of(server, ids, poll_interval=poll_interval, seconds=96.0)

    ends: dict[str, float] = run_virtually(run())
    return ends


def scenario(name: str) -> dict[str, list[str | None]]:
    """Return the troubled polls of each troubled wait; None stands for a good answer between."""
    kinds = random.sample(list(TROUBLE), len(TROUBLE))
    match name:
        case "a kind each, twice":
            return {each: [kinds[number]] * 2 for number, each in enumerate(TROUBLED)}
        case "two kinds each":
            return {each: list(random.sample(kinds, 2)) for each in TROUBLED}
        case "a kind each, twice, after good answers":
            return {
                each: [None] * (1 + number % 3) + [kinds[number]] * 2 for number, each in enumerate(TROUBLED)
            }
        case "four refusals each":
            return {each: list(random.sample(REFUSALS, 4)) for each in TROUBLED}
        case _:
            raise AssertionError(name)


@pytest.mark.long
@pytest.mark.parametrize("seed", RUNS)
@pytest.mark.parametrize(
    "name",
    [
        *("a kind each, twice", "two kinds each", "a kind each, twice, after good answers"),
        "four refusals each",
    ],
)
def test_all_waits_end_in_time_beside_troubled_ones(name: str, seed: int) -> None:
    random.seed(seed)
    ends = ends_with(scenario(name))
    # Predictions end at 20 s, and a wait without trouble is polled each 10 s.
    assert max(end for each, end in ends.items() if each != NOT_FOUND) < 46
    assert set(ends) == set(WAITS)


@pytest.mark.long
@pytest.mark.parametrize("seed", RUNS)
def test_a_wait_with_all_kinds_of_trouble_takes_only_its_own_time(seed: int) -> None:
    random.seed(seed)
    trouble: dict[str, list[str | None]] = {
        each: random.sample([*list(TROUBLE)[::3] * 2], 2 * len(list(TROUBLE)[::3])) for each in TROUBLED
    }
    most = max(map(len, trouble.values()))
    ends = ends_with(trouble, poll_interval=1.0)
    healthy = [ends[each] for each in WAITS if each not in trouble and each != NOT_FOUND]
    assert max(healthy) < 25
    assert ends[NOT_FOUND] < 25
    # A troubled poll takes up to 1.2 s, or the time that the server states.
    assert max(ends.values()) < 2 * most
    assert len(ends) == len(WAITS)


@pytest.mark.parametrize(("poll_interval", "most"), [(None, 30), (1.0, 100)])
def test_a_server_that_goes_down_is_probed_singly_and_noticed_when_back(
    poll_interval: float | None, most: int
) -> None:
    random.seed(1)

    async def run() -> tuple[int, dict[str, float]]:
        async with TroubledServer({}, outage=(5.0, 65.0)) as server:
            ends = await ends_of(server, WAITS, poll_interval=poll_interval)
            return sum(5.0 <= moment < 65.0 for moment in server.times), ends

    polls, ends = run_virtually(run())
    assert polls < most
    assert len(ends) == len(WAITS)
    # The pause between two probes is no longer than the bound of a wait, 10 s without an interval.
    assert max(ends.values()) < 65 + (poll_interval or 10) + 5


@pytest.mark.long
@pytest.mark.parametrize("kind", ["429", "429 with 1"])
@pytest.mark.parametrize(("waits", "limit"), [(200, 50.0), (60, 20.0)])
def test_the_limit_of_an_account_is_learned_from_refusals(kind: str, waits: int, limit: float) -> None:
    random.seed(2)
    ids = [f"p{number}" for number in range(waits)]

    async def run() -> tuple[int, int, int]:
        async with TroubledServer({}, limit=limit, limit_trouble=kind, ends_at=30.0) as server:
            ends = await ends_of(server, ids)
            return server.refused, len(server.times), len(ends)

    refused, requests, ended = run_virtually(run())
    assert ended == waits
    # The first burst is refused before the limit is known.
    assert refused < 24 + 0.03 * requests


def test_virtual_time_takes_no_real_time() -> None:
    async def run() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert 3600 <= run_virtually(run()) < 3601
