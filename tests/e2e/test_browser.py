"""Check the connection form, the gallery and the task tab in a browser on a whole Airflow.

With `VACE_PICTURES=folder` each test saves a picture there.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.provider_info import get_provider_info
from support.batch_views import head_of_batch, pages_of_batch
from support.browsers import QUIET
from support.polled import end_all
from support.standalone import Airflow, until, whole_airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif("VACE_BROWSER" not in os.environ, reason="VACE_BROWSER is not set: takes minutes"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]
PICTURES = os.environ.get("VACE_PICTURES")
PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
# Ten clips of `@task.vace`, mapped.
CAMPAIGN = "vace_campaign_taskflow"
PRODUCTS = [
    {"name": name, "image": f"https://example.com/products/{number}.png"}
    for number, name in enumerate(
        (
            *("Trail shoe", "Rain jacket", "Head lamp", "Rope", "Tent"),
            *("Stove", "Sleeping bag", "Compass", "Water filter", "Ice axe"),
        )
    )
]


# A style may name a colour in many ways, so a canvas converts it to red, green and blue.
BACKGROUND = """() => {
    const pen = document.createElement("canvas").getContext("2d");
    pen.fillStyle = getComputedStyle(document.querySelector(".vace-videos article")).backgroundColor;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}"""


@dataclass
class Seen:
    """A browser on a whole Airflow, and the folder of its videos."""

    airflow: Airflow
    emulator: Emulator
    browser: Browser
    videos: Path

    def page(self, path: str, *, dark: bool = False, height: int = 1000) -> Page:
        """Open a page; this Airflow asks for no login."""
        context = self.browser.new_context(
            viewport={"width": 1440, "height": height}, color_scheme="dark" if dark else "light"
        )
        page = context.new_page()
        # The browser forgets requests beyond 250, and the tests of batches count theirs.
        page.add_init_script("performance.setResourceTimingBufferSize(10000)")
        if dark:
            page.add_init_script("localStorage.setItem('theme', 'dark')")
        page.goto(f"{self.airflow.address}{path}")
        return page

    def picture(self, page: Page, name: str) -> None:
        if PICTURES:
            folder = Path(PICTURES)
            folder.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=folder / f"{name}.png")

    def put_xcom(self, run_id: str, key: str, value: Any) -> None:
        """Write an XCom of the campaign's last task, as a worker does."""
        place = f"/dags/{CAMPAIGN}/dagRuns/{quote(run_id, safe='')}/taskInstances/summary/xcomEntries"
        # An update keeps the time of the row, whereas a worker's push writes a new row.
        url = f"{self.airflow.address}/api/v2{place}/{key}"
        requests.delete(url, headers=self.airflow.headers, timeout=60)
        self.airflow.ask("POST", place, {"key": key, "value": value})

    def run_page(self, run_id: str, rest: str = "", dag_id: str = CAMPAIGN) -> str:
        return f"/dags/{dag_id}/runs/{quote(run_id, safe='')}{rest}"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    from playwright.sync_api import sync_playwright

    home, videos = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("videos")
    settings = {"AIRFLOW__VACE__VIDEO_ROOTS": f"{videos}/", "AIRFLOW__VACE__TASK_TAB": "True"}
    with (
        Emulator(time_scale=0.1) as emulator,
        whole_airflow(home, emulator.connection_to(prices=PRICES), **settings) as airflow,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield Seen(airflow, emulator, browser, videos)
        browser.close()


@pytest.fixture(autouse=True)
def _closed_pages(seen: Seen) -> Iterator[None]:
    """Close the pages of a test, since each polls on, and a thousand cards take a core."""
    yield
    for context in seen.browser.contexts:
        context.close()


@pytest.fixture(scope="module")
def campaign(seen: Seen) -> str:
    """Return the id of a run of ten clips, two of them failed."""
    outcome = {"status": "failed", "error": "E1001 out of memory"}
    seen.emulator.faults.add(method="POST", skip=3, times=2, outcome=outcome)
    run_id = seen.airflow.trigger(CAMPAIGN, products=PRODUCTS, save_to=f"{seen.videos}/", min_share=0.5)
    until(lambda: seen.airflow.tasks(CAMPAIGN, run_id).get("summary") == "success", 240)
    return run_id


def playing(page: Page) -> list[float]:
    """Load all videos, and return each duration in seconds, 0 for one that the browser cannot open."""
    # A video with a poster loads nothing by itself.
    found: list[float] = page.evaluate(
        "[...document.querySelectorAll('.vace-videos video')].map(v => { v.preload = 'metadata'; return v; })"
        ".map(v => v.readyState ? v.duration : 0)"
    )
    return found


def test_a_runs_gallery_plays_videos_and_explains_failures(seen: Seen, campaign: str) -> None:
    page = seen.page(seen.run_page(campaign, "/plugin/vace_videos"))
    page.wait_for_selector(".vace-videos article")
    until(lambda: len(playing(page)) == 8 and all(playing(page)), 30)
    assert page.locator(".vace-videos article").count() == 10
    assert "8 of 10 ready, 2 without a video" in page.inner_text(".vace-videos")
    failed = page.locator("article[data-status=failed]")
    assert failed.count() == 2
    assert "E1001 out of memory" in failed.first.inner_text()
    seen.picture(page, "gallery")


def test_a_runs_gallery_sums_the_costs_that_its_xcoms_have(seen: Seen, campaign: str) -> None:
    page = seen.page(seen.run_page(campaign, "/plugin/vace_videos"))
    page.wait_for_selector(".vace-videos article")
    # A failed prediction is billed too.
    until(lambda: "2 without a video, $4.00" in page.inner_text(".vace-videos"), 30)
    cards = page.locator(".vace-videos article").all_inner_texts()
    assert ["$0.40" in text for text in cards] == [True] * 10
    run = f"/dags/{CAMPAIGN}/dagRuns/{quote(campaign, safe='')}"
    found = seen.airflow.ask("GET", f"{run}/taskInstances?limit=100")["task_instances"]
    costs = []
    for ti in [ti for ti in found if ti["task_id"] == "clip"]:
        key = "return_value" if ti["state"] == "success" else "vace_view"
        path = f"{run}/taskInstances/clip/xcomEntries/{key}?map_index={ti['map_index']}"
        value = seen.airflow.ask("GET", path)["value"]
        costs.append((value if ti["state"] == "success" else value["prediction"])["cost"])
    assert costs == [{"amount": "0.40", "currency": "USD", "basis": "per_run"}] * 10


def test_a_video_plays_in_place_on_its_task(seen: Seen, campaign: str) -> None:
    found = seen.airflow.ask("GET", f"/dags/{CAMPAIGN}/dagRuns/{campaign}/taskInstances")["task_instances"]
    index = min(ti["map_index"] for ti in found if (ti["task_id"], ti["state"]) == ("clip", "success"))
    page = seen.page(seen.run_page(campaign, f"/tasks/clip/mapped/{index}/plugin/vace_video"))
    card = page.locator(".vace-videos article")
    card.wait_for()
    assert card.get_attribute("data-status") == "succeeded"
    until(lambda: all(playing(page)), 30)
    page.locator("video").focus()
    page.keyboard.press("Space")
    # A second that has played proves more than metadata that was loaded.
    until(lambda: page.evaluate("document.querySelector('video').currentTime") > 1, 30)
    seen.picture(page, "tab")
    assert page.get_by_role("article", name="on a wet mountain path").count() == 1
    video = page.locator("video").get_attribute("src")
    assert page.get_by_role("link", name="Download").get_attribute("href") == video


def test_the_gallery_is_dark_in_dark_mode(seen: Seen, campaign: str) -> None:
    page = seen.page(seen.run_page(campaign, "/plugin/vace_videos"), dark=True)
    page.wait_for_selector(".vace-videos article")
    until(lambda: all(playing(page)), 30)
    seen.picture(page, "dark")
    assert sum(page.evaluate(BACKGROUND)) < 150


def test_a_running_prediction_shows_a_progress_bar(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    # The prediction runs until the bar was seen, however long a busy machine takes to open the page.
    monkeypatch.setattr(seen.emulator.world, "time_scale", 0.8)
    run_id = seen.airflow.trigger(
        "vace_text_to_video", prompt="A red fox runs through fresh snow", save_to=f"{seen.videos}/"
    )
    page = seen.page(seen.run_page(run_id, "/plugin/vace_videos", "vace_text_to_video"))
    bar = page.locator(".vace-videos [role=progressbar]")
    bar.wait_for(timeout=120_000)
    assert 0 <= int(bar.get_attribute("aria-valuenow") or -1) <= 100
    assert "step" in (bar.get_attribute("aria-valuetext") or "")
    seen.picture(page, "progress")
    end_all(seen.emulator)
    until(lambda: all(playing(page)) and playing(page), 120)
    assert page.locator(".vace-videos article").count() == 1


def test_a_run_without_a_video_says_so(seen: Seen) -> None:
    seen.emulator.faults.add(method="POST", status=402, body={"detail": "no money left"})
    run_id = seen.airflow.trigger("vace_text_to_video", prompt="a cat", save_to=f"{seen.videos}/")
    until(lambda: seen.airflow.tasks("vace_text_to_video", run_id)["submit"] == "failed")
    page = seen.page(seen.run_page(run_id, "/plugin/vace_videos", "vace_text_to_video"))
    page.wait_for_selector(".vace-videos article")
    assert "no money left" in page.inner_text(".vace-videos")


def requests_of(page: Page, part: str) -> list[dict[str, Any]]:
    """Return name and received bytes of the requests to the plugin's routes with this part in the path."""
    found: list[dict[str, Any]] = page.evaluate(
        "part => performance.getEntriesByType('resource').filter(e => e.name.includes('/vace/'))"
        ".filter(e => e.name.includes(part)).map(e => ({name: e.name, bytes: e.transferSize}))",
        part,
    )
    return found


# --- posters ---------------------------------------------------------------------------------------


def test_a_gallery_shows_posters_and_loads_a_video_when_played(seen: Seen, campaign: str) -> None:
    page = seen.page(seen.run_page(campaign, "/plugin/vace_videos"), height=3000)
    page.locator(".vace-videos video").first.wait_for()
    until(lambda: len(requests_of(page, "/posters/")) == 8, 60)
    assert requests_of(page, "/files/") == []
    assert sum(request["bytes"] for request in requests_of(page, "/posters/")) < 8 * 25_000
    ready = page.locator("article[data-status=succeeded]").first
    ready.get_by_role("button", name="Details of ").click()
    assert "832 x 480, 81 frames, 16 fps, 5.1 s" in page.inner_text(".vace-videos")
    assert "No problems" in page.inner_text(".vace-videos")
    seen.picture(page, "posters")
    page.locator(".vace-videos video").first.focus()
    page.keyboard.press("Space")
    until(lambda: page.evaluate("document.querySelector('.vace-videos video').currentTime") > 0, 60)
    assert len({request["name"] for request in requests_of(page, "/files/")}) == 1


@pytest.mark.parametrize("has_posters", [True, False])
def test_a_thousand_clips_load_the_posters_on_the_screen_only(
    seen: Seen, one_clip: str, *, has_posters: bool
) -> None:
    address = f"{seen.airflow.address}/vace/runs/{CAMPAIGN}/{quote(one_clip, safe='')}/videos"
    cards = requests.get(address, headers=seen.airflow.headers, timeout=60).json()
    (card,) = [card for card in cards if card.get("videos")]

    def copied(number: int) -> dict[str, Any]:
        (video,) = card["videos"]
        poster = f"{video['poster']}?n={number}" if has_posters else None
        video = {**video, "src": f"{video['src']}?n={number}", "poster": poster}
        return {**card, "instance": f"{number}", "map_index": number, "videos": [video]}

    page = seen.page("/")
    page.route("**/vace/runs/**/videos", lambda route: route.fulfill(json=[copied(n) for n in range(1000)]))
    page.goto(f"{seen.airflow.address}{seen.run_page(one_clip, '/plugin/vace_videos')}")
    until(lambda: page.locator(".vace-videos article").count() == 1000, 120)
    kind = "/posters/" if has_posters else "/files/"
    until(lambda: bool(requests_of(page, kind)), 60)
    page.wait_for_load_state("networkidle", timeout=120_000)
    assert len(requests_of(page, kind)) < 50
    assert not has_posters or requests_of(page, "/files/") == []
    seen.picture(page, f"thousand-{kind.strip('/')}")


@pytest.fixture(scope="module")
def one_clip(seen: Seen) -> str:
    """Return the id of a run of one clip, whose last task has no video."""
    run_id = seen.airflow.trigger(CAMPAIGN, products=PRODUCTS[:1], save_to=f"{seen.videos}/batch/")
    until(lambda: seen.airflow.tasks(CAMPAIGN, run_id).get("summary") == "success", 240)
    return run_id


@pytest.fixture
def batch(seen: Seen, one_clip: str) -> str:
    """Write the XComs of a batch of 1,000 items for the last task of a run; return the id of the run."""
    (film,) = (seen.videos / "batch").rglob("*.mp4")
    # A failure in each stored page, so a filter has to read all of them.
    states = "".join("f" if number % 50 == 9 else "s" for number in range(997)) + "ukx"
    for key, value in pages_of_batch(states, f"file://{film}").items():
        seen.put_xcom(one_clip, key, value)
    seen.put_xcom(one_clip, "vace_view", head_of_batch(states))
    return one_clip


def test_a_thousand_clips_show_one_head_and_sixty_cards(seen: Seen, batch: str) -> None:
    page = seen.page(seen.run_page(batch, "/plugin/vace_videos"))
    cards = page.locator(".vace-batch article")
    cards.first.wait_for()
    assert cards.count() == 60
    # The mapped clip of the same run keeps its ordinary card.
    assert page.locator(".vace-videos article").count() == 61
    assert "978 of 1,000 ready" in page.inner_text(".vace-batch header")
    assert "Page 1 of 17: 1 to 60 of 1,000" in page.inner_text(".vace-batch")
    assert len(requests_of(page, "/pages/")) == 1
    assert sum(request["bytes"] for request in requests_of(page, "")) < 2_000_000
    assert not [one for one in requests_of(page, "/files/") if "item=" in one["name"]]
    seen.picture(page, "batch")
    page.locator(".vace-batch video").first.focus()
    page.keyboard.press("Space")
    until(lambda: page.evaluate("document.querySelector('.vace-batch video').currentTime") > 0, 60)


def test_a_filter_goes_over_all_pages_of_a_batch(seen: Seen, batch: str) -> None:
    page = seen.page(seen.run_page(batch, "/tasks/summary/plugin/vace_video"))
    cards = page.locator(".vace-batch article")
    cards.first.wait_for()
    page.get_by_role("button", name="failed 20").click()
    failed = page.locator(".vace-batch article[data-status=failed]")
    until(lambda: (failed.count(), cards.count()) == (20, 20), 60)
    assert len({request["name"] for request in requests_of(page, "/pages/")}) <= 17
    seen.picture(page, "batch-failed")
    page.get_by_role("button", name="unknown 1").click()
    until(lambda: cards.count() == 1 and "billed" in cards.first.inner_text(), 60)
    page.get_by_role("button", name="all 1,000").click()
    page.get_by_role("button", name="Last").first.click()
    until(lambda: cards.count() == 40, 60)
    assert "961 to 1,000 of 1,000" in page.inner_text(".vace-batch")


# Count the cards and pages of each screen of 10,000 items, and the items on two screens or on none.
SCREENS = """async () => {
    const { screensOf } = await import("/vace/batch.js");
    const states = Array.from({ length: 10000 }, (_, n) => (n % 97 === 0 ? "f" : n % 3 ? "s" : "r")).join("");
    return [null, "s", "r", "f", "k"].map((letter) => {
        const screens = screensOf(states, 60, letter);
        const shown = screens.flatMap((screen) => screen.positions);
        const wanted = [...states].filter((state) => letter === null || state === letter).length;
        return {
            cards: Math.max(0, ...screens.map((screen) => screen.positions.length)),
            pages: Math.max(0, ...screens.map((screen) => screen.pages.length)),
            lost: wanted - new Set(shown).size,
            twice: shown.length - new Set(shown).size,
        };
    });
}"""


def test_each_item_of_a_large_batch_is_on_one_screen(seen: Seen, batch: str) -> None:
    page = seen.page(seen.run_page(batch, "/plugin/vace_videos"))
    page.locator(".vace-batch article").first.wait_for()
    for found in page.evaluate(SCREENS):
        assert found["cards"] <= 60
        assert found["pages"] <= 20
        assert (found["lost"], found["twice"]) == (0, 0)


def test_the_shown_page_of_a_batch_follows_its_xcom(seen: Seen, batch: str) -> None:
    page = seen.page(seen.run_page(batch, "/plugin/vace_videos"))
    page.locator(".vace-batch article").first.wait_for()
    states = "f" * 997 + "ukx"
    seen.put_xcom(batch, "vace_view_page_0000", pages_of_batch("f" * 60)["vace_view_page_0000"])
    seen.put_xcom(batch, "vace_view_page_0001", {"items": "mangled"})
    seen.put_xcom(batch, "vace_view", head_of_batch(states))
    failed = page.locator(".vace-batch article[data-status=failed]")
    until(lambda: failed.count() == 60, 60)
    assert "1 of 1,000 ready" in page.inner_text(".vace-batch header")
    page.get_by_role("button", name="Next").first.click()
    until(lambda: "cannot read the report of these items" in page.inner_text(".vace-batch"), 60)
    assert len([one for one in requests_of(page, "/pages/") if one["name"].endswith("/0")]) == 2


@pytest.mark.parametrize(("key", "said"), [(None, "the key was accepted"), ("not-the-key", "Key refused")])
def test_the_connection_is_made_and_tested_in_its_form(seen: Seen, key: str | None, said: str) -> None:
    server = urlsplit(seen.emulator.url)
    name = "vace_good" if key is None else "vace_bad"
    page = seen.page("/connections", height=1900)
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Connection ID").fill(name)
    kind = form.get_by_role("combobox").first
    kind.click()
    kind.fill("VACE")
    page.keyboard.press("Enter")
    form.locator("[name=host]").fill(f"http://{server.hostname}")
    form.locator("[name=port]").fill(str(server.port))
    form.locator("[name=password]").fill(key or seen.emulator.api_key)
    assert form.locator("[name=password]").get_attribute("type") == "password"
    form.locator("[name=password]").wait_for()
    folded = form.get_by_role("button", name="Extra Fields", exact=True)  # unfolded from Airflow 3.4 on
    if folded.count():
        folded.click()
    form.locator("[name=element_api_prefix]").wait_for()
    fields = get_provider_info()["connection-types"][0]["conn-fields"]
    for field in fields.values():
        assert form.get_by_text(field["label"], exact=True).is_visible()
    form.locator("#element_backend").get_by_role("combobox").click()
    for choice in ("gateway", "replicate", "pruna"):
        assert page.get_by_role("option", name=f"{choice}: ").is_visible()
    page.get_by_role("option", name="gateway: ").click()
    page.mouse.move(0, 0)  # no tooltip in the picture
    seen.picture(page, "form")
    form.get_by_role("button", name="Save").click()
    form.wait_for(state="hidden")
    with page.expect_response(lambda answer: answer.url.endswith("/connections/test")) as answered:
        row = page.get_by_role("row").filter(has_text=name)
        row.get_by_role("button", name="Test Connection").click()
    assert said in answered.value.json()["message"]
    page.wait_for_timeout(1000)  # until the notice is drawn in full
    page.set_viewport_size({"width": 1440, "height": 500})
    seen.picture(page, "test-good" if key is None else "test-bad")
