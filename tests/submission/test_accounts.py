"""Connections that lead to another server or account since, and defaults that change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.emulator import Emulator
from airflow_vace.exceptions import (
    LedgerError,
    PredictionFailed,
    SubmissionUnknown,
)
from airflow_vace.hooks import VaceHook
from support.attempts import DONE, billed, forget, hooked, killed_at, set_clock_ahead, statuses, task, waiting
from support.tasks import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def backend() -> str:
    return "replicate"


# --- a connection that leads elsewhere -------------------------------------------------------------


def test_a_lost_create_is_not_searched_at_another_server(
    server: Emulator, connect: Callable[[str], None]
) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    with Emulator(time_scale=100.0) as other:
        connect(other.connection_to(backend="replicate", timeout=30))
        with pytest.raises(AirflowFailException, match=f"led to {server.url}/v1 then") as caught:
            run.result()
        assert isinstance(caught.value.__cause__, SubmissionUnknown)
        assert (billed(server), billed(other)) == (1, 0)
    connect(server.connection_to(backend="replicate", timeout=30))
    run.retried().result()
    assert billed(server) == 1


def test_another_key_can_show_a_lost_create_but_cannot_deny_one(
    server: Emulator, connect: Callable[[str], None]
) -> None:
    run = task()
    killed_at(run, "submit", after=True)
    kept = dict(server.world.runs)
    server.world.runs.clear()  # the list of another account
    server.api_key = "another-key-of-another-account"
    connect(server.connection_to(backend="replicate", timeout=30))
    with pytest.raises(AirflowFailException, match="the key of the connection 'vace_default' was changed"):
        run.result()
    assert billed(server) == 0
    server.world.runs.update(kept)
    assert run.retried().result()["id"] in kept
    assert billed(server) == 1


def test_a_prediction_that_another_server_does_not_know_is_not_submitted_again(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, connect: Callable[[str], None]
) -> None:
    run = task()
    run.result()
    with Emulator(time_scale=100.0) as other:
        connect(other.connection_to(backend="replicate", timeout=30))
        set_clock_ahead(monkeypatch, 3 * 3600.0)
        with pytest.raises(LedgerError, match=f"was submitted at {server.url}/v1"):
            run.retried().result()
        assert billed(other) == 0


def test_the_record_holds_no_key_and_distinguishes_accounts(server: Emulator) -> None:
    one, two = Store(), Store()
    task(one).result()
    task(two).result()
    assert server.api_key not in str(one.rows)
    assert one.record["origin"] == f"{server.url}/v1"
    assert one.record["account"] != two.record["account"], "each is salted"


@pytest.mark.parametrize("again", ["retried", "cleared"])
@pytest.mark.parametrize("default", [{"version": "5ebdbed0"}, {"model": "prunaai/vace-14b-fast"}], ids=str)
def test_a_changed_default_of_the_connection_submits_nothing(
    server: Emulator, connect: Callable[[str], None], again: str, default: dict[str, str]
) -> None:
    run = task()
    first = run.result()
    connect(server.connection_to(backend="replicate", timeout=30, **default))
    assert getattr(run, again)().result()["id"] == first["id"]
    assert statuses(server) == ["starting"]


def test_a_default_that_is_added_later_is_no_part_of_a_retry(
    server: Emulator, connect: Callable[[str], None]
) -> None:
    server.faults.add(method="GET", path="*/predictions*", patch={"status": "failed", "error": "E6716"})
    run = waiting()
    with pytest.raises(PredictionFailed):
        run.result()
    connect(server.connection_to(backend="replicate", timeout=30, version="5ebdbed0"))
    server.faults.add(method="GET", path="*/predictions*", times=None, patch=DONE)
    before = [found.version for found in server.world.runs.values()]
    run.retried().result()
    assert [found.version for found in server.world.runs.values()] == before * 2


def test_an_expired_prediction_leaves_no_seed_to_the_next_one(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    run = waiting(save_to=f"{tmp_path}/")
    killed_at(run, "wait_for_prediction")
    (first,) = list(fast_emulator.world.runs)
    VaceHook().wait_for_prediction(first)
    forget(fast_emulator)

    class Retaining(VaceHook):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            fast_emulator.world.retention = 3600.0
            return super().submit(*args, **kwargs)

    with hooked(run, Retaining):
        payload = run.result()
    sent = fast_emulator.world.runs[payload["id"]].input["seed"]
    (manifest,) = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    assert payload["id"] != first
    assert [payload["seed"], manifest["seed"], manifest["input"]["seed"]] == [sent] * 3
