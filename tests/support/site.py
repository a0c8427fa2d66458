"""Airflow's API server in this process, with a run of the campaign in its database."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi.testclient import TestClient

DAGS = Path(__file__).parents[2] / "dags"
DAG_ID = "vace_campaign"


@dataclass
class Site:
    """Airflow's API server in this process, a DAG run in its database, and tokens of users."""

    client: TestClient
    run_id: str
    roots: Path
    tokens: dict[str, str]

    def get(self, path: str, user: str | None = "admin", method: str = "GET", **headers: str) -> Any:
        if user:
            headers["Authorization"] = f"Bearer {self.tokens[user]}"
        return self.client.request(method, f"/vace{path}", headers=headers, follow_redirects=False)

    @property
    def run(self) -> str:
        return f"/runs/{DAG_ID}/{quote(self.run_id, safe='')}"

    def cards(self, query: str = "") -> list[dict[str, Any]]:
        answer = self.get(f"{self.run}/videos{query}")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    def instance(self, task_id: str = "clip", map_index: int = -1) -> str:
        """Return the id of a task instance, which stands in the addresses of files and progress."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import select

        wanted = select(TaskInstance.id).where(
            TaskInstance.run_id == self.run_id,
            TaskInstance.task_id == task_id,
            TaskInstance.map_index == map_index,
        )
        with create_session() as session:
            return str(session.scalars(wanted).one())

    def value(self, key: str, *, map_index: int = 0) -> Any:
        """Return the value of a clip's XCom, None without one."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        from airflow_vace.ui.xcoms import read_value

        wanted = select(XComModel.value).where(
            XComModel.run_id == self.run_id,
            XComModel.task_id == "clip",
            XComModel.key == key,
            XComModel.map_index == map_index,
        )
        with create_session() as session:
            return read_value(session.scalars(wanted).one_or_none())

    def clear(self, *, map_index: int = 0) -> None:
        """Delete all XComs of a clip."""
        from airflow.models.xcom import XComModel

        XComModel.clear(dag_id=DAG_ID, task_id="clip", run_id=self.run_id, map_index=map_index)

    def put(self, value: Any, *, map_index: int = 0, key: str = "return_value") -> None:
        """Write an XCom, as a worker does for a task."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            XComModel.set(
                key=key,
                value=value,
                dag_id=DAG_ID,
                task_id="clip",
                run_id=self.run_id,
                map_index=map_index,
                session=session,
            )


@pytest.fixture(scope="module")
def site(airflow_db: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from airflow.api_fastapi.app import create_app, purge_cached_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    from airflow_vace.emulator import Emulator
    from support.auth import OUTSIDER

    assert airflow_db
    roots = tmp_path_factory.mktemp("videos")
    with pytest.MonkeyPatch.context() as patch, Emulator(time_scale=0.0002) as emulator:
        patch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection)
        patch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", f"/nowhere, {roots}/")
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", "support.auth.PerDag")
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a" * 64)
        emulator.faults.add(
            method="POST", skip=2, outcome={"status": "failed", "error": "E1001 out of memory"}
        )
        dag = runpy.run_path(str(DAGS / f"{DAG_ID}.py"))[DAG_ID]()
        run = dag.test(run_conf={"save_to": f"{roots}/"})
        purge_cached_app()
        app = create_app(apps="core")
        manager = app.state.auth_manager if hasattr(app.state, "auth_manager") else None
        from airflow.api_fastapi.app import get_auth_manager

        manager = manager or get_auth_manager()
        users = {
            "admin": SimpleAuthManagerUser(username="admin", role="admin"),
            OUTSIDER: SimpleAuthManagerUser(username=OUTSIDER, role="viewer"),
            "nobody": SimpleAuthManagerUser(username="nobody", role=None),
        }
        tokens = {name: manager.generate_jwt(user) for name, user in users.items()}
        with TestClient(app) as client:
            yield Site(client, run.run_id, roots, tokens)
        purge_cached_app()


def saved(site: Site) -> dict[str, Any]:
    """Return the card of a prediction that was saved."""
    return next(card for card in site.cards() if card["videos"])


@pytest.fixture
def result(site: Site) -> Iterator[dict[str, Any]]:
    """Return a result of the first clip for changes, and restore it afterwards."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_vace.ui.xcoms import read_value

    with create_session() as session:
        wanted = select(XComModel).where(
            XComModel.run_id == site.run_id, XComModel.task_id == "clip", XComModel.key == "return_value"
        )
        known = {row.map_index: row.value for row in session.scalars(wanted)}
    index = next(iter(known))
    value = read_value(known[index])
    yield {"map_index": index, **value}
    site.put(value, map_index=index)


def asked_for(site: Site, result: dict[str, Any], uri: Any) -> Any:
    index = result["map_index"]
    site.put({**result, "files": [{"uri": uri, "size": 1, "content_type": "video/mp4"}]}, map_index=index)
    (card,) = site.cards(f"?task_id=clip&map_index={index}")
    answer = site.get(f"{site.run}/files/{site.instance(map_index=index)}/0")
    if answer.status_code != 200:
        assert not [video for video in card["videos"] if video["where"] == "saved"]
    return answer
