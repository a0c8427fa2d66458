from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from support.faces import backend, call, emulator, slow  # noqa: F401 - fixtures
from support.mistakes_table import (  # noqa: F401 - fixtures and hooks
    explain,
    mistake_scene,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)
from support.site import result, site  # noqa: F401 - fixtures
from support.stores import memory, object_store  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    import aiohttp

    from airflow_vace.emulator import Emulator
    from support.supervisor import Supervisor

ROOT = Path(__file__).parent.parent

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {"readme": ROOT / "README.md"} | {path.stem: path for path in sorted(ROOT.glob("docs/**/*.md"))}

# Before anybody imports Airflow: a home of its own, and nothing of the person's who runs the tests.
_HOME = tempfile.TemporaryDirectory(prefix="vace-tests-")
shutil.copytree(ROOT / "dags", f"{_HOME.name}/dags")
for page, path in PAGES.items():
    blocks = BLOCK.findall(path.read_text())
    for number, block in enumerate(b for b in blocks if "with DAG(" in b and "def test_" not in b):
        text = block.replace("/tmp/clips/", f"{_HOME.name}/clips/")  # noqa: S108 - as in the README
        text = text.replace("s3://aws_default@my-bucket/", "memory://my-bucket/")
        Path(f"{_HOME.name}/dags/{page}_{number}.py").write_text(text)
if sys.dont_write_bytecode:  # then each process that a test starts would compile all of Airflow anew
    _BYTECODE = tempfile.TemporaryDirectory(prefix="vace-tests-bytecode-")
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = _BYTECODE.name
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
PERSONS_ENVIRONMENT = dict(os.environ)
for name in [n for n in os.environ if n.startswith(("AIRFLOW_", "REQUESTS_CA", "CURL_CA"))]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": _HOME.name,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": f"{_HOME.name}/dags",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME.name}/airflow.db",
    "NO_PROXY": "127.0.0.1,localhost",
    "HOME": _HOME.name,
}


# Two busy cores, and a home without Hypothesis's cache of Unicode: no test is timed here. The cases, and
# so the coverage, are the same in each run; the session `fuzz` looks for new ones.
settings.register_profile(
    "vace", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("vace")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--live",
        metavar="CONN_ID",
        help="hold this connection's back-end to tests/contract, with two predictions at most; asks first",
    )
    parser.addoption(
        "--mistakes", metavar="FILE", help="write the table of mistakes and messages as Markdown"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Ask, before anything else, whoever wants to pay; processes of xdist are told what was agreed on."""
    conn_id = config.getoption("--live")
    if not conn_id or hasattr(config, "workerinput"):
        return
    from airflow_vace.demo import DemoError, real_connection

    capture = config.pluginmanager.getplugin("capturemanager")
    if capture:
        capture.suspend_global_capture(in_=True)
    try:
        what = "makes two predictions at most, of the cheapest kind, some $0.40 each,"
        agreed = real_connection(conn_id, what, environment=PERSONS_ENVIRONMENT)
    except DemoError as error:
        raise pytest.UsageError(str(error)) from error
    finally:
        if capture:
            capture.resume_global_capture()
    os.environ["VACE_LIVE_CONNECTION"] = agreed


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of the screens to one process: they share a database and Airflow's API server."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return "tests/ui" if scope.startswith("tests/ui/") else scope

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


# The sessions whose tests have databases of their own kind; the screens need one database for many tests.
_OTHER_SESSIONS = ("browser", "standalone", "stores")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run DAGs, and skip those of the sessions `dags` and `long` unless these run."""
    for item in items:
        is_of_other = any(map(item.get_closest_marker, _OTHER_SESSIONS)) or item.path.parent.name == "ui"
        if "airflow_db" in getattr(item, "fixturenames", ()) and not is_of_other:
            item.add_marker("dags")
    for marker in ("long", "dags"):
        variable = f"VACE_{marker.upper()}"
        if variable in os.environ:
            continue
        skipped = pytest.mark.skip(reason=f"{variable} is not set: takes many seconds of a core")
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(skipped)


# Bounds on work, which a busy machine must meet in tests too. The clocks' tolerance stays since `Date` has
# whole seconds.
_UNSCALED = (
    *("max_create_seconds", "max_retry_after_seconds", "min_poll_interval_seconds"),
    *("cold_boot_notice_seconds", "clock_tolerance_seconds"),
    *("settings_refresh_seconds", "slow_poll_seconds", "max_list_round_seconds"),
    *("max_connect_seconds", "max_cancel_seconds", "min_upload_seconds", "piece_grace_seconds"),
    *("max_idle_connection_seconds", "tls_alert_seconds"),
    "stalled_download_seconds",
    *("server_cancel_grace_seconds", "max_download_seconds", "slow_download_seconds", "max_lock_seconds"),
    *("stale_part_seconds", "max_trigger_save_seconds", "deferral_grace_seconds", "min_deferral_seconds"),
    *("max_on_kill_seconds", "signed_url_grace_seconds", "max_trigger_search_seconds"),
)


def scale_waits(monkeypatch: pytest.MonkeyPatch, scale: float, **exceptions: Any) -> None:
    """Multiply the pauses of :class:`airflow_vace.core.timing.Timing`; set the fields given by name.

    Scales that are set one after another multiply; a scale of 1 only sets fields.
    """
    from airflow_vace.hooks import VaceHook

    now = VaceHook.timing
    kept = {name: getattr(now, name) for name in _UNSCALED}
    monkeypatch.setattr(VaceHook, "timing", now.scaled(scale, **{**kept, **exceptions}))


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pauses take a hundredth of their time."""
    scale_waits(
        monkeypatch,
        0.01,
        not_found_grace_seconds=0.3,
        lost_create_lookup_seconds=0.3,
        intent_grace_seconds=0.3,
        # Above the time for all polls after a 404 on a busy machine, as in production.
        max_trouble_seconds=3.0,
        # The emulator cancels by this grace, so a scaled one would win against the task's own cancel.
        server_cancel_grace_seconds=60.0,
    )


@pytest.fixture(autouse=True)
def _no_earlier_creates() -> None:
    """Forget the limits of earlier servers, since a later server may get the same port."""
    if module := sys.modules.get("airflow_vace.client.creates"):
        module.forget_creates()


@pytest.fixture
def any_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a connection whose host is never asked, for outputs that are `data:` URLs."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_VACE_DEFAULT", '{"conn_type": "vace", "host": "https://x", "password": "k"}'
    )


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """Stand for Airflow's part of a triggerer."""
    from support.supervisor import Supervisor

    found = Supervisor()
    where = "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS"
    monkeypatch.setattr(where, found, raising=False)
    return found


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[aiohttp.ClientSession]:
    """Return the asynchronous sessions, as they are opened."""
    import aiohttp

    opened: list[aiohttp.ClientSession] = []
    real = aiohttp.ClientSession

    def counted(*args: Any, **kwargs: Any) -> aiohttp.ClientSession:
        opened.append(real(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(aiohttp, "ClientSession", counted)
    return opened


@pytest.fixture
def fast_emulator() -> Iterator[Emulator]:
    """An emulator whose predictions take a blink, seen by Airflow as `vace_default`."""
    from airflow_vace.emulator import Emulator

    with Emulator(time_scale=0.0002) as running:
        os.environ["AIRFLOW_CONN_VACE_DEFAULT"] = running.connection
        yield running
    del os.environ["AIRFLOW_CONN_VACE_DEFAULT"]


@pytest.fixture
def slow_emulator() -> Iterator[Emulator]:
    """An emulator whose predictions do not end within a test, seen by Airflow as `vace_default`."""
    from airflow_vace.emulator import Emulator

    with Emulator(time_scale=100.0) as running:
        os.environ["AIRFLOW_CONN_VACE_DEFAULT"] = running.connection
        yield running
    del os.environ["AIRFLOW_CONN_VACE_DEFAULT"]


@pytest.fixture(scope="session")
def airflow_db() -> str:
    """A migrated metadata database, once for all tests that run a DAG; its path."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    return f"{_HOME.name}/airflow.db"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the connection `vace_default` to a JSON or URI."""

    def set_connection(connection: str) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)

    return set_connection


@pytest.fixture
def server(
    slow_emulator: Emulator,
    connect: Callable[[str], None],
    backend: str,  # noqa: F811 - of faces, or of the module that asks
) -> Emulator:
    """A server whose predictions run on and on."""
    connect(slow_emulator.connection_to(backend=backend, timeout=3))
    return slow_emulator
