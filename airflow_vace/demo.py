"""`vace-demo`: make a video with a DAG in a throw-away Airflow, with one command and no account."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.emulator.cli import port_number
from airflow_vace.inputs import FIELDS, SPEED_MODES
from airflow_vace.progress import Progress
from airflow_vace.throwaway import (
    DemoError,
    dags_folder,
    environment_for,
    free_port,
    is_port_taken,
    run_airflow,
    started,
    tail_of,
    wait_until_healthy,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_vace.emulator import Emulator

__all__ = ["DemoError", "Setup", "main", "real_connection", "run_dag"]

DAG_ID = "vace_text_to_video"
_PRICE = "some $0.40"
# A prediction then takes a quarter of a minute: long enough to see the progress bar.
_TIME_SCALE = 0.12
_PERCENT = re.compile(r"Prediction \S+: \w+, (\d+) %")


def _migrate(environment: dict[str, str], log: Path) -> None:
    run_airflow(["db", "migrate"], environment, log)


def _new_emulator() -> Emulator:
    # Check first: the emulator itself misses a library only at the first video.
    try:
        for library in ("av", "PIL"):
            __import__(library)
    except ImportError as error:
        raise DemoError(f"{error.name} is missing: pip install 'airflow-provider-vace[emulator]'") from error
    from airflow_vace.emulator import Emulator

    return Emulator(time_scale=_TIME_SCALE)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Preparations of a demo that tests replace.

    :param migrate: create the metadata database, from an environment and the path of a log
    :param new_emulator: return the vendor, not yet started
    """

    migrate: Callable[[dict[str, str], Path], None] = _migrate
    new_emulator: Callable[[], Emulator] = _new_emulator


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
        "--conn-id", help=f"use this Airflow connection instead of the emulator; costs {_PRICE}"
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
    # SIGTERM must end the child processes too, so it takes the path of Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _home() as home:
            return _run_ui(options, home, setup) if options.ui else _run_once(options, home, setup)
    except DemoError as error:
        print(f"vace-demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nvace-demo: stopped; all that it started has ended", file=sys.stderr)
        return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vace-demo-", ignore_cleanup_errors=True) as home:
        yield Path(home)


def _run_once(options: argparse.Namespace, home: Path, setup: Setup) -> int:
    from rich.console import Console

    console = Console()
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
    with contextlib.ExitStack() as stack:
        emulator = None
        if options.conn_id:
            connection = _agreed_connection(options)
        else:
            emulator = stack.enter_context(setup.new_emulator())
            connection = emulator.connection
        environment = environment_for(home) | {"AIRFLOW_CONN_VACE_DEFAULT": connection}
        log = home / "demo.log"
        with console.status("Preparing a throw-away Airflow (SQLite) …"):
            setup.migrate(environment, log)
        start = time.monotonic()
        result = _watch(console, home, environment, conf, emulator)
        if result["state"] != "success":
            # The home is deleted at the end, so the log must move out of it first.
            kept = shutil.copy(log, folder / "vace-demo.log")
            raise DemoError(f"the DAG run is {result['state']}; its log is in {kept}:\n{tail_of(log)}")
        _report(console, conf, result["prediction"], time.monotonic() - start, emulator)
    return 0


def _watch(
    console: Any,
    home: Path,
    environment: dict[str, str],
    conf: dict[str, Any],
    emulator: Emulator | None,
) -> dict[str, Any]:
    """Run the DAG in a child process with a progress bar, and return `{"state", "prediction"}`."""
    from rich import progress as rich

    result, log = home / "result.json", home / "demo.log"
    # A child process, since Airflow reads its configuration once, at the first import.
    code = "import sys; from airflow_vace.demo import run_dag; run_dag(sys.argv[1], sys.argv[2])"
    columns = (
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TimeElapsedColumn(),
    )
    command = [sys.executable, "-c", code, str(result), json.dumps(conf)]
    with (
        started(command, environment, log) as process,
        rich.Progress(*columns, console=console) as bar,
    ):
        task = bar.add_task(f"{DAG_ID}: Airflow starts", total=100)
        while process.poll() is None:
            # A real back-end's progress is only in the log; the emulator's is at hand.
            status, percent = _emulated_progress(emulator) if emulator else _logged_progress(log)
            bar.update(task, description=f"{DAG_ID}: {status}", completed=percent)
            time.sleep(0.2)
        outcome: dict[str, Any] = {
            "state": f"broken off (exit code {process.returncode})",
            "prediction": None,
        }
        if result.exists():
            outcome = json.loads(result.read_text())
        done = 100 if outcome["state"] == "success" else None
        bar.update(task, description=f"{DAG_ID}: {outcome['state']}", completed=done)
    return outcome


def _emulated_progress(emulator: Emulator) -> tuple[str, float]:
    run = next(iter(emulator.world.runs.values()), None)
    if run is None:
        return "Airflow starts", 0
    now = time.time()
    progress = Progress.from_logs(run.timeline.logs_at(now), run.timeline.steps)
    status = run.status_at(now)
    percent = 100 if status == "succeeded" else progress.percent if progress else 0
    return f"prediction {status}", percent


def _logged_progress(log: Path) -> tuple[str, float]:
    text = log.read_text(errors="replace") if log.exists() else ""
    found = _PERCENT.findall(text)
    if "Submitted prediction" not in text:
        return "Airflow starts", 0
    return "prediction under way", float(found[-1]) if found else 0


def run_dag(result: str, conf: str) -> None:
    """Run the DAG with `dag.test()`; write the run's state and the sensor's payload to a file.

    :param result: path of the file
    :param conf: the run's parameters as JSON
    """
    dag = runpy.run_path(str(dags_folder() / f"{DAG_ID}.py"))[DAG_ID]()
    run = dag.test(run_conf=json.loads(conf))
    prediction = run.get_task_instance("wait").xcom_pull(task_ids="wait")
    Path(result).write_text(json.dumps({"state": str(run.state), "prediction": prediction}))


def _report(
    console: Any,
    conf: dict[str, Any],
    prediction: dict[str, Any],
    seconds: float,
    emulator: Emulator | None,
) -> None:
    file = prediction["files"][0]
    path = Path(file["uri"].removeprefix("file://"))
    bill = f"1 prediction, {_PRICE} at the vendor"
    if emulator:
        bill = f"{emulator.bill['charged']} prediction, by the emulator: nothing to pay"
    rows = {
        "Asked": f"{conf['prompt']!r}, {conf['size']}, seed {conf['seed']}, {conf['speed']}",
        "Prediction": prediction["id"],
        "Video": path,
        "": f"{file['size'] / 1e6:.2f} MB{_video_facts(path)}",
        "Took": f"{seconds:.0f} s",
        "Bill": bill,
    }
    for name, text in rows.items():
        # Without markup, since brackets in a prompt would be read as styles.
        console.print(f"{name:<12}{text}", soft_wrap=True, highlight=False, markup=False)


def _video_facts(path: Path) -> str:
    # PyAV comes with the emulator's extra, so a paid run may lack the library and still succeed.
    try:
        import av
    except ImportError:
        return ""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or 1
        seconds = stream.frames / float(rate)
        return f", {stream.width}x{stream.height}, {stream.frames} frames, {seconds:.2f} s at {rate} fps"


def real_connection(
    conn_id: str, action: str, *, is_agreed: bool = False, environment: dict[str, str] | None = None
) -> str:
    """Return the person's connection as JSON, after agreement to a payment.

    :param action: the paid action, for the question, such as `makes one prediction, some $0.40,`
    :param is_agreed: skip the question
    :param environment: environment for the lookup of the connection; the own environment by default
    :raises DemoError: if the connection does not exist, or the person does not agree
    """
    # A child process, since this one may have loaded Airflow with another configuration.
    code = (
        "import sys; from airflow.models.connection import Connection\n"
        "print('\\n' + Connection.get_connection_from_secrets(sys.argv[1]).as_json())"
    )
    found = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, conn_id], capture_output=True, text=True, check=False, env=environment
    )
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["unknown"])[-1]
        raise DemoError(
            f"the connection {conn_id!r} can't be read: {reason.rpartition('Exception: ')[2]}."
            f" Add it with 'airflow connections add {conn_id} --conn-type vace ...', see the README"
        )
    if not is_agreed:
        try:
            answer = input(f"This {action} over {conn_id!r}. Go on? [y/N] ")
        except EOFError:
            # Without a terminal nobody can agree, so nothing may be paid.
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise DemoError("nothing was sent, nothing is billed")
    # Airflow may print warnings first, so the connection is the last line.
    return found.stdout.strip().splitlines()[-1]


def _agreed_connection(options: argparse.Namespace) -> str:
    return real_connection(options.conn_id, f"makes one prediction, {_PRICE},", is_agreed=options.yes)


def _run_ui(options: argparse.Namespace, home: Path, setup: Setup) -> int:
    port = options.port or free_port()
    if options.port and is_port_taken(port):
        raise DemoError(f"port {port} is taken; choose another --port, or leave it out")
    log = home / "airflow.log"
    settings = {
        # The example DAGs save there by default, so the tab can show their videos.
        "AIRFLOW__VACE__VIDEO_ROOTS": str(Path.home() / "vace-videos"),
        "AIRFLOW__VACE__TASK_TAB": "True",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }
    environment = environment_for(home) | settings
    address = f"http://127.0.0.1:{port}"
    with setup.new_emulator() as emulator:
        if options.conn_id:
            # Not on a command line, where everybody on the machine could read the key.
            environment["AIRFLOW_CONN_VACE_DEFAULT"] = _agreed_connection(options)
        print("Preparing a throw-away Airflow (SQLite); it takes a minute or two …", flush=True)
        setup.migrate(environment, log)
        add = ["connections", "add", "vace_default", "--conn-json", emulator.connection]
        if not options.conn_id:
            # In the database rather than a variable, so the UI shows the connection.
            run_airflow(add, environment, log)
        with started([sys.executable, "-m", "airflow", "standalone"], environment, log) as process:
            wait_until_healthy(address, process, log)
            print(f"Airflow is ready at {address} (no log-in needed); the example DAGs are there:")
            print(f"  {address}/dags/{DAG_ID}")
            print(f"Its log is {log}. Press Ctrl-C to end all of it.", flush=True)
            process.wait()
            raise DemoError(f"Airflow ended by itself:\n{tail_of(log)}")


if __name__ == "__main__":
    sys.exit(main())
