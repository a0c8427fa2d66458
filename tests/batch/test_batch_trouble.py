"""A batch in trouble: lost creates, refusals, kills, time-outs; nothing is paid twice or lost."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout

from airflow_vace.batch.trigger import VaceBatchTrigger
from airflow_vace.exceptions import BatchFailed, LedgerError, VaceInputError, VaceTransportError
from airflow_vace.storage.destination import Destination
from conftest import scale_waits
from support.batches import MODES, batch, billed, rows_of
from support.films import MP4
from support.interrupts import interrupting, raising
from support.tasks import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def replicate(fast_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    connect(fast_emulator.connection_to(backend="replicate"))
    return fast_emulator


@pytest.fixture
def gateway(fast_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    connect(fast_emulator.connection_to(backend="gateway"))
    return fast_emulator


@pytest.fixture
def running(slow_emulator: Emulator, connect: Callable[[str], None]) -> Emulator:
    """A server whose predictions run on and on."""
    connect(slow_emulator.connection_to(backend="replicate"))
    return slow_emulator


@pytest.fixture
def airflow_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the state of the task that Airflow reports."""

    def say(state: str) -> None:
        comms = SimpleNamespace(send=lambda _: SimpleNamespace(task_states={"r": {"t": state}}))
        monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", comms, raising=False)

    return say


def statuses(server: Emulator) -> Counter[str]:
    return Counter(found["status"] for found in server.bill["predictions"])


# --- lost creates ----------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("preset", ["accepted_then_502", "accepted_then_reset"])
def test_a_lost_create_is_found_in_the_list(
    replicate: Emulator, tmp_path: Path, preset: str, *, deferrable: bool
) -> None:
    replicate.faults.add(preset, times=4)
    result = batch(tmp_path, Store(), deferrable=deferrable).result()
    assert result["counts"]["succeeded"] == 20
    assert billed(replicate) == 20


@MODES
def test_an_unknown_item_blocks_no_other_and_is_not_repeated(
    gateway: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    gateway.faults.add("accepted_then_reset", times=2)
    run = batch(tmp_path, Store(), deferrable=deferrable, min_success=0.9)
    result = run.result()
    assert (result["counts"]["succeeded"], result["counts"]["unknown"]) == (18, 2)
    unknown = [row for row in rows_of(result) if row["status"] == "unknown"]
    assert all("may be running" in row["error"] for row in unknown)
    assert run.retried().result()["counts"] == result["counts"]
    assert billed(gateway) == 20


def test_a_saved_video_proves_a_create_whose_record_is_lost(gateway: Emulator, tmp_path: Path) -> None:
    store = Store()
    run = batch(tmp_path, store, inputs=["a fox", "a bear"])
    run.result()
    # The API server was out of reach after the creates, so the records still have the intents alone.
    for key, text in store.rows.items():
        value = json.loads(text)
        for item in value["items"].values():
            item["record"] |= {"phase": "intent"}
            del item["record"]["prediction"]
        store.rows[key] = json.dumps(value)
    result = run.retried().result()
    assert result["counts"]["succeeded"] == 2
    assert [row["status"] for row in rows_of(result)] == ["succeeded"] * 2
    assert billed(gateway) == 2


def test_many_unknown_items_of_an_earlier_attempt_stop_no_other(gateway: Emulator, tmp_path: Path) -> None:
    rows = [{"sku": f"TR-{number}", "prompt": f"fox {number}", "frame_num": 1} for number in range(20)]
    run = batch(tmp_path, Store(), inputs=rows[:12], key="sku")
    gateway.faults.add("accepted_then_reset", times=None)
    with pytest.raises(AirflowFailException, match="unknown"):
        run.result()
    gateway.faults.clear()
    unknown = billed(gateway)
    assert unknown >= 8
    again = batch(tmp_path, run.context["task_state_store"], inputs=rows, key="sku", min_success=1)
    again.ti.try_number = 2
    counts = again.result()["counts"]
    assert (counts["unknown"], counts["succeeded"]) == (unknown, 20 - unknown)
    assert billed(gateway) == 20


def test_an_unknown_item_is_submitted_again_where_the_author_says_so(
    gateway: Emulator, tmp_path: Path
) -> None:
    gateway.faults.add("accepted_then_reset", times=2)
    run = batch(tmp_path, Store(), on_orphaned_intent="resubmit")
    with pytest.raises(BatchFailed, match="2 unknown"):
        run.result()
    assert run.retried().result()["counts"]["succeeded"] == 20
    assert billed(gateway) == 22


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["no_money", "no_money_in_a_200"])
def test_an_empty_account_stops_all_submissions(gateway: Emulator, tmp_path: Path, preset: str) -> None:
    gateway.faults.add(preset, method="POST", path="*/predictions", skip=3, times=None)
    with pytest.raises(AirflowFailException, match="3 succeeded"):
        batch(tmp_path, Store()).result()
    creates = [seen for seen in gateway.requests if seen.method == "POST"]
    assert len(creates) <= 3 + 2 * 8


def test_a_server_that_refuses_everything_is_asked_a_few_times_only(
    replicate: Emulator, tmp_path: Path
) -> None:
    refusal = {"status": 422, "body": {"title": "Invalid", "detail": "no", "status": 422}}
    replicate.faults.add(method="POST", path="*/predictions", times=None, **refusal)
    with pytest.raises(AirflowFailException, match="0 of 20 items succeeded"):
        batch(tmp_path, Store()).result()
    creates = [seen for seen in replicate.requests if seen.method == "POST"]
    assert len(creates) <= 16


def test_an_input_that_the_server_refuses_ends_its_item_alone(replicate: Emulator, tmp_path: Path) -> None:
    refusal = {"status": 422, "body": {"title": "Invalid", "detail": "no", "status": 422}}
    replicate.faults.add(method="POST", path="*/predictions", times=2, **refusal)
    result = batch(tmp_path, Store(), min_success=18).result()
    assert (result["counts"]["succeeded"], result["counts"]["failed"]) == (18, 2)


def test_a_refused_item_of_a_clear_is_no_success_after_a_deferral(running: Emulator, tmp_path: Path) -> None:
    end_all(running)
    rows = [{"prompt": prompt, "frame_num": 1} for prompt in ("a fox", "an owl")]
    run = batch(tmp_path, Store(), inputs=rows, reuse=False, deferrable=True, min_success=0)
    assert run.result()["counts"]["succeeded"] == 2
    running.world.time_scale = 100.0
    running.faults.add("no_money", method="POST", input={"prompt": "an owl"}, times=None)
    result = run.cleared().result(between=lambda: end_all(running))
    assert run.deferred
    assert (result["counts"]["succeeded"], result["counts"]["failed"]) == (1, 1)
    assert billed(running) == 3


# --- changes while predictions run ---------------------------------------------------------------------


@pytest.mark.parametrize("prices", [{}, {"prunaai/vace-14b": {"per_run": "cheap"}}], ids=["none", "bad"])
def test_videos_are_fetched_whatever_becomes_of_the_prices(
    slow_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path, prices: dict[str, Any]
) -> None:
    def connect_with(prices: dict[str, Any]) -> None:
        connect(slow_emulator.connection_to(backend="replicate", prices=prices))

    def change() -> None:
        end_all(slow_emulator)
        connect_with(prices)

    connect_with({"prunaai/vace-14b": {"per_run": 0.40}})
    result = batch(tmp_path, Store(), deferrable=True, max_cost=20).result(between=change)
    assert result["counts"]["succeeded"] == 20
    assert result["cost"]["amount"] == "8.00"


@pytest.mark.parametrize("deferrable", [False, True], ids=["clear", "wait"])
def test_videos_are_fetched_although_a_source_file_is_gone(
    fast_emulator: Emulator, connect: Callable[[str], None], tmp_path: Path, *, deferrable: bool
) -> None:
    film = tmp_path / "source.mp4"
    film.write_bytes(MP4)
    connect(fast_emulator.connection_to(backend="replicate", input_roots=str(tmp_path)))
    rows = [{"prompt": "a fox", "src_video": str(film)}]
    run = batch(tmp_path, Store(), inputs=rows, deferrable=deferrable)
    result = run.result(between=film.unlink)
    film.unlink(missing_ok=True)
    again = run.cleared().result()
    assert result["counts"]["succeeded"] == again["counts"]["succeeded"] == 1
    assert billed(fast_emulator) == 1
    # A new item needs its file.
    run.make = batch(tmp_path, inputs=[*rows, rows[0]]).make
    with pytest.raises(AirflowFailException, match=r"(?s)1 of 2 items succeeded.*source\.mp4"):
        run.cleared().result()
    assert billed(fast_emulator) == 1


def test_a_store_that_does_not_answer_is_left_to_a_retry_and_ends_no_wait(
    running: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Destination) -> str | None:
        raise VaceTransportError("The store does not answer", sent=False)

    monkeypatch.setattr(Destination, "check", away)
    run = batch(tmp_path, Store(), deferrable=True)
    with pytest.raises(VaceTransportError, match="The store does not answer"):
        run.result()
    monkeypatch.undo()

    def change() -> None:
        end_all(running)
        monkeypatch.setattr(Destination, "check", away)

    assert run.retried().result(between=change)["counts"]["succeeded"] == 20
    assert billed(running) == 20


# --- the state store -------------------------------------------------------------------------------


def test_nothing_is_submitted_while_the_records_are_out_of_reach(replicate: Emulator, tmp_path: Path) -> None:
    store = Store()
    store.trouble = [("get", RuntimeError("no answer"))]
    with pytest.raises(LedgerError, match="could not be read"):
        batch(tmp_path, store).result()
    assert billed(replicate) == 0


def test_a_failed_write_submits_nothing_for_its_items(replicate: Emulator, tmp_path: Path) -> None:
    store = Store()
    run = batch(tmp_path, store)
    store.trouble = [("set", RuntimeError("no answer"))]
    with pytest.raises(LedgerError, match="could not be recorded"):
        run.result()
    assert run.retried().result()["counts"]["succeeded"] == 20
    assert billed(replicate) == 20


def test_an_attempt_that_was_given_up_submits_nothing_more(
    replicate: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Creates under way at the takeover arrive within this time on a busy machine too.
    scale_waits(monkeypatch, 1.0, intent_grace_seconds=5.0, lost_create_lookup_seconds=5.0)
    store = Store()
    first, second = batch(tmp_path, store), batch(tmp_path, store)
    second.ti.try_number = 2
    met = threading.Event()
    write = store.set

    def taken_over(key: str, value: Any, **options: Any) -> None:
        write(key, value, **options)
        # The second attempt begins while the first one still works, as after a lost heartbeat.
        if len(store.written) > 4 and not met.is_set():
            met.set()
            second.result()

    store.set = taken_over  # type: ignore[method-assign]
    with pytest.raises(LedgerError, match="nother attempt of this task"):
        first.result()
    assert second.retried().result()["counts"]["succeeded"] == 20
    assert billed(replicate) == 20


def test_a_batch_without_a_store_submits_each_item_once(replicate: Emulator, tmp_path: Path) -> None:
    run = batch(tmp_path, None, deferrable=True, max_in_flight=8)
    assert run.result()["counts"]["succeeded"] == 20
    assert billed(replicate) == 20


# --- the end by a person, a signal, or the clock ---------------------------------------------------


@pytest.mark.parametrize(
    ("state", "canceled"), [("failed", True), ("success", True), ("running", False), ("restarting", False)]
)
def test_a_kill_cancels_all_open_items_only_without_a_next_attempt(
    running: Emulator,
    tmp_path: Path,
    airflow_says: Callable[[str], None],
    state: str,
    *,
    canceled: bool,
) -> None:
    airflow_says(state)
    run = batch(tmp_path, Store(), deferrable=False)

    class Killed(BaseException):
        """The end of the process after the handler of SIGTERM."""

    def kill() -> None:
        run.legs[-1].on_kill()
        raise Killed

    with interrupting(kill, lambda: billed(running) == 20), pytest.raises(Killed):
        run.result()
    assert statuses(running) == Counter({"canceled" if canceled else "starting": 20})


def foreign(server: Emulator) -> list[dict[str, Any]]:
    """Return rows whose first prediction has no clear answer, and may be another task's of the same seed."""
    server.faults.add("accepted_then_502", input={"prompt": "a fox"})
    return [{"prompt": "a fox", "seed": 7}, {"prompt": "an owl", "seed": 7}]


def canceled_prompts(server: Emulator) -> list[str]:
    return [run.input["prompt"] for run in server.world.runs.values() if run.canceled is not None]


def test_a_kill_spares_a_prediction_that_may_be_another_tasks(
    running: Emulator, tmp_path: Path, airflow_says: Callable[[str], None]
) -> None:
    airflow_says("failed")
    run = batch(tmp_path, Store(), inputs=foreign(running))

    def kill() -> None:
        run.legs[-1].on_kill()
        raise KilledError

    def is_open() -> bool:
        leg: Any = run.legs and run.legs[-1]
        return bool(leg and leg._job and len(leg._job.work.open) == 2)

    with interrupting(kill, is_open), pytest.raises(KilledError):
        run.result()
    assert canceled_prompts(running) == ["an owl"]


def test_a_killed_batch_goes_on_in_the_next_attempt(
    running: Emulator, tmp_path: Path, airflow_says: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    airflow_says("running")
    run = batch(tmp_path, Store())

    class Killed(BaseException):
        """The end of the process after the handler of SIGTERM."""

    def kill() -> None:
        run.legs[-1].on_kill()
        raise Killed

    with interrupting(kill, lambda: billed(running) >= 7), pytest.raises(Killed):
        run.result()
    end_all(running)
    capfd.readouterr()
    assert run.retried().result()["counts"]["succeeded"] == 20
    assert billed(running) == 20
    # The log of the next attempt counts the items that are paid for.
    (known,) = re.findall(
        r"20 items: 20 waiting \((\d+) of them submitted by an earlier attempt\)", "".join(capfd.readouterr())
    )
    assert 7 <= int(known) <= 20


def test_a_retry_fetches_the_videos_once_the_file_of_rows_is_back(running: Emulator, tmp_path: Path) -> None:
    rows, away = tmp_path / "rows.jsonl", tmp_path / "away"
    rows.write_text('{"prompt": "fox", "frame_num": 1}\n')
    run = batch(tmp_path, Store(), inputs=str(rows), deferrable=True)

    def move() -> None:
        end_all(running)
        rows.rename(away)

    with pytest.raises(VaceInputError, match="inputs"):
        run.result(between=move)
    away.rename(rows)
    assert run.retried().result()["counts"]["succeeded"] == 1
    assert billed(running) == 1


@pytest.mark.parametrize("changed", [2, 20])
def test_a_clear_replaces_the_running_items_whose_input_has_changed(
    running: Emulator, tmp_path: Path, changed: int
) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"fox {number}", "frame_num": 1} for number in range(20)]
    run = batch(tmp_path, Store(), inputs=rows, deferrable=True)

    class Cleared(BaseException):
        """The clear by a person while the task is deferred."""

    def clear() -> None:
        raise Cleared

    with pytest.raises(Cleared):
        run.result(between=clear)
    for row in rows[:changed]:
        row["prompt"] += " and a wolf"
    with pytest.raises(Cleared):
        run.cleared().result(between=clear)
    assert statuses(running) == Counter(starting=20, canceled=changed)
    end_all(running)
    assert run.retried().result()["counts"]["succeeded"] == 20
    assert billed(running) == 20 + changed


def end_all(server: Emulator) -> None:
    """End all predictions of a server, and each new one at once."""
    server.world.time_scale = 0.0002
    for each in server.world.runs.values():
        each.timeline.boot = each.timeline.step = each.timeline.load = each.timeline.decode = 0.0


def test_an_execution_timeout_cancels_all_open_items(running: Emulator, tmp_path: Path) -> None:
    run = batch(tmp_path, Store())
    timeout = raising(AirflowTaskTimeout)
    with (
        interrupting(timeout, lambda: billed(running) == 20),
        pytest.raises(AirflowFailException, match="execution_timeout ended the batch"),
    ):
        run.result()
    assert statuses(running) == Counter(canceled=20)
    assert "execution_timeout ended the batch" in run.ti.xcoms["vace_view"]["error"]


@MODES
def test_an_item_past_its_deadline_is_canceled(
    running: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    run = batch(tmp_path, Store(), deferrable=deferrable, timeout=3)
    with pytest.raises(AirflowFailException, match="0 of 20 items succeeded"):
        run.result()
    assert statuses(running) == Counter(canceled=20)


@pytest.mark.parametrize(("state", "canceled"), [("failed", True), ("deferred", False)])
def test_the_end_of_a_deferred_batch_cancels_all_open_items(
    running: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    state: str,
    *,
    canceled: bool,
) -> None:
    run = batch(tmp_path, Store(), deferrable=True)

    async def asend(_: object) -> Any:
        return SimpleNamespace(task_states={"r": {"t": state}})

    def kill() -> None:
        comms = SimpleNamespace(asend=asend)
        monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", comms, raising=False)
        trigger = VaceBatchTrigger(**run.rows[-1])
        ti: Any = run.ti
        trigger.task_instance = ti
        asyncio.run(trigger.on_kill())
        raise KilledError

    with pytest.raises(KilledError):
        run.result(between=kill)
    assert statuses(running) == Counter({"canceled" if canceled else "starting": 20})
    if canceled:
        assert "20 of 20 predictions are canceled" in capfd.readouterr().out


def test_the_end_of_a_deferred_batch_spares_a_prediction_that_may_be_another_tasks(
    running: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = batch(tmp_path, Store(), deferrable=True, inputs=foreign(running))
    with pytest.raises(KilledError):
        run.result(between=raising(KilledError))

    async def asend(_: object) -> Any:
        return SimpleNamespace(task_states={"r": {"t": "failed"}})

    comms = SimpleNamespace(asend=asend)
    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", comms, raising=False)
    trigger = VaceBatchTrigger(**run.rows[-1])
    ti: Any = run.ti
    trigger.task_instance = ti
    asyncio.run(trigger.on_kill())
    assert canceled_prompts(running) == ["an owl"]


class KilledError(Exception):
    """The end of a test's task by a person."""
