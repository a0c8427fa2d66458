"""Report of the demo: the video's path, its facts, the cost, and the next commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow_vace.emulator.prices import EMULATOR_COST, REAL_PRICE
from airflow_vace.terminal import print_path

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def print_report(
    console: Console, conf: dict[str, Any], path: Path, *, seconds: float, is_emulated: bool
) -> None:
    """Print the report of a saved video.

    :param conf: parameters of the DAG run
    :param path: the video
    :param seconds: duration of the demo
    """
    console.print()
    print_path(console, str(path), path.as_uri())
    console.print()
    facts = f"{path.stat().st_size / 1e6:.2f} MB{_video_facts(path)}"
    rows = {
        "Prompt": conf["prompt"],
        "Video": f"{facts}, seed {conf['seed']}, speed {conf['speed']}",
        "Time": f"{seconds:.0f} s",
        "Cost": EMULATOR_COST if is_emulated else f"{REAL_PRICE} for 1 prediction; the vendor's bill decides",
    }
    print_rows(console, {f"{name}:": text for name, text in rows.items()}, is_name_dim=True)
    console.print()
    console.print("Next:", style="bold")
    commands = {"vace-demo --ui": "a whole Airflow with all example DAGs"}
    if is_emulated:
        commands["vace-demo --conn-id CONN_ID"] = f"the same with the real model, {REAL_PRICE}"
    commands["vace-demo --help"] = "prompt, size, seed and speed"
    print_rows(console, {f"{_runner()}{name}": text for name, text in commands.items()})


def print_rows(console: Console, rows: dict[str, str], *, is_name_dim: bool = False) -> None:
    """Print names and texts in two columns; a text breaks between words, and only in a terminal."""
    from rich.table import Table

    if not console.is_terminal:
        width = max(map(len, rows))
        for name, text in rows.items():
            console.print(f"{name:<{width}}  {text}", soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(no_wrap=True, style="dim" if is_name_dim else "cyan")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table)


def _runner() -> str:
    # uv sets this variable, and without uv's environment the bare command is not on the PATH.
    return "uv run " if "UV_RUN_RECURSION_DEPTH" in os.environ else ""


def _video_facts(path: Path) -> str:
    # PyAV comes with the emulator's extra, so a paid run may lack the library and still succeed.
    try:
        import av
    except ImportError:
        return ""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 1)
        seconds = stream.frames / rate
        return f", {stream.width}x{stream.height}, {stream.frames} frames, {seconds:.2f} s at {rate:g} fps"
