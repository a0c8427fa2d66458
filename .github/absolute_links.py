"""Name the repository in README and metadata, for readers elsewhere: `absolute_links.py URL TAG`."""  # noqa: INP001 - a program, no package

from __future__ import annotations

import re
import sys
from pathlib import Path


def absolute(readme: str, url: str, tag: str) -> str:
    """Return a README whose links work outside of the repository."""
    readme = readme.replace("<this repository>", url).replace("](../../actions/", f"]({url}/actions/")
    readme = re.sub(r"!\[([^]]*)\]\((?!https?:)", rf"![\1]({url}/raw/{tag}/", readme)
    return re.sub(r"\]\((?!https?:|#)", f"]({url}/blob/{tag}/", readme)


def with_urls(project: str, url: str) -> str:
    """Return a project file that names the repository among its URLs."""
    lines = {
        "Repository": url,
        "Documentation": f"{url}/blob/main/docs/index.md",
        "Changelog": f"{url}/blob/main/CHANGELOG.md",
        "Issues": f"{url}/issues",
    }
    added = "".join(f'{name} = "{place}"\n' for name, place in lines.items())
    return project.replace("[project.urls]\n", f"[project.urls]\n{added}", 1)


if __name__ == "__main__":
    url, tag = sys.argv[1:]
    for name, changed in (
        ("README.md", absolute(Path("README.md").read_text(), url, tag)),
        ("pyproject.toml", with_urls(Path("pyproject.toml").read_text(), url)),
    ):
        Path(name).write_text(changed)
