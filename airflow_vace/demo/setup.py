"""Preparations of a demo: the database, the emulator, and the agreement to a payment."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_vace.emulator.prices import REAL_PRICE
from airflow_vace.throwaway import DemoError, run_airflow

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from airflow_vace.emulator import Emulator

# A prediction then takes a quarter of a minute: long enough to see the progress bar.
_TIME_SCALE = 0.12


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


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """Create the home of a throw-away Airflow, and delete it after the block."""
    with tempfile.TemporaryDirectory(prefix="vace-demo-", ignore_cleanup_errors=True) as home:
        yield Path(home)


def real_connection(
    conn_id: str, action: str, *, is_agreed: bool = False, environment: dict[str, str] | None = None
) -> str:
    """Return the person's connection as JSON, after agreement to a payment.

    :param action: the paid action, for the question, such as `makes one prediction, about $0.40,`
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
            f" Add it with 'airflow connections add {conn_id} --conn-type vace --conn-host HOST"
            " --conn-password KEY'"
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


def agreed_connection(options: argparse.Namespace) -> str:
    """Return the connection that the options name, after agreement to the price.

    :raises DemoError: see :func:`real_connection`
    """
    # A whole Airflow starts no prediction by itself, and any number by the person.
    one, many = f"makes one prediction, {REAL_PRICE},", f"lets you start predictions, {REAL_PRICE} each,"
    return real_connection(options.conn_id, many if options.ui else one, is_agreed=options.yes)
