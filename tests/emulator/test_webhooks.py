"""Webhooks of the emulator, as a receiver sees them: events, signatures, repeats."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import requests
from replicate.exceptions import ReplicateError
from replicate.webhook import InvalidSignatureError, Webhooks, WebhookSigningSecret

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.models import FIRST_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOX = {"prompt": "a fox", "seed": 7, "frame_num": 5}


class Receiver:
    """A server on loopback that notes each delivery.

    :param refusals: number of deliveries that the server refuses first
    """

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.arrived = threading.Condition()
        self.url = ""

    @property
    def statuses(self) -> list[str]:
        return [json.loads(body)["status"] for _, body in self.seen]

    def wait_until_completed(self) -> None:
        with self.arrived:
            done = self.arrived.wait_for(lambda: {"succeeded", "canceled"} & set(self.statuses[-1:]), 20)
        assert done, self.statuses


@contextmanager
def receiving(refusals: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(refusals)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with receiver.arrived:
                receiver.seen.append((dict(self.headers), body))
                self.send_response(500 if len(receiver.seen) <= receiver.refusals else 200)
                self.end_headers()
                receiver.arrived.notify_all()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        yield receiver
        server.shutdown()


def create(emulator: Emulator, receiver: Receiver, *events: str) -> dict[str, Any]:
    body: dict[str, Any] = {"version": FIRST_VERSION, "input": FOX, "webhook": receiver.url}
    if events:
        body["webhook_events_filter"] = list(events)
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    answer = requests.post(f"{emulator.url}/v1/predictions", json=body, headers=headers, timeout=60)
    found: dict[str, Any] = answer.json()
    return found


def test_a_webhook_reports_start_logs_output_and_end() -> None:
    with Emulator(time_scale=0.01) as emulator, receiving() as receiver:
        created = create(emulator, receiver, "start", "logs", "completed")
        receiver.wait_until_completed()
    assert set(receiver.statuses) == {"processing", "succeeded"}
    assert {json.loads(body)["id"] for _, body in receiver.seen} == {created["id"]}
    assert any("/50 [" in json.loads(body)["logs"] for _, body in receiver.seen[:-1])
    end = json.loads(receiver.seen[-1][1])
    assert end["output"].startswith(emulator.url)
    assert end["urls"]["get"] == created["urls"]["get"]


def test_without_a_filter_output_and_end_are_sent() -> None:
    with Emulator(time_scale=0.0002) as emulator, receiving() as receiver:
        create(emulator, receiver)
        create(emulator, receiver, "completed")
        with receiver.arrived:
            assert receiver.arrived.wait_for(lambda: len(receiver.seen) == 3, 20)
    assert receiver.statuses == ["succeeded"] * 3


def test_an_end_before_the_answer_to_the_create_is_sent() -> None:
    with Emulator(time_scale=1e-9) as emulator, receiving() as receiver:
        create(emulator, receiver, "completed")
        receiver.wait_until_completed()
    assert receiver.statuses == ["succeeded"]


def test_the_official_client_accepts_the_signature() -> None:
    with Emulator(time_scale=0.0002) as emulator, receiving() as receiver:
        create(emulator, receiver, "completed")
        receiver.wait_until_completed()
        headers = {"Authorization": f"Bearer {emulator.api_key}"}
        found = requests.get(f"{emulator.url}/v1/webhooks/default/secret", headers=headers, timeout=60)
    ((sent, body),) = receiver.seen
    secret = WebhookSigningSecret(key=found.json()["key"])
    Webhooks.validate(headers=sent, body=body.decode(), secret=secret, tolerance=300)
    with pytest.raises((InvalidSignatureError, ReplicateError)):
        Webhooks.validate(headers=sent, body=body.decode() + " ", secret=secret)


def test_a_refused_delivery_is_repeated_with_its_id() -> None:
    with Emulator(time_scale=0.0002) as emulator, receiving(refusals=2) as receiver:
        create(emulator, receiver, "completed")
        with receiver.arrived:
            assert receiver.arrived.wait_for(lambda: len(receiver.seen) == 3, 20)
    assert len({headers["webhook-id"] for headers, _ in receiver.seen}) == 1


def test_a_receiver_that_is_down_changes_nothing_else() -> None:
    with Emulator(time_scale=0.0002) as emulator:
        nowhere = Receiver()
        nowhere.url = "http://127.0.0.1:9/hook"
        assert create(emulator, nowhere)["status"] == "starting"
        assert emulator.bill["charged"] == 1


def test_a_canceled_prediction_has_an_end_but_no_output() -> None:
    with Emulator(time_scale=1.0) as emulator, receiving() as receiver:
        created = create(emulator, receiver, "output", "completed")
        headers = {"Authorization": f"Bearer {emulator.api_key}"}
        cancel = created["urls"]["cancel"]
        assert requests.post(cancel, headers=headers, timeout=60).json()["status"] == "canceled"
        receiver.wait_until_completed()
    assert receiver.statuses == ["canceled"]


def test_a_restarted_emulator_sends_the_remaining_events(tmp_path: Path) -> None:
    with receiving() as receiver:
        with Emulator(time_scale=0.05, state=tmp_path / "state") as emulator:
            create(emulator, receiver, "completed")
        assert receiver.seen == []
        with Emulator(time_scale=0.05, state=tmp_path / "state"):
            receiver.wait_until_completed()
    assert receiver.statuses == ["succeeded"]
