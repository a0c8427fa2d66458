"""Polls for the Videos tab: progress, signed outputs, and the keys of connections."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.prediction import Prediction
from support.site import DAG_ID, Site, saved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.emulator import Emulator


@pytest.fixture
def running(site: Site, slow: Emulator) -> Iterator[dict[str, Any]]:
    """Return a running prediction in the view of a deferred task."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import update

    from airflow_vace.hooks import VaceHook
    from airflow_vace.task.view import view_of
    from airflow_vace.ui import routes

    routes.snapshots.clear()
    # Each emulator gives the same ids in the same order, and the clips of the site have the first three.
    *_, prediction = [VaceHook().create_prediction({"prompt": "a fox"}) for _ in range(4)]
    assert slow.bill["charged"] == 4
    row = (TaskInstance.run_id == site.run_id, TaskInstance.task_id == "summary")
    with create_session() as session:
        session.execute(update(TaskInstance).where(*row).values(state="deferred"))
        value = view_of(prediction, "vace_default", {"prompt": "a fox"}, None)
        XComModel.set(
            key="vace_view",
            value=value,
            dag_id=DAG_ID,
            task_id="summary",
            run_id=site.run_id,
            session=session,
        )
    yield prediction.payload()
    with create_session() as session:
        session.execute(update(TaskInstance).where(*row).values(state="success"))
        XComModel.clear(dag_id=DAG_ID, task_id="summary", run_id=site.run_id, session=session)


def test_one_poll_serves_all_browsers(site: Site, slow: Emulator, running: dict[str, Any]) -> None:
    (card,) = site.cards("?task_id=summary")
    assert card["is_open"]
    assert card["status"] == "starting"
    before = len(slow.requests)
    path = f"{site.run}/progress/{site.instance('summary')}"
    slow.faults.add(
        method="GET",
        patch={"status": "processing", "logs": "  42%|####      | 21/50 [00:30<00:41,  1.43s/it]"},
    )
    found = [site.get(path).json() for _ in range(5)]
    assert found == [{"status": "processing", "percent": 42, "step": 21, "steps": 50, "eta": 41.0}] * 5
    assert [(r.method, r.path.rpartition("/")[2]) for r in slow.requests[before:]] == [("GET", running["id"])]


def test_progress_of_a_back_end_in_trouble_is_unknown(
    site: Site, slow: Emulator, running: dict[str, Any]
) -> None:
    assert running
    slow.faults.add(method="GET", status=503, times=None)
    answer = site.get(f"{site.run}/progress/{site.instance('summary')}")
    assert (answer.status_code, answer.json()["status"]) == (200, None)


def test_no_other_connections_key_is_ever_sent(
    site: Site, slow: Emulator, running: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    secret = slow.connection.replace('"vace"', '"http"').replace("vace-emulator-key", "another-secret")
    monkeypatch.setenv("AIRFLOW_CONN_CRM", secret)
    with create_session() as session:
        XComModel.set(
            key="vace_view",
            value={"prediction": running, "vace_conn_id": "crm"},
            dag_id=DAG_ID,
            task_id="summary",
            run_id=site.run_id,
            session=session,
        )
    before = len(slow.requests)
    assert site.get(f"{site.run}/progress/{site.instance('summary')}").json()["status"] is None
    assert len(slow.requests) == before


def test_a_signed_video_plays_and_its_url_is_stored_nowhere(
    site: Site, slow: Emulator, running: dict[str, Any]
) -> None:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    from airflow_vace.task.view import view_of
    from airflow_vace.ui import routes

    signed = [f"https://cdn.example/{name}.mp4?sig=SIGNATURE{name}" for name in "ab"]
    ended = running | {"status": "succeeded", "output": signed, "completed_at": datetime.now(UTC).isoformat()}
    with create_session() as session:
        XComModel.set(
            key="vace_view",
            value=view_of(Prediction.from_json(ended), "vace_default", {}, None),
            dag_id=DAG_ID,
            task_id="summary",
            run_id=site.run_id,
            session=session,
        )
    (card,) = site.cards("?task_id=summary")
    paths = [f"/vace{site.run}/outputs/{site.instance('summary')}/{number}" for number in (0, 1)]
    assert [video["src"] for video in card["videos"]] == paths
    assert "SIGNATURE" not in str(card)
    slow.faults.add(method="GET", status=503)
    assert site.get(f"{site.run}/outputs/{site.instance('summary')}/0").status_code == 404
    slow.faults.add(method="GET", patch={"status": "succeeded", "output": signed})
    routes.snapshots.clear()
    for number, url in enumerate(signed):
        answer = site.get(f"{site.run}/outputs/{site.instance('summary')}/{number}")
        assert (answer.status_code, answer.headers["Location"]) == (307, url)
        assert "no-store" in answer.headers["Cache-Control"]
    assert site.get(f"{site.run}/outputs/{site.instance('summary')}/2").status_code == 404


def test_progress_of_an_ended_prediction_sends_no_request(site: Site, slow: Emulator) -> None:
    card = saved(site)
    found = site.get(f"{site.run}/progress/{card['instance']}").json()
    assert found["status"] == "succeeded"
    assert not slow.requests
    assert site.get(f"{site.run}/progress/{site.instance('summary')}").status_code == 404
