"""PostgreSQL, Redis and the vendor as processes on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import requests

from airflow_vace import throwaway
from airflow_vace.emulator.journal import Journal
from airflow_vace.emulator.world import DEFAULT_KEY, World
from airflow_vace.inputs import DEFAULT_MODEL
from cluster.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.emulator.world import Run

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
TEMPORARY = Path("/tmp")  # noqa: S108 - short, and readable to PostgreSQL's user


class Server:
    """A server program with a port and a directory, both released at the end.

    :param name: part of its directory's name
    :param home: parent of its directory
    """

    def __init__(self, name: str, home: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"vace-{name}-", dir=home))
        self.port = throwaway.free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        # A restart appends, so the log shows the cause of the first death too.
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=os.environ | {"TMPDIR": str(self.folder)},
            )
        until(self.answers, 60, every=0.1)

    def stop(self, how: int = signal.SIGKILL) -> None:
        """End the program with a signal, by default SIGKILL."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(Server):
    """A database server without a password; acknowledged rows survive its kill."""

    def __init__(self, home: Path = TEMPORARY) -> None:
        super().__init__("postgres", home)
        self.user: list[str] = []
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    @property
    def url(self) -> str:
        return f"postgresql+psycopg2://airflow@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",  # only the server dies here, so the page cache survives
            "full_page_writes": "off",
            "max_connections": "400",  # two of each part, with a pool each
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*self.user, str(POSTGRES[-1]).replace("initdb", "postgres"), "-D", self._data, *options]

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        if not Path(self._data).exists():
            init = [str(POSTGRES[-1]), "-D", self._data, "-U", "airflow", "-A", "trust", "--no-sync"]
            subprocess.run([*self.user, *init], check=True, capture_output=True, cwd="/")
        super().start()

    def stop(self, how: int = signal.SIGQUIT) -> None:
        """End the server at once; the next start recovers committed rows from its log."""
        super().stop(how)

    def answers(self) -> bool:
        # A port that accepts connections is not enough: a server in recovery refuses queries.
        is_ready = str(POSTGRES[-1]).replace("initdb", "pg_isready")
        command = [is_ready, "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


class Redis(Server):
    """The server of Celery's queues.

    :param keeps: keep queues across restarts
    """

    def __init__(self, home: Path, *, keeps: bool = True) -> None:
        super().__init__("redis", home)
        self.keeps = keeps

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        keeps = "yes" if self.keeps else "no"
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        # Without snapshots the append-only file is all that a restart finds.
        return ["redis-server", *where, "--appendonly", keeps, "--appendfsync", "always", "--save", ""]

    def forget(self) -> None:
        """Delete the kept queues of a stopped server."""
        for path in self.folder.glob("appendonly*"):
            shutil.rmtree(path)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as peer:
            peer.sendall(b"PING\r\n")
            return peer.recv(7) == b"+PONG\r\n"
        return False


class Vendor(Server):
    """The emulator as a process; accepted predictions survive its kill.

    :param options: of `vace-emulator`
    """

    def __init__(self, home: Path, **options: str) -> None:
        super().__init__("vendor", home)
        self.options = options
        self.api_key = DEFAULT_KEY
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "state.jsonl")

    def connection_to(self, address: str | None = None, **extra: Any) -> dict[str, Any]:
        """Return a connection to the vendor, or to a proxy, as a body for Airflow's REST API."""
        fields = {"conn_type": "vace", "host": address or self.url, "password": self.api_key}
        return fields | {"extra": json.dumps(extra)}

    def command(self) -> list[str]:
        given = self.options | {
            "port": str(self.port),
            "api-key": self.api_key,
            "state": str(self.journal.path),
        }
        options = [part for name, value in given.items() for part in (f"--{name}", value)]
        return [sys.executable, "-m", "airflow_vace.emulator.cli", *options]

    def answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/_emulator/faults", timeout=5).ok
        return False

    def plan(self, count: int, *, ends: float) -> list[Run]:
        """Restart with `count` more accepted predictions that end at the time `ends`."""
        # The server reads its journal at the start only, so it must be down for a change.
        self.stop()
        values = {"prompt": "a fox", "frame_num": 5}
        world = World(seed=int(ends), time_scale=1, retention=3600, runs=self.journal.runs())
        made = [
            world.create(values, model=DEFAULT_MODEL, version=None, now=time.time()) for _ in range(count)
        ]
        self.release(made, ends=ends)
        self.start()
        return made

    def release(self, runs: list[Run], *, ends: float) -> None:
        """Set the end of predictions of a stopped vendor."""
        for run in runs:
            run.timeline.boot += ends - run.ended
            self.journal.note(run)

    def asked(self) -> list[dict[str, Any]]:
        """Return the requests since the last start."""
        found: list[dict[str, Any]] = requests.get(f"{self.url}/_emulator/requests", timeout=60).json()
        return found


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a database server and yield its URL."""
    with Postgres() as server:
        yield server.url
