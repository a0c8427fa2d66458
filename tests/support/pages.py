"""The pages of the documentation, their code blocks, and the output that they show."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("**/*.md"))}
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# Pages that show whole files of the repository.
SHOWN = {"changelog", "examples"}
BLOCKS = [
    (page, kind, text)
    for page, whole in {"readme": README, **PAGES}.items()
    for _, kind, text in BLOCK.findall(whole)
    if page not in SHOWN
]


def blocks(page: str, kind: str) -> list[str]:
    return [text for where, what, text in BLOCKS if (where, what) == (page, kind)]


def dag_file(page: str, number: int = 0) -> Path:
    """Return the file that holds a page's DAG in the folder of DAGs of these tests."""
    return Path(os.environ["AIRFLOW_HOME"]) / "dags" / f"{page}_{number}.py"


def missing_line(output: str, shown: str) -> str | None:
    """Return a line of a page that the output lacks; `…` stands for any text."""
    shown = shown.replace("/tmp/clips/", f"{os.environ['AIRFLOW_HOME']}/clips/")  # noqa: S108 - as on pages
    for line in shown.replace("s3://aws_default@", "memory://").splitlines():
        if not re.search(".*?".join(map(re.escape, line.split("…"))), output):
            return line
    return None
