"""The sensor in three modes: each test expects the same result in each mode."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from airflow_vace.emulator.faults import rate_limited
from airflow_vace.exceptions import (
    PredictionCanceled,
    PredictionExpired,
    PredictionFailed,
    VaceAPIError,
    VaceAuthError,
    VaceInputError,
    VaceProtocolError,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.sensors import VacePredictionSensor
from support.tasks import Run

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator import Emulator
    from airflow_vace.prediction import Prediction

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture(params=["poke", "reschedule", "deferrable"])
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "deferrable":
        return {"deferrable": True}
    return {"deferrable": False, "mode": request.param, "poke_interval": 0.05}


def sensor(prediction: Any, **kwargs: Any) -> VacePredictionSensor:
    return VacePredictionSensor(**{"task_id": "t", "prediction": prediction, **kwargs})


def run(prediction: Any, mode: dict[str, Any], **kwargs: Any) -> Run:
    return Run(partial(sensor, prediction, **mode, **kwargs))


def submitted() -> Prediction:
    return VaceHook().create_prediction({"prompt": "a fox"})


@pytest.mark.parametrize("form", ["payload", "id", "urls.get", "text"])
def test_every_mode_returns_the_same_payload(
    fast_emulator: Emulator, mode: dict[str, Any], form: str
) -> None:
    created = submitted()
    payload = created.payload()
    reference = {
        "payload": payload,
        "id": created.id,
        "urls.get": created.urls["get"],
        "text": str(payload),
    }
    result = run(reference[form], mode).result()
    unknown = {"amount": None, "currency": None, "basis": "unknown"}
    assert result == VaceHook().get_prediction(created).payload() | {"cost": unknown}
    assert result["status"] == "succeeded"
    assert fast_emulator.bill["charged"] == 1


ENDS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"status": "failed", "error": "E1001"}, PredictionFailed),
    ({"status": "failed", "error": "E6716"}, PredictionFailed),
    ({"status": "canceled"}, PredictionCanceled),
    ({"status": "aborted"}, PredictionCanceled),
    ({"status": "succeeded", "output": None, "data_removed": True}, PredictionExpired),
    ({"status": "succeeded", "output": None}, VaceProtocolError),
]


@pytest.mark.parametrize("first", [True, False], ids=["at the first look", "later"])
@pytest.mark.parametrize(("end", "kind"), ENDS)
def test_every_mode_fails_alike_and_for_good(
    slow_emulator: Emulator,
    mode: dict[str, Any],
    end: dict[str, Any],
    kind: type[Exception],
    *,
    first: bool,
) -> None:
    created = submitted()
    slow_emulator.faults.add(method="GET", skip=0 if first else 2, times=None, patch=end)
    with pytest.raises(AirflowFailException) as caught:
        run(created.payload(), mode).result()
    assert type(caught.value.__cause__) is kind
    assert created.id in str(caught.value)


@pytest.mark.parametrize("soft", ["soft_fail", "never_fail"])
def test_every_mode_obeys_soft_fail_and_never_fail(
    slow_emulator: Emulator, mode: dict[str, Any], soft: str
) -> None:
    created = submitted()
    for skip in (0, 2):
        slow_emulator.faults.clear()
        slow_emulator.faults.add(method="GET", skip=skip, times=None, patch={"status": "failed"})
        with pytest.raises(AirflowSkipException):
            run(created.payload(), mode, **{soft: True}).result()
    with pytest.raises(AirflowSkipException):
        run("", mode, **{soft: True}).result()


def test_every_mode_times_out_alike(slow_emulator: Emulator, mode: dict[str, Any]) -> None:
    created = submitted()
    with pytest.raises(AirflowSensorTimeout):
        run(created.payload(), mode, timeout=0.3).result()
    with pytest.raises(AirflowSkipException):
        run(created.payload(), mode, timeout=0.3, soft_fail=True).result()
    assert slow_emulator.bill["predictions"][0]["status"] == "starting"


def test_trouble_until_the_time_out_is_a_time_out_in_every_mode(
    slow_emulator: Emulator, mode: dict[str, Any]
) -> None:
    created = submitted()
    for fault in ({"status": 500}, {"status": 200, "body": "<html>"}, {"reset": "before"}):
        slow_emulator.faults.clear()
        slow_emulator.faults.add(method="GET", times=None, **fault)
        for reference in (created.payload(), created.id):
            with pytest.raises(AirflowSensorTimeout):
                run(reference, mode, timeout=0.3).result()


def test_the_time_that_a_limit_names_is_kept_in_every_mode(
    fast_emulator: Emulator, mode: dict[str, Any]
) -> None:
    created = submitted()
    fast_emulator.faults.add(rate_limited("decimal", 0.4, method="GET"))
    run(created.payload(), mode).result()
    looks = [seen.time for seen in fast_emulator.requests[1:]]
    wanted = 0.0 if mode["deferrable"] else 0.4  # deferred, the next look is the triggerer's own
    assert looks[1] - looks[0] >= wanted


def test_a_disk_that_is_full_is_skipped_or_retried_alike(
    fast_emulator: Emulator, mode: dict[str, Any], memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    memory.mkdir("/b")
    monkeypatch.setattr(type(memory), "put_file", full)
    created = submitted()
    assert fast_emulator.bill["charged"] == 1
    with pytest.raises(OSError, match="No space left"):
        run(created.payload(), mode, save_to="memory://b/").result()
    with pytest.raises(AirflowSkipException):
        run(created.payload(), mode, save_to="memory://b/", never_fail=True).result()


def test_trouble_on_the_way_ends_no_mode(fast_emulator: Emulator, mode: dict[str, Any]) -> None:
    created = submitted()
    fast_emulator.faults.add("login_page", "garbage", "bad_gateway", method="GET")
    fast_emulator.faults.add(method="GET", status=401, times=2)
    fast_emulator.faults.add(method="GET", status=404, times=2)
    fast_emulator.faults.add(method="GET", reset="before")
    assert run(created.payload(), mode).result()["status"] == "succeeded"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_stays_ends_every_mode_with_its_name(
    slow_emulator: Emulator, mode: dict[str, Any], status: int
) -> None:
    created = submitted()
    slow_emulator.faults.add(method="GET", skip=1, status=status, times=None, body={"detail": "no"})
    with pytest.raises(AirflowFailException) as caught:
        run(created.payload(), mode).result()
    error = caught.value.__cause__
    assert isinstance(error, VaceAPIError)
    assert isinstance(error, VaceAuthError) is (status != 404)
    assert error.status_code == status


@pytest.mark.parametrize("prediction", ["", None, "None", {}, "../x", [], "https://example.com/"])
def test_a_reference_to_no_prediction_fails_without_a_request(
    slow_emulator: Emulator, mode: dict[str, Any], prediction: Any
) -> None:
    with pytest.raises(AirflowFailException) as caught:
        run(prediction, mode).result()
    assert isinstance(caught.value.__cause__, VaceInputError)
    assert "submit.output" in str(caught.value)
    assert slow_emulator.requests == []


def test_every_mode_saves_alike(fast_emulator: Emulator, mode: dict[str, Any], tmp_path: Path) -> None:
    created = submitted()
    (file,) = run(created.payload(), mode, save_to=f"{tmp_path}/").result()["files"]
    assert file["uri"] == (tmp_path / "d" / "r" / f"t-{created.id}.mp4").as_uri()
    assert fast_emulator.bill["charged"] == 1


def test_a_failed_save_of_a_sensor_is_retried_for_free(
    fast_emulator: Emulator, mode: dict[str, Any], tmp_path: Path
) -> None:
    created = submitted()
    fast_emulator.faults.add(path="/_delivery/*", status=503, times=None)
    task = run(created.payload(), mode, save_to=f"{tmp_path}/")
    with pytest.raises(VaceAPIError):
        task.result()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    fast_emulator.faults.clear()
    assert task.result()["files"]


def test_a_directory_that_is_none_fails_for_good(slow_emulator: Emulator, mode: dict[str, Any]) -> None:
    with pytest.raises(AirflowFailException, match="save_to"):
        run("abc", mode, save_to="relative/").result()
    assert slow_emulator.requests == []


# --- deferring -------------------------------------------------------------------------------------

DEFERRED: dict[str, Any] = {"deferrable": True}


def test_a_final_prediction_is_not_deferred(fast_emulator: Emulator) -> None:
    created = submitted()
    VaceHook().wait_for_prediction(created)
    task = run(created.payload(), DEFERRED)
    assert task.result()["status"] == "succeeded"
    assert task.deferred == []
    assert fast_emulator.bill["charged"] == 1


def test_the_row_of_the_trigger_holds_an_absolute_deadline_and_no_key(fast_emulator: Emulator) -> None:
    fast_emulator.faults.add(method="GET", patch={"status": "processing"})
    task = run(submitted().payload(), DEFERRED, timeout=timedelta(minutes=1), poke_interval=0.05)
    before = time.time()
    task.result()
    (row,) = task.rows
    assert before + 59 < row["deadline"] < before + 70
    assert row["poll_interval"] == 0.05
    assert "cancel_on_kill" not in row, "it is the default"
    assert fast_emulator.api_key not in json.dumps(row)


def test_a_failed_first_poll_does_not_end_the_wait(fast_emulator: Emulator) -> None:
    created = submitted()
    for reference, urls in ((created.id, {}), (created.urls["get"], {"get": created.urls["get"]})):
        fast_emulator.faults.add(method="GET", status=500)
        task = run(reference, DEFERRED)
        assert task.result()["status"] == "succeeded"
        known = task.rows[0]["prediction"]
        assert (known["id"], known["urls"], known["status"]) == (created.id, urls, "unknown")


def test_a_wait_that_no_triggerer_ended_is_ended_by_the_worker(fast_emulator: Emulator) -> None:
    created = submitted()
    VaceHook().wait_for_prediction(created)
    task = run(created.payload(), DEFERRED)
    failed = {"error": "Trigger timeout"}
    payload = task.leg().resume_execution("__fail__", failed, task.context)
    assert payload["status"] == "succeeded"
    assert fast_emulator.bill["charged"] == 1


def test_a_wait_that_nobody_ended_and_that_still_runs_has_timed_out(slow_emulator: Emulator) -> None:
    task = run(submitted().payload(), DEFERRED)
    with pytest.raises(AirflowSensorTimeout):
        task.leg().resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
    assert slow_emulator.bill["predictions"][0]["status"] == "starting"


# --- being killed ----------------------------------------------------------------------------------


def test_a_kill_cancels_only_with_cancel_on_kill(slow_emulator: Emulator) -> None:
    created = submitted()
    for cancel, status in ((False, "starting"), (True, "canceled")):
        slow_emulator.faults.add(method="GET", status=500)
        task = sensor(created.id, deferrable=False, cancel_on_kill=cancel)
        task.poke({})
        task.on_kill()
        assert slow_emulator.bill["predictions"][0]["status"] == status


def test_templated_parameters_are_accepted_at_import() -> None:
    task = sensor("{{ no }}", vace_conn_id="{{ no }}", save_to="{{ no }}", label="{{ no }}")
    names = {"prediction", "vace_conn_id", "save_to", "video_label", "partition_key"}
    assert set(task.template_fields) == names
