"""Pages of a list that answer for many waits, and single polls where the list fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from conftest import scale_waits
from support.polled import DONE, end_all, event_of, looked_at, run, settled, submitted

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator
    from airflow_vace.prediction import Prediction


@pytest.fixture(autouse=True)
def _scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 0.02)


@pytest.fixture
def listing(slow_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    connect(slow_emulator.connection_to(backend="replicate"))
    return slow_emulator


def asked(server: Emulator) -> tuple[int, int]:
    """Return the number of pages and of single polls."""
    gets = [seen.path for seen in server.requests if seen.method == "GET"]
    pages = sum(path.split("?")[0].endswith("/predictions") for path in gets)
    return pages, len(gets) - pages


async def wait_for_all(server: Emulator, created: list[Prediction], pages: int) -> list[dict[str, Any]]:
    """Wait for all, until so many pages were asked for; then let them end."""
    waits = [asyncio.create_task(event_of(each, poll_interval=0.2)) for each in created]
    await settled(server, lambda: asked(server)[0] >= pages)
    end_all(server)
    return await asyncio.gather(*waits)


def test_pages_answer_for_many_waits_where_the_back_end_lists(listing: Emulator) -> None:
    created = submitted(150)
    events = run(wait_for_all(listing, created, 12))
    assert {event["status"] for event in events} == {"succeeded"}
    pages, looks = asked(listing)
    assert pages >= 12
    assert looks < 150


def test_a_gateway_is_asked_for_pages_only_if_its_connection_says_so(
    slow_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    created = submitted(40)

    async def wait_until(condition: Callable[[], bool]) -> None:
        waits = [asyncio.create_task(event_of(each, poll_interval=0.2)) for each in created]
        await settled(slow_emulator, condition)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(wait_until(lambda: asked(slow_emulator)[1] > 150))
    assert asked(slow_emulator)[0] == 0
    connect(slow_emulator.connection_to(lists=True))
    run(wait_until(lambda: asked(slow_emulator)[0] >= 3))


def test_predictions_that_no_page_shows_are_polled_singly(listing: Emulator) -> None:
    created = submitted(30)
    hidden = created[3]
    run_of_hidden = listing.world.runs.pop(hidden.id)

    class Hiding(dict):  # type: ignore[type-arg]
        """A list that lacks a prediction which a poll shows."""

        def get(self, key: str, default: Any = None) -> Any:
            return run_of_hidden if key == hidden.id else super().get(key, default)

    listing.world.runs = Hiding(listing.world.runs)

    async def go() -> list[dict[str, Any]]:
        waits = [asyncio.create_task(event_of(each, poll_interval=0.2)) for each in created]
        await settled(listing, lambda: asked(listing)[0] >= 3 and looked_at(listing, hidden) >= 3)
        for each in (*listing.world.runs.values(), run_of_hidden):
            each.timeline.boot = each.timeline.step = each.timeline.load = each.timeline.decode = 0.0
        return await asyncio.gather(*waits)

    assert {event["status"] for event in run(go())} == {"succeeded"}


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404},
        {"status": 500},
        {"status": 200, "body": "<html>"},
        {"status": 200, "body": {"results": [{"id": 5}]}},
        {"status": 200, "body": {"results": [], "next": None}},
        {"status": 200, "body": {"results": [], "next": "https://elsewhere.example/"}},
        {"reset": "before"},
    ],
    ids=str,
)
def test_waits_end_without_a_list_that_fails(listing: Emulator, fault: dict[str, Any]) -> None:
    created = submitted(30)
    listing.faults.add(method="GET", path="/v1/predictions", times=None, **fault)

    async def go() -> list[dict[str, Any]]:
        waits = [asyncio.create_task(event_of(each, poll_interval=0.2)) for each in created]
        await settled(listing, lambda: all(looked_at(listing, each) >= 2 for each in created))
        listing.faults.add(method="GET", path="/v1/predictions/*", patch=DONE, times=None)
        return await asyncio.gather(*waits)

    assert {event["status"] for event in run(go())} == {"succeeded"}
    assert 1 <= asked(listing)[0] <= 3


def test_a_list_that_hangs_delays_polls_for_seconds_only(
    listing: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 1.0, max_list_round_seconds=0.2)
    created = submitted(30)
    listing.faults.add(method="GET", path="/v1/predictions", hang="before", times=None)
    listing.faults.add(method="GET", path="/v1/predictions/*", patch=DONE, times=None)

    async def go() -> list[dict[str, Any]]:
        return await asyncio.gather(*(event_of(each) for each in created))

    assert {event["status"] for event in run(go())} == {"succeeded"}


def test_a_listed_success_without_output_is_polled_for_its_output(listing: Emulator) -> None:
    created = submitted(30)

    async def go() -> list[dict[str, Any]]:
        waits = [asyncio.create_task(event_of(each, poll_interval=0.2)) for each in created]
        await settled(listing, lambda: asked(listing)[0] >= 2)
        told = [{"id": each.id, "status": "succeeded", "created_at": each.created_at} for each in created]
        listing.faults.add(
            method="GET", path="/v1/predictions", times=None, status=200, body={"results": told, "next": None}
        )
        listing.faults.add(method="GET", path="/v1/predictions/*", patch=DONE, times=None)
        return await asyncio.gather(*waits)

    assert {event["output"] for event in run(go())} == {DONE["output"]}
