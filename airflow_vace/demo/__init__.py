"""`vace-demo`: make a video with a DAG in a throw-away Airflow, with one command and no account."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.demo.report import print_report
from airflow_vace.demo.setup import Setup, agreed_connection, real_connection, temporary_home
from airflow_vace.demo.watch import watch
from airflow_vace.emulator.prices import REAL_PRICE
from airflow_vace.input_fields import FIELDS, SPEED_MODES
from airflow_vace.interrupts import late_interrupts
from airflow_vace.terminal import Steps, new_console, port_number
from airflow_vace.throwaway import DemoError, environment_for, tail_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DemoError", "Setup", "main", "real_connection"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vace-demo",
        description="Make a video with an Airflow DAG: by default against the emulator, at no cost.",
    )
    parser.add_argument(
        "--prompt",
        type=_prompt,
        default="A red fox runs through fresh snow, low sun",
        help="content of the video",
    )
    parser.add_argument(
        "--size", type=lambda size: size.replace("x", "*"), choices=FIELDS["size"].values, default="832*480"
    )
    parser.add_argument("--seed", type=int, default=7, help="-1 for a random one (%(default)s)")
    parser.add_argument("--speed", choices=list(SPEED_MODES), default="lightly")
    parser.add_argument(
        "--save-to", type=Path, default=Path("vace-demo"), help="directory for the video (%(default)s)"
    )
    parser.add_argument(
        "--conn-id", help=f"use this Airflow connection instead of the emulator; costs {REAL_PRICE}"
    )
    parser.add_argument("--yes", action="store_true", help="with --conn-id: agree to the cost in advance")
    parser.add_argument(
        "--ui", action="store_true", help="start a whole Airflow with the example DAGs, until Ctrl-C"
    )
    parser.add_argument(
        "--port", type=port_number, default=0, help="with --ui: port of the UI (any free one)"
    )
    return parser


def _prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; describe the content of the video")
    return text


def main(argv: list[str] | None = None, setup: Setup | None = None) -> int:
    """Run the demo, and return the exit code.

    The code is 0 for success, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C.
    """
    options = _parser().parse_args(argv)
    setup = setup or Setup()
    console, errors = new_console(), new_console(sys.stderr)
    try:
        if options.ui:
            from airflow_vace.demo.ui import run_ui

            return run_ui(console, options, setup)
        return _run_once(console, options, setup)
    except DemoError as error:
        errors.print(f"vace-demo: {error}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("\nvace-demo: stopped; all that it started has ended", soft_wrap=True)
        return 130


def _run_once(console: Console, options: argparse.Namespace, setup: Setup) -> int:
    vendor = f"the connection {options.conn_id!r}" if options.conn_id else "the emulator, at no cost"
    console.print(f"vace-demo: a video by an Airflow DAG and {vendor}", style="bold", soft_wrap=True)
    folder = options.save_to.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"can't write to --save-to {folder}: {error.strerror}") from error
    conf = {
        "prompt": options.prompt,
        "size": options.size,
        "seed": options.seed,
        "speed": options.speed,
        "save_to": f"{folder}/",
    }
    # The question must stand before the moving line, which would overwrite the answer.
    given = agreed_connection(options) if options.conn_id else None
    with late_interrupts(), temporary_home() as home, Steps(console) as steps:
        steps.begin("Preparing a throw-away Airflow (SQLite)")
        prediction = _run_dag(steps, conf, home, setup, given)
        steps.done("The video is saved")
        seconds = steps.seconds
    path = Path(prediction["files"][0]["uri"].removeprefix("file://"))
    # A random seed is known from the prediction alone.
    shown = conf | {"seed": conf["seed"] if prediction.get("seed") is None else prediction["seed"]}
    print_report(console, shown, path, seconds=seconds, is_emulated=given is None)
    return 0


def _run_dag(
    steps: Steps, conf: dict[str, Any], home: Path, setup: Setup, connection: str | None
) -> dict[str, Any]:
    """Run the DAG against a connection, None for the emulator; return the payload of the prediction.

    :raises DemoError: if the run fails; the message names the kept log
    """
    log = home / "demo.log"
    with contextlib.ExitStack() as stack:
        emulator = None
        if connection is None:
            emulator = stack.enter_context(setup.new_emulator())
            connection = emulator.connection
        environment = environment_for(home) | {"AIRFLOW_CONN_VACE_DEFAULT": connection}
        setup.migrate(environment, log)
        steps.done("A throw-away Airflow is prepared (SQLite)")
        result = watch(steps, home, environment, conf, emulator)
        if result["state"] != "success":
            # The home is deleted at the end, so the log must move out of it first.
            kept = shutil.copy(log, Path(conf["save_to"]) / "vace-demo.log")
            raise DemoError(f"the DAG run is {result['state']}; its log is in {kept}:\n{tail_of(log)}")
    found: dict[str, Any] = result["prediction"]
    return found
