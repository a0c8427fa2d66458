"""What an Airflow stands on, each as a process of its own on loopback: PostgreSQL, Redis, the vendor."""

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
TEMPORARY = Path("/tmp")  # noqa: S108 - short, and open to the user that PostgreSQL runs as


class Server:
    """A program that listens at a port of its own, with a directory of its own, until the end.

    :param name: what it is called in its directory's name
    :param home: where its directory shall be
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
        """End it as it is: without a word, unless another signal is given."""
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
    """A database server without a password: what it acknowledged outlives it, but not the machine."""

    def __init__(self, home: Path = TEMPORARY) -> None:
        super().__init__("postgres", home)
        self.user: list[str] = []
        if os.getuid() == 0:  # it refuses to run as root
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
            "fsync": "off",  # the machine does not die here, only the server
            "full_page_writes": "off",
            "max_connections": "400",
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
        """End it at once; what was committed is found in its log at the next start."""
        super().stop(how)

    def answers(self) -> bool:
        is_ready = str(POSTGRES[-1]).replace("initdb", "pg_isready")
        command = [is_ready, "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


class Redis(Server):
    """The queue's server.

    :param keeps: whether what is in its queues outlives it
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
        return ["redis-server", *where, "--appendonly", keeps, "--appendfsync", "always", "--save", ""]

    def forget(self) -> None:
        """Drop what it kept; it must have been stopped."""
        for path in self.folder.glob("appendonly*"):
            shutil.rmtree(path)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as peer:
            peer.sendall(b"PING\r\n")
            return peer.recv(7) == b"+PONG\r\n"
        return False


class Vendor(Server):
    """The emulator as a process, which can die and go on with what it had accepted.

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
        """Return the connection to it, or to what stands before it, as Airflow's REST API takes it."""
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
        """Let it have accepted so many predictions that all end then; it is stopped and started for that."""
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
        """Let predictions end then; it must have been stopped."""
        for run in runs:
            run.timeline.boot += ends - run.ended
            self.journal.note(run)

    def asked(self) -> list[dict[str, Any]]:
        """Return the requests that it has seen since it was started."""
        found: list[dict[str, Any]] = requests.get(f"{self.url}/_emulator/requests", timeout=60).json()
        return found


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a database server and yield its URL."""
    with Postgres() as server:
        yield server.url
