"""Pages of the emulator for people: the list of predictions with the bill, and a page for each prediction."""

from __future__ import annotations

import json
import time
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiohttp import web

from airflow_vace.emulator.dialects import OWN_FILE, PAGE_PATH, VIDEO
from airflow_vace.emulator.prices import EMULATOR_COST
from airflow_vace.emulator.world import iso
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.progress import Progress
from airflow_vace.redaction import unsigned

if TYPE_CHECKING:
    from airflow_vace.emulator.delivery import Delivery
    from airflow_vace.emulator.server import Emulator
    from airflow_vace.emulator.world import Run

_MAX_ROWS = 500
_MAX_TEXT = 2000
_REFRESH_SECONDS = 2
_HEADERS = {
    # Inputs and logs are text of others, so a page runs no script and loads nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; media-src 'self';"
    " img-src 'self' data:",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
video, img { max-width: 100%; border-radius: 8px; }
pre { background: #8882; padding: .8rem; border-radius: 8px; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 24rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid #8884; }
progress { width: 100%; }
.status { border-radius: 1rem; padding: .1rem .7rem; background: #8883; }
.succeeded { background: #2a7d46; color: white; }
.failed, .aborted, .canceled { background: #b3372f; color: white; }
.note { opacity: .75; }
"""


class Pages:
    """The pages of an emulator, which need no key, count as no request of a client, and meet no fault.

    :param delivery: sends the files that pages show
    """

    def __init__(self, emulator: Emulator, delivery: Delivery) -> None:
        self.emulator = emulator
        self.world = emulator.world
        self.delivery = delivery

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        router.add_get("/", self.overview)
        router.add_get(PAGE_PATH + "{id}", self.prediction)
        router.add_get(PAGE_PATH + "{id}/{name}", self.delivery.file_of_page)

    async def overview(self, request: web.Request) -> web.Response:
        """Send the list of all predictions, newest first, with the bill."""
        del request
        bill = self.emulator.bill
        rows = [_row(self.world.runs[item["id"]], item) for item in reversed(bill["predictions"])]
        table = (
            "<table><tr><th>Prediction<th>Status<th>Prompt<th>Created<th>Charged</tr>"
            + "".join(rows[:_MAX_ROWS])
            + "</table>"
        )
        counts = f"{len(rows)} predictions, {bill['charged']} charged. Cost: {EMULATOR_COST} for each."
        body = f"<h1>vace-emulator</h1><p>{escape(counts)}</p>{table if rows else ''}"
        is_open = any(item["status"] in ("starting", "processing") for item in bill["predictions"])
        return _page("vace-emulator", body, is_open=is_open)

    async def prediction(self, request: web.Request) -> web.Response:
        """Send the page of a prediction."""
        identifier = request.match_info["id"]
        run = self.world.runs.get(identifier)
        if run is None:
            text = f"<h1>No prediction {escape(identifier)}</h1><p><a href='/'>All predictions</a></p>"
            return _page("No such prediction", text, status=404)
        now = time.time()
        is_gone = self.world.is_gone(run, now)
        parts = (*self._head(run, now), *([_gone()] if is_gone else self._content(run, now)))
        return _page(f"Prediction {run.id}", "".join(parts), is_open=run.finished_at(now) is None)

    def _head(self, run: Run, now: float) -> list[str]:
        """Return title, progress, error and facts of a prediction."""
        status, finished = run.status_at(now), run.finished_at(now)
        progress = Progress.from_logs(run.timeline.logs_at(now), run.timeline.steps)
        parts = [
            "<p><a href='/'>All predictions</a></p>",
            f"<h1>{escape(run.id)} {_badge(status)}</h1>",
            "<p class='note'>An emulated prediction: no model has run.</p>",
        ]
        if finished is None and progress is not None:
            words = f"{progress.percent} %, step {progress.step} of {progress.steps}"
            parts.append(f"<progress max='100' value='{progress.percent}'></progress><p>{words}</p>")
        if status == "failed":
            parts.append(f"<h2>Error</h2><pre>{_shown(run.outcome.get('error'))}</pre>")
        is_charged = status != "aborted"
        cost = EMULATOR_COST if run.model == DEFAULT_MODEL else "$0 (emulator)"
        facts = {
            "Model": run.model,
            "Version": run.version or "the latest",
            "Created": iso(run.timeline.created, 0),
            "Duration": f"{(finished or now) - run.timeline.created:.1f} s",
            "Bill": f"{'charged' if is_charged else 'not charged'}; {cost}",
        }
        rows = "".join(f"<tr><th>{name}<td>{escape(text)}</tr>" for name, text in facts.items())
        return [*parts, f"<table>{rows}</table>"]

    def _content(self, run: Run, now: float) -> list[str]:
        """Return output, input and log of a prediction."""
        parts = []
        if run.status_at(now) == "succeeded":
            output = run.outcome.get("output", VIDEO)
            shown = [_media(run.id, name) for name in _own_files(output)]
            parts.append(f"<h2>Output</h2>{''.join(shown) or f'<pre>{_shown(output)}</pre>'}")
        logs = run.timeline.logs_at(min(now, run.finished_at(now) or now))
        parts.append(f"<h2>Input</h2><pre>{_shown(run.input)}</pre>")
        parts.append(f"<h2>Log</h2><pre>{escape(logs) or 'empty'}</pre>")
        return parts


def _page(title: str, body: str, *, is_open: bool = False, status: int = 200) -> web.Response:
    """Return a page; an open page loads itself again."""
    refresh = f"<meta http-equiv='refresh' content='{_REFRESH_SECONDS}'>" if is_open else ""
    text = (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>{refresh}"
        "<meta name='viewport' content='width=device-width'>"
        # A browser otherwise requests an icon, which would count as a client's request.
        f"<link rel='icon' href='data:,'><title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>"
    )
    return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)


def _row(run: Run, item: dict[str, Any]) -> str:
    cells = (
        f"<a href='{PAGE_PATH}{run.id}'>{escape(run.id)}</a>",
        _badge(item["status"]),
        escape(str(run.input.get("prompt", ""))[:200]),
        escape(iso(run.timeline.created, 0)),
        "yes" if item["charged"] else "no",
    )
    return f"<tr>{''.join(f'<td>{cell}' for cell in cells)}</tr>"


def _badge(status: str) -> str:
    return f"<span class='status {escape(status)}'>{escape(status)}</span>"


def _gone() -> str:
    return "<p>Input, output and log are deleted, as at the vendor an hour after the end.</p>"


def _own_files(output: Any) -> list[str]:
    """Return the names of the emulator's files in an output."""
    if isinstance(output, dict | list):
        items = output.values() if isinstance(output, dict) else output
        return [name for item in items for name in _own_files(item)]
    is_own = isinstance(output, str) and output.startswith(OWN_FILE)
    return [output.removeprefix(OWN_FILE)] if is_own else []


def _media(identifier: str, name: str) -> str:
    url = escape(f"{PAGE_PATH}{identifier}/{quote(name)}")
    if name.lower().endswith((".mp4", ".webm", ".mov")):
        return f"<video src='{url}' controls autoplay muted loop></video>"
    if name.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".webp")):
        return f"<img src='{url}' alt='{escape(name)}'>"
    return f"<p><a href='{url}'>{escape(name)}</a></p>"


def _shown(value: Any) -> str:
    """Return JSON as text for a page, with long texts cut and URLs without signatures."""
    return escape(json.dumps(_shortened(value), indent=2, ensure_ascii=False))


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, str):
        text = unsigned(value)
        return text if len(text) <= _MAX_TEXT else f"{text[:100]}… ({len(text)} characters)"
    return value
