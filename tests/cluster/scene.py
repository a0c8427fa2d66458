"""A cluster and its servers in one directory, removed even after SIGKILL."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from airflow_vace.emulator.models import FIRST_VERSION
from cluster import reaper
from cluster.campaign import DAGS
from cluster.link import Link
from cluster.servers import Postgres, Redis, Vendor
from cluster.whole import Cluster
from support.s3 import S3
from support.wire import Passing, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Scene:
    """The parts of a cluster; connection `vace` goes over the link, `watched` over the wire."""

    home: Path
    database: Postgres
    queue: Redis
    vendor: Vendor
    s3: S3
    link: Link
    wire: Wire
    cluster: Cluster
    seconds_to_start: float


def _nothing(_: Passing) -> bool:
    return False


@contextlib.contextmanager
def scene(
    *,
    before: Callable[[Passing], bool] = _nothing,
    after: Callable[[Passing], bool] = _nothing,
    dags: dict[str, str] | None = None,
    slots: int = 4,
    options: dict[str, str] | None = None,
    settings: dict[str, str] | None = None,
) -> Iterator[Scene]:
    """Run a cluster with its servers.

    :param before: called with each request of `watched` before its delivery; True drops the request
    :param after: called with each response of `watched` before its delivery; True drops the response
    :param dags: text of DAG files by name (default: the campaign's)
    :param slots: tasks that a worker runs at a time
    :param settings: Airflow's, as environment variables
    :param options: of `vace-emulator` (default: Replicate's rate limit, twice the usual duration)
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        home = Path(tempfile.mkdtemp(prefix="vace-cluster-", dir="/tmp"))
        # `/tmp` keeps paths short: the name of a Unix socket has 107 bytes at most.
        home.chmod(0o755)  # PostgreSQL runs as another user and has a folder inside
        enter(_reaped(home))
        database, queue, s3 = enter(Postgres(home)), enter(Redis(home)), enter(S3(home))
        vendor = enter(Vendor(home, **{"time-scale": "2", "limit": "50"} | (options or {})))
        link = enter(Link(vendor.url))
        wire = enter(Wire(vendor.url, before, after))
        # Last, so that it ends first: its parts log less when their servers outlive them.
        cluster = enter(
            Cluster(
                database,
                queue,
                dags or {"campaign": DAGS},
                {"store": s3.connection},
                home=home,
                slots=slots,
                **(settings or {}),
            )
        )
        for name, address in (("vace", link.url), ("watched", wire.url)):
            # Earlier releases look no version up, and the vendor refuses a create without one.
            body = vendor.connection_to(address, backend="replicate", timeout=20, version=FIRST_VERSION)
            cluster.ask("POST", "/connections", body | {"connection_id": name})
        _warm_up(vendor)
        if dags is None:
            cluster.wait_for_dags("deferred", "waiting", "sensed", "saved_by_triggerer")
        yield Scene(home, database, queue, vendor, s3, link, wire, cluster, time.monotonic() - began)


@contextlib.contextmanager
def _reaped(home: Path) -> Iterator[None]:
    with reaper.start(home) as process:
        yield
        process.communicate()


def _warm_up(vendor: Vendor) -> None:
    """Spend the one cold boot, so all runs are alike."""
    prompt: dict[str, Any] = {"input": {"prompt": "warm up", "frame_num": 5}}
    bearer = {"Authorization": f"Bearer {vendor.api_key}"}
    path = "/replicate/v1/models/prunaai/vace-14b/predictions"
    assert requests.post(vendor.url + path, json=prompt, headers=bearer, timeout=10).ok
