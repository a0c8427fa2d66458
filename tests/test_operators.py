"""The operator: submitting, saving, parameters, links and logs."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG

from airflow_vace.emulator.faults import rate_limited
from airflow_vace.exceptions import (
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from conftest import scale_waits
from support.films import DATA_URL, MP4
from support.operators import MODES, failure_of, operator, run, waiting
from support.tasks import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


# --- submitting ------------------------------------------------------------------------------------


def test_it_submits_and_returns_the_payload_at_once(slow_emulator: Emulator) -> None:
    task = run(input={"prompt": "a fox", "size": "1280x720", "seed": "7"})
    payload = task.result()
    assert payload["status"] == "starting"
    assert json.loads(json.dumps(payload)) == payload
    assert [r.method for r in slow_emulator.requests] == ["POST"]
    (submitted,) = slow_emulator.world.runs.values()
    assert submitted.id == payload["id"]
    assert submitted.input == {"prompt": "a fox", "size": "1280*720", "seed": 7}
    assert task.deferred == []


def test_an_empty_model_and_version_from_a_template_mean_the_default(slow_emulator: Emulator) -> None:
    assert run(model="", version="").result()["model"] == "prunaai/vace-14b"
    assert slow_emulator.bill["charged"] == 1


def test_the_server_gets_a_deadline_of_its_own(
    slow_emulator: Emulator, connect: Callable[[str], None]
) -> None:
    connect(slow_emulator.connection_to(backend="replicate"))
    run(timeout=600).result()
    run(timeout=600, cancel_on_timeout=False).result()
    first, second = slow_emulator.world.runs.values()
    assert first.cancel_after is not None
    assert 600 < first.cancel_after <= 660
    assert second.cancel_after is None


def test_bad_input_fails_for_good_before_any_request(slow_emulator: Emulator) -> None:
    for given in ({"promt": "x"}, {"prompt": ""}, "no object", None):
        _, error = failure_of(run(input=given))
        assert isinstance(error, VaceInputError)
    assert slow_emulator.requests == []


@pytest.mark.parametrize("save_to", ["relative/", "nowhere://bucket/", "/no/slash", 5])
def test_a_directory_that_is_none_fails_before_money_is_spent(slow_emulator: Emulator, save_to: Any) -> None:
    _, error = failure_of(waiting(save_to=save_to))
    assert isinstance(error, VaceInputError)
    assert error.field == "save_to"
    assert slow_emulator.requests == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 401, "body": {"detail": "no"}}, VaceAuthError),
        ({"status": 402, "body": {"detail": "no"}}, VaceBillingError),
        ({"status": 422, "body": {"detail": "no"}}, VaceAPIError),
        ({"status": 503, "body": {"error": {"message": "x", "code": "model_not_found"}}}, VaceAPIError),
        ({"status": 200, "body": {"data": []}}, VaceProtocolError),
        ({"accept": True, "status": 502}, SubmissionUnknown),
        ({"reset": "after"}, SubmissionUnknown),
        ({"hang": "after"}, SubmissionUnknown),
    ],
    ids=str,
)
def test_airflow_does_not_retry_a_useless_or_expensive_attempt(
    slow_emulator: Emulator, connect: Callable[[str], None], fault: dict[str, Any], kind: type[Exception]
) -> None:
    if "hang" in fault:
        connect(slow_emulator.connection_to(timeout=1))
    slow_emulator.faults.add(method="POST", **fault)
    _, error = failure_of(run())
    assert type(error) is kind
    assert len(slow_emulator.requests) == 1
    assert slow_emulator.bill["charged"] <= 1


def test_a_rate_limit_and_an_absent_server_are_retried_by_airflow(
    slow_emulator: Emulator, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_emulator.faults.add(rate_limited("seconds", 1000, method="POST"))
    with pytest.raises(VaceRateLimited):
        run().result()
    scale_waits(monkeypatch, 0.01, max_create_attempts=2)
    connect('{"conn_type": "vace", "host": "http://127.0.0.1:1", "password": "xxxxxxxx"}')
    with pytest.raises(VaceTransportError, match="nothing was sent"):
        run().result()
    assert slow_emulator.bill["charged"] == 0


# --- saving ----------------------------------------------------------------------------------------


@MODES
def test_the_video_is_saved_and_described(
    fast_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    payload = waiting(deferrable=deferrable, save_to=f"{tmp_path}/clips/").result()
    (file,) = payload["files"]
    path = tmp_path / "clips" / "d" / "r" / f"t-{payload['id']}.mp4"
    assert file == {
        "uri": path.as_uri(),
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "content_type": "video/mp4",
        "facts": {**file["facts"], "frames": 81, "width": 832, "height": 480, "problems": []},
        "poster": f"{path.as_uri()}.jpg",
    }
    manifest = json.loads(path.with_name(path.name + ".json").read_text())
    beside = [path.with_name(f"{path.name}.{suffix}") for suffix in ("jpg", "json")]
    assert sorted(path.parent.iterdir()) == [path, *beside]
    assert file.items() <= manifest.items()
    assert manifest["id"] == payload["id"]
    assert manifest["input"]["prompt"] == "a fox"
    assert manifest["seed"] == manifest["input"]["seed"] >= 0
    assert manifest["task"] == {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    assert fast_emulator.bill["charged"] == 1


@MODES
def test_a_data_url_is_saved_or_refused_but_never_pushed(
    slow_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    patch = {"status": "succeeded", "output": DATA_URL}
    slow_emulator.faults.add(method="GET", skip=1, times=None, patch=patch)
    payload = waiting(deferrable=deferrable, save_to=f"{tmp_path}/").result()
    assert Path(payload["files"][0]["uri"].removeprefix("file://")).read_bytes() == MP4
    assert DATA_URL[-40:] not in json.dumps(payload)
    _, error = failure_of(waiting(deferrable=deferrable))
    assert isinstance(error, VaceInputError)
    assert "Set save_to" in str(error)
    assert DATA_URL[-40:] not in str(error)


@MODES
def test_a_directory_without_write_access_is_reported_before_money_is_spent(
    slow_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    (tmp_path / "clips").write_text("not a directory")
    _, error = failure_of(waiting(save_to=f"{tmp_path}/clips/", deferrable=deferrable))
    assert isinstance(error, VaceInputError)
    assert "can't be written to" in str(error)
    assert slow_emulator.requests == []


@MODES
def test_a_failed_save_is_not_retried_if_a_retry_would_pay(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch, *, deferrable: bool
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    memory.mkdir("/b")
    monkeypatch.setattr(type(memory), "put_file", full)
    failure, error = failure_of(waiting(save_to="memory://b/", deferrable=deferrable), same_words=False)
    assert isinstance(error, OSError)
    (charged,) = fast_emulator.bill["predictions"]
    for said in (charged["id"], "No space left", "It is billed", "VacePredictionSensor on this id"):
        assert said in str(failure)


def test_an_output_without_a_file_is_returned_and_saved_as_text(
    slow_emulator: Emulator, tmp_path: Path
) -> None:
    slow_emulator.faults.add(method="GET", times=None, patch={"status": "succeeded", "output": "a poem"})
    assert waiting().result()["output"] == "a poem"
    (file,) = waiting(save_to=f"{tmp_path}/").result()["files"]
    assert file["uri"].endswith(".txt")
    assert Path(file["uri"].removeprefix("file://")).read_text() == "a poem"


# --- the author's side -----------------------------------------------------------------------------


def test_templated_parameters_are_checked_when_the_task_runs() -> None:
    task = operator(input="{{ no }}", model="{{ no }}", version=5, vace_conn_id="{{ no }}", deferrable=True)
    assert set(task.template_fields) == {
        "input",
        "model",
        "version",
        "vace_conn_id",
        "save_to",
        "video_label",
        "max_cost",
        "partition_key",
        "is_dry_run",
    }
    assert task.template_fields_renderers == {"input": "json"}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"timeout": 0},
        {"timeout": "an hour"},
        {"timeout": True},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"poll_interval": -1},
        {"poll_interval": "{{ params.pause }}"},
        {"save_to": "/data/"},
    ],
    ids=str,
)
def test_parameters_without_templates_are_checked_at_import(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        operator(**kwargs)


def test_input_renders_with_the_context(slow_emulator: Emulator) -> None:
    with DAG("d", schedule=None):
        task = operator(input={"prompt": "{{ what }}", "src_ref_images": ["{{ image }}"]})
    context: Any = {"what": "a fox", "image": "https://a/b.png"}
    task.render_template_fields(context)
    task.execute(NOBODY)
    (submitted,) = slow_emulator.world.runs.values()
    assert submitted.input["prompt"] == "a fox"
    assert submitted.input["src_ref_images"] == ["https://a/b.png"]


def test_the_links_lead_to_the_prediction_and_its_video(fast_emulator: Emulator) -> None:
    task = operator()
    page, video = task.operator_extra_links
    assert (page.get_link(task, ti_key=None), video.get_link(task, ti_key=None)) == ("", "")
    waited = waiting(deferrable=True)
    payload = waited.result()
    last = waited.legs[-1]
    assert page.get_link(last, ti_key=None) == payload["urls"]["web"]
    assert video.get_link(last, ti_key=None) == payload["output"]
    first = waited.legs[0]
    assert page.get_link(first, ti_key=None) == payload["urls"]["web"]
    assert fast_emulator.bill["charged"] == 1


def test_the_key_is_in_no_log_line(fast_emulator: Emulator, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("airflow.task").setLevel(logging.DEBUG)
    fast_emulator.faults.add(method="GET", status=401, body={"detail": f"bad key {fast_emulator.api_key}"})
    waiting(deferrable=True).result()
    out, err = capfd.readouterr()
    assert "succeeded" in out
    assert fast_emulator.api_key not in out + err
