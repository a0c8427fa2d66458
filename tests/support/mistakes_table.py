"""The table of mistakes and messages as Markdown, by `pytest tests/mistakes --mistakes FILE`.

Functions import Airflow when a test runs, because conftest.py sets the environment of Airflow first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.mistakes import Mistake, Scene

_TITLE = "| mistake | message | then | creates sent |\n|---|---|---|---|\n"
# By file, in the order of the tests.
_rows: dict[str, list[str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    row = dict(report.user_properties).get("mistake")
    if report.when == "call" and isinstance(row, str):
        _rows.setdefault(Path(report.fspath).stem.removeprefix("test_mistakes_with_"), []).append(row)


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--mistakes")
    if path and not hasattr(session.config, "workerinput"):
        tables = (f"## {name}\n\n{_TITLE}" + "\n".join(rows) + "\n" for name, rows in sorted(_rows.items()))
        Path(path).write_text("\n".join(tables))


@pytest.fixture
def mistake_scene(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    hurry: None,
) -> Iterator[Scene]:
    from airflow_vace.emulator import Emulator
    from support.mistakes import Scene

    del hurry
    with Emulator(time_scale=0.0002) as server:
        yield Scene(server, tmp_path, monkeypatch, caplog, capsys)


@pytest.fixture
def explain(mistake_scene: Scene, record_property: Any) -> Any:
    from support.mistakes import check

    def explained(mistake: Mistake) -> None:
        message, outcome = check(mistake, mistake_scene)
        # A row does not change with the port.
        shown = (
            message.replace(mistake_scene.server.url, "http://127.0.0.1:8642")
            .replace("|", "\\|")
            .replace("\n", "<br>")
            .replace(str(mistake_scene.folder), "/data")
        )
        row = f"| {mistake.id} | {shown} | {outcome} | {len(mistake_scene.creates)} |"
        record_property("mistake", row)

    return explained
