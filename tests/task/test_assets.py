"""Events of assets: the same details of the video, however the DAG's author names the asset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from support.runs import extras, run, states, xcom

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

    from support.tasks import Run

    given: dict[str, Any] = {"input": {"prompt": "a fox"}, "wait_for_completion": True}
    task = Run(
        lambda: VacePredictionOperator(task_id="t", outlets=[Asset.ref(name="no such asset")], **given)
    )
    task.context["outlet_events"] = OutletEventAccessors()
    assert task.result()["status"] == "succeeded"
