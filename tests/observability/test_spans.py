"""Spans as an OpenTelemetry collector receives them: names, parents, attributes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.observability import spans
from airflow_vace.prediction import Prediction
from support.films import DATA_URL
from support.receivers import Collector, attributes_of

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

PROGRAM = Path(__file__).parents[1] / "support" / "traced_program.py"
SUCCESS = Prediction.from_json({"id": "p", "status": "succeeded"})


def test_each_step_is_a_child_of_the_span_of_its_process(slow_emulator: Emulator, tmp_path: Path) -> None:
    """A worker submits, a triggerer waits, and a worker saves."""
    pytest.importorskip("airflow._shared.observability.traces", reason="Airflow 3.3 brings spans of tasks")

    def finish() -> None:
        # The worker polls once and defers, so the second poll is the triggerer's.
        slow_emulator.wait_for(lambda: sum(seen.method == "GET" for seen in slow_emulator.requests) > 1, 200)
        done = {"status": "succeeded", "output": DATA_URL}
        slow_emulator.faults.add(method="GET", path="*/predictions*", patch=done, times=None)

    other = threading.Thread(target=finish)
    other.start()
    collector = Collector()
    environment = os.environ | {
        "AIRFLOW__TRACES__OTEL_ON": "True",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "PYTHONPATH": os.pathsep.join([str(PROGRAM.parents[2]), str(PROGRAM.parents[1])]),
    }
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    other.join()
    collector.close()
    assert done.returncode == 0, done.stderr[-3000:]
    by_id = {span.span_id: span for span in collector.spans}
    parents = sorted(
        (by_id[span.parent_span_id].name, span.name)
        for span in collector.spans
        if span.name.startswith("vace.")
    )
    assert parents == [
        ("trigger.t", "vace.wait"),
        ("worker.many", "vace.save"),
        ("worker.many", "vace.submit"),
        ("worker.many", "vace.wait"),
        ("worker.t", "vace.save"),
        ("worker.t", "vace.submit"),
    ]
    assert "secret" not in str(collector.spans)
    (submit,) = [
        span
        for span in collector.spans
        if span.name == "vace.submit" and by_id[span.parent_span_id].name == "worker.t"
    ]
    known = attributes_of(submit)
    assert known.pop("gen_ai.response.id") in slow_emulator.world.runs
    assert known == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "gateway",
        "gen_ai.request.model": "prunaai/vace-14b",
        "gen_ai.request.seed": 7,
        "vace.model.version": "hidden",
        "vace.prediction.status": "starting",
    }


def test_without_an_exporter_a_step_is_not_recorded() -> None:
    def labels(_: object) -> dict[str, str]:
        raise AssertionError("read")

    spans.is_on.cache_clear()
    with spans.traced("submit", labels) as describe:
        describe(SUCCESS)


def test_a_failed_step_names_the_type_of_its_error_only(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    processors = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory, provider = export.InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(processors.SimpleSpanProcessor(memory))
    monkeypatch.setenv("AIRFLOW__TRACES__OTEL_ON", "True")
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
    spans.is_on.cache_clear()
    try:
        with pytest.raises(AirflowFailException), spans.traced("save", lambda _: {"model": "a/b"}):
            raise AirflowFailException("no secret fox")
    finally:
        monkeypatch.undo()
        spans.is_on.cache_clear()
    (span,) = memory.get_finished_spans()
    assert (span.name, span.status.status_code.name, span.status.description) == ("vace.save", "ERROR", None)
    assert not span.events
    assert span.attributes == {
        "error.type": "AirflowFailException",
        "gen_ai.operation.name": "generate_content",
        "gen_ai.request.model": "a/b",
    }
