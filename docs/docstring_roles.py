"""Extension of griffe: write Sphinx's roles and literal blocks of docstrings as Markdown."""  # noqa: INP001 - a program, no package

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|mod|data|func|attr|exc):`~?([^`]+)`")
LITERAL = re.compile(r"^::$\n", re.MULTILINE)


class Roles(griffe.Extension):
    """Write ``:class:`x``` as code, since the reference shows names and no links."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ARG002 - griffe's signature
        """Change the docstring of a class, function, module or attribute."""
        if obj.docstring:
            obj.docstring.value = LITERAL.sub("", ROLE.sub(r"`\1`", obj.docstring.value))
