"""Docstrings, comments and names use the words of the field, without rare ones."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "airflow_vace").rglob("*.py"))
RARE_WORDS = re.compile(
    r"(?<![a-z])(mend(s|ed|ing)?|torn|whoever|whomever|trickl\w+|nought|anew|begun|strangers?|nicety"
    r"|befall\w*|befell|told|tells?)(?![a-z(])",
    re.IGNORECASE,
)


def prose_of(source: str) -> list[tuple[int, str]]:
    """Return line number and text of all comments, strings (also messages) and names."""
    kinds = (tokenize.COMMENT, tokenize.STRING, tokenize.NAME, getattr(tokenize, "FSTRING_MIDDLE", -1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    prose = [token for token in tokens if token.type in kinds]
    # A file object's `tell` is Python's own name.
    return [
        (item.start[0], item.string) for item in prose if (item.type, item.string) != (tokenize.NAME, "tell")
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_contains_no_rare_words(path: Path) -> None:
    prose = prose_of(path.read_text())
    assert not [f"line {line}: {word[0]}" for line, text in prose for word in RARE_WORDS.finditer(text)]


def test_rare_words_are_found_in_docstrings_comments_and_names() -> None:
    source = '"""The text was torn."""\nis_told = 1  # mends it\nretold = amended = "tell"\n'
    found = [word[0] for _, text in prose_of(source) for word in RARE_WORDS.finditer(text)]
    assert found == ["torn", "told", "mends", "tell"]
