"""Receivers of metrics and spans: a StatsD server, and an OpenTelemetry collector."""

from __future__ import annotations

import atexit
import inspect
import re
import socket
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.observability import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(r"(?P<name>[^,:]+)(?P<tags>[^:]*):(?P<value>[^|]+)\|(?P<kind>\w+)")


class StatsD:
    """A StatsD server on a UDP socket; tags come in InfluxDB's form."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        while (data := self._socket.recv(65536)) != b"end":
            self.lines += data.decode().splitlines()

    def read(self) -> list[dict[str, Any]]:
        """Return all lines about this package; the server takes no further ones."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"end", ("127.0.0.1", self.port))
        self._thread.join(30)
        return self.seen()

    def seen(self) -> list[dict[str, Any]]:
        """Return the lines about this package so far."""
        found = []
        for line in [line for line in self.lines if line.startswith("airflow.vace.")]:
            match = _LINE.fullmatch(line)
            assert match is not None, line
            tags = dict(tag.split("=", 1) for tag in match["tags"].split(",") if tag)
            name, value = match["name"].removeprefix("airflow."), float(match["value"])
            found.append({"name": name, "tags": tags, "value": value, "kind": match["kind"]})
        return found


def sums(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the sums of counters by name, with status or verb in brackets."""
    found: Counter[str] = Counter()
    for line in lines:
        if line["kind"] == "c":
            detail = line["tags"].get("status") or line["tags"].get("verb")
            found[line["name"] + (f"[{detail}]" if detail else "")] += line["value"]
    return dict(found)


class Collector:
    """An OpenTelemetry collector for OTLP over HTTP, which decodes the protobuf."""

    def __init__(self) -> None:
        self.metrics: list[Any] = []
        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/metrics":
            from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service

            message: Any = service.ExportMetricsServiceRequest.FromString(body)
            for resource in message.resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics += scope.metrics
            return
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

        message = traces.ExportTraceServiceRequest.FromString(body)
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def attributes_of(item: Any) -> dict[str, Any]:
    """Return the attributes of a span or of a point of a metric."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in item.attributes}


@contextmanager
def metrics_on(monkeypatch: pytest.MonkeyPatch, **settings: str) -> Iterator[None]:
    """Let this process send metrics, as Airflow's processes begin."""
    try:
        from airflow.sdk.observability import stats
        from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
    except ImportError:
        pytest.skip("Airflow 3.3 lets a process choose its receiver of metrics")
    given: dict[str, Any] = {"export_legacy_names": False}
    given = {name: given[name] for name in given if name in inspect.signature(stats.initialize).parameters}
    for name, value in settings.items():
        monkeypatch.setenv(f"AIRFLOW__METRICS__{name.upper()}", value)
    stats.initialize(factory=get_stats_factory(), **given)
    metrics.is_on.cache_clear()
    try:
        yield
    finally:
        monkeypatch.undo()
        _forget_exporter()
        stats.initialize(factory=get_stats_factory(), **given)
        metrics.is_on.cache_clear()


def _forget_exporter() -> None:
    """Let no exporter send to a closed collector at the end of the process."""
    if module := sys.modules.get("airflow.sdk._shared.observability.metrics.otel_logger"):
        atexit.unregister(module.flush_otel_metrics)
