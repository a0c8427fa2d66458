"""A way to wait for many predictions, measured in a separate process.

Called by `waits.py`: `waiter.py NAME URL COUNT INTERVAL SECONDS`; prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Way = Callable[[int], Coroutine[Any, Any, Any]]

FINAL = ("succeeded", "failed", "canceled", "aborted")
KEY = "benchmark-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
# Seconds for the lookup of a connection in a triggerer; measured on Airflow 3.3.2.
LOOKUP_SECONDS = float(os.environ.get("VACE_LOOKUP_SECONDS", "0"))

lookups = 0


async def is_final(response: Any) -> bool:
    """Return True if HttpEventTrigger must fire."""
    return response.json()["status"] in FINAL


def ours(url: str, interval: float | None, backend: str = "gateway") -> Way:
    """Return a wait by VacePredictionTrigger."""
    extra = {"backend": backend, "verify": os.environ["SSL_CERT_FILE"]}
    connection = {"conn_type": "vace", "host": url, "password": KEY, "extra": extra}
    os.environ["AIRFLOW_CONN_VACE_DEFAULT"] = json.dumps(connection)
    from airflow_vace import connection as connections
    from airflow_vace.triggers import VacePredictionTrigger

    known = vars(connections)["get_async_connection"]

    async def slow(*args: Any, **kwargs: Any) -> Any:
        global lookups  # noqa: PLW0603 - a counter
        lookups += 1
        await asyncio.sleep(LOOKUP_SECONDS)
        return await known(*args, **kwargs)

    setattr(connections, "get_async_connection", slow)  # noqa: B010 - counted, and as slow as Airflow's lookup

    async def wait(number: int) -> Any:
        trigger = VacePredictionTrigger({"id": f"p{number}", "status": "starting"}, poll_interval=interval)
        return (await anext(aiter(trigger.run()))).payload["status"]

    return wait


def pages(url: str, interval: float | None) -> Way:
    """Return a wait by VacePredictionTrigger where the back-end lists."""
    return ours(url, interval, "replicate")


def http_event_trigger(url: str, interval: float | None) -> Way:
    """Return a wait by providers-http's HttpEventTrigger."""
    connection = {"conn_type": "http", "host": url, "extra": HEADERS}
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps(connection)
    from airflow.providers.http.triggers.http import HttpEventTrigger

    async def wait(number: int) -> Any:
        trigger = HttpEventTrigger(
            response_check_path="waiter.is_final",
            endpoint=f"/replicate/v1/predictions/p{number}",
            poll_interval=interval or 5.0,
        )
        return (await anext(aiter(trigger.run()))).payload

    return wait


def raw_pool(url: str, interval: float | None) -> Way:
    """Return a wait in a plain loop over a shared aiohttp session."""
    import aiohttp

    sessions: list[aiohttp.ClientSession] = []

    async def wait(number: int) -> Any:
        if not sessions:
            connector = aiohttp.TCPConnector(limit=32, keepalive_timeout=120)
            sessions.append(aiohttp.ClientSession(url, connector=connector, headers=HEADERS))
        while True:
            async with sessions[0].get(f"/replicate/v1/predictions/p{number}") as answer:
                status = (await answer.json())["status"]
            if status in FINAL:
                return status
            await asyncio.sleep(interval or 5.0)

    return wait


def own_sessions(url: str, interval: float | None) -> Way:
    """Return a wait in a plain loop with a separate session and TLS context."""
    import ssl

    import aiohttp

    async def wait(number: int) -> Any:
        context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
        connector = aiohttp.TCPConnector(ssl=context, keepalive_timeout=120)
        async with aiohttp.ClientSession(url, connector=connector, headers=HEADERS) as session:
            while True:
                async with session.get(f"/replicate/v1/predictions/p{number}") as answer:
                    status = (await answer.json())["status"]
                if status in FINAL:
                    return status
                await asyncio.sleep(interval or 5.0)

    return wait


def replicate_python(url: str, interval: float | None) -> Way:
    """Return a wait by replicate-python's `async_wait`."""
    os.environ["REPLICATE_POLL_INTERVAL"] = str(interval or 0.5)
    from replicate.client import Client

    client = Client(api_token=KEY, base_url=url)

    async def wait(number: int) -> Any:
        prediction = await client.predictions.async_get(f"p{number}")
        await prediction.async_wait()
        return prediction.status

    return wait


WAYS = {
    "ours": ours,
    "pages": pages,
    "HttpEventTrigger": http_event_trigger,
    "raw pool": raw_pool,
    "own sessions": own_sessions,
    "replicate-python": replicate_python,
}


def resident() -> int:
    """Return the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def measured(wait: Way, count: int, seconds: float) -> dict[str, Any]:
    """Wait for `count` predictions, at most `seconds`; the first fifth of the time is not measured."""
    lags: list[float] = []

    async def tick() -> None:
        # The delay of a short sleep is the lag of the loop.
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            lags.append(time.perf_counter() - before - 0.01)

    empty, start_cpu = resident(), time.process_time()
    tasks = [asyncio.create_task(wait(number)) for number in range(count)]
    ticking = asyncio.create_task(tick())
    start = time.monotonic()
    await asyncio.wait(tasks, timeout=seconds / 5)
    warm_cpu, warm_at = time.process_time(), time.time()
    # The first fifth opens connections, which a triggerer does only once.
    lags.clear()
    left = seconds - (time.monotonic() - start)
    _, open_ones = await asyncio.wait(tasks, timeout=max(left, 0.01))
    cpu, memory, until = time.process_time() - warm_cpu, resident() - empty, time.time()
    ticking.cancel()
    for task in open_ones:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    lags.sort()
    return {
        "cpu": cpu,
        "cpu_wait": time.process_time() - start_cpu,
        "from": warm_at,
        "until": until,
        "memory": memory,
        "lag_p99": lags[int(len(lags) * 0.99)] if lags else 0.0,
        "lag_max": lags[-1] if lags else 0.0,
        "ended": sum(1 for result in results if result in FINAL or isinstance(result, dict)),
        "lost": sum(1 for r in results if isinstance(r, Exception) or r == "unknown"),
        "lookups": lookups,
    }


def main() -> None:
    """Wait, and print the use of resources."""
    name, url, count, interval, seconds = sys.argv[1:]
    # Load the modules of a triggerer in every candidate: garbage collection walks through all of them.
    import airflow.jobs.triggerer_job_runner

    import airflow_vace.triggers

    del airflow, airflow_vace
    wait = WAYS[name](url, float(interval) or None)
    import logging

    logging.disable(logging.CRITICAL)  # the host pays for log lines, so they are not compared
    print(json.dumps(asyncio.run(measured(wait, int(count), float(seconds)))))


if __name__ == "__main__":
    sys.modules["waiter"] = sys.modules["__main__"]
    main()
