"""`vace-emulator`: the emulator as a program."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.emulator.chaos import chaos
from airflow_vace.emulator.faults import Fault, faults_from_json
from airflow_vace.emulator.gateways import PRESETS
from airflow_vace.emulator.news import News
from airflow_vace.emulator.world import DEFAULT_KEY, DEFAULT_PORT
from airflow_vace.terminal import new_console, port_number

if TYPE_CHECKING:
    from airflow_vace.emulator.server import Emulator

# Variables of requests, of OpenSSL and so httpx, and of Node.js.
_TRUST_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")


class _UsageError(Exception):
    """A problem for the person at the terminal; the message names the fix.

    :param code: the exit code of the program
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vace-emulator",
        description="Serve prunaai/vace-14b without a vendor: real HTTP, real MP4s, no money.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument(
        "--port", type=port_number, default=DEFAULT_PORT, help="port, 0 for any free one (%(default)s)"
    )
    parser.add_argument("--api-key", default=DEFAULT_KEY, help="the accepted key (%(default)s)")
    parser.add_argument(
        "--time-scale",
        type=_positive,
        default=1.0,
        help="duration of a prediction as a fraction of the real one; 0.01 is fast (%(default)s)",
    )
    parser.add_argument(
        "--retention", type=_positive, default=3600.0, help="lifetime of files in seconds (%(default)s)"
    )
    parser.add_argument("--tls", action="store_true", help="serve HTTPS, and print the file to trust")
    parser.add_argument(
        "--dialect", choices=list(PRESETS), help="ids, words, envelopes and second key of a gateway"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="OWNER/NAME[:VERSION][=FILE]",
        help="play a further model: FILE is an OpenAPI schema or an output in JSON, or a file to deliver;"
        " without one, an echo of the input; '*' for any model",
    )
    parser.add_argument("--limit", type=_positive, help="requests a second; further ones get a 429")
    parser.add_argument("--create-limit", type=_positive, help="creates a minute; further ones get a 429")
    parser.add_argument("--create-burst", type=int, help="creates at once (default: a minute's worth)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same run (%(default)s)")
    parser.add_argument("--faults", type=Path, help="JSON file with one fault or a list of faults")
    parser.add_argument(
        "--chaos", type=_share, default=0.0, help="fraction of requests that fail at random (%(default)s)"
    )
    parser.add_argument(
        "--state", type=Path, help="file that keeps accepted predictions, to continue after a restart"
    )
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction: 0 to 1")
    return number


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit code.

    The code is 0 after a signal, 1 for a port in use, 2 for wrong usage, 3 for a missing library.
    """
    options = _parser().parse_args(argv)
    try:
        faults = _faults_in(options.faults) if options.faults else []
        models = dict(map(_model_in, options.model))
        _require_libraries()
        emulator = _emulator_of(options, models)
        emulator.faults.add(*faults, *chaos(options.chaos))
        asyncio.run(_serve(emulator))
    except _UsageError as error:
        print(f"vace-emulator: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(
            f"vace-emulator: can't listen at {options.host}:{options.port}: {error.strerror or error};"
            " choose another --port (0 for any free one)",
            file=sys.stderr,
        )
        return 1
    return 0


def _faults_in(path: Path) -> list[Fault]:
    try:
        return faults_from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _UsageError(f"--faults {path}: {error}") from error


def _model_in(text: str) -> tuple[str, Any]:
    """Return name and play of an option `--model`."""
    name, separator, file = text.partition("=")
    path = Path(file)
    if not separator:
        return name, None
    try:
        if path.suffix == ".json":
            return name, json.loads(path.read_text())
        # Open now: a wrong path would otherwise surface in the first download, minutes later.
        with path.open("rb"):
            return name, path
    except (OSError, ValueError) as error:
        raise _UsageError(f"--model {text}: {error}") from error


def _require_libraries() -> None:
    # Check now: a missing library would otherwise fail the first download, minutes later.
    try:
        for library in ("aiohttp", "av", "PIL"):
            __import__(library)
    except ImportError as error:
        message = f"{error.name} is missing: pip install 'airflow-provider-vace[emulator]'"
        raise _UsageError(message, code=3) from error


def _emulator_of(options: argparse.Namespace, models: dict[str, Any]) -> Emulator:
    # Import here: the module needs the libraries that were just checked.
    from airflow_vace.emulator.server import Emulator

    try:
        return Emulator(
            host=options.host,
            port=options.port,
            api_key=options.api_key,
            time_scale=options.time_scale,
            retention=options.retention,
            seed=options.seed,
            limit=options.limit,
            create_limit=options.create_limit,
            create_burst=options.create_burst,
            state=options.state,
            tls=options.tls,
            dialect=options.dialect,
            models=models,
        )
    except (OSError, ValueError) as error:
        raise _UsageError(str(error)) from error


async def _serve(emulator: Emulator) -> None:
    stop = asyncio.Event()
    # Handlers rather than KeyboardInterrupt, so files are deleted and the exit code is 0.
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await emulator.start()
    news = News(new_console(), emulator)
    trusted = _TRUST_VARIABLES if emulator.ca_file else ()
    news.print_start(
        {"AIRFLOW_CONN_VACE_DEFAULT": emulator.connection, **dict.fromkeys(trusted, str(emulator.ca_file))}
    )
    following = asyncio.create_task(news.follow())
    await stop.wait()
    following.cancel()
    news.print_end()
    await emulator.stop()


if __name__ == "__main__":
    sys.exit(main())
