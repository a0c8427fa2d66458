"""`vace-demo --ui`: a whole Airflow with the example DAGs, a local library of clips, and the emulator."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_vace.demo.report import print_rows
from airflow_vace.demo.setup import agreed_connection, temporary_home
from airflow_vace.demo.watch import DAG_ID
from airflow_vace.emulator.prices import EMULATOR_COST, REAL_PRICE
from airflow_vace.interrupts import late_interrupts
from airflow_vace.terminal import Steps, print_path
from airflow_vace.throwaway import (
    DemoError,
    dags_folder,
    environment_for,
    find_airflow,
    free_port,
    is_port_taken,
    run_airflow,
    started,
    tail_of,
    wait_for,
    wait_until_healthy,
)

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from airflow_vace.demo.setup import Setup
    from airflow_vace.emulator import Emulator

# The example DAGs save below this directory by default, and the Videos tab shows it.
_VIDEOS = Path("~/vace-videos")
# The default library of the example DAG, a bucket that nobody has.
_EXAMPLE_LIBRARY = re.compile(r'"s3://[^"]*my-bucket/videos/"')
_CLIPS = {
    "harbor.mp4": "A harbor at dawn, boats on calm water",
    "market.mp4": "A market street, people with umbrellas",
    "meadow.mp4": "A meadow in the wind, tall grass",
}
_CLIP_FRAMES = 33


def run_ui(console: Console, options: argparse.Namespace, setup: Setup) -> int:
    """Run a whole Airflow until Ctrl-C.

    :raises DemoError: if the port is taken, or a part of Airflow does not start or ends
    """
    port = options.port or free_port()
    if options.port and is_port_taken(port):
        raise DemoError(f"port {port} is taken; choose another --port, or leave it out")
    console.print("vace-demo: a whole Airflow with the example DAGs", style="bold", soft_wrap=True)
    videos, address = _VIDEOS.expanduser(), f"http://127.0.0.1:{port}"
    given = agreed_connection(options) if options.conn_id else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(late_interrupts())
        home = stack.enter_context(temporary_home())
        emulator = stack.enter_context(setup.new_emulator())
        log = home / "airflow.log"
        with Steps(console) as steps:
            steps.begin("Preparing a throw-away Airflow (SQLite)")
            environment = _prepared(home, port, videos)
            if given is not None:
                # Not on a command line, where everybody on the machine could read the key.
                environment["AIRFLOW_CONN_VACE_DEFAULT"] = given
            setup.migrate(environment, log)
            if given is None:
                # In the database rather than a variable, so the UI shows the connection.
                connection = emulator_connection(emulator, videos)
                run_airflow(
                    ["connections", "add", "vace_default", "--conn-json", connection], environment, log
                )
            steps.done("A throw-away Airflow is prepared (SQLite)")
            steps.begin("Starting Airflow; a minute or two")
            command = [sys.executable, "-m", "airflow", "standalone"]
            process = stack.enter_context(started(command, environment, log))
            wait_until_healthy(address, process, log)
            steps.done("Airflow is ready; no log-in is needed")
        _print_places(console, address, videos, log, emulator if given is None else None)
        wait_for(process)
        raise DemoError(f"Airflow ended by itself:\n{tail_of(log)}")


def _prepared(home: Path, port: int, videos: Path) -> dict[str, str]:
    """Write the library and the DAGs, and return Airflow's environment.

    :raises DemoError: if Airflow cannot start here, or a directory cannot be written
    """
    environment = environment_for(home)
    find_airflow(environment)
    make_library(videos / "library")
    return environment | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(copy_dags(home / "dags", videos / "library")),
        "AIRFLOW__VACE__VIDEO_ROOTS": str(videos),
        "AIRFLOW__VACE__TASK_TAB": "True",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }


def emulator_connection(emulator: Emulator, videos: Path) -> str:
    """Return the emulator's connection as JSON; tasks may send files below the directory of videos.

    Host and port are apart: for a connection without a port, Airflow's Test button sends port 0, which
    Airflow refuses.
    """
    connection: dict[str, Any] = json.loads(
        # Control videos are too large for a `data:` URL, and Replicate takes uploads.
        emulator.connection_to(backend="replicate", input_roots=[str(videos)])
    )
    parts = urlsplit(connection["host"])
    return json.dumps(connection | {"host": f"{parts.scheme}://{parts.hostname}", "port": parts.port})


def make_library(folder: Path) -> None:
    """Draw short clips for the DAG that restyles a library, unless the clips are there.

    :raises DemoError: if the directory cannot be written
    """
    from airflow_vace.emulator.video import draw

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, prompt in _CLIPS.items():
            if not (folder / name).exists():
                draw(folder / name, prompt=prompt, seed=7, size=(832, 480), frames=_CLIP_FRAMES)
    except OSError as error:
        raise DemoError(f"can't write to {folder}: {error.strerror}") from error


def copy_dags(target: Path, library: Path) -> Path:
    """Copy the example DAGs, with a local library as the default of the DAG that restyles one.

    :param target: new directory
    :return: the new directory
    """
    shutil.copytree(dags_folder(), target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in target.glob("*.py"):
        text = path.read_text()
        local = _EXAMPLE_LIBRARY.sub(lambda _: json.dumps(f"file://{library}/"), text)
        if local != text:
            path.write_text(local)
    return target


def _print_places(console: Console, address: str, videos: Path, log: Path, emulator: Emulator | None) -> None:
    console.print()
    print_path(console, f"{address}/dags/{DAG_ID}", f"{address}/dags/{DAG_ID}")
    console.print()
    rows = {
        "Airflow:": address,
        "Videos:": f"{videos}; they stay there when the demo ends",
        "Log:": str(log),
    }
    if emulator is not None:
        rows["Emulator:"] = f"{emulator.url}/ has all predictions and the bill"
    rows["Cost:"] = EMULATOR_COST if emulator else f"{REAL_PRICE} for each prediction that you start"
    print_rows(console, rows, is_name_dim=True)
    console.print()
    console.print("Next: open the DAG, press Trigger, and look at the tab Videos of the run.", style="bold")
    console.print("Press Ctrl-C to end all of it.")
