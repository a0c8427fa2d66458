"""Types of the parameters of operator, sensor and trigger, for the session `types`; no test runs this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.triggers import VacePredictionTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath


def the_operator_knows_its_parameters(context: Context, place: ObjectStoragePath) -> None:
    operator = VacePredictionOperator(
        task_id="clip",
        input={"prompt": "a fox"},
        model="a/b",
        version="v",
        vace_conn_id="vace_default",
        wait_for_completion=True,
        deferrable=True,
        poll_interval=2,
        timeout=600,
        cancel_on_kill=False,
        cancel_on_timeout=False,
        save_to=place,
        save_in="triggerer",
        end_from_trigger=None,
        durable=False,
        reuse=False,
        on_orphaned_intent="resubmit",
        label="Ada",
        retries=2,
    )
    assert_type(operator.execute(context), dict[str, Any])
    VacePredictionOperator(task_id="clip", input="a fox", save_to="s3://bucket/")
    VacePredictionOperator(task_id="clip", input="a fox", save_to="s3://bucket/a.mp4", reuse="saved")
    VacePredictionOperator(task_id="clip", input={}, reuse="save")  # type: ignore[arg-type]
    VacePredictionOperator(task_id="clip", input={}, save_in="anywhere")  # type: ignore[arg-type]
    VacePredictionOperator(task_id="clip", input={}, on_orphaned_intent="retry")  # type: ignore[arg-type]
    VacePredictionOperator(task_id="clip", input={}, timeout="600")  # type: ignore[arg-type]
    VacePredictionOperator(task_id="clip")  # type: ignore[call-arg]


def the_sensor_knows_its_parameters(operator: VacePredictionOperator) -> None:
    VacePredictionSensor(
        task_id="wait",
        prediction=operator.output,
        vace_conn_id="vace_default",
        deferrable=True,
        cancel_on_kill=True,
        save_to="clips/",
        save_in="worker",
        start_from_trigger=True,
        end_from_trigger=False,
        poke_interval=5.0,
        label="Ada",
        timeout=600,
    )
    VacePredictionSensor(task_id="wait", prediction="abc", save_in="anywhere")  # type: ignore[arg-type]
    VacePredictionSensor(task_id="wait")  # type: ignore[call-arg]


def the_trigger_describes_itself() -> None:
    trigger = VacePredictionTrigger("abc", deadline=None, end_from_trigger=True)
    assert_type(trigger.serialize(), tuple[str, dict[str, Any]])
