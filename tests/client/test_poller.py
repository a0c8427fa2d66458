"""The poller that all waits of a connection share in an event loop: sharing, fairness, limits, changes."""

from __future__ import annotations

import asyncio
import contextvars
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.connection import get_async_connection

from airflow_vace import connection
from airflow_vace.client import poller
from airflow_vace.client.polls import MAX_POLLS
from airflow_vace.core.requests import Api
from airflow_vace.emulator import Emulator
from airflow_vace.hooks import VaceHook
from conftest import scale_waits
from support.polled import DONE, end_all, event_of, leftovers, looked_at, run, settled, submitted

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp

    from airflow_vace.client.settings import Settings
    from airflow_vace.client.shared import Connect
    from airflow_vace.prediction import Prediction


@pytest.fixture(autouse=True)
def _scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 0.02)


def joined(connect: Connect | None = None) -> poller.Poller:
    hook = VaceHook()
    return poller.join("vace_default", connect or hook.connect_again, timing=hook.timing)


def silent(_: str, __: bool) -> None:  # noqa: FBT001 - as the poller calls it
    """Write no lines."""


async def end_of(
    prediction: object,
    write: Callable[[str, bool], None] = silent,
    connect: Connect | None = None,
    poll_interval: float | None = None,
) -> Prediction:
    """Wait as a trigger does, with a log and a connection of the test's own."""
    mine = joined(connect)
    try:
        options = poller.WaitOptions(write=write, poll_interval=poll_interval)
        return await mine.wait_until_final(prediction, options)
    finally:
        await poller.leave(mine)


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids of connections, as they are looked up; each takes its time."""
    seen: list[str] = []

    async def slow(conn_id: str, **kwargs: Any) -> Any:
        seen.append(conn_id)
        await asyncio.sleep(0.05)
        return await get_async_connection(conn_id, **kwargs)

    monkeypatch.setattr(connection, "get_async_connection", slow)
    return seen


# --- what is shared --------------------------------------------------------------------------------


def test_many_waits_take_one_look_up_and_one_session(
    slow_emulator: Emulator, look_ups: list[str], sessions: list[aiohttp.ClientSession]
) -> None:
    created = submitted(60)
    sessions.clear()

    async def all_of_them() -> list[dict[str, Any]]:
        waits = [asyncio.create_task(event_of(each, poll_interval=0.1)) for each in created]
        await settled(slow_emulator, lambda: all(looked_at(slow_emulator, each) >= 3 for each in created))
        slow_emulator.faults.add(method="GET", patch=DONE, times=None)
        return await asyncio.gather(*waits)

    events = run(all_of_them())
    assert [event["id"] for event in events] == [each.id for each in created]
    assert {event["status"] for event in events} == {"succeeded"}
    assert len(look_ups) == 1
    assert len(sessions) == 1
    assert sessions[0].closed


def test_two_event_loops_share_nothing(slow_emulator: Emulator, look_ups: list[str]) -> None:
    (created,) = submitted(1)
    slow_emulator.faults.add(method="GET", patch=DONE, times=2)
    assert run(event_of(created))["status"] == "succeeded"
    assert run(event_of(created))["status"] == "succeeded"
    assert len(look_ups) == 2


def test_the_poller_ends_with_its_last_wait_and_starts_again(
    slow_emulator: Emulator, look_ups: list[str], sessions: list[aiohttp.ClientSession]
) -> None:
    first, second = submitted(2)
    sessions.clear()
    slow_emulator.faults.add(method="GET", patch=DONE, times=2)

    async def one_after_the_other() -> None:
        for created in (first, second):
            await event_of(created)
            assert leftovers() == []
            assert all(session.closed for session in sessions)

    run(one_after_the_other())
    assert len(look_ups) == 2
    assert len(sessions) == 2


def test_each_wait_logs_in_its_own_context(slow_emulator: Emulator) -> None:
    task_of: contextvars.ContextVar[str] = contextvars.ContextVar("task_of", default="nobody")
    said: list[tuple[str, str]] = []
    heard = asyncio.Event()

    def write(news: str, is_warning: bool) -> None:  # noqa: FBT001 - as the poller calls it
        said.append((task_of.get(), f"{is_warning} {news}"))
        if len(said) == 3 or "500" in news:
            heard.set()

    created = submitted(3)

    async def wait_as(name: str, prediction: Prediction) -> None:
        task_of.set(name)
        await end_of(prediction.id, write)

    async def all_of_them() -> None:
        waits = [asyncio.create_task(wait_as(f"task {n}", each)) for n, each in enumerate(created)]
        await heard.wait()
        heard.clear()
        slow_emulator.faults.add(method="GET", status=500, path=f"*/{created[1].id}")
        await heard.wait()
        slow_emulator.faults.add(method="GET", patch=DONE, times=None)
        await asyncio.gather(*waits)

    run(all_of_them())
    for number, each in enumerate(created):
        mine = [line for name, line in said if name == f"task {number}"]
        assert mine[0] == f"False Prediction {each.id}: starting"
        assert mine[-1] == f"False Prediction {each.id}: succeeded"
        assert len(mine) == (2 if number != 1 else len(mine))
    assert {name for name, _ in said} == {"task 0", "task 1", "task 2"}
    assert [name for name, line in said if "500" in line] == ["task 1"]


# --- joining and leaving ---------------------------------------------------------------------------


def test_a_wait_that_joins_during_a_request_is_not_lost(slow_emulator: Emulator) -> None:
    first, second = submitted(2)
    slow_emulator.faults.add(method="GET", path=f"*/{first.id}", delay=2.0, patch=DONE)
    slow_emulator.faults.add(method="GET", path=f"*/{second.id}", patch=DONE)

    async def join_late() -> list[dict[str, Any]]:
        slow = asyncio.create_task(event_of(first))
        await settled(slow_emulator, lambda: looked_at(slow_emulator, first) == 1)
        quick = await event_of(second)
        assert not slow.done()
        return [await slow, quick]

    assert [event["id"] for event in run(join_late())] == [first.id, second.id]


def test_a_canceled_wait_leaves_nothing_behind_and_the_others_go_on(slow_emulator: Emulator) -> None:
    first, second = submitted(2)
    slow_emulator.faults.add(method="GET", path=f"*/{first.id}", hang="before", times=None)

    async def cut_off() -> dict[str, Any]:
        leaving = asyncio.create_task(event_of(first))
        staying = asyncio.create_task(event_of(second))
        await settled(slow_emulator, lambda: looked_at(slow_emulator, first) == 1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        before = looked_at(slow_emulator, second)
        await settled(slow_emulator, lambda: looked_at(slow_emulator, second) >= before + 2)
        assert looked_at(slow_emulator, first) == 1
        slow_emulator.faults.add(method="GET", patch=DONE, times=None)
        return await staying

    assert run(cut_off())["id"] == second.id


def test_a_poll_that_is_canceled_before_its_start_frees_its_place(slow_emulator: Emulator) -> None:
    first, second = submitted(2)

    async def cut_off() -> dict[str, Any]:
        mine = joined()
        for _ in range(MAX_POLLS + 5):
            found = mine.wait_until_final(first.id, poller.WaitOptions(write=silent))
            wait = asyncio.create_task(found)
            await asyncio.sleep(0)  # it joins
            await asyncio.sleep(0)  # its poll is a task, and has not begun
            assert len(mine._polls.in_flight)
            wait.cancel()
            await asyncio.gather(wait, return_exceptions=True)
            assert not len(mine._polls.in_flight)
        slow_emulator.faults.add(method="GET", patch=DONE, times=None)
        event = await event_of(second)
        await poller.leave(mine)
        return event

    assert run(cut_off())["id"] == second.id


@pytest.mark.parametrize("output", ["https://a/b.mp4", f"data:video/mp4;base64,{'A' * 99_999}"])
def test_a_result_is_held_without_logs_and_files(slow_emulator: Emulator, output: str) -> None:
    (created,) = submitted(1)
    large = f"data:video/mp4;base64,{'B' * 99_999}"
    patch = {**DONE, "output": output, "logs": "x" * 99_999, "input": {"prompt": "a fox", "src_video": large}}
    slow_emulator.faults.add(method="GET", patch=patch, times=None)

    end = run(end_of(created.id, poll_interval=0.1))
    assert end.status == "succeeded"
    assert end.output == (None if output.startswith("data:") else output)
    assert end.logs is None
    assert end.input["prompt"] == "a fox"
    assert end.input["src_video"].startswith("data:video/mp4;sha256=")


def test_two_waits_for_the_same_prediction_both_end(slow_emulator: Emulator) -> None:
    (created,) = submitted(1)

    async def both() -> list[dict[str, Any]]:
        waits = [asyncio.create_task(event_of(created)) for _ in range(2)]
        await settled(slow_emulator, lambda: looked_at(slow_emulator, created) >= 2)
        slow_emulator.faults.add(method="GET", patch=DONE, times=None)
        return await asyncio.gather(*waits)

    assert {event["status"] for event in run(both())} == {"succeeded"}


def test_a_crash_reaches_all_waits_and_later_ones_start_again(slow_emulator: Emulator) -> None:
    created = submitted(3)

    def broken(news: str, _: bool) -> None:  # noqa: FBT001 - as the poller calls it
        if "500" in news:
            raise ZeroDivisionError

    async def crash() -> None:
        waits = [asyncio.create_task(end_of(each.id, broken)) for each in created]
        await settled(slow_emulator, lambda: all(looked_at(slow_emulator, each) for each in created))
        slow_emulator.faults.add(method="GET", status=500)
        for wait in waits:
            with pytest.raises(RuntimeError, match=r"vace_default.*ZeroDivisionError"):
                await wait
        # A poll that the crash has cut off may take an answer, so all answers are patched.
        slow_emulator.faults.add(method="GET", patch=DONE, times=None)
        await event_of(created[0])

    run(crash())


def test_a_bug_in_one_poll_reaches_its_wait_and_no_other(slow_emulator: Emulator) -> None:
    first, second = submitted(2)

    class Buggy(Api):
        def get(self, prediction: object) -> Any:
            request = super().get(prediction)
            if request.prediction_id == first.id:
                raise KeyError("a bug")
            return request

    async def connect() -> Settings:
        settings = await VaceHook().asettings()
        api = settings.api
        buggy = Buggy(backend=api.backend, base_url=api.base_url, prefix=api.prefix, key=api.key)
        return replace(settings, api=buggy)

    slow_emulator.faults.add(method="GET", path=f"*/{second.id}", patch=DONE)

    async def both() -> Prediction:
        waits = [asyncio.create_task(end_of(each.id, connect=connect)) for each in (first, second)]
        with pytest.raises(KeyError):
            await waits[0]
        return await waits[1]

    assert run(both()).id == second.id


# --- fairness --------------------------------------------------------------------------------------


def test_polls_that_hang_delay_no_others(slow_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, 1.0, slow_poll_seconds=0.05)
    created = submitted(MAX_POLLS + 20)
    hanging, free = created[: MAX_POLLS + 10], created[MAX_POLLS + 10 :]
    for each in hanging:
        slow_emulator.faults.add(method="GET", path=f"*/{each.id}", hang="before", times=None)

    async def all_of_them() -> None:
        waits = [asyncio.create_task(event_of(each, poll_interval=0.1)) for each in created]
        await settled(slow_emulator, lambda: all(looked_at(slow_emulator, each) >= 5 for each in free))
        assert all(looked_at(slow_emulator, each) == 1 for each in hanging)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(all_of_them())


def test_a_dead_connection_delays_no_other_connection(
    slow_emulator: Emulator, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (created,) = submitted(1)
    dead = json.dumps({"conn_type": "vace", "host": "http://127.0.0.1:9", "password": "k"})
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEAD", dead)
    connect(slow_emulator.connection)
    slow_emulator.faults.add(method="GET", patch=DONE)

    async def both() -> str:
        lost = [
            asyncio.create_task(event_of(f"p{n}", vace_conn_id="vace_dead", deadline=time.time() + 300))
            for n in range(100)
        ]
        await asyncio.sleep(0)
        status: str = (await event_of(created))["status"]
        assert not any(wait.done() for wait in lost)
        for wait in lost:
            wait.cancel()
        await asyncio.gather(*lost, return_exceptions=True)
        return status

    assert run(both()) == "succeeded"


def test_a_server_that_is_down_gets_few_polls_and_deadlines_hold(
    slow_emulator: Emulator,
) -> None:
    created = submitted(60)
    slow_emulator.faults.add(method="GET", status=502, times=None)
    deadline = time.time() + 1.5

    async def all_of_them() -> list[dict[str, Any]]:
        waits = [event_of(each, poll_interval=0.05, deadline=deadline) for each in created]
        return await asyncio.gather(*waits)

    events = run(all_of_them())
    assert time.time() >= deadline
    assert {event["status"] for event in events} == {"unknown"}
    # Each by its own clock would ask a thousand times.
    assert sum(looked_at(slow_emulator, each) for each in created) < 200


def test_when_the_server_is_back_all_predictions_are_polled_again(slow_emulator: Emulator) -> None:
    created = submitted(40)
    slow_emulator.faults.add(method="GET", status=503, times=30)
    slow_emulator.faults.add(method="GET", patch=DONE, times=None)

    async def all_of_them() -> list[dict[str, Any]]:
        return await asyncio.gather(*(event_of(each) for each in created))

    assert {event["status"] for event in run(all_of_them())} == {"succeeded"}


@pytest.mark.parametrize("backend", ["gateway", "replicate"])
def test_a_rate_limit_loses_no_wait_and_is_rarely_met(
    backend: str, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(time_scale=100.0) as server:
        connect(server.connection_to(backend=backend))
        created = submitted(40)
        server.limit = 50.0
        scale_waits(monkeypatch, 1.0, default_hold_seconds=1.0)

        async def all_of_them() -> list[dict[str, Any]]:
            waits = [asyncio.create_task(event_of(each, poll_interval=0.5)) for each in created]
            await asyncio.sleep(1.5)  # what a limit lets through is a matter of time
            end_all(server)
            return await asyncio.gather(*waits)

        assert {event["status"] for event in run(all_of_them())} == {"succeeded"}
        assert server.throttled <= max(0.05 * len(server.requests), MAX_POLLS)


# --- the connection --------------------------------------------------------------------------------


def test_a_changed_key_is_used_once_the_old_one_is_refused(
    slow_emulator: Emulator, connect: Callable[[str], None], look_ups: list[str], capfd: Any
) -> None:
    (created,) = submitted(1)

    async def change_it() -> dict[str, Any]:
        wait = asyncio.create_task(event_of(created, poll_interval=0.1))
        await settled(slow_emulator, lambda: looked_at(slow_emulator, created) >= 2)
        slow_emulator.api_key = "another-key"
        connect(slow_emulator.connection)
        slow_emulator.faults.add(method="GET", patch=DONE, times=None)
        return await wait

    assert run(change_it())["status"] == "succeeded"
    assert len(look_ups) == 2
    assert "401" not in capfd.readouterr().out


def test_the_connection_is_looked_up_again_after_some_minutes(
    slow_emulator: Emulator, look_ups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_waits(monkeypatch, 1.0, settings_refresh_seconds=0.3)
    (created,) = submitted(1)

    started = time.monotonic()

    async def wait_long() -> dict[str, Any]:
        wait = asyncio.create_task(event_of(created, poll_interval=0.1))
        await settled(slow_emulator, lambda: looked_at(slow_emulator, created) >= 15)
        slow_emulator.faults.add(method="GET", patch=DONE, times=None)
        return await wait

    assert run(wait_long())["status"] == "succeeded"
    assert 3 <= len(look_ups) <= 3 + (time.monotonic() - started) / 0.3


def test_a_changed_address_and_tls_are_used_without_losing_a_poll(
    slow_emulator: Emulator,
    connect: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    sessions: list[aiohttp.ClientSession],
) -> None:
    scale_waits(monkeypatch, 1.0, settings_refresh_seconds=0.1)
    (created,) = submitted(1)
    with Emulator(time_scale=100.0) as other:
        other.world.runs.update(slow_emulator.world.runs)

        async def move() -> dict[str, Any]:
            wait = asyncio.create_task(event_of(created.id, poll_interval=0.05))
            await settled(slow_emulator, lambda: looked_at(slow_emulator, created) >= 2)
            connect(other.connection_to(verify=False))
            await settled(other, lambda: looked_at(other, created) >= 2)
            other.faults.add(method="GET", patch=DONE, times=None)
            return await wait

        assert run(move())["status"] == "succeeded"
    assert len(sessions) == 2
    assert all(session.closed for session in sessions)


def test_a_connection_that_cannot_work_ends_each_wait_at_once(connect: Callable[[str], None]) -> None:
    connect(json.dumps({"conn_type": "vace", "host": "http://127.0.0.1:9"}))
    for _ in range(2):
        assert run(event_of("abc"))["status"] == "unknown"


def test_a_wait_survives_a_broken_ca_bundle(slow_emulator: Emulator, connect: Callable[[str], None]) -> None:
    (created,) = submitted(1)
    slow_emulator.faults.add(method="GET", patch=DONE)

    async def fix() -> dict[str, Any]:
        wait = asyncio.create_task(event_of(created))
        await asyncio.sleep(0.2)
        assert not wait.done()
        connect(slow_emulator.connection)
        return await wait

    connect(slow_emulator.connection_to(verify=__file__))
    assert run(fix())["status"] == "succeeded"


def test_the_queue_does_not_grow_with_replaced_entries(slow_emulator: Emulator) -> None:
    created = submitted(3)

    async def go() -> int:
        mine = joined()
        waits = [asyncio.create_task(event_of(each)) for each in created]
        await settled(slow_emulator, lambda: all(looked_at(slow_emulator, each) for each in created))
        for _ in range(100):
            for member in [each for same in mine._members.values() for each in same]:
                mine._polls.put(member, 60.0)
        longest = len(mine._polls.queue)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await poller.leave(mine)
        return longest

    assert 3 <= run(go()) <= 40


@pytest.mark.usefixtures("slow_emulator")
def test_lines_are_no_faster_than_a_triggerer_can_write() -> None:
    said: list[float] = []
    heard = asyncio.Event()

    def write(_: str, __: bool) -> None:  # noqa: FBT001 - as the poller calls it
        said.append(time.monotonic())
        if len(said) == 40:
            heard.set()

    created = submitted(40)

    async def go() -> None:
        waits = [asyncio.create_task(end_of(each.id, write, poll_interval=0.2)) for each in created]
        await heard.wait()
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(go())
    assert said[39] - said[0] >= 0.5
