"""`vace-emulator`: the emulator as a program."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from airflow_vace.emulator.chaos import chaos
from airflow_vace.emulator.faults import Fault
from airflow_vace.emulator.world import DEFAULT_KEY, DEFAULT_PORT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vace-emulator",
        description="Serve prunaai/vace-14b without a vendor: real HTTP, real MP4s, no money.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument(
        "--port", type=port_number, default=DEFAULT_PORT, help="port, 0 for any (%(default)s)"
    )
    parser.add_argument("--api-key", default=DEFAULT_KEY, help="the key that is accepted (%(default)s)")
    parser.add_argument(
        "--time-scale",
        type=_positive,
        default=1.0,
        help="duration of a prediction as a share of real life; 0.01 is fast (%(default)s)",
    )
    parser.add_argument(
        "--retention", type=_positive, default=3600.0, help="seconds that files live (%(default)s)"
    )
    parser.add_argument("--limit", type=_positive, help="requests a second; the rest get a 429")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same run (%(default)s)")
    parser.add_argument("--faults", type=Path, help="JSON file with a list of faults")
    parser.add_argument(
        "--chaos", type=_share, default=0.0, help="share of requests that go wrong, in all ways (%(default)s)"
    )
    parser.add_argument(
        "--state", type=Path, help="file that keeps what was accepted, to go on with after a restart"
    )
    return parser


def port_number(text: str) -> int:
    """Read a port; 0 is any free one."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: 0 to 1")
    return number


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    options = _parser().parse_args(argv)
    faults: list[Fault] = []
    if options.faults:
        try:
            given = json.loads(options.faults.read_text())
            faults = [Fault.from_json(f) for f in (given if isinstance(given, list) else [given])]
        except (OSError, ValueError, TypeError) as error:
            print(f"vace-emulator: --faults {options.faults}: {error}", file=sys.stderr)
            return 2
    try:
        from airflow_vace.emulator.server import Emulator
        from airflow_vace.emulator.video import render  # noqa: F401 - its libraries are wanted below

        for library in ("av", "PIL"):
            __import__(library)
    except ImportError as error:
        print(
            f"vace-emulator: {error.name} is missing: pip install 'airflow-provider-vace[emulator]'",
            file=sys.stderr,
        )
        return 3
    try:
        emulator = Emulator(
            host=options.host,
            port=options.port,
            api_key=options.api_key,
            time_scale=options.time_scale,
            retention=options.retention,
            seed=options.seed,
            limit=options.limit,
            state=options.state,
        )
    except (OSError, ValueError) as error:
        print(f"vace-emulator: --state {options.state}: {error}", file=sys.stderr)
        return 2
    emulator.faults.add(*faults, *chaos(options.chaos))

    async def serve() -> None:
        await emulator.start()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        print(f"Serving prunaai/vace-14b at {emulator.url}; paste this, and stop with Ctrl-C:")
        print(f"export AIRFLOW_CONN_VACE_DEFAULT='{emulator.connection}'", flush=True)
        await stop.wait()
        await emulator.stop()

    try:
        asyncio.run(serve())
    except OSError as error:
        print(
            f"vace-emulator: can't listen at {options.host}:{options.port}: {error.strerror or error};"
            " choose another --port (0 for any free one)",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
