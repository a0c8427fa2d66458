"""A cluster with all that it stands on, in one directory, and gone with it whatever happens."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

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
    """What a cluster consists of; `vace` is the connection over the link, `watched` the one over the wire."""

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
    """Start it all, and end it all.

    :param before: sees each request of the connection `watched` before it is handed on
    :param after: sees each answer of the connection `watched` before it is handed back
    :param dags: text of DAG files, by name; the campaign's by default
    :param slots: tasks that a worker runs at a time
    :param settings: of Airflow, as environment variables
    :param options: of `vace-emulator`; by default it is limited as Replicate is, and takes twice the time
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        home = Path(tempfile.mkdtemp(prefix="vace-cluster-", dir="/tmp"))
        home.chmod(0o755)  # PostgreSQL's is inside, and belongs to another user
        enter(_reaped(home))
        database, queue, s3 = enter(Postgres(home)), enter(Redis(home)), enter(S3(home))
        vendor = enter(Vendor(home, **{"time-scale": "2", "limit": "50"} | (options or {})))
        link = enter(Link(vendor.url))
        wire = enter(Wire(vendor.url, before, after))
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
            body = vendor.connection_to(address, backend="replicate", timeout=20)
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
    """Let the one cold boot be over, so that all runs are alike."""
    prompt: dict[str, Any] = {"input": {"prompt": "warm up", "frame_num": 5}}
    bearer = {"Authorization": f"Bearer {vendor.api_key}"}
    path = "/replicate/v1/models/prunaai/vace-14b/predictions"
    assert requests.post(vendor.url + path, json=prompt, headers=bearer, timeout=10).ok
