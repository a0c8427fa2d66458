"""Start Airflow on Celery, two of each part, with its servers, until Ctrl-C.

    PYTHONPATH=tests uv run --group cluster --group stores python tests/e2e/run_cluster.py

The program needs Debian's `postgresql` and `redis-server`. All processes listen on free ports of loopback and
work in one directory, which is removed at the end, also if this program is killed.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import NoReturn

from cluster.scene import Scene, scene


def main() -> None:
    """Start the cluster, print its addresses, and wait for Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="more options are those of vace-emulator: --chaos 0.05, --limit 10, --time-scale 1",
    )
    parser.add_argument("--dags", type=Path, nargs="+", help="DAG files to run instead of the tests' own")
    parser.add_argument("--slots", type=int, default=4, help="tasks that a worker runs at a time (4)")
    known, rest = parser.parse_known_args()
    options = {name.removeprefix("--"): value for name, value in zip(rest[::2], rest[1::2], strict=True)}
    dags = {path.stem: path.read_text() for path in known.dags} if known.dags else None
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, _interrupt)
    try:
        with scene(dags=dags, slots=known.slots, options=options) as found:
            _print_addresses(found)
            signal.pause()
    except KeyboardInterrupt:
        print("\nended, and removed")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _print_addresses(found: Scene) -> None:
    cluster = found.cluster
    print(
        f"Ready after {found.seconds_to_start:.0f} s; Ctrl-C ends it.\n\n"
        f"Airflow      {cluster.address}  (everybody may do everything)\n"
        f"PostgreSQL   {found.database.url}\n"
        f"Redis        {found.queue.url}\n"
        f"S3           {found.s3.url}  (connection `store`, bucket `clips`)\n"
        f"back-end     {found.vendor.url}  (connections `vace`, `watched`)\n"
        f"directory    {found.home}\n"
        f"parts        {', '.join(f'{name} ({part.pid})' for name, part in cluster.parts.items())}\n",
        flush=True,
    )


if __name__ == "__main__":
    main()
