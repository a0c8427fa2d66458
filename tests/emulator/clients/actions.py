"""What the programs of the vendor's Python clients share: an input, and a table of actions."""

from __future__ import annotations

import json
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "51299232dc3d0946d5f5ed74935d85243e172698f747d291460db1e6ef3669fb"
MODEL = "prunaai/vace-14b"
FOX = {"prompt": "a fox", "seed": 7, "frame_num": 5}


def run_all(actions: dict[str, Callable[[], None]]) -> None:
    """Run each action, and print a JSON object of `pass` or the error by the action's name."""
    found = {}
    for name, action in actions.items():
        try:
            action()
        except Exception as error:  # noqa: BLE001 - the table names it
            (*_, line) = traceback.extract_tb(error.__traceback__)
            found[name] = f"{type(error).__name__}: {error} ({line.line})"
        else:
            found[name] = "pass"
    print(json.dumps(found))


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError("the condition is still false")


def refused(kind: type[BaseException], call: Callable[[], Any]) -> Any:
    """Return the error of a call that must fail."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("the call was accepted")
