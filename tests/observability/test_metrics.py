"""Metrics as a StatsD server and an OpenTelemetry collector receive them, by name, tags and value."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.core.pricing import run_seconds
from airflow_vace.exceptions import PredictionCanceled, PredictionFailed
from airflow_vace.hooks import VaceHook
from airflow_vace.observability import metrics
from airflow_vace.observability.metrics import METRICS, TaskMetrics
from airflow_vace.prediction import Prediction
from airflow_vace.sensors import VacePredictionSensor
from support.attempts import waiting
from support.batches import batch
from support.receivers import Collector, StatsD, attributes_of, metrics_on, sums
from support.supervisor import created, events_of, needs_airflow_3_3, ti_of
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_vace.emulator import Emulator

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("hurry")
TASK = {"dag_id": "d", "task_id": "t", "model": "prunaai/vace-14b", "backend": "gateway"}


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsD]:
    pytest.importorskip("statsd", reason="Airflow sends to StatsD with the package statsd")
    server = StatsD()
    with (
        monkeypatch.context() as patch,
        metrics_on(
            patch,
            statsd_on="True",
            statsd_host="127.0.0.1",
            statsd_port=str(server.port),
            statsd_influxdb_enabled="True",
        ),
    ):
        yield server


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_a_saved_video_is_counted_once_with_its_times(
    fast_emulator: Emulator, statsd: StatsD, tmp_path: Path, *, deferrable: bool
) -> None:
    payload = waiting(save_to=f"{tmp_path}/", deferrable=deferrable).result()
    lines = statsd.read()
    counted = sums(lines)
    polls = [seen for seen in fast_emulator.requests if seen.method == "GET" and "/predictions/" in seen.path]
    assert counted == {
        "vace.submitted": 1,
        "vace.ended[succeeded]": 1,
        "vace.saved_bytes": payload["files"][0]["size"],
        "vace.polls[get]": len(polls),
    }
    tags = {line["name"]: line["tags"] for line in lines}
    assert tags["vace.submitted"] == TASK
    assert tags["vace.ended"] == {**TASK, "status": "succeeded"}
    assert tags["vace.polls"] == {"backend": "gateway", "verb": "get"}
    (ran,) = [line["value"] for line in lines if line["name"] == "vace.run_duration"]
    assert ran == pytest.approx(1000 * payload["metrics"]["predict_time"], abs=0.01)


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_the_cost_is_counted_in_millionths(
    fast_emulator: Emulator, connect: Callable[[str], None], statsd: StatsD, *, deferrable: bool
) -> None:
    connect(fast_emulator.connection_to(prices={"prunaai/vace-14b": {"per_run": 0.40}}))
    waiting(deferrable=deferrable).result()
    (line,) = [line for line in statsd.read() if line["name"] == "vace.cost_micros"]
    assert (line["value"], line["tags"]) == (400_000, {**TASK, "currency": "USD"})


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_an_end_during_the_wait_is_measured_from_end_to_notice(
    slow_emulator: Emulator, statsd: StatsD, *, deferrable: bool
) -> None:
    def polled() -> bool:
        return sum(seen.method == "GET" for seen in slow_emulator.requests) >= 3

    def cancel() -> None:
        slow_emulator.wait_for(polled)
        VaceHook().cancel_prediction(next(iter(slow_emulator.world.runs)))

    other = threading.Thread(target=cancel)
    other.start()
    started = time.monotonic()
    with pytest.raises((PredictionCanceled, AirflowFailException)):
        waiting(deferrable=deferrable).result()
    other.join()
    lines = statsd.read()
    assert sums(lines)["vace.ended[canceled]"] == 1
    (delay,) = [line["value"] for line in lines if line["name"] == "vace.notice_delay"]
    assert 0 < delay < 1000 * (time.monotonic() - started)
    levels = [line["value"] for line in lines if line["name"] == "vace.open_waits"]
    assert levels == ([1, 0] if deferrable else [])


def test_attempts_count_one_create_one_end_and_their_ways(
    fast_emulator: Emulator, statsd: StatsD, tmp_path: Path
) -> None:
    run = waiting(save_to=f"{tmp_path}/clip.mp4")
    fast_emulator.faults.add(path="/_delivery/*", status=503, times=None)
    with pytest.raises(Exception, match="503"):
        run.result()
    fast_emulator.faults.clear()
    run.retried().result()
    run.cleared().result()
    waiting(Store(), save_to=f"{tmp_path}/clip.mp4", reuse="saved").result()
    counted = sums(statsd.read())
    assert counted["vace.submitted"] == counted["vace.ended[succeeded]"] == 1
    assert counted["vace.reattached"] == 2
    assert counted["vace.reused"] == 1


@pytest.mark.parametrize(
    ("outcome", "status"),
    [({"status": "failed", "error": "E1001: out of memory"}, "failed"), ({"status": "aborted"}, "aborted")],
)
def test_an_end_without_a_video_is_counted_by_its_status(
    fast_emulator: Emulator, statsd: StatsD, outcome: dict[str, str], status: str
) -> None:
    fast_emulator.faults.add(method="POST", outcome=outcome, times=None)
    with pytest.raises((PredictionFailed, AirflowFailException)):
        waiting().result()
    assert sums(statsd.read())[f"vace.ended[{status}]"] == 1


def test_refusals_are_counted_by_verb(fast_emulator: Emulator, statsd: StatsD) -> None:
    limited: dict[str, Any] = {"status": 429, "headers": {"Retry-After": "0"}}
    fast_emulator.faults.add(method="POST", **limited, times=1)
    waiting().result()
    assert sums(statsd.read())["vace.rate_limited[create]"] == 1


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
@pytest.mark.usefixtures("fast_emulator")
def test_a_batch_counts_each_of_its_items(statsd: StatsD, tmp_path: Path, *, deferrable: bool) -> None:
    batch(tmp_path, Store(), deferrable=deferrable).result()
    counted = sums(statsd.read())
    assert counted["vace.submitted"] == counted["vace.ended[succeeded]"] == 20
    assert counted["vace.saved_bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.mp4"))


@needs_airflow_3_3
@pytest.mark.usefixtures("fast_emulator", "supervisor")
def test_a_task_that_ends_in_the_triggerer_is_counted_there(statsd: StatsD) -> None:
    from airflow_vace.triggers import VacePredictionTrigger

    trigger = VacePredictionTrigger(created(), end_from_trigger=True)
    events_of(trigger, ti_of(task_id="t"))
    lines = statsd.read()
    assert sums(lines)["vace.ended[succeeded]"] == 1
    assert {"status": "succeeded", **TASK} in [line["tags"] for line in lines]


@pytest.mark.usefixtures("fast_emulator")
def test_a_sensor_counts_the_end_of_a_prediction_and_no_create(statsd: StatsD) -> None:
    identifier = created()
    Run(lambda: VacePredictionSensor(task_id="t", prediction=identifier, poke_interval=0.1)).result()
    counted = sums(statsd.read())
    assert counted["vace.ended[succeeded]"] == 1
    assert "vace.submitted" not in counted


@pytest.mark.usefixtures("fast_emulator")
def test_a_collector_of_opentelemetry_gets_names_tags_and_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opentelemetry = pytest.importorskip("opentelemetry.metrics")
    collector = Collector()
    with monkeypatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        patch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
        with metrics_on(patch, otel_on="True"):
            payload = waiting(save_to=f"{tmp_path}/").result()
            provider = opentelemetry.get_meter_provider()
            provider.force_flush()
            provider.shutdown()
    collector.close()
    found = {metric.name: metric for metric in collector.metrics}
    (point,) = found["airflow.vace.saved_bytes"].sum.data_points
    assert point.as_int or point.as_double == payload["files"][0]["size"]
    assert attributes_of(point) == TASK
    (point,) = found["airflow.vace.ended"].sum.data_points
    assert attributes_of(point) == {**TASK, "status": "succeeded"}
    (point,) = found["airflow.vace.run_duration"].exponential_histogram.data_points
    assert point.sum == pytest.approx(1000 * payload["metrics"]["predict_time"], abs=0.01)


# --- what a receiver must not do -------------------------------------------------------------------


@pytest.mark.usefixtures("fast_emulator")
def test_tags_hold_no_prompt_id_or_run(statsd: StatsD, tmp_path: Path) -> None:
    payload = waiting(input={"prompt": "a secret fox"}, save_to=f"{tmp_path}/", deferrable=True).result()
    text = repr(statsd.read())
    assert "secret" not in text
    assert payload["id"] not in text
    assert "run_id" not in text


@pytest.mark.usefixtures("fast_emulator", "statsd")
def test_a_receiver_that_fails_costs_no_video() -> None:
    from airflow.sdk.observability import stats

    def broken() -> Any:
        raise RuntimeError("no receiver")

    stats.initialize(factory=broken, export_legacy_names=False)
    assert waiting().result()["status"] == "succeeded"


def test_without_a_receiver_no_setting_of_the_connection_is_read() -> None:
    metrics.is_on.cache_clear()

    def settings() -> Any:
        raise AssertionError("read")

    prediction = Prediction.from_json({"id": "p", "status": "succeeded"})
    mine = TaskMetrics(SimpleNamespace(dag_id="d", task_id="t"), settings)
    mine.submitted()
    mine.ended(prediction)
    mine.saved([{"size": 1}], prediction)
    assert not metrics.is_on()


@pytest.mark.parametrize(
    ("times", "queued", "ran"),
    [
        ({}, None, None),
        ({"created_at": "2026-11-28T10:00:00Z", "started_at": "2026-11-28T10:00:05Z"}, 5.0, None),
        ({"started_at": "2026-11-28T10:00:05Z", "completed_at": "2026-11-28T10:00:15Z"}, None, 10.0),
        ({"created_at": "2026-11-28T10:00:05Z", "started_at": "2026-11-28T10:00:01Z"}, None, None),
        ({"metrics": {"predict_time": 7.5}}, None, 7.5),
        ({"metrics": {"predict_time": "soon"}}, None, None),
    ],
)
def test_unknown_times_are_not_measured(times: Any, queued: float | None, ran: float | None) -> None:
    prediction = Prediction.from_json({"id": "p", "status": "succeeded", **times})
    assert (metrics.queue_seconds(prediction), run_seconds(prediction)) == (queued, ran)


@pytest.mark.parametrize(
    ("completed_at", "delay"),
    [
        ("2026-11-28T10:00:15Z", 2.0),
        ("2026-11-28T09:59:59Z", None),  # before the wait
        ("2026-11-28T10:00:15", None),  # of an unknown zone
        (None, None),
    ],
)
def test_a_delay_is_measured_for_an_end_within_the_wait(
    statsd: StatsD, completed_at: str | None, delay: float | None
) -> None:
    start = 1795860000.0  # 2026-11-28T10:00:00Z
    data = {"id": "p", "status": "succeeded", "completed_at": completed_at}
    TaskMetrics(None, lambda: None).noticed(Prediction.from_json(data), start, start + 17)
    values = [line["value"] for line in statsd.read()]
    assert values == ([] if delay is None else [pytest.approx(1000 * delay)])


def test_the_page_lists_exactly_the_metrics_of_the_code() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(vace\.\w+)` \| (\w+) \| ([^|]+) \|", page, re.MULTILINE)
    listed = {(name, kind, tuple(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows}
    assert listed == {(metric.name, str(metric.kind), metric.tags) for metric in METRICS}
