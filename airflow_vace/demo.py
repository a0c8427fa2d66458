"""`vace-demo`: a video made by an Airflow DAG in a throw-away Airflow, with one command and no account."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.emulator.cli import port_number
from airflow_vace.inputs import FIELDS, SPEED_MODES
from airflow_vace.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_vace.emulator import Emulator

DAG_ID = "vace_text_to_video"
_PRICE = "some $0.40"
_SPEED_UP = 0.12  # of real life: a prediction takes a quarter of a minute
_PERCENT = re.compile(r"Prediction \S+: \w+, (\d+) %")


class DemoError(Exception):
    """Something that the person at the terminal can mend; the message says how."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vace-demo",
        description="Make a video with an Airflow DAG: by default against the emulator, at no cost.",
    )
    parser.add_argument(
        "--prompt", type=_prompt, default="A red fox runs through fresh snow, low sun", help="what it shows"
    )
    parser.add_argument(
        "--size", type=lambda size: size.replace("x", "*"), choices=FIELDS["size"].values, default="832*480"
    )
    parser.add_argument("--seed", type=int, default=7, help="-1 for a random one (%(default)s)")
    parser.add_argument("--speed", choices=list(SPEED_MODES), default="lightly")
    parser.add_argument(
        "--save-to",
        type=Path,
        default=Path("vace-demo"),
        help="directory for the video (%(default)s)",
    )
    parser.add_argument(
        "--conn-id", help=f"use this Airflow connection instead of the emulator; costs {_PRICE}"
    )
    parser.add_argument(
        "--yes", action="store_true", help="with --conn-id: answer beforehand that it may cost that"
    )
    parser.add_argument(
        "--ui",
        action="store_true",
        help="start a whole Airflow with the example DAGs, until Ctrl-C",
    )
    parser.add_argument(
        "--port", type=port_number, default=0, help="with --ui: port of the UI (any free one)"
    )
    return parser


def _prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; say what the video shall show")
    return text


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return the exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _home() as home:
            return _run_ui(options, home) if options.ui else _run_once(options, home)
    except DemoError as error:
        print(f"vace-demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nvace-demo: stopped; all that it started has ended", file=sys.stderr)
        return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# --- one run ---------------------------------------------------------------------------------------


def _run_once(options: argparse.Namespace, home: Path) -> int:
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
            emulator = stack.enter_context(_emulator(_SPEED_UP))
            connection = emulator.connection
        environment = _environment(home) | {"AIRFLOW_CONN_VACE_DEFAULT": connection}
        log = home / "demo.log"
        with console.status("Preparing a throw-away Airflow (SQLite) …"):
            _run_airflow(["db", "migrate"], environment, log)
        started = time.monotonic()
        result = _watch(console, home, environment, conf, emulator)
        seconds = time.monotonic() - started
        if result["state"] != "success":
            kept = shutil.copy(log, folder / "vace-demo.log")
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise DemoError(f"the DAG run is {result['state']}; its log is in {kept}:\n{tail}")
        _report(console, conf, result["prediction"], seconds, emulator)
    return 0


def _watch(
    console: Any,
    home: Path,
    environment: dict[str, str],
    conf: dict[str, Any],
    emulator: Emulator | None,
) -> dict[str, Any]:
    """Run the DAG in a process of its own, show its progress, and return state and payload."""
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import (
        Progress as Bar,
    )

    result, log = home / "result.json", home / "demo.log"
    code = "import sys; from airflow_vace.demo import run_dag; run_dag(sys.argv[1], sys.argv[2])"
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    command = [sys.executable, "-c", code, str(result), json.dumps(conf)]
    with _started(command, environment, log) as process, Bar(*columns, console=console) as bar:
        shown = bar.add_task(f"{DAG_ID}: Airflow starts", total=100)
        while process.poll() is None:
            status, percent = _emulated(emulator) if emulator else _logged(log)
            bar.update(shown, description=f"{DAG_ID}: {status}", completed=percent)
            time.sleep(0.2)
        told: dict[str, Any] = {"state": f"broken off (exit code {process.returncode})", "prediction": None}
        if result.exists():
            told = json.loads(result.read_text())
        done = 100 if told["state"] == "success" else None
        bar.update(shown, description=f"{DAG_ID}: {told['state']}", completed=done)
    return told


def _emulated(emulator: Emulator) -> tuple[str, float]:
    run = next(iter(emulator.world.runs.values()), None)
    if run is None:
        return "Airflow starts", 0
    now = time.time()
    progress = Progress.from_logs(run.timeline.logs_at(now), run.timeline.steps)
    status = run.status_at(now)
    return (
        f"prediction {status}",
        100 if status == "succeeded" else progress.percent if progress else 0,
    )


def _logged(log: Path) -> tuple[str, float]:
    text = log.read_text(errors="replace") if log.exists() else ""
    found = _PERCENT.findall(text)
    if "Submitted prediction" not in text:
        return "Airflow starts", 0
    return "prediction under way", float(found[-1]) if found else 0


def run_dag(result: str, conf: str) -> None:
    """Run the DAG with `dag.test()` and write its state and the sensor's payload; in its own process."""
    dag = runpy.run_path(str(_dags_folder() / f"{DAG_ID}.py"))[DAG_ID]()
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
    path = Path(urllib.request.url2pathname(file["uri"].removeprefix("file://")))
    bill = f"1 prediction, {_PRICE} at the vendor"
    if emulator:
        bill = f"{emulator.bill['charged']} prediction, by the emulator: nothing to pay"
    rows = {
        "Asked": f"{conf['prompt']!r}, {conf['size']}, seed {conf['seed']}, {conf['speed']}",
        "Prediction": prediction["id"],
        "Video": path,
        "": f"{file['size'] / 1e6:.2f} MB{_described_video(path)}",
        "Took": f"{seconds:.0f} s",
        "Bill": bill,
    }
    for name, text in rows.items():
        console.print(f"{name:<12}{text}", soft_wrap=True, highlight=False, markup=False)


def _described_video(path: Path) -> str:
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
    conn_id: str, what: str, *, is_agreed: bool = False, environment: dict[str, str] | None = None
) -> str:
    """Return the person's connection as JSON, after they agreed to pay for `what`.

    :raises DemoError: if there is no such connection, or they did not
    """
    code = (
        "import sys; from airflow.models.connection import Connection\n"
        "print('\\n' + Connection.get_connection_from_secrets(sys.argv[1]).as_json())"
    )
    found = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, conn_id], capture_output=True, text=True, check=False, env=environment
    )
    if found.returncode:
        why = (found.stderr.strip().splitlines() or ["unknown"])[-1]
        raise DemoError(
            f"the connection {conn_id!r} can't be read: {why.rpartition('Exception: ')[2]}."
            f" Add it with 'airflow connections add {conn_id} --conn-type vace ...', see the README"
        )
    if not is_agreed:
        try:
            answer = input(f"This {what} over {conn_id!r}. Go on? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise DemoError("nothing was sent, nothing is billed")
    return found.stdout.strip().splitlines()[-1]


def _agreed_connection(options: argparse.Namespace) -> str:
    return real_connection(options.conn_id, f"makes one prediction, {_PRICE},", is_agreed=options.yes)


# --- a whole Airflow -------------------------------------------------------------------------------


def _run_ui(options: argparse.Namespace, home: Path) -> int:
    port = options.port or _free_port()
    if options.port and _is_taken(port):
        raise DemoError(f"port {port} is taken; choose another --port, or leave it out")
    log = home / "airflow.log"
    settings = {
        # Where the example DAGs save to unless they are told otherwise.
        "AIRFLOW__VACE__VIDEO_ROOTS": str(Path.home() / "vace-videos"),
        "AIRFLOW__VACE__TASK_TAB": "True",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(_free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(_free_port()),
    }
    environment = _environment(home) | settings
    address = f"http://127.0.0.1:{port}"
    with _emulator(_SPEED_UP) as emulator:
        if options.conn_id:
            # Not on a command line, where everybody on the machine could read the key.
            environment["AIRFLOW_CONN_VACE_DEFAULT"] = _agreed_connection(options)
        print("Preparing a throw-away Airflow (SQLite); it takes a minute or two …", flush=True)
        _run_airflow(["db", "migrate"], environment, log)
        add = ["connections", "add", "vace_default", "--conn-json", emulator.connection]
        if not options.conn_id:
            _run_airflow(add, environment, log)
        with _started([sys.executable, "-m", "airflow", "standalone"], environment, log) as process:
            _wait_until_healthy(address, process, log)
            print(f"Airflow is ready at {address} (no log-in needed); the example DAGs are there:")
            print(f"  {address}/dags/{DAG_ID}")
            print(f"Its log is {log}. Press Ctrl-C to end all of it.", flush=True)
            process.wait()
            raise DemoError(f"Airflow ended by itself:\n{_tail(log)}")


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if process.poll() is not None:
            raise DemoError(f"Airflow ended while it started:\n{_tail(log)}")
        with (
            contextlib.suppress(urllib.error.URLError, OSError, ValueError),
            urllib.request.urlopen(f"{address}/api/v2/monitor/health", timeout=5) as answer,  # noqa: S310
        ):
            parts = json.load(answer)
            if all(part.get("status") in ("healthy", None) for part in parts.values()):
                return
        time.sleep(1)
    raise DemoError(f"Airflow was not healthy after five minutes:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _is_taken(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


# --- what both need --------------------------------------------------------------------------------


def _emulator(time_scale: float) -> Emulator:
    try:
        for library in ("av", "PIL"):
            __import__(library)
    except ImportError as error:
        raise DemoError(f"{error.name} is missing: pip install 'airflow-provider-vace[emulator]'") from error
    from airflow_vace.emulator import Emulator

    return Emulator(time_scale=time_scale)


def _dags_folder() -> Path:
    """Return where the example DAGs are: in the wheel, or in the checkout."""
    here = Path(__file__).resolve().parent
    folders = (here / "example_dags", here.parent / "dags")
    return next(folder for folder in folders if folder.is_dir())


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vace-demo-", ignore_cleanup_errors=True) as home:
        yield Path(home)


def _environment(home: Path) -> dict[str, str]:
    """Return an environment in which Airflow knows nothing but this home and our DAGs."""
    person = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return person | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(_dags_folder()),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1,localhost"))),
        "PYTHONUNBUFFERED": "1",
    }


def _run_airflow(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    command = [sys.executable, "-m", "airflow", *arguments]
    with _started(command, environment, log) as process:
        if process.wait():
            raise DemoError(f"airflow {arguments[0]} {arguments[1]} failed:\n{_tail(log)}")


@contextlib.contextmanager
def _started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in a process group of its own, and end the whole group on the way out."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes], patience: float = 8.0) -> None:
    kill: Callable[[int, int], None] = os.killpg
    with contextlib.suppress(ProcessLookupError, PermissionError):
        kill(process.pid, signal.SIGTERM)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            process.poll()
            kill(process.pid, 0)  # raises once nobody of the group is left
            time.sleep(0.1)
        kill(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
