"""Check the library, the gallery and the tabs in a browser on Airflow's API server, without a scheduler.

With `VACE_PICTURES=folder` each test saves a picture there.
"""

from __future__ import annotations

import os
import re
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.browsers import QUIET
from support.screens import Screens, served
from support.standalone import until

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
MAX_WAIT_MS = 60_000


@pytest.fixture(scope="module")
def screens(airflow_db: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screens]:
    assert airflow_db
    with served(tmp_path_factory.mktemp("screens")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a function that opens an address; the pages close after the test."""
    contexts = []

    def opened(address: str, *, width: int = 1440, zone: str | None = None, dark: bool = False) -> Page:
        scheme: Any = "dark" if dark else "light"
        contexts.append(browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(MAX_WAIT_MS)
        if dark:
            page.add_init_script("localStorage.setItem('theme', 'dark')")
        if zone:
            page.add_init_script(f"localStorage.setItem('timezone', JSON.stringify('{zone}'))")
        page.goto(address)
        page.locator(".vace-videos article").first.wait_for()
        return page

    yield opened
    if PICTURES:
        folder = Path(PICTURES)
        folder.mkdir(parents=True, exist_ok=True)
        for number, context in enumerate(contexts):
            context.pages[0].screenshot(path=folder / f"{request.node.name}-{number}.png")
    for context in contexts:
        context.close()


def shape_of(page: Page) -> float:
    """Return the width of the first video, divided by its height."""
    box = page.locator(".vace-videos video").first.bounding_box()
    assert box is not None
    return box["width"] / box["height"]


def test_the_library_has_the_runs_of_all_dags_and_filters_them(screens: Screens, open_page: Any) -> None:
    page = open_page(f"{screens.address}/plugin/vace_library")
    runs = page.locator(".vace-library [data-run]")
    assert runs.count() == len(screens.runs)
    # The newest run stands first.
    assert runs.first.get_attribute("data-run") == screens.runs["review"][1]
    until(lambda: "2 of 3 ready, 1 without a video, $1.20" in page.inner_text(".vace-library"), 60)
    page.get_by_label("DAG", exact=True).select_option("vace_campaign")
    until(lambda: runs.count() == 1 and page.locator(".vace-library article").count() == 3, 60)
    page.get_by_role("button", name="failed").click()
    until(lambda: page.locator(".vace-library article").count() == 1, 60)
    assert "E1001 out of memory" in page.inner_text(".vace-library article")
    runs.get_by_role("link").first.click()
    page.locator(".vace-videos:not(.vace-library)").wait_for()


def test_a_video_has_its_own_shape(screens: Screens, open_page: Any) -> None:
    assert shape_of(open_page(screens.path("campaign"))) == pytest.approx(832 / 480, rel=0.02)
    assert shape_of(open_page(screens.path("portrait"))) == pytest.approx(480 / 832, rel=0.02)


def test_a_failure_stands_in_the_place_of_its_video(screens: Screens, open_page: Any) -> None:
    page = open_page(screens.path("failed"))
    box = page.get_by_role("note", name="Why there is no video")
    assert "E8765 the worker ran out of GPU memory" in box.inner_text()
    assert "No video" not in page.inner_text(".vace-videos")


def test_a_success_without_its_file_is_being_saved(screens: Screens, open_page: Any) -> None:
    page = open_page(screens.path("saving"))
    assert page.locator(".vace-videos article").get_attribute("data-status") == "saving …"
    assert "0 of 1 ready, 1 running" in page.inner_text(".vace-videos")


def test_a_card_lists_the_clips_that_its_checks_rejected(screens: Screens, open_page: Any) -> None:
    page = open_page(screens.path("regenerated"))
    card = page.get_by_role("article", name="A kite over dunes")
    assert card.get_attribute("data-status") == "succeeded"
    reason = card.get_by_text("frames are black")
    assert not reason.is_visible()
    card.get_by_text("1 rejected by checks").click()
    reason.wait_for()
    with page.context.expect_page() as opened:
        card.get_by_role("link", name="Seed 7").click()
    answer = page.request.get(opened.value.url)
    assert answer.headers["content-type"] == "video/mp4"
    # The rejected clip is another file than the one that plays in the card.
    good = card.locator("video").get_attribute("src")
    assert answer.body() != page.request.get(f"{screens.address}{good}").body()


def test_a_filter_shows_one_group_of_cards(screens: Screens, open_page: Any) -> None:
    page = open_page(screens.path("campaign"))
    cards = page.locator(".vace-videos article")
    for name, number in (("ready 2", 2), ("failed 1", 1), ("all 3", 3)):
        page.get_by_role("button", name=name).click()
        assert cards.count() == number


def test_details_have_links_and_buttons_that_copy(screens: Screens, open_page: Any) -> None:
    page = open_page(screens.path("portrait"))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Details of A lighthouse").click()
    facts = page.inner_text(".vace-videos article dl")
    for part in ("prunaai/vace-14b", "480 x 832, 81 frames, 16 fps, 5.1 s", "lightly"):
        assert part in facts
    assert "🍊" not in facts
    page.get_by_role("button", name="Copy the prediction").click()
    page.get_by_text("copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") in facts
    manifest = page.get_by_role("link", name="Manifest").get_attribute("href")
    answer = page.request.get(f"{screens.address}{manifest}")
    assert answer.json()["input"]["prompt"] == "A lighthouse in a storm"


def test_times_are_in_airflows_zone_and_form(screens: Screens, open_page: Any) -> None:
    (zulu, nepal) = (
        open_page(screens.path("portrait", "/tasks/wait/plugin/vace_video"), zone=zone)
        for zone in ("UTC", "Asia/Kathmandu")
    )

    def created_on(page: Page) -> datetime:
        text = page.locator("dt", has_text="Created").locator("xpath=following-sibling::dd[1]").inner_text()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)
        return datetime.fromisoformat(text)

    assert created_on(nepal) - created_on(zulu) == timedelta(hours=5, minutes=45)


def test_a_video_outside_of_the_roots_says_so_at_once(screens: Screens, open_page: Any) -> None:
    text = open_page(screens.path("elsewhere")).inner_text(".vace-videos article")
    assert "Plays from the vendor until " in text
    assert "add s3://my-bucket/clips/ to Airflow's setting [vace] video_roots" in text


def test_a_review_shows_the_video_and_its_cost(screens: Screens, open_page: Any) -> None:
    page = open_page(screens.path("review", "/tasks/review/plugin/vace_video"))
    assert page.locator(".vace-videos video").count() == 1
    assert "have cost $0.40; after a rejection, another take is paid again" in page.inner_text(".vace-videos")


def test_the_question_of_a_review_shows_a_frame_and_the_price(screens: Screens, open_page: Any) -> None:
    page = open_page(screens.path("review"))
    page.goto(screens.path("review", "/tasks/review/required_actions"))
    frame = page.get_by_role("img", name="The first frame")
    until(lambda: frame.evaluate("image => image.naturalWidth") > 0, 60)
    assert page.get_by_text("A rejection costs about $0.40.").is_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Play the video").click()
    opened.value.locator(".vace-videos video").wait_for()


@pytest.mark.parametrize("dark", [False, True])
def test_cards_fit_a_narrow_window(screens: Screens, open_page: Any, *, dark: bool) -> None:
    page = open_page(screens.path("campaign"), width=760, dark=dark)

    def right_edges() -> list[float]:
        boxes = [card.bounding_box() for card in page.locator(".vace-videos article").all()]
        return [box["x"] + box["width"] for box in boxes if box]

    until(lambda: max(right_edges()) <= 760, 30)
