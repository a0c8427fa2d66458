"""A running emulator: its life, and what it tells of what it has seen."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from airflow_vace.emulator.faults import Faults
from airflow_vace.emulator.journal import Journal
from airflow_vace.emulator.service import SeenRequest, Service
from airflow_vace.emulator.world import DEFAULT_KEY, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext


class Emulator:
    """A running emulator; use it as a context manager.

    :param host: address to listen at
    :param port: port to listen at; 0 for any free one
    :param api_key: the key that it accepts, as bearer token and as Pruna's `apikey`
    :param time_scale: how long a prediction takes, as a share of real life: 0.01 is a hundred times faster
    :param retention: seconds for which files live after the end, as they are (not scaled)
    :param seed: same seed, same ids and boot times
    :param tls: serve HTTPS with this context
    :param limit: requests a second that it answers, after a second's worth at once; the rest get a 429
    :param state: file in which accepted predictions are kept; what it holds already goes on as if nothing had
        happened, and ends when it would have
    :param signs: outputs have signed URLs, as on a CDN, and are refused without the signature
    :raises ValueError: if the file holds something else
    """

    def __init__(  # noqa: PLR0913 - what a person may set
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = DEFAULT_KEY,
        time_scale: float = 1.0,
        retention: float = 3600.0,
        seed: int = 0,
        tls: SSLContext | None = None,
        limit: float | None = None,
        state: Path | None = None,
        signs: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.api_key = api_key
        self.tls = tls
        self.signature = secrets.token_hex(16) if signs else ""
        self.limit = limit
        self.throttled = 0
        self.journal = Journal(state)
        self.journal.mend()
        runs = self.journal.runs()
        self.world = World(seed=seed, time_scale=time_scale, retention=retention, runs=runs)
        self.faults = Faults(seed)
        self.closing = asyncio.Event()
        self._seen: list[SeenRequest] = []
        self._condition = threading.Condition()
        self._folder: Path | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None
        self._thread: threading.Thread | None = None

    # --- what it tells -----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The origin: where a connection's host points to."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def connection(self) -> str:
        """The connection as JSON, for an `AIRFLOW_CONN_...` variable; see :meth:`connection_to`."""
        return self.connection_to()

    def connection_to(self, **extra: Any) -> str:
        """Return a connection as JSON, with extras such as `backend="replicate"` or `timeout=1`."""
        fields = {
            "conn_type": "vace",
            "host": self.url,
            "password": self.api_key,
            "extra": extra,
        }
        return json.dumps(fields)

    @property
    def bill(self) -> dict[str, Any]:
        """Every accepted prediction, and how many are charged."""
        return self.world.bill(time.time())

    @property
    def requests(self) -> list[SeenRequest]:
        """All requests so far, but those to the control plane."""
        with self._condition:
            return list(self._seen)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30.0) -> None:
        """Block until something that the server saw makes a condition true.

        :raises TimeoutError: if it does not in so many seconds
        """
        with self._condition:
            if not self._condition.wait_for(condition, timeout):
                raise TimeoutError(f"not so after {timeout:g} s")

    def note(self, seen: SeenRequest) -> None:
        with self._condition:
            self._seen.append(seen)
            self._condition.notify_all()

    def changed(self) -> None:
        with self._condition:
            self._condition.notify_all()

    # --- starting and stopping ---------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; for an event loop of one's own, otherwise use `with`.

        :raises OSError: if the port is taken
        """
        self._folder = Path(tempfile.mkdtemp(prefix="vace-emulator-"))
        self._runner = web.AppRunner(
            Service(self, self._folder).app(), access_log=None, shutdown_timeout=0.02
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, ssl_context=self.tls)
        try:
            await site.start()
        except OSError:
            await self.stop()
            raise
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        ready: list[BaseException | None] = []
        event = threading.Event()

        def serve() -> None:
            loop = self._loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(self.start())
                ready.append(None)
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for it
                ready.append(error)
            event.set()
            if ready[0] is None:
                loop.run_forever()
                loop.run_until_complete(self.stop())
            loop.close()

        self._thread = threading.Thread(target=serve, name="vace-emulator", daemon=True)
        self._thread.start()
        event.wait()
        if ready[0] is not None:
            self._thread.join()
            raise ready[0]
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._thread is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)
