"""Make the pictures of the README and of `docs/screens.md` from a whole Airflow.

    PYTHONPATH=tests uv run --group browser python tests/e2e/make_gallery.py

The program runs the DAG `vace_campaign` against an emulator, opens the run in Chromium, and writes
`docs/images/gallery.webp` (the gallery while its clips run, animated) and `docs/images/tab.webp`.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import sync_playwright

from airflow_vace.emulator import Emulator
from support.browsers import QUIET
from support.standalone import Airflow, until, whole_airflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Locator, Page, ViewportSize

IMAGES = Path(__file__).parents[2] / "docs" / "images"
DAG = "vace_campaign"
SAVING, FAILING = "Rope", "Tent"
NAMES = ("Trail shoe", "Rain jacket", "Head lamp", SAVING, FAILING, "Stove")
PLACE = "at dawn, wet rock"
ERROR = "E1001: the worker ran out of GPU memory (48.1 GiB wanted, 44.4 GiB free)"
# Each picture of the animation: the share of its steps that each clip has, 1.0 for its end.
SHARES = (
    (0.62, 0.3, 0.46, 0.7, 0.54, 0.14),
    (1.0, 0.58, 0.76, 1.0, 1.0, 0.4),
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.78),
    (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
)
PRICES = {"prunaai/vace-14b": {"per_run": 0.40}}
WINDOW: ViewportSize = {"width": 1280, "height": 800}
TAB_WINDOW: ViewportSize = {"width": 1440, "height": 1290}
SAVING_SECONDS = 45.0
FRAME_MS = [2500, 2500, 2500, 4500]
WAIT_SECONDS = 120


class Studio:
    """An emulator whose clips stand where a picture needs them, and the page of their run."""

    def __init__(self, emulator: Emulator, page: Page) -> None:
        self.emulator = emulator
        self.page = page
        self.frames: list[bytes] = []

    def move_to(self, shares: tuple[float, ...]) -> None:
        """Put each clip at a share of its steps, counted from now."""
        now = time.time()
        for run in self.emulator.world.runs.values():
            share = shares[NAMES.index(run.input["prompt"].removesuffix(f" {PLACE}, slow tracking shot"))]
            line = run.timeline
            if run.status_at(now) in ("starting", "processing"):
                seconds = 90.0 if share == 1.0 else 600.0
                line.boot, line.step = now - line.created - share * seconds, seconds / line.steps
                line.load = line.decode = 0.0

    def has(self, **counts: int) -> bool:
        """Return True if the page has so many cards of each status, with posters and bars drawn."""
        found = {word: self.page.locator(f"article[data-status^={word}]").count() for word in counts}
        bars = self.page.locator(".vace-videos [role=progressbar]").count()
        posters = self.page.locator("video[poster]").count()
        return (
            found == counts and bars == counts.get("processing", 0) and posters == counts.get("succeeded", 0)
        )

    def take(self, **counts: int) -> None:
        """Take a picture once the page has these cards."""
        until(lambda: self.has(**counts), WAIT_SECONDS)
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(1500)  # until bars have grown to their width, and players are drawn
        self.frames.append(self.page.screenshot())
        print(f"picture {len(self.frames)}: {counts}")


def play(video: Locator) -> None:
    """Play a video, so that the browser hides its buttons."""
    video.evaluate("video => { video.muted = true; return video.play(); }")
    until(lambda: video.evaluate("video => video.currentTime") > 1.5)


@contextmanager
def studio(folder: Path) -> Iterator[tuple[Studio, Airflow, Callable[[str], Page]]]:
    """Run an Airflow with an emulator and a browser.

    :param folder: takes Airflow's home and the videos
    """
    settings = {"AIRFLOW__VACE__VIDEO_ROOTS": f"{folder}/", "AIRFLOW__VACE__TASK_TAB": "True"}
    with (
        Emulator(time_scale=50.0) as emulator,
        whole_airflow(folder / "airflow", emulator.connection_to(prices=PRICES), **settings) as airflow,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(QUIET))
        context = browser.new_context(viewport=WINDOW, device_scale_factor=2)
        context.set_default_timeout(WAIT_SECONDS * 1000)

        def opened(path: str) -> Page:
            page = context.new_page()
            page.goto(f"{airflow.address}{path}")
            return page

        yield Studio(emulator, context.new_page()), airflow, opened
        browser.close()


def start(room: Studio, airflow: Airflow, folder: Path) -> str:
    """Start a run with a failure and a slow download; return the id of the run."""
    faults = room.emulator.faults
    faults.add(
        method="POST",
        input={"prompt": f"{FAILING}*"},
        outcome={"status": "failed", "error": ERROR},
    )
    faults.add(method="GET", path="*delivery*", input={"prompt": f"{SAVING}*"}, delay=SAVING_SECONDS)
    products = [
        {"name": name, "image": f"https://example.com/{number}.png"} for number, name in enumerate(NAMES)
    ]
    run_id = airflow.trigger(DAG, products=products, place=PLACE, save_to=f"{folder}/clips/")
    runs = room.emulator.world.runs
    until(lambda: len(runs) == len(NAMES), WAIT_SECONDS)
    return run_id


def write(frames: list[bytes], path: Path) -> None:
    """Write a WebP, animated if there are several frames."""
    first, *rest = (Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames)
    more: dict[str, Any] = {"duration": FRAME_MS[-len(frames) :], "loop": 0} if rest else {}
    first.save(path, save_all=bool(rest), append_images=rest, quality=82, method=6, **more)
    print(f"{path}: {first.size[0]} x {first.size[1]}, {path.stat().st_size // 1000} kB")


def main() -> None:
    """Make the pictures in `docs/images`, or in the directory of the first argument."""
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory() as name, studio(Path(name)) as (room, airflow, opened):
        folder = Path(name)
        run_id = start(room, airflow, folder)
        run_path = f"/dags/{DAG}/runs/{quote(run_id, safe='')}"
        room.page.goto(f"{airflow.address}{run_path}/plugin/vace_videos")
        room.move_to(SHARES[0])
        room.take(processing=6)
        room.move_to(SHARES[1])
        room.take(processing=3, saving=1, failed=1, succeeded=1)
        room.move_to(SHARES[2])
        play(room.page.locator("article video").first)
        room.take(processing=1, failed=1, succeeded=4)
        room.move_to(SHARES[3])
        room.take(failed=1, succeeded=5)
        write(room.frames, images / "gallery.webp")
        tab = opened(f"{run_path}/tasks/clip/mapped/0/plugin/vace_video")
        tab.set_viewport_size(TAB_WINDOW)
        tab.locator("video[poster]").wait_for()
        play(tab.locator("video"))
        write([tab.screenshot()], images / "tab.webp")


if __name__ == "__main__":
    main()
