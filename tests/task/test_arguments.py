"""Values from other tasks belong to the order; a task's own rendered templates do not."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.task.arguments import handed_over
from airflow_vace.task.triggerer import can_end_tasks
from support.runs import run, states

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

    from airflow_vace.emulator import Emulator

needs_airflow_3_3 = pytest.mark.skipif(not can_end_tasks(), reason="Airflow 3.3 keeps state across attempts")


class Reference:
    """Stands for an XComArg."""

    def __repr__(self) -> str:
        return "reference"

    def resolve(self, context: Any) -> Any:
        raise AssertionError(context)


HANDED = Reference()


@pytest.mark.parametrize(
    ("given", "rendered", "wanted"),
    [
        ("a {{ ts }}", "a 2026", None),
        ({"prompt": "a {{ ts }}"}, {"prompt": "a 2026"}, None),
        (HANDED, {"prompt": "a fox"}, {"prompt": "a fox"}),
        ({"prompt": HANDED, "seed": 7}, {"prompt": "a fox", "seed": 7}, {"prompt": "a fox", "seed": None}),
        ({"src_ref_images": [HANDED, "b"]}, {"src_ref_images": ["a", "b"]}, {"src_ref_images": ["a", None]}),
        (None, None, None),
        (7, 7, None),
    ],
    ids=repr,
)
def test_only_values_from_other_tasks_are_kept(given: Any, rendered: Any, wanted: Any) -> None:
    assert handed_over(given, rendered, ()) == wanted


def test_an_element_of_a_mapping_is_handed_over() -> None:
    element = {"prompt": "a fox"}
    assert handed_over(element, element, {id(element)}) == element
    text = "a fox, by a river"
    assert handed_over({"prompt": text}, {"prompt": text}, {id(text)}) == {"prompt": text}


def test_a_functions_literal_arguments_are_kept_as_they_are_written() -> None:
    given = {"name": "shoe", "at": "{{ ts }}", "of": HANDED}
    rendered = {"name": "shoe", "at": "2026", "of": [1]}
    kept = handed_over(given, rendered, (), literals=True)
    assert kept == {"name": "shoe", "at": "{{ ts }}", "of": [1]}


def arguments_of(found: DagRun, airflow_db: str) -> dict[tuple[str, int], str | None]:
    """Return what the records of a run hold as `arguments`, by task and map index."""
    base = sqlite3.connect(airflow_db)
    columns = {row[1] for row in base.execute("pragma table_info(task_state_store)")}
    index = "map_index" if "map_index" in columns else "region_index"  # from Airflow 3.4 on
    query = f"select task_id, {index}, value from task_state_store where run_id = ?"  # noqa: S608 - ours
    rows = base.execute(query, (found.run_id,)).fetchall()
    base.close()

    def record(value: Any) -> Any:
        while isinstance(value, str):
            value = json.loads(value)
        return value

    return {(name, number): record(value)["arguments"] for name, number, value in rows}


def shop(*names: str) -> DAG:
    with DAG("shop", schedule=None) as dag:

        @task
        def products() -> list[dict[str, Any]]:
            return [{"prompt": f"{name} on a beach"} for name in names]

        @task
        def product() -> str:
            return names[0]

        @task.vace
        def clip(product: dict[str, Any]) -> Any:
            return product

        found = products()
        VacePredictionOperator.partial(task_id="expanded").expand(input=found)
        kwargs = found.map(lambda row: {"input": row})
        VacePredictionOperator.partial(task_id="by_kwargs").expand_kwargs(kwargs)
        VacePredictionOperator(task_id="inside", input={"prompt": product(), "size": "{{ '832*480' }}"})
        VacePredictionOperator(task_id="template", input={"prompt": "{{ params.x }} {{ run_id }}"})
        clip.expand(product=found)
        VacePredictionOperator.partial(task_id="params", input={"prompt": "{{ params.prompt }}"}).expand(
            params=found
        )
    dag.params["x"] = "a fox"
    return dag


@needs_airflow_3_3
def test_records_of_other_lists_have_other_arguments(fast_emulator: Emulator, airflow_db: str) -> None:
    assert fast_emulator.url
    runs = [run(shop(*names)) for names in (("shoe", "hat"), ("hat", "shoe"), ("shoe", "hat"))]
    assert set(states(runs[0]).values()) == {"success"}
    one, other, same = (arguments_of(found, airflow_db) for found in runs)
    assert one == same
    for name in ("expanded", "by_kwargs", "clip", "params"):
        assert one[name, 0] == other[name, 1] != one[name, 1] == other[name, 0]
        assert one[name, 0] is not None
    assert one["inside", -1] != other["inside", -1]
    assert one["template", -1] is None
