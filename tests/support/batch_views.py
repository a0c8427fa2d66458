"""XComs of a batch task, in the form that the Videos tab reads."""

from __future__ import annotations

from collections import Counter
from typing import Any

PAGE_SIZE = 60
STATUSES = {"s": "succeeded", "u": "succeeded", "f": "failed", "c": "canceled", "r": "processing"}
NAMES = {
    "s": "succeeded",
    "u": "reused",
    "f": "failed",
    "c": "canceled",
    "k": "unknown",
    "x": "skipped",
    "r": "running",
    "w": "waiting",
}


def head_of_batch(states: str, /, **more: Any) -> dict[str, Any]:
    """Return the value of `vace_view` for items in these states, one letter each; `more` replaces members."""
    counts = Counter(states)
    batch = {
        "items": len(states),
        "page_size": PAGE_SIZE,
        "pages": -(-len(states) // PAGE_SIZE),
        "counts": {name: counts[letter] for letter, name in NAMES.items()},
        "states": states,
        "manifest": "s3://clips/2026-11-28/manifest.jsonl",
    }
    return {"batch": batch | more, "vace_conn_id": "vace_default", "error": None}


def pages_of_batch(states: str, uri: str = "s3://clips/{key}.mp4") -> dict[str, dict[str, Any]]:
    """Return the XComs of all pages by key.

    :param uri: address of the saved files, with `{key}` for the key of an item
    """
    items = [item_of_batch(number, letter, uri) for number, letter in enumerate(states)]
    return {
        f"vace_view_page_{start // PAGE_SIZE:04d}": {"items": items[start : start + PAGE_SIZE]}
        for start in range(0, len(items), PAGE_SIZE)
    }


def item_of_batch(number: int, letter: str, uri: str) -> dict[str, Any]:
    """Return one item of a page; items that were never submitted have no prediction."""
    key = f"TR-{number:04d}"
    prompt = f"Product {number} turns slowly on a white table, soft light from the left, slow tracking shot"
    error = "E1001 out of memory" if letter == "f" else None
    prediction: dict[str, Any] | None = None
    if letter in STATUSES:
        is_ready = letter in "su"
        prediction = {
            "id": f"p{number:05d}",
            "status": STATUSES[letter],
            "model": "prunaai/vace-14b",
            "urls": {"web": f"https://replicate.com/p/p{number:05d}"},
            "output": f"https://delivery.example/p{number:05d}.mp4" if is_ready else None,
            "error": error,
            "created_at": "2026-11-28T09:00:00Z",
            "started_at": "2026-11-28T09:00:05Z",
            "completed_at": None if letter == "r" else "2026-11-28T09:02:05Z",
            "metrics": {"predict_time": 120.0},
            "seed": number,
            "label": key,
            "files": [{"uri": uri.format(key=key), "size": 1_400_000, "content_type": "video/mp4"}]
            if is_ready
            else [],
        }
    return {
        "key": key,
        "state": letter,
        "prediction": prediction,
        "input": {"prompt": prompt},
        "error": error,
    }
