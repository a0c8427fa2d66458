"""Routes of the Videos tab: cards, and the permission of each route."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from support.auth import OUTSIDER
from support.site import DAG_ID, Site, saved


def test_the_gallery_has_a_card_for_each_prediction_failed_ones_too(site: Site) -> None:
    cards = site.cards()
    assert [(c["task_id"], c["map_index"]) for c in cards] == [("clip", 0), ("clip", 1), ("clip", 2)]
    assert sorted(c["status"] for c in cards) == ["failed", "succeeded", "succeeded"]
    assert sorted(c["state"] for c in cards) == ["failed", "success", "success"]
    for card in cards:
        assert card["input"]["prompt"].endswith("slow tracking shot")
        assert card["input"]["seed"] == 7
        assert card["web"].startswith("http://127.0.0.1:")
        assert not card["is_open"]
    (failed,) = [c for c in cards if c["status"] == "failed"]
    assert "E1001 out of memory" in failed["error"]
    assert not failed["videos"]


def test_a_task_instance_shows_its_own_card_only(site: Site) -> None:
    (card,) = site.cards("?task_id=clip&map_index=2")
    assert card["map_index"] == 2
    assert not card["is_upstream"]
    assert site.cards("?task_id=clips_wanted") == []
    assert site.cards("?task_id=clip&map_index=7") == []


RUN_ROUTES = [
    "/runs/{dag_id}/{run_id}/videos",
    "/runs/{dag_id}/{run_id}/pages/{instance}/{page}",
    "/runs/{dag_id}/{run_id}/progress/{instance}",
    "/runs/{dag_id}/{run_id}/outputs/{instance}/{number}",
    "/runs/{dag_id}/{run_id}/files/{instance}/{number}",
    "/runs/{dag_id}/{run_id}/posters/{instance}/{number}",
    "/runs/{dag_id}/{run_id}/manifests/{instance}/{number}",
    "/runs/{dag_id}/{run_id}/rejected/{instance}/{number}",
    "/runs/{dag_id}/{run_id}/poster",
]


def filled(site: Site, route: str) -> str:
    run_id = quote(site.run_id, safe="")
    card = saved(site)
    if route.endswith("/poster"):
        route += f"?task_id=clip&map_index={card['map_index']}"
    return route.format(dag_id=DAG_ID, run_id=run_id, instance=card["instance"], number=0, page=0)


def test_the_list_of_tested_routes_is_complete() -> None:
    from airflow_vace.ui.plugin import ICONS
    from airflow_vace.ui.routes import SCRIPTS, new_app

    paths = [route.path for route in new_app().routes]  # type: ignore[attr-defined]
    # The tests of the library and of the icons are in another module.
    assert paths == [*(f"/{name}" for name in (*SCRIPTS, *ICONS.values())), "/library", *RUN_ROUTES]


@pytest.mark.parametrize("route", RUN_ROUTES)
def test_each_route_refuses_users_who_may_not_read_the_dag(site: Site, route: str) -> None:
    path = filled(site, route)
    for user in (OUTSIDER, "nobody"):
        assert site.get(path, user).status_code == 403
        assert site.get(f"{path}?dag_id=open", user).status_code == 403
        assert site.get(path.replace(DAG_ID, "%76ace_campaign"), user).status_code == 403
    assert site.get(path, None).status_code == 401
    # A signed output is for videos that are not saved, a page is for a batch, and no clip was rejected.
    is_absent = any(part in route for part in ("/outputs/", "/pages/", "/rejected/"))
    assert site.get(path, "admin").status_code == (404 if is_absent else 200)


@pytest.mark.parametrize("route", RUN_ROUTES)
def test_a_permission_for_one_dag_opens_no_other(site: Site, route: str) -> None:
    path = filled(site, route)
    answer = site.get(path.replace(DAG_ID, "open"), OUTSIDER)
    assert answer.status_code == 404 or answer.json() == []
    for trick in (f"open/../{DAG_ID}", f"open%2f..%2f{DAG_ID}", f"open/%2e%2e/{DAG_ID}", "~"):
        answer = site.get(path.replace(DAG_ID, trick), OUTSIDER)
        assert answer.status_code in (403, 404), answer.text


@pytest.mark.parametrize("name", ["tab.js", "cards.js", "batch.js", "costs.js", "library.js", "parts.js"])
def test_each_script_needs_a_login(site: Site, name: str) -> None:
    assert site.get(f"/{name}", None).status_code == 401
    answer = site.get(f"/{name}", OUTSIDER)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/javascript")


def test_there_are_no_other_paths_or_methods(site: Site) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/", "/runs", "/../api/v2/dags", "/tab.js.map"):
        assert site.get(path, None).status_code in (401, 404), path
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert site.get(f"{site.run}/videos", method=method).status_code == 405


def test_numbers_beyond_the_databases_integers_are_refused(site: Site) -> None:
    huge = "9" * 30
    assert site.get(f"{site.run}/videos?map_index={huge}").status_code == 422
    assert site.get(f"{site.run}/progress/{huge}").status_code == 422
    assert site.get(f"{site.run}/pages/{site.instance(map_index=0)}/{huge}").status_code == 422
    assert site.get(f"{site.run}/files/{huge}/0").status_code == 422
