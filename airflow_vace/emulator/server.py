"""A running emulator: start, stop, connection, bill and received requests."""

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
from airflow_vace.emulator.gateways import dialect_of
from airflow_vace.emulator.journal import Journal
from airflow_vace.emulator.limits import VendorLimits
from airflow_vace.emulator.models import Models
from airflow_vace.emulator.service import Service
from airflow_vace.emulator.tls import server_context, write_authority
from airflow_vace.emulator.uploads import Uploads
from airflow_vace.emulator.webhooks import Webhooks
from airflow_vace.emulator.world import DEFAULT_KEY, World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ssl import SSLContext

    from airflow_vace.emulator.gateways import Dialect
    from airflow_vace.emulator.middleware import SeenRequest


class Emulator:
    """A Replicate-compatible server in a thread, as a context manager.

    :param host: address to bind
    :param port: port to bind, 0 for any free one
    :param api_key: the accepted key, as bearer token and as Pruna's `apikey`
    :param time_scale: durations as a fraction of real ones; 0.01 is a hundred times faster
    :param retention: seconds for which files live after the end; not scaled
    :param seed: the same seed gives the same ids and boot times
    :param tls: serve HTTPS: with this context, or True for a new authority, whose certificate is `ca_file`
    :param limit: accepted requests a second, in bursts of one second's worth; further ones get a 429
    :param create_limit: accepted creates a minute on all back-ends, not scaled (default: Replicate's own)
    :param create_burst: creates in one burst (default: a minute's worth)
    :param state: file that keeps accepted predictions; earlier ones continue and end on schedule
    :param signs: sign the URLs of outputs, as a CDN does, and refuse downloads without the signature
    :param models: further models: `owner/name` or `owner/name:version` to an OpenAPI schema as Cog writes it,
        an output, the path of a file as the output, or None to echo the input; `*` echoes for any model
    :param dialect: a gateway's ids, words, envelopes and second key, by name; :mod:`.gateways` lists them
    :param headers: headers that each request must have beside the key, as a gateway's second key
    :param path: further path of Replicate's API, such as `/v1/account/gateway/replicate`
    :raises ValueError: if `state` is not a file of predictions, or a model or dialect has a wrong name
    """

    # https://replicate.com/docs/reference/http: an upload has 100 MB at most. Tests may set less.
    max_upload_bytes = 100 * 1024**2

    def __init__(  # noqa: PLR0913 - the options of a server
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = DEFAULT_KEY,
        time_scale: float = 1.0,
        retention: float = 3600.0,
        seed: int = 0,
        tls: SSLContext | bool | None = None,
        limit: float | None = None,
        create_limit: float | None = None,
        create_burst: int | None = None,
        state: Path | None = None,
        signs: bool = False,
        models: Mapping[str, Any] | None = None,
        dialect: Dialect | str | None = None,
        headers: Mapping[str, str] | None = None,
        path: str = "",
    ) -> None:
        self.host = host
        self.port = port
        self.api_key = api_key
        self.seed = seed
        self.tls = tls
        self.dialect = dialect_of(dialect, path)
        self.headers = {**self.dialect.headers, **(headers or {})}
        self.signature = secrets.token_hex(16) if signs else ""
        self.limit = limit
        self.limits = VendorLimits(time_scale, create_limit, create_burst)
        self.throttled = 0
        self.journal = Journal(state)
        # Only this process writes the file from here on, so a partial line can go.
        self.journal.drop_partial_line()
        runs = self.journal.runs()
        self.world = World(seed=seed, time_scale=time_scale, retention=retention, runs=runs)
        self.models = Models(models)
        self.faults = Faults(seed)
        self.webhooks = Webhooks(self)
        self.closing = asyncio.Event()
        self._seen: list[SeenRequest] = []
        self._condition = threading.Condition()
        self._folder: Path | None = None
        self.ca_file: Path | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The origin, for a connection's host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def connection(self) -> str:
        """A connection as JSON, for an `AIRFLOW_CONN_...` variable."""
        return self.connection_to()

    def connection_to(self, **extra: Any) -> str:
        """Return a connection as JSON.

        :param extra: extras of the connection, such as `backend="replicate"` or `timeout=1`
        """
        known: dict[str, Any] = {"verify": str(self.ca_file)} if self.ca_file else {}
        known |= {"headers": self.headers} if self.headers else {}
        known |= {"backend": "replicate"} if self.dialect.backend == "replicate" else {}
        fields = {
            "conn_type": "vace",
            "host": self.url + self.dialect.base_path,
            "password": self.api_key,
            "extra": known | extra,
        }
        return json.dumps(fields)

    @property
    def bill(self) -> dict[str, Any]:
        """The bill: `{"predictions": [{"id", "status", "charged", "created_at"}], "charged": count}`."""
        return self.world.bill(time.time())

    @property
    def requests(self) -> list[SeenRequest]:
        """All received requests, without the control plane's."""
        with self._condition:
            return list(self._seen)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30.0) -> None:
        """Block until a condition is true; each request and response checks the condition again.

        :param condition: a function without arguments
        :param timeout: seconds
        :raises TimeoutError: if the condition is still false after `timeout`
        """
        with self._condition:
            if not self._condition.wait_for(condition, timeout):
                raise TimeoutError(f"The condition is still false after {timeout:g} s")

    def note(self, seen: SeenRequest) -> None:
        """Record a received request."""
        with self._condition:
            self._seen.append(seen)
            self._condition.notify_all()

    def changed(self) -> None:
        """Let :meth:`wait_for` check the condition again."""
        with self._condition:
            self._condition.notify_all()

    async def start(self) -> None:
        """Start to serve in the running event loop; elsewhere use `with`.

        :raises OSError: if the port is taken
        """
        self._folder = Path(tempfile.mkdtemp(prefix="vace-emulator-"))
        self.uploads = Uploads(self, self._folder)
        context = self.tls or None
        if context is True:
            self.ca_file = write_authority(self._folder, self.host)
            context = server_context(self.ca_file)
        # Faults hold connections open for ever, so a graceful shutdown would never end.
        self._runner = web.AppRunner(
            Service(self, self._folder).app(), access_log=None, shutdown_timeout=0.02
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, ssl_context=context)
        try:
            await site.start()
        except OSError:
            await self.stop()
            raise
        # Port 0 lets the system choose, so the real port is known only now.
        self.port = self._runner.addresses[0][1]
        for run in self.world.runs.values():
            # The events of an end before the restart were sent by the emulator of that time.
            if run.finished_at(time.time()) is None:
                self.webhooks.watch(run)

    async def stop(self) -> None:
        """Stop to serve, and delete all files."""
        # Release requests that a fault holds; otherwise the server waits for them.
        self.closing.set()
        await self.webhooks.close()
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
            except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
                ready.append(error)
            event.set()
            if ready[0] is None:
                loop.run_forever()
                loop.run_until_complete(self.stop())
            loop.close()

        # A daemon, so a test that forgets the `with` block cannot keep pytest alive.
        self._thread = threading.Thread(target=serve, name="vace-emulator", daemon=True)
        self._thread.start()
        event.wait()
        if ready[0] is not None:
            self._thread.join()
            raise ready[0]
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._thread is not None:
            # The loop is closed already if a test has stopped the emulator itself.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)
