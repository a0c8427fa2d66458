"""Events of assets: the same details of the video, however the DAG's author names the asset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset

from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from support.runs import extras, partitions, run, states, xcom
from support.supervisor import needs_airflow_3_3
from support.tasks import Run

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator import Emulator

FILMS = Asset(name="films", uri="x-films://all")


def test_a_reference_to_an_asset_gets_the_details_of_the_video(
    fast_emulator: Emulator, airflow_db: str, tmp_path: Path
) -> None:
    assert airflow_db
    outlets = {"whole": FILMS, "by_name": Asset.ref(name="films"), "by_uri": Asset.ref(uri="x-films://all")}
    with DAG("referred", schedule=None) as dag:
        for name, outlet in outlets.items():
            VacePredictionOperator(
                task_id=name,
                input={"prompt": "a fox", "seed": 7},
                wait_for_completion=True,
                save_to=f"{tmp_path}/",
                label=name,
                outlets=[outlet],
            )
        VacePredictionSensor(
            task_id="sensed", prediction="{{ ti.xcom_pull('by_uri') }}", outlets=[Asset.ref(name="films")]
        ).set_upstream(dag.get_task("by_uri"))
    done = run(dag)
    assert set(states(done).values()) == {"success"}
    assert fast_emulator.bill["charged"] == 3
    for name in outlets:
        (extra,) = extras(name)
        payload = xcom(done, name)
        assert extra["prediction_id"] == payload["id"]
        assert extra["files"] == payload["files"]
        assert (extra["uri"], extra["seed"], extra["label"]) == (payload["files"][0]["uri"], 7, name)
    (extra,) = extras("sensed")
    assert extra["prediction_id"] == xcom(done, "by_uri")["id"]


@pytest.mark.usefixtures("fast_emulator")
def test_an_asset_that_airflow_cannot_find_does_not_cost_the_video() -> None:
    from airflow.sdk.execution_time.context import OutletEventAccessors

    given: dict[str, Any] = {"input": {"prompt": "a fox"}, "wait_for_completion": True}
    task = Run(
        lambda: VacePredictionOperator(task_id="t", outlets=[Asset.ref(name="no such asset")], **given)
    )
    task.context["outlet_events"] = OutletEventAccessors()
    assert task.result()["status"] == "succeeded"


@needs_airflow_3_3
def test_events_of_assets_have_the_partition_of_the_task(
    fast_emulator: Emulator, airflow_db: str, tmp_path: Path
) -> None:
    assert airflow_db
    with DAG("parted", schedule=None, render_template_as_native_obj=True) as dag:
        given: dict[str, Any] = {"outlets": [FILMS], "partition_key": "{{ 20 * 5 }}"}
        single = VacePredictionOperator(
            task_id="parted", input={"prompt": "a fox"}, wait_for_completion=True, **given
        )
        VaceBatchOperator(task_id="parted_batch", inputs=["a fox"], save_to=f"{tmp_path}/", **given)
        VacePredictionSensor(
            task_id="parted_sensor", prediction="{{ ti.xcom_pull('parted') }}", **given
        ).set_upstream(single)
    assert set(states(run(dag)).values()) == {"success"}
    assert fast_emulator.bill["charged"] == 2
    for name in ("parted", "parted_batch", "parted_sensor"):
        assert partitions(name) == ["100"]


@pytest.mark.parametrize("key", ["x" * 251, " ", None])
@pytest.mark.usefixtures("fast_emulator")
def test_a_partition_that_airflow_refuses_does_not_cost_the_video(key: str | None) -> None:
    from airflow.sdk.execution_time.context import OutletEventAccessors

    given: dict[str, Any] = {"input": {"prompt": "a fox"}, "wait_for_completion": True}
    task = Run(lambda: VacePredictionOperator(task_id="t", outlets=[FILMS], partition_key=key, **given))
    task.context["outlet_events"] = events = OutletEventAccessors()
    assert task.result()["status"] == "succeeded"
    assert not getattr(events[FILMS], "partition_keys", None)
