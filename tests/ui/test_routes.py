"""Routes of the Videos tab: permissions, byte ranges, file checks, progress and signed outputs."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_vace.prediction import Prediction
from airflow_vace.ui.cards import read_value
from airflow_vace.ui.files import range_of
from support.auth import OUTSIDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi.testclient import TestClient

    from airflow_vace.emulator import Emulator

DAGS = Path(__file__).parents[2] / "dags"
DAG_ID = "vace_campaign"
FAILED = {"status": "failed", "error": "E1001 out of memory"}


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


def test_the_gallery_has_a_card_for_each_prediction_failed_ones_too(site: Site) -> None:
    cards = site.cards()
    assert [(c["task_id"], c["map_index"]) for c in cards] == [("clip", 0), ("clip", 1), ("clip", 2)]
    assert sorted(c["status"] for c in cards) == ["failed", "succeeded", "succeeded"]
    assert sorted(c["state"] for c in cards) == ["failed", "success", "success"]
    for card in cards:
        assert card["input"]["prompt"].endswith("slow tracking shot")
        assert card["input"]["seed"] == 7
        assert card["web"].startswith("https://replicate.com/p/")
        assert not card["is_open"]
    (failed,) = [c for c in cards if c["status"] == "failed"]
    assert "E1001 out of memory" in failed["error"]
    assert not failed["videos"]


def test_a_task_instance_shows_its_own_card_only(site: Site) -> None:
    (card,) = site.cards("?task_id=clip&map_index=2")
    assert card["map_index"] == 2
    assert site.cards("?task_id=summary") == []
    assert site.cards("?task_id=clip&map_index=7") == []


def saved(site: Site) -> dict[str, Any]:
    """Return the card of a prediction that was saved."""
    return next(card for card in site.cards() if card["videos"])


def test_a_saved_video_is_sent_whole_and_in_ranges(site: Site) -> None:
    card = saved(site)
    (video,) = card["videos"]
    path = video["src"].removeprefix("/vace")
    (file,) = site.roots.rglob(f"*{card['id']}.mp4")
    content = file.read_bytes()
    whole = site.get(path)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["Content-Type"] == "video/mp4"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in whole.headers["Content-Security-Policy"]
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert "no-store" in whole.headers["Cache-Control"]
    size = len(content)
    for header, start, end in (
        ("bytes=0-", 0, size),
        ("bytes=10-19", 10, 20),
        ("bytes=-7", size - 7, size),
        (f"bytes={size - 1}-{size + 100}", size - 1, size),
    ):
        part = site.get(path, Range=header)
        assert (part.status_code, part.content) == (206, content[start:end])
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.headers["Content-Length"] == str(end - start)
    beyond = site.get(path, Range=f"bytes={size}-")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    for odd in ("bytes=0-1,3-4", "bytes=9-5", "bytes=-", "bytes=a-b"):
        answer = site.get(path, Range=odd)
        assert (answer.status_code, answer.content) == (200, content)
        assert "Content-Range" not in answer.headers
    head = site.get(path, method="HEAD")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(size))


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=99-", (99, 100)),
        ("bytes=-200", (0, 100)),
        ("bytes=0-9,20-29", None),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=--1", None),
        ("lines=0-9", None),
        (f"bytes={'9' * 5000}-", None),
        ("bytes=0-" + "9" * 5000, None),
    ],
)
def test_ranges_are_read_as_in_rfc_9110(header: str | None, asked: tuple[int, int] | None) -> None:
    assert range_of(header, 100) == asked


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=0-", 0), ("bytes=-5", 0), ("bytes=-0", 9), ("bytes=9-", 9)]
)
def test_a_range_beyond_the_file_is_an_error(header: str, size: int) -> None:
    with pytest.raises(ValueError, match="no byte"):
        range_of(header, size)


RUN_ROUTES = [
    "/runs/{dag_id}/{run_id}/videos",
    "/runs/{dag_id}/{run_id}/progress/{task_id}/{map_index}",
    "/runs/{dag_id}/{run_id}/outputs/{task_id}/{map_index}/{number}",
    "/runs/{dag_id}/{run_id}/files/{task_id}/{map_index}/{number}",
]


def filled(site: Site, route: str) -> str:
    index = saved(site)["map_index"]
    return route.format(
        dag_id=DAG_ID, run_id=quote(site.run_id, safe=""), task_id="clip", map_index=index, number=0
    )


def test_the_list_of_tested_routes_is_complete() -> None:
    from airflow_vace.ui.routes import new_app

    assert [route.path for route in new_app().routes] == ["/tab.js", *RUN_ROUTES]  # type: ignore[attr-defined]


@pytest.mark.parametrize("route", RUN_ROUTES)
def test_each_route_refuses_users_who_may_not_read_the_dag(site: Site, route: str) -> None:
    path = filled(site, route)
    for user in (OUTSIDER, "nobody"):
        assert site.get(path, user).status_code == 403
        assert site.get(f"{path}?dag_id=open", user).status_code == 403
        assert site.get(path.replace(DAG_ID, "%76ace_campaign"), user).status_code == 403
    assert site.get(path, None).status_code == 401
    # The route to a signed output is for videos that are not saved.
    assert site.get(path, "admin").status_code == (404 if "/outputs/" in route else 200)


@pytest.mark.parametrize("route", RUN_ROUTES)
def test_a_permission_for_one_dag_opens_no_other(site: Site, route: str) -> None:
    path = filled(site, route)
    answer = site.get(path.replace(DAG_ID, "open"), OUTSIDER)
    assert answer.status_code == 404 or answer.json() == []
    for trick in (f"open/../{DAG_ID}", f"open%2f..%2f{DAG_ID}", f"open/%2e%2e/{DAG_ID}", "~"):
        answer = site.get(path.replace(DAG_ID, trick), OUTSIDER)
        assert answer.status_code in (403, 404), answer.text


def test_the_script_needs_a_login(site: Site) -> None:
    assert site.get("/tab.js", None).status_code == 401
    answer = site.get("/tab.js", OUTSIDER)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/javascript")


def test_there_are_no_other_paths_or_methods(site: Site) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/", "/runs", "/../api/v2/dags", "/tab.js.map"):
        assert site.get(path, None).status_code in (401, 404), path
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert site.get(f"{site.run}/videos", method=method).status_code == 405


@pytest.fixture
def result(site: Site) -> Iterator[dict[str, Any]]:
    """Return a result of the first clip for changes, and restore it afterwards."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

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
    answer = site.get(f"{site.run}/files/clip/{index}/0")
    if answer.status_code != 200:
        assert not [video for video in card["videos"] if video["where"] == "saved"]
    return answer


SECRET = b"not for everybody"


@pytest.fixture
def tricky(site: Site, tmp_path: Path) -> dict[str, str]:
    """Create files that must not be sent, and return names for addresses."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("secret.mp4", "passwd"):
        (outside / name).write_bytes(SECRET)
    for link, target in (
        ("link.mp4", outside / "secret.mp4"),
        ("folder", outside),
        ("circle.mp4", site.roots / "circle.mp4"),
        ("typed.mp4", outside / "passwd"),
    ):
        path = site.roots / link
        if not path.is_symlink():
            path.symlink_to(target)
        elif path.readlink() != target:
            path.unlink()
            path.symlink_to(target)
    (site.roots / "page.html").write_bytes(SECRET)
    (site.roots / "script.svg").write_bytes(SECRET)
    (site.roots / "manifest.mp4.json").write_bytes(SECRET)
    (site.roots / "directory.mp4").mkdir(exist_ok=True)
    beside = Path(f"{site.roots}-beside")
    beside.mkdir(exist_ok=True)
    (beside / "secret.mp4").write_bytes(SECRET)
    up = "/".join([".."] * 12)
    return {"roots": str(site.roots), "outside": str(outside), "beside": str(beside), "up": up}


@pytest.mark.parametrize(
    "trick",
    [
        "file://{outside}/secret.mp4",
        "file://{beside}/secret.mp4",
        "file://{roots}/{up}{outside}/secret.mp4",
        "file://{roots}/../secret.mp4",
        "file://{roots}/./../secret.mp4",
        "file://{roots}/%2e%2e/secret.mp4",
        "file://{roots}/%2E%2E%2F{up}{outside}/secret.mp4",
        "file://{roots}/%252e%252e/secret.mp4",
        "file://{roots}/..%2fsecret.mp4",
        "file://{roots}/..%5csecret.mp4",
        "file://{roots}/..\\secret.mp4",
        "file://{roots}/link.mp4",
        "file://{roots}/folder/secret.mp4",
        "file://{roots}/circle.mp4",
        "file://{roots}/typed.mp4",
        "file://{roots}/page.html",
        "file://{roots}/script.svg",
        "file://{roots}/manifest.mp4.json",
        "file://{roots}/directory.mp4",
        "file://{roots}/none.mp4",
        "file://{roots}",
        "file://{roots}/",
        "file://localhost{outside}/secret.mp4",
        "file://elsewhere.example{roots}/secret.mp4",
        "file:{outside}/secret.mp4",
        "file:////{outside}/secret.mp4",
        "FILE://{outside}/secret.mp4",
        "{outside}/secret.mp4",
        "../secret.mp4",
        "~/secret.mp4",
        "file:///proc/self/environ",
        "file:///proc/self/cwd/secret.mp4",
        "file:///dev/zero",
        "file:///etc/passwd",
        "file://{roots}/x.mp4\x00.html",
        "file://{roots}/x.mp4%00",
        "file://{roots}/x\n.mp4",
        "file://{outside}/secret.mp4?x={roots}/a.mp4",
        "file://{outside}/secret.mp4#.mp4",
        "http://127.0.0.1:1/secret.mp4",
        "https://elsewhere.example/secret.mp4",
        "s3://my-bucket/secret.mp4",
        "s3://aws_default@my-bucket/secret.mp4",
        "memory://store/../secret.mp4",
        "memory://store/clips-beside/secret.mp4",
        "memory://store/clips/../secret.mp4",
        "memory://store/clips/%2e%2e/secret.mp4",
        "memory://store/clips//secret.mp4",
        "memory://conn@store/clips/a.mp4",
        "memory://other/clips/secret.mp4",
        "memory://store/secret.mp4",
        "data:video/mp4;base64,AAAA",
        "",
        "file://",
        "://",
        None,
        7,
        ["file:///etc/passwd"],
        {"uri": "file:///etc/passwd"},
    ],
    ids=repr,
)
def test_only_videos_below_the_roots_are_sent(
    site: Site, result: dict[str, Any], tricky: dict[str, str], monkeypatch: pytest.MonkeyPatch, trick: Any
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", f"{site.roots}/, memory://store/clips/")
    uri = trick.format(**tricky) if isinstance(trick, str) else trick
    answer = asked_for(site, result, uri)
    assert answer.status_code == 404
    assert SECRET not in answer.content


def test_a_link_within_the_roots_leads_to_its_file(site: Site, result: dict[str, Any]) -> None:
    (file, *_) = site.roots.rglob("clip-*.mp4")
    (site.roots / "latest.mp4").symlink_to(file)
    assert asked_for(site, result, (site.roots / "latest.mp4").as_uri()).content == file.read_bytes()


@pytest.mark.parametrize("root", ["memory://nobody@store/clips/", "nosuch://store/clips/"])
def test_an_unusable_root_does_not_break_the_gallery(
    site: Site, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", root)
    uri = root.replace("nobody@", "") + "a.mp4"
    index = result["map_index"]
    site.put({**result, "files": [{"uri": uri, "size": 1}]}, map_index=index)
    assert len(site.cards()) == 3
    assert site.get(f"{site.run}/files/clip/{index}/0").status_code == 502


def test_an_error_of_a_store_is_a_502(
    site: Site, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", "memory://store/clips/")
    memory.pipe("/store/clips/a.mp4", b"x")

    def throws(path: str, **_: Any) -> Any:
        raise RuntimeError(f"the store's own trouble with {path}")

    monkeypatch.setattr(type(memory), "info", throws)
    index = result["map_index"]
    site.put({**result, "files": [{"uri": "memory://store/clips/a.mp4", "size": 1}]}, map_index=index)
    answer = site.get(f"{site.run}/files/clip/{index}/0")
    assert answer.status_code == 502
    assert "own trouble" not in answer.text


def test_a_file_of_another_task_or_number_is_not_found(site: Site) -> None:
    card = saved(site)
    path = f"{site.run}/files"
    for other in ("summary/-1/0", "inputs/-1/0", "clip/-1/0", f"clip/{card['map_index']}/1", "clip/99/0"):
        assert site.get(f"{path}/{other}").status_code == 404
    for odd in ("clip/x/0", "clip/0/-1", "clip/-2/0", "clip/0/1e3", "clip/0/99999999999999999999999"):
        assert site.get(f"{path}/{odd}").status_code in (404, 422)


def test_without_roots_no_file_is_sent_and_the_card_says_why(
    site: Site, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", "")
    index = result["map_index"]
    gone = {**result, "data_removed": True}
    site.put({name: value for name, value in gone.items() if name != "map_index"}, map_index=index)
    (card,) = site.cards(f"?task_id=clip&map_index={index}")
    assert not card["videos"]
    assert "[vace] video_roots" in card["note"]
    assert site.get(f"{site.run}/files/clip/{index}/0").status_code == 404


def test_a_video_in_a_store_is_read_over_the_roots_connection(
    site: Site, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", "memory://store/clips/")
    memory.pipe("/store/clips/a/b.mp4", bytes(range(256)) * 20_000)
    answer = asked_for(site, result, "memory://store/clips/a/b.mp4")
    assert (answer.status_code, len(answer.content)) == (200, 256 * 20_000)
    part = site.get(f"{site.run}/files/clip/{result['map_index']}/0", Range="bytes=256-511")
    assert part.content == bytes(range(256))


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
    prediction = VaceHook().create_prediction({"prompt": "a fox"})
    assert slow.bill["charged"] == 1
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
    path = f"{site.run}/progress/summary/-1"
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
    answer = site.get(f"{site.run}/progress/summary/-1")
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
    assert site.get(f"{site.run}/progress/summary/-1").json()["status"] is None
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
    paths = [f"/vace{site.run}/outputs/summary/-1/{number}" for number in (0, 1)]
    assert [video["src"] for video in card["videos"]] == paths
    assert "SIGNATURE" not in str(card)
    slow.faults.add(method="GET", status=503)
    assert site.get(f"{site.run}/outputs/summary/-1/0").status_code == 404
    slow.faults.add(method="GET", patch={"status": "succeeded", "output": signed})
    routes.snapshots.clear()
    for number, url in enumerate(signed):
        answer = site.get(f"{site.run}/outputs/summary/-1/{number}")
        assert (answer.status_code, answer.headers["Location"]) == (307, url)
        assert "no-store" in answer.headers["Cache-Control"]
    assert site.get(f"{site.run}/outputs/summary/-1/2").status_code == 404


def test_numbers_beyond_the_databases_integers_are_refused(site: Site) -> None:
    huge = "9" * 30
    assert site.get(f"{site.run}/videos?map_index={huge}").status_code == 422
    assert site.get(f"{site.run}/progress/clip/{huge}").status_code == 422
    assert site.get(f"{site.run}/files/clip/{huge}/0").status_code == 422


def test_progress_of_an_ended_prediction_sends_no_request(site: Site, slow: Emulator) -> None:
    card = saved(site)
    found = site.get(f"{site.run}/progress/clip/{card['map_index']}").json()
    assert found["status"] == "succeeded"
    assert not slow.requests
    assert site.get(f"{site.run}/progress/inputs/-1").status_code == 404
