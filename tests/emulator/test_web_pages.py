"""The emulator's pages for people: status, input, log, video and bill, without a key and without a trace."""

from __future__ import annotations

import html
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CREATES = ("/replicate/v1/models/prunaai/vace-14b/predictions", "/v1/predictions")


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.0002) as emulator:
        yield emulator


def created(emulator: Emulator, path: str = CREATES[0], **values: Any) -> dict[str, Any]:
    from airflow_vace.emulator.models import FIRST_VERSION

    body = {"version": FIRST_VERSION, "input": {"prompt": "a fox", "seed": 7, **values}}
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    found: dict[str, Any] = requests.post(emulator.url + path, json=body, headers=headers, timeout=60).json()
    return found


def wait_for_end(emulator: Emulator, identifier: str) -> None:
    run = emulator.world.runs[identifier]
    until = time.monotonic() + 20
    while run.finished_at(time.time()) is None:
        assert time.monotonic() < until


def page(url: str, status: int = 200) -> str:
    response = requests.get(url, timeout=60)
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/html")
    # Texts of others must not run.
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "script" not in response.headers["Content-Security-Policy"]
    return response.text


@pytest.mark.parametrize("path", CREATES)
def test_the_web_address_of_a_prediction_is_a_page_with_all_facts(emulator: Emulator, path: str) -> None:
    made = created(emulator, path)
    assert made["urls"]["web"] == f"{emulator.url}/p/{made['id']}"
    wait_for_end(emulator, made["id"])
    shown = html.unescape(page(made["urls"]["web"]))
    for said in (
        made["id"],
        "succeeded",
        '"prompt": "a fox"',
        "50/50",
        "charged; $0 (emulator); the real model about $0.40",
        "no model has run",
    ):
        assert said in shown
    (video,) = re.findall(r"<video src='([^']+)'", shown)
    assert requests.get(emulator.url + video, timeout=30).content[4:8] == b"ftyp"
    assert "http-equiv" not in shown


def test_an_open_prediction_shows_its_progress_and_loads_again() -> None:
    with Emulator(time_scale=1000) as emulator:
        made = created(emulator)
        run = emulator.world.runs[made["id"]]
        assert "starting" in page(made["urls"]["web"])
        run.timeline.created -= run.timeline.boot + run.timeline.load + 10.5 * run.timeline.step
        shown = page(made["urls"]["web"])
        assert "20 %, step 10 of 50" in shown
        assert "http-equiv='refresh'" in shown
        assert "<video" not in shown


def test_the_overview_lists_all_predictions_and_the_bill(emulator: Emulator) -> None:
    assert "0 predictions, 0 charged" in page(f"{emulator.url}/")
    first = created(emulator)
    emulator.faults.add("aborted")
    second = created(emulator, prompt="a <b>dog</b>")
    wait_for_end(emulator, second["id"])
    wait_for_end(emulator, first["id"])
    shown = page(f"{emulator.url}/")
    assert shown.index(second["id"]) < shown.index(first["id"])
    assert f"href='/p/{first['id']}'" in shown
    assert "a &lt;b&gt;dog&lt;/b&gt;" in shown
    assert "<b>dog" not in shown
    assert "2 predictions, 1 charged. Cost: $0 (emulator); the real model about $0.40 for each." in shown
    assert "not charged" in page(second["urls"]["web"])


def test_a_failure_shows_its_error(emulator: Emulator) -> None:
    emulator.faults.add(outcome={"status": "failed", "error": "E1001: <out of memory>"})
    made = created(emulator)
    wait_for_end(emulator, made["id"])
    assert "E1001: &lt;out of memory&gt;" in page(made["urls"]["web"])


def test_pages_are_no_requests_of_a_client_and_meet_no_fault(emulator: Emulator) -> None:
    made = created(emulator)
    wait_for_end(emulator, made["id"])
    before = len(emulator.requests)
    emulator.faults.add(status=500, times=None)
    page(f"{emulator.url}/")
    page(made["urls"]["web"])
    assert requests.get(f"{made['urls']['web']}/output.mp4", timeout=30).ok
    assert len(emulator.requests) == before
    assert len(emulator.faults.waiting()) == 1


def test_a_signing_emulator_shows_its_videos_on_its_pages_too() -> None:
    with Emulator(time_scale=0.0002, signs=True) as emulator:
        made = created(emulator)
        wait_for_end(emulator, made["id"])
        assert emulator.signature not in page(made["urls"]["web"])
        assert requests.get(f"{made['urls']['web']}/output.mp4", timeout=30).ok
        assert (
            requests.get(f"{emulator.url}/_delivery/{made['id']}/output.mp4", timeout=60).status_code == 403
        )


def test_inputs_appear_without_signatures_and_long_texts_short(emulator: Emulator) -> None:
    data = "data:video/mp4;base64," + "A" * 5000
    made = created(emulator, src_video="https://cdn.example/a.mp4?X-Amz-Signature=SECRET", src_mask=data)
    shown = page(made["urls"]["web"])
    assert "https://cdn.example/a.mp4" in shown
    assert "SECRET" not in shown
    assert "A" * 200 not in shown


def test_a_deleted_prediction_says_that_it_is_deleted() -> None:
    with Emulator(time_scale=0.0002, retention=0.001) as emulator:
        made = created(emulator)
        wait_for_end(emulator, made["id"])
        emulator.world.retention = 0
        shown = page(made["urls"]["web"])
    assert "are deleted, as at the vendor" in shown
    assert "a fox" not in shown


def test_an_unknown_prediction_has_a_page_that_says_so(emulator: Emulator) -> None:
    assert "No prediction &lt;i&gt;" in page(f"{emulator.url}/p/%3Ci%3E", status=404)


def test_other_outputs_are_shown_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "cover.png").write_bytes(b"\x89PNG")
    models = {"a/picture": tmp_path / "cover.png", "a/echo": None}
    with Emulator(time_scale=0.0002, models=models) as emulator:
        picture = created(emulator, "/replicate/v1/models/a/picture/predictions")
        echo = created(emulator, "/replicate/v1/models/a/echo/predictions", word="kept")
        for made in (picture, echo):
            wait_for_end(emulator, made["id"])
        shown = page(picture["urls"]["web"])
        assert f"<img src='/p/{picture['id']}/cover.png'" in shown
        assert requests.get(f"{picture['urls']['web']}/cover.png", timeout=60).content == b"\x89PNG"
        assert "the real model" not in shown
        assert html.unescape(page(echo["urls"]["web"])).count('"word": "kept"') == 2
