"""Waits in separate event loops, and their leftovers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_vace.client import poller
from airflow_vace.hooks import VaceHook
from airflow_vace.triggers import VacePredictionTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from airflow_vace.emulator import Emulator
    from airflow_vace.prediction import Prediction

# A fault with this patch makes a response final.
DONE = {"status": "succeeded", "output": "https://example.com/a.mp4"}


def submitted(count: int) -> list[Prediction]:
    hook = VaceHook()
    return [hook.create_prediction({"prompt": f"fox {number}"}) for number in range(count)]


async def event_of(prediction: object, **kwargs: Any) -> dict[str, Any]:
    reference = prediction if isinstance(prediction, str | dict) else prediction.payload()  # type: ignore[attr-defined]
    async for event in VacePredictionTrigger(reference, **kwargs).run():
        payload: dict[str, Any] = event.payload
    return payload


async def settled(server: Emulator, condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(server.wait_for, condition)


def end_all(server: Emulator) -> None:
    """End all predictions."""
    for each in server.world.runs.values():
        each.timeline.boot = each.timeline.step = each.timeline.load = each.timeline.decode = 0.0


def looked_at(server: Emulator, prediction: Prediction) -> int:
    return sum(seen.method == "GET" and prediction.id in seen.path for seen in server.requests)


def leftovers() -> list[str]:
    """Return the names of the package's tasks and pollers in this event loop."""
    mine = [task.get_name() for task in asyncio.all_tasks() if "vace" in task.get_name()]
    return mine + [str(known) for known in poller._pollers.get(asyncio.get_running_loop(), {})]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def checked() -> Any:
        result = await asyncio.wait_for(work, 120)
        assert leftovers() == []
        return result

    return asyncio.run(checked())
