"""The trigger: events, stored kwargs, sessions, and kills."""

from __future__ import annotations

import asyncio
import json
import time
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk.execution_time.comms import TaskStatesResult

from airflow_vace import connection
from airflow_vace.core.timing import Timing
from airflow_vace.emulator.faults import PRESETS, rate_limited
from airflow_vace.exceptions import VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.triggers import VacePredictionStartTrigger, VacePredictionTrigger
from conftest import scale_waits

if TYPE_CHECKING:
    import aiohttp

    from airflow_vace.emulator import Emulator
    from airflow_vace.prediction import Prediction

# Thirty seconds of the schedule, in a hundredth of the time.
SCALE = 0.01


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_waits(monkeypatch, SCALE)


def most_looks(seconds: float) -> int:
    """How many looks fit into so many seconds of the schedule, jitter always at its shortest."""
    looks, passed, interval = 1, 0.0, 2.0
    while passed < seconds:
        passed += interval * 0.8
        interval = min(interval * 1.5, 15.0)
        looks += 1
    return looks


def most_looks_at_what_runs(seconds: float) -> int:
    """How many looks fit where answers come that tell no end: gaps of half the time waited, 10 s at most."""
    looks, passed = 1, 0.0
    while passed < seconds:
        passed += min(max(2.0, passed / 2), 10.0) * 0.85
        looks += 1
    return looks


def submitted(**kwargs: Any) -> Prediction:
    return VaceHook().create_prediction({"prompt": "a fox"}, **kwargs)


def event_of(trigger: VacePredictionTrigger) -> dict[str, Any]:
    """Run a trigger as a triggerer would: made anew from its row, which holds JSON."""
    classpath, kwargs = trigger.serialize()
    assert classpath == "airflow_vace.triggers.VacePredictionTrigger"

    async def first() -> dict[str, Any]:
        events = [event async for event in VacePredictionTrigger(**json.loads(json.dumps(kwargs))).run()]
        (event,) = events
        payload: dict[str, Any] = json.loads(json.dumps(event.payload))
        return payload

    return asyncio.run(first())


# --- the row ---------------------------------------------------------------------------------------


def test_a_trigger_is_made_from_any_kwargs_without_a_check() -> None:
    for nonsense in (None, "", {"id": "../x"}, 5):
        trigger = VacePredictionTrigger(nonsense)
        assert trigger.serialize()[1] == {"prediction": nonsense}


# What versions have stored; a name that stands here is never taken back.
STORED: list[tuple[type[VacePredictionTrigger], dict[str, Any]]] = [
    (
        VacePredictionTrigger,
        {
            "prediction": {"id": "abc"},
            "vace_conn_id": "another",
            "deadline": 1.5,
            "poll_interval": 2.0,
            "cancel_on_kill": True,
            "destination": {"uri": "s3://clips/"},
            "end_from_trigger": True,
            "do_xcom_push": False,
            "not_before": 3.0,
        },
    ),
    (
        VacePredictionStartTrigger,
        {
            "source": {"kind": "value", "value": "abc"},
            "vace_conn_id": "another",
            "timeout": 60.0,
            "poll_interval": 2.0,
            "cancel_on_kill": True,
            "end_from_trigger": False,
            "do_xcom_push": False,
            "saves": True,
            "label": "Trail shoe",
        },
    ),
]


@pytest.mark.parametrize(("kind", "stored"), STORED)
def test_stored_kwargs_survive_every_version(kind: Any, stored: dict[str, Any]) -> None:
    known = set(signature(kind.__init__).parameters) - {"self", "later"}
    assert known == set(stored), "a new kwarg belongs here too"
    assert kind(**stored).serialize()[1] == stored
    # An older version knows fewer: what nobody has asked for is not stored at all.
    first, *others = stored
    for name in others:
        few = {first: stored[first], name: stored[name]}
        assert kind(**few).serialize()[1] == few


@pytest.mark.parametrize("kind", [VacePredictionTrigger, VacePredictionStartTrigger])
def test_kwargs_of_a_later_version_stay_unchanged(kind: Any) -> None:
    trigger = kind("abc", do_xcom_push=False, colour="red")
    assert trigger.serialize()[1]["colour"] == "red"
    assert trigger.do_xcom_push is False


def test_a_wait_of_a_later_version_ends_as_any(
    fast_emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    assert event_of(VacePredictionTrigger(submitted().payload(), colour="red"))["status"] == "succeeded"
    assert "A later version deferred this; left alone: colour" in capfd.readouterr().out
    assert fast_emulator.bill["charged"] == 1


def test_a_reference_to_no_prediction_fails_in_the_trigger(fast_emulator: Emulator) -> None:
    with pytest.raises(VaceInputError):
        event_of(VacePredictionTrigger("../x"))
    assert fast_emulator.requests == []


# --- waiting ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scaled")
def test_the_event_is_the_final_payload(fast_emulator: Emulator) -> None:
    created = submitted()
    for reference in (created.payload(), created.id, created.urls["get"]):
        event = event_of(VacePredictionTrigger(reference))
        assert event["status"] == "succeeded"
        assert event["output"].startswith(fast_emulator.url)
        assert "logs" not in event
        assert "input" not in event


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("status", ["failed", "canceled", "aborted", "Cancelled"])
def test_every_final_status_is_an_end(slow_emulator: Emulator, status: str) -> None:
    created = submitted()
    slow_emulator.faults.add(method="GET", patch={"status": status})
    event = event_of(VacePredictionTrigger(created.payload()))
    assert event["status"] == {"Cancelled": "canceled"}.get(status, status)


@pytest.mark.usefixtures("scaled")
def test_the_event_at_the_deadline_has_the_last_known_state(slow_emulator: Emulator) -> None:
    created = submitted()
    deadline = time.time() + 0.2
    event = event_of(VacePredictionTrigger(created.payload(), deadline=deadline))
    assert time.time() >= deadline
    assert event["status"] == "starting"
    assert slow_emulator.bill["predictions"][0]["status"] == "starting"


FAULTS: dict[str, Any] = {
    "429 seconds": rate_limited("seconds", 0, times=None),
    "429 decimal": rate_limited("decimal", 0.01, times=None),
    "429 date": rate_limited("date", 0, times=None),
    "429 body": rate_limited("body", 0.01, times=None),
    "429 text": rate_limited("text", 0.01, times=None),
    "429 none": rate_limited("none", times=None),
    "500": {"status": 500},
    "503": {"status": 503, "body": {"detail": "busy"}},
    "no channel": {"status": 503, "body": {"error": {"message": "x", "code": "model_not_found"}}},
    "502 page": "bad_gateway",
    "408": {"status": 408},
    "reset": {"reset": "before"},
    "login page": "login_page",
    "truncated": {"truncate": 30},
    "torn": {"status": 200, "body": '{"id": "abc", "sta'},
    "garbage": "garbage",
    "empty": {"status": 200},
    "redirect": {"status": 302, "headers": {"Location": "https://elsewhere.example/"}},
    "error in a 200": {"status": 200, "body": {"error": {"message": "x"}}},
    "another id": {"patch": {"id": "another"}},
    "unknown status": "unknown_status",
    "backwards": "backwards",
    "no money": {"status": 402, "body": {"detail": "x"}},
    "hanging": {"hang": "before"},
}


def script(emulator: Emulator, fault: Any, **more: Any) -> None:
    if isinstance(fault, dict):
        emulator.faults.add(method="GET", **fault, **more)
    elif isinstance(fault, str):
        emulator.faults.add(PRESETS[fault], method="GET", **more)
    else:
        emulator.faults.add(fault, method="GET", **more)


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("name", FAULTS)
def test_a_server_in_trouble_is_asked_within_the_schedule_until_the_deadline(
    slow_emulator: Emulator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = submitted()
    # Only a look may be cut off: the create of a busy machine takes longer.
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", slow_emulator.connection_to(timeout=0.4))
    script(slow_emulator, FAULTS[name], times=None)
    seconds = 150  # of which a busy machine may need most before the first look
    event = event_of(VacePredictionTrigger(created.payload(), deadline=time.time() + seconds * SCALE))
    assert event["id"] == created.id
    assert event.get("status") not in ("succeeded", "failed", "canceled", "aborted")
    is_answer = name in ("unknown status", "backwards", "another id")
    most = most_looks_at_what_runs(seconds) if is_answer else most_looks(seconds)
    assert 1 <= len(slow_emulator.requests) - 1 <= most


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("name", FAULTS)
def test_trouble_never_ends_a_prediction_that_later_succeeds(
    fast_emulator: Emulator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = submitted()
    # Only a look may be cut off: the create of a busy machine takes longer.
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(timeout=0.4))
    script(fast_emulator, FAULTS[name], times=3)
    event = event_of(VacePredictionTrigger(created.payload(), deadline=time.time() + 30))
    assert event["status"] == "succeeded"


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize(
    ("status", "most"),
    [(401, Timing().max_auth_refusals), (403, Timing().max_auth_refusals), (404, Timing().max_not_found)],
)
def test_only_several_refusals_in_a_row_end_a_wait(fast_emulator: Emulator, status: int, most: int) -> None:
    created = submitted()
    fast_emulator.faults.add(method="GET", status=status, body={"detail": "no"}, times=most - 1)
    assert event_of(VacePredictionTrigger(created.payload()))["status"] == "succeeded"
    before = len(fast_emulator.requests)
    fast_emulator.faults.add(method="GET", status=status, body={"detail": "no"}, times=None)
    event = event_of(VacePredictionTrigger(created.payload(), deadline=time.time() + 3600))
    assert len(fast_emulator.requests) - before == most
    assert event == created.payload() | {"status": "unknown"}
    for reference, urls in ((created.urls["get"], {"get": created.urls["get"]}), (created.id, {})):
        unknown = event_of(VacePredictionTrigger(reference, deadline=time.time() + 3600))
        assert (unknown["id"], unknown["status"], unknown["urls"]) == (created.id, "unknown", urls)


@pytest.mark.usefixtures("scaled")
def test_the_time_that_a_limit_names_is_kept(slow_emulator: Emulator) -> None:
    created = submitted()
    slow_emulator.faults.add(rate_limited("decimal", 0.25, method="GET"))
    slow_emulator.faults.add(method="GET", patch={"status": "failed"})
    event_of(VacePredictionTrigger(created.payload()))
    _, first, second = slow_emulator.requests
    assert second.time - first.time >= 0.25


# --- what it costs, and leaves behind --------------------------------------------------------------


class Lookups:
    """Airflow's reads of a connection; each of the errors is raised once, before the connection is there."""

    def __init__(self) -> None:
        self.count = 0
        self.errors: list[Exception] = []

    async def answer(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return await get_async_connection(*args, **kwargs)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    found = Lookups()
    monkeypatch.setattr(connection, "get_async_connection", found.answer)
    return found


@pytest.mark.usefixtures("scaled")
def test_a_wait_reads_the_connection_once_and_closes_its_session(
    slow_emulator: Emulator, sessions: list[aiohttp.ClientSession], lookups: Lookups
) -> None:
    created = submitted()
    event_of(VacePredictionTrigger(created.payload(), deadline=time.time() + 150 * SCALE))
    assert len(slow_emulator.requests) > 3
    assert lookups.count == 1
    assert len(sessions) == 1
    assert sessions[0].closed


@pytest.mark.filterwarnings("ignore:coroutine method:RuntimeWarning")
def test_a_wait_that_is_cut_off_closes_its_session_and_cancels_nothing(
    slow_emulator: Emulator, sessions: list[aiohttp.ClientSession]
) -> None:
    created = submitted()

    async def cut_off() -> None:
        trigger = VacePredictionTrigger(created.payload(), cancel_on_kill=True)
        task = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.to_thread(slow_emulator.wait_for, lambda: len(slow_emulator.requests) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await trigger.cleanup()

    asyncio.run(cut_off())
    assert all(session.closed for session in sessions)
    assert slow_emulator.bill["predictions"][0]["status"] == "starting"


def test_the_connection_may_fail_to_be_read_for_a_while(fast_emulator: Emulator, lookups: Lookups) -> None:
    created = submitted()
    lookups.errors = [RuntimeError("the supervisor is away"), RuntimeError("the supervisor is away")]
    event = event_of(VacePredictionTrigger(created.payload(), poll_interval=0.05))
    assert event["status"] == "succeeded"
    assert lookups.count == 3
    assert fast_emulator.bill["charged"] == 1


def test_a_connection_that_is_said_not_to_be_there_may_come_back(
    fast_emulator: Emulator, lookups: Lookups
) -> None:
    created = submitted()
    missing = "The conn_id `vace_default` isn't defined"
    lookups.errors = [AirflowNotFoundException(missing), AirflowNotFoundException(missing)]
    event = event_of(VacePredictionTrigger(created.payload(), poll_interval=0.05))
    assert event["status"] == "succeeded"
    assert fast_emulator.bill["charged"] == 1


# --- being killed ----------------------------------------------------------------------------------


class Supervisor:
    """Answers the one question that a killed trigger has."""

    def __init__(self, states: dict[str, Any] | Exception | None) -> None:
        self.states = states

    async def asend(self, question: Any) -> TaskStatesResult | None:
        assert (question.dag_id, question.task_ids, question.run_ids) == ("d", ["t"], ["r"])
        if isinstance(self.states, Exception):
            raise self.states
        return None if self.states is None else TaskStatesResult(task_states=self.states)


def task_instance(map_index: int = -1) -> Any:
    return SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=map_index)


def killed(
    created: Prediction,
    states: dict[str, Any] | Exception | None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    map_index: int = -1,
    **kwargs: Any,
) -> None:
    monkeypatch.setattr(
        "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", Supervisor(states), raising=False
    )
    trigger = VacePredictionTrigger(created.payload(), **{"cancel_on_kill": True, **kwargs})
    trigger.task_instance = task_instance(map_index)
    asyncio.run(trigger.on_kill())


@pytest.mark.parametrize(
    ("states", "canceled"),
    [
        ({"r": {"t": "failed"}}, True),
        ({"r": {"t": "success"}}, True),
        ({"r": {"t": "skipped"}}, True),
        ({"r": {"t": "upstream_failed"}}, True),
        ({"r": {"t": "removed"}}, True),
        ({"r": {}}, True),
        ({}, True),
        ({"r": {"t": "deferred"}}, False),
        ({"r": {"t": "queued"}}, False),
        ({"r": {"t": None}}, False),
        (RuntimeError("no answer"), False),
        (None, False),
    ],
)
def test_only_an_end_by_a_person_cancels(
    slow_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, states: Any, *, canceled: bool
) -> None:
    created = submitted()
    killed(created, states, monkeypatch)
    assert slow_emulator.bill["predictions"][0]["status"] == ("canceled" if canceled else "starting")


def test_a_mapped_task_is_asked_for_by_its_index(
    slow_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = submitted()
    killed(created, {"r": {"t_3": "deferred"}}, monkeypatch, map_index=3)
    assert slow_emulator.bill["predictions"][0]["status"] == "starting"
    killed(created, {"r": {"t_3": "failed"}}, monkeypatch, map_index=3)
    assert slow_emulator.bill["predictions"][0]["status"] == "canceled"


def test_nothing_is_canceled_unless_asked_for_or_without_a_task(
    slow_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = submitted()
    killed(created, {"r": {"t": "failed"}}, monkeypatch, cancel_on_kill=False)
    asyncio.run(VacePredictionTrigger(created.payload(), cancel_on_kill=True).on_kill())
    assert slow_emulator.bill["predictions"][0]["status"] == "starting"


@pytest.mark.usefixtures("scaled")
def test_a_failed_cancel_is_retried_and_warns_of_the_bill(
    slow_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    created = submitted()
    slow_emulator.faults.add(path="*/cancel", status=500)
    killed(created, {"r": {"t": "failed"}}, monkeypatch)
    assert slow_emulator.bill["predictions"][0]["status"] == "canceled"
    another = submitted()
    slow_emulator.faults.add(path="*/cancel", status=500, times=None)
    killed(another, {"r": {"t": "failed"}}, monkeypatch)
    assert f"Prediction {another.id} could not be canceled and may run, and be billed" in (
        capfd.readouterr().out
    )
    slow_emulator.faults.clear()
    before = len(slow_emulator.requests)
    slow_emulator.faults.add(path="*/cancel", status=401, times=None, body={"detail": "no"})
    killed(another, {"r": {"t": "failed"}}, monkeypatch)
    assert len(slow_emulator.requests) == before + 1


def test_a_cancel_goes_on_when_its_second_is_over(
    slow_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = submitted()
    slow_emulator.faults.add(path="*/cancel", delay=0.3)
    monkeypatch.setattr(
        "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS",
        Supervisor({"r": {"t": "failed"}}),
        raising=False,
    )

    async def kill_and_kill_again() -> None:
        trigger = VacePredictionTrigger(created.payload(), cancel_on_kill=True)
        trigger.task_instance = task_instance()
        task = asyncio.create_task(trigger.on_kill())
        await asyncio.to_thread(slow_emulator.wait_for, lambda: len(slow_emulator.requests) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        def is_canceled() -> bool:
            return bool(slow_emulator.bill["predictions"][0]["status"] == "canceled")

        await asyncio.to_thread(slow_emulator.wait_for, is_canceled)

    asyncio.run(kill_and_kill_again())
