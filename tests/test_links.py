"""The link *Video*: to the vendor before a save, to Airflow after."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from starlette.routing import Match

from airflow_vace.links import PredictionOutputLink, PredictionPageLink
from airflow_vace.prediction import Prediction
from airflow_vace.storage.destination import Destination
from airflow_vace.triggers import VacePredictionTrigger
from support.attempts import waiting
from support.polled import end_all
from support.supervisor import Supervisor, created, events_of, needs_airflow_3_3

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

RUN = "manual__2026-11-29T02:07:13+00:00"
TI: Any = SimpleNamespace(
    id=UUID(int=7), dag_id="ä clip", run_id=RUN, task_id="wait", map_index=-1, task=None
)
PATH = "/runs/%C3%A4%20clip/manual__2026-11-29T02%3A07%3A13%2B00%3A00"


def saved(uri: str) -> Prediction:
    files = [{"uri": uri, "size": 1}]
    output = "https://cdn.example/a.mp4"
    return Prediction.from_json({"id": "p1", "status": "succeeded", "output": output, "files": files})


@pytest.mark.parametrize(
    ("roots", "uri"),
    [
        ("/data/clips/", "file:///data/clips/a/b.mp4"),
        ("file:///data/clips", "file:///data/clips/b.mp4"),
        # The address of a saved file has no connection.
        ("/other, s3://aws@bucket/clips", "s3://bucket/clips/b.mp4"),
    ],
)
def test_a_saved_video_below_the_roots_is_linked_in_airflow(
    monkeypatch: pytest.MonkeyPatch, roots: str, uri: str
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", roots)
    assert PredictionOutputLink.of(saved(uri), TI) == f"/vace{PATH}/files/{TI.id}/0"
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team/")
    assert PredictionOutputLink.of(saved(uri), TI) == f"/team/vace{PATH}/files/{TI.id}/0"


@pytest.mark.parametrize(
    ("roots", "name"),
    [
        *(("", "b.mp4"), ("/data/clip", "b.mp4"), ("s3://bucket/clips", "b.mp4")),
        # The route sends no file that a browser could run.
        ("/data/clips", "b.html"),
        ("/data/clips", "b.wav"),
    ],
)
def test_another_saved_video_is_linked_to_the_tab_of_its_run(
    monkeypatch: pytest.MonkeyPatch, roots: str, name: str
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", roots)
    link = PredictionOutputLink.of(saved(f"file:///data/clips/{name}"), TI)
    assert link == f"/dags{PATH.removeprefix('/runs').replace('clip/', 'clip/runs/')}/plugin/vace_videos"


def test_the_paths_are_those_of_the_routes_and_of_the_tab(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_vace.ui.plugin import PREFIX, tabs
    from airflow_vace.ui.routes import new_app, saved_file

    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", "/data")
    path = PredictionOutputLink.of(saved("file:///data/b.mp4"), TI).removeprefix(PREFIX)
    scope = {"type": "http", "method": "GET", "path": path}
    (found,) = [route for route in new_app().routes if route.matches(scope)[0] is Match.FULL]
    assert found.endpoint is saved_file  # type: ignore[attr-defined]
    assert "vace_videos" in {tab["url_route"] for tab in tabs(is_scoped=True)}


def test_a_task_that_saves_links_its_file(
    slow_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", str(tmp_path))
    waited = waiting(deferrable=True, save_to=f"{tmp_path}/")
    payload = waited.result(between=partial(end_all, slow_emulator))
    first, *_, last = waited.legs
    video, page = PredictionOutputLink(), PredictionPageLink()
    assert video.get_link(last, ti_key=TI) == f"/vace{PATH}/files/{TI.id}/0"
    assert (
        page.get_link(last, ti_key=TI) == payload["urls"]["web"] == f"{slow_emulator.url}/p/{payload['id']}"
    )
    assert "/_delivery/" not in video.get_link(first, ti_key=TI)


@needs_airflow_3_3
def test_an_end_in_the_triggerer_links_the_saved_file(
    fast_emulator: Emulator, supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", str(tmp_path))
    destination = Destination.of(f"{tmp_path}/")
    assert destination is not None
    made = VacePredictionTrigger(created(), end_from_trigger=True, destination=destination.as_json())
    events_of(made, TI)
    assert fast_emulator.bill["charged"] == 1
    assert list(tmp_path.rglob("*.mp4"))
    assert supervisor.left["_link_PredictionOutputLink"] == f"/vace{PATH}/files/{TI.id}/0"
