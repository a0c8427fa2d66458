"""The library of all runs: order, pages, and the permission of each DAG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.auth import OUTSIDER
from support.runs import created, put_xcom, stored
from support.site import DAG_ID, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER = "open_clips"


@pytest.fixture(scope="module")
def runs(airflow_db: str) -> Iterator[list[str]]:
    """Make ten runs of another DAG whose task has failed; return their ids, oldest first."""
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    from airflow_vace.operators import VacePredictionOperator

    assert airflow_db
    with DAG(OTHER, schedule=None, dag_display_name="Open clips") as dag:
        VacePredictionOperator(task_id="clip", input={"prompt": "a fox"})
    stored(dag)
    ids = [created(OTHER) for _ in range(10)]
    for run_id in ids:
        put_xcom((OTHER, run_id, "clip"), "vace_view", {"prediction": None, "error": "no money left"})
    yield ids
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.dag_id == OTHER))


def page_of(site: Site, query: str = "", user: str = "admin") -> dict[str, Any]:
    answer = site.get(f"/library{query}", user)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def all_runs(site: Site, query: dict[str, str]) -> list[list[dict[str, Any]]]:
    """Return the runs of each page, up to the oldest one."""
    pages: list[list[dict[str, Any]]] = []
    older = None
    headers = {"Authorization": f"Bearer {site.tokens['admin']}"}
    while not pages or older:
        asked = query | ({"before": older} if older else {})
        answer = site.client.get("/vace/library", params=asked, headers=headers).json()
        pages.append(answer["runs"])
        older = answer["older"]
    return pages


def test_the_runs_of_all_dags_are_newest_first_and_paged(site: Site, runs: list[str]) -> None:
    dags = page_of(site)["dags"]
    assert (dags[OTHER], dags[DAG_ID]) == ("Open clips", "VACE: campaign")
    pages = all_runs(site, {})
    assert [len(page) for page in pages[:-1]] == [8] * (len(pages) - 1)
    # Other modules of tests may have left runs in the database.
    shown = [run for page in pages for run in page if run["run_id"] in {site.run_id, *runs}]
    assert {run["run_id"] for run in shown} == {site.run_id, *runs}
    assert [run["run_id"] for run in shown if run["dag_id"] == OTHER] == runs[::-1]
    moments = [run["run_after"] for page in pages for run in page]
    assert moments == sorted(moments, reverse=True)


def test_one_dags_runs_can_be_chosen(site: Site, runs: list[str]) -> None:
    found = [run for page in all_runs(site, {"of": OTHER}) for run in page]
    assert [run["run_id"] for run in found] == runs[::-1]
    assert {run["state"] for run in found} == {"running"}
    assert page_of(site, "?of=nobody")["runs"] == []


def test_a_user_sees_the_dags_only_that_the_user_may_read(site: Site, runs: list[str]) -> None:
    for query in ("", f"?of={DAG_ID}", "?of="):
        found = page_of(site, query, OUTSIDER)
        assert list(found["dags"]) == [OTHER]
        assert {run["dag_id"] for run in found["runs"]} <= {OTHER}
    assert len(page_of(site, "", OUTSIDER)["runs"]) == 8 < len(runs)
    assert page_of(site, "", "nobody") == {"dags": {}, "runs": [], "older": None}
    assert site.get("/library", None).status_code == 401


def test_runs_without_videos_are_not_listed(site: Site, runs: list[str]) -> None:
    from airflow.models.xcom import XComModel

    XComModel.clear(dag_id=OTHER, task_id="clip", run_id=runs[-1], map_index=-1)
    assert runs[-1] not in [run["run_id"] for run in page_of(site)["runs"]]


@pytest.mark.parametrize("cursor", ["x", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z~-1"])
def test_a_cursor_of_another_form_is_refused(site: Site, cursor: str) -> None:
    assert site.get(f"/library?before={cursor}").status_code == 422


def test_each_icon_is_an_image_and_needs_a_login(site: Site) -> None:
    for name in ("icon.svg", "icon-dark.svg"):
        assert site.get(f"/{name}", None).status_code == 401
        answer = site.get(f"/{name}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/svg+xml")
